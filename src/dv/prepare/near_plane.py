"""Where the near plane is: before the grid, and before everything that was reconstructed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dv.geometry.camera import to_camera

Array = NDArray[np.float64]
NEAR_SHARE = 0.8  # of the camera z of the nearest points is free of anything


def near_plane(poses: Array, origin: Array, scale: float, reach: float | None = None) -> float:
    """Choose the near plane for a grid.

    It is in front of the grid's corners in the nearest view, unless the far end of the frustum, two sides behind it,
    would then cut the content in the farthest view.

    Args:
        poses: ``[V, 4, 4]``.
        origin: centre ``[3]`` of the grid.
        scale: side of the grid.
        reach: radius of the content around ``origin``; half the side by default.

    Returns:
        Camera z in world units.
    """
    reach = scale / 2 if reach is None else reach
    depths = to_camera(poses, origin[None])[:, 0, 2]
    depths = depths[depths > 0] if (depths > 0).any() else depths  # others look away
    near = max(depths.min() - math.sqrt(3) / 2 * scale, depths.max() + reach - 2 * scale)
    return float(max(min(near, depths.min() - reach), 0.01 * scale))


def nearest_depth(poses: Array, points: Array, shown: NDArray[np.bool_]) -> float:
    """Return the camera z that hardly any point is nearer than, in any view.

    Args:
        poses: ``[V, 4, 4]``.
        points: reconstructed points ``[N, 3]``, of which some are misplaced.
        shown: which of them each view shows ``[V, N]``.

    Returns:
        This depth in world units; 0 if no view shows any point.
    """
    depths = [to_camera(pose, points[mask])[:, 2] for pose, mask in zip(poses, shown, strict=True) if mask.any()]
    return float(np.quantile([np.quantile(z, 0.005) for z in depths], 0.05)) if depths else 0.0
