"""Compositing on CPUs, by the kernels of :mod:`dv.ops.marching_cpu`.

Computes the same as :func:`dv.ops.compositing_reference.composite_reference`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from dv.ops.compositing_reference import MIN_TRANSMITTANCE, CompositeOutput, Rays, min_raw_density
from dv.ops.marching_cpu import (
    RAYS_PER_BLOCK,
    density_gradient_kernel,
    forward_kernel,
    ray_gradient_kernel,
    scatter_kernel,
    sort_by_plane,
)


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float = 0.0,
) -> CompositeOutput:  # fmt: skip
    """Composite CPU tensors, see :func:`dv.ops.compositing.composite`."""
    inputs = density, features, index.flatten(0, 1), distance.flatten(0, 1), *rays
    # known only here: within a Function's forward, gradients are disabled
    is_recorded = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    arguments = *inputs, step_size, interval, near, is_recorded
    return CompositeOutput(*_Composite.apply(*arguments))  # type: ignore[no-untyped-call]


class _Records(NamedTuple):
    """Samples of blocks of rays, ``[B, S]`` each, see :func:`dv.ops.marching_cpu.forward_kernel`."""

    cells: Tensor
    fractions: Tensor
    weights: Tensor
    slopes: Tensor
    values: Tensor

    @classmethod
    def empty(cls, blocks: int, size: int, features: Tensor, index: Tensor) -> _Records:
        """Allocate records of ``size`` samples per block."""
        shape = blocks, size
        places = torch.int32 if index.numel() <= torch.iinfo(torch.int32).max else torch.int64
        cells, (weights, slopes) = torch.empty(shape, dtype=places), features.new_empty(2, *shape).unbind()
        return cls(cells, features.new_empty(*shape, 3), weights, slopes, features.new_empty(*shape, features.shape[1]))


class _Composite(torch.autograd.Function):
    expected_samples = RAYS_PER_BLOCK  # per block; if there are more, rays are marched again

    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, index: Tensor, distance: Tensor,
        origins: Tensor, directions: Tensor, offsets: Tensor, step_size: float, interval: float, near: float,
        is_recorded: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        set_threads()
        count = len(origins)
        out, transmittance, depth = features.new_empty(count, features.shape[1]), *features.new_empty(2, count).unbind()
        blocks = -(-count // RAYS_PER_BLOCK)
        counts = torch.zeros(blocks, RAYS_PER_BLOCK, dtype=torch.int64)
        inputs = _arrays(density, features, index, distance, origins, directions, offsets)
        number = density.numpy(force=True).dtype.type
        constants = [number(x) for x in (step_size, interval, near, min_raw_density(interval), MIN_TRANSMITTANCE)]
        longest = 0
        while True:
            size = max(longest, _Composite.expected_samples) if is_recorded else 0
            records = _Records.empty(blocks, size, features, index)
            results = _arrays(out, transmittance, depth, counts.view(-1), *records)
            forward_kernel(*inputs, *constants, *results)
            longest = int(counts.sum(1).amax()) if blocks else 0
            if not is_recorded or longest <= size:
                break
        if is_recorded:
            _Composite.expected_samples = longest + longest // 4
            ctx.inputs, ctx.counts, ctx.records = inputs, counts, records
            ctx.save_for_backward(out, transmittance)
        ctx.mark_non_differentiable(depth)
        return out, transmittance, depth

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        set_threads()
        out, transmittance = ctx.saved_tensors
        density, features, index, *_ = ctx.inputs
        cells, fractions, weights, slopes, values = _arrays(*ctx.records)
        counts = ctx.counts.view(-1).numpy()
        grad_out, grad_transmittance = _arrays(*(gradient.contiguous() for gradient in gradients[:2]))
        grad_raw, rays = np.empty_like(weights), np.empty(weights.shape, np.int32)
        given = *_arrays(out, transmittance), counts, grad_out, grad_transmittance
        density_gradient_kernel(*given, weights, slopes, values, grad_raw, rays)
        ends, order = np.zeros(len(index) + 2, np.int64), np.empty(int(counts.sum()), np.int64)
        sort_by_plane(ctx.counts.sum(1).numpy(), cells, index.shape[1] * index.shape[2], ends, order)
        grad_density = torch.zeros(density.shape, dtype=out.dtype)
        grad_features = torch.zeros(features.shape, dtype=out.dtype)
        flat = cells.ravel(), fractions.reshape(-1, 3), weights.ravel(), grad_raw.ravel(), rays.ravel(), grad_out
        scatter_kernel(ends, order, index, *flat, _stride(len(index)), *_arrays(grad_density, grad_features))
        grad_density[0], grad_features[0] = 0, 0
        if not any(ctx.needs_input_grad[4:6]):
            return grad_density, grad_features, *(None,) * 9
        origins, directions = ctx.inputs[4:6]
        grad_origins, grad_directions = out.new_zeros(len(out), 3), out.new_zeros(len(out), 3)
        given = density, features, index, origins, directions, counts
        samples = cells, fractions, weights, grad_raw, grad_out
        ray_gradient_kernel(*given, *samples, *_arrays(grad_origins, grad_directions))
        return grad_density, grad_features, None, None, grad_origins, grad_directions, *(None,) * 5


def _stride(count: int) -> int:
    """Return a number that is prime to ``count``, and whose multiples are spread evenly: about its golden section."""
    stride = max(1, round(0.618 * count))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


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
