"""The file ``intrinsics.txt`` of the DeepVoxels folder format, and the files that extend it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dv.data.points import read_points
from dv.data.record import RECORD_FILE, read_record
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement, near_or_default
from dv.runtime.foreign_files import is_number, numbers_of, read_json, read_text

CAMERAS_FILE = "cameras.json"
_KEYS = ("fx", "fy", "cx", "cy", "width", "height")


@dataclass(frozen=True)
class Calibration:
    """Contents of ``intrinsics.txt``, ``cameras.json`` and ``points.npy``.

    ``intrinsics`` describe whole images; ``world_to_camera`` tells the direction of the pose files. ``cameras`` are
    those of the views of ``cameras.json`` by file stem, and empty if all views have the same. ``points`` are
    reconstructed points ``[N, 3]`` in world units, None if there are none.
    """

    intrinsics: Intrinsics
    placement: GridPlacement
    world_to_camera: bool
    cameras: Mapping[str, Intrinsics] = field(default_factory=dict)
    points: Tensor | None = field(default=None, compare=False, repr=False)

    def camera(self, stem: str) -> Intrinsics:
        """Return the intrinsics of a view's whole image.

        Raises:
            UserError: if ``cameras.json`` does not name the view.
        """
        if self.cameras and stem not in self.cameras:
            raise UserError(f'{CAMERAS_FILE}: "views" has no camera for {stem}')
        return self.cameras.get(stem, self.intrinsics)

    def central_square(self) -> Calibration:
        """Return the calibration of the central squares of the images.

        Raises:
            UserError: if the views have several cameras.
        """
        if len(set(self.cameras.values())) > 1:
            raise UserError(
                "this model reads squares of one camera, and the views have several cameras; "
                "prepare a copy: python prepare.py source=folder source.crop=square …, or use model=radiance_grid"
            )
        square = self.intrinsics.central_square()
        return replace(self, intrinsics=square, cameras=dict.fromkeys(self.cameras, square))


@dataclass(frozen=True)
class IntrinsicsFile:
    """The lines of ``intrinsics.txt``; ``near`` is None in those of Scene Representation Networks."""

    f: float
    cx: float
    cy: float
    origin: tuple[float, float, float]
    near: float | None
    scale: float
    height: int
    width: int
    world_to_camera: bool


def read_intrinsics(path: Path) -> IntrinsicsFile:
    """Read ``intrinsics.txt`` of DeepVoxels or of Scene Representation Networks (SRN).

    Its lines are ``f cx cy`` in px, the grid's origin ``x y z``, near plane, side ``scale`` of the grid,
    ``height width`` in px, and optionally ``1`` if pose files are world-to-camera. SRN's have no near plane, by which
    they are told apart: their fourth line holds two numbers.

    Raises:
        UserError: if a line is missing or malformed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it must hold f cx cy / origin / near plane / scale / height width")
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    meanings = [("f cx cy", 3), ("grid origin x y z", 3), ("near plane", 1), ("scale", 1), ("height width", 2)]
    if len(lines) > 3 and len(lines[3].split()) == 2:
        del meanings[2]
    values: list[list[float]] = []
    for number, (meaning, count) in enumerate(meanings):
        try:
            row = numbers_of(lines[number])[:count]
        except (IndexError, ValueError):
            row = []
        if len(row) < count or not all(map(math.isfinite, row)):
            found = lines[number].strip() if number < len(lines) else "missing"
            raise UserError(f"{path}: line {number + 1} must hold {meaning} ({count} numbers), but is: {found}")
        values.append(row)
    (f, cx, cy), (x, y, z), *near, (scale,), (height, width) = values
    for meaning, value in (("f", f), ("scale", scale), ("height", height), ("width", width)):
        if not 0 < value < 1e9:
            raise UserError(f"{path}: {meaning} must be positive, not {value:g}")
    if near and near[0][0] < 0:
        raise UserError(f"{path}: the near plane must not be negative, but is {near[0][0]:g}")
    flag = lines[len(meanings)].split()[0] if len(lines) > len(meanings) else "0"
    return IntrinsicsFile(
        f, cx, cy, (x, y, z), near[0][0] if near else None, scale, round(height), round(width),
        flag in ("1", "1.0", "True"),
    )  # fmt: skip


