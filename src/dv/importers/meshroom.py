"""Importer of ``cameras.sfm``, the JSON of AliceVision and Meshroom."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field

from dv.errors import UserError
from dv.importers.listed_views import Number, Pair, Vector, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages, named_images
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import nearest_rigid
from dv.runtime.foreign_files import checked, files_in, read_json

SUFFIXES = {".sfm", ".json"}
NAMES = ("cameras.sfm", "sfm.json", "sfmData.json", "sfm.sfm")
FILM_WIDTH = 36.0  # mm, if the width of the sensor is not given
OFFSETS_SINCE = (1, 2, 1)  # principal points are relative to the middle of the image
MILLIMETRES_SINCE = (1, 2, 2)
NARROW_PIXELS_SINCE, FOCAL_Y_SINCE = (1, 2, 5), (1, 2, 10)  # what pixelRatio and focalLength mean
# Distortion: order of its numbers in OpenCV's k1 k2 p1 p2 k3, None for 0
OLD_TYPES = {"pinhole": "none", "radial1": "radialk1", "radial3": "radialk3", "brown": "brown", "fisheye4": "fisheye"}
OPENCV: dict[str, tuple[int | None, ...]] = {
    "none": (),
    "radialk1": (0,),
    "radialk3": (0, 1, None, None, 2),
    "brown": (0, 1, 3, 4, 2),
    "fisheye": (0, 1, 2, 3),
}

Listed = BeforeValidator(lambda value: [] if value == "" else value)  # boost writes empty lists as ""


class SfmView(BaseModel):
    """Image of a view, and its pose and lens."""

    viewId: str
    poseId: str = ""
    intrinsicId: str = ""
    path: str


class Transform(BaseModel):
    """World-to-camera rotation by columns, and the camera's place."""

    rotation: Annotated[list[Number], Field(min_length=9, max_length=9)]
    center: Vector


class PoseContent(BaseModel):
    """A pose."""

    transform: Transform


class SfmPose(BaseModel):
    """A pose with its number."""

    poseId: str
    pose: PoseContent


class SfmIntrinsic(BaseModel):
    """A lens; which lengths are given in which unit depends on the version of the file."""

    intrinsicId: str
    width: Number
    height: Number
    type: str = "pinhole"
    distortionType: str | None = None
    undistortionType: str = "none"
    sensorWidth: Number = FILM_WIDTH
    focalLength: Number | None = None
    pxFocalLength: Number | Pair | None = None
    pixelRatio: Number = 1.0
    principalPoint: Pair
    distortionParams: Annotated[list[Number], Listed] = []


class Landmark(BaseModel):
    """A reconstructed point."""

    X: Vector


class SfmFile(BaseModel):
    """What is read of the file."""

    version: Annotated[list[int], Listed] = []
    views: Annotated[list[SfmView], Listed]
    intrinsics: Annotated[list[SfmIntrinsic], Listed]
    poses: Annotated[list[SfmPose], Listed] = []
    structure: Annotated[list[Landmark], Listed] = []


def read_meshroom(path: Path, images: Path | None = None) -> PhotographSet:
    """Read ``cameras.sfm`` or ``sfm.json`` as AliceVision writes them.

    Rotations are world-to-camera in OpenCV axes, stored by columns. Since version 1.2.1 principal points are relative
    to the middle of the image, since 1.2.2 focal lengths are millimetres of ``sensorWidth``. Coefficients of radial,
    Brown and fisheye distortion are OpenCV's. Source: alicevision/AliceVision, ``sfmDataIO/jsonIO.cpp``.

    Args:
        path: the file, or its folder.
        images: folder of the images; None for the paths that the file names, or what is found below its folder.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = meshroom_file(path)
    if file is None:
        raise UserError(f"{path}: has none of {', '.join(NAMES)}; give one as source.path")
    content = checked(SfmFile, read_json(file), file)
    version = (*content.version, 0, 0, 0)[:3] if content.version else (9, 9, 9)
    intrinsics = {item.intrinsicId: item for item in content.intrinsics}
    poses = {item.poseId: item.pose.transform for item in content.poses}
    cameras, left_out = {}, []
    for view in content.views:
        pose, intrinsic = poses.get(view.poseId or view.viewId), intrinsics.get(view.intrinsicId)
        if pose is None or intrinsic is None:
            left_out.append(f"{view.path}: not reconstructed")
        else:
            cameras[view.path] = partial(_camera, pose, intrinsic, version)
    if not cameras:
        raise UserError(f"{file}: no view has a pose and a lens; give the file of StructureFromMotion")
    found = photographs_of_files(file, {"train": cameras}, _images(path, images, list(cameras)), list_others=False)
    points = np.array([landmark.X for landmark in content.structure])
    return found.with_more(points=points if len(points) else None, left_out=left_out, files=[file])


def meshroom_file(path: Path) -> Path | None:
    """Return ``path`` if it is a file, else the file of AliceVision in this folder, if there is one."""
    if path.is_file():
        return path
    files = {file.name: file for file in files_in(path, SUFFIXES)}
    return next((files[name] for name in NAMES if name in files), None)


def _images(path: Path, images: Path | None, names: list[str]) -> NamedImages:
    """Return the images where the file says, on the machine that wrote it, or else near the file."""
    if images is None and all(map(os.path.isfile, names)):
        return NamedImages(Path("/"))
    return named_images(path, images)


def _camera(
    pose: Transform, intrinsic: SfmIntrinsic, version: tuple[int, ...], _size: tuple[int, int]
) -> tuple[Array, Lens]:
    rotation = np.array(pose.rotation).reshape(3, 3)  # by columns world-to-camera is by rows camera-to-world
    return nearest_rigid(pose_of(rotation, np.array(pose.center))), _lens(intrinsic, version)


def _lens(item: SfmIntrinsic, version: tuple[int, ...]) -> Lens:
    kind = item.distortionType if item.distortionType not in (None, "") else OLD_TYPES.get(item.type, item.type)
    if kind not in OPENCV or (item.distortionType and item.type != "pinhole"):
        raise UserError(f"its lens is {item.type} {kind}, which is not supported; undistort the images in Meshroom")
    if item.undistortionType not in ("", "none"):
        raise UserError(f"its lens has an undistortion of its own ({item.undistortionType}), which is not supported")
    fx, fy = _focal_lengths(item, version)
    cx, cy = item.principalPoint
    if version >= OFFSETS_SINCE:
        cx, cy = item.width / 2 + cx, item.height / 2 + cy
    given = item.distortionParams
    order = OPENCV[kind]
    if len(given) < len([i for i in order if i is not None]):
        raise UserError(f"its lens is {kind} with {len(given)} distortionParams")
    distortion = tuple(0.0 if i is None else given[i] for i in order)
    return Lens(round(item.width), round(item.height), fx, fy, cx, cy, distortion, fisheye=kind == "fisheye")


def _focal_lengths(item: SfmIntrinsic, version: tuple[int, ...]) -> tuple[float, float]:
    if version < MILLIMETRES_SINCE:
        px = item.pxFocalLength
        if px is None:
            raise UserError("its lens has no pxFocalLength")
        return (px[0], px[1]) if isinstance(px, list) else (px, px)
    if item.focalLength is None or item.sensorWidth <= 0 or item.pixelRatio <= 0:
        raise UserError("its lens has no focalLength, or no positive sensorWidth and pixelRatio")
    f = item.focalLength / item.sensorWidth * item.width
    if version < NARROW_PIXELS_SINCE:
        return f, f / item.pixelRatio
    return (f / item.pixelRatio, f) if version >= FOCAL_Y_SINCE else (f, f * item.pixelRatio)
