"""Batch norm over one view at a time, as in the paper's training with batch size 1."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

FEW = 16  # channels; below, PyTorch's batch norm of channels-last tensors takes ten times as long
LARGE = 2**20  # values from which a pass to make a tensor anew is cheaper than memory to keep it
WIDTH = 64  # values in a row that keep vector units busy


class ViewNorm(_BatchNorm):
    """What the 2D and the 3D norm share."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, slope: float = 1.0, factors: Tensor | None = None) -> Tensor:
        """Normalise ``[N, C, *size]``, view by view in training, by the running averages otherwise, and activate.

        Args:
            x: what to normalise.
            slope: of the (leaky) ReLU for values below zero; 1 for none.
            factors: ``[N, C]``, not negative, that multiply the result: a dropout of whole channels.
        """
        few = _by_hand(x) and x.shape[1] < FEW
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
        if _by_hand(x) and x.numel() >= LARGE:
            slot: list[Tensor] = []
            y: Tensor
            y, scale, shift = _NormAndActivation.apply(x, *settings, slope, slot)  # type: ignore[no-untyped-call]
            if y.requires_grad:  # on the tensor, since only the convolution that is given it can use it
                y.recipe = Recipe((x, scale, shift), slope, slot, y._version)  # type: ignore[attr-defined]
            return y
        averages, views = settings[:2], zip(torch.split(x, 1), weight, bias, strict=True)
        normalised = [functional.batch_norm(v, *averages, w, b, True, self.momentum, self.eps) for v, w, b in views]
        return _activate(normalised[0] if len(x) == 1 else torch.cat(normalised), slope)

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


def _activate(x: Tensor, slope: float) -> Tensor:
    return x if slope == 1 else functional.leaky_relu_(x, slope)


class Recipe(NamedTuple):
    """How to make an activated tensor anew, rather than keep it for the backward pass of the convolution it goes into.

    tensors: ``x`` ``[N, C, *size]``, which the norm keeps anyway, scale and shift ``[N, C]``; slot: the values, once
    made anew, until the norm's backward pass; version: of the tensor, whose memory others may have written to since.
    """

    tensors: tuple[Tensor, ...]
    slope: float
    slot: list[Tensor]
    version: int = 0


def follow(recipe: Recipe) -> Tensor:
    """Make the tensor."""
    if not recipe.slot:
        recipe.slot.append(_activate(scale_and_shift(*recipe.tensors), recipe.slope))
    return recipe.slot[0]


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
        slot: list[Tensor],
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
        ctx.eps, ctx.slope, ctx.slot = eps, slope, slot
        ctx.mark_non_differentiable(scale, shift)
        return y, scale, shift

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, inverses, scale, shift = ctx.saved_tensors
        y = follow(Recipe((x, scale, shift), ctx.slope, ctx.slot))
        ctx.slot.clear()
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
        for i, (w, *statistics) in enumerate(zip(weight, means, inverses, strict=True)):
            view = slice(i, i + 1)
            g = gradient[view]
            if ctx.slope != 1:
                g = torch.ops.aten.leaky_relu_backward(g, y[view], ctx.slope, True)
            # y is not needed any more, so its memory serves for the gradient
            y[view], of_weight[i], of_bias[i] = torch.ops.aten.native_batch_norm_backward(
                g, x[view], w, None, None, *statistics, True, ctx.eps, [True] * 3
            )
        return y, None, None, of_weight, of_bias, None, None, None, None
