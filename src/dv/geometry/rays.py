"""Viewing rays through pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from dv.geometry.camera import Intrinsics


def pixel_rays(poses: Tensor, pixels: Tensor, intrinsics: Intrinsics) -> tuple[Tensor, Tensor]:
    """Origins and directions ``[R, 3]`` in the world of rays through pixels, with camera z as the unit of length.

    Args:
        poses: camera-to-world ``[R, 4, 4]``.
        pixels: column and row ``[R, 2]`` of an image of ``intrinsics.side`` px; whole numbers are pixel centres.
        intrinsics: of all poses.
    """
    k = intrinsics
    column, row = pixels.to(poses.dtype).unbind(1)
    x, y = (column - (k.cx - k.pixel_center)) / k.f, (row - (k.cy - k.pixel_center)) / k.f
    axes = poses[:, :3, :3]
    return poses[:, :3, 3], axes[:, :, 0] * x[:, None] + axes[:, :, 1] * y[:, None] + axes[:, :, 2]


def within_pixel(count: int) -> Tensor:
    """Column and row ``[count², 2]``, px from a pixel's centre, of the centres of the count² squares in it."""
    return (all_pixels(count) + 0.5) / count - 0.5


def all_pixels(side: int, device: torch.device | str = "cpu") -> Tensor:
    """Column and row ``[side², 2]`` of every pixel, row by row."""
    row, column = torch.meshgrid(torch.arange(side, device=device), torch.arange(side, device=device), indexing="ij")
    return torch.stack([column, row], -1).view(-1, 2)
