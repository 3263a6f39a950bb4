"""Patches of channels-last images and volumes as rows of a matrix, of which convolutions are products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

BAND_VALUES = 2**21  # values gathered into patches at a time, so that they stay in the cache


def to_rows(x: Tensor) -> Tensor:
    """Permute ``[N, C, *size]`` to ``[N, *size, C]``, a copy only if it is not channels-last."""
    return x.movedim(1, -1).contiguous()


def empty_channels_last(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """Allocate a channels-last result, since views that an autograd function returns cannot be modified in place."""
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    shape = (len(like), channels, *size)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def weight_matrix(weight: Tensor) -> Tensor:
    """Reshape weights ``[A, B, *kernel]`` to ``[A, K·B]``, a view if they are channels-last."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def from_weight_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`weight_matrix`."""
    return matrix.view(len(like), *like.shape[2:], -1).movedim(-1, 1)


def im2col(rows: Tensor, kernel: tuple[int, ...], stride: int = 1) -> Tensor:
    """Gather all patches of ``[N, *size, C]`` into ``[positions, K·C]``."""
    axes = len(kernel)
    channels = rows.shape[-1]
    for axis, side in enumerate(kernel):
        rows = rows.unfold(axis + 1, side, stride)  # in the end [N, *positions, C, *kernel]
    rows = rows.movedim(axes + 1, -1)
    return rows.reshape(-1, math.prod(kernel) * channels)


def col2im(patches: Tensor, shape: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> Tensor:
    """Transpose of :func:`im2col`: add patches ``[positions, K·C]`` at their positions in ``[N, *size, C]``."""
    n, *size, channels = shape
    positions = [(whole - side) // stride + 1 for whole, side in zip(size, kernel, strict=True)]
    patches = patches.view(n, *positions, -1, channels)
    rows = patches.new_zeros(shape)
    for i, offsets in enumerate(product(*map(range, kernel))):
        at = [slice(o, o + stride * (p - 1) + 1, stride) for o, p in zip(offsets, positions, strict=True)]
        rows[(slice(None), *at)] += patches[..., i, :]
    return rows


def bands(length: int, values: int) -> list[slice]:
    """Split ``range(length)``, of ``values`` per item, into bands of at most :data:`BAND_VALUES` values."""
    band = max(1, BAND_VALUES // values)
    return [slice(start, min(start + band, length)) for start in range(0, length, band)]


def weight_gradient(rows: Tensor, grad_output: Tensor, kernel: tuple[int, ...], stride: int) -> Tensor:
    """Σ gradientᵀ·patch ``[A, K·C]`` over inputs ``[N, *size, C]`` and output gradients ``[N, *positions, A]``."""
    length = math.prod(kernel) * rows.shape[-1]
    if grad_output[..., 0].numel() * length <= BAND_VALUES:
        return grad_output.reshape(-1, grad_output.shape[-1]).T @ im2col(rows, kernel, stride)
    total = rows.new_zeros(length, grad_output.shape[-1])
    for image, grad_image in zip(rows, grad_output, strict=True):
        for band in bands(len(grad_image), grad_image[0, ..., 0].numel() * length):
            inputs = image[None, band.start * stride : (band.stop - 1) * stride + kernel[0]]
            total.addmm_(im2col(inputs, kernel, stride).T, grad_image[band].reshape(-1, grad_output.shape[-1]))
    return total.T.contiguous()
