"""Concatenation and replication padding of channels-last volumes in one copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def replication_pad(*volumes: Tensor, depth: bool = True) -> Tensor:
    """Concatenate volumes along channels and pad them by replication, one voxel on each side.

    Takes one copy where ``torch.cat`` and ``torch.nn.functional.pad`` take four, since the latter changes the layout.
    The backward pass overwrites the gradient that it receives: only a convolution may use the result.

    Args:
        volumes: ``[N, Cᵢ, D, H, W]`` each.
        depth: whether to pad the depth axis as well.

    Returns:
        ``[N, ΣCᵢ, D+2, H+2, W+2]`` in channels-last layout, or ``[N, ΣCᵢ, D, H+2, W+2]`` without ``depth``.

    Example:
        >>> replication_pad(torch.tensor([[[[[1.0, 2.0]]]]]), depth=False)[0, 0, 0]
        tensor([[1., 1., 2., 2.],
                [1., 1., 2., 2.],
                [1., 1., 2., 2.]])
    """
    if torch.compiler.is_compiling():
        return functional.pad(torch.cat(volumes, 1), (1, 1, 1, 1, int(depth), int(depth)), mode="replicate")
    result: Tensor = _ReplicationPad.apply(depth, *volumes)  # type: ignore[no-untyped-call]
    return result


class _ReplicationPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, depth: bool, *volumes: Tensor) -> Tensor:
        ctx.channels = [v.shape[1] for v in volumes]
        ctx.first = 2 if depth else 3
        n, _, *sides = volumes[0].shape
        sides = [side + 2 if axis + 2 >= ctx.first else side for axis, side in enumerate(sides)]
        dtype = volumes[0].dtype
        for v in volumes[1:]:
            dtype = torch.promote_types(dtype, v.dtype)
        padded = torch.empty(
            (n, sum(ctx.channels), *sides),
            dtype=dtype,
            device=volumes[0].device,
            memory_format=torch.channels_last_3d,
        )
        inner = padded
        for axis in range(ctx.first, 5):
            inner = inner.narrow(axis, 1, inner.shape[axis] - 2)
        for part, v in zip(torch.split(inner, ctx.channels, 1), volumes, strict=True):
            part.copy_(v)
        for axis in range(4, ctx.first - 1, -1):  # last axis first; each copies the borders that are padded by then
            slab = padded
            for other in range(ctx.first, axis):
                slab = slab.narrow(other, 1, slab.shape[other] - 2)
            slab.select(axis, 0).copy_(slab.select(axis, 1))
            slab.select(axis, -1).copy_(slab.select(axis, -2))
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # in place, since the gradient comes from a convolution, which does not keep it
        for axis in range(ctx.first, 5):
            gradient.select(axis, 1).add_(gradient.select(axis, 0))
            gradient.select(axis, -2).add_(gradient.select(axis, -1))
            gradient = gradient.narrow(axis, 1, gradient.shape[axis] - 2)
        return None, *(part.clone() for part in torch.split(gradient, ctx.channels, 1))
