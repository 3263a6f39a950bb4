"""Importer of the raw data that the Polycam app exports."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from dv.errors import UserError
from dv.importers.listed_views import Number, photographs_of_files
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import RigidPoses, flip_axes
from dv.runtime.foreign_files import checked, files_in, read_json

FOLDERS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))  # the corrected ones are refined


class PolycamCamera(BaseModel):
    """Pinhole in px, and the rows of camera-to-world."""

    fx: Number
    fy: Number
    cx: Number
    cy: Number
    width: Number
    height: Number
    t_00: Number
    t_01: Number
    t_02: Number
    t_03: Number
    t_10: Number
    t_11: Number
    t_12: Number
    t_13: Number
    t_20: Number
    t_21: Number
    t_22: Number
    t_23: Number

    def pose(self) -> Array:
        """Return the pose ``[4, 4]``, camera-to-world, OpenGL axes."""
        rows = [[getattr(self, f"t_{row}{column}") for column in range(4)] for row in range(3)]
        return np.array([*rows, [0.0, 0.0, 0.0, 1.0]])

    def lens(self) -> Lens:
        """Return the lens."""
        return Lens(round(self.width), round(self.height), self.fx, self.fy, self.cx, self.cy)


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
        content = checked(PolycamCamera, read_json(file), file)
        return flip_axes(poses.rigid(content.pose())), content.lens()

    cameras = {file.stem: partial(camera, file) for file in files}
    images = NamedImages(root / chosen[1], ["."])
    found = photographs_of_files(root, {"train": cameras}, images, advice=f"they belong into {root / chosen[1]}")
    uncorrected = chosen[0] == "cameras"
    notes = ["Polycam has not corrected these cameras: images are distorted and poses less exact"] * uncorrected
    metres = not poses.notes()  # poses with a scale may be of another unit
    return found.with_more(notes=[*poses.notes(), *notes], files=files, up=(0.0, 1.0, 0.0), in_metres=metres)
