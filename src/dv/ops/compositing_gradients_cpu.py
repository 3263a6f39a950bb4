"""Gradients of compositing on CPUs, from the samples that :mod:`dv.ops.marching_cpu` has recorded."""

# numba compiles these functions for the types of their arguments, float32 or float64, and caches the result.
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from dv.ops.lanes_cpu import FASTMATH, LANES, lane_numbers, spread, total
from dv.ops.lanes_memory_cpu import load, prefetch, prefetch_row, store

LANES_DIGEST = "1560e30e"  # of the sources of lanes: numba compiles again when it changes
AHEAD = 8  # samples between fetching vertices and changing them; records of samples are fetched twice as far ahead


@njit(cache=True, fastmath=FASTMATH)
def _density_gradient_of_block(
    start: Any, samples: Any, rays: Any, grad_out: Any, behind: Any, transmittance: Any,
    weights: Any, slopes: Any, sample_features: Any, grad_raw: Any,
) -> None:  # fmt: skip
    channels = grad_out.shape[1]
    for s in range(start, start + samples):
        ray, weight = rays[s], weights[s]
        products = spread(weights.dtype.type(0))
        for first in range(0, channels, LANES):
            mask = lane_numbers() < channels - first
            value = load(sample_features, s * channels + first, mask)
            products = products + value * load(grad_out, np.int64(ray) * channels + first, mask)
        here = total(products)
        behind[ray] -= weight * here
        transmittance[ray] -= weight
        grad_raw[s] = (transmittance[ray] * here - behind[ray]) * slopes[s]


@njit(parallel=True, cache=True, fastmath=FASTMATH)
def density_gradient_kernel(
    counts: Any, rays: Any, grad_out: Any, behind: Any, transmittance: Any,
    weights: Any, slopes: Any, sample_features: Any, grad_raw: Any,
) -> None:  # fmt: skip
    """Fill the gradient of the raw density of each recorded sample, ``[B·S]``.

    Args:
        counts: as the other records, see :func:`dv.ops.marching_cpu.forward_kernel`.
        rays: likewise.
        grad_out: gradient of the composited features ``[R, F]``.
        behind: ``[R]``, the contribution of a ray's features and transmittance to the loss; what lies behind a sample
            is this total less what has been passed, so one pass from front to back suffices. Changed by it.
        transmittance: ones ``[R]``, changed likewise.
        weights: records.
        slopes: records.
        sample_features: records.
        grad_raw: to be filled.
    """
    size = len(weights) // len(counts)
    for block in prange(len(counts)):
        _density_gradient_of_block(
            block * size, counts[block], rays, grad_out, behind, transmittance,
            weights, slopes, sample_features, grad_raw,
        )  # fmt: skip


