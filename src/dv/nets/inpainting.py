"""Inpainting: fills what no source view has seen, from its surroundings in the grid."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from dv.nets.coordinates import grid_coordinates
from dv.nets.unet import UNet3d


class Inpainting(nn.Module):
    """3D U-Net of two levels over the grid and its coordinates, ``[1, F, G, G, G]`` → the same shape."""

    coordinates: Tensor

    def __init__(self, grid_side: int, features: int) -> None:
        super().__init__()
        self.unet = UNet3d(features + 3, features, base=features, most=4 * features, levels=2)
        self.register_buffer("coordinates", grid_coordinates(grid_side), persistent=False)

    def forward(self, grid: Tensor) -> Tensor:
        """Inpaint a grid."""
        return cast(Tensor, self.unet(grid, self.coordinates))
