"""Vignetting: how much darker a camera's images are away from their middle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics, pixel_grid

TERMS = 2  # r² and r⁴


class Vignetting(nn.Module):
    """Per camera, a polynomial of the distance from the principal point, whose mean over the image is about 0.

    Args:
        cameras: number of cameras.
    """

    frames: Tensor

    def __init__(self, cameras: int) -> None:
        super().__init__()
        self.terms = nn.Parameter(torch.zeros(cameras, TERMS))
        self.register_buffer("frames", torch.zeros(cameras, 6))  # see _frame

    def set_cameras(self, cameras: Sequence[Intrinsics]) -> None:
        """Set the cameras, in the order in which :meth:`forward` numbers them."""
        self.frames.copy_(torch.tensor([_frame(k) for k in cameras]))

    def forward(self, camera: Tensor, pixels: Tensor) -> Tensor:
        """Return logarithmic gains ``[P, 1]`` of pixels, which multiply sRGB values.

        Args:
            camera: number of each pixel's camera, ``[P]``.
            pixels: column and row, ``[P, 2]``.
        """
        frame = self.frames[camera]
        return _log_gain(self.terms[camera], (pixels - frame[:, :2]) / frame[:, 2:3])

    def image(self, intrinsics: Intrinsics) -> Tensor:
        """Return the logarithmic gains ``[H · W, 1]`` of an image, row by row, by those of the most similar camera."""
        cx, cy, half_diagonal, *shape = _frame(intrinsics)
        camera = (self.frames[:, 3:] - self.frames.new_tensor(shape)).abs().sum(1).argmin()
        pixels = pixel_grid(intrinsics.width, intrinsics.height, self.frames.device).to(self.frames.dtype)
        return _log_gain(self.terms[camera], (pixels - pixels.new_tensor([cx, cy])) / half_diagonal)


def _frame(k: Intrinsics) -> tuple[float, ...]:
    """Principal point and half the diagonal in px, and what tells cameras apart at any resolution of their images."""
    fx, fy, cx, cy = k.numbers()
    half_diagonal = (k.width**2 + k.height**2) ** 0.5 / 2
    return cx, cy, half_diagonal, fx / half_diagonal, fy / half_diagonal, k.width / k.height


def _log_gain(terms: Tensor, offsets: Tensor) -> Tensor:
    squared = offsets.square().sum(-1, keepdim=True)
    powers = torch.cat([squared - 1 / 3, squared.square() - 0.2], -1)  # roughly their means over an image
    return (terms * powers).sum(-1, keepdim=True)
