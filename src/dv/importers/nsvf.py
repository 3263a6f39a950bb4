"""Importer of the layout of NSVF's datasets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dv.data.calibration import read_intrinsics
from dv.data.folder import image_files
from dv.data.poses import read_matrix
from dv.decoding import image_size
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.prepare.lens import Lens
from dv.prepare.near_plane import near_plane
from dv.prepare.photographs import Photograph, PhotographSet, Problems, existing, shorten
from dv.prepare.placement import Array
from dv.prepare.rigid import RigidPoses, inverse_rigid
from dv.runtime.foreign_files import files_in, numbers_of, read_text

SPLITS = {"0": "train", "1": "validation", "2": "test"}


def read_nsvf(path: Path) -> PhotographSet:
    """Read ``rgb/``, ``pose/`` (camera-to-world, OpenCV axes), ``intrinsics.txt`` and, if it exists, ``bbox.txt``.

    The format of NSVF and of Scene Representation Networks (SRN), whose ``intrinsics.txt`` says the size of the images
    that it is for. File stems begin with ``0_`` (train), ``1_`` (validation) or ``2_`` (test); all others train. The
    grid is placed around the bounding box, or as the ``intrinsics.txt`` of a DeepVoxels object says. Poses without an
    image are left out.

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
    files = {p.stem: p for p in files_in(path / "pose", {".txt"})}
    if not files:
        raise UserError(f"{path / 'pose'}: contains no poses (*.txt)")
    splits: dict[str, list[Photograph | Path]] = {}
    problems, poses = Problems(), RigidPoses()
    for stem, file in files.items():
        prefix = stem.split("_")[0] if "_" in stem else ""
        views = splits.setdefault(SPLITS.get(prefix, "train"), [])
        if stem not in images:
            views.append(path / "rgb" / f"{stem}.png")
            continue
        try:
            pose = poses.rigid(read_matrix(file))
            if camera.world_to_camera:
                pose = inverse_rigid(pose)
            views.append(Photograph.of_file(stem, images[stem], pose, camera.lens(image_size(images[stem]))))
        except UserError as error:
            problems.add(stem, str(error).removeprefix(f"{file}: ").removeprefix(f"{images[stem]}: "))
    problems.raise_any(path)
    photographs, left_out, notes = existing(splits, "every pose/NAME.txt needs its rgb/NAME.png")
    left_out += [f"{images[stem]}: no pose" for stem in images if stem not in files]
    found = PhotographSet(
        photographs,
        left_out=left_out,
        notes=poses.notes() + notes,
        files=[path / "intrinsics.txt", path / "bbox.txt", *files.values()],
    )
    return replace(found, placement=_read_placement(path / "bbox.txt", found.poses) or camera.placement)


@dataclass(frozen=True)
class _Camera:
    """Contents of ``intrinsics.txt``; ``size`` is None if it does not say of which images."""

    fx: float
    fy: float
    cx: float
    cy: float
    size: tuple[int, int] | None = None
    world_to_camera: bool = False
    placement: GridPlacement | None = None

    def lens(self, image: tuple[int, int]) -> Lens:
        width, height = self.size or image
        if not (0 < self.cx < width and 0 < self.cy < height):
            raise UserError(
                f"is {width}×{height} px, but the principal point in intrinsics.txt is {self.cx:g} {self.cy:g}, which "
                "belongs to images of another size; scale the numbers in intrinsics.txt like the images"
            )
        return Lens(width, height, self.fx, self.fy, self.cx, self.cy)


def _read_camera(file: Path) -> _Camera:
    """Read a 3×3 or 4×4 camera matrix, the lines of SRN or DeepVoxels, or a first line ``f cx cy``."""
    text = read_text(file)
    try:
        rows = [numbers_of(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{file}: contains something that is not a number") from error
    if [len(row) for row in rows] in ([4] * 4, [3] * 3):
        fx, fy, cx, cy = rows[0][0], rows[1][1], rows[0][2], rows[1][2]
        if abs(rows[0][1]) > 1e-6 * abs(fx) or rows[1][0] or rows[2][:3] != [0, 0, 1]:
            raise UserError(f"{file}: not a camera matrix fx 0 cx / 0 fy cy / 0 0 1")
        camera = _Camera(fx, fy, cx, cy)
    elif any(len(row) == 2 for row in rows):  # height and width
        lines = read_intrinsics(file)
        near = lines.near or 0.0
        placement = GridPlacement(lines.origin, lines.scale, near) if near > 0 else None  # SRN has no placement
        size = (lines.width, lines.height)
        camera = _Camera(lines.f, lines.f, lines.cx, lines.cy, size, lines.world_to_camera, placement)
    elif rows and len(rows[0]) >= 3:
        f, cx, cy = rows[0][:3]
        camera = _Camera(f, f, cx, cy)
    else:
        raise UserError(f"{file}: must hold a 4×4 camera matrix, or begin with f cx cy")
    numbers = (camera.fx, camera.fy, camera.cx, camera.cy)
    if not np.isfinite(numbers).all() or min(camera.fx, camera.fy) <= 0:
        shown = " ".join(f"{number:g}" for number in numbers)
        raise UserError(f"{file}: f must be positive and all numbers finite, not {shown}")
    return camera


def _read_placement(file: Path, poses: Array) -> GridPlacement | None:
    if not file.is_file():
        return None
    try:
        numbers = [x for line in read_text(file).splitlines() for x in numbers_of(line)]
    except ValueError as error:
        raise UserError(f"{file}: contains something that is not a number") from error
    if len(numbers) not in (6, 7) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{file}: must hold xmin ymin zmin xmax ymax zmax voxel_size; fix or delete it")
    low, high = np.array(numbers[:3]), np.array(numbers[3:6])
    if (high <= low).any():
        raise UserError(f"{file}: xmin ymin zmin must be less than xmax ymax zmax; fix or delete it")
    center, side = (low + high) / 2, float((high - low).max())
    x, y, z = center.tolist()
    return GridPlacement((x, y, z), side, near_plane(poses, center, side))
