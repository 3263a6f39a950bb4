"""Convolution blocks and coordinate channels that the networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dv.ops.convolution.layers import Conv2d, Conv3d, ConvTranspose2d
from dv.ops.norm import ViewNorm, ViewNorm2d, ViewNorm3d


class Layers(nn.Sequential):
    """Sequence of layers of which the first may take several inputs.

    A norm also computes the (leaky) ReLU and the channel-wise dropout that follow it, which saves two passes over the
    tensor: a non-negative factor per channel commutes with the activation and is part of the norm's affine map.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply all layers in order."""
        first, *rest = self
        x: Tensor = first(*inputs)
        while rest:
            layer = rest.pop(0)
            if not isinstance(layer, ViewNorm):
                x = layer(x)
                continue
            slope, factors = 1.0, None
            if rest and isinstance(rest[0], nn.ReLU | nn.LeakyReLU):
                slope = getattr(rest.pop(0), "negative_slope", 0.0)
            if rest and isinstance(rest[0], nn.Dropout2d):
                dropout = rest.pop(0)
                if dropout.training and dropout.p:
                    factors = dropout(layer.weight.new_ones(len(x), x.shape[1], 1, 1)).flatten(1)
            x = layer(x, slope, factors)
        return x


def leaky_relu() -> nn.LeakyReLU:
    """Return an in-place LeakyReLU of slope 0.2."""
    return nn.LeakyReLU(0.2, inplace=True)


def _norm2d(channels: int, norm: bool) -> list[nn.Module]:
    return [ViewNorm2d(channels)] if norm else []


def dropout2d(p: float | None) -> list[nn.Module]:
    """Return a list with a channel-wise dropout layer, or an empty list if ``p`` is None.

    With p = 0 there is a layer as well, since the names of a checkpoint number the layers.
    """
    return [] if p is None else [nn.Dropout2d(p)]


class Down2d(Layers):
    """Halve an image: a 3² convolution and a 4² one of stride 2, each with norm, LeakyReLU and optional dropout.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        middle_channels: channels between the two convolutions; by default ``in_channels``.
        dropout: probability with which a channel is dropped; None for no dropout layers.
        norm: whether a norm follows each convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        middle_channels: int | None = None,
        dropout: float | None = None,
        norm: bool = True,
    ) -> None:
        middle = in_channels if middle_channels is None else middle_channels
        super().__init__(
            Conv2d(in_channels, middle, 3, bias=not norm),
            *_norm2d(middle, norm),
            leaky_relu(),
            *dropout2d(dropout),
            Conv2d(middle, out_channels, 4, stride=2, bias=not norm),
            *_norm2d(out_channels, norm),
            leaky_relu(),
            *dropout2d(dropout),
        )


class Up2d(Layers):
    """Double an image: a transposed 4² convolution and a 3² one, each with norm, ReLU and optional dropout.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        dropout: probability with which a channel is dropped; None for no dropout layers.
        norm: whether a norm follows each convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float | None = None, norm: bool = True) -> None:
        super().__init__(
            ConvTranspose2d(in_channels, out_channels, bias=not norm),
            *_norm2d(out_channels, norm),
            nn.ReLU(inplace=True),
            *dropout2d(dropout),
            Conv2d(out_channels, out_channels, 3, bias=not norm),
            *_norm2d(out_channels, norm),
            nn.ReLU(inplace=True),
            *dropout2d(dropout),
        )


class Down3d(Layers):
    """Halve a volume: a 4³ convolution of stride 2, norm and LeakyReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: whether a norm follows the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool = True) -> None:
        super().__init__(
            Conv3d(in_channels, out_channels, 4, stride=2, bias=not norm),
            *([ViewNorm3d(out_channels)] if norm else []),
            leaky_relu(),
        )


class Up3d(Layers):
    """Double a volume: a transposed 4³ convolution, norm and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: whether a norm follows the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool = True) -> None:
        super().__init__(
            nn.ConvTranspose3d(in_channels, out_channels, 4, stride=2, padding=1, bias=not norm),
            *([ViewNorm3d(out_channels)] if norm else []),
            nn.ReLU(inplace=True),
        )


def grid_coordinates(side: int) -> Tensor:
    """Return coordinate channels of the voxels of a grid.

    Args:
        side: G, voxels along an edge.

    Returns:
        ``[1, 3, G, G, G]``, the coordinates (index - G/2)/G along the tensor axes z, y and x.

    Example:
        >>> grid_coordinates(4)[0, 0, :, 0, 0]
        tensor([-0.5000, -0.2500,  0.0000,  0.2500])
    """
    c = (torch.arange(side) - side / 2) / side
    return torch.stack(torch.meshgrid(c, c, c, indexing="ij"))[None]


def depth_coordinates(depth: int) -> Tensor:
    """Return the depth coordinates (k - D/2)/D ``[D]`` of the samples along a frustum's rays.

    Example:
        >>> depth_coordinates(4)
        tensor([-0.5000, -0.2500,  0.0000,  0.2500])
    """
    return (torch.arange(depth) - depth / 2) / depth
