"""Compositing on CPUs, by the kernels of :mod:`dv.ops.marching_cpu`.

Computes the same as :func:`dv.ops.compositing_reference.composite_reference`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dv.ops.compositing_gradients_cpu import (
    density_gradient_kernel,
    ray_gradient_kernel,
    scatter_kernel,
    sort_by_plane,
)
from dv.ops.compositing_reference import MIN_TRANSMITTANCE, CompositeOutput, Rays, min_raw_density
from dv.ops.lanes_cpu import LANES
from dv.ops.marching_cpu import RAYS_PER_BLOCK, forward_kernel

SCRATCH_SIZE = 1024  # samples per thread whose features are not recorded


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float = 0.0,
) -> CompositeOutput:  # fmt: skip
    """Composite CPU tensors, see :func:`dv.ops.compositing.composite`."""
    given = density, features, index.flatten(0, 1), distance.flatten(0, 1), *rays
    inputs = [x.contiguous() for x in given]  # as kernels need them
    # known only here: within a Function's forward, gradients are disabled
    is_recorded = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    arguments = *inputs, step_size, interval, near, is_recorded
    return CompositeOutput(*_Composite.apply(*arguments))  # type: ignore[no-untyped-call]


class Records(NamedTuple):
    """The contributing samples of rays by block: B blocks of :data:`RAYS_PER_BLOCK` rays, S samples or fewer in each.

    Args:
        counts: samples of each block ``[B]``, those of a ray from front to back.
        cells: places of the samples' cells in the flattened index ``[B·S]``.
        corner_rows: rows of the cells' vertices ``[8, B·S]``, x first.
        fractions: places in the cells ``[3, B·S]`` (x, y, z), in [0, 1].
        weights: shares of the samples in their rays' features ``[B·S]``.
        slopes: derivatives of the samples' optical depths by their raw densities ``[B·S]``.
        rays: numbers of the samples' rays ``[B·S]``.
        features: of the samples ``[B·S, F]``.
    """

    counts: Tensor
    cells: Tensor
    corner_rows: Tensor
    fractions: Tensor
    weights: Tensor
    slopes: Tensor
    rays: Tensor
    features: Tensor

    @property
    def largest_block(self) -> int:
        """Samples of the block that has the most."""
        return int(self.counts.amax()) if len(self.counts) else 0

    @classmethod
    def empty(cls, blocks: int, size: int, features: Tensor, are_features_kept: bool) -> Records:
        """Allocate records of ``size`` samples in each of some blocks."""
        total = blocks * size
        return cls(
            torch.zeros(blocks, dtype=torch.int64),
            torch.empty(total, dtype=torch.int32),
            torch.empty(8, total, dtype=torch.int32),
            features.new_empty(3, total),
            features.new_empty(total),
            features.new_empty(total),
            torch.empty(total, dtype=torch.int32),
            features.new_empty(total if are_features_kept else 0, features.shape[1]),
        )


def march(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float, room: int,
) -> tuple[CompositeOutput, Records]:  # fmt: skip
    """Composite without gradients, and record the samples that contribute.

    Args:
        density: as the others, see :func:`dv.ops.compositing.composite`.
        features: likewise.
        index: ``[L·G, G, G]``, the planes of all levels; like all tensors contiguous.
        distance: ``[L·(G-1), G-1, G-1]``, likewise.
        rays: R rays.
        step_size: as there.
        interval: likewise.
        near: likewise.
        room: samples per block that can be recorded, 0 for none; if there are more, rays are marched again.

    Raises:
        ValueError: if the grid has 2³¹ vertices or more, stored or not, or there are as many numbers in the rays.
    """
    threads, count = set_threads(), len(rays.origins)
    if max(index.numel(), 3 * count) > torch.iinfo(torch.int32).max:
        raise ValueError(
            f"{index.numel()} vertices and {count} rays are too many for CPU kernels, which have 2³¹ places"
        )
    transmittance, depth = features.new_empty(2, count).unbind()
    inputs = _arrays(density, features, index, _padded(distance), *rays)
    number = density.numpy(force=True).dtype.type
    constants = [number(x) for x in (step_size, interval, near, min_raw_density(interval), MIN_TRANSMITTANCE)]
    while True:
        out = features.new_zeros(count, features.shape[1])
        blocks = -(-count // RAYS_PER_BLOCK) if room else threads
        records = Records.empty(blocks, (room or SCRATCH_SIZE) + LANES, features, room > 0)
        forward_kernel(*inputs, *constants, *_arrays(out, transmittance, depth, *records))
        if not room or records.largest_block <= room:
            return CompositeOutput(out, transmittance, depth), records
        room = records.largest_block


class _Composite(torch.autograd.Function):
    room = RAYS_PER_BLOCK  # for the samples of the next rays, see march

    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, index: Tensor, distance: Tensor,
        origins: Tensor, directions: Tensor, offsets: Tensor, step_size: float, interval: float, near: float,
        is_recorded: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        inputs = density, features, index, distance
        rays = Rays(origins, directions, offsets)
        output, records = march(*inputs, rays, step_size, interval, near, _Composite.room if is_recorded else 0)
        if is_recorded:
            _Composite.room = max(1, records.largest_block * 5 // 4)
            ctx.inputs, ctx.records = _arrays(*inputs, *rays), records
            ctx.save_for_backward(output.features, output.transmittance)
        ctx.mark_non_differentiable(output.depth)
        return tuple(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        set_threads()
        out, transmittance = ctx.saved_tensors
        density, features, index, *_ = ctx.inputs
        counts, cells, corner_rows, fractions, weights, slopes, rays, sample_features = _arrays(*ctx.records)
        grad_composited, grad_transmittance = (gradient.contiguous() for gradient in gradients[:2])
        contribution = (grad_composited * out).sum(1) + grad_transmittance * transmittance
        grad_out, grad_raw = grad_composited.numpy(), np.empty_like(weights)
        state = _arrays(contribution, torch.ones_like(transmittance))
        density_gradient_kernel(counts, rays, grad_out, *state, weights, slopes, sample_features, grad_raw)
        ends, order = np.zeros(len(index) + 2, np.int64), np.empty(int(counts.sum()), np.int64)
        sort_by_plane(counts, cells, index.shape[1] * index.shape[2], ends, order)
        grad_density = torch.zeros(density.shape, dtype=out.dtype)
        grad_features = torch.zeros(features.shape, dtype=out.dtype)
        samples = corner_rows, fractions, weights, grad_raw, rays, grad_out
        scatter_kernel(ends, order, *samples, plane_stride(len(index)), *_arrays(grad_density, grad_features))
        grad_density[0], grad_features[0] = 0, 0
        if not any(ctx.needs_input_grad[4:6]):
            return grad_density, grad_features, *(None,) * 9
        origins, directions = ctx.inputs[4:6]
        grad_origins, grad_directions = out.new_zeros(len(out), 3), out.new_zeros(len(out), 3)
        given = density, features, index.shape[1], origins, directions, counts, cells, *samples
        ray_gradient_kernel(*given, *_arrays(grad_origins, grad_directions))
        return grad_density, grad_features, None, None, grad_origins, grad_directions, *(None,) * 5


def plane_stride(count: int) -> int:
    """Return a number that is prime to ``count``, and whose multiples are spread evenly: about its golden section."""
    stride = max(1, round(0.618 * count))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def _padded(distance: Tensor) -> Tensor:
    """Return the distances with at least the four bytes that kernels read at once."""
    flat = distance.flatten()
    return flat if len(flat) >= 4 else F.pad(flat, (0, 3))


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
