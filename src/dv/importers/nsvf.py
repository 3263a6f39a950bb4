"""Objects in the layout of NSVF's datasets, as posed photographs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from dv.data.folder import IMAGE_SUFFIXES, read_pose
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.prepare.photographs import (
    Array,
    Faults,
    Lens,
    Photograph,
    PhotographSet,
    check_absent,
    few,
    picture_size,
    rigid,
)
from dv.prepare.placement import near_plane

SPLITS = {"0": "train", "1": "validation", "2": "test"}


def read_nsvf(path: Path) -> PhotographSet:
    """Photographs of ``path/rgb`` with the poses of ``path/pose`` (camera-to-world, OpenCV axes) and one lens for all.

    Stems begin with 0_ (train), 1_ (validation) or 2_ (test); others train. The grid is put around ``bbox.txt``, if
    there is one. Raises :class:`UserError` for every fault, and if most pictures are absent.
    """
    absent_folders = [name for name in ("rgb", "pose") if not (path / name).is_dir()]
    if absent_folders:
        raise UserError(f"{path}: no {few(absent_folders)} there; source.path must hold rgb/, pose/ and intrinsics.txt")
    camera = _intrinsics(path / "intrinsics.txt")
    pictures = {p.stem: p for p in sorted((path / "rgb").iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
    poses = {p.stem: p for p in sorted((path / "pose").glob("*.txt"))}
    if not poses:
        raise UserError(f"{path / 'pose'}: no poses (*.txt) there")
    absent = [path / "rgb" / f"{stem}.png" for stem in poses if stem not in pictures]
    check_absent(absent, len(poses), "every pose/NAME.txt needs its rgb/NAME.png")
    splits: dict[str, list[Photograph]] = {}
    faults = Faults()
    for stem in sorted(poses.keys() & pictures.keys()):
        try:
            pose = rigid(read_pose(poses[stem]).numpy())
            lens = _lens(camera, *picture_size(pictures[stem]))
        except UserError as error:
            faults.add(stem, str(error).removeprefix(f"{poses[stem]}: ").removeprefix(f"{pictures[stem]}: "))
            continue
        prefix = stem.split("_")[0] if "_" in stem else ""
        splits.setdefault(SPLITS.get(prefix, "train"), []).append(Photograph(stem, pictures[stem], pose, lens))
    faults.refuse(path)
    poseless = [f"{pictures[stem]}: no pose" for stem in pictures if stem not in poses]
    found = PhotographSet(splits, left_out=[f"{picture}: no such file" for picture in absent] + poseless)
    return PhotographSet(splits, placement=_placement(path / "bbox.txt", found.poses), left_out=found.left_out)


def _rows(file: Path) -> list[list[float]]:
    try:
        return [[float(token) for token in line.split()] for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: holds something that is not a number") from error


def _intrinsics(file: Path) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in px of a 3×3 or 4×4 camera matrix, or of a first line ``f cx cy``: what follows stands there
    for the layout's sake only.
    """
    rows = _rows(file)
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
        raise UserError(f"{file}: f must be positive and all numbers finite, but it says {fx:g} {fy:g} {cx:g} {cy:g}")
    return fx, fy, cx, cy


def _lens(camera: tuple[float, float, float, float], width: int, height: int) -> Lens:
    fx, fy, cx, cy = camera
    if not (0 < cx < width and 0 < cy < height):
        raise UserError(
            f"is {width}×{height} px, but the principal point of intrinsics.txt is {cx:g} {cy:g}: that is of pictures "
            "of another size; scale the numbers of intrinsics.txt as the pictures were"
        )
    return Lens(width, height, fx, fy, cx, cy)


def _placement(file: Path, poses: Array) -> GridPlacement | None:
    if not file.is_file():
        return None
    numbers = [x for row in _rows(file) for x in row]
    if len(numbers) not in (6, 7) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{file}: must hold xmin ymin zmin xmax ymax zmax voxel_size; mend or delete it")
    low, high = np.array(numbers[:3]), np.array(numbers[3:6])
    if (high <= low).any():
        raise UserError(f"{file}: xmin ymin zmin must be less than xmax ymax zmax; mend or delete it")
    center, side = (low + high) / 2, float((high - low).max())
    x, y, z = center.tolist()
    return GridPlacement((x, y, z), side, near_plane(poses, center, side))
