"""Which way is up, given only cameras."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def upright_box(points: Array, up: Array, trimmed: float = 0.0) -> Array:
    """Return the corners ``[8, 3]`` of a box around points that stands upright, turned to have the smallest base.

    Args:
        points: ``[N, 3]``.
        up: unit vector ``[3]``.
        trimmed: fraction of the points at either end of each of its axes that may be outside.
    """
    middle = points.mean(0)
    across = np.linalg.svd(up[None])[2][1:]
    local = points - middle
    _, _, degrees = cv2.minAreaRect((local @ across.T).astype(np.float32))
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    axes = np.stack([cosine * across[0] + sine * across[1], cosine * across[1] - sine * across[0], up])
    low, high = np.quantile(local @ axes.T, [trimmed, 1 - trimmed], axis=0)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(middle + corners @ axes)


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
