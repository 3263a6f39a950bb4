"""Integration: a convolutional GRU that takes lifted features into the persistent voxel grid (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dv.nets.coordinates import grid_coordinates
from dv.ops.convolution import Conv3d, convolve
from dv.ops.padding import replicate


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
        self.reset_old = Conv3d(inputs, 1, bias=True)
        self.reset_new = Conv3d(inputs, 1)
        self.update_old = Conv3d(inputs, 1, bias=True)
        self.update_new = Conv3d(inputs, 1)
        self.candidate_old = Conv3d(inputs, features)
        self.candidate_new = Conv3d(inputs, features, bias=True)
        self.dropout = nn.Dropout3d(dropout)
        self.register_buffer("coordinates", grid_coordinates(grid_side), persistent=False)

    def forward(self, grid: Tensor, lifted: Tensor) -> Integrated:
        """Integrate ``lifted`` ``[1, F, G, G, G]`` into the state ``grid`` of the same shape."""
        reset_old, update_old = _together(replicate(grid, self.coordinates), self.reset_old, self.update_old)
        reset_new, update_new, candidate_new = _together(
            replicate(lifted, self.coordinates), self.reset_new, self.update_new, self.candidate_new
        )
        reset = torch.sigmoid(reset_old + reset_new)
        update = torch.sigmoid(update_old + update_new)
        candidate = torch.relu(
            self.dropout(candidate_new) + self.dropout(self.candidate_old(reset * grid, reset * self.coordinates))
        )
        return Integrated((1 - update) * grid + update * candidate, update, reset)


def _together(padded: Tensor, *convolutions: nn.Conv3d) -> tuple[Tensor, ...]:
    """The outputs of several convolutions of one padded input, as one convolution: one-channel ones are slow."""
    zero = padded.new_zeros(1)
    weight = torch.cat([c.weight for c in convolutions])
    bias = torch.cat([zero.expand(c.out_channels) if c.bias is None else c.bias for c in convolutions])
    outputs = convolve(padded, weight, bias)
    return torch.split(outputs, [c.out_channels for c in convolutions], 1)
