"""Importer of the layout of NeRF++, in which Tanks and Temples are distributed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from dv.data.poses import read_matrix
from dv.decoding import IMAGE_SUFFIXES
from dv.errors import UserError
from dv.importers.listed_views import numbered_images, photographs_of_files
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import RigidPoses
from dv.runtime.foreign_files import files_in

SPLITS = {"train": "train", "validation": "validation", "test": "test"}


def read_nerfpp(path: Path) -> PhotographSet:
    """Read ``{train,validation,test}/{rgb,pose,intrinsics}/``.

    Pose files hold a 4×4 camera-to-world matrix by rows in OpenCV axes, those of ``intrinsics`` a 4×4 camera matrix in
    px; the i-th image, pose and matrix by name belong together. A pixel's centre is at +0.5. Where validation and test
    are the same images, they are test views. Source: Kai-46/nerfplusplus, ``data_loader_split.py``.

    Args:
        path: the folder.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    splits, files, poses = {}, list[Path](), RigidPoses()

    def camera(pose: Path, matrix: Path, size: tuple[int, int]) -> tuple[Array, Lens]:
        return poses.rigid(read_matrix(pose)), _lens(matrix, size)

    known = set[tuple[bytes, ...]]()
    for split in ("train", "test", "validation"):
        folder = path / split
        pose_files, matrix_files = (files_in(folder / name, {".txt"}) for name in ("pose", "intrinsics"))
        if not pose_files:
            continue
        contents = tuple(file.read_bytes() for file in pose_files)
        if contents in known:
            continue
        known.add(contents)
        if len(matrix_files) != len(pose_files):
            raise UserError(f"{folder}: has {len(pose_files)} poses, but {len(matrix_files)} intrinsics")
        images = files_in(folder / "rgb", IMAGE_SUFFIXES)
        names = numbered_images(folder / "rgb", len(pose_files), images, f"{split}/pose")
        paths = [f"{split}/rgb/{name}" for name in names]
        splits[split] = {
            name: partial(camera, *pair)
            for name, pair in zip(paths, zip(pose_files, matrix_files, strict=True), strict=True)
        }
        files += [*pose_files, *matrix_files]
    if "train" not in splits:
        raise UserError(f"{path}: has no train/pose/*.txt; give a folder with train/rgb, train/pose, train/intrinsics")
    found = photographs_of_files(path, splits, NamedImages(path, ["."]), advice="every pose needs its image")
    return found.with_more(notes=poses.notes(), files=files)


def _lens(file: Path, size: tuple[int, int]) -> Lens:
    k = read_matrix(file)
    if abs(k[0, 1]) > 1e-6 * abs(k[0, 0]) or np.abs(k[[1, 2, 2], [0, 0, 1]]).max() > 0 or abs(k[2, 2] - 1) > 1e-9:
        raise UserError(f"{file}: must hold fx 0 cx 0 / 0 fy cy 0 / 0 0 1 0 / 0 0 0 1: skewed pixels are not supported")
    return Lens(*size, k[0, 0].item(), k[1, 1].item(), k[0, 2].item(), k[1, 2].item())
