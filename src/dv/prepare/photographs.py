"""Posed photographs, as any import finds them: each with its own lens, before they become one square camera."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray

from dv.data.folder import refuse
from dv.errors import UserError
from dv.geometry.camera import rigid_defect
from dv.geometry.grid import GridPlacement
from dv.prepare.placement import Window

Array = NDArray[np.float64]
_EXACT = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-12)


@dataclass(frozen=True)
class Lens:
    """Pinhole camera with OpenCV's distortion; lengths in px, pixel (col, row) centred at (col + 0.5, row + 0.5).

    ``distortion`` holds k1 k2 p1 p2 [k3 [k4 k5 k6]], or k1 k2 k3 k4 of a fisheye. Raises :class:`UserError`.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False

    def __post_init__(self) -> None:
        numbers = (self.width, self.height, self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(numbers).all() or min(self.width, self.height, self.fx, self.fy) <= 0:
            raise UserError(
                f"a camera of {self.width}×{self.height} px with fx={self.fx:g} fy={self.fy:g} cannot be: "
                "sizes and focal lengths must be positive numbers"
            )
        if not any(self.distortion):
            object.__setattr__(self, "distortion", ())
        elif len(self.distortion) < 4:
            object.__setattr__(self, "distortion", (*self.distortion, *(0.0,) * (4 - len(self.distortion))))

    @property
    def plain(self) -> bool:
        """Whether it is a pinhole with square pixels."""
        return not self.distortion and not self.fisheye and abs(self.fx - self.fy) <= 1e-9 * self.fx

    def at_size(self, width: int, height: int) -> Lens:
        """The same lens for the picture resized to ``width × height`` px. Raises :class:`UserError`."""
        # a resized picture's sides are rounded: up to a pixel of either picture
        if abs(width * self.height - height * self.width) > max(width, height, self.width, self.height):
            raise UserError(f"the picture is {width}×{height} px, its camera {self.width}×{self.height}")
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=x * self.fx, fy=y * self.fy, cx=x * self.cx, cy=y * self.cy)

    def matrix(self) -> Array:
        """Camera matrix ``[3, 3]`` in pixel indices."""
        return np.array([[self.fx, 0, self.cx - 0.5], [0, self.fy, self.cy - 0.5], [0, 0, 1]])

    def directions(self, pixels: Array) -> Array:
        """Points ``[N, 2]`` of the plane z = 1 that are seen at pixel indices ``[N, 2]``."""
        points = pixels.reshape(-1, 1, 2)
        if self.fisheye:
            distortion = np.array(self.distortion or (0.0,) * 4)
            found = cv2.fisheye.undistortPoints(points, self.matrix(), distortion)
        else:
            distortion = np.array(self.distortion)
            found = cv2.undistortPoints(points, self.matrix(), distortion, None, None, None, _EXACT)
        return np.asarray(found, np.float64).reshape(-1, 2)

    def pixels(self, points: Array) -> Array:
        """Pixel indices ``[N, 2]`` of camera-frame points ``[N, 3]`` in front of the camera."""
        points, still = points.reshape(-1, 1, 3), np.zeros(3)
        if self.fisheye:
            distortion = np.array(self.distortion or (0.0,) * 4)
            found = cv2.fisheye.projectPoints(points, still, still, self.matrix(), distortion)[0]
        else:
            found = cv2.projectPoints(points, still, still, self.matrix(), np.array(self.distortion))[0]
        return np.asarray(found, np.float64).reshape(-1, 2)

    def window(self) -> Window:
        """The largest upright rectangle of the plane z = 1 that the picture covers, its border undistorted."""
        across, down = np.linspace(-0.5, self.width - 0.5, 33), np.linspace(-0.5, self.height - 0.5, 33)

        def border(x: Array, y: Array) -> Array:
            """Directions of one edge, where undistorting finds them: strong fits have no inverse in the corners."""
            pixels = np.stack(np.broadcast_arrays(x, y), 1).astype(np.float64)
            found = self.directions(pixels)
            back = self.pixels(np.concatenate([found, np.ones((len(found), 1))], 1))
            kept = found[np.abs(back - pixels).max(1) < 0.5]
            return kept if 2 * len(kept) > len(found) else np.full((1, 2), np.nan)

        left, right = border(np.array(-0.5), down), border(np.array(self.width - 0.5), down)
        top, bottom = border(across, np.array(-0.5)), border(across, np.array(self.height - 0.5))
        edges = left[:, 0].max(), right[:, 0].min(), top[:, 1].max(), bottom[:, 1].min()
        window = Window(*map(float, edges))
        if not (np.isfinite(edges).all() and window.width > 0 and window.height > 0):
            raise UserError(f"a lens with distortion {self.distortion} cannot be undistorted; check its coefficients")
        return window