def read_calibration(path: Path, pixel_center: float | None = None) -> Calibration:
    """Read ``intrinsics.txt``, see :func:`read_intrinsics`, and, if they exist, the files beside it that extend it.

    The cameras of ``cameras.json`` replace f, cx and cy; ``points.npy`` is that of :mod:`dv.data.points`.

    Args:
        path: the file.
        pixel_center: coordinate of the centre of pixel 0; None for what ``dataset.json`` beside the file says, or 0.

    Raises:
        UserError: if a line is missing or malformed, or a camera or the points are.
    """
    file = read_intrinsics(path)
    center = _pixel_center(path.parent, pixel_center)
    cameras = _read_cameras(path.with_name(CAMERAS_FILE), center)
    return Calibration(
        next(iter(cameras.values()), Intrinsics(file.f, file.f, file.cx, file.cy, file.width, file.height, center)),
        GridPlacement(file.origin, file.scale, near_or_default(file.near or 0.0)),
        file.world_to_camera,
        cameras,
        read_points(path.parent),
    )


def _read_cameras(path: Path, pixel_center: float) -> dict[str, Intrinsics]:
    """Return the intrinsics of the views by file stem; empty without a file.

    Raises:
        UserError: naming the first camera or view that is wrong.
    """
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        listed, views = content["cameras"], content["views"]
        if not (isinstance(listed, list) and isinstance(views, dict) and views):
            raise TypeError
    except (TypeError, KeyError) as error:
        raise UserError(f'{path}: must be a JSON object with a list "cameras" and an object "views"') from error
    cameras = [_camera(path, i, camera, pixel_center) for i, camera in enumerate(listed)]
    for stem, index in views.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(cameras):
            raise UserError(f'{path}: "views" maps {stem} to {index}, which is not the index of one of the '
                            f"{len(cameras)} cameras")  # fmt: skip
    return {stem: cameras[index] for stem, index in views.items()}


def _camera(path: Path, index: int, camera: Any, pixel_center: float) -> Intrinsics:
    numbers: list[float] = []
    for key in _KEYS:
        value = camera.get(key) if isinstance(camera, dict) else None
        if not is_number(value):
            raise UserError(f"{path}: {key} of camera {index} must be a finite number, not {value!r}")
        if key not in ("cx", "cy") and value <= 0:
            raise UserError(f"{path}: {key} of camera {index} must be positive, not {value:g}")
        numbers.append(float(value))
    fx, fy, cx, cy, width, height = numbers
    return Intrinsics(fx, fy, cx, cy, round(width), round(height), pixel_center)


def write_cameras(folder: Path, cameras: Mapping[str, Intrinsics]) -> None:
    """Write ``cameras.json`` of a split, given the intrinsics of its views by file stem."""
    distinct = list(dict.fromkeys(cameras.values()))
    content = {
        "cameras": [{key: getattr(camera, key) for key in _KEYS} for camera in distinct],
        "views": {stem: distinct.index(camera) for stem, camera in cameras.items()},
    }
    (folder / CAMERAS_FILE).write_text(json.dumps(content, indent=1) + "\n")


def _pixel_center(folder: Path, given: float | None) -> float:
    """Return the given pixel centre, that of the folder's record, or 0."""
    where = "object.pixel_center"
    if given is None:
        given, where = read_record(folder).get("pixel_center"), f"{folder / RECORD_FILE}: pixel_center"
    if given not in (None, 0, 0.5):
        raise UserError(f"{where}={given} must be 0 (the reference's convention) or 0.5 (the centre of a pixel)")
    return float(given or 0)
