"""The lens of a frame of ``transforms.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dv.decoding import image_header
from dv.errors import UserError
from dv.prepare.lens import Lens
from dv.runtime.foreign_files import is_number

OFF_CENTER = 0.3  # of the image's sides that the principal point may be away from the middle, if w and h are not stated
FISHEYES = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
PERSPECTIVES = {"PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"}
Json = Mapping[str, Any]


def lens_of(meta: Json, frame: Json, image: Path) -> Lens:
    """Return the lens of a frame at the size that the file states, or that of the image if it states none."""
    both = {**meta, **frame}
    size = _size_of_calibration(both, image)
    w, h = (round(number(both, key) or side) for key, side in zip("wh", size, strict=True))
    fx, fy = _focal(meta, frame, "x", w), _focal(meta, frame, "y", h)
    f = fx or fy
    if f is None:
        raise UserError("neither fl_x nor camera_angle_x is given, for the file or for the frame")
    model = str(both.get("camera_model", "OPENCV"))
    if model not in FISHEYES | PERSPECTIVES:
        raise UserError(f"camera_model {model} is not supported; convert the images to PINHOLE")
    fisheye = model in FISHEYES or both.get("is_fisheye") is True
    k1, k2, k3, k4, p1, p2 = (number(both, key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if fisheye and (p1 or p2):
        raise UserError("p1 and p2 are given, which a fisheye lens does not have")
    if not fisheye and k4:
        raise UserError("k4 is given, which only a fisheye lens has; convert the images to PINHOLE or OPENCV")
    cx, cy = number(both, "cx"), number(both, "cy")
    distortion = (k1, k2, k3, k4) if fisheye else (k1, k2, p1, p2, k3)
    center = w / 2 if cx is None else cx, h / 2 if cy is None else cy
    return Lens(w, h, fx or f, fy or f, *center, distortion, fisheye)


def _size_of_calibration(both: Json, image: Path) -> tuple[int, int]:
    """Return width and height in px of the images that the numbers of a file without ``w`` and ``h`` are about.

    The principal point tells whether they are about the image as stored or as its EXIF orientation shows it.

    Raises:
        UserError: if the principal point is far from the middle of the image: it belongs to images of another size.
    """
    header = image_header(image)
    cx, cy = number(both, "cx"), number(both, "cy")
    if cx is None or cy is None or (number(both, "w") and number(both, "h")):
        return header.size
    away = {size: max(abs(c / side - 0.5) for c, side in zip((cx, cy), size, strict=True))
            for size in (header.size, header.upright_size)}  # fmt: skip
    nearest = min(away, key=lambda size: away[size])
    if away[nearest] < OFF_CENTER:
        return nearest
    raise UserError(f"is {header.width}×{header.height} px, but the principal point {cx:g} {cy:g} belongs to images of "
                    "another size; add w and h, those of the calibration")  # fmt: skip


def _focal(meta: Json, frame: Json, axis: str, size: int) -> float | None:
    for level in (frame, meta):
        f, angle, degrees = (number(level, key) for key in (f"fl_{axis}", f"camera_angle_{axis}", f"{axis}_fov"))
        if f is not None:
            return f
        angle = math.radians(degrees) if angle is None and degrees is not None else angle
        if angle is not None:
            if not 0 < angle < math.pi:
                raise UserError(f"camera_angle_{axis}={angle:g} must be an angle between 0 and π")
            return size / 2 / math.tan(angle / 2)
    return None


def number(level: Json, key: str) -> float | None:
    """Return the number of a key, None without the key.

    Raises:
        UserError: if it is no finite number.
    """
    value = level.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise UserError(f"{key} must be a number, not {value!r}")
    return float(value)
