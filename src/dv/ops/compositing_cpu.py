"""Compositing along rays on CPUs: rays march through the voxels one by one, in parallel, and skip what is empty.

What is computed is said in :mod:`dv.ops.compositing`, whose ``composite_by_tensors`` is the same in plain tensors.
"""

# numba compiles these functions for the types they are called with, float32 or float64, and keeps the result.
from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange

FAST = {"contract", "nsz", "arcp", "reassoc", "afn"}  # NaNs and infinities stay what they are
HALF = 0.5


@njit(cache=True, fastmath=FAST, inline="always")
def _span(o: Any, d: Any, top: Any) -> Any:
    """Where a ray enters and leaves the box [0, top]³, behind its origin; leaves before it enters if it misses."""
    enter, leave = 0.0, math.inf
    for axis in range(3):
        if d[axis] == 0.0:
            if o[axis] < 0.0 or o[axis] > top:
                leave = -1.0
        else:
            a, b = -o[axis] / d[axis], (top - o[axis]) / d[axis]
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    return enter, leave


@njit(cache=True, fastmath=FAST, inline="always")
def _cell(x: Any, side: Any) -> Any:
    return min(max(int(x), 0), side - 2)


@njit(cache=True, fastmath=FAST, inline="always")
def _steps_to(edge: Any, t: Any, dt: Any) -> Any:
    """Steps of ``dt`` from a sample at t to the first that lies behind an edge; all in camera z."""
    return max(1, int((edge - t) / dt) + 1)


@njit(cache=True, fastmath=FAST, inline="always")
def _edge(o: Any, inverse: Any, empty: Any, ix: Any, iy: Any, iz: Any) -> Any:
    """Camera z at which a ray leaves the block of cells nearer than ``empty`` cells to its own; 1/d is ``inverse``."""
    x = (ix + (empty if inverse[0] > 0 else 1 - empty) - o[0]) * inverse[0]
    y = (iy + (empty if inverse[1] > 0 else 1 - empty) - o[1]) * inverse[1]
    z = (iz + (empty if inverse[2] > 0 else 1 - empty) - o[2]) * inverse[2]
    return min(x, y, z)


@njit(cache=True, fastmath=FAST, inline="always")
def _inverse(d: Any) -> Any:
    """1/d, where d is 0 too large for that axis to be left first."""
    x, y, z = d[0], d[1], d[2]
    return (1.0 / x if x else 1e30), (1.0 / y if y else 1e30), (1.0 / z if z else 1e30)


@njit(cache=True, fastmath=FAST, inline="always")
def _corners(index: Any, ix: Any, iy: Any, iz: Any) -> Any:
    a, b = index[iz, iy], index[iz, iy + 1]
    c, d = index[iz + 1, iy], index[iz + 1, iy + 1]
    return a[ix], a[ix + 1], b[ix], b[ix + 1], c[ix], c[ix + 1], d[ix], d[ix + 1]


@njit(cache=True, fastmath=FAST, inline="always")
def _weights(fx: Any, fy: Any, fz: Any) -> Any:
    gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
    p, q, r, s = gy * gz, fy * gz, gy * fz, fy * fz
    return gx * p, fx * p, gx * q, fx * q, gx * r, fx * r, gx * s, fx * s


@njit(cache=True, fastmath=FAST, inline="always")
def _sum(w: Any, v: Any) -> Any:
    return w[0] * v[0] + w[1] * v[1] + w[2] * v[2] + w[3] * v[3] + w[4] * v[4] + w[5] * v[5] + w[6] * v[6] + w[7] * v[7]


@njit(cache=True, fastmath=FAST, inline="always")
def _density(d: Any, r: Any) -> Any:
    return d[r[0]], d[r[1]], d[r[2]], d[r[3]], d[r[4]], d[r[5]], d[r[6]], d[r[7]]


@njit(cache=True, fastmath=FAST, inline="always")
def _feature(f: Any, r: Any, c: Any) -> Any:
    return f[r[0], c], f[r[1], c], f[r[2], c], f[r[3], c], f[r[4], c], f[r[5], c], f[r[6], c], f[r[7], c]


@njit(cache=True, fastmath=FAST, inline="always")
def _softplus(x: Any) -> Any:
    return x if x > 20.0 else math.log1p(math.exp(x))


@njit(parallel=True, cache=True, fastmath=FAST)
def forward(
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step: Any, length: Any, least_raw: Any, least_through: Any, out: Any, through: Any, depth: Any, counts: Any,
) -> None:  # fmt: skip
    """Fill ``out`` ``[R, F]``, ``through`` ``[R]``, ``depth`` ``[R]`` and ``counts`` ``[R]`` of samples that count."""
    side, channels = index.shape[0], features.shape[1]
    zero, one = density.dtype.type(0), density.dtype.type(1)
    for ray in prange(len(origins)):
        o, d = origins[ray], directions[ray]
        enter, leave = _span(o, d, side - 1.0)
        inverse = _inverse(d)
        dt = step / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        left, half, count = one, math.inf, 0
        for c in range(channels):
            out[ray, c] = zero
        t = enter + offsets[ray] * dt
        n = 0
        while t < leave and left >= least_through:
            x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
            ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
            empty = int(distance[iz, iy, ix])
            if empty:
                n += _steps_to(_edge(o, inverse, empty, ix, iy, iz), t, dt)
                t = enter + (n + offsets[ray]) * dt
                continue
            w = _weights(density.dtype.type(x - ix), density.dtype.type(y - iy), density.dtype.type(z - iz))
            r = _corners(index, ix, iy, iz)
            raw = _sum(w, _density(density, r))
            if raw >= least_raw:
                stays = math.exp(-_softplus(raw) * length)
                weight = left * (one - stays)
                for c in range(channels):
                    out[ray, c] += weight * _sum(w, _feature(features, r, c))
                before = left
                left *= stays
                if before > HALF and left <= HALF:
                    half = t + (math.log(before / HALF) / math.log(before / left) - 0.5) * dt
                count += 1
            n += 1
            t = enter + (n + offsets[ray]) * dt
        through[ray], depth[ray], counts[ray] = left, half, count


