"""Pinhole intrinsics of square images and the tests a camera pose must pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.geometry.conversions import denormalize_points_with_intrinsics
from torch import Tensor


@dataclass(frozen=True)
class Intrinsics:
    """Focal length and principal point in pixels of a square image of ``side`` pixels.

    Pixel (col, row) has its centre at image coordinate (col + pixel_center, row + pixel_center), at every side. With 0
    (the reference's convention) the images of two sides are a part of a pixel apart; 0.5 is consistent.
    """

    f: float
    cx: float
    cy: float
    side: float
    pixel_center: float = 0.0

    def at_side(self, side: int) -> Intrinsics:
        """The same camera for the image resized to ``side`` pixels: f, cx, cy scale with the image."""
        k = side / self.side
        return Intrinsics(self.f * k, self.cx * k, self.cy * k, side, self.pixel_center)

    def matrix(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """Camera matrix K ``[1, 3, 3]`` from camera axes to pixel indices (col, row)."""
        cx, cy = self.cx - self.pixel_center, self.cy - self.pixel_center
        return torch.tensor([[[self.f, 0, cx], [0, self.f, cy], [0, 0, 1]]], dtype=dtype, device=device)


def project(points: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Pixels ``[N, 2]`` (col, row) of camera-frame points ``[N, 3]``; not finite where z is 0."""
    matrix = intrinsics.matrix(points.dtype, points.device)
    pixels: Tensor = denormalize_points_with_intrinsics(points[:, :2] / points[:, 2:], matrix)
    return pixels


def square_crop(f: float, cx: float, cy: float, height: int, width: int, pixel_center: float = 0.0) -> Intrinsics:
    """Intrinsics of the central square of an image of ``height × width`` px: the crop moves cx and cy."""
    side = min(height, width)
    return Intrinsics(f, cx - (width - side) // 2, cy - (height - side) // 2, side, pixel_center)


def rigid_defect(pose: Tensor, tolerance: float = 1e-3) -> str | None:
    """What keeps ``pose`` from being a rigid camera-to-world transform, in words, or None if nothing does."""
    if tuple(pose.shape) != (4, 4):
        return f"is {'×'.join(map(str, pose.shape))}, not 4×4"
    if not torch.isfinite(pose).all():
        return "has a value that is not finite"
    if (pose[3] - pose.new_tensor([0, 0, 0, 1])).abs().max() > tolerance:
        return "is not a rigid transform: its last row is not 0 0 0 1"
    rotation = pose[:3, :3]
    if (rotation @ rotation.T - torch.eye(3, dtype=pose.dtype)).abs().max() > tolerance:
        return "is not a rigid transform: its 3×3 part is not a rotation (columns not orthonormal)"
    if torch.linalg.det(rotation) < 0:
        return "is not a rigid transform: its 3×3 part mirrors (determinant -1)"
    return None


def axis_cosines(poses: Tensor, others: Tensor) -> Tensor:
    """Cosines ``[N, M]`` between the optical axes of poses ``[N, 4, 4]`` and ``[M, 4, 4]``."""
    return poses[:, :3, 2] @ others[:, :3, 2].T
