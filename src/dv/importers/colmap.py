"""A reconstruction of COLMAP's, or of what exports its files, as posed photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dv.errors import UserError
from dv.importers.structure_from_motion import colmap_module
from dv.prepare.photographs import (
    Array,
    Faults,
    Lens,
    Photograph,
    PhotographSet,
    check_absent,
    few,
    picture_size,
    unique_names,
)

# where the parameters of COLMAP's models go: f or fx fy, cx cy, then OpenCV's distortion; fisheye or not
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
    """The lens of a ``pycolmap.Camera``, whose pixel centres are at +0.5 too.

    Raises :class:`UserError` for models that OpenCV has not.
    """
    name = camera.model.name
    if name not in MODELS:
        raise UserError(
            f"camera model {name} cannot be read ({', '.join(MODELS)} can); undistort the pictures first: "
            "colmap image_undistorter"
        )
    focal = 1 if name in ONE_FOCAL else 2
    params = camera.params.tolist()
    cx, cy, *distortion = params[focal:]
    return Lens(camera.width, camera.height, params[0], params[focal - 1], cx, cy, tuple(distortion), MODELS[name])


def photographs_of(reconstruction: Any, image_folder: Path) -> tuple[list[Photograph], Array]:
    """Photographs ``image_folder/<name>`` of a ``pycolmap.Reconstruction``'s registered images, sorted by name, and
    its points ``[N, 3]`` seen by at least three images (two, where that leaves fewer than 100).

    Images without a file are skipped. Raises one :class:`UserError` for all lenses and pictures that cannot be read.
    """
    images = _images(reconstruction)
    faults = Faults()
    photographs = []
    for image, name in zip(images, unique_names([Path(image.name) for image in images]), strict=True):
        picture = image_folder / image.name
        if not picture.is_file():
            continue
        try:
            lens = lens_of(image.camera)
            size = picture_size(picture)
            lens = lens if size == (lens.width, lens.height) else lens.at_size(*size)
        except UserError as error:
            faults.add(image.name, str(error).removeprefix(f"{picture}: "))
            continue
        photographs.append(Photograph(name, picture, _pose(image), lens))
    faults.refuse(image_folder)
    points = [(point.xyz, point.track.length()) for point in reconstruction.points3D.values()]
    sure = [xyz for xyz, length in points if length >= 3]
    kept = sure if len(sure) >= ENOUGH_POINTS else [xyz for xyz, length in points if length >= 2]
    return photographs, np.array(kept, np.float64).reshape(-1, 3)


def read_colmap(path: Path, images: Path | None = None) -> PhotographSet:
    """Photographs of a COLMAP model (cameras, images, points3D as .bin or .txt) in ``path``, ``path/sparse/0`` or
    another folder up to two below; the one with the most images.

    Pictures lie in ``images``, or in a folder ``images`` of ``path``, its parent or its parent's parent, or in
    ``path``; smaller copies of them will do. Poses keep COLMAP's world, whose scale is arbitrary.
    Raises :class:`UserError` for every fault, and if most pictures are absent.
    """
    colmap = colmap_module()
    folders = _model_folders(path)
    models = {folder: _read(colmap, folder) for folder in folders}
    folder = max(models, key=lambda f: len(_images(models[f])))
    model = models[folder]
    names = [image.name for image in _images(model)]
    if not names:
        raise UserError(f"{folder}: a model without registered images; reconstruct again, with more overlap")
    image_folder = _image_folder(path, images, names)
    absent = [image_folder / name for name in names if not (image_folder / name).is_file()]
    check_absent(absent, len(names), "give source.images=FOLDER")
    photographs, points = photographs_of(model, image_folder)
    return PhotographSet(
        {"train": photographs},
        points=points if len(points) else None,
        provenance={
            "model": str(folder),
            "models": {str(f.relative_to(path)): len(_images(m)) for f, m in models.items()},
            "images": str(image_folder),
            "points": len(points),
        },
        left_out=[f"{picture}: no such file" for picture in absent],
    )


def _images(model: Any) -> list[Any]:
    return sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)


def _pose(image: Any) -> Array:
    """Camera-to-world pose of a ``pycolmap.Image``."""
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
            f"source.path={path}: no COLMAP model there ({few([f'{part}.bin' for part in PARTS])}, or .txt), nor in "
            "sparse/0 or another folder up to two below"
        )
    return found


def _read(colmap: Any, folder: Path) -> Any:
    try:
        return colmap.Reconstruction(folder)
    except Exception as error:  # of kinds that pybind11 has no name for
        raise UserError(f"{folder}: cannot be read as a COLMAP model, a file may be truncated") from error


def _image_folder(path: Path, images: Path | None, names: list[str]) -> Path:
    """Where the pictures are: as given, or the first likely folder that holds one."""
    if images is not None:
        given = next((folder for folder in (images, path / images) if folder.is_dir()), None)
        if given is None:
            raise UserError(f"source.images={images}: no such folder")
        return given
    folders = [path / "images", path.parent / "images", path.parent.parent / "images", path]
    folder = next((f for f in folders if any((f / name).is_file() for name in names)), None)
    if folder is None:
        raise UserError(
            f"{names[0]} and the other {len(names) - 1} pictures of the model are in none of "
            f"{', '.join(map(str, folders))}; give source.images=FOLDER"
        )
    return folder
