"""What the occlusion network does to its largest tensors, without copying them.

Frustums here are *rimmed*: ``[N, C, D, P+2, P+2]`` in channels-last layout, with every outermost ray there twice, which
is the replication padding that a 3² window needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dv.nets.convolution import convolve


class FrustumConv(nn.Conv3d):
    """3³ convolution of ``features`` channels and the depth coordinate, with replication padding.

    Computed as a convolution over single depths whose outputs, one for each of the three depths of the kernel, are
    then shifted and added. The share of the coordinate depends on depth alone, so it is a bias.
    """

    def __init__(self, features: int, out: int, *, depth_last: bool, bias: bool = False) -> None:
        super().__init__(features + 1, out, 3, padding=1, padding_mode="replicate", bias=bias)
        self.depth_last = depth_last

    def forward(self, rimmed: Tensor, depth: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``[N, features, D, P+2, P+2]`` with depth coordinates ``[D]`` to ``[N, out, D, P, P]``."""
        features = self.in_channels - 1
        if self.depth_last:
            of_features, of_depth = torch.split(self.weight, [features, 1], 1)
        else:
            of_depth, of_features = torch.split(self.weight, [1, features], 1)
        taps = of_features.movedim(2, 0).flatten(0, 1)[:, :, None]  # [3·out, features, 1, 3, 3]
        spare = -len(taps) % 8  # kernels of full vectors are faster, even if some are nil
        outputs = convolve(rimmed, functional.pad(taps, (0,) * 9 + (spare,)))
        neighbours = functional.pad(depth[None, None], (1, 1), mode="replicate")[0, 0].unfold(0, 3, 1)
        offsets = neighbours @ of_depth[:, 0].sum((-2, -1)).T  # [D, out]
        if self.bias is not None:
            offsets = offsets + self.bias
        result: Tensor = _AddTaps.apply(outputs, offsets)  # type: ignore[no-untyped-call]
        return result


class _AddTaps(torch.autograd.Function):
    """Output k of depth d is for depth d + 1 - k; what leaves the frustum stays at its ends."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, offsets: Tensor) -> Tensor:
        out = offsets.shape[1]
        ctx.shape = outputs.shape
        before, now, after = torch.split(outputs[:, : 3 * out], out, 1)
        total: Tensor = now + offsets.T.to(outputs.dtype)[:, :, None, None]
        total[:, :, 1:] += before[:, :, :-1]
        total[:, :, 0] += before[:, :, 0]
        total[:, :, :-1] += after[:, :, 1:]
        total[:, :, -1] += after[:, :, -1]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        out = gradient.shape[1]
        n, channels, *size = ctx.shape
        of_outputs = gradient.new_zeros(n, *size, channels).movedim(-1, 1)
        before, now, after = torch.split(of_outputs[:, : 3 * out], out, 1)
        now.copy_(gradient)
        before[:, :, :-1] = gradient[:, :, 1:]
        before[:, :, 0] += gradient[:, :, 0]
        after[:, :, 1:] = gradient[:, :, :-1]
        after[:, :, -1] += gradient[:, :, -1]
        return of_outputs, gradient.sum((0, 3, 4)).T


def twice(rimmed: Tensor) -> tuple[Tensor, Tensor]:
    """A frustum for two uses, whose gradients are added in the memory of the first; autograd would take a third."""
    result: tuple[Tensor, Tensor] = _Twice.apply(rimmed)  # type: ignore[no-untyped-call]
    return result


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view_as(x), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        return one + other if torch.compiler.is_compiling() else one.add_(other)


def sum_along_rays(rimmed: Tensor, weights: Tensor) -> Tensor:
    """Σ over depth of weights ``[N, 1, D, P, P]`` times a rimmed frustum ``[N, C, D, P+2, P+2]``: ``[N, C, P, P]``."""
    result: Tensor = _SumAlongRays.apply(rimmed, weights.to(rimmed.dtype))  # type: ignore[no-untyped-call]
    return result


class _SumAlongRays(torch.autograd.Function):
    """Depth by depth: the product of weights and frustum is never stored."""

    @staticmethod
    def forward(ctx: Any, rimmed: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rimmed, weights)
        if rimmed.is_cuda or rimmed.dtype.itemsize < 4:  # summed in fp32 there, whatever the frustum is kept in
            return torch.einsum("ncdhw,ndhw->nchw", rimmed[..., 1:-1, 1:-1], weights[:, 0])
        rows, rimmed_weights = rimmed.movedim(1, -1), _with_rim(weights)
        sums = rows[:, 0] * rimmed_weights[:, 0]
        for depth in range(1, rows.shape[1]):
            sums.addcmul_(rows[:, depth], rimmed_weights[:, depth])
        return sums[:, 1:-1, 1:-1].movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rimmed, weights = ctx.saved_tensors
        of_rimmed, of_weights = None, None
        rows = functional.pad(gradient.movedim(1, -1), (0, 0, 1, 1, 1, 1))
        if ctx.needs_input_grad[1]:
            by_depth = [(frustum * rows).sum(-1) for frustum in rimmed.movedim(1, -1).unbind(1)]
            of_weights = torch.stack(by_depth, 1)[:, None, :, 1:-1, 1:-1]
        if ctx.needs_input_grad[0]:
            of_rimmed = (_with_rim(weights) * rows[:, None]).movedim(-1, 1)
        return of_rimmed, of_weights


def _with_rim(weights: Tensor) -> Tensor:
    """Weights ``[N, 1, D, P, P]`` as ``[N, D, P+2, P+2, 1]``, nothing on the rim."""
    return functional.pad(weights, (1, 1, 1, 1)).movedim(1, -1)
