"""Compositing on CPUs, by the kernels of :mod:`dv.ops.marching_cpu`.

Computes the same as :func:`dv.ops.compositing_reference.composite_reference`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from dv.ops.compositing_reference import MIN_TRANSMITTANCE, CompositeOutput, Rays, min_raw_density
from dv.ops.marching_cpu import backward_kernel, forward_kernel, ray_gradient_kernel, scatter_kernel


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float = 0.0,
) -> CompositeOutput:  # fmt: skip
    """Composite CPU tensors, see :func:`dv.ops.compositing.composite`."""
    arguments = density, features, index.flatten(0, 1), distance.flatten(0, 1), *rays, step_size, interval, near
    return CompositeOutput(*_Composite.apply(*arguments))  # type: ignore[no-untyped-call]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, index: Tensor, distance: Tensor,
        origins: Tensor, directions: Tensor, offsets: Tensor, step_size: float, interval: float, near: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        set_threads()
        count = len(origins)
        out, transmittance, depth = features.new_empty(count, features.shape[1]), *features.new_empty(2, count).unbind()
        counts = torch.empty(count, dtype=torch.int64)
        inputs = _arrays(density, features, index, distance, origins, directions, offsets)
        number = density.numpy(force=True).dtype.type
        constants = [number(x) for x in (step_size, interval, near, min_raw_density(interval), MIN_TRANSMITTANCE)]
        forward_kernel(*inputs, *constants, *_arrays(out, transmittance, depth, counts))
        ctx.inputs, ctx.constants, ctx.counts = inputs, constants, counts
        ctx.save_for_backward(out, transmittance)
        ctx.mark_non_differentiable(depth)
        return out, transmittance, depth

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        threads = set_threads()
        out, transmittance = ctx.saved_tensors
        density, features, index, *_ = ctx.inputs
        end_samples = ctx.counts.cumsum(0)
        total, first_samples = int(end_samples[-1]), end_samples - ctx.counts
        grad_out, grad_transmittance = (gradient.contiguous() for gradient in gradients[:2])
        cells, sample_rays = torch.empty(total, 3, dtype=torch.int32), torch.empty(total, dtype=torch.int32)
        fractions, weights, grad_raw = out.new_empty(total, 3), out.new_empty(total), out.new_empty(total)
        samples = _arrays(cells, fractions, weights, grad_raw, sample_rays)
        results = _arrays(out, transmittance, first_samples, end_samples, grad_out, grad_transmittance)
        backward_kernel(*ctx.inputs, *ctx.constants, *results, *samples)
        grad_density = torch.zeros(density.shape, dtype=out.dtype)
        grad_features = torch.zeros(features.shape, dtype=out.dtype)
        scatter_kernel(index, *samples, *_arrays(grad_out, grad_density, grad_features), threads)
        if not any(ctx.needs_input_grad[4:6]):
            return grad_density, grad_features, *(None,) * 8
        origins, directions = ctx.inputs[4:6]
        grad_origins, grad_directions = out.new_zeros(len(out), 3), out.new_zeros(len(out), 3)
        spans = _arrays(first_samples, end_samples)
        given = density, features, index, origins, directions, *spans, *samples[:4], grad_out.numpy()
        ray_gradient_kernel(*given, *_arrays(grad_origins, grad_directions))
        return grad_density, grad_features, None, None, grad_origins, grad_directions, *(None,) * 4


def set_threads() -> int:
    """Give numba's parallel loops as many threads as PyTorch has, and return that number."""
    torch_threads = torch.get_num_threads()
    count = min(torch_threads, int(numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(count)
    if torch.get_num_threads() != torch_threads:  # where they share an OpenMP, starting numba sets all cores for both
        torch.set_num_threads(torch_threads)
    return count


def _arrays(*tensors: Tensor) -> list[np.ndarray[Any, Any]]:
    """Return views of CPU tensors as NumPy arrays."""
    return [tensor.detach().numpy() for tensor in tensors]
