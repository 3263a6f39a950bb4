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
RAYS_PER_BLOCK = 64  # whose samples are recorded next to each other


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
def _steps_beyond(t_exit: Any, t: Any, steps_per_t: Any) -> Any:
    """Number of steps from the sample at ``t`` to the first one beyond ``t_exit``."""
    return max(1, int((t_exit - t) * steps_per_t) + 1)


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


@njit(parallel=True, cache=True, fastmath=FAST)
def forward_kernel(
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step_size: Any, interval: Any, near: Any, min_raw: Any, min_transmittance: Any,
    out: Any, out_transmittance: Any, out_depth: Any, counts: Any,
    cells: Any, fractions: Any, weights: Any, slopes: Any, sample_features: Any,
) -> None:  # fmt: skip
    """March along all rays, and record their contributing samples.

    The z planes of all levels follow each other in ``index`` and ``distance``. Fills ``out`` ``[R, F]``,
    ``out_transmittance`` ``[R]``, ``out_depth`` ``[R]`` and the number ``counts`` ``[R]`` of contributing samples.

    The samples of a block of :data:`RAYS_PER_BLOCK` rays follow each other in the records ``[B, S]``: the cell, as its
    place in ``index``; the position in it (x, y, z); the weight; the derivative of the optical depth by the raw
    density; and the features. Where a block has more than S samples, the others are not recorded.
    """
    side, channels = index.shape[1], features.shape[1]
    levels = len(index) // side
    blocks, size = weights.shape
    zero, one = density.dtype.type(0), density.dtype.type(1)
    for block in prange(blocks):
        sample = 0
        for ray in range(block * RAYS_PER_BLOCK, min((block + 1) * RAYS_PER_BLOCK, len(origins))):
            transmittance, depth, first_sample = one, math.inf, sample
            for c in range(channels):
                out[ray, c] = zero
            for segment in range(2 * levels - 1):
                if transmittance < min_transmittance:
                    break
                level, o, d, t_min, t_max = _segment(origins[ray], directions[ray], side, levels, segment, near)
                first_plane, first_layer = level * side, level * (side - 1)
                inverse = _inverse(d)
                dt = step_size / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
                steps_per_t = 1.0 / dt
                t = t_min + offsets[ray] * dt
                n = 0
                while t < t_max and transmittance >= min_transmittance:
                    x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
                    ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
                    empty = int(distance[first_layer + iz, iy, ix])
                    if empty:
                        n += _steps_beyond(_empty_block_exit(o, inverse, empty, ix, iy, iz), t, steps_per_t)
                        t = t_min + (n + offsets[ray]) * dt
                        continue
                    fx, fy, fz = density.dtype.type(x - ix), density.dtype.type(y - iy), density.dtype.type(z - iz)
                    w = _trilinear_weights(fx, fy, fz)
                    r = _corner_rows(index, ix, iy, first_plane + iz)
                    raw = _dot(w, _corner_densities(density, r))
                    if raw >= min_raw:
                        e = math.exp(-raw)
                        step_transmittance = math.exp(-(raw + math.log(one + e)) * interval)  # softplus(raw)
                        before = transmittance
                        transmittance *= step_transmittance
                        weight = before - transmittance
                        if before > HALF and transmittance <= HALF:
                            depth = t + (math.log(before / HALF) / math.log(before / transmittance) - 0.5) * dt
                        if sample >= size:
                            for c in range(channels):
                                out[ray, c] += weight * _dot(w, _corner_features(features, r, c))
                        else:
                            for c in range(channels):
                                value = _dot(w, _corner_features(features, r, c))
                                sample_features[block, sample, c] = value
                                out[ray, c] += weight * value
                            cells[block, sample] = ((first_plane + iz) * side + iy) * side + ix
                            place = fractions[block, sample]
                            place[0], place[1], place[2] = fx, fy, fz
                            weights[block, sample], slopes[block, sample] = weight, interval / (one + e)
                        sample += 1
                    n += 1
                    t = t_min + (n + offsets[ray]) * dt
            out_transmittance[ray], out_depth[ray], counts[ray] = transmittance, depth, sample - first_sample


@njit(parallel=True, cache=True, fastmath=FAST)
def density_gradient_kernel(
    out: Any, out_transmittance: Any, counts: Any, grad_out: Any, grad_transmittance: Any,
    weights: Any, slopes: Any, sample_features: Any, grad_raw: Any, rays: Any,
) -> None:  # fmt: skip
    """Fill the gradient of the raw density and the ray of each recorded sample, ``[B, S]``.

    The contribution of everything behind a sample is the total less what has been passed, so one pass from front to
    back suffices.
    """
    channels, blocks = out.shape[1], len(weights)
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for block in prange(blocks):
        s = 0
        for ray in range(block * RAYS_PER_BLOCK, min((block + 1) * RAYS_PER_BLOCK, len(out))):
            behind, transmittance = grad_transmittance[ray] * out_transmittance[ray], one
            for c in range(channels):
                behind += grad_out[ray, c] * out[ray, c]
            for _ in range(counts[ray]):
                here = zero
                for c in range(channels):
                    here += grad_out[ray, c] * sample_features[block, s, c]
                behind -= weights[block, s] * here
                transmittance -= weights[block, s]
                grad_raw[block, s] = (transmittance * here - behind) * slopes[block, s]
                rays[block, s] = ray
                s += 1


