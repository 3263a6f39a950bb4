"""ViewDecoder: the view-dependent part of a ray's colour, by a small network."""

from __future__ import annotations

from torch import Tensor, nn


class ViewDecoder(nn.Module):
    """MLP from a ray's composited features and viewing direction to a colour that is added to the ray's.

    As in deferred shading it is applied after compositing, once per ray rather than once per sample. Its output is zero
    at initialisation.

    Args:
        features: F, composited features of a ray.
        direction_channels: D, values that encode a viewing direction.
        width: channels of the two hidden layers.
    """

    def __init__(self, features: int, direction_channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features + direction_channels, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 3),
        )  # fmt: skip
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, opacity: Tensor) -> Tensor:
        """Decode the view-dependent colours of rays.

        Args:
            inputs: composited features and encoded viewing directions ``[R, F + D]``.
            opacity: opacities of the rays ``[R]``, by which the colours are multiplied.

        Returns:
            RGB to be added to the rays' colours ``[R, 3]``.
        """
        colors: Tensor = self.layers(inputs)
        return colors * opacity[:, None]
