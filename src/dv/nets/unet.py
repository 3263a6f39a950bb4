"""U-Nets in 2D and 3D; every level concatenates its input with what comes back up from below."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dv.nets.blocks import (
    Down2d,
    Down3d,
    Up2d,
    Up3d,
    ViewNorm2d,
    ViewNorm3d,
    dropout2d,
    leaky_relu,
    same_conv2d,
    same_conv3d,
)


class UNet(nn.Module):
    """In layer, L halvings, L doublings with skip connections, out layer. The innermost level has no norm."""

    in_layer: nn.Sequential
    out_layer: nn.Sequential
    downs: nn.ModuleList
    ups: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in, *size]`` to ``[N, out, *size]``; every side must be divisible by 2^levels."""
        x = self.in_layer(x)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        for up in reversed(self.ups):
            x = torch.cat([skips.pop(), up(x)], 1)
        result: Tensor = self.out_layer(x)
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
        self.in_layer = nn.Sequential(
            same_conv2d(in_channels, w[0]), ViewNorm2d(w[0]), leaky_relu(), *dropout2d(dropout)
        )
        inner = levels - 1
        self.downs = nn.ModuleList(Down2d(w[i], w[i + 1], dropout=dropout, norm=i < inner) for i in range(levels))
        self.ups = nn.ModuleList(
            Up2d(w[i + 1] * (2 if i < inner else 1), w[i], dropout=dropout, norm=i < inner) for i in range(levels)
        )
        self.out_layer = (
            nn.Sequential(same_conv2d(2 * w[0], out_channels, bias=True))
            if linear
            else nn.Sequential(
                same_conv2d(2 * w[0], out_channels),
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
        self.in_layer = nn.Sequential(same_conv3d(in_channels, w[0]), ViewNorm3d(w[0]), leaky_relu())
        self.downs = nn.ModuleList(Down3d(w[i], w[i + 1], norm=i < inner) for i in range(levels))
        self.ups = nn.ModuleList(Up3d(w[i + 1] * (2 if i < inner else 1), w[i], norm=i < inner) for i in range(levels))
        self.out_layer = nn.Sequential(
            same_conv3d(2 * w[0], out_channels), ViewNorm3d(out_channels), nn.ReLU(inplace=True)
        )
