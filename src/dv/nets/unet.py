"""U-Nets in 2D and 3D; every level concatenates its input with the output of the level below."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dv.nets.blocks import (
    Down2d,
    Down3d,
    Layers,
    Up2d,
    Up3d,
    dropout2d,
    leaky_relu,
)
from dv.ops.convolution.layers import Conv2d, Conv3d
from dv.ops.norm import ViewNorm2d, ViewNorm3d


class UNet(nn.Module):
    """First layer, L downsampling blocks, L upsampling blocks with skip connections, last layer.

    The innermost level has no norm.
    """

    in_layer: Layers
    out_layer: Layers
    downs: nn.ModuleList
    ups: nn.ModuleList

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map ``[N, in_channels, *size]``, in one or several parts, to ``[N, out_channels, *size]``.

        2^L must divide every side.
        """
        x = self.in_layer(*inputs)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        first, *others = reversed(self.ups)
        x = first(x)
        for up in others:
            x = up(torch.cat([skips.pop(), x], 1))
        result: Tensor = self.out_layer(skips.pop(), x)
        return result


def _channels(base_channels: int, max_channels: int, levels: int) -> list[int]:
    """Channels before each of the L levels and after the last; they double, up to a limit, at all but the innermost."""
    channels = [min(2**i * base_channels, max_channels) for i in range(levels)]
    return [*channels, channels[-1]]


class UNet2d(UNet):
    """2D U-Net.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        base_channels: channels of the first level.
        max_channels: limit to the channels of all levels.
        levels: L, number of downsampling blocks.
        dropout: probability with which a channel is dropped; None for no dropout layers.
        linear_output: whether to omit the last norm and ReLU; the last convolution then has a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int,
        max_channels: int,
        levels: int,
        dropout: float | None = None,
        linear_output: bool = False,
    ) -> None:
        super().__init__()
        c = _channels(base_channels, max_channels, levels)
        self.in_layer = Layers(Conv2d(in_channels, c[0], 3), ViewNorm2d(c[0]), leaky_relu(), *dropout2d(dropout))
        inner = levels - 1
        self.downs = nn.ModuleList(Down2d(c[i], c[i + 1], dropout=dropout, norm=i < inner) for i in range(levels))
        self.ups = nn.ModuleList(
            Up2d(c[i + 1] * (2 if i < inner else 1), c[i], dropout=dropout, norm=i < inner) for i in range(levels)
        )
        self.out_layer = (
            Layers(Conv2d(2 * c[0], out_channels, 3, bias=True))
            if linear_output
            else Layers(
                Conv2d(2 * c[0], out_channels, 3),
                ViewNorm2d(out_channels),
                nn.ReLU(inplace=True),
                *dropout2d(dropout),
            )
        )


class UNet3d(UNet):
    """3D U-Net.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        base_channels: channels of the first level.
        max_channels: limit to the channels of all levels.
        levels: L, number of downsampling blocks.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, base_channels: int, max_channels: int, levels: int
    ) -> None:
        super().__init__()
        c = _channels(base_channels, max_channels, levels)
        inner = levels - 1
        self.in_layer = Layers(Conv3d(in_channels, c[0]), ViewNorm3d(c[0]), leaky_relu())
        self.downs = nn.ModuleList(Down3d(c[i], c[i + 1], norm=i < inner) for i in range(levels))
        self.ups = nn.ModuleList(Up3d(c[i + 1] * (2 if i < inner else 1), c[i], norm=i < inner) for i in range(levels))
        self.out_layer = Layers(Conv3d(2 * c[0], out_channels), ViewNorm3d(out_channels), nn.ReLU(inplace=True))