@njit(parallel=True, cache=True, fastmath=FAST)
def backward(
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step: Any, length: Any, least_raw: Any, least_through: Any, out: Any, through: Any, firsts: Any, ends: Any,
    out_gradient: Any, through_gradient: Any, cells: Any, fractions: Any, weights: Any, raw_gradients: Any, rays: Any,
) -> None:  # fmt: skip
    """March again and record each sample that counts: cell, place in it, weight, and the gradient of raw density.

    What lies behind a sample is the whole less what has been passed, so one pass from the front is enough. A ray has
    the records ``firsts`` to ``ends`` that the march forward has counted; should rounding, which the compiler orders
    otherwise here, put a sample on the other side of a threshold, it gets no record, or one of no weight.
    """
    side, channels = index.shape[0], features.shape[1]
    zero, one = density.dtype.type(0), density.dtype.type(1)
    for ray in prange(len(origins)):
        o, d = origins[ray], directions[ray]
        enter, leave = _span(o, d, side - 1.0)
        inverse = _inverse(d)
        dt = step / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        left, behind = one, zero
        for c in range(channels):
            behind += out_gradient[ray, c] * out[ray, c]
        end = through_gradient[ray] * through[ray]
        at, end_of_ray = firsts[ray], ends[ray]
        t = enter + offsets[ray] * dt
        n = 0
        while t < leave and left >= least_through and at < end_of_ray:
            x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
            ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
            empty = int(distance[iz, iy, ix])
            if empty:
                n += _steps_to(_edge(o, inverse, empty, ix, iy, iz), t, dt)
                t = enter + (n + offsets[ray]) * dt
                continue
            fx, fy, fz = density.dtype.type(x - ix), density.dtype.type(y - iy), density.dtype.type(z - iz)
            w = _weights(fx, fy, fz)
            r = _corners(index, ix, iy, iz)
            raw = _sum(w, _density(density, r))
            if raw >= least_raw:
                stays = math.exp(-_softplus(raw) * length)
                weight = left * (one - stays)
                here = zero
                for c in range(channels):
                    here += out_gradient[ray, c] * _sum(w, _feature(features, r, c))
                behind -= weight * here
                left *= stays
                cells[at, 0], cells[at, 1], cells[at, 2] = ix, iy, iz
                fractions[at, 0], fractions[at, 1], fractions[at, 2] = fx, fy, fz
                weights[at], rays[at] = weight, ray
                raw_gradients[at] = (left * here - behind - end) * length / (one + math.exp(-raw))
                at += 1
            n += 1
            t = enter + (n + offsets[ray]) * dt
        while at < end_of_ray:
            cells[at, 0], cells[at, 1], cells[at, 2] = 0, 0, 0
            fractions[at, 0], fractions[at, 1], fractions[at, 2] = zero, zero, zero
            weights[at], raw_gradients[at], rays[at] = zero, zero, ray
            at += 1


@njit(parallel=True, cache=True, fastmath=FAST)
def scatter(
    index: Any, cells: Any, fractions: Any, weights: Any, raw_gradients: Any, rays: Any, out_gradient: Any,
    density_gradient: Any, feature_gradient: Any, parts: Any,
) -> None:  # fmt: skip
    """Add the gradients of the samples to those of the voxels.

    Each thread has planes of voxels of its own, so the sums are those of one thread, in the same order.
    """
    channels = feature_gradient.shape[1]
    for part in prange(parts):
        for s in range(len(weights)):
            ix, iy, iz = cells[s, 0], cells[s, 1], cells[s, 2]
            fx, fy, fz = fractions[s, 0], fractions[s, 1], fractions[s, 2]
            gradient = out_gradient[rays[s]]
            for k in range(2):
                if (iz + k) % parts != part:
                    continue
                vz = fz if k else 1 - fz
                for j in range(2):
                    vy = vz * (fy if j else 1 - fy)
                    for i in range(2):
                        v = vy * (fx if i else 1 - fx)
                        row = index[iz + k, iy + j, ix + i]
                        if row == 0:
                            continue
                        density_gradient[row] += v * raw_gradients[s]
                        v *= weights[s]
                        for c in range(channels):
                            feature_gradient[row, c] += v * gradient[c]


def threads() -> int:
    """Threads that the parallel loops have from now on: as many as PyTorch has, which keeps its number."""
    given = torch.get_num_threads()
    count = min(given, int(numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(count)
    if torch.get_num_threads() != given:  # where both use one OpenMP, numba's start has set all cores for both
        torch.set_num_threads(given)
    return count


def arrays(*tensors: Any) -> list[np.ndarray[Any, Any]]:
    """The memory of CPU tensors as arrays."""
    return [tensor.detach().numpy() for tensor in tensors]
