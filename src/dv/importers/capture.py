"""From photographs or a video to an object: structure from motion, an upright world, the grid around the thing."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dv.data.folder import background_color, read_image
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.importers.colmap import photographs_of
from dv.importers.frames import VIDEOS, Frame, decode_photographs, decode_video, find_photographs, with_masks
from dv.importers.structure_from_motion import StructureSettings, colmap_module, reconstruct
from dv.prepare.photographs import Photograph, PhotographSet
from dv.prepare.placement import Array, convergence, in_camera, inside, place_grid, up_direction
from dv.prepare.rectify import common_window
from dv.prepare.writing import WriteSettings, fingerprint, versions

ON_OBJECT = 0.7  # of the views that have a point in their picture must have it on the object's mask


@dataclass(frozen=True)
class CaptureSettings:
    """What to take: the ``source`` configuration of a capture beside :class:`StructureSettings`."""

    frames: int = 80
    largest_side: int = 1600
    up: list[float] | None = None

    def __post_init__(self) -> None:
        for key, least in (("frames", 4), ("largest_side", 64)):
            value = getattr(self, key)
            if not isinstance(value, int) or value < least:
                raise UserError(f"source.{key}={value} must be a whole number of at least {least}")
        if self.up is not None and (len(self.up) != 3 or not np.linalg.norm(self.up) > 0):
            raise UserError(f"grid.up={self.up} must be three numbers, not all 0")


def read_capture(
    path: Path,
    work: Path,
    keep: Path,
    capture: CaptureSettings,
    structure: StructureSettings,
    write: WriteSettings,
) -> PhotographSet:
    """Reconstruct photographs or a video, in a world where the grid is the unit cube around 0 and z points up.

    ``work`` holds what an interrupted run goes on from; the finished COLMAP model is kept in ``keep``, and taken from
    there when nothing that it was made of has changed. Raises :class:`UserError` where fewer than half of the pictures
    find their place.
    """
    video = path.is_file() and path.suffix.lower() in VIDEOS
    paths = [path] if video else find_photographs(path)
    if not video and len(paths) < 4:
        raise UserError(f"source.path={path}: {len(paths)} photographs are too few; 20 to 100 all around are good")
    _start(work, {**asdict(capture), **asdict(structure), "mask": write.mask, "inputs": fingerprint(paths)})
    if video:
        frames = decode_video(path, work, count=capture.frames, largest_side=capture.largest_side)
        if write.mask:
            frames = with_masks(frames, work, write.mask)
    else:
        frames = decode_photographs(
            paths,
            work,
            largest_side=capture.largest_side,
            background=background_color(write.background),
            mask=write.mask,
        )
    model = _model(frames, work, keep, structure)
    photographs, points = photographs_of(model, work / "pictures")
    _check_registered(photographs, frames)
    by_path = {frame.path: frame for frame in frames}
    photographs = [replace(p, mask=by_path[p.path].mask) for p in photographs]
    if write.mask:
        points = points[_on_object(photographs, points)]
    photographs, points, placement, reasons = _upright(photographs, points, capture.up)
    registered = {p.path for p in photographs}
    provenance = {
        "cameras": [str(camera) for camera in model.cameras.values()],
        "registered": f"{len(photographs)} of {len(frames)}",
        "points": int(model.num_points3D()),
        "mean_reprojection_error_px": float(model.compute_mean_reprojection_error()),
        "versions": versions("pycolmap"),
    }
    left_out = [f"{f.path.name}: no place found for it" for f in frames if f.path not in registered]
    return PhotographSet({"train": photographs}, points, placement, reasons, (0.0, 0.0, 1.0), provenance, left_out)


def _start(work: Path, record: dict[str, Any]) -> None:
    """Keep what lies in ``work`` only if it was made with the same settings from the same files."""
    text = json.dumps(record, indent=2, sort_keys=True)
    there = work / "capture.json"
    if there.is_file() and there.read_text() == text:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    there.write_text(text)


def _model(frames: list[Frame], work: Path, keep: Path, structure: StructureSettings) -> Any:
    """The reconstruction, from ``keep`` if it is that of these very inputs."""
    colmap = colmap_module()
    record = (work / "capture.json").read_text()
    if (keep / "capture.json").is_file() and (keep / "capture.json").read_text() == record:
        return colmap.Reconstruction(keep)
    model = reconstruct(frames, work, structure)
    if model.num_reg_images() < 0.5 * len(frames):
        return model  # refused by the caller: not worth keeping
    aside = keep.with_name(f".{keep.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.write(aside)
    (aside / "capture.json").write_text(record)
    shutil.rmtree(keep, ignore_errors=True)
    os.replace(aside, keep)
    return colmap.Reconstruction(keep)  # as every later run will read it, to the last bit


def _check_registered(photographs: list[Photograph], frames: list[Frame]) -> None:
    if len(photographs) >= max(4, 0.5 * len(frames)):
        return
    there = {p.path for p in photographs}
    absent = [frame.path.stem for frame in frames if frame.path not in there]
    raise UserError(
        f"only {len(photographs)} of {len(frames)} pictures found their place (not {', '.join(absent[:5])}"
        f"{', …' if len(absent) > 5 else ''}); try more pictures with two thirds overlap, sharp and evenly lit, a "
        "textured ground under the thing, source.matching=exhaustive, source.cameras=several if they were zoomed, or "
        "source.max_features=16384"
    )


def _on_object(photographs: list[Photograph], points: Array) -> np.ndarray:
    """Which points ``[N]`` lie on the object's mask in most of the views that have them in their picture."""
    seen, on = np.zeros(len(points)), np.zeros(len(points))
    for photograph in photographs:
        lens = photograph.lens
        assert photograph.mask is not None
        mask = read_image(photograph.mask, np.zeros(3))[..., 0] > 0.5
        local = in_camera(photograph.pose[None], points)[0]
        visible = inside(local, lens.window()).nonzero()[0]
        pixels = lens.pixels(local[visible]).round().astype(int)
        columns, rows = pixels[:, 0].clip(0, lens.width - 1), pixels[:, 1].clip(0, lens.height - 1)
        seen[visible] += 1
        on[visible] += mask[rows, columns]
    return on > ON_OBJECT * np.maximum(seen, 1)


