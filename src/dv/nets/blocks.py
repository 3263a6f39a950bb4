"""Norm, down- and up-sampling blocks of which all networks are made."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ViewNorm2d(nn.BatchNorm2d):
    """Batch norm over one view at a time, as in the paper's training with batch size 1.

    In training every sample of ``[N, C, H, W]`` is normalised by its own statistics and the running averages take
    the samples in order, so a batch gives exactly what N single views in succession would.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, view by view in training, by the running averages otherwise."""
        if not self.training or len(x) == 1:
            return super().forward(x)
        return torch.cat([super(ViewNorm2d, self).forward(view) for view in x.tensor_split(len(x))])


class ViewNorm3d(nn.BatchNorm3d):
    """:class:`ViewNorm2d` for volumes ``[N, C, D, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, view by view in training, by the running averages otherwise."""
        if not self.training or len(x) == 1:
            return super().forward(x)
        return torch.cat([super(ViewNorm3d, self).forward(view) for view in x.tensor_split(len(x))])


def same_conv2d(a: int, b: int, bias: bool = False) -> nn.Conv2d:
    """3² convolution a→b that keeps the size, with reflection padding."""
    return nn.Conv2d(a, b, 3, padding=1, padding_mode="reflect", bias=bias)


def same_conv3d(a: int, b: int, bias: bool = False) -> nn.Conv3d:
    """3³ convolution a→b that keeps the size, with replication padding."""
    return nn.Conv3d(a, b, 3, padding=1, padding_mode="replicate", bias=bias)


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
            same_conv2d(a, m, bias=not norm),
            *_norm2d(m, norm),
            leaky_relu(),
            *dropout2d(dropout),
            nn.Conv2d(m, b, 4, stride=2, padding=1, padding_mode="reflect", bias=not norm),
            *_norm2d(b, norm),
            leaky_relu(),
            *dropout2d(dropout),
        )


class Up2d(nn.Sequential):
    """Doubles an image: transposed conv4 a→b and conv3 b→b, each with norm, ReLU and optional dropout."""

    def __init__(self, a: int, b: int, *, dropout: float | None = None, norm: bool = True) -> None:
        super().__init__(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=not norm),
            *_norm2d(b, norm),
            nn.ReLU(inplace=True),
            *dropout2d(dropout),
            same_conv2d(b, b, bias=not norm),
            *_norm2d(b, norm),
            nn.ReLU(inplace=True),
            *dropout2d(dropout),
        )


class Down3d(nn.Sequential):
    """Halves a volume: strided conv4 a→b, norm, LeakyReLU."""

    def __init__(self, a: int, b: int, *, norm: bool = True) -> None:
        super().__init__(
            nn.Conv3d(a, b, 4, stride=2, padding=1, padding_mode="replicate", bias=not norm),
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
