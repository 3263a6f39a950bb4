"""Batch norm over one view at a time, as in the paper's training with batch size 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

WIDTH = 64  # values in a row that keep vector units busy


class _ViewNorm(_BatchNorm):
    """What the 2D and the 3D norm share."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, *size]``, view by view in training, by the running averages otherwise."""
        if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.shape[1] < 16:
            return self._few_channels(x)
        if not self.training or len(x) == 1:
            result: Tensor = super().forward(x)
            return result
        return torch.cat([super(_ViewNorm, self).forward(view) for view in torch.split(x, 1)])

    def _few_channels(self, x: Tensor) -> Tensor:
        """The same for channels-last ``x`` with so few channels that PyTorch's takes ten times as long."""
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            shift = self.bias - self.running_mean * scale
            return scale_and_shift(x, scale.expand(len(x), -1), shift.expand(len(x), -1))
        y: Tensor
        y, mean, variance = _NormPerView.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        count = x[0, 0].numel()
        for m, v in zip(mean, variance * (count / (count - 1)), strict=True):
            self.running_mean.lerp_(m, self.momentum)
            self.running_var.lerp_(v, self.momentum)
            self.num_batches_tracked.add_(1)
        return y


class ViewNorm2d(_ViewNorm, nn.BatchNorm2d):
    """Batch norm in which every sample of ``[N, C, H, W]`` is normalised by its own statistics in training.

    The running averages take the samples in order, so a batch gives exactly what N single views in succession would.
    """


class ViewNorm3d(_ViewNorm, nn.BatchNorm3d):
    """:class:`ViewNorm2d` for volumes ``[N, C, D, H, W]``."""


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
        y.movedim(1, -1).copy_(_narrow(torch.addcmul(bias.repeat(r), centred, weight.repeat(r)), x).movedim(1, -1))
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
        return _narrow(dx, ctx.like), count * along.sum(0), count * mean.sum(0), None
