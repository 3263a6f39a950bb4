"""The marching of rays through voxels on CPUs: one by one, in parallel, skipping empty space.

This is one file of over 300 lines because numba's cache notices changes only of the file that a kernel is in.
"""

# numba compiles these functions for the types of their arguments, float32 or float64, and caches the result.
from __future__ import annotations

import math
from typing import Any

from numba import njit, prange

FAST = {"contract", "nsz", "arcp", "reassoc", "afn"}  # all but nnan and ninf: NaN and infinity keep their meaning
HALF = 0.5


@njit(cache=True, fastmath=FAST, inline="always")
def _intersect(o: Any, d: Any, top: Any, near: Any) -> Any:
    """Camera z, at least ``near``, at which a ray enters the box [0, top]³, and at which it leaves it.

    A ray that misses the box leaves before it enters.
    """
    t_min, t_max = near, math.inf
    for axis in range(3):
        if d[axis] == 0.0:
            if o[axis] < 0.0 or o[axis] > top:
                t_max = -1.0
        else:
            a, b = -o[axis] / d[axis], (top - o[axis]) / d[axis]
            t_min, t_max = max(t_min, min(a, b)), min(t_max, max(a, b))
    return t_min, t_max


@njit(cache=True, fastmath=FAST)
def _in_level(o: Any, d: Any, side: Any, level: Any) -> Any:
    """Origin and direction of a ray in the grid coordinates of a level; those of level 0 stay as they are."""
    k = 0.5**level
    shift = (1.0 - k) * 0.5 * (side - 1)
    return (o[0] * k + shift, o[1] * k + shift, o[2] * k + shift), (d[0] * k, d[1] * k, d[2] * k)


@njit(cache=True, fastmath=FAST)
def _segment(o: Any, d: Any, side: Any, levels: Any, segment: Any, near: Any) -> Any:
    """Return the level, the ray in its coordinates, and the first and last camera z of one segment of a ray.

    Segments run from the outermost level inwards and out again; the ray leaves an empty one before it enters it.
    """
    inwards = segment < levels - 1
    level = levels - 1 - segment if inwards else segment - levels + 1
    o_level, d_level = _in_level(o, d, side, level)
    start, end = _intersect(o_level, d_level, side - 1.0, near)
    if level > 0:
        o_inner, d_inner = _in_level(o, d, side, level - 1)
        t_in, t_out = _intersect(o_inner, d_inner, side - 1.0, near)
        if inwards:
            end = min(end, t_in) if t_in < t_out else end
        else:
            start = t_out if t_in < t_out else end
    return level, o_level, d_level, start, end


@njit(cache=True, fastmath=FAST, inline="always")
def _cell(x: Any, side: Any) -> Any:
    return min(max(int(x), 0), side - 2)


@njit(cache=True, fastmath=FAST, inline="always")
def _steps_beyond(t_exit: Any, t: Any, dt: Any) -> Any:
    """Number of steps from the sample at ``t`` to the first one beyond ``t_exit``."""
    return max(1, int((t_exit - t) / dt) + 1)


@njit(cache=True, fastmath=FAST, inline="always")
def _empty_block_exit(o: Any, inverse: Any, empty: Any, ix: Any, iy: Any, iz: Any) -> Any:
    """Camera z at which a ray leaves the block of cells less than ``empty`` cells from its own; ``inverse`` is 1/d."""
    x = (ix + (empty if inverse[0] > 0 else 1 - empty) - o[0]) * inverse[0]
    y = (iy + (empty if inverse[1] > 0 else 1 - empty) - o[1]) * inverse[1]
    z = (iz + (empty if inverse[2] > 0 else 1 - empty) - o[2]) * inverse[2]
    return min(x, y, z)


@njit(cache=True, fastmath=FAST, inline="always")
def _inverse(d: Any) -> Any:
    """1/d; where d is 0, a value so large that the ray never leaves a block along that axis."""
    x, y, z = d[0], d[1], d[2]
    return (1.0 / x if x else 1e30), (1.0 / y if y else 1e30), (1.0 / z if z else 1e30)


@njit(cache=True, fastmath=FAST, inline="always")
def _corner_rows(index: Any, ix: Any, iy: Any, iz: Any) -> Any:
    a, b = index[iz, iy], index[iz, iy + 1]
    c, d = index[iz + 1, iy], index[iz + 1, iy + 1]
    return a[ix], a[ix + 1], b[ix], b[ix + 1], c[ix], c[ix + 1], d[ix], d[ix + 1]


@njit(cache=True, fastmath=FAST, inline="always")
def _trilinear_weights(fx: Any, fy: Any, fz: Any) -> Any:
    gx, gy, gz = 1 - fx, 1 - fy, 1 - fz
    p, q, r, s = gy * gz, fy * gz, gy * fz, fy * fz
    return gx * p, fx * p, gx * q, fx * q, gx * r, fx * r, gx * s, fx * s


@njit(cache=True, fastmath=FAST, inline="always")
def _dot(w: Any, v: Any) -> Any:
    return w[0] * v[0] + w[1] * v[1] + w[2] * v[2] + w[3] * v[3] + w[4] * v[4] + w[5] * v[5] + w[6] * v[6] + w[7] * v[7]


