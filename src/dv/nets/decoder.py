"""ViewDecoder: what a surface's look adds to its colour in a direction, by a small network once a ray."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ViewDecoder(nn.Module):
    """Colour ``[R, 3]`` added to that of rays, from their composited features and viewing directions.

    Applied after compositing, as deferred shading is: once a ray and not once a sample. It begins by adding nothing.

    Args:
        features: F, composited features of a ray.
        directions: D, values that describe a viewing direction.
        width: of the two hidden layers.
    """

    def __init__(self, features: int, directions: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features + directions, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, directions: Tensor, opacity: Tensor) -> Tensor:
        """Colours for features ``[R, F]``, directions ``[R, D]`` and opacities ``[R]``, which colours are times."""
        added: Tensor = self.layers(torch.cat([features, directions], 1))
        return added * opacity[:, None]
