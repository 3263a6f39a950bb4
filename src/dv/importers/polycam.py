"""Importer of the raw data that the Polycam app exports."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, create_model

from dv.errors import UserError
from dv.importers.listed_views import Number, photographs_of_files
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import RigidPoses, flip_axes
from dv.runtime.foreign_files import checked, files_in, read_json

FOLDERS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))  # the corrected ones are refined
_ENTRIES = [f"t_{row}{column}" for row in range(3) for column in range(4)]
_KEYS = ("fx", "fy", "cx", "cy", "width", "height", *_ENTRIES)
PolycamCamera: type[BaseModel] = create_model("PolycamCamera", **dict.fromkeys(_KEYS, (Number, ...)))  # type: ignore[call-overload]


def read_polycam(path: Path) -> PhotographSet:
    """Read ``keyframes/`` of a raw data export: the corrected cameras and images, or else those of the phone.

    ``t_00 … t_23`` are camera-to-world in OpenGL axes, in metres, y up; ``fx fy cx cy`` are px. Depth and confidence
    are not read. Source: PolyCam/polyform, ``README.md``.

    Args:
        path: folder with ``keyframes``, or this folder.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    root = path / "keyframes" if (path / "keyframes").is_dir() else path
    chosen = next((pair for pair in FOLDERS if files_in(root / pair[0], {".json"})), None)
    if chosen is None:
        raise UserError(f"{root}: has no cameras/*.json; export raw data in Polycam, in developer mode")
    files = files_in(root / chosen[0], {".json"})
    poses = RigidPoses()

    def camera(file: Path, _size: tuple[int, int]) -> tuple[Array, Lens]:
        content = checked(PolycamCamera, read_json(file), file).model_dump()
        pose = np.eye(4)
        pose[:3] = np.array([content[key] for key in _ENTRIES]).reshape(3, 4)
        width, height, fx, fy, cx, cy = (content[key] for key in ("width", "height", "fx", "fy", "cx", "cy"))
        if not (0.5 <= width < 1e6 and 0.5 <= height < 1e6):
            raise UserError(f"its width and height are {width:g} and {height:g} px")
        return flip_axes(poses.rigid(pose)), Lens(round(width), round(height), fx, fy, cx, cy)

    cameras = {file.stem: partial(camera, file) for file in files}
    images = NamedImages(root / chosen[1], ["."])
    found = photographs_of_files(root, {"train": cameras}, images, advice=f"they belong into {root / chosen[1]}")
    uncorrected = chosen[0] == "cameras"
    notes = ["Polycam has not corrected these cameras: images are distorted and poses less exact"] * uncorrected
    return found.with_more(notes=[*poses.notes(), *notes], files=files, up=(0.0, 1.0, 0.0))
