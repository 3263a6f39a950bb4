"""Coordinate channels that tell a convolution over the grid where it is."""

from __future__ import annotations

import torch
from torch import Tensor


def grid_coordinates(side: int) -> Tensor:
    """Channels c = (index - G/2)/G ``[1, 3, G, G, G]`` along the three tensor axes, in the order z, y, x."""
    c = (torch.arange(side) - side / 2) / side
    return torch.stack(torch.meshgrid(c, c, c, indexing="ij"))[None]


def depth_coordinates(depth: int) -> Tensor:
    """Depth coordinates d_k = (k - D/2)/D of the frustum, ``[D]``."""
    return (torch.arange(depth) - depth / 2) / depth
