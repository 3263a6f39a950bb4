"""Importer of recordings of the Record3D app."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from kornia.geometry.conversions import quaternion_to_rotation_matrix
from pydantic import BaseModel, Field

from dv.decoding import IMAGE_SUFFIXES
from dv.errors import UserError
from dv.importers.listed_views import Number, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import flip_axes
from dv.runtime.foreign_files import checked, files_in, read_json

FILES = ("metadata.json", "metadata")


class Metadata(BaseModel):
    """What is read of ``metadata``: K is stored by columns, poses are quaternions x y z w and places."""

    K: Annotated[list[Number], Field(min_length=9, max_length=9)]
    w: Number
    h: Number
    poses: Annotated[list[Annotated[list[Number], Field(min_length=7, max_length=7)]], Field(min_length=1)]
    perFrameIntrinsicCoeffs: list[Annotated[list[Number], Field(min_length=4, max_length=4)]] | None = None


def read_record3d(path: Path) -> PhotographSet:
    """Read ``metadata.json`` with ``rgb/``, or ``metadata`` with ``rgbd/`` of an unpacked ``.r3d`` file.

    ``poses`` are camera-to-world in OpenGL axes, in metres: quaternions x y z w, then the place. Image i is ``i.jpg``.
    ``perFrameIntrinsicCoeffs`` are fx fy cx cy of each image in px; without them, K is of all. Depth is not read.
    Source: marek-simonik/record3d, issues.

    Args:
        path: the folder.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    content = checked(Metadata, read_json(file), file)
    folder = next((path / name for name in ("rgb", "rgbd") if files_in(path / name, IMAGE_SUFFIXES)), None)
    if folder is None:
        raise UserError(f"{path}: has no images in rgb/ or rgbd/; unpack the .r3d file, which is a zip archive")
    poses = np.array(content.poses)
    if np.ptp(poses, axis=0).max() == 0 and len(poses) > 1:
        raise UserError(f"{file}: all poses are equal; recordings of the front camera have none")
    k = content.K
    intrinsics = content.perFrameIntrinsicCoeffs or [[k[0], k[4], k[6], k[7]]] * len(poses)
    if len(intrinsics) != len(poses):
        raise UserError(f"{file}: has {len(poses)} poses, but {len(intrinsics)} perFrameIntrinsicCoeffs")
    named = {image.stem: image.name for image in files_in(folder, IMAGE_SUFFIXES)}
    cameras = {
        named.get(str(i), f"{i}.jpg"): partial(_camera, pose, coefficients, (round(content.w), round(content.h)))
        for i, (pose, coefficients) in enumerate(zip(poses, intrinsics, strict=True))
    }
    found = photographs_of_files(file, {"train": cameras}, NamedImages(folder, ["."]), advice="image i must be i.jpg")
    return found.with_more(files=[file], in_metres=True)  # as ARKit's


def _camera(row: Array, intrinsics: list[float], stated: tuple[int, int], _size: tuple[int, int]) -> tuple[Array, Lens]:
    length = float(np.linalg.norm(row[:4]))
    if abs(length - 1) > 1e-2:
        raise UserError(f"its quaternion has the length {length:.4g}, not 1")
    rotation = quaternion_to_rotation_matrix(torch.from_numpy(row[[3, 0, 1, 2]] / length)).numpy()
    fx, fy, cx, cy = intrinsics
    return flip_axes(pose_of(rotation, row[4:])), Lens(*stated, fx, fy, cx, cy)
