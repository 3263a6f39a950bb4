"""Vignetting: how much darker a camera's images are away from their middle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics

TERMS = 2  # r² and r⁴


class Vignetting(nn.Module):
    """Per camera, a polynomial of the distance from the principal point, whose mean over the image is about 0.

    Args:
        cameras: intrinsics of the training views; equal ones share their polynomial.
    """

    camera_of_view: Tensor
    frames: Tensor

    def __init__(self, cameras: Sequence[Intrinsics]) -> None:
        super().__init__()
        distinct = list(dict.fromkeys(cameras))
        self.terms = nn.Parameter(torch.zeros(len(distinct), TERMS))
        numbers = [(k.numbers()[2], k.numbers()[3], (k.width**2 + k.height**2) ** 0.5 / 2) for k in distinct]
        self.register_buffer("camera_of_view", torch.tensor([distinct.index(k) for k in cameras]), persistent=False)
        self.register_buffer("frames", torch.tensor(numbers), persistent=False)  # cx, cy and half the diagonal, px

    def forward(self, view: Tensor, pixels: Tensor) -> Tensor:
        """Return logarithmic gains ``[P, 1]`` of pixels, which multiply sRGB values.

        Args:
            view: training view of each pixel, ``[P]``.
            pixels: column and row, ``[P, 2]``.
        """
        camera = self.camera_of_view[view]
        frame = self.frames[camera]
        squared = ((pixels - frame[:, :2]) / frame[:, 2:]).square().sum(1, keepdim=True)
        powers = torch.cat([squared - 1 / 3, squared.square() - 0.2], 1)  # roughly their means over an image
        return (self.terms[camera] * powers).sum(1, keepdim=True)
