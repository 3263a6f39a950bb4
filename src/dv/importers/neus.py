"""Importer of ``cameras_sphere.npz`` and ``cameras.npz``, the format of IDR, NeuS and their DTU and BlendedMVS data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dv.decoding import IMAGE_SUFFIXES
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.importers.listed_views import numbered_images, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.near_plane import near_plane
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import nearest_rigid
from dv.runtime.foreign_files import files_in

FILES = ("cameras_sphere.npz", "cameras.npz")
MAX_SKEW = 1e-3  # relative to the focal length


def read_neus(path: Path, images: Path | None = None) -> PhotographSet:
    """Read ``cameras_sphere.npz`` or ``cameras.npz`` with ``image/`` and, if it exists, ``mask/`` (white: the object).

    ``world_mat_i`` projects the world to pixels of the i-th image by name, ``K [R | t]`` in OpenCV axes, where a
    pixel's centre is an integer. ``scale_mat_i`` maps the unit sphere around the object to the world; the grid is the
    cube around it. Poses keep the world. Sources: lioryariv/idr, ``DATA_CONVENTION.md``; Totoro97/NeuS.

    Args:
        path: folder of the file, or the file.
        images: folder of the images; None for ``image``, ``images`` or ``rgb``.

    Raises:
        UserError: one that lists every fault, or if numbers of images and cameras differ.
    """
    file = path if path.is_file() else next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    root = file.parent
    matrices = _read_matrices(file)
    count = sum(key.startswith("world_mat_") and key[10:].isdecimal() for key in matrices)
    absent = [f"world_mat_{i}" for i in range(count) if f"world_mat_{i}" not in matrices]
    if not count or absent:
        raise UserError(f"{file}: has no {absent[0] if absent else 'world_mat_0'}; cameras must be numbered from 0")
    candidates = [images, root / images] if images else [root / "image", root / "images", root / "rgb"]
    folder = next((f for f in candidates if f is not None and f.is_dir()), None)
    if folder is None:
        raise UserError(f"{root}: has no folder image, images or rgb; give source.images=FOLDER")
    names = numbered_images(folder, count, files_in(folder, IMAGE_SUFFIXES), file.name)
    masks = files_in(root / "mask", IMAGE_SUFFIXES)
    cameras = {name: partial(_camera, matrices[f"world_mat_{i}"]) for i, name in enumerate(names)}
    by_name = dict(zip(names, masks, strict=True)) if len(masks) == count else {}
    found = photographs_of_files(file, {"train": cameras}, NamedImages(folder, ["."]), masks=by_name)
    notes = (
        [f"{root / 'mask'} has {len(masks)} masks for {count} images: they are not used"]
        if masks and not by_name
        else []
    )
    return found.with_more(placement=_placement(file, matrices, found.poses), notes=notes, files=[file])


def _read_matrices(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            wanted = [key for key in archive.files if key.startswith(("world_mat_", "scale_mat_"))]
            matrices = {k: archive[k].astype(np.float64, casting="same_kind") for k in wanted if "_inv" not in k}
    except Exception as error:  # numpy and zipfile raise many types for damaged files
        raise UserError(f"{file}: cannot be read as a NumPy archive ({error}); it may be truncated") from error
    for key, matrix in matrices.items():
        if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
            raise UserError(f"{file}: {key} must be a 4×4 matrix of finite numbers, not {list(matrix.shape)}")
    return matrices


def _camera(world: Array, size: tuple[int, int]) -> tuple[Array, Lens]:
    """Decompose a projection into pose and lens."""
    largest = np.abs(world[:3, :3]).max()
    projection = world[:3] / (largest or 1.0)
    projection = projection if np.linalg.det(projection[:, :3]) >= 0 else -projection
    if abs(np.linalg.det(projection[:, :3])) < 1e-12:
        raise UserError("its world_mat is singular: not the projection of a camera")
    k, rotation, center = cv2.decomposeProjectionMatrix(projection)[:3]
    if not abs(center[3, 0]) > 0:
        raise UserError("its world_mat is that of a camera infinitely far away")
    signs = np.diag(np.sign(np.diag(k)))  # the decomposition leaves the signs of the axes open
    k, rotation = k @ signs / abs(k[2, 2]), signs @ rotation
    if abs(np.linalg.det(k) - 1) < 1e-3:
        raise UserError("its world_mat has no focal length, as in cameras.npz of DVR, which is not supported")
    if abs(k[0, 1]) > MAX_SKEW * k[0, 0]:
        raise UserError(f"its pixels are skewed by {k[0, 1] / k[0, 0]:.3g}, which is not supported")
    lens = Lens(*size, k[0, 0].item(), k[1, 1].item(), k[0, 2].item() + 0.5, k[1, 2].item() + 0.5)
    return nearest_rigid(pose_of(rotation.T, (center[:3] / center[3])[:, 0])), lens


def _placement(file: Path, matrices: dict[str, Array], poses: Array) -> GridPlacement | None:
    """Return the cube around the sphere that contains the object."""
    scale = matrices.get("scale_mat_0")
    if scale is None:
        return None
    radius = float(np.cbrt(np.linalg.det(scale[:3, :3])))
    if not radius > 0:
        raise UserError(f"{file}: scale_mat_0 must scale by a positive factor, not {radius:g}")
    x, y, z = scale[:3, 3].tolist()
    return GridPlacement((x, y, z), 2 * radius, near_plane(poses, scale[:3, 3], 2 * radius))
