"""Integration: a convolutional GRU that takes lifted features into the persistent voxel grid (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dv.nets.blocks import same_conv3d
from dv.nets.coordinates import grid_coordinates


class Integrated(NamedTuple):
    """The new grid ``[1, F, G, G, G]`` and the gates ``[1, 1, G, G, G]`` that led to it."""

    grid: Tensor
    update: Tensor
    reset: Tensor


class Integration(nn.Module):
    """Gated recurrent update of the grid; one-channel gates, a candidate of F channels, all 3³ convolutions."""

    coordinates: Tensor

    def __init__(self, grid_side: int, features: int, dropout: float = 0.2) -> None:
        super().__init__()
        inputs = features + 3
        self.reset_old = same_conv3d(inputs, 1, bias=True)
        self.reset_new = same_conv3d(inputs, 1)
        self.update_old = same_conv3d(inputs, 1, bias=True)
        self.update_new = same_conv3d(inputs, 1)
        self.candidate_old = same_conv3d(inputs, features)
        self.candidate_new = same_conv3d(inputs, features, bias=True)
        self.dropout = nn.Dropout3d(dropout)
        self.register_buffer("coordinates", grid_coordinates(grid_side), persistent=False)

    def forward(self, grid: Tensor, lifted: Tensor) -> Integrated:
        """Integrate ``lifted`` ``[1, F, G, G, G]`` into the state ``grid`` of the same shape."""
        old = torch.cat([grid, self.coordinates], 1)
        new = torch.cat([lifted, self.coordinates], 1)
        reset = torch.sigmoid(self.reset_old(old) + self.reset_new(new))
        update = torch.sigmoid(self.update_old(old) + self.update_new(new))
        candidate = torch.relu(
            self.dropout(self.candidate_new(new)) + self.dropout(self.candidate_old(reset * old))
        )
        return Integrated((1 - update) * grid + update * candidate, update, reset)
