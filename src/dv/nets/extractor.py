"""Feature extractor: from a source image to its feature map."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from dv.nets.blocks import Down2d
from dv.nets.unet import UNet2d


class FeatureExtractor(nn.Module):
    """log2(S/P) downsampling blocks of 3→n→2n→… channels, then a 2D U-Net of log2 P levels.

    Args:
        image_side: S, side of the image in pixels.
        feature_side: P, side of the feature map in pixels.
        features: F, channels of the feature map.
        base_channels: n, channels after the first block.
    """

    def __init__(self, image_side: int, feature_side: int, features: int, base_channels: int) -> None:
        super().__init__()
        halvings = int(math.log2(image_side // feature_side))
        channels = [3] + [base_channels * 2**i for i in range(halvings)]
        self.downs = nn.Sequential(
            *(Down2d(a, b, middle_channels=b if i == 0 else a) for i, (a, b) in enumerate(pairwise(channels)))
        )
        self.unet = UNet2d(
            channels[-1],
            features,
            base_channels=channels[-1] if halvings else base_channels,
            max_channels=8 * base_channels,
            levels=int(math.log2(feature_side)),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[N, 3, S, S]`` in [-0.5, 0.5] to feature maps ``[N, F, P, P]``."""
        return cast(Tensor, self.unet(self.downs(image)))
