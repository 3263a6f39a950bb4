"""Convolution, down- and up-sampling blocks of which all networks are made."""

from __future__ import annotations

from torch import nn

from dv.nets.convolution import Conv2d, Conv3d, Doubling2d
from dv.nets.norm import ViewNorm2d, ViewNorm3d


def leaky_relu() -> nn.LeakyReLU:
    """LeakyReLU of slope 0.2, in place of its input."""
    return nn.LeakyReLU(0.2, inplace=True)


def _norm2d(channels: int, norm: bool) -> list[nn.Module]:
    return [ViewNorm2d(channels)] if norm else []


def dropout2d(p: float | None) -> list[nn.Module]:
    """A channel-wise dropout layer, also where p is 0 (names in a checkpoint count layers); none where p is None."""
    return [] if p is None else [nn.Dropout2d(p)]


class Down2d(nn.Sequential):
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


class Up2d(nn.Sequential):
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


class Down3d(nn.Sequential):
    """Halves a volume: strided conv4 a→b, norm, LeakyReLU."""

    def __init__(self, a: int, b: int, *, norm: bool = True) -> None:
        super().__init__(
            Conv3d(a, b, 4, stride=2, bias=not norm),
            *([ViewNorm3d(b)] if norm else []),
            leaky_relu(),
        )


class Up3d(nn.Sequential):
    """Doubles a volume: transposed conv4 a→b, norm, ReLU."""

    def __init__(self, a: int, b: int, *, norm: bool = True) -> None:
        super().__init__(
            nn.ConvTranspose3d(a, b, 4, stride=2, padding=1, bias=not norm),
            *([ViewNorm3d(b)] if norm else []),
            nn.ReLU(inplace=True),
        )
