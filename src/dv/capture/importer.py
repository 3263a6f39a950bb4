"""Importer of photographs or a video: structure from motion, an upright world, and the grid around the object."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dv.capture.frames import VIDEOS, Frame, decode_photographs, decode_video, find_photographs, with_masks
from dv.capture.structure_from_motion import reconstruct
from dv.config.prepare import CaptureSource
from dv.decoding import read_image
from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.geometry.grid import GridPlacement
from dv.images import background_color
from dv.importers.colmap import colmap_module, photographs_of
from dv.prepare.field_of_view import in_window
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import Photograph, PhotographSet, windows_of
from dv.prepare.placement import Array, convergence, place_grid
from dv.prepare.split_folder import WriteSettings
from dv.prepare.up import up_direction
from dv.prepare.writing import fingerprint, versions
from dv.runtime.files import atomic_folder

MASKED_SHARE = 0.7  # a point is on the object if the masks of at least this fraction of the views that see it say so
RECORD = "capture.json"


def recorded_settings(source: CaptureSource, up: list[float] | None) -> dict[str, Any]:
    """Settings that determine a reconstruction, as records of captures list them."""
    keys = "frames", "largest_side", "matching", "cameras", "camera_model", "camera_params", "max_features", "seed"
    return {key: getattr(source, key) for key in keys} | {"up": up}


def read_capture(
    path: Path,
    work: Path,
    keep: Path,
    source: CaptureSource,
    up: list[float] | None,
    write: WriteSettings,
) -> PhotographSet:
    """Reconstruct photographs or a video, in a world where the grid is the unit cube around 0 and z points up.

    Args:
        path: folder of photographs, or a video.
        work: folder of intermediate results, from which an interrupted run continues.
        keep: folder of the finished COLMAP model, which is reused while its inputs and settings do not change.
        source: settings of decoding and reconstruction; ``matching`` must not be auto.
        up: world axis that becomes z ``[3]``, in the reconstruction's axes; None: found from the poses.
        write: settings of the writing, of which mask and background matter here.

    Raises:
        UserError: if fewer than half of the images are registered, or with every fault of the input.
    """
    video = path.is_file() and path.suffix.lower() in VIDEOS
    paths = [path] if video else find_photographs(path)
    if not video and len(paths) < 4:
        raise UserError(
            f"source.path={path}: {len(paths)} photographs are too few; 20 to 100 from all sides are recommended"
        )
    _start(work, recorded_settings(source, up) | {"mask": write.mask, "inputs": fingerprint(paths)})
    if video:
        frames = decode_video(path, work, count=source.frames, largest_side=source.largest_side)
        if write.mask:
            frames = with_masks(frames, work, write.mask)
    else:
        frames = decode_photographs(
            paths,
            work,
            largest_side=source.largest_side,
            background=background_color(write.background),
            mask=write.mask,
        )
    model = _reconstruct_or_reuse(frames, work, keep, source)
    views, points = photographs_of(model, NamedImages(work / "pictures", ["."]))
    photographs = [view for view in views if isinstance(view, Photograph)]
    _check_registered(photographs, frames)
    by_path = {frame.path: frame for frame in frames}
    photographs = [replace(p, mask=by_path[p.path].mask) for p in photographs]
    if write.mask:
        points = points[_on_object(photographs, points)]
    photographs, points, placement, reasons = _normalize_world(photographs, points, up)
    registered = {p.path for p in photographs}
    provenance = {
        "cameras": [str(camera) for camera in model.cameras.values()],
        "registered": f"{len(photographs)} of {len(frames)}",
        "points": int(model.num_points3D()),
        "mean_reprojection_error_px": float(model.compute_mean_reprojection_error()),
        "versions": versions("pycolmap"),
    }
    left_out = [f"{f.path.name}: not registered" for f in frames if f.path not in registered]
    return PhotographSet({"train": photographs}, points, placement, reasons, (0.0, 0.0, 1.0), provenance, left_out)


def _start(work: Path, record: dict[str, Any]) -> None:
    """Empty ``work`` unless its contents were made with the same settings from the same files."""
    text = json.dumps(record, indent=2, sort_keys=True)
    existing = work / RECORD
    if existing.is_file() and existing.read_text() == text:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    existing.write_text(text)


def _reconstruct_or_reuse(frames: list[Frame], work: Path, keep: Path, source: CaptureSource) -> Any:
    """Return the model in ``keep`` if it was made from the same inputs with the same settings, or a new one."""
    colmap = colmap_module()
    record = (work / RECORD).read_text()
    if (keep / RECORD).is_file() and (keep / RECORD).read_text() == record:
        return colmap.Reconstruction(keep)
    model = reconstruct(frames, work, source)
    if model.num_reg_images() < 0.5 * len(frames):
        return model  # the caller refuses it
    with atomic_folder(keep) as temporary:
        model.write(temporary)
        (temporary / RECORD).write_text(record)
    return colmap.Reconstruction(keep)  # read back, so that this run has the same digits as those that reuse it


def _check_registered(photographs: list[Photograph], frames: list[Frame]) -> None:
    if len(photographs) >= max(4, 0.5 * len(frames)):
        return
    registered = {p.path for p in photographs}
    missing = [frame.path.stem for frame in frames if frame.path not in registered]
    raise UserError(
        f"only {len(photographs)} of {len(frames)} images were registered (not {', '.join(missing[:5])}"
        f"{', …' if len(missing) > 5 else ''}); try more photographs with two thirds overlap, sharp and evenly lit, a "
        "textured ground under the object, source.matching=exhaustive, source.cameras=several if the zoom changed, or "
        "source.max_features=16384"
    )


def _on_object(photographs: list[Photograph], points: Array) -> np.ndarray:
    """Return which points ``[N]`` are on the object according to the masks of most views that see them."""
    seen, on_mask = np.zeros(len(points)), np.zeros(len(points))
    for photograph in photographs:
        lens = photograph.lens
        assert photograph.mask is not None
        mask = read_image(photograph.mask, np.zeros(3))[..., 0] > 0.5
        camera_points = to_camera(photograph.pose, points)
        visible = in_window(camera_points, lens.window()).nonzero()[0]
        pixels = lens.project(camera_points[visible]).round().astype(int)
        columns, rows = pixels[:, 0].clip(0, lens.width - 1), pixels[:, 1].clip(0, lens.height - 1)
        seen[visible] += 1
        on_mask[visible] += mask[rows, columns]
    return on_mask > MASKED_SHARE * np.maximum(seen, 1)


def _normalize_world(
    photographs: list[Photograph], points: Array, up: list[float] | None
) -> tuple[list[Photograph], Array, GridPlacement, list[str]]:
    """Transform cameras and points so that z is up, x points to the first camera, and the grid is the unit cube."""
    windows = windows_of(photographs)
    poses = np.stack([p.pose for p in photographs])
    center = convergence(poses, windows)
    z, why = up_direction(poses, center) if up is None else (np.array(up) / np.linalg.norm(up), "grid.up")
    to_first = poses[0, :3, 3] - center
    x = to_first - (to_first @ z) * z
    if np.linalg.norm(x) < 1e-6 * np.linalg.norm(to_first):
        x = np.cross(z, np.roll(z, 1))
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    poses = poses.copy()
    poses[:, :3] = rotation @ poses[:, :3]
    points = points @ rotation.T
    first = place_grid(poses, windows, points).placement
    poses[:, :3, 3] = (poses[:, :3, 3] - first.origin) / first.scale
    points = (points - first.origin) / first.scale
    placed = place_grid(poses, windows, points)
    moved = [replace(p, pose=pose) for p, pose in zip(photographs, poses, strict=True)]
    tilt = math.degrees(math.acos(min(1.0, abs(float(z @ np.array([0.0, 0.0, 1.0]))))))
    reasons = [f"up is derived from {why} ({tilt:.0f}° from z of the reconstruction)", *placed.reasons]
    return moved, points, GridPlacement((0.0, 0.0, 0.0), 1.0, round(placed.placement.near, 9)), reasons
