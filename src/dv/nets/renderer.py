"""Renderer: from the image features of a target view to its image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dv.nets.blocks import Layers, Up2d
from dv.nets.unet import UNet2d
from dv.ops.convolution.layers import Conv2d
from dv.ops.norm import ViewNorm2d


class Renderer(nn.Module):
    """2D U-Net of log2 P levels, then log2(S/P) upsampling blocks.

    Args:
        image_side: S, side of the image in pixels.
        feature_side: P, side of the feature map in pixels.
        features: F, channels of the feature map.
        base_channels: n, channels of the upsampling blocks.
        dropout: probability with which a channel is dropped.
    """

    def __init__(
        self, image_side: int, feature_side: int, features: int, base_channels: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        n, ratio = base_channels, image_side // feature_side
        doublings = int(math.log2(ratio))
        self.unet = UNet2d(
            features,
            4 * n if doublings else 3,
            base_channels=n * ratio,
            max_channels=8 * n,
            levels=int(math.log2(feature_side)),
            dropout=dropout,
            linear_output=not doublings,
        )
        self.ups = nn.Sequential(*(Up2d(4 * n if i == 0 else n, n, dropout=dropout) for i in range(doublings)))
        self.out_layer = (
            Layers(Conv2d(n, n // 2, 3), ViewNorm2d(n // 2), nn.ReLU(inplace=True), Conv2d(n // 2, 3, 3, bias=True))
            if doublings
            else nn.Sequential()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map image features ``[N, F, P, P]`` to images ``[N, 3, S, S]`` in [-0.5, 0.5]."""
        return torch.tanh(self.out_layer(self.ups(self.unet(features)))) * 0.5
