"""Feature extractor: source image to feature map."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from dv.nets.blocks import Down2d
from dv.nets.unet import UNet2d


class FeatureExtractor(nn.Module):
    """``[N, 3, S, S]`` → ``[N, F, P, P]``: log2(S/P) halvings 3→n→2n→…, then a 2D U-Net over log2 P levels."""

    def __init__(self, image_side: int, feature_side: int, features: int, base_channels: int) -> None:
        super().__init__()
        halvings = int(math.log2(image_side // feature_side))
        widths = [3] + [base_channels * 2**i for i in range(halvings)]
        self.downs = nn.Sequential(
            *(Down2d(a, b, middle=b if i == 0 else a) for i, (a, b) in enumerate(pairwise(widths)))
        )
        self.unet = UNet2d(
            widths[-1],
            features,
            base=widths[-1] if halvings else base_channels,
            most=8 * base_channels,
            levels=int(math.log2(feature_side)),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Feature map of an image in [-0.5, 0.5]."""
        return cast(Tensor, self.unet(self.downs(image)))
