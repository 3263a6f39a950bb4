"""Importer of LLFF's ``poses_bounds.npy``, the format of forward-facing scenes of NeRF."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from dv.decoding import IMAGE_SUFFIXES
from dv.errors import UserError
from dv.importers.listed_views import numbered_images, photographs_of_files
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import RigidPoses
from dv.runtime.foreign_files import files_in

FILE = "poses_bounds.npy"


def read_llff(path: Path, images: Path | None = None) -> PhotographSet:
    """Read ``poses_bounds.npy`` and the images beside it.

    Each of its N rows holds a 3×5 matrix by rows, then the nearest and the farthest depth, which are not used. Columns
    of the matrix are the camera's axes down, right and backwards, its place, and height, width and focal length in px
    of the full images; the principal point is their centre. Row i belongs to the i-th image by name, which may be a
    smaller copy. Source: Fyusion/LLFF, ``pose_utils.py``.

    Args:
        path: folder of the file.
        images: folder of the images; None for ``images`` or the first ``images_*`` in ``path``.

    Raises:
        UserError: one that lists every fault, or if numbers of images and rows differ.
    """
    rows = _read_rows(path / FILE)
    folder = _image_folder(path, images)
    names = numbered_images(folder, len(rows), files_in(folder, IMAGE_SUFFIXES), FILE)
    poses = RigidPoses()

    def camera(row: Array, _size: tuple[int, int]) -> tuple[Array, Lens]:
        matrix = np.eye(4)
        matrix[:3] = row[:15].reshape(3, 5)[:, [1, 0, 2, 3]] * [1, 1, -1, 1]
        height, width, f = row[[4, 9, 14]].tolist()
        return poses.rigid(matrix), Lens(round(width), round(height), f, f, round(width) / 2, round(height) / 2)

    cameras = {name: partial(camera, row) for name, row in zip(names, rows, strict=True)}
    found = photographs_of_files(path / FILE, {"train": cameras}, NamedImages(folder, ["."]))
    return found.with_more(notes=poses.notes(), files=[path / FILE])


def _read_rows(file: Path) -> Array:
    try:
        rows = np.load(file, allow_pickle=False)
        rows = np.asarray(rows, np.float64)
    except Exception as error:  # numpy raises many types for damaged headers
        raise UserError(f"{file}: cannot be read as a NumPy file ({error}); it may be truncated") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or not len(rows) or not np.isfinite(rows).all():
        raise UserError(f"{file}: must hold finite numbers [N, 17], a 3×5 matrix and two depths per image, "
                        f"but is {list(rows.shape)}")  # fmt: skip
    return np.asarray(rows)


def _image_folder(path: Path, images: Path | None) -> Path:
    candidates = [images, path / images] if images else [path / "images", *sorted(path.glob("images_*"))]
    folder = next((f for f in candidates if f is not None and f.is_dir()), None)
    if folder is None:
        raise UserError(f"{path}: has no folder images or images_*; give source.images=FOLDER")
    return folder
