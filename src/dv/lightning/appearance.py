"""How photographs of the same thing differ: exposure and white balance of each view, vignetting of each camera."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics
from dv.lightning.pixel_pool import DrawnPixels
from dv.radiance import RayOutput

VIGNETTING_TERMS = 2  # r² and r⁴


class Appearance(nn.Module):
    """Factors between rendered colours and those of the training views.

    They multiply sRGB values, which is nearly a gain of linear light: a gain per view and channel, and per camera a
    polynomial of the distance from the principal point, whose mean over the image is about 1. Logarithmic gains average
    0 over the views, so that renderings have the mean exposure.

    Args:
        cameras: intrinsics of the training views; equal ones share their vignetting.
        vignetting: whether vignetting is learned.
    """

    camera_of_view: Tensor
    frames: Tensor

    def __init__(self, cameras: Sequence[Intrinsics], vignetting: bool) -> None:
        super().__init__()
        self.exposure = nn.Parameter(torch.zeros(len(cameras), 3))
        distinct = list(dict.fromkeys(cameras))
        self.vignetting = nn.Parameter(torch.zeros(len(distinct), VIGNETTING_TERMS)) if vignetting else None
        numbers = [(k.numbers()[2], k.numbers()[3], (k.width**2 + k.height**2) ** 0.5 / 2) for k in distinct]
        self.register_buffer("camera_of_view", torch.tensor([distinct.index(k) for k in cameras]), persistent=False)
        self.register_buffer("frames", torch.tensor(numbers), persistent=False)  # cx, cy and half the diagonal, px

    def factors(self, view: Tensor, pixels: Tensor) -> Tensor:
        """Return the factors ``[P, 3]`` of pixels.

        Args:
            view: training view of each pixel, ``[P]``.
            pixels: column and row, ``[P, 2]``.
        """
        gain = self.exposure[view]
        if self.vignetting is None:
            return gain.exp()
        camera = self.camera_of_view[view]
        frame = self.frames[camera]
        squared = ((pixels - frame[:, :2]) / frame[:, 2:]).square().sum(1, keepdim=True)
        powers = torch.cat([squared - 1 / 3, squared.square() - 0.2], 1)  # roughly their means over an image
        return (gain + (self.vignetting[camera] * powers).sum(1, keepdim=True)).exp()

    def apply_to(self, output: RayOutput, drawn: DrawnPixels, background: Tensor | None) -> Tensor:
        """Return rendered pixels ``[P, 3]``, about [-0.5, 0.5], as their views show them.

        Args:
            output: the rendered pixels.
            drawn: which pixels they are.
            background: a colour ``[3]`` that no camera took and that therefore stays the same; None: there is none.
        """
        change = self.factors(drawn.view, drawn.position) - 1
        taken = output.colors + 0.5
        if background is not None:
            taken = taken - output.transmittance[:, None] * (background + 0.5)
        return output.colors + taken * change

    @torch.no_grad()
    def center(self) -> None:
        """Let the logarithmic gains average 0: the mean exposure is the object's brightness."""
        self.exposure.copy_(self.exposure - self.exposure.mean(0))
