"""From the frustum of a target view to its image features, with the occlusion network or without it (ablation)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dv.nets.blocks import Layers, depth_coordinates
from dv.nets.unet import UNet3d
from dv.ops.convolution.layers import Conv2d
from dv.ops.frustum import FrustumConv, PaddedFrustum
from dv.ops.norm import ViewNorm2d, ViewNorm3d
from dv.ops.padding import replication_pad


class FlattenOutput(NamedTuple):
    """Image features of N target views and, with the occlusion network, visibility and depth map.

    Args:
        features: ``[N, F, P, P]``.
        visibility: w_k ``[N, 1, D, P, P]``, which sums to 1 over depth.
        depth_map: Σ d_k·w_k ``[N, 1, P, P]`` with depth coordinates d_k in [-1/2, 1/2).
    """

    features: Tensor
    visibility: Tensor | None
    depth_map: Tensor | None


class OcclusionNet(nn.Module):
    """Predict the visibility of every frustum sample along its ray and average features by it (paper, section 3.3).

    Args:
        feature_side: P, side of the feature map in pixels.
        depth: D, samples along a ray.
        features: F, features per sample.
    """

    depth: Tensor

    def __init__(self, feature_side: int, depth: int, features: int) -> None:
        super().__init__()
        levels = min(int(math.log2(depth)), int(math.log2(feature_side)))
        self.prep = nn.Sequential(FrustumConv(features, 4, depth_last=False), ViewNorm3d(4), nn.ReLU(inplace=True))
        self.unet = UNet3d(4, 4, base_channels=4, max_channels=16, levels=levels)
        self.visibility = FrustumConv(8, 1, depth_last=True, bias=True)
        self.register_buffer("depth", depth_coordinates(depth), persistent=False)

    def forward(self, frustums: Iterable[Tensor]) -> FlattenOutput:
        """Flatten frustums along depth.

        Args:
            frustums: N of ``[1, F, D, P+2, P+2]``, padded by replication along rows and columns.
        """
        convolution, *rest = self.prep
        views, convolved = [], []
        for padded in frustums:  # convolved as they are resampled, so the backward pass holds one gradient at a time
            views.append(PaddedFrustum(padded))
            convolved.append(convolution(views[-1].convolved, self.depth))
        prepared = torch.cat(convolved)
        for layer in rest:
            prepared = layer(prepared)
        inputs = replication_pad(prepared, self.unet(prepared), depth=False)
        visibility = torch.softmax(self.visibility(inputs, self.depth), 2)
        depth_map = (self.depth[:, None, None] * visibility).sum(2)
        # A mean over depth, not a sum: the renderer's first norm cancels the factor, but checkpoints depend on it.
        weights = torch.split(visibility / len(self.depth), 1)
        features = torch.cat([view.weighted_sum(w) for view, w in zip(views, weights, strict=True)])
        return FlattenOutput(features, visibility, depth_map)


class DepthCollapse(nn.Module):
    """Ablation without occlusion network: fold depth into channels and reduce them by three 2D convolutions.

    Args:
        depth: D, samples along a ray.
        features: F, features per sample.
        grid_side: G, voxels along an edge of the grid.
        base_channels: n, which scales the channels between the convolutions.
    """

    def __init__(self, depth: int, features: int, grid_side: int, base_channels: int) -> None:
        super().__init__()
        channels = [features * depth, base_channels * grid_side // 2, base_channels * grid_side // 8, features]
        layers: list[nn.Module] = []
        for a, b in pairwise(channels):
            layers += [Conv2d(a, b, 3), ViewNorm2d(b), nn.ReLU(inplace=True)]
        self.layers = Layers(*layers)

    def forward(self, frustums: Iterable[Tensor]) -> FlattenOutput:
        """Flatten N frustums ``[1, F, D, P, P]`` along depth."""
        return FlattenOutput(self.layers(torch.cat([frustum.flatten(1, 2) for frustum in frustums])), None, None)
