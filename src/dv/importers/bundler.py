"""Importer of ``bundle.out``, the format of Bundler, which VisualSFM, Meshroom and others write too."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from dv.errors import UserError
from dv.importers.listed_views import photographs_of_files
from dv.prepare.lens import Lens
from dv.prepare.named_images import named_images
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import inverse_rigid, nearest_rigid
from dv.runtime.foreign_files import files_in, numbers_of, read_text

FILES = ("bundle.out", "bundle.rd.out")
LISTS = ("list.txt", "bundle.out.list.txt", "image_list.txt")
MIN_TRACK = 3  # views that must see a point


def read_bundler(path: Path, images: Path | None = None) -> PhotographSet:
    """Read ``bundle.out`` (version 0.3) and the list of its images.

    Of every camera the file holds ``f k1 k2``, a rotation of three rows and a translation: world-to-camera in OpenGL
    axes. Focal lengths are px, the origin of images is their middle; coefficients are OpenCV's. Cameras with f = 0 were
    not registered. Line i of the list names the image of camera i. Source: snavely/bundler_sfm, ``README.md``.

    Args:
        path: the file, or its folder.
        images: folder of the images; None: see :func:`~dv.prepare.named_images.named_images`.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = path if path.is_file() else next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    cameras, points = _read_bundle(file)
    listing = next((file.parent / name for name in LISTS if (file.parent / name).is_file()), None)
    if listing is None:
        raise UserError(f"{file.parent}: has no {LISTS[0]} with the names of the images of {file.name}")
    names = [_name(line) for line in read_text(listing).splitlines() if line.strip()]
    if len(names) != len(cameras):
        raise UserError(f"{listing} names {len(names)} images, but {file.name} has {len(cameras)} cameras")
    registered = {name: partial(_camera, rows) for name, rows in zip(names, cameras, strict=True) if rows[0, 0] > 0}
    if not registered:
        raise UserError(f"{file}: no camera is registered: all have the focal length 0")
    if len(registered) != int((cameras[:, 0, 0] > 0).sum()):
        raise UserError(f"{listing} names an image twice")
    left_out = [f"{name}: not registered" for name, rows in zip(names, cameras, strict=True) if rows[0, 0] <= 0]
    found = photographs_of_files(file, {"train": registered}, named_images(path, images))
    return found.with_more(points=points if len(points) else None, left_out=left_out, files=[file, listing])


def _name(line: str) -> str:
    """Return the name in a line ``NAME [0 FOCAL]``; names may have spaces."""
    words = line.strip().rsplit(maxsplit=2)
    has_focal = len(words) == 3 and words[1] == "0" and re.fullmatch(r"[\d.,]+", words[2])
    return words[0] if has_focal else line.strip()


def _read_bundle(file: Path) -> tuple[Array, Array]:
    """Return cameras ``[N, 5, 3]`` (f k1 k2, the rows of R, t) and the points ``[M, 3]`` that enough views see."""
    lines = [line for line in read_text(file).splitlines() if line.strip() and not line.startswith("#")]
    if "v0.3" not in read_text(file)[:80]:
        raise UserError(f"{file}: does not begin with # Bundle file v0.3, the only version that is read")
    try:
        counts = numbers_of(lines[0])
        camera_count, point_count = (int(count) for count in counts)
        rows = [numbers_of(line) for line in lines[1 : 1 + 5 * camera_count]]
        cameras = np.array(rows, np.float64).reshape(camera_count, 5, 3)
        start = 1 + 5 * camera_count
        points = [numbers_of(line) for line in lines[start::3]]
        tracks = [int(line.split(maxsplit=1)[0]) for line in lines[start + 2 :: 3]]
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{file}: cannot be read as cameras and points ({error}); it may be truncated") from error
    if len(points) != point_count or len(tracks) != point_count or any(len(point) != 3 for point in points):
        raise UserError(f"{file}: announces {point_count} points, but holds {len(tracks)}; it may be truncated")
    seen = [point for point, length in zip(points, tracks, strict=True) if length >= MIN_TRACK]
    found = np.array(seen, np.float64).reshape(-1, 3)
    if not camera_count or not np.isfinite(cameras).all() or not np.isfinite(found).all():
        raise UserError(f"{file}: has no cameras, or numbers that are not finite")
    return cameras, found


def _camera(rows: Array, size: tuple[int, int]) -> tuple[Array, Lens]:
    f, k1, k2 = rows[0].tolist()
    to_camera = np.eye(4)
    to_camera[:3, :3], to_camera[:3, 3] = rows[1:4], rows[4]
    to_camera[1:3] *= -1  # from OpenGL's axes
    width, height = size
    return inverse_rigid(nearest_rigid(to_camera)), Lens(width, height, f, f, width / 2, height / 2, (k1, k2))


def bundler_file(path: Path) -> Path | None:
    """Return the file of Bundler that ``path`` is or holds, if there is one."""
    candidates = [path] if path.is_file() else files_in(path, {".out"})
    return next((file for file in candidates if file.name in FILES), None)
