"""Convolution, down- and up-sampling blocks of which all networks are made."""

from __future__ import annotations

from torch import Tensor, nn

from dv.ops.convolution import Conv2d, Conv3d, Doubling2d
from dv.ops.norm import ViewNorm, ViewNorm2d, ViewNorm3d


class Layers(nn.Sequential):
    """Layers in order, of which the first may take several inputs.

    A norm computes the (leaky) ReLU and the dropout of channels that follow it: a factor per channel, which is not
    negative, commutes with the activation and goes into the norm's affine map. Two passes over the tensor less.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """Through all layers."""
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
    """LeakyReLU of slope 0.2, in place of its input."""
    return nn.LeakyReLU(0.2, inplace=True)


def _norm2d(channels: int, norm: bool) -> list[nn.Module]:
    return [ViewNorm2d(channels)] if norm else []


def dropout2d(p: float | None) -> list[nn.Module]:
    """A channel-wise dropout layer, also where p is 0 (names in a checkpoint count layers); none where p is None."""
    return [] if p is None else [nn.Dropout2d(p)]


class Down2d(Layers):
    """Halves an image: conv3 a→m and a strided conv4 m→b, each with norm, LeakyReLU and optional dropout."""

    def __init__(
        self, a: int, b: int, *, middle: int | None = None, dropout: float | None = None, norm: bool = True
    ) -> None:
        m = a if middle is None else middle
        super().__init__(
            Conv2d(a, m, 3, bias=not norm),
            *_norm2d(m, norm),
            leaky_relu(),
            *dropout2d(dropout),
            Conv2d(m, b, 4, stride=2, bias=not norm),
            *_norm2d(b, norm),
            leaky_relu(),
            *dropout2d(dropout),
        )


class Up2d(Layers):
    """Doubles an image: transposed conv4 a→b and conv3 b→b, each with norm, ReLU and optional dropout."""

    def __init__(self, a: int, b: int, *, dropout: float | None = None, norm: bool = True) -> None:
        super().__init__(
            Doubling2d(a, b, bias=not norm),
            *_norm2d(b, norm),
            nn.ReLU(inplace=True),
            *dropout2d(dropout),
            Conv2d(b, b, 3, bias=not norm),
            *_norm2d(b, norm),
            nn.ReLU(inplace=True),
            *dropout2d(dropout),
        )


class Down3d(Layers):
    """Halves a volume: strided conv4 a→b, norm, LeakyReLU."""

    def __init__(self, a: int, b: int, *, norm: bool = True) -> None:
        super().__init__(
            Conv3d(a, b, 4, stride=2, bias=not norm),
            *([ViewNorm3d(b)] if norm else []),
            leaky_relu(),
        )


class Up3d(Layers):
    """Doubles a volume: transposed conv4 a→b, norm, ReLU."""

    def __init__(self, a: int, b: int, *, norm: bool = True) -> None:
        super().__init__(
            nn.ConvTranspose3d(a, b, 4, stride=2, padding=1, bias=not norm),
            *([ViewNorm3d(b)] if norm else []),
            nn.ReLU(inplace=True),
        )
