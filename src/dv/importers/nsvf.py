"""Importer of the layout of NSVF's datasets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from dv.data.folder import image_files
from dv.data.poses import read_pose
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.images import image_size
from dv.prepare.near_plane import near_plane
from dv.prepare.photographs import Lens, Photograph, PhotographSet, Problems, check_missing, nearest_rigid, shorten
from dv.prepare.placement import Array

SPLITS = {"0": "train", "1": "validation", "2": "test"}


def read_nsvf(path: Path) -> PhotographSet:
    """Read ``rgb/``, ``pose/`` (camera-to-world, OpenCV axes), ``intrinsics.txt`` and, if it exists, ``bbox.txt``.

    File stems begin with ``0_`` (train), ``1_`` (validation) or ``2_`` (test); all others train. The grid is placed
    around the bounding box. Poses without an image are left out.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    missing_folders = [name for name in ("rgb", "pose") if not (path / name).is_dir()]
    if missing_folders:
        raise UserError(
            f"{path}: contains no {shorten(missing_folders)}; source.path must hold rgb/, pose/ and intrinsics.txt"
        )
    camera = _read_camera(path / "intrinsics.txt")
    images = image_files(path / "rgb")
    poses = {p.stem: p for p in sorted((path / "pose").glob("*.txt"))}
    if not poses:
        raise UserError(f"{path / 'pose'}: contains no poses (*.txt)")
    missing = [path / "rgb" / f"{stem}.png" for stem in poses if stem not in images]
    check_missing(missing, len(poses), "every pose/NAME.txt needs its rgb/NAME.png")
    splits: dict[str, list[Photograph]] = {}
    problems = Problems()
    for stem in sorted(poses.keys() & images.keys()):
        try:
            pose = nearest_rigid(read_pose(poses[stem]).numpy())
            lens = _lens(camera, *image_size(images[stem]))
        except UserError as error:
            problems.add(stem, str(error).removeprefix(f"{poses[stem]}: ").removeprefix(f"{images[stem]}: "))
            continue
        prefix = stem.split("_")[0] if "_" in stem else ""
        splits.setdefault(SPLITS.get(prefix, "train"), []).append(Photograph(stem, images[stem], pose, lens))
    problems.raise_any(path)
    without_pose = [f"{images[stem]}: no pose" for stem in images if stem not in poses]
    found = PhotographSet(splits, left_out=[f"{image}: no such file" for image in missing] + without_pose)
    return replace(found, placement=_read_placement(path / "bbox.txt", found.poses))


def _read_numbers(file: Path) -> list[list[float]]:
    try:
        return [[float(token) for token in line.split()] for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: contains something that is not a number") from error


def _read_camera(file: Path) -> tuple[float, float, float, float]:
    """Read fx, fy, cx, cy in px from a 3×3 or 4×4 camera matrix, or from a first line ``f cx cy``.

    Files of the second kind have further lines, which NSVF does not use.
    """
    rows = _read_numbers(file)
    if [len(row) for row in rows] in ([4] * 4, [3] * 3):
        fx, fy, cx, cy = rows[0][0], rows[1][1], rows[0][2], rows[1][2]
        if abs(rows[0][1]) > 1e-6 * abs(fx) or rows[1][0] or rows[2][:3] != [0, 0, 1]:
            raise UserError(f"{file}: not a camera matrix fx 0 cx / 0 fy cy / 0 0 1")
    elif rows and len(rows[0]) >= 3:
        fx, cx, cy = rows[0][:3]
        fy = fx
    else:
        raise UserError(f"{file}: must hold a 4×4 camera matrix, or begin with f cx cy")
    if not np.isfinite([fx, fy, cx, cy]).all() or min(fx, fy) <= 0:
        raise UserError(f"{file}: f must be positive and all numbers finite, not {fx:g} {fy:g} {cx:g} {cy:g}")
    return fx, fy, cx, cy


def _lens(camera: tuple[float, float, float, float], width: int, height: int) -> Lens:
    fx, fy, cx, cy = camera
    if not (0 < cx < width and 0 < cy < height):
        raise UserError(
            f"is {width}×{height} px, but the principal point in intrinsics.txt is {cx:g} {cy:g}, which belongs to "
            "images of another size; scale the numbers in intrinsics.txt like the images"
        )
    return Lens(width, height, fx, fy, cx, cy)


def _read_placement(file: Path, poses: Array) -> GridPlacement | None:
    if not file.is_file():
        return None
    numbers = [x for row in _read_numbers(file) for x in row]
    if len(numbers) not in (6, 7) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{file}: must hold xmin ymin zmin xmax ymax zmax voxel_size; fix or delete it")
    low, high = np.array(numbers[:3]), np.array(numbers[3:6])
    if (high <= low).any():
        raise UserError(f"{file}: xmin ymin zmin must be less than xmax ymax zmax; fix or delete it")
    center, side = (low + high) / 2, float((high - low).max())
    x, y, z = center.tolist()
    return GridPlacement((x, y, z), side, near_plane(poses, center, side))
