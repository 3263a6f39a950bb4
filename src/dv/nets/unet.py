"""U-Nets in 2D and 3D; every level concatenates its input with what comes back up from below."""

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
from dv.ops.convolution import Conv2d, Conv3d
from dv.ops.norm import ViewNorm2d, ViewNorm3d


class UNet(nn.Module):
    """In layer, L halvings, L doublings with skip connections, out layer. The innermost level has no norm."""

    in_layer: Layers
    out_layer: Layers
    downs: nn.ModuleList
    ups: nn.ModuleList

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map ``[N, in, *size]``, in one or several parts, to ``[N, out, *size]``; 2^levels must divide every side."""
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


def _widths(base: int, most: int, levels: int) -> list[int]:
    """Channels before level 0 … after level L-1: doubling up to ``most``, the innermost keeping its width."""
    widths = [min(2**i * base, most) for i in range(levels)]
    return [*widths, widths[-1]]


class UNet2d(UNet):
    """2D U-Net ``in_channels → out_channels`` with ``base`` channels (at most ``most``) and ``levels`` halvings.

    ``linear`` leaves out the last norm and ReLU; the last convolution then has a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base: int,
        most: int,
        levels: int,
        dropout: float | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__()
        w = _widths(min(base, most), most, levels)
        self.in_layer = Layers(Conv2d(in_channels, w[0], 3), ViewNorm2d(w[0]), leaky_relu(), *dropout2d(dropout))
        inner = levels - 1
        self.downs = nn.ModuleList(Down2d(w[i], w[i + 1], dropout=dropout, norm=i < inner) for i in range(levels))
        self.ups = nn.ModuleList(
            Up2d(w[i + 1] * (2 if i < inner else 1), w[i], dropout=dropout, norm=i < inner) for i in range(levels)
        )
        self.out_layer = (
            Layers(Conv2d(2 * w[0], out_channels, 3, bias=True))
            if linear
            else Layers(
                Conv2d(2 * w[0], out_channels, 3),
                ViewNorm2d(out_channels),
                nn.ReLU(inplace=True),
                *dropout2d(dropout),
            )
        )


class UNet3d(UNet):
    """3D U-Net ``in_channels → out_channels`` with ``base`` channels (at most ``most``) and ``levels`` halvings."""

    def __init__(self, in_channels: int, out_channels: int, *, base: int, most: int, levels: int) -> None:
        super().__init__()
        w = _widths(min(base, most), most, levels)
        inner = levels - 1
        self.in_layer = Layers(Conv3d(in_channels, w[0]), ViewNorm3d(w[0]), leaky_relu())
        self.downs = nn.ModuleList(Down3d(w[i], w[i + 1], norm=i < inner) for i in range(levels))
        self.ups = nn.ModuleList(Up3d(w[i + 1] * (2 if i < inner else 1), w[i], norm=i < inner) for i in range(levels))
        self.out_layer = Layers(Conv3d(2 * w[0], out_channels), ViewNorm3d(out_channels), nn.ReLU(inplace=True))