@njit(cache=True, fastmath=FAST, inline="always")
def _corner_densities(d: Any, r: Any) -> Any:
    return d[r[0]], d[r[1]], d[r[2]], d[r[3]], d[r[4]], d[r[5]], d[r[6]], d[r[7]]


@njit(cache=True, fastmath=FAST, inline="always")
def _corner_features(f: Any, r: Any, c: Any) -> Any:
    return f[r[0], c], f[r[1], c], f[r[2], c], f[r[3], c], f[r[4], c], f[r[5], c], f[r[6], c], f[r[7], c]


@njit(cache=True, fastmath=FAST, inline="always")
def _softplus(x: Any) -> Any:
    return x if x > 20.0 else math.log1p(math.exp(x))


@njit(parallel=True, cache=True, fastmath=FAST)
def forward_kernel(
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step_size: Any, interval: Any, near: Any, min_raw: Any, min_transmittance: Any,
    out: Any, out_transmittance: Any, out_depth: Any, counts: Any,
) -> None:  # fmt: skip
    """March along all rays.

    The z planes of all levels follow each other in ``index`` and ``distance``. Fills ``out`` ``[R, F]``,
    ``out_transmittance`` ``[R]``, ``out_depth`` ``[R]`` and the number ``counts`` ``[R]`` of contributing samples.
    """
    side, channels = index.shape[1], features.shape[1]
    levels = len(index) // side
    zero, one = density.dtype.type(0), density.dtype.type(1)
    for ray in prange(len(origins)):
        transmittance, depth, count = one, math.inf, 0
        for c in range(channels):
            out[ray, c] = zero
        for segment in range(2 * levels - 1):
            if transmittance < min_transmittance:
                break
            level, o, d, t_min, t_max = _segment(origins[ray], directions[ray], side, levels, segment, near)
            first_plane, first_layer = level * side, level * (side - 1)
            inverse = _inverse(d)
            dt = step_size / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            t = t_min + offsets[ray] * dt
            n = 0
            while t < t_max and transmittance >= min_transmittance:
                x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
                ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
                empty = int(distance[first_layer + iz, iy, ix])
                if empty:
                    n += _steps_beyond(_empty_block_exit(o, inverse, empty, ix, iy, iz), t, dt)
                    t = t_min + (n + offsets[ray]) * dt
                    continue
                w = _trilinear_weights(
                    density.dtype.type(x - ix), density.dtype.type(y - iy), density.dtype.type(z - iz)
                )
                r = _corner_rows(index, ix, iy, first_plane + iz)
                raw = _dot(w, _corner_densities(density, r))
                if raw >= min_raw:
                    step_transmittance = math.exp(-_softplus(raw) * interval)
                    weight = transmittance * (one - step_transmittance)
                    for c in range(channels):
                        out[ray, c] += weight * _dot(w, _corner_features(features, r, c))
                    before = transmittance
                    transmittance *= step_transmittance
                    if before > HALF and transmittance <= HALF:
                        depth = t + (math.log(before / HALF) / math.log(before / transmittance) - 0.5) * dt
                    count += 1
                n += 1
                t = t_min + (n + offsets[ray]) * dt
        out_transmittance[ray], out_depth[ray], counts[ray] = transmittance, depth, count


@njit(parallel=True, cache=True, fastmath=FAST)
def backward_kernel(
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step_size: Any, interval: Any, near: Any, min_raw: Any, min_transmittance: Any,
    out: Any, out_transmittance: Any, first_samples: Any, end_samples: Any, grad_out: Any, grad_transmittance: Any,
    cells: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any,
) -> None:  # fmt: skip
    """March again and record of each contributing sample its cell, position in it, weight and raw density's gradient.

    The contribution of everything behind a sample is the total less what has been passed, so one pass from front to
    back suffices. Ray r owns the records from ``first_samples[r]`` to ``end_samples[r]``, counted by the forward pass.
    The compiler may order floating-point operations differently here; a sample that rounding moves across a threshold
    gets no record, or the ray gets a spare record with zero weight. A cell's z counts the planes of ``index``.
    """
    side, channels = index.shape[1], features.shape[1]
    levels = len(index) // side
    zero, one = density.dtype.type(0), density.dtype.type(1)
    for ray in prange(len(origins)):
        transmittance, behind = one, zero
        for c in range(channels):
            behind += grad_out[ray, c] * out[ray, c]
        background = grad_transmittance[ray] * out_transmittance[ray]
        sample, end_sample = first_samples[ray], end_samples[ray]
        for segment in range(2 * levels - 1):
            if transmittance < min_transmittance or sample >= end_sample:
                break
            level, o, d, t_min, t_max = _segment(origins[ray], directions[ray], side, levels, segment, near)
            first_plane, first_layer = level * side, level * (side - 1)
            inverse = _inverse(d)
            dt = step_size / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            t = t_min + offsets[ray] * dt
            n = 0
            while t < t_max and transmittance >= min_transmittance and sample < end_sample:
                x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
                ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
                empty = int(distance[first_layer + iz, iy, ix])
                if empty:
                    n += _steps_beyond(_empty_block_exit(o, inverse, empty, ix, iy, iz), t, dt)
                    t = t_min + (n + offsets[ray]) * dt
                    continue
                fx, fy, fz = density.dtype.type(x - ix), density.dtype.type(y - iy), density.dtype.type(z - iz)
                w = _trilinear_weights(fx, fy, fz)
                r = _corner_rows(index, ix, iy, first_plane + iz)
                raw = _dot(w, _corner_densities(density, r))
                if raw >= min_raw:
                    step_transmittance = math.exp(-_softplus(raw) * interval)
                    weight = transmittance * (one - step_transmittance)
                    here = zero
                    for c in range(channels):
                        here += grad_out[ray, c] * _dot(w, _corner_features(features, r, c))
                    behind -= weight * here
                    transmittance *= step_transmittance
                    cells[sample, 0], cells[sample, 1], cells[sample, 2] = ix, iy, first_plane + iz
                    fractions[sample, 0], fractions[sample, 1], fractions[sample, 2] = fx, fy, fz
                    weights[sample], rays[sample] = weight, ray
                    grad_raw[sample] = (transmittance * here - behind - background) * interval / (one + math.exp(-raw))
                    sample += 1
                n += 1
                t = t_min + (n + offsets[ray]) * dt
        while sample < end_sample:
            cells[sample, 0], cells[sample, 1], cells[sample, 2] = 0, 0, 0
            fractions[sample, 0], fractions[sample, 1], fractions[sample, 2] = zero, zero, zero
            weights[sample], grad_raw[sample], rays[sample] = zero, zero, ray
            sample += 1


