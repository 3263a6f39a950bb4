"""What cameras show, as rectangles of the plane z = 1 of their axes; NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A rectangle of the plane z = 1 in camera axes: ``left < x < right``, ``top < y < bottom``."""

    left: float
    right: float
    top: float
    bottom: float

    def __and__(self, other: Window) -> Window:
        return Window(
            max(self.left, other.left),
            min(self.right, other.right),
            max(self.top, other.top),
            min(self.bottom, other.bottom),
        )

    @property
    def width(self) -> float:
        """Extent along x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent along y."""
        return self.bottom - self.top

    def square(self, side: float, center: tuple[float, float]) -> Window:
        """Return the square of ``side`` inside this window whose centre is nearest to ``center``."""
        x = min(max(center[0], self.left + side / 2), self.right - side / 2)
        y = min(max(center[1], self.top + side / 2), self.bottom - side / 2)
        return Window(x - side / 2, x + side / 2, y - side / 2, y + side / 2)


Windows = Window | Sequence[Window]  # of all views, or one per view


def edges(window: Windows) -> Array:
    """Return left, right, top and bottom ``[4]``, or ``[4, V]`` of one window per view."""
    if isinstance(window, Window):
        return np.array([window.left, window.right, window.top, window.bottom])
    return np.array([[w.left, w.right, w.top, w.bottom] for w in window]).T


def in_window(points: Array, window: Windows) -> NDArray[np.bool_]:
    """Return which camera-frame points are in front of the camera and inside its window.

    Args:
        points: ``[..., 3]``, or ``[V, N, 3]`` for one window per view.
        window: field of view.

    Returns:
        ``[...]`` or ``[V, N]``.
    """
    left, right, top, bottom = edges(window)[..., None]
    z = points[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = points[..., 0] / z, points[..., 1] / z
    return np.asarray((z > 0) & (x > left) & (x < right) & (y > top) & (y < bottom))
