"""Batch norm over one view at a time, as in the paper's training with batch size 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

FEW = 16  # channels; below, PyTorch's batch norm of channels-last tensors takes ten times as long
WIDTH = 64  # values in a row that keep vector units busy


class ViewNorm(_BatchNorm):
    """What the 2D and the 3D norm share."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """Normalise ``[N, C, *size]``, view by view in training, by the running averages otherwise.

        ``factors`` ``[N, C]``, if given, multiply the result: a dropout of whole channels.
        """
        few = _by_hand(x) and x.shape[1] < FEW
        if not self.training:
            if not few and factors is None:
                result: Tensor = super().forward(x)
                return result
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            shift = self.bias - self.running_mean * scale
            return scale_and_shift(x, *_per_view(scale, shift, factors, len(x)))
        weight, bias = _per_view(self.weight, self.bias, factors, len(x))
        self.num_batches_tracked.add_(len(x))
        if few:
            return self._few_channels(x, weight, bias)
        averages = (self.running_mean, self.running_var)
        if _by_hand(x):
            result = _BatchNormPerView.apply(x, weight, bias, *averages, self.momentum, self.eps)  # type: ignore[no-untyped-call]
            return result
        views = zip(torch.split(x, 1), weight, bias, strict=True)
        return torch.cat([functional.batch_norm(v, *averages, w, b, True, self.momentum, self.eps) for v, w, b in views])

    def _few_channels(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The same for channels-last ``x`` with few channels."""
        y: Tensor
        y, mean, variance = _NormPerView.apply(x, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        count = x[0, 0].numel()
        for m, v in zip(mean, variance * (count / (count - 1)), strict=True):
            self.running_mean.lerp_(m, self.momentum)
            self.running_var.lerp_(v, self.momentum)
        return y


class ViewNorm2d(ViewNorm, nn.BatchNorm2d):
    """Batch norm in which every sample of ``[N, C, H, W]`` is normalised by its own statistics in training.

    The running averages take the samples in order, so a batch gives exactly what N single views in succession would.
    """


class ViewNorm3d(ViewNorm, nn.BatchNorm3d):
    """:class:`ViewNorm2d` for volumes ``[N, C, D, H, W]``."""


def _by_hand(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def _per_view(weight: Tensor, bias: Tensor, factors: Tensor | None, views: int) -> tuple[Tensor, Tensor]:
    """``[C]`` each as ``[N, C]``, times the factors of each view."""
    if factors is None:
        return weight.expand(views, -1), bias.expand(views, -1)
    return weight * factors, bias * factors


def _wide(x: Tensor) -> tuple[Tensor, int]:
    """Channels-last ``[N, C, *size]`` as ``[N, L, r·C]``, and r: r neighbouring positions side by side."""
    n, channels = x.shape[:2]
    flat = x.movedim(1, -1).reshape(n, -1)
    r = math.gcd(flat.shape[1] // channels, max(1, WIDTH // channels))
    return flat.view(n, -1, r * channels), r


def _per_channel(wide: Tensor, r: int) -> Tensor:
    """Means ``[N, C]`` of ``[N, L, r·C]``."""
    return wide.mean(1).view(len(wide), r, -1).mean(1)


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_wide`."""
    return wide.view(len(like), *like.shape[2:], -1).movedim(-1, 1)


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x·scale + shift`` for ``x`` ``[N, C, *size]``, with ``scale`` and ``shift`` ``[N, C]``."""
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
        y = torch.empty_like(x, memory_format=torch.preserve_format)  # not a view: activations work in place
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


class _BatchNormPerView(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, eps: float
    ) -> Tensor:
        y = torch.empty_like(x, memory_format=torch.preserve_format)
        statistics = weight.new_empty(2, *weight.shape)
        for i, (w, b) in enumerate(zip(weight, bias, strict=True)):
            view, out = x[i : i + 1], (y[i : i + 1], *statistics[:, i])
            torch.ops.aten.native_batch_norm.out(
                view, w, b, mean, variance, True, momentum, eps, out=out[0], save_mean=out[1], save_invstd=out[2]
            )
        ctx.save_for_backward(x, weight, statistics)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        of_x = torch.empty_like(x, memory_format=torch.preserve_format)
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
        for i, w in enumerate(weight):
            of_x[i : i + 1], of_weight[i], of_bias[i] = torch.ops.aten.native_batch_norm_backward(
                gradient[i : i + 1], x[i : i + 1], w, None, None, *statistics[:, i], True, ctx.eps, [True] * 3
            )
        return of_x, of_weight, of_bias, None, None, None, None
