"""Which way is up, given only cameras."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def up_direction(poses: Array, center: Array) -> tuple[Array, str]:
    """Estimate which way is up.

    Photographers hold cameras level: up is perpendicular to the horizontal axis of every image, which is x in landscape
    and y in portrait orientation. Candidates are the directions that are most perpendicular to either axis and the mean
    up direction of the images; the one that agrees with most cameras is taken. Its sign is that of the images' tops or,
    if these are level or contradictory, the side of ``center`` on which most cameras are.

    Args:
        poses: ``[V, 4, 4]``.
        center: point ``[3]`` that the cameras look at.

    Returns:
        The unit vector ``[3]``, and what it was derived from.
    """
    x, y = poses[:, :3, 0], poses[:, :3, 1]
    top = -y.mean(0)
    candidates = {
        "the horizontal axes of the images": np.linalg.eigh(x.T @ x)[1][:, 0],
        "the vertical axes of images taken in portrait orientation": np.linalg.eigh(y.T @ y)[1][:, 0],
        "the mean up direction of the images": top / max(float(np.linalg.norm(top)), 1e-9),
    }
    tilt = {why: float(np.minimum(np.abs(x @ u), np.abs(y @ u)).mean()) for why, u in candidates.items()}
    why = min(tilt, key=lambda key: tilt[key])
    up = candidates[why]
    agreement = float(up @ top)
    if abs(agreement) < 0.2:
        agreement = float(np.median((poses[:, :3, 3] - center) @ up))
    return up * (1 if agreement >= 0 else -1), why
