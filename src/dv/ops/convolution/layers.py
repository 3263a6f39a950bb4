"""Convolution layers and a convolution without padding, with PyTorch's arguments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dv.ops.convolution.functions import convolution, is_supported, transposed_convolution
from dv.ops.padding import replication_pad


class Conv2d(nn.Conv2d):
    """2D convolution with a square kernel and reflection padding by one pixel; it concatenates several inputs.

    Args:
        in_channels: sum of the inputs' channels.
        out_channels: channels of the output.
        kernel_size: side of the kernel, 3 or 4.
        stride: step of the kernel along both axes.
        bias: whether to add a learned bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=1, padding_mode="reflect", bias=bias
        )

    def forward(self, *x: Tensor) -> Tensor:
        """Convolve ``[N, in_channels, H, W]``, in one or several parts."""
        joined = x[0] if len(x) == 1 else torch.cat(x, 1)
        if not is_supported(joined):
            return super().forward(joined)
        return convolution(joined, self.weight, self.bias, self.stride[0], reflect=True)


class Conv3d(nn.Conv3d):
    """3D convolution with a cubic kernel and replication padding by one voxel; it concatenates several inputs.

    Args:
        in_channels: sum of the inputs' channels.
        out_channels: channels of the output.
        kernel_size: side of the kernel, 3 or 4.
        stride: step of the kernel along all axes.
        bias: whether to add a learned bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=1, padding_mode="replicate", bias=bias
        )

    def forward(self, *x: Tensor) -> Tensor:
        """Convolve ``[N, in_channels, D, H, W]``, in one or several parts."""
        return conv3d(replication_pad(*x), self.weight, self.bias, self.stride[0])


class ConvTranspose2d(nn.ConvTranspose2d):
    """2D transposed convolution with a 4² kernel and stride 2, which doubles the sides of an image.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether to add a learned bias.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002  # as PyTorch's
        """Convolve ``[N, in_channels, H, W]`` to ``[N, out_channels, 2H, 2W]``."""
        if not is_supported(x):
            return super().forward(x)
        return transposed_convolution(x, self.weight, self.bias)


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolve a volume without padding.

    Args:
        x: ``[N, C, D, H, W]``, channels-last.
        weight: ``[A, C, k, k, k]``, or ``[A, C, 1, k, k]``.
        bias: ``[A]``.
        stride: step of the kernel along all axes.

    Returns:
        ``[N, A, D', H', W']`` with D' = (D - k) // stride + 1.

    Example:
        >>> conv3d(torch.ones(1, 2, 4, 4, 4), torch.ones(5, 2, 3, 3, 3))[0, :, 0, 0, 0]
        tensor([54., 54., 54., 54., 54.])
    """
    if not is_supported(x):
        return functional.conv3d(x, weight, bias, stride)
    return convolution(x, weight, bias, stride)
