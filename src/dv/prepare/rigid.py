"""Poses as rigid transforms: rounded and scaled rotations, inverses, and the axes of OpenGL."""

from __future__ import annotations

import numpy as np
import torch

from dv.errors import UserError
from dv.geometry.camera import rigid_defect
from dv.prepare.placement import Array

MAX_ROUNDING = 1e-3  # of the length of a rotation's columns


class RigidPoses:
    """Makes the poses of one input rigid, and remembers what it had to change.

    Modelling programs scale camera objects, and with them the 3×3 part of their matrices; the position is right.
    """

    def __init__(self) -> None:
        self._scales: list[Array] = []

    def rigid(self, pose: Array) -> Array:
        """Return ``pose`` ``[4, 4]`` with columns of length 1, and the nearest rotation (SVD) if they are rounded.

        Raises:
            UserError: if the pose is not rigid otherwise; the message does not name the file.
        """
        if pose.shape == (4, 4) and np.isfinite(pose).all() and pose[3, 3] > 0 and not pose[3, :3].any():
            pose = pose / pose[3, 3]  # homogeneous coordinates
            lengths = np.linalg.norm(pose[:3, :3], axis=0)
            if lengths.min() > 0 and np.abs(lengths - 1).max() > MAX_ROUNDING:
                scaled = pose / np.array([*lengths, 1.0])
                if rigid_defect(torch.from_numpy(scaled)) is None:
                    self._scales.append(lengths)
                    pose = scaled
        return nearest_rigid(pose)

    def notes(self) -> list[str]:
        """Return a sentence on the scales that were divided out, if there were any."""
        if not self._scales:
            return []
        low, high = np.min(self._scales), np.max(self._scales)
        by = f"{low:.4g}" if high - low < MAX_ROUNDING * high else f"{low:.4g} to {high:.4g}"
        return [f"the rotations of {len(self._scales)} poses are scaled by {by}, which is divided out; camera objects "
                "that are scaled in a modelling program have such poses"]  # fmt: skip


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


def inverse_rigid(transform: Array) -> Array:
    """Invert rigid transforms ``[..., 4, 4]``: poses from world-to-camera and back."""
    inverse = np.zeros_like(transform)
    rotation = np.swapaxes(transform[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, transform[..., :3, 3])
    inverse[..., 3, 3] = 1
    return inverse


def flip_axes(pose: Array) -> Array:
    """Convert poses ``[..., 4, 4]`` between OpenGL camera axes (x right, y up, z backwards) and OpenCV axes."""
    return np.asarray(pose * np.array([1.0, -1.0, -1.0, 1.0]))
