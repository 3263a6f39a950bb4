"""The marching of rays through voxels on CPUs: one in each lane of a vector, in parallel, skipping empty space.

This is one file of over 300 lines because numba's cache notices changes only of the file that a kernel is in.
"""

# numba compiles these functions for the types of their arguments, float32 or float64, and caches the result.
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import get_thread_id, njit, prange

from dv.ops.lanes_cpu import (
    FAST,
    LANES,
    count,
    equal,
    exponential,
    lane_numbers,
    log_1_plus,
    maximum,
    minimum,
    no,
    select,
    spread,
    square_root,
    to_float,
    to_int,
    total,
)
from dv.ops.lanes_memory_cpu import append, gather, gather_bytes, load, prefetch, scatter, spread_from, store

FASTMATH = set(FAST)
RAYS_PER_BLOCK = 8 * LANES  # whose samples are recorded next to each other
LN_2 = math.log(2)
FAR = 1e30  # camera z that no ray reaches
MAX_STEPS = 1e6  # at once
MIN_IDLE = 4  # lanes that have finished, for all to wait until these have new rays
SKIP_PREFERENCE = 2  # lanes skip if they are the majority
AHEAD = 12  # samples whose rows are fetched before they are needed


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _intersect_axis(o: Any, d: Any, top: Any, t_min: Any, t_max: Any) -> Any:
    is_parallel = equal(d, 0.0)
    a, b = (0.0 - o) / d, (top - o) / d
    all_or_none = select((o >= 0.0) & (o <= top), t_max, -1.0)
    t_max = minimum(t_max, select(is_parallel, all_or_none, maximum(a, b)))
    return maximum(t_min, select(is_parallel, t_min, minimum(a, b))), t_max


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _intersect(o: Any, d: Any, top: Any, near: Any) -> Any:
    """Camera z, at least ``near``, at which rays enter the box [0, top]³, and at which they leave it.

    A ray that misses the box leaves before it enters.
    """
    t_min, t_max = spread(near), spread(near) * 0.0 + FAR
    t_min, t_max = _intersect_axis(o[0], d[0], top, t_min, t_max)
    t_min, t_max = _intersect_axis(o[1], d[1], top, t_min, t_max)
    return _intersect_axis(o[2], d[2], top, t_min, t_max)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _in_level(o: Any, d: Any, side: Any, k: Any) -> Any:
    """Origins and directions of rays in the grid coordinates of levels whose scale ``k`` is 1/2 to their power."""
    shift = (1.0 - k) * (0.5 * (side - 1))
    return (o[0] * k + shift, o[1] * k + shift, o[2] * k + shift), (d[0] * k, d[1] * k, d[2] * k)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _segment(o: Any, d: Any, side: Any, levels: Any, segment: Any, scales: Any, near: Any) -> Any:
    """Return the levels of rays' segments, the rays in their coordinates, and the segments' first and last camera z.

    Segments run from the outermost level inwards and out again; a ray leaves an empty one before it enters it.
    ``scales`` are those of the levels.
    """
    level = maximum(segment, 2 * (levels - 1) - segment) - (levels - 1)
    k = gather(scales, level, level >= 0)
    o_level, d_level = _in_level(o, d, side, k)
    start, end = _intersect(o_level, d_level, side - 1.0, near)
    if levels > 1:
        o_inner, d_inner = _in_level(o, d, side, k * 2.0)
        t_in, t_out = _intersect(o_inner, d_inner, side - 1.0, near)
        has_inner, inwards = level > 0, segment < levels - 1
        is_split = has_inner & (t_in < t_out)
        end = select(is_split & inwards, minimum(end, t_in), end)
        start = select(is_split & no(inwards), t_out, start)
        start = select(has_inner & no(is_split | inwards), end, start)  # that segment is part of the inward one
    return level, o_level, d_level, start, end


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _cell(x: Any, side: Any) -> Any:
    return to_int(minimum(maximum(x, 0.0), side - 2))


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _inverse(d: Any) -> Any:
    """1/d; where d is 0, a value so large that a ray never leaves a block of cells along that axis."""
    return select(equal(d, 0.0), FAR, 1.0 / d)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _exit_along(o: Any, inverse: Any, cell: Any, empty: Any) -> Any:
    """Camera z at which rays leave, along one axis, the cells less than ``empty`` cells from their own."""
    return (select(inverse > 0.0, cell + empty, cell - empty + 1.0) - o) * inverse


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _trilinear_weights(fx: Any, fy: Any, fz: Any, one: Any) -> Any:
    """Weights of the eight corners at places in cells, scalars or lanes; ``one`` is 1 in their type of number."""
    gx, gy, gz = one - fx, one - fy, one - fz
    p, q, r, s = gy * gz, fy * gz, gy * fz, fy * fz
    return gx * p, fx * p, gx * q, fx * q, gx * r, fx * r, gx * s, fx * s


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _corner_rows(index: Any, place: Any, side: Any, mask: Any) -> Any:
    """Rows of the eight vertices of cells, whose lowest one is at ``place`` of the flattened index."""
    a, c = place + side, place + side * side
    b = c + side
    return (
        gather(index, place, mask), gather(index, place + 1, mask), gather(index, a, mask), gather(index, a + 1, mask),
        gather(index, c, mask), gather(index, c + 1, mask), gather(index, b, mask), gather(index, b + 1, mask),
    )  # fmt: skip


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _interpolated_density(density: Any, r: Any, w: Any, mask: Any) -> Any:
    raw = w[0] * gather(density, r[0], mask) + w[1] * gather(density, r[1], mask)
    raw = raw + w[2] * gather(density, r[2], mask) + w[3] * gather(density, r[3], mask)
    raw = raw + w[4] * gather(density, r[4], mask) + w[5] * gather(density, r[5], mask)
    return raw + w[6] * gather(density, r[6], mask) + w[7] * gather(density, r[7], mask)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _prefetch(table: Any, channels: Any, rows: Any, s: Any, first_corner: Any, corners: Any) -> None:
    """Fetch what sample ``s`` needs of ``table`` ``[N, F]``, both ends of its rows at some corners."""
    for corner in range(first_corner, first_corner + corners):
        place = np.int64(rows[corner, s]) * channels
        prefetch(table, place)
        prefetch(table, place + channels - 1)


