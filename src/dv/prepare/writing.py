"""Writing posed photographs as an object in the DeepVoxels folder layout; folders appear only when complete."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dv.data.folder import raise_problems
from dv.data.points import write_points
from dv.data.record import read_record, write_record
from dv.data.view_selection import hold_out, perturb, thin
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, to_camera
from dv.geometry.grid import GridPlacement
from dv.prepare.camera_plot import plot_scene
from dv.prepare.field_of_view import in_window
from dv.prepare.near_plane import nearest_depth
from dv.prepare.photographs import Photograph, PhotographSet, shorten, windows_of
from dv.prepare.placement import PlacedGrid, override_placement, place_grid
from dv.prepare.rectify import PIXEL_CENTER, target_cameras
from dv.prepare.split_folder import WriteSettings, write_calibration, write_views

SPLITS = ("test", "validation", "train")  # in the order in which the finished folders appear
# In records without a format, crop=full stands for the largest square; before 3, the digest of the inputs did not cover
# all files that were read, and is not compared
RECORD_FORMAT = 3


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of dv, Python and ``packages``."""
    from dv import __version__

    return {"dv": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def fingerprint(paths: list[Path]) -> str:
    """Return a digest of the names, sizes and modification times of files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(set(paths)) if path.is_file()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def import_record(source: str, path: Path, settings: WriteSettings, inputs: list[Path], **more: Any) -> dict[str, Any]:
    """Return everything that determines the result of an import; equal records need no new import.

    Args:
        source: name of the importer.
        path: what it reads.
        settings: of the writing.
        inputs: all files that are read.
        more: settings of the importer.
    """
    given = _given(settings) | {key: value for key, value in more.items() if value is not None}
    return {
        "source": source,
        "path": str(path.resolve()),
        "settings": given,
        "inputs": fingerprint(inputs),
        "format": RECORD_FORMAT,
    }


def _given(settings: WriteSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if value is not None}


def already_written(output_dir: Path, name: str, record: dict[str, Any]) -> bool:
    """Return whether the complete object exists with an equal record.

    Settings that did not exist yet when it was written count as having their defaults.

    Raises:
        UserError: if an object with another record exists.
    """
    folders = [output_dir / split / name for split in SPLITS if (output_dir / split / name).exists()]
    for folder in folders:
        found = read_record(folder, strict=False)
        settings = found.get("settings", {})
        if isinstance(settings, dict):
            found["settings"] = {**_given(WriteSettings()), **{k: v for k, v in settings.items() if v is not None}}
            found["settings"] |= _crop_of_older(found, settings.get("crop"), record["settings"]["crop"])
        older = found.get("format", 1) < RECORD_FORMAT
        compared = {key: value for key, value in record.items() if not (older and key in ("format", "inputs"))}
        if not all(found.get(key) == json.loads(json.dumps(value)) for key, value in compared.items()):
            raise UserError(
                f"{folder} exists already, from another source or with other settings or images; choose another "
                f"output_dir or object.name, or delete {output_dir}/{{train,validation,test}}/{name}"
            )
    return output_dir / "train" / name in folders


def _crop_of_older(found: dict[str, Any], crop: str | None, wanted: str) -> dict[str, str]:
    """Return what the recorded ``crop`` of an object that was written by an older version means."""
    if "format" not in found:
        return {"crop": "square" if crop in (None, "full") else crop}
    return {"crop": "auto"} if found["format"] < RECORD_FORMAT and crop in (None, "full") and wanted == "auto" else {}


def write_object(
    found: PhotographSet, output_dir: Path, name: str, settings: WriteSettings, record: dict[str, Any]
) -> list[str]:
    """Write all splits to ``output_dir/<split>/<name>``.

    Poses keep the world of the photographs. If there are only training views, every tenth is held out for each of the
    other splits. ``train/<name>`` also holds the points, and ``scene.png``, which shows cameras, points and grid.
    Folders are renamed once all are complete.

    Args:
        found: the photographs.
        output_dir: root of the object.
        name: of the object.
        settings: of the writing.
        record: see :func:`import_record`; the beginning of ``dataset.json``.

    Returns:
        Sentences that say what was done.

    Raises:
        UserError: one that lists every fault.
    """
    _check_masks(found.photographs, settings.mask)
    splits = with_all_splits(found.splits)
    placed = _place(found, settings)
    cameras = target_cameras(found.photographs, placed.placement, settings.crop)
    written = {lens: _reduced(camera, settings) for lens, camera in cameras.items()}
    splits["train"] = thin_and_perturb(splits["train"], settings)
    partial = output_dir / f".{name}.partial" / "object"
    shutil.rmtree(partial, ignore_errors=True)
    full_record = record | {
        "object": name,
        "pixel_center": PIXEL_CENTER,
        "grid": asdict(placed.placement),
        "reasons": placed.reasons,
        "up": found.up,
        "unit": "metre" if found.in_metres else None,
        "left_out": found.left_out,
        "notes": found.notes,
        "provenance": found.provenance,
        "versions": versions("numpy", "opencv-python-headless", "imageio"),
    }
    problems: list[str] = []
    grid = placed.placement
    for split, photographs in splits.items():
        folder = partial / split
        write_calibration(folder, {p.name: written[p.lens] for p in photographs}, set(written.values()), grid)
        write_record(folder, full_record)
        problems += write_views(folder, photographs, cameras, written, settings)
    if problems:
        shutil.rmtree(partial)
        _remove_if_empty(partial.parent, output_dir)
        raise_problems(Path(record["path"]), problems)
    noisy = settings.noise_angle or settings.noise_distance  # points of exact poses would tell them
    if found.points is not None and len(found.points) and not noisy:
        write_points(partial / "train", found.points)
    poses = {split: np.stack([p.pose for p in photographs]) for split, photographs in splits.items()}
    plot_scene(partial / "train" / "scene.png", poses, placed.placement, next(iter(written.values())), found.points)
    for split in [split for split in SPLITS if split in splits]:
        folder = output_dir / split / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run of the same import
        (partial / split).rename(folder)
    shutil.rmtree(partial.parent)
    sizes = ", ".join(f"{width}×{height}" for width, height in sorted({(k.width, k.height) for k in written.values()}))
    return _summary(found, splits, sizes, output_dir / "train" / name, placed)


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


def _reduced(camera: Intrinsics, settings: WriteSettings) -> Intrinsics:
    """Return the camera of the images at the size at which they are written.

    Raises:
        UserError: if they would have to be enlarged to ``image_side``.
    """
    longest = max(camera.width, camera.height)
    side = settings.image_side or settings.longest_side or longest
    if settings.image_side and side > longest:
        raise UserError(f"source.image_side={side} exceeds the {longest} px of the photographs; use less")
    k = min(1.0, side / longest)
    return camera.resized(max(1, round(k * camera.width)), max(1, round(k * camera.height)))


def _summary(
    found: PhotographSet, splits: dict[str, list[Photograph]], sizes: str, folder: Path, placed: PlacedGrid
) -> list[str]:
    counts = ", ".join(f"{len(photographs)} {split}" for split, photographs in splits.items())
    lines = [f"{folder.name}: {counts} views of {sizes} px in {folder.parent.parent}"]
    lines += found.notes
    if found.left_out:
        lines.append(f"left out {len(found.left_out)}: {shorten(found.left_out)} (all are listed in dataset.json)")
    return [*lines, *placed.reasons, f"cameras, grid and points, if there are any: {folder / 'scene.png'}"]


def _check_masks(photographs: list[Photograph], mask: str | None) -> None:
    """Raise :class:`UserError` if mask files are required but missing."""
    if mask in (None, "alpha", "uniform"):
        return
    missing = [p.name for p in photographs if p.mask is None or not p.mask.is_file()]
    if missing:
        raise UserError(
            f"source.mask={mask}, but {len(missing)} of {len(photographs)} photographs have no mask file, such as "
            f"{missing[0]}; use source.mask=null, alpha or uniform"
        )


def with_all_splits(splits: dict[str, list[Photograph]]) -> dict[str, list[Photograph]]:
    """Hold out validation and test views if there is only one split.

    Every tenth view is held out for each, at least one.

    Raises:
        UserError: if there are fewer than four views, or none for training.
    """
    given = {split: photographs for split, photographs in splits.items() if photographs}
    if len(given) > 1 and "train" in given:
        return given
    if len(given) != 1:
        raise UserError(f"there are {' and '.join(given) or 'no'} views, but none for training")
    (views,) = given.values()
    views = sorted(views, key=lambda view: view.name)  # so that every importer holds out the same views
    if len(views) < 4:
        raise UserError(f"{len(views)} views are too few: two for training, one for validation and one for testing are "
                        "needed")  # fmt: skip
    held_out = hold_out(len(views), ("validation", "test"), at_least_one=True)
    return {split: [views[i] for i in indices] for split, indices in held_out.items()}


def _place(found: PhotographSet, settings: WriteSettings) -> PlacedGrid:
    windows = windows_of(found.photographs)
    nearest, points = 0.0, found.points if found.points is not None and len(found.points) else None
    if points is not None and (settings.origin or settings.scale):
        shown = [in_window(to_camera(p.pose, points), w) for p, w in zip(found.photographs, windows, strict=True)]
        nearest = nearest_depth(found.poses, points, np.stack(shown))
    if found.placement is not None:
        placed = PlacedGrid(found.placement, found.reasons or ["the grid is placed as the input says"])
    elif settings.origin is not None and settings.scale is not None:
        x, y, z = settings.origin
        placed = PlacedGrid(GridPlacement((x, y, z), settings.scale, 1.0), [])
    else:
        placed = place_grid(found.poses, windows, points)
    return override_placement(placed, found.poses, settings.origin, settings.scale, settings.near, nearest)


def thin_and_perturb(views: list[Photograph], settings: WriteSettings) -> list[Photograph]:
    """Select the training views and add noise to them, as the settings say."""
    poses = np.stack([view.pose for view in views])
    kept = thin(poses, every=settings.every, random=settings.random, farthest=settings.farthest, seed=settings.seed)
    noisy = perturb(poses[kept], settings.noise_angle, settings.noise_distance, settings.seed)
    views = [replace(views[i], pose=pose) for i, pose in zip(kept, noisy, strict=True)]
    if settings.noise_exposure:
        stops = np.random.default_rng(settings.seed).normal(0, settings.noise_exposure, len(views))
        views = [replace(view, stops=float(change)) for view, change in zip(views, stops, strict=True)]
    return views
