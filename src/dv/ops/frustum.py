"""Operations of the occlusion network on its largest tensors, the frustums, without copies.

Frustums here are *padded*: ``[1, C, D, P+2, P+2]`` in channels-last layout, with the outermost rays repeated once. This
is the replication padding that a 3² kernel needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dv.ops.convolution.layers import conv3d


class FrustumConv(nn.Conv3d):
    """3³ convolution of a frustum's features and a channel of depth coordinates, with replication padding.

    It is computed as a 1×3×3 convolution with one group of outputs for each of the kernel's three depths; the groups
    are then shifted along depth and added. The coordinate channel's contribution depends on depth alone and is added as
    a bias.

    Args:
        features: channels of the frustum.
        out_channels: channels of the output.
        depth_last: whether the coordinate channel follows the features in the weight, or precedes them.
        bias: whether to add a learned bias.
    """

    def __init__(self, features: int, out_channels: int, *, depth_last: bool, bias: bool = False) -> None:
        super().__init__(features + 1, out_channels, 3, padding=1, padding_mode="replicate", bias=bias)
        self.depth_last = depth_last

    def forward(self, padded: Tensor, depth: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve a frustum.

        Args:
            padded: ``[N, features, D, P+2, P+2]``, padded along rows and columns but not along depth.
            depth: depth coordinates ``[D]``.

        Returns:
            ``[N, out_channels, D, P, P]``.
        """
        features = self.in_channels - 1
        if self.depth_last:
            feature_weight, depth_weight = torch.split(self.weight, [features, 1], 1)
        else:
            depth_weight, feature_weight = torch.split(self.weight, [1, features], 1)
        taps = feature_weight.movedim(2, 0).flatten(0, 1)[:, :, None]  # [3·out, features, 1, 3, 3]
        spare = -len(taps) % 8  # whole vectors of output channels are faster, even if some are zero
        outputs = conv3d(padded, functional.pad(taps, (0,) * 9 + (spare,)))
        neighbours = functional.pad(depth[None, None], (1, 1), mode="replicate")[0, 0].unfold(0, 3, 1)
        offsets = neighbours @ depth_weight[:, 0].sum((-2, -1)).T  # [D, out]
        if self.bias is not None:
            offsets = offsets + self.bias
        result: Tensor = _AddTaps.apply(outputs, offsets)  # type: ignore[no-untyped-call]
        return result


class _AddTaps(torch.autograd.Function):
    """Add output k of depth d to depth d + 1 - k, clamped to the frustum, and an offset per depth and channel."""

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
        grad_outputs = gradient.new_zeros(n, *size, channels).movedim(-1, 1)
        before, now, after = torch.split(grad_outputs[:, : 3 * out], out, 1)
        now.copy_(gradient)
        before[:, :, :-1] = gradient[:, :, 1:]
        before[:, :, 0] += gradient[:, :, 0]
        after[:, :, 1:] = gradient[:, :, :-1]
        after[:, :, -1] += gradient[:, :, -1]
        return grad_outputs, gradient.sum((0, 3, 4)).T


class PaddedFrustum:
    """A padded frustum that is first convolved and then summed along its rays.

    The gradient of the sum is an outer product of the weights and the sum's gradient. It is added to the convolution's
    gradient in place, since on its own it would be another tensor of the largest size.

    Args:
        padded: ``[N, C, D, P+2, P+2]``.

    Attributes:
        convolved: the same tensor, to be used by one convolution and nothing else.
    """

    def __init__(self, padded: Tensor) -> None:
        self._terms: list[tuple[Tensor, Tensor]] = []
        self.convolved = padded
        self._summed = padded
        if padded.requires_grad and not torch.compiler.is_compiling():
            self.convolved, self._summed = _TwoUses.apply(padded, self._terms)  # type: ignore[no-untyped-call]

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum the frustum along depth with weights.

        Args:
            weights: ``[N, 1, D, P, P]``, computed from the convolution's output: only the convolution's backward pass
                propagates the sum's gradient to the frustum.

        Returns:
            ``[N, C, P, P]``.
        """
        weights = weights.to(self.convolved.dtype)
        if torch.compiler.is_compiling():
            return (self._summed[..., 1:-1, 1:-1] * weights).sum(2)
        result: Tensor = _SumAlongRays.apply(self._summed, weights, self._terms)  # type: ignore[no-untyped-call]
        return result


class _TwoUses(torch.autograd.Function):
    """Return a tensor twice; the backward pass adds the terms of its sums to the gradient of the convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, terms: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        ctx.terms = terms
        ctx.set_materialize_grads(False)
        return x[:], x[:]  # view_as would change the strides of a batch of one, and with them the layout

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_convolved: Tensor, _grad_summed: None) -> tuple[Tensor, None]:
        rows = grad_convolved.movedim(1, -1)
        while ctx.terms:
            weights, grad_sums = ctx.terms.pop()
            rows.addcmul_(weights, grad_sums[:, None])
        return grad_convolved, None


class _SumAlongRays(torch.autograd.Function):
    """Weighted sum along depth, one depth at a time: the product of weights and frustum is never stored."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weights: Tensor, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(padded, weights)
        ctx.terms = terms
        if padded.is_cuda or padded.dtype.itemsize < 4:  # einsum accumulates in fp32, whatever the frustum's type
            return torch.einsum("ncdhw,ndhw->nchw", padded[..., 1:-1, 1:-1], weights[:, 0])
        rows, padded_weights = padded.movedim(1, -1), _zero_pad(weights)
        sums = rows[:, 0] * padded_weights[:, 0]
        for depth in range(1, rows.shape[1]):
            sums.addcmul_(rows[:, depth], padded_weights[:, depth])
        return sums[:, 1:-1, 1:-1].movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        padded, weights = ctx.saved_tensors
        rows = functional.pad(gradient.movedim(1, -1), (0, 0, 1, 1, 1, 1))
        by_depth = [(frustum * rows).sum(-1) for frustum in padded.movedim(1, -1).unbind(1)]
        ctx.terms.append((_zero_pad(weights), rows))
        return None, torch.stack(by_depth, 1)[:, None, :, 1:-1, 1:-1], None


def _zero_pad(weights: Tensor) -> Tensor:
    """Pad weights ``[N, 1, D, P, P]`` with zeros and permute them to ``[N, D, P+2, P+2, 1]``."""
    return functional.pad(weights, (1, 1, 1, 1)).movedim(1, -1)
