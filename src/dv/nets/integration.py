"""Integration: a convolutional GRU that fuses lifted features into the persistent voxel grid (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dv.nets.blocks import grid_coordinates
from dv.ops.convolution.layers import Conv3d, conv3d
from dv.ops.padding import replication_pad


class IntegrationOutput(NamedTuple):
    """Result of an integration step.

    Args:
        grid: the new state ``[1, F, G, G, G]``.
        update: update gate in [0, 1], ``[1, 1, G, G, G]``; 1 replaces the old state by the candidate.
        reset: reset gate in [0, 1], ``[1, 1, G, G, G]``; 0 hides the old state from the candidate.
    """

    grid: Tensor
    update: Tensor
    reset: Tensor


class Integration(nn.Module):
    """Gated recurrent update of the grid: gates of one channel, a candidate of F channels, all by 3³ convolutions.

    Args:
        grid_side: G, voxels along an edge.
        features: F, features per voxel.
        dropout: probability with which a channel of the candidate's convolutions is dropped.
    """

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

    def forward(self, grid: Tensor, lifted: Tensor) -> IntegrationOutput:
        """Integrate a source view.

        Args:
            grid: old state ``[1, F, G, G, G]``.
            lifted: lifted features of the view ``[1, F, G, G, G]``.
        """
        reset_old, update_old = _convolve_together(
            replication_pad(grid, self.coordinates), self.reset_old, self.update_old
        )
        reset_new, update_new, candidate_new = _convolve_together(
            replication_pad(lifted, self.coordinates), self.reset_new, self.update_new, self.candidate_new
        )
        reset = torch.sigmoid(reset_old + reset_new)
        update = torch.sigmoid(update_old + update_new)
        candidate = torch.relu(
            self.dropout(candidate_new) + self.dropout(self.candidate_old(reset * grid, reset * self.coordinates))
        )
        return IntegrationOutput((1 - update) * grid + update * candidate, update, reset)


def _convolve_together(padded: Tensor, *convolutions: nn.Conv3d) -> tuple[Tensor, ...]:
    """Apply several convolutions to a padded input as a single one, since those with one output channel are slow."""
    zero = padded.new_zeros(1)
    weight = torch.cat([c.weight for c in convolutions])
    bias = torch.cat([zero.expand(c.out_channels) if c.bias is None else c.bias for c in convolutions])
    outputs = conv3d(padded, weight, bias)
    return torch.split(outputs, [c.out_channels for c in convolutions], 1)
