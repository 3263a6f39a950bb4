"""Patch discriminator of the adversarial loss."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from dv.nets.blocks import Layers, leaky_relu
from dv.ops.convolution import Conv2d
from dv.ops.norm import ViewNorm2d

SMALLEST_SIDE = 24  # px; below it the innermost feature map has fewer than the two pixels a side that norms need


class Discriminator(nn.Module):
    """``[N, 3, H, W]`` → probability of being real, ``[N, 1, h, w]``, one per overlapping patch."""

    def __init__(self, base_channels: int = 28, dropout: float = 0.5) -> None:
        super().__init__()
        widths = [base_channels * 2**i for i in range(4)]
        layers: list[nn.Module] = [self._conv(3, widths[0], 2), leaky_relu()]
        for a, b, stride in zip(widths, widths[1:], (2, 2, 1), strict=False):
            layers += [self._conv(a, b, stride), ViewNorm2d(b), leaky_relu(), nn.Dropout2d(dropout)]
        self.layers = Layers(*layers, self._conv(widths[-1], 1, 1), nn.Sigmoid())

    @staticmethod
    def _conv(a: int, b: int, stride: int) -> Conv2d:
        return Conv2d(a, b, 4, stride=stride, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        """Score an image in [-0.5, 0.5]."""
        return cast(Tensor, self.layers(image))
