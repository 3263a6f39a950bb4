"""Posed photographs as every importer returns them: each with the lens of its camera."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dv.data.folder import raise_problems
from dv.errors import UserError
from dv.geometry.camera import rigid_defect
from dv.geometry.grid import GridPlacement
from dv.prepare.placement import Array, Window

SPLIT_WORDS = {"train": "train", "validation": "val", "test": "test"}  # in names and keys of transforms.json
_UNDISTORT_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-12)


@dataclass(frozen=True)
class Lens:
    """Pinhole camera with OpenCV's distortion; pixel (col, row) has its centre at (col + 0.5, row + 0.5).

    Args:
        width: of the image, px.
        height: of the image, px.
        fx: horizontal focal length, px.
        fy: vertical focal length, px.
        cx: column of the principal point, px.
        cy: row of the principal point, px.
        distortion: k1 k2 p1 p2 [k3 [k4 k5 k6]], or k1 k2 k3 k4 of a fisheye; empty if all are 0.
        fisheye: whether the projection is OpenCV's fisheye model.

    Raises:
        UserError: if a number is not finite, or a size or focal length is not positive.
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
                f"a camera of {self.width}×{self.height} px with fx={self.fx:g} fy={self.fy:g} is invalid: "
                "sizes and focal lengths must be positive and all parameters finite"
            )
        if not any(self.distortion):
            object.__setattr__(self, "distortion", ())
        elif len(self.distortion) < 4:
            object.__setattr__(self, "distortion", (*self.distortion, *(0.0,) * (4 - len(self.distortion))))

    @property
    def is_ideal(self) -> bool:
        """Whether the lens is a pinhole without distortion and with square pixels."""
        return not self.distortion and not self.fisheye and abs(self.fx - self.fy) <= 1e-9 * self.fx

    def at_size(self, width: int, height: int) -> Lens:
        """Return the same lens for the image resized to ``width × height`` px.

        Raises:
            UserError: if the aspect ratio is another one.
        """
        # sides of a resized image are rounded: tolerate one pixel of either image
        if abs(width * self.height - height * self.width) > max(width, height, self.width, self.height):
            raise UserError(f"the image is {width}×{height} px, its camera {self.width}×{self.height}")
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=x * self.fx, fy=y * self.fy, cx=x * self.cx, cy=y * self.cy)

    def matrix(self) -> Array:
        """Return the camera matrix ``[3, 3]``, which maps camera axes to pixel indices."""
        return np.array([[self.fx, 0, self.cx - 0.5], [0, self.fy, self.cy - 0.5], [0, 0, 1]])

    def unproject(self, pixels: Array) -> Array:
        """Return the points ``[N, 2]`` of the plane z = 1 that are seen at pixel indices ``[N, 2]``."""
        points = pixels.reshape(-1, 1, 2)
        if self.fisheye:
            distortion = np.array(self.distortion or (0.0,) * 4)
            found = cv2.fisheye.undistortPoints(points, self.matrix(), distortion)
        else:
            distortion = np.array(self.distortion)
            found = cv2.undistortPoints(points, self.matrix(), distortion, None, None, None, _UNDISTORT_CRITERIA)
        return np.asarray(found, np.float64).reshape(-1, 2)

    def project(self, points: Array) -> Array:
        """Return the pixel indices ``[N, 2]`` of camera-frame points ``[N, 3]`` in front of the camera."""
        points, zero = points.reshape(-1, 1, 3), np.zeros(3)
        if self.fisheye:
            distortion = np.array(self.distortion or (0.0,) * 4)
            found = cv2.fisheye.projectPoints(points, zero, zero, self.matrix(), distortion)[0]
        else:
            found = cv2.projectPoints(points, zero, zero, self.matrix(), np.array(self.distortion))[0]
        return np.asarray(found, np.float64).reshape(-1, 2)

    def window(self) -> Window:
        """Return the largest upright rectangle of the plane z = 1 that the undistorted image covers.

        Raises:
            UserError: if the distortion cannot be inverted along the border of the image.
        """
        across, down = np.linspace(-0.5, self.width - 0.5, 33), np.linspace(-0.5, self.height - 0.5, 33)

        def border(x: Array, y: Array) -> Array:
            """Points of one edge where undistortion converges: strong distortion has no inverse in the corners."""
            pixels = np.stack(np.broadcast_arrays(x, y), 1).astype(np.float64)
            points = self.unproject(pixels)
            back = self.project(np.concatenate([points, np.ones((len(points), 1))], 1))
            kept = points[np.abs(back - pixels).max(1) < 0.5]
            return kept if 2 * len(kept) > len(points) else np.full((1, 2), np.nan)

        left, right = border(np.array(-0.5), down), border(np.array(self.width - 0.5), down)
        top, bottom = border(across, np.array(-0.5)), border(across, np.array(self.height - 0.5))
        edges = left[:, 0].max(), right[:, 0].min(), top[:, 1].max(), bottom[:, 1].min()
        window = Window(*map(float, edges))
        if not (np.isfinite(edges).all() and window.width > 0 and window.height > 0):
            raise UserError(f"a lens with distortion {self.distortion} cannot be undistorted; check its coefficients")
        return window


