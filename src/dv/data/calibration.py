"""The file ``intrinsics.txt`` of the DeepVoxels folder format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dv.data.record import RECORD_FILE, read_record
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, square_crop
from dv.geometry.grid import GridPlacement, near_or_default


@dataclass(frozen=True)
class Calibration:
    """Contents of ``intrinsics.txt``.

    ``intrinsics`` describe the central square of an image, ``height`` and ``width`` the whole image in px;
    ``world_to_camera`` tells the direction of the pose files.
    """

    intrinsics: Intrinsics
    height: int
    width: int
    placement: GridPlacement
    world_to_camera: bool


def read_calibration(path: Path, pixel_center: float | None = None) -> Calibration:
    """Read ``intrinsics.txt``.

    Its lines are ``f cx cy`` in px, the grid's origin ``x y z``, near plane, side ``scale`` of the grid,
    ``height width`` in px, and optionally ``1`` if pose files are world-to-camera.

    Args:
        path: the file.
        pixel_center: coordinate of the centre of pixel 0; None for what ``dataset.json`` beside the file says, or 0.

    Raises:
        UserError: if a line is missing or malformed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it must hold f cx cy / origin / near plane / scale / height width")
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    meanings = (("f cx cy", 3), ("grid origin x y z", 3), ("near plane", 1), ("scale", 1), ("height width", 2))
    values: list[list[float]] = []
    for number, (meaning, count) in enumerate(meanings):
        try:
            row = [float(token) for token in lines[number][:count]]
        except (IndexError, ValueError):
            row = []
        if len(row) < count or not all(map(math.isfinite, row)):
            found = " ".join(lines[number]) if number < len(lines) else "missing"
            raise UserError(f"{path}: line {number + 1} must hold {meaning} ({count} numbers), but is: {found}")
        values.append(row)
    (f, cx, cy), (x, y, z), (near,), (scale,), (height, width) = values
    for meaning, value in (("f", f), ("scale", scale), ("height", height), ("width", width)):
        if value <= 0:
            raise UserError(f"{path}: {meaning} must be positive, not {value:g}")
    if near < 0:
        raise UserError(f"{path}: the near plane must not be negative, but is {near:g}")
    return Calibration(
        square_crop(f, cx, cy, round(height), round(width), _pixel_center(path.parent, pixel_center)),
        round(height),
        round(width),
        GridPlacement((x, y, z), scale, near_or_default(near)),
        len(lines) > 5 and lines[5][0] in ("1", "1.0", "True"),
    )


def _pixel_center(folder: Path, given: float | None) -> float:
    """Return the given pixel centre, that of the folder's record, or 0."""
    where = "object.pixel_center"
    if given is None:
        given, where = read_record(folder).get("pixel_center"), f"{folder / RECORD_FILE}: pixel_center"
    if given not in (None, 0, 0.5):
        raise UserError(f"{where}={given} must be 0 (the reference's convention) or 0.5 (the centre of a pixel)")
    return float(given or 0)
