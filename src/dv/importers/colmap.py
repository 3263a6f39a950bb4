"""Importer of COLMAP models, written by COLMAP or by programs that export its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dv.errors import UserError
from dv.images import image_size
from dv.importers.structure_from_motion import colmap_module
from dv.prepare.photographs import (
    Lens,
    Photograph,
    PhotographSet,
    Problems,
    check_missing,
    shorten,
    unique_names,
)
from dv.prepare.placement import Array

# Camera models whose parameters are f or fx fy, then cx cy, then OpenCV's distortion; whether they are fisheyes.
MODELS = {
    "SIMPLE_PINHOLE": False,
    "PINHOLE": False,
    "SIMPLE_RADIAL": False,
    "RADIAL": False,
    "OPENCV": False,
    "FULL_OPENCV": False,
    "SIMPLE_RADIAL_FISHEYE": True,
    "RADIAL_FISHEYE": True,
    "OPENCV_FISHEYE": True,
}
ONE_FOCAL = {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
PARTS = ("cameras", "images", "points3D")
ENOUGH_POINTS = 100


def lens_of(camera: Any) -> Lens:
    """Convert a ``pycolmap.Camera``, whose pixels are centred at +0.5 too.

    Raises:
        UserError: for camera models that OpenCV does not have.
    """
    name = camera.model.name
    if name not in MODELS:
        raise UserError(
            f"camera model {name} is not supported ({', '.join(MODELS)} are); undistort the images first: "
            "colmap image_undistorter"
        )
    focal = 1 if name in ONE_FOCAL else 2
    params = camera.params.tolist()
    cx, cy, *distortion = params[focal:]
    return Lens(camera.width, camera.height, params[0], params[focal - 1], cx, cy, tuple(distortion), MODELS[name])


def photographs_of(reconstruction: Any, image_folder: Path) -> tuple[list[Photograph], Array]:
    """Convert a ``pycolmap.Reconstruction``; registered images without a file are skipped.

    Args:
        reconstruction: the model.
        image_folder: where the images are.

    Returns:
        Photographs sorted by name, and points ``[N, 3]``, see :func:`reliable_points`.

    Raises:
        UserError: one that lists all lenses and images that cannot be read.
    """
    images = _registered_images(reconstruction)
    problems = Problems()
    photographs = []
    for image, name in zip(images, unique_names([Path(image.name) for image in images]), strict=True):
        path = image_folder / image.name
        if not path.is_file():
            continue
        try:
            lens = lens_of(image.camera)
            size = image_size(path)
            lens = lens if size == (lens.width, lens.height) else lens.at_size(*size)
        except UserError as error:
            problems.add(image.name, str(error).removeprefix(f"{path}: "))
            continue
        photographs.append(Photograph(name, path, _pose(image), lens))
    problems.raise_any(image_folder)
    return photographs, reliable_points(reconstruction)


def reliable_points(reconstruction: Any) -> Array:
    """Return the points ``[N, 3]`` seen by at least three images, or by two if that leaves fewer than 100."""
    points = [(point.xyz, point.track.length()) for point in reconstruction.points3D.values()]
    reliable = [xyz for xyz, length in points if length >= 3]
    kept = reliable if len(reliable) >= ENOUGH_POINTS else [xyz for xyz, length in points if length >= 2]
    return np.array(kept, np.float64).reshape(-1, 3)


def read_colmap(path: Path, images: Path | None = None) -> PhotographSet:
    """Read the COLMAP model (cameras, images, points3D as .bin or .txt) with the most images.

    Poses keep COLMAP's world, whose scale is arbitrary. Images may be smaller copies of the reconstructed ones.

    Args:
        path: folder of the model, or up to two levels above it, as ``sparse/0`` is below a project.
        images: folder of the images; by default ``images`` in ``path`` or up to two levels above, or ``path``.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    colmap = colmap_module()
    folders = _model_folders(path)
    models = {folder: _read_model(colmap, folder) for folder in folders}
    folder = max(models, key=lambda f: len(_registered_images(models[f])))
    model = models[folder]
    names = [image.name for image in _registered_images(model)]
    if not names:
        raise UserError(f"{folder}: a model without registered images; reconstruct again, with more overlap")
    image_folder = _image_folder(path, images, names)
    missing = [image_folder / name for name in names if not (image_folder / name).is_file()]
    check_missing(missing, len(names), "give source.images=FOLDER")
    photographs, points = photographs_of(model, image_folder)
    return PhotographSet(
        {"train": photographs},
        points=points if len(points) else None,
        provenance={
            "model": str(folder),
            "models": {str(f.relative_to(path)): len(_registered_images(m)) for f, m in models.items()},
            "images": str(image_folder),
            "points": len(points),
        },
        left_out=[f"{image}: no such file" for image in missing],
    )


def _registered_images(model: Any) -> list[Any]:
    return sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)


def _pose(image: Any) -> Array:
    """Return the camera-to-world pose of a ``pycolmap.Image``."""
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    return pose


def _model_folders(path: Path) -> list[Path]:
    def holds_model(folder: Path) -> bool:
        return any(all((folder / f"{part}{end}").is_file() for part in PARTS) for end in (".bin", ".txt"))

    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder; give one that holds a COLMAP model")
    found = [path] if holds_model(path) else []
    found = found or [f for f in (*sorted(path.glob("*")), *sorted(path.glob("*/*"))) if f.is_dir() and holds_model(f)]
    if not found:
        raise UserError(
            f"source.path={path}: no COLMAP model ({shorten([f'{part}.bin' for part in PARTS])}, or .txt) in this "
            "folder, in sparse/0 or in another folder up to two levels below"
        )
    return found


def _read_model(colmap: Any, folder: Path) -> Any:
    try:
        return colmap.Reconstruction(folder)
    except Exception as error:  # pybind11 does not export the exception types
        raise UserError(f"{folder}: cannot be read as a COLMAP model, a file may be truncated") from error


def _image_folder(path: Path, images: Path | None, names: list[str]) -> Path:
    """Return the given folder of images, or the first likely one that holds any."""
    if images is not None:
        given = next((folder for folder in (images, path / images) if folder.is_dir()), None)
        if given is None:
            raise UserError(f"source.images={images}: no such folder")
        return given
    folders = [path / "images", path.parent / "images", path.parent.parent / "images", path]
    folder = next((f for f in folders if any((f / name).is_file() for name in names)), None)
    if folder is None:
        raise UserError(
            f"{names[0]} and the other {len(names) - 1} images of the model are in none of "
            f"{', '.join(map(str, folders))}; give source.images=FOLDER"
        )
    return folder
