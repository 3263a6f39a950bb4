"""Inpainting: fills in the voxels that no source view has seen from those around them."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from dv.nets.blocks import grid_coordinates
from dv.nets.unet import UNet3d


class Inpainting(nn.Module):
    """3D U-Net of two levels over the grid's features and coordinates.

    Args:
        grid_side: G, voxels along an edge.
        features: F, features per voxel.
    """

    coordinates: Tensor

    def __init__(self, grid_side: int, features: int) -> None:
        super().__init__()
        self.unet = UNet3d(features + 3, features, base_channels=features, max_channels=4 * features, levels=2)
        self.register_buffer("coordinates", grid_coordinates(grid_side), persistent=False)

    def forward(self, grid: Tensor) -> Tensor:
        """Inpaint a grid ``[1, F, G, G, G]``."""
        return cast(Tensor, self.unet(grid, self.coordinates))