@njit(cache=True)
def sort_by_plane(counts: Any, cells: Any, cells_per_plane: Any, ends: Any, order: Any) -> None:
    """Sort the recorded samples, ``counts[b]`` of block b, by the plane of vertices below them; otherwise by number.

    Args:
        counts: ``[B]``.
        cells: ``[B·S]``.
        cells_per_plane: places in a plane of ``index``.
        ends: zeros ``[P + 2]``; the samples of plane p become ``order[ends[p]:ends[p + 1]]``.
        order: filled with numbers of samples in the flattened records.
    """
    size = len(cells) // len(counts)
    for block in range(len(counts)):
        for s in range(block * size, block * size + counts[block]):
            ends[cells[s] // cells_per_plane + 2] += 1
    for p in range(2, len(ends)):
        ends[p] += ends[p - 1]
    for block in range(len(counts)):
        for s in range(block * size, block * size + counts[block]):
            p = cells[s] // cells_per_plane + 1
            order[ends[p]] = s
            ends[p] += 1


@njit(cache=True, inline="always")
def _prefetch_records(
    s: Any, first_corner: Any, corner_rows: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any
) -> None:
    """Fetch what is recorded of sample ``s``; of its eight vertices only the four from ``first_corner`` on."""
    size = len(weights)
    for corner in range(first_corner, first_corner + 4):
        prefetch(corner_rows, corner * size + s)
    for axis in range(3):
        prefetch(fractions, axis * size + s)
    prefetch(weights, s)
    prefetch(grad_raw, s)
    prefetch(rays, s)


@njit(cache=True, fastmath=FASTMATH)
def _scatter_to_plane(
    samples: Any, upper: Any, corner_rows: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any,
    grad_out: Any, grad_density: Any, grad_features: Any,
) -> None:  # fmt: skip
    """Add the gradients of samples to the vertices of the plane below their cells, or of the ``upper`` one."""
    channels, first_corner, one = grad_features.shape[1], 4 * upper, weights.dtype.type(1)
    for i in range(len(samples)):
        if i + 2 * AHEAD < len(samples):
            _prefetch_records(samples[i + 2 * AHEAD], first_corner, corner_rows, fractions, weights, grad_raw, rays)
        if i + AHEAD < len(samples):
            later = samples[i + AHEAD]
            prefetch_row(grad_out, rays[later])
            for corner in range(first_corner, first_corner + 4):
                prefetch_row(grad_features, corner_rows[corner, later])
        s = samples[i]
        fx, fy, vz = fractions[0, s], fractions[1, s], fractions[2, s] if upper else one - fractions[2, s]
        p, q = vz * (one - fy), vz * fy
        v = p * (one - fx), p * fx, q * (one - fx), q * fx
        for corner in range(4):
            grad_density[corner_rows[first_corner + corner, s]] += v[corner] * grad_raw[s]
        for first in range(0, channels, LANES):
            mask = lane_numbers() < channels - first
            gradient = weights[s] * load(grad_out, np.int64(rays[s]) * channels + first, mask)
            for corner in range(4):
                place = np.int64(corner_rows[first_corner + corner, s]) * channels + first
                store(grad_features, place, load(grad_features, place, mask) + v[corner] * gradient, mask)


@njit(parallel=True, cache=True, fastmath=FASTMATH)
def scatter_kernel(
    ends: Any, order: Any, corner_rows: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any,
    grad_out: Any, stride: Any, grad_density: Any, grad_features: Any,
) -> None:  # fmt: skip
    """Add the gradients of the recorded samples to those of the vertices.

    Each plane of vertices belongs to one thread, so sums are in the same order for any number of threads. Only row 0,
    which has vertices in all planes and is constant, gets undefined values. Threads get planes that lie ``stride``
    apart, a number prime to their count.
    """
    planes = len(ends) - 2
    for i in prange(planes):
        p = i * stride % planes
        given = corner_rows, fractions, weights, grad_raw, rays, grad_out, grad_density, grad_features
        _scatter_to_plane(order[ends[p] : ends[p + 1]], 0, *given)
        if p:
            _scatter_to_plane(order[ends[p - 1] : ends[p]], 1, *given)


@njit(parallel=True, cache=True, fastmath=FASTMATH)
def ray_gradient_kernel(
    density: Any, features: Any, side: Any, origins: Any, directions: Any, counts: Any,
    cells: Any, corner_rows: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any, grad_out: Any,
    grad_origins: Any, grad_directions: Any,
) -> None:  # fmt: skip
    """Sum the gradients of the recorded samples' positions to those of the rays; each sample stays at its camera z."""
    channels, size = features.shape[1], len(weights) // len(counts)
    for block in prange(len(counts)):
        for s in range(block * size, block * size + counts[block]):
            ray = rays[s]
            line, ix = divmod(cells[s], side)
            iz, iy = divmod(line, side)
            fx, fy, fz = fractions[0, s], fractions[1, s], fractions[2, s]
            gx, gy, gz = 0.0, 0.0, 0.0
            for k in range(2):
                vz, sz = (fz, 1.0) if k else (1 - fz, -1.0)
                for j in range(2):
                    vy, sy = (fy, 1.0) if j else (1 - fy, -1.0)
                    for n in range(2):
                        vx, sx = (fx, 1.0) if n else (1 - fx, -1.0)
                        row = corner_rows[4 * k + 2 * j + n, s]
                        value = 0.0
                        for c in range(channels):
                            value += grad_out[ray, c] * features[row, c]
                        value = value * weights[s] + grad_raw[s] * density[row]
                        gx += sx * vy * vz * value
                        gy += sy * vx * vz * value
                        gz += sz * vx * vy * value
            level = iz // side
            scale = 0.5**level
            shift = (1.0 - scale) * 0.5 * (side - 1)
            px = (ix + fx - shift) / scale - origins[ray, 0]
            py = (iy + fy - shift) / scale - origins[ray, 1]
            pz = (iz - level * side + fz - shift) / scale - origins[ray, 2]
            dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
            t = (px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz)
            grad_origins[ray, 0] += scale * gx
            grad_origins[ray, 1] += scale * gy
            grad_origins[ray, 2] += scale * gz
            grad_directions[ray, 0] += scale * t * gx
            grad_directions[ray, 1] += scale * t * gy
            grad_directions[ray, 2] += scale * t * gz
