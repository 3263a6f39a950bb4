"""From the frustum of a target view to its image features: by visibility, or by the paper's ablation without it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dv.nets.blocks import Layers
from dv.nets.coordinates import depth_coordinates
from dv.nets.unet import UNet3d
from dv.ops.convolution import Conv2d
from dv.ops.frustum import FrustumConv, Rays
from dv.ops.norm import ViewNorm2d, ViewNorm3d
from dv.ops.padding import replicate


class Flattened(NamedTuple):
    """Image features ``[N, F, P, P]`` and, where occlusion is modelled, visibility and depth map.

    visibility ``[N, 1, D, P, P]`` sums to 1 over depth; depth_map ``[N, 1, P, P]`` = Σ d_k·w_k with d in [-1/2, 1/2).
    """

    features: Tensor
    visibility: Tensor | None
    depth_map: Tensor | None


class OcclusionNet(nn.Module):
    """Soft visibility of every frustum sample along its ray, and the features it lets through (section 3.3)."""

    depth: Tensor

    def __init__(self, feature_side: int, depth: int, features: int) -> None:
        super().__init__()
        levels = min(int(math.log2(depth)), int(math.log2(feature_side)))
        self.prep = nn.Sequential(FrustumConv(features, 4, depth_last=False), ViewNorm3d(4), nn.ReLU(inplace=True))
        self.unet = UNet3d(4, 4, base=4, most=16, levels=levels)
        self.visibility = FrustumConv(8, 1, depth_last=True, bias=True)
        self.register_buffer("depth", depth_coordinates(depth), persistent=False)

    def forward(self, frustums: Iterable[Tensor]) -> Flattened:
        """Flatten N frustums ``[1, F, D, P+2, P+2]``, whose outermost rays are there twice, along depth."""
        convolution, *rest = self.prep
        views, convolved = [], []
        for rimmed in frustums:  # each is convolved once made: the backward pass then needs one gradient at a time
            views.append(Rays(rimmed))
            convolved.append(convolution(views[-1].frustum, self.depth))
        prepared = torch.cat(convolved)
        for layer in rest:
            prepared = layer(prepared)
        seen = replicate(prepared, self.unet(prepared), depth=False)
        visibility = torch.softmax(self.visibility(seen, self.depth), 2)
        depth_map = (self.depth[:, None, None] * visibility).sum(2)
        # A mean over depth, not a sum: the renderer's first norm makes the factor irrelevant, checkpoints do not.
        weights = torch.split(visibility / len(self.depth), 1)
        features = torch.cat([rays.sum(w) for rays, w in zip(views, weights, strict=True)])
        return Flattened(features, visibility, depth_map)


class DepthCollapse(nn.Module):
    """The ablation "no occlusion": depth folded into channels and collapsed by three 2D convolutions."""

    def __init__(self, depth: int, features: int, grid_side: int, base_channels: int) -> None:
        super().__init__()
        widths = [features * depth, base_channels * grid_side // 2, base_channels * grid_side // 8, features]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [Conv2d(a, b, 3), ViewNorm2d(b), nn.ReLU(inplace=True)]
        self.layers = Layers(*layers)

    def forward(self, frustums: Iterable[Tensor]) -> Flattened:
        """Flatten N frustums ``[1, F, D, P, P]`` along depth."""
        return Flattened(self.layers(torch.cat([frustum.flatten(1, 2) for frustum in frustums])), None, None)