@njit(cache=True)
def sort_by_plane(counts: Any, cells: Any, cells_per_plane: Any, ends: Any, order: Any) -> None:
    """Sort the recorded samples, ``counts[b]`` of block b, by the plane of vertices below them; otherwise by number.

    Args:
        counts: ``[B]``.
        cells: ``[B, S]``.
        cells_per_plane: places in a plane of ``index``.
        ends: zeros ``[P + 2]``; the samples of plane p become ``order[ends[p]:ends[p + 1]]``.
        order: filled with numbers of samples in the flattened records.
    """
    size = cells.shape[1]
    for block in range(len(counts)):
        for s in range(counts[block]):
            ends[cells[block, s] // cells_per_plane + 2] += 1
    for p in range(2, len(ends)):
        ends[p] += ends[p - 1]
    for block in range(len(counts)):
        for s in range(counts[block]):
            p = cells[block, s] // cells_per_plane + 1
            order[ends[p]] = block * size + s
            ends[p] += 1


@njit(cache=True, fastmath=FAST)
def _scatter_to_plane(
    samples: Any, upper: Any, index: Any, cells: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any,
    grad_out: Any, grad_density: Any, grad_features: Any,
) -> None:  # fmt: skip
    """Add the gradients of samples to the vertices of the plane below their cells, or of the ``upper`` one."""
    side, channels = index.shape[1], grad_features.shape[1]
    for s in samples:
        line, ix = divmod(cells[s], side)
        plane, iy = divmod(line, side)
        row, next_row = index[plane + upper, iy], index[plane + upper, iy + 1]
        r0, r1, r2, r3 = row[ix], row[ix + 1], next_row[ix], next_row[ix + 1]
        fx, fy, vz = fractions[s, 0], fractions[s, 1], fractions[s, 2] if upper else 1 - fractions[s, 2]
        p, q = vz * (1 - fy), vz * fy
        v0, v1, v2, v3 = p * (1 - fx), p * fx, q * (1 - fx), q * fx
        grad_density[r0] += v0 * grad_raw[s]
        grad_density[r1] += v1 * grad_raw[s]
        grad_density[r2] += v2 * grad_raw[s]
        grad_density[r3] += v3 * grad_raw[s]
        ray, weight = rays[s], weights[s]
        v0, v1, v2, v3 = v0 * weight, v1 * weight, v2 * weight, v3 * weight
        for c in range(channels):
            grad_features[r0, c] += v0 * grad_out[ray, c]
        for c in range(channels):
            grad_features[r1, c] += v1 * grad_out[ray, c]
        for c in range(channels):
            grad_features[r2, c] += v2 * grad_out[ray, c]
        for c in range(channels):
            grad_features[r3, c] += v3 * grad_out[ray, c]


@njit(parallel=True, cache=True, fastmath=FAST)
def scatter_kernel(
    ends: Any, order: Any, index: Any, cells: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any,
    grad_out: Any, stride: Any, grad_density: Any, grad_features: Any,
) -> None:  # fmt: skip
    """Add the gradients of the recorded samples, flattened to ``[B·S]``, to those of the vertices.

    Each plane of vertices belongs to one thread, so sums are in the same order for any number of threads. Only row 0,
    which has vertices in all planes and is constant, gets undefined values. Threads get planes that lie ``stride``
    apart, a number prime to their count.
    """
    for i in prange(len(index)):
        p = i * stride % len(index)
        given = index, cells, fractions, weights, grad_raw, rays, grad_out, grad_density, grad_features
        _scatter_to_plane(order[ends[p] : ends[p + 1]], 0, *given)
        if p:
            _scatter_to_plane(order[ends[p - 1] : ends[p]], 1, *given)


@njit(parallel=True, cache=True, fastmath=FAST)
def ray_gradient_kernel(
    density: Any, features: Any, index: Any, origins: Any, directions: Any, counts: Any,
    cells: Any, fractions: Any, weights: Any, grad_raw: Any, grad_out: Any, grad_origins: Any, grad_directions: Any,
) -> None:  # fmt: skip
    """Sum the gradients of the recorded samples' positions to those of the rays; each sample stays at its camera z."""
    side, channels = index.shape[1], features.shape[1]
    blocks = len(weights)
    for block in prange(blocks):
        s = 0
        for ray in range(block * RAYS_PER_BLOCK, min((block + 1) * RAYS_PER_BLOCK, len(origins))):
            for _ in range(counts[ray]):
                line, ix = divmod(cells[block, s], side)
                iz, iy = divmod(line, side)
                fx, fy, fz = fractions[block, s, 0], fractions[block, s, 1], fractions[block, s, 2]
                gx, gy, gz = 0.0, 0.0, 0.0
                for k in range(2):
                    vz, sz = (fz, 1.0) if k else (1 - fz, -1.0)
                    for j in range(2):
                        vy, sy = (fy, 1.0) if j else (1 - fy, -1.0)
                        for n in range(2):
                            vx, sx = (fx, 1.0) if n else (1 - fx, -1.0)
                            row = index[iz + k, iy + j, ix + n]
                            value = 0.0
                            for c in range(channels):
                                value += grad_out[ray, c] * features[row, c]
                            value = value * weights[block, s] + grad_raw[block, s] * density[row]
                            gx += sx * vy * vz * value
                            gy += sy * vx * vz * value
                            gz += sz * vx * vy * value
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
                s += 1
