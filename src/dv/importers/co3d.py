"""Importer of sequences of CO3D (Common Objects in 3D), versions 1 and 2."""

from __future__ import annotations

import gzip
import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from dv.errors import UserError
from dv.importers.listed_views import Pair, Vector, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.ply_points import read_ply_points
from dv.prepare.rigid import nearest_rigid
from dv.runtime.foreign_files import checked

FILE = "frame_annotations.jgz"
TO_OPENCV = np.diag([-1.0, -1.0, 1.0])  # from PyTorch3D: x left, y up, z into the image


class ImageFile(BaseModel):
    """Path below the folder of the dataset, and height and width in px."""

    path: str
    size: Annotated[list[Annotated[int, Field(gt=0, lt=10**6)]], Field(min_length=2, max_length=2)]


class MaskFile(BaseModel):
    """Path below the folder of the dataset."""

    path: str


class Viewpoint(BaseModel):
    """Row vectors: ``camera = world R + T``, in units of half the image."""

    R: Annotated[list[Vector], Field(min_length=3, max_length=3)]
    T: Vector
    focal_length: Pair
    principal_point: Pair
    intrinsics_format: str = "ndc_norm_image_bounds"


class FrameAnnotation(BaseModel):
    """What is read of a frame."""

    sequence_name: str
    image: ImageFile
    mask: MaskFile | None = None
    viewpoint: Viewpoint | None = None


def read_co3d(path: Path, sequence: str | None = None) -> PhotographSet:
    """Read a sequence of ``frame_annotations.jgz``, with the masks (white: the object) and ``pointcloud.ply``.

    Viewpoints are world-to-camera for row vectors in PyTorch3D's axes (x left, y up, z into the image). Focal lengths
    and principal points are in units of half the shorter side (``ndc_isotropic``) or of half of either side
    (``ndc_norm_image_bounds``), the latter from the middle to the left and up. Source: facebookresearch/co3d;
    PyTorch3D, "Cameras".

    Args:
        path: folder of a sequence, or that of its category, which holds the file.
        sequence: name of the sequence; None for that of the folder.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    category = path if (path / FILE).is_file() else path.resolve().parent
    file = category / FILE
    frames = [frame for frame in _read_frames(file) if isinstance(frame, dict)]
    names = sorted({str(frame.get("sequence_name")) for frame in frames})
    wanted = sequence or (path.resolve().name if category != path else names[0] if len(names) == 1 else None)
    if wanted not in names:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise UserError(f"{file}: give source.sequence=NAME, one of its {len(names)} sequences: {shown}")
    root = category.resolve().parent
    cameras, masks, left_out = {}, {}, []
    for content in frames:
        if str(content.get("sequence_name")) != wanted:
            continue
        frame = checked(FrameAnnotation, content, file)
        if frame.viewpoint is None:
            left_out.append(f"{frame.image.path}: has no viewpoint")
            continue
        cameras[frame.image.path] = partial(_camera, frame.viewpoint, frame.image.size)
        if frame.mask and os.path.isfile(root / frame.mask.path):
            masks[frame.image.path] = root / frame.mask.path
    if not cameras:
        raise UserError(f"{file}: no frame of {wanted} has a viewpoint")
    images = NamedImages(root, ["."])
    found = photographs_of_files(file, {"train": cameras}, images, masks=masks, advice="unpack the category's archive")
    cloud = category / wanted / "pointcloud.ply"
    points = read_ply_points(cloud) if cloud.is_file() else None
    return found.with_more(points=points, left_out=left_out, files=[file, cloud])


def _read_frames(file: Path) -> list[Any]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as opened:
            frames = json.load(opened)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; give the folder of a category or of one of its sequences") from None
    except Exception as error:  # gzip, zlib and json raise their own types
        raise UserError(f"{file}: cannot be read as compressed JSON ({error}); it may be truncated") from error
    if not isinstance(frames, list):
        raise UserError(f"{file}: must hold a list of frames")
    return frames


def _camera(viewpoint: Viewpoint, size: list[int], _image: tuple[int, int]) -> tuple[Array, Lens]:
    height, width = size
    shorter = min(width, height)
    units = {"ndc_isotropic": (shorter / 2, shorter / 2), "ndc_norm_image_bounds": (width / 2, height / 2)}
    if viewpoint.intrinsics_format not in units:
        raise UserError(f"its intrinsics_format {viewpoint.intrinsics_format} is not supported")
    x, y = units[viewpoint.intrinsics_format]
    (fx, fy), (px, py) = viewpoint.focal_length, viewpoint.principal_point
    lens = Lens(width, height, fx * x, fy * y, width / 2 - px * x, height / 2 - py * y)
    rotation = np.array(viewpoint.R) @ TO_OPENCV  # camera-to-world
    return nearest_rigid(pose_of(rotation, -rotation @ TO_OPENCV @ np.array(viewpoint.T))), lens