@njit(cache=True, fastmath=FASTMATH)
def _add_features(
    samples: Any, features: Any, start: Any, corner_rows: Any, fractions: Any, weights: Any, rays: Any,
    sample_features: Any, out: Any,
) -> None:  # fmt: skip
    """Interpolate the features of samples from ``start`` on in the flattened records, and add them to their rays."""
    channels, is_recorded, one = features.shape[1], len(sample_features) > 0, weights.dtype.type(1)
    for s in range(start, start + samples):
        _prefetch(features, channels, corner_rows, min(s + AHEAD, start + samples - 1), 0, 8)
        w = _trilinear_weights(fractions[0, s], fractions[1, s], fractions[2, s], one)
        place = np.int64(rays[s]) * channels
        for first in range(0, channels, LANES):
            mask = lane_numbers() < channels - first
            value = w[0] * load(features, np.int64(corner_rows[0, s]) * channels + first, mask)
            for corner in range(1, 8):
                value = value + w[corner] * load(features, np.int64(corner_rows[corner, s]) * channels + first, mask)
            if is_recorded:
                store(sample_features, s * channels + first, value, mask)
            store(out, place + first, load(out, place + first, mask) + weights[s] * value, mask)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _gather_points(table: Any, rows: Any, mask: Any) -> Any:
    """Gather the three columns of rows of ``table`` ``[R, 3]``."""
    place = rows * 3
    return gather(table, place, mask), gather(table, place + 1, mask), gather(table, place + 2, mask)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _where(mask: Any, a: Any, b: Any) -> Any:
    return select(mask, a[0], b[0]), select(mask, a[1], b[1]), select(mask, a[2], b[2])


