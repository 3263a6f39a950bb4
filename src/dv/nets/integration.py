"""Integration: a convolutional GRU that takes lifted features into the persistent voxel grid (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        reset_old, update_old = _together(old, self.reset_old, self.update_old)
        reset_new, update_new, candidate_new = _together(new, self.reset_new, self.update_new, self.candidate_new)
        reset = torch.sigmoid(reset_old + reset_new)
        update = torch.sigmoid(update_old + update_new)
        candidate = torch.relu(self.dropout(candidate_new) + self.dropout(self.candidate_old(reset * old)))
        return Integrated((1 - update) * grid + update * candidate, update, reset)


def _together(x: Tensor, *convolutions: nn.Conv3d) -> tuple[Tensor, ...]:
    """The outputs of several "same" 3³ convolutions of one input, as one convolution: one-channel ones are slow."""
    zero = x.new_zeros(1)
    weight = torch.cat([c.weight for c in convolutions])
    bias = torch.cat([zero.expand(c.out_channels) if c.bias is None else c.bias for c in convolutions])
    padded = functional.pad(x, (1,) * 6, mode="replicate")
    outputs = functional.conv3d(padded, weight, bias)
    return torch.split(outputs, [c.out_channels for c in convolutions], 1)