@dataclass(frozen=True)
class Photograph:
    """An image file with the pose and the lens of its camera.

    Args:
        name: file stem under which the view is written.
        path: of the image.
        pose: camera-to-world ``[4, 4]``, OpenCV axes.
        lens: of the camera.
        mask: image that is white where the object is.
        stops: exposure change to apply, in powers of two.
    """

    name: str
    path: Path
    pose: Array
    lens: Lens
    mask: Path | None = None
    stops: float = 0.0


@dataclass(frozen=True)
class PhotographSet:
    """What an importer returns.

    Args:
        splits: photographs by split.
        points: reconstructed points ``[N, 3]``.
        placement: of the grid, if it is known already.
        reasons: sentences that explain ``placement``.
        up: which way is up, if it is known.
        provenance: for ``dataset.json``.
        left_out: what was skipped, and why.
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
        """Photographs of all splits."""
        return [photograph for split in self.splits.values() for photograph in split]

    @property
    def poses(self) -> Array:
        """Poses ``[V, 4, 4]`` of all photographs."""
        return np.stack([photograph.pose for photograph in self.photographs])


def windows_of(photographs: list[Photograph]) -> list[Window]:
    """Return the field of view of every photograph, see :meth:`Lens.window`."""
    windows = {lens: lens.window() for lens in {p.lens for p in photographs}}
    return [windows[p.lens] for p in photographs]


def unique_names(relative: list[Path]) -> list[str]:
    """Choose unique names for image files: their stems, or whole paths with underscores if stems collide.

    Raises:
        UserError: if the paths collide too.
    """
    stems = [path.stem for path in relative]
    if len(set(stems)) == len(stems):
        return stems
    whole = ["_".join(part for part in path.with_suffix("").parts if part not in ("/", ".", "..")) for path in relative]
    repeated = sorted({name for name in whole if whole.count(name) > 1})
    if repeated:
        raise UserError(
            f"{len(repeated)} image names occur more than once, such as {repeated[0]}; rename the files so that each "
            "name is unique"
        )
    return whole


class Problems:
    """Problems of an importer's files; equal problems are reported once, with the first few places."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, place: str, problem: str) -> None:
        """Note that ``place`` (a file or frame) has ``problem``."""
        self._places.setdefault(problem, []).append(place)

    def raise_any(self, path: Path) -> None:
        """Raise one :class:`UserError` about ``path`` with all problems, if there are any."""
        raise_problems(path, [f"{path}: {shorten(places)}: {problem}" for problem, places in self._places.items()])


def shorten(names: list[str], shown: int = 3) -> str:
    """Join the first ``shown`` names, and say how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def nearest_rigid(pose: Array) -> Array:
    """Replace the 3×3 part of ``pose`` ``[4, 4]`` by the nearest rotation (SVD) if it is inexact by rounding.

    Raises:
        UserError: if the pose is not rigid; the message does not name the file.
    """
    if (defect := rigid_defect(torch.from_numpy(pose))) is not None:
        raise UserError(defect)
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-8:
        return pose  # keep the file's digits
    u, _, v = np.linalg.svd(rotation)
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = u @ v, pose[:3, 3]
    return exact


def flip_axes(pose: Array) -> Array:
    """Convert poses ``[..., 4, 4]`` between OpenGL camera axes (x right, y up, z backwards) and OpenCV axes."""
    return np.asarray(pose * np.array([1.0, -1.0, -1.0, 1.0]))


def check_missing(missing: list[Path], total: int, what_next: str) -> None:
    """Raise :class:`UserError` if more than half of ``total`` image files are missing."""
    if 2 * len(missing) > total:
        raise UserError(f"{len(missing)} of {total} images are missing, such as {missing[0]}; {what_next}")