@njit(cache=True, fastmath=FASTMATH)
def _march_block(
    first_ray: Any, last_ray: Any, start_of_records: Any, size: Any,
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step_size: Any, interval: Any, near: Any, min_raw: Any, min_transmittance: Any,
    out: Any, out_transmittance: Any, out_depth: Any,
    cells: Any, corner_rows: Any, fractions: Any, weights: Any, slopes: Any, rays: Any, sample_features: Any,
) -> Any:  # fmt: skip
    """March along the rays of a block, see :func:`forward_kernel`, and return their number of samples.

    Each lane marches along one segment of a ray; lanes that have finished theirs go on with others. Most of the lanes
    either skip empty space or take a sample, and the others wait.
    """
    side, levels = index.shape[1], len(index) // index.shape[1]
    is_recorded, last_start, total_size = len(sample_features) > 0, size - LANES, len(weights)
    records = features, start_of_records, corner_rows, fractions, weights, rays, sample_features, out
    numbers = np.arange(first_ray, last_ray + LANES).astype(np.int32)
    scales = np.empty(levels, density.dtype)
    for level in range(levels):
        scales[level] = 0.5**level
    zero = spread(interval) * 0.0
    number = segment = first_plane = first_layer = lane_numbers() * 0
    transmittance = passed = depth = offset = n = start = end = dt = steps_per_t = zero  # passed: optical depth
    o = d = inverse = zero, zero, zero
    is_used = zero > 0.0
    samples, waiting = 0, first_ray
    while True:
        t = start + (n + offset) * dt
        active = is_used & (t < end) & (transmittance >= min_transmittance)
        working = count(active)
        if working == 0 or (working <= LANES - MIN_IDLE and waiting < last_ray):
            idle = no(active)
            goes_on = is_used & idle & (segment < 2 * levels - 2) & (transmittance >= min_transmittance)
            is_over, is_new = is_used & idle & no(goes_on), idle & no(goes_on)
            scatter(out_transmittance, number, transmittance, is_over)
            scatter(out_depth, number, depth, is_over)
            number = select(is_new, spread_from(numbers, waiting - first_ray, is_new), number)
            is_new = is_new & (number < last_ray)
            waiting += count(is_new)
            changed = goes_on | is_new
            is_used = active | changed
            if not count(is_used):
                break
            segment = select(is_new, lane_numbers() * 0, segment + select(goes_on, lane_numbers() * 0 + 1, 0))
            o_world, d_world = _gather_points(origins, number, changed), _gather_points(directions, number, changed)
            level, new_o, new_d, new_start, new_end = _segment(o_world, d_world, side, levels, segment, scales, near)
            o, d = _where(changed, new_o, o), _where(changed, new_d, d)
            inverse = _inverse(d[0]), _inverse(d[1]), _inverse(d[2])
            steps_per_t = square_root(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) / step_size
            dt = 1.0 / steps_per_t
            start, end, n = select(changed, new_start, start), select(changed, new_end, end), select(changed, zero, n)
            first_plane = select(changed, level * side, first_plane)
            first_layer = select(changed, level * (side - 1), first_layer)
            offset = select(is_new, gather(offsets, number, is_new), offset)
            transmittance, passed = select(is_new, 1.0, transmittance), select(is_new, zero, passed)
            depth = select(is_new, math.inf, depth)
            continue
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
        cell_x, cell_y, cell_z = to_float(ix, interval), to_float(iy, interval), to_float(iz, interval)
        layer = (iz + first_layer) * (side - 1) + iy
        distances = gather_bytes(distance, layer * (side - 1) + ix, active)
        is_empty = active & (distances > 0)
        skipping = count(is_empty)
        if skipping * SKIP_PREFERENCE >= working:
            empty = to_float(distances, interval)
            exit_x = _exit_along(o[0], inverse[0], cell_x, empty)
            exit_y = _exit_along(o[1], inverse[1], cell_y, empty)
            exit_z = _exit_along(o[2], inverse[2], cell_z, empty)
            leave = minimum(minimum(exit_x, exit_y), exit_z)
            steps = to_float(to_int(minimum((leave - t) * steps_per_t, MAX_STEPS)), interval) + 1.0
            n = n + select(is_empty, maximum(steps, 1.0), 0.0)
            continue
        occupied = active & no(is_empty)
        fx, fy, fz = x - cell_x, y - cell_y, z - cell_z
        place = ((iz + first_plane) * side + iy) * side + ix
        corners = _corner_rows(index, place, side, occupied)
        raw = _interpolated_density(density, corners, _trilinear_weights(fx, fy, fz, 1.0), occupied)
        n = n + select(occupied, zero + 1.0, 0.0)
        counted = occupied & (raw >= min_raw)
        new = count(counted)
        if not new:
            continue
        e = exponential(minimum(raw, 0.0 - raw))
        optical_depth = (maximum(raw, 0.0) + log_1_plus(e)) * interval  # of softplus(raw)
        before = transmittance
        transmittance = select(counted, before * exponential(0.0 - optical_depth), before)
        is_median = counted & (before > 0.5) & (transmittance <= 0.5)
        depth = select(is_median, t + ((LN_2 - passed) / optical_depth - 0.5) * dt, depth)
        passed = passed + select(counted, optical_depth, 0.0)
        if samples > last_start and not is_recorded:
            _add_features(samples, *records)
            samples = 0
        if samples <= last_start:
            to = start_of_records + samples
            append(cells, to, place, counted)
            append(corner_rows, to, corners[0], counted)
            append(corner_rows, to + total_size, corners[1], counted)
            append(corner_rows, to + 2 * total_size, corners[2], counted)
            append(corner_rows, to + 3 * total_size, corners[3], counted)
            append(corner_rows, to + 4 * total_size, corners[4], counted)
            append(corner_rows, to + 5 * total_size, corners[5], counted)
            append(corner_rows, to + 6 * total_size, corners[6], counted)
            append(corner_rows, to + 7 * total_size, corners[7], counted)
            append(fractions, to, fx, counted)
            append(fractions, to + total_size, fy, counted)
            append(fractions, to + 2 * total_size, fz, counted)
            append(weights, to, before - transmittance, counted)
            append(slopes, to, select(raw >= 0.0, zero + 1.0, e) * interval / (1.0 + e), counted)
            append(rays, to, number, counted)
        samples += new
    if samples <= last_start or not is_recorded:
        _add_features(samples, *records)
    return samples