def _upright(
    photographs: list[Photograph], points: Array, up: list[float] | None
) -> tuple[list[Photograph], Array, GridPlacement, list[str]]:
    """Everything in a world whose z is up, and whose unit is the side of the grid, which lies around 0."""
    window = common_window(photographs)
    poses = np.stack([p.pose for p in photographs])
    center = convergence(poses, window)
    axis, why = up_direction(poses, center) if up is None else (np.array(up) / np.linalg.norm(up), "grid.up")
    towards = poses[0, :3, 3] - center  # x points to the first camera
    x = towards - (towards @ axis) * axis
    if np.linalg.norm(x) < 1e-6 * np.linalg.norm(towards):
        x = np.cross(axis, np.roll(axis, 1))
    x /= np.linalg.norm(x)
    turn = np.stack([x, np.cross(axis, x), axis])

    def moved(poses: Array, points: Array, origin: Array, scale: float) -> tuple[Array, Array]:
        poses = poses.copy()
        poses[:, :3, 3] = (poses[:, :3, 3] - origin) / scale
        return poses, (points - origin) / scale

    poses = poses.copy()
    poses[:, :3] = turn @ poses[:, :3]
    points = points @ turn.T
    first = place_grid(poses, window, points).placement
    poses, points = moved(poses, points, np.array(first.origin), first.scale)
    placed = place_grid(poses, window, points)
    moved_photographs = [replace(p, pose=pose) for p, pose in zip(photographs, poses, strict=True)]
    tilt = math.degrees(math.acos(min(1.0, abs(float(axis @ np.array([0.0, 0.0, 1.0]))))))
    reasons = [f"up is taken from {why} ({tilt:.0f}° from z of the reconstruction)", *placed.reasons]
    placement = GridPlacement((0.0, 0.0, 0.0), 1.0, round(placed.placement.near, 9))
    return moved_photographs, points, placement, reasons