@njit(parallel=True, cache=True, fastmath=FAST)
def scatter_kernel(
    index: Any, cells: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any, grad_out: Any,
    grad_density: Any, grad_features: Any, threads: Any,
) -> None:  # fmt: skip
    """Add the gradients of the recorded samples to those of the voxels.

    Each thread owns every ``threads``-th z plane of voxels, so sums are in the same order for any number of threads.
    """
    channels = grad_features.shape[1]
    for thread in prange(threads):
        for s in range(len(weights)):
            ix, iy, iz = cells[s, 0], cells[s, 1], cells[s, 2]
            fx, fy, fz = fractions[s, 0], fractions[s, 1], fractions[s, 2]
            gradient = grad_out[rays[s]]
            for k in range(2):
                if (iz + k) % threads != thread:
                    continue
                vz = fz if k else 1 - fz
                for j in range(2):
                    vy = vz * (fy if j else 1 - fy)
                    for i in range(2):
                        v = vy * (fx if i else 1 - fx)
                        row = index[iz + k, iy + j, ix + i]
                        if row == 0:
                            continue
                        grad_density[row] += v * grad_raw[s]
                        v *= weights[s]
                        for c in range(channels):
                            grad_features[row, c] += v * gradient[c]


@njit(parallel=True, cache=True, fastmath=FAST)
def ray_gradient_kernel(
    density: Any, features: Any, index: Any, origins: Any, directions: Any, first_samples: Any, end_samples: Any,
    cells: Any, fractions: Any, weights: Any, grad_raw: Any, grad_out: Any, grad_origins: Any, grad_directions: Any,
) -> None:  # fmt: skip
    """Sum the gradients of the recorded samples' positions to those of the rays; each sample stays at its camera z."""
    side, channels = index.shape[1], features.shape[1]
    for ray in prange(len(origins)):
        for s in range(first_samples[ray], end_samples[ray]):
            ix, iy, iz = cells[s, 0], cells[s, 1], cells[s, 2]
            fx, fy, fz = fractions[s, 0], fractions[s, 1], fractions[s, 2]
            gx, gy, gz = 0.0, 0.0, 0.0
            for k in range(2):
                vz, sz = (fz, 1.0) if k else (1 - fz, -1.0)
                for j in range(2):
                    vy, sy = (fy, 1.0) if j else (1 - fy, -1.0)
                    for i in range(2):
                        vx, sx = (fx, 1.0) if i else (1 - fx, -1.0)
                        row = index[iz + k, iy + j, ix + i]
                        value = 0.0
                        for c in range(channels):
                            value += grad_out[ray, c] * features[row, c]
                        value = value * weights[s] + grad_raw[s] * density[row]
                        gx, gy, gz = gx + sx * vy * vz * value, gy + sy * vx * vz * value, gz + sz * vx * vy * value
            level = iz // side
            o, d = _in_level(origins[ray], directions[ray], side, level)
            x, y, z = ix + fx - o[0], iy + fy - o[1], iz - level * side + fz - o[2]
            t = (x * d[0] + y * d[1] + z * d[2]) / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            scale = 0.5**level
            grad_origins[ray, 0] += scale * gx
            grad_origins[ray, 1] += scale * gy
            grad_origins[ray, 2] += scale * gz
            grad_directions[ray, 0] += scale * t * gx
            grad_directions[ray, 1] += scale * t * gy
            grad_directions[ray, 2] += scale * t * gz
