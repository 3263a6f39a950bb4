"""Which views a split has: held-out views, thinning, and pose noise as in the paper's studies of robustness."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def hold_out(count: int, splits: Sequence[str], *, at_least_one: bool = False) -> dict[str, list[int]]:
    """Hold out every tenth of ``count`` training views for each of ``splits``.

    The first split gets views 4, 14, …, the second 9, 19, …

    Args:
        count: number of views.
        splits: at most two splits other than ``train``.
        at_least_one: whether to take the middle view and the last view if there are fewer than ten.

    Returns:
        Indices of the views by split: ``train`` with the remaining views, then ``splits``. Lists may be empty.
    """
    held_out = {split: list(range(5 * i + 4, count, 10)) for i, split in enumerate(splits)}
    if at_least_one and count < 10:
        held_out = dict(zip(splits, ([count // 2], [count - 1]), strict=False))
    used = {i for indices in held_out.values() for i in indices}
    return {"train": [i for i in range(count) if i not in used], **held_out}


def thin(
    poses: Array, *, every: int = 1, random: int | None = None, farthest: int | None = None, seed: int = 0
) -> list[int]:
    """Select some of the views.

    Args:
        poses: ``[V, 4, 4]``.
        every: keep every such view, beginning with the first.
        random: then keep at most this many at random.
        farthest: then keep at most this many that are far apart.
        seed: of the random selection.

    Returns:
        Ascending indices.
    """
    kept = list(range(0, len(poses), every))
    if random:
        kept = [kept[i] for i in random_views(len(kept), random, seed)]
    if farthest:
        kept = [kept[i] for i in farthest_views(poses[kept], farthest)]
    return kept


def random_views(count: int, n: int, seed: int) -> list[int]:
    """Draw ``n`` of ``count`` views without replacement; a draw of n does not contain the draw of n - 1.

    Returns:
        Ascending indices, all if ``n`` exceeds ``count``.
    """
    return sorted(np.random.default_rng(seed).choice(count, min(n, count), replace=False).tolist())


def farthest_views(poses: Array, n: int) -> list[int]:
    """Select ``n`` of the poses ``[V, 4, 4]`` whose cameras are far apart.

    Farthest-point sampling of the camera centres, beginning with the first: each further view is the one with the
    largest distance to the nearest selected view, which covers the poses within twice the best possible distance
    (Gonzalez 1985).

    Returns:
        Ascending indices, all if ``n`` exceeds V.
    """
    centers = poses[:, :3, 3]
    chosen = [0]
    distance = np.linalg.norm(centers - centers[0], axis=1)
    while len(chosen) < min(n, len(poses)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(centers - centers[chosen[-1]], axis=1))
    return sorted(chosen)


def perturb(poses: Array, angle: float, distance: float, seed: int) -> Array:
    """Add noise of a fixed size to poses.

    Args:
        poses: ``[V, 4, 4]`` camera-to-world.
        angle: degrees by which each camera is rotated about a random axis through its centre.
        distance: world units by which each camera is moved in a random direction.
        seed: of the axes and directions.

    Returns:
        The noisy poses ``[V, 4, 4]``; ``poses`` itself if there is no noise.
    """
    if not angle and not distance:
        return poses
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2, len(poses), 3))
    axes, shifts = directions / np.linalg.norm(directions, axis=2, keepdims=True)
    noisy = poses.copy()
    for pose, axis, shift in zip(noisy, axes, shifts, strict=True):
        pose[:3, :3] = cv2.Rodrigues(np.radians(angle) * axis)[0] @ pose[:3, :3]
        pose[:3, 3] += distance * shift
    return noisy
