"""Batch normalisation of each view by its own statistics, as in the paper's training with batch size 1."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

MIN_CHANNELS = 16  # below it, PyTorch's batch norm of channels-last tensors takes ten times as long
MIN_RECOMPUTED_VALUES = 2**20  # from which recomputing an activation is worth the memory that it saves
VECTOR_VALUES = 64  # contiguous values that keep vector units busy


class ViewNorm(_BatchNorm):
    """Base class of the 2D and 3D norms."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, slope: float = 1.0, factors: Tensor | None = None) -> Tensor:
        """Normalise, then apply a (leaky) ReLU and channel-wise dropout.

        In training every view is normalised by its own statistics, in evaluation by the running averages.

        Args:
            x: ``[N, C, *size]``.
            slope: slope of the (leaky) ReLU below zero; 1 for no activation.
            factors: non-negative dropout factors ``[N, C]`` by which the channels are multiplied; None for no dropout.

        Returns:
            ``[N, C, *size]``.
        """
        few = _supported(x) and x.shape[1] < MIN_CHANNELS
        if not self.training:
            if not few and factors is None:
                return _activate(super().forward(x), slope)
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            shift = self.bias - self.running_mean * scale
            return _activate(scale_and_shift(x, *_per_view(scale, shift, factors, len(x))), slope)
        weight, bias = _per_view(self.weight, self.bias, factors, len(x))
        self.num_batches_tracked.add_(len(x))
        if few:
            return _activate(self._few_channels(x, weight, bias), slope)
        settings = (self.running_mean, self.running_var, weight, bias, self.momentum, self.eps)
        if _supported(x) and x.numel() >= MIN_RECOMPUTED_VALUES:
            cache: list[Tensor] = []
            y: Tensor
            y, scale, shift = _NormAndActivation.apply(x, *settings, slope, cache)  # type: ignore[no-untyped-call]
            if y.requires_grad:  # attached to the tensor, for the convolution whose input it is
                recomputation = Recomputation((x, scale, shift), slope, cache, y._version)
                y.recomputation = recomputation  # type: ignore[attr-defined]
            return y
        averages, views = settings[:2], zip(torch.split(x, 1), weight, bias, strict=True)
        normalised = [functional.batch_norm(v, *averages, w, b, True, self.momentum, self.eps) for v, w, b in views]
        return _activate(normalised[0] if len(x) == 1 else torch.cat(normalised), slope)

    def _few_channels(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Normalise a channels-last ``x`` with few channels in training."""
        y: Tensor
        y, mean, variance = _NormPerView.apply(x, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        count = x[0, 0].numel()
        for m, v in zip(mean, variance * (count / (count - 1)), strict=True):
            self.running_mean.lerp_(m, self.momentum)
            self.running_var.lerp_(v, self.momentum)
        return y


class ViewNorm2d(ViewNorm, nn.BatchNorm2d):
    """Batch norm that normalises every view of ``[N, C, H, W]`` by its own statistics in training.

    The running averages are updated view by view, so a batch of N gives the same result as N batches of one.
    """


class ViewNorm3d(ViewNorm, nn.BatchNorm3d):
    """:class:`ViewNorm2d` for volumes ``[N, C, D, H, W]``."""


def _supported(x: Tensor) -> bool:
    """Whether the implementations in this module apply; PyTorch's are used for all other tensors."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def _per_view(weight: Tensor, bias: Tensor, factors: Tensor | None, views: int) -> tuple[Tensor, Tensor]:
    """Expand weight and bias from ``[C]`` to ``[N, C]`` and multiply them by the factors of each view."""
    if factors is None:
        return weight.expand(views, -1), bias.expand(views, -1)
    return weight * factors, bias * factors


def _activate(x: Tensor, slope: float) -> Tensor:
    return x if slope == 1 else functional.leaky_relu_(x, slope)


class Recomputation(NamedTuple):
    """How to recompute a norm's activation in the backward pass, so that the next convolution need not store it.

    Args:
        tensors: the norm's input ``[N, C, *size]``, which the norm stores anyway, and scale and shift ``[N, C]``.
        slope: slope of the (leaky) ReLU below zero.
        cache: empty, or the recomputed activation, from the convolution's backward pass to the norm's.
        version: version counter of the activation, which has advanced if it was modified in place since.
    """

    tensors: tuple[Tensor, ...]
    slope: float
    cache: list[Tensor]
    version: int = 0

    def activation(self) -> Tensor:
        """Return the activation ``[N, C, *size]``, computed at the first call."""
        if not self.cache:
            self.cache.append(_activate(scale_and_shift(*self.tensors), self.slope))
        return self.cache[0]


def _wide(x: Tensor) -> tuple[Tensor, int]:
    """View channels-last ``[N, C, *size]`` as ``[N, L, r·C]``, r neighbouring positions per row; returns r too."""
    n, channels = x.shape[:2]
    flat = x.movedim(1, -1).reshape(n, -1)
    r = math.gcd(flat.shape[1] // channels, max(1, VECTOR_VALUES // channels))
    return flat.view(n, -1, r * channels), r


def _per_channel(wide: Tensor, r: int) -> Tensor:
    """Mean per view and channel ``[N, C]`` of ``[N, L, r·C]``."""
    return wide.mean(1).view(len(wide), r, -1).mean(1)


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_wide`."""
    return wide.view(len(like), *like.shape[2:], -1).movedim(-1, 1)


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``x·scale + shift`` ``[N, C, *size]`` for a channels-last ``x``; scale and shift are ``[N, C]``."""
    wide, r = _wide(x)
    return _narrow(torch.addcmul(shift.repeat(1, r)[:, None], wide, scale.repeat(1, r)[:, None]), x)


class _NormPerView(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide, r = _wide(x)
        mean = _per_channel(wide, r)
        centred = wide - mean.repeat(1, r)[:, None]
        variance = _per_channel(centred * centred, r)
        inverse = torch.rsqrt(variance + eps)
        centred *= inverse.repeat(1, r)[:, None]
        ctx.save_for_backward(centred, weight, inverse)
        ctx.like = torch.empty(x.shape, device="meta")
        ctx.r = r
        y = torch.empty_like(x, memory_format=torch.preserve_format)  # not a view: the activation modifies it in place
        scaled = torch.addcmul(bias.repeat(1, r)[:, None], centred, weight.repeat(1, r)[:, None])
        y.movedim(1, -1).copy_(_narrow(scaled, x).movedim(1, -1))
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        normalised, weight, inverse = ctx.saved_tensors
        r = ctx.r
        g, _r = _wide(gradient)
        count = g.shape[1] * r
        mean = _per_channel(g, r)
        along = _per_channel(g * normalised, r)
        dx = torch.addcmul(g, normalised, along.repeat(1, r)[:, None], value=-1)
        dx -= mean.repeat(1, r)[:, None]
        dx *= (weight * inverse).repeat(1, r)[:, None]
        return _narrow(dx, ctx.like), count * along, count * mean, None


class _NormAndActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
        slope: float,
        cache: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x, memory_format=torch.preserve_format)
        means, inverses = torch.empty_like(weight), torch.empty_like(weight)
        for i, (w, b) in enumerate(zip(weight, bias, strict=True)):
            torch.ops.aten.native_batch_norm.out(
                *(x[i : i + 1], w, b, mean, variance, True, momentum, eps),
                out=y[i : i + 1],
                save_mean=means[i],
                save_invstd=inverses[i],
            )
            _activate(y[i : i + 1], slope)
        scale = weight * inverses
        shift = bias - means * scale
        ctx.save_for_backward(x, weight, means, inverses, scale, shift)
        ctx.eps, ctx.slope, ctx.cache = eps, slope, cache
        ctx.mark_non_differentiable(scale, shift)
        return y, scale, shift

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, inverses, scale, shift = ctx.saved_tensors
        y = Recomputation((x, scale, shift), ctx.slope, ctx.cache).activation()
        ctx.cache.clear()
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(weight)
        for i, (w, *statistics) in enumerate(zip(weight, means, inverses, strict=True)):
            view = slice(i, i + 1)
            g = gradient[view]
            if ctx.slope != 1:
                g = torch.ops.aten.leaky_relu_backward(g, y[view], ctx.slope, True)
            # y is no longer needed, so its memory is reused for the gradient
            y[view], grad_weight[i], grad_bias[i] = torch.ops.aten.native_batch_norm_backward(
                g, x[view], w, None, None, *statistics, True, ctx.eps, [True] * 3
            )
        return y, None, None, grad_weight, grad_bias, None, None, None, None
