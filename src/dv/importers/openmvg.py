"""Importer of ``sfm_data.json`` of OpenMVG."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from dv.errors import UserError
from dv.importers.listed_views import Number, Pair, Vector, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import named_images
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import nearest_rigid
from dv.runtime.foreign_files import checked, read_json

FILE = "sfm_data.json"
# Types of intrinsics: the key of their distortion, and how many numbers it has
MODELS = {
    "pinhole": ("", 0),
    "pinhole_radial_k1": ("disto_k1", 1),
    "pinhole_radial_k3": ("disto_k3", 3),
    "pinhole_brown_t2": ("disto_t2", 5),
    "fisheye": ("fisheye", 4),
}
FIRST_USE = 0x80000000  # added to the number of a type where it is named


class Data(BaseModel):
    """Content of a shared pointer, as cereal writes it."""

    data: dict[str, Any]


class Value(BaseModel):
    """A view or an intrinsic; ``polymorphic_name`` is only given where a type occurs first."""

    polymorphic_id: int = 0
    polymorphic_name: str | None = None
    ptr_wrapper: Data


class Item(BaseModel):
    """Entry of a map."""

    key: int
    value: Value


class Extrinsic(BaseModel):
    """World-to-camera rotation by rows, and the camera's place."""

    rotation: Annotated[list[Vector], Field(min_length=3, max_length=3)]
    center: Vector


class ExtrinsicItem(BaseModel):
    """Entry of the map of extrinsics."""

    key: int
    value: Extrinsic


class Landmark(BaseModel):
    """A reconstructed point."""

    X: Vector


class LandmarkItem(BaseModel):
    """Entry of the map of landmarks."""

    value: Landmark


class SfmData(BaseModel):
    """What is read of the file."""

    root_path: str = ""
    views: list[Item]
    intrinsics: list[Item]
    extrinsics: list[ExtrinsicItem]
    structure: list[LandmarkItem] = []


class View(BaseModel):
    """Image of a view, and its pose and lens by number."""

    local_path: str = ""
    filename: str
    id_intrinsic: int
    id_pose: int


class Intrinsic(BaseModel):
    """Pinhole in px."""

    width: Number
    height: Number
    focal_length: Number
    principal_point: Pair


def read_openmvg(path: Path, images: Path | None = None) -> PhotographSet:
    """Read ``sfm_data.json``, as ``openMVG_main_ConvertSfM_DataFormat`` writes it, with extrinsics and structure.

    Extrinsics are world-to-camera in OpenCV axes; coefficients of distortion are OpenCV's. Principal points are taken
    as those of COLMAP, with the centre of the first pixel at (0.5, 0.5), as OpenMVG's own exporter does. Views without
    an extrinsic were not reconstructed. Source: openMVG, ``sfm_data_io_cereal.cpp`` and ``cameras/*_io.hpp``.

    Args:
        path: the file, or its folder.
        images: folder of the images; None: see :func:`~dv.prepare.named_images.named_images`.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = path / FILE if path.is_dir() else path
    content = checked(SfmData, read_json(file), file)
    lenses = {
        item.key: _lens(kind, item.value.ptr_wrapper.data, file) for item, kind in _with_types(content.intrinsics)
    }
    poses = {item.key: item.value for item in content.extrinsics}
    cameras, left_out = {}, []

    def camera(pose: Extrinsic, lens: Lens | UserError, _size: tuple[int, int]) -> tuple[Array, Lens]:
        if isinstance(lens, UserError):
            raise lens
        return nearest_rigid(pose_of(np.array(pose.rotation).T, np.array(pose.center))), lens

    for item in content.views:
        view = checked(View, item.value.ptr_wrapper.data, file)
        name = "/".join(part for part in (view.local_path.replace("\\", "/").strip("/"), view.filename) if part)
        if view.id_pose not in poses or view.id_intrinsic not in lenses:
            left_out.append(f"{name}: not reconstructed")
        else:
            cameras[name] = partial(camera, poses[view.id_pose], lenses[view.id_intrinsic])
    if not cameras:
        raise UserError(f"{file}: no view has a pose and a lens; convert the reconstruction with -V -I -E -S")
    found = photographs_of_files(file, {"train": cameras}, named_images(path, images))
    points = np.array([item.value.X for item in content.structure])
    return found.with_more(points=points if len(points) else None, left_out=left_out, files=[file])


def _with_types(intrinsics: list[Item]) -> list[tuple[Item, str]]:
    """Return intrinsics with the names of their types."""
    names = {
        i.value.polymorphic_id & ~FIRST_USE: i.value.polymorphic_name for i in intrinsics if i.value.polymorphic_name
    }
    return [(item, names.get(item.value.polymorphic_id & ~FIRST_USE) or "pinhole") for item in intrinsics]


def _lens(kind: str, data: dict[str, Any], file: Path) -> Lens | UserError:
    """Return the lens of an intrinsic, or what is wrong with it: it may belong to no view."""
    flat = {**data.get("value0", {}), **data} if isinstance(data.get("value0"), dict) else data
    try:
        if kind not in MODELS:
            raise UserError(f"its camera is of type {kind}, which is not supported; export undistorted images")
        key, count = MODELS[kind]
        pinhole = checked(Intrinsic, flat, file)
        k = [float(number) for number in flat[key]] if key else []
        if len(k) != count:
            raise UserError(f"{key} must hold {count} numbers, not {len(k)}")
        if kind == "pinhole_brown_t2":
            k = [k[0], k[1], k[3], k[4], k[2]]
        elif kind != "fisheye" and k:
            k = [k[0], *(k[1:2] or [0.0]), 0.0, 0.0, *k[2:]]
        f, (cx, cy) = pinhole.focal_length, pinhole.principal_point
        return Lens(round(pinhole.width), round(pinhole.height), f, f, cx, cy, tuple(k), fisheye=kind == "fisheye")
    except UserError as error:
        return UserError(str(error).removeprefix(f"{file}: "))
    except (KeyError, TypeError, ValueError, OverflowError):
        return UserError(f"its camera of type {kind} has no valid {MODELS[kind][0]}")
