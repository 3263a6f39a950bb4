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
    FASTMATH,
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
)
from dv.ops.lanes_memory_cpu import (
    append,
    gather,
    gather_bytes,
    gather_three,
    load,
    prefetch_row,
    scatter,
    spread_from,
    store,
)

LANES_DIGEST = "1560e30e"  # of the sources of lanes: numba compiles again when it changes
RAYS_PER_BLOCK = 8 * LANES  # whose samples are recorded next to each other
LN_2 = math.log(2)
FAR = 1e30  # camera z that no ray reaches
MAX_STEPS = 1e6  # at once
AHEAD = 12  # samples between fetching the features of vertices and reading them
MIN_IDLE = 4  # lanes that have finished, for all to wait until these have new rays


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
    t_min = spread(near)
    t_max = select(t_min < FAR, FAR, t_min)
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
    raw = w[0] * gather(density, r[0], mask)
    for corner in range(1, 8):
        raw = raw + w[corner] * gather(density, r[corner], mask)
    return raw


@njit(cache=True, fastmath=FASTMATH)
def _add_features(
    samples: Any, features: Any, start: Any, corner_rows: Any, fractions: Any, weights: Any, rays: Any,
    sample_features: Any, out: Any,
) -> None:  # fmt: skip
    """Interpolate the features of samples from ``start`` on in the flattened records, and add them to their rays."""
    channels, is_recorded, one = features.shape[1], len(sample_features) > 0, weights.dtype.type(1)
    for s in range(start, start + samples):
        if s + AHEAD < start + samples:
            for corner in range(8):
                prefetch_row(features, corner_rows[corner, s + AHEAD])
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
    zero, no_number = spread(density.dtype.type(0)), spread(np.int32(0))
    number = segment = first_plane = first_layer = no_number
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
            segment = select(is_new, 0, select(goes_on, segment + 1, segment))
            o_world, d_world = gather_three(origins, number * 3, changed), gather_three(directions, number * 3, changed)
            level, new_o, new_d, new_start, new_end = _segment(o_world, d_world, side, levels, segment, scales, near)
            o, d = _where(changed, new_o, o), _where(changed, new_d, d)
            inverse = _inverse(d[0]), _inverse(d[1]), _inverse(d[2])
            steps_per_t = square_root(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]) / step_size
            dt = 1.0 / steps_per_t
            start, end, n = select(changed, new_start, start), select(changed, new_end, end), select(changed, 0.0, n)
            first_plane = select(changed, level * side, first_plane)
            first_layer = select(changed, level * (side - 1), first_layer)
            offset = select(is_new, gather(offsets, number, is_new), offset)
            transmittance, passed = select(is_new, 1.0, transmittance), select(is_new, 0.0, passed)
            depth = select(is_new, math.inf, depth)
            continue
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
        cell_x, cell_y, cell_z = to_float(ix, interval), to_float(iy, interval), to_float(iz, interval)
        layer = (iz + first_layer) * (side - 1) + iy
        distances = gather_bytes(distance, layer * (side - 1) + ix, active)
        is_empty = active & (distances > 0)
        if 2 * count(is_empty) >= working:
            empty = to_float(distances, interval)
            exit_x = _exit_along(o[0], inverse[0], cell_x, empty)
            exit_y = _exit_along(o[1], inverse[1], cell_y, empty)
            exit_z = _exit_along(o[2], inverse[2], cell_z, empty)
            leave = minimum(minimum(exit_x, exit_y), exit_z)
            steps = to_float(to_int(minimum((leave - t) * steps_per_t, MAX_STEPS)), interval) + 1.0
            n = select(is_empty, n + maximum(steps, 1.0), n)
            continue
        occupied = active & no(is_empty)
        fx, fy, fz = x - cell_x, y - cell_y, z - cell_z
        place = ((iz + first_plane) * side + iy) * side + ix
        corners = _corner_rows(index, place, side, occupied)
        raw = _interpolated_density(density, corners, _trilinear_weights(fx, fy, fz, 1.0), occupied)
        n = select(occupied, n + 1.0, n)
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
        passed = select(counted, passed + optical_depth, passed)
        if samples > last_start and not is_recorded:
            _add_features(samples, *records)
            samples = 0
        if samples <= last_start:
            to = start_of_records + samples
            append(cells, to, place, counted)
            for corner in range(8):
                append(corner_rows, to + corner * total_size, corners[corner], counted)
            append(fractions, to, fx, counted)
            append(fractions, to + total_size, fy, counted)
            append(fractions, to + 2 * total_size, fz, counted)
            append(weights, to, before - transmittance, counted)
            append(slopes, to, select(raw >= 0.0, interval, interval * e) / (1.0 + e), counted)
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
