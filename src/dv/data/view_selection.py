"""Fewer views and inexact poses, as in the paper's studies of robustness."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def every(count: int, k: int) -> list[int]:
    """Every ``k``-th of ``count`` views, from the first on."""
    return list(range(0, count, k))


def random_views(count: int, n: int, seed: int) -> list[int]:
    """``n`` of ``count`` views drawn without replacement, in order; the first m of a draw of n are not those of m."""
    return sorted(np.random.default_rng(seed).choice(count, min(n, count), replace=False).tolist())


def farthest_views(poses: Array, n: int) -> list[int]:
    """``n`` of the poses ``[V, 4, 4]``, in order, whose cameras stand far apart.

    Farthest-point sampling of camera centres from the first view on: each next view is the one whose nearest chosen
    view is farthest away (Gonzalez 1985), so it covers the poses within twice the best possible distance.
    """
    centers = poses[:, :3, 3]
    chosen = [0]
    distance = np.linalg.norm(centers - centers[0], axis=1)
    while len(chosen) < min(n, len(poses)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(centers - centers[chosen[-1]], axis=1))
    return sorted(chosen)


def perturb(poses: Array, angle: float, distance: float, seed: int) -> Array:
    """Poses ``[V, 4, 4]`` each turned by ``angle`` degrees about a random axis through the camera's centre and moved
    by ``distance`` world units in a random direction.
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, len(poses), 3))
    axes, shifts = directions / np.linalg.norm(directions, axis=2, keepdims=True)
    noisy = poses.copy()
    for pose, axis, shift in zip(noisy, axes, shifts, strict=True):
        pose[:3, :3] = cv2.Rodrigues(np.radians(angle) * axis)[0] @ pose[:3, :3]
        pose[:3, 3] += distance * shift
    return noisy
