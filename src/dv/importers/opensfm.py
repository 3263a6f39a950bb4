"""Importer of ``reconstruction.json`` of OpenSfM, which OpenDroneMap (ODM) writes too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pydantic import BaseModel, RootModel

from dv.errors import UserError
from dv.importers.listed_views import Number, Vector, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import named_images
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.runtime.foreign_files import checked, read_json

FILE = "reconstruction.json"
PERSPECTIVES, FISHEYES = {"perspective", "brown", "simple_radial", "radial"}, {"fisheye", "fisheye_opencv"}


class OpenSfmCamera(BaseModel):
    """Lens in units of the longer side of the image, the principal point relative to its middle."""

    projection_type: str = "perspective"
    width: Number
    height: Number
    focal: Number | None = None
    focal_x: Number | None = None
    focal_y: Number | None = None
    c_x: Number = 0.0
    c_y: Number = 0.0
    k1: Number = 0.0
    k2: Number = 0.0
    k3: Number = 0.0
    k4: Number = 0.0
    p1: Number = 0.0
    p2: Number = 0.0


class Shot(BaseModel):
    """World-to-camera: rotation as axis times angle in radians."""

    camera: str
    rotation: Vector
    translation: Vector


class Point(BaseModel):
    """A reconstructed point."""

    coordinates: Vector


class OpenSfmReconstruction(BaseModel):
    """One connected part of a scene."""

    cameras: dict[str, OpenSfmCamera]
    shots: dict[str, Shot]
    points: dict[str, Point] = {}


class _File(RootModel[list[OpenSfmReconstruction]]):
    pass


def read_opensfm(path: Path, images: Path | None = None) -> PhotographSet:
    """Read the reconstruction with the most shots of ``reconstruction.json``.

    Shots are world-to-camera in OpenCV axes; the world is in metres, z up, if it is georeferenced. Coefficients of
    ``perspective``, ``brown``, ``fisheye`` and ``fisheye_opencv`` are OpenCV's. Source: OpenSfM, "Geometric Models".

    Args:
        path: the file, or a folder with it or with ``opensfm/``, as that of ODM.
        images: folder of the images; None: see :func:`~dv.prepare.named_images.named_images`.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = opensfm_file(path)
    if file is None:
        raise UserError(f"{path}: has no {FILE}, nor opensfm/{FILE}")
    parts = checked(_File, read_json(file), file).root
    if not parts or not any(part.shots for part in parts):
        raise UserError(f"{file}: has no reconstruction with shots")
    chosen = max(parts, key=lambda part: len(part.shots))
    left_out = [
        f"{name}: in another reconstruction of the file" for part in parts if part is not chosen for name in part.shots
    ]

    def camera(shot: Shot, _size: tuple[int, int]) -> tuple[Array, Lens]:
        if shot.camera not in chosen.cameras:
            raise UserError(f"names the camera {shot.camera}, which the file does not list")
        rotation = np.asarray(cv2.Rodrigues(np.array(shot.rotation))[0].T, np.float64)
        return pose_of(rotation, -rotation @ np.array(shot.translation)), _lens(chosen.cameras[shot.camera])

    cameras = {name: partial(camera, shot) for name, shot in chosen.shots.items()}
    found = photographs_of_files(file, {"train": cameras}, named_images(path, images))
    points = np.array([point.coordinates for point in chosen.points.values()])
    return found.with_more(points=points if len(points) else None, left_out=left_out, files=[file])


def opensfm_file(path: Path) -> Path | None:
    """Return ``path`` if it is a file, else the reconstruction in this folder or in ``opensfm/``, if there is one."""
    candidates = (path, path / FILE, path / "opensfm" / FILE)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _lens(camera: OpenSfmCamera) -> Lens:
    kind = camera.projection_type
    if kind not in PERSPECTIVES | FISHEYES:
        raise UserError(f"its camera is {kind}, which is not supported; export undistorted images")
    width, height = round(camera.width), round(camera.height)
    longest = max(width, height)
    fx = camera.focal_x if camera.focal_x is not None else camera.focal
    fy = camera.focal_y if camera.focal_y is not None else fx
    if fx is None or fy is None:
        raise UserError("its camera has no focal length")
    pinhole = (fx * longest, fy * longest, camera.c_x * longest + width / 2, camera.c_y * longest + height / 2)
    if kind in FISHEYES:
        return Lens(width, height, *pinhole, (camera.k1, camera.k2, camera.k3, camera.k4), fisheye=True)
    return Lens(width, height, *pinhole, (camera.k1, camera.k2, camera.p1, camera.p2, camera.k3))
