"""Compositing on NVIDIA GPUs, by the kernels of :mod:`dv.ops.marching_cuda`.

Computes the same as :func:`dv.ops.compositing_reference.composite_reference`. Gradients are added atomically in no
fixed order, so two runs differ in the last bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from dv.ops.compositing_reference import MIN_TRANSMITTANCE, CompositeOutput, Rays, min_raw_density
from dv.ops.marching_cuda import RAYS, backward_kernel, forward_kernel


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float = 0.0,
) -> CompositeOutput:  # fmt: skip
    """Composite float32 tensors on a GPU, see :func:`dv.ops.compositing.composite`."""
    return CompositeOutput(*_Composite.apply(density, features, index, distance, *rays, step_size, interval, near))


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, index: Tensor, distance: Tensor,
        origins: Tensor, directions: Tensor, offsets: Tensor, step_size: float, interval: float, near: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        count, channels = len(origins), features.shape[1]
        table = _table(density, features)
        inputs = [table, *(x.contiguous() for x in (index, distance, origins, directions, offsets))]
        out, transmittance, depth = features.new_empty(count, channels), *features.new_empty(2, count).unbind()
        levels, side = index.shape[:2]
        sizes = (count, side, near, levels, channels, table.shape[1], triton.next_power_of_2(table.shape[1]), RAYS)
        constants = (step_size, interval, min_raw_density(interval), MIN_TRANSMITTANCE)
        ctx.grid = (triton.cdiv(count, RAYS),)
        if count:
            forward_kernel[ctx.grid](*inputs, *constants, out, transmittance, depth, *sizes, num_warps=1)
        ctx.constants, ctx.sizes = constants, sizes
        ctx.save_for_backward(*inputs, out, transmittance)
        ctx.mark_non_differentiable(depth)
        return out, transmittance, depth

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, out, transmittance = ctx.saved_tensors
        grad_out, grad_transmittance = (gradient.contiguous() for gradient in gradients[:2])
        grad_table, channels = torch.zeros_like(inputs[0]), out.shape[1]
        wanted = any(ctx.needs_input_grad[4:6])
        grad_rays = [out.new_empty(len(out) if wanted else 0, 3) for _ in range(2)]
        if len(out):
            count, side, near, *sizes = ctx.sizes
            results = out, transmittance, grad_out, grad_transmittance, grad_table, *grad_rays
            backward_kernel[ctx.grid](*inputs, *ctx.constants, *results, count, side, near, wanted, *sizes, num_warps=1)
        none = None, None
        return grad_table[:, channels], grad_table[:, :channels], *none, *(grad_rays if wanted else none), *none, *none


def _table(density: Tensor, features: Tensor) -> Tensor:
    """Features, density and zero padding in rows ``[N, STRIDE]`` of a multiple of 16 bytes, accessed in whole."""
    table = features.new_zeros(len(features), -(-(features.shape[1] + 1) // 4) * 4)
    table[:, : features.shape[1]] = features
    table[:, features.shape[1]] = density
    return table
