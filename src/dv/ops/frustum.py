"""What the occlusion network does to its largest tensors, without copying them.

Frustums here are *rimmed*: ``[1, C, D, P+2, P+2]`` in channels-last layout, with every outermost ray there twice, which
is the replication padding that a 3² window needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dv.ops.convolution import convolve


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


class Rays:
    """A rimmed frustum that is convolved and then summed along its rays.

    The sum's gradient, an outer product of weights and the gradient of the sums, is added to the convolution's in the
    memory of that one: by itself it would be another of the largest tensors.
    """

    def __init__(self, rimmed: Tensor) -> None:
        self._terms: list[tuple[Tensor, Tensor]] = []
        self.frustum = rimmed  # what a convolution, and nothing else, is to take
        self._summed = rimmed
        if rimmed.requires_grad and not torch.compiler.is_compiling():
            self.frustum, self._summed = _TwoUses.apply(rimmed, self._terms)  # type: ignore[no-untyped-call]

    def sum(self, weights: Tensor) -> Tensor:
        """Σ over depth of weights times the frustum.

        Args:
            weights: ``[N, 1, D, P, P]``, made from the convolution: it alone takes the gradient on.

        Returns:
            ``[N, C, P, P]``.
        """
        weights = weights.to(self.frustum.dtype)
        if torch.compiler.is_compiling():
            return (self._summed[..., 1:-1, 1:-1] * weights).sum(2)
        result: Tensor = _SumAlongRays.apply(self._summed, weights, self._terms)  # type: ignore[no-untyped-call]
        return result


class _TwoUses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, terms: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        ctx.terms = terms
        ctx.set_materialize_grads(False)
        return x[:], x[:]  # view_as would garble the stride of a batch of one, and with it the layout

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_convolution: Tensor, _of_sum: None) -> tuple[Tensor, None]:
        rows = of_convolution.movedim(1, -1)
        while ctx.terms:
            weights, of_sums = ctx.terms.pop()
            rows.addcmul_(weights, of_sums[:, None])
        return of_convolution, None


class _SumAlongRays(torch.autograd.Function):
    """Depth by depth: the product of weights and frustum is never stored."""

    @staticmethod
    def forward(ctx: Any, rimmed: Tensor, weights: Tensor, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(rimmed, weights)
        ctx.terms = terms
        if rimmed.is_cuda or rimmed.dtype.itemsize < 4:  # summed in fp32 there, whatever the frustum is kept in
            return torch.einsum("ncdhw,ndhw->nchw", rimmed[..., 1:-1, 1:-1], weights[:, 0])
        rows, rimmed_weights = rimmed.movedim(1, -1), _with_rim(weights)
        sums = rows[:, 0] * rimmed_weights[:, 0]
        for depth in range(1, rows.shape[1]):
            sums.addcmul_(rows[:, depth], rimmed_weights[:, depth])
        return sums[:, 1:-1, 1:-1].movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        rimmed, weights = ctx.saved_tensors
        rows = functional.pad(gradient.movedim(1, -1), (0, 0, 1, 1, 1, 1))
        by_depth = [(frustum * rows).sum(-1) for frustum in rimmed.movedim(1, -1).unbind(1)]
        ctx.terms.append((_with_rim(weights), rows))
        return None, torch.stack(by_depth, 1)[:, None, :, 1:-1, 1:-1], None


def _with_rim(weights: Tensor) -> Tensor:
    """Weights ``[N, 1, D, P, P]`` as ``[N, D, P+2, P+2, 1]``, nothing on the rim."""
    return functional.pad(weights, (1, 1, 1, 1)).movedim(1, -1)