@njit(parallel=True, cache=True, fastmath=FASTMATH)
def forward_kernel(
    density: Any, features: Any, index: Any, distance: Any, origins: Any, directions: Any, offsets: Any,
    step_size: Any, interval: Any, near: Any, min_raw: Any, min_transmittance: Any,
    out: Any, out_transmittance: Any, out_depth: Any, counts: Any,
    cells: Any, corner_rows: Any, fractions: Any, weights: Any, slopes: Any, rays: Any, sample_features: Any,
) -> None:  # fmt: skip
    """March along all rays, and record their contributing samples.

    The z planes of all levels follow each other in ``index`` and ``distance``. Adds to ``out`` ``[R, F]``; fills
    ``out_transmittance`` ``[R]`` and ``out_depth`` ``[R]``.

    Each of the B blocks of :data:`RAYS_PER_BLOCK` rays has room for S samples in the flattened records. If these have
    features, ``[B·S, F]``, the ``counts`` ``[B]`` samples of the blocks are recorded, those of a ray from front to
    back, but not one ray after the other: the cell ``[B·S]``, as its place in ``index``; the rows of its vertices
    ``[8, B·S]``; the position in it ``[3, B·S]`` (x, y, z); the weight; the derivative of the optical depth by the raw
    density; the ray; and the features. If a block has more than S - :data:`LANES` samples, only its count is right.
    Without features the records are scratch memory, S samples for each thread.
    """
    is_recorded = len(sample_features) > 0
    parts = len(counts)
    for block in prange(-(-len(origins) // RAYS_PER_BLOCK)):
        first, part = block * RAYS_PER_BLOCK, np.int64(block) if is_recorded else np.int64(get_thread_id())
        samples = _march_block(
            first, min(first + RAYS_PER_BLOCK, len(origins)), part * (len(weights) // parts), len(weights) // parts,
            density, features, index, distance, origins, directions, offsets,
            step_size, interval, near, min_raw, min_transmittance,
            out, out_transmittance, out_depth,
            cells, corner_rows, fractions, weights, slopes, rays, sample_features,
        )  # fmt: skip
        if is_recorded:
            counts[block] = samples


@njit(cache=True, fastmath=FASTMATH)
def _density_gradient_of_block(
    start: Any, samples: Any, rays: Any, grad_out: Any, behind: Any, transmittance: Any,
    weights: Any, slopes: Any, sample_features: Any, grad_raw: Any,
) -> None:  # fmt: skip
    channels = grad_out.shape[1]
    for s in range(start, start + samples):
        ray, weight = rays[s], weights[s]
        products = spread(weight) * 0.0
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
        counts: as the other records, see :func:`forward_kernel`.
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


@njit(cache=True, fastmath=FASTMATH)
def _scatter_to_plane(
    samples: Any, upper: Any, corner_rows: Any, fractions: Any, weights: Any, grad_raw: Any, rays: Any,
    grad_out: Any, grad_density: Any, grad_features: Any,
) -> None:  # fmt: skip
    """Add the gradients of samples to the vertices of the plane below their cells, or of the ``upper`` one."""
    channels, first_corner, one = grad_features.shape[1], 4 * upper, weights.dtype.type(1)
    for i in range(len(samples)):
        _prefetch(grad_features, channels, corner_rows, samples[min(i + AHEAD, len(samples) - 1)], first_corner, 4)
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