@dataclass(frozen=True)
class Photograph:
    """A picture file with its pose (camera-to-world ``[4, 4]``, OpenCV axes) and lens.

    ``mask``, if there is one, is a picture that is white on the object. ``stops`` is by how much more light the
    picture is to look, in powers of two.
    """

    name: str
    path: Path
    pose: Array
    lens: Lens
    mask: Path | None = None
    stops: float = 0.0


@dataclass(frozen=True)
class PhotographSet:
    """What an import found: photographs by split, and what it knows of the scene.

    ``points`` ``[N, 3]`` are reconstructed ones; ``placement`` is a grid that is known already, with the ``reasons``
    for it; ``up`` is which way is up, where that is known. ``provenance`` goes to ``dataset.json``; ``left_out`` says
    what was skipped, and why.
    """

    splits: dict[str, list[Photograph]]
    points: Array | None = None
    placement: GridPlacement | None = None
    reasons: list[str] = field(default_factory=list)
    up: tuple[float, float, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def photographs(self) -> list[Photograph]:
        """Those of all splits."""
        return [photograph for split in self.splits.values() for photograph in split]

    @property
    def poses(self) -> Array:
        """Of all photographs ``[V, 4, 4]``."""
        return np.stack([photograph.pose for photograph in self.photographs])


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in px, from the file's head. Raises :class:`UserError`."""
    try:
        height, width = iio.improps(path, plugin="pillow").shape[:2]
    except Exception as error:  # imageio's backends each raise kinds of their own
        raise UserError(f"{path}: cannot be read as an image, it may be truncated") from error
    return width, height


def unique_names(relative: list[Path]) -> list[str]:
    """File stems to write pictures under; the whole path with underscores where stems would collide."""
    stems = [path.stem for path in relative]
    if len(set(stems)) == len(stems):
        return stems
    whole = ["_".join(part for part in path.with_suffix("").parts if part not in ("/", ".", "..")) for path in relative]
    twice = sorted({name for name in whole if whole.count(name) > 1})
    if twice:
        raise UserError(
            f"{len(twice)} pictures are named twice, such as {twice[0]}; give every frame a file of its own"
        )
    return whole


class Faults:
    """What is wrong with an import's files, by kind: faults of one kind make one line, with where the first few are."""

    def __init__(self) -> None:
        self._where: dict[str, list[str]] = {}

    def add(self, where: str, fault: str) -> None:
        """Note that ``where`` (a file or frame) has ``fault``."""
        self._where.setdefault(fault, []).append(where)

    def refuse(self, path: Path) -> None:
        """Raise one :class:`UserError` about ``path`` with all faults, if there are any."""
        refuse(path, [f"{path}: {few(where)}: {fault}" for fault, where in self._where.items()])


def few(names: list[str], shown: int = 3) -> str:
    """The first ``shown`` names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def rigid(pose: Array) -> Array:
    """``pose`` ``[4, 4]`` with the nearest rotation (SVD) where its own is off by rounding.

    Raises :class:`UserError` that says what else is wrong with it, but not where it is from.
    """
    if (defect := rigid_defect(torch.from_numpy(pose))) is not None:
        raise UserError(defect)
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-8:
        return pose  # as written, to the last digit
    u, _, v = np.linalg.svd(rotation)
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = u @ v, pose[:3, 3]
    return exact


def check_absent(absent: list[Path], total: int, what_next: str) -> None:
    """Raise :class:`UserError` if more than half of all pictures are not where they should be."""
    if 2 * len(absent) > total:
        raise UserError(f"{len(absent)} of {total} pictures are not there, such as {absent[0]}; {what_next}")
