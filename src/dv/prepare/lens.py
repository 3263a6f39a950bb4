"""The lens of a camera: a pinhole with OpenCV's distortion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dv.errors import UserError
from dv.prepare.field_of_view import Window
from dv.prepare.placement import Array

LARGEST = 1e9  # size, focal length and other numbers of a lens
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
        valid = all(abs(number) < LARGEST for number in numbers)  # not of NaN
        if not valid or min(self.width, self.height, self.fx, self.fy) <= 0:
            size = "×".join(str(side)[:12] for side in (self.width, self.height))  # integers may have any length
            raise UserError(
                f"a camera of {size} px with fx={self.fx:g} fy={self.fy:g} is invalid: "
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
        if (width, height) == (self.width, self.height):
            return self
        if not same_shape((width, height), self):
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


def same_shape(size: tuple[int, int], lens: Lens) -> bool:
    """Return whether an image has the aspect ratio of a lens; sides of resized images are rounded by up to a pixel."""
    width, height = size
    return abs(width * lens.height - height * lens.width) <= max(width, height, lens.width, lens.height)
