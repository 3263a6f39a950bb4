"""Patch discriminator of the adversarial loss."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from dv.nets.blocks import Layers, leaky_relu
from dv.ops.convolution.layers import Conv2d
from dv.ops.norm import ViewNorm2d

MIN_IMAGE_SIDE = 24  # px; below it the last norm's feature map would have less than two pixels along an edge


class Discriminator(nn.Module):
    """PatchGAN discriminator: the probability that an image is real, for each of many overlapping patches.

    Args:
        base_channels: channels of the first layer.
        dropout: probability with which a channel is dropped.
    """

    def __init__(self, base_channels: int = 28, dropout: float = 0.5) -> None:
        super().__init__()
        channels = [base_channels * 2**i for i in range(4)]
        layers: list[nn.Module] = [self._conv(3, channels[0], 2), leaky_relu()]
        for previous, current, stride in zip(channels, channels[1:], (2, 2, 1), strict=False):
            layers += [
                self._conv(previous, current, stride),
                ViewNorm2d(current),
                leaky_relu(),
                nn.Dropout2d(dropout),
            ]
        self.layers = Layers(*layers, self._conv(channels[-1], 1, 1), nn.Sigmoid())

    @staticmethod
    def _conv(in_channels: int, out_channels: int, stride: int) -> Conv2d:
        return Conv2d(in_channels, out_channels, 4, stride=stride, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[N, 3, H, W]`` in [-0.5, 0.5] to probabilities ``[N, 1, h, w]``."""
        return cast(Tensor, self.layers(image))
