"""The marching of rays through voxels on NVIDIA GPUs: the 32 rays of a warp together, skipping empty space."""

# Triton, which is installed with PyTorch for CUDA, compiles these functions at the first call and caches the result.
from __future__ import annotations

import triton
import triton.language as tl

RAYS = 32  # per program: one warp


@triton.jit
def _intersect_axis(o, d, top, t_min, t_max):
    """Shorten the intervals ``t_min`` to ``t_max`` ``[RAYS]`` of camera z to where rays are in [0, top] on one axis."""
    a, b = -o / d, (top - o) / d
    parallel = d == 0
    misses = parallel & ((o < 0) | (o > top))
    t_min = tl.where(parallel, t_min, tl.maximum(t_min, tl.minimum(a, b)))
    t_max = tl.where(parallel, t_max, tl.minimum(t_max, tl.maximum(a, b)))
    return t_min, tl.where(misses, -1.0, t_max)


@triton.jit
def _empty_block_exit(o, d, cell, empty):
    """Camera z ``[RAYS]`` at which rays leave the block of cells less than ``empty`` from ``cell``, on one axis."""
    side = tl.where(d > 0, empty, 1 - empty)
    return tl.where(d == 0, 1e30, (cell + side - o) / d)


@triton.jit
def _load_vector(vectors, ray, exists):
    return (
        tl.load(vectors + 3 * ray, exists, other=1.0),
        tl.load(vectors + 3 * ray + 1, exists, other=1.0),
        tl.load(vectors + 3 * ray + 2, exists, other=1.0),
    )


@triton.jit
def _store_vector(vectors, ray, exists, x, y, z):
    tl.store(vectors + 3 * ray, x, exists)
    tl.store(vectors + 3 * ray + 1, y, exists)
    tl.store(vectors + 3 * ray + 2, z, exists)


@triton.jit
def _trilinear_slopes(fx, fy, fz, K: tl.constexpr):
    """Derivatives ``[RAYS]`` of the trilinear weight of corner ``K`` by x, y and z."""
    sx, sy, sz = 1.0, 1.0, 1.0
    if K % 2 == 0:
        fx, sx = 1 - fx, -1.0
    if K // 2 % 2 == 0:
        fy, sy = 1 - fy, -1.0
    if K // 4 == 0:
        fz, sz = 1 - fz, -1.0
    return sx * fy * fz, sy * fx * fz, sz * fx * fy


@triton.jit
def _load_rays(origins, directions, offsets, ray, exists):
    """Load rays; returns ``[RAYS]`` each: origins, directions and offsets."""
    ox, oy, oz = _load_vector(origins, ray, exists)
    dx, dy, dz = _load_vector(directions, ray, exists)
    return ox, oy, oz, dx, dy, dz, tl.load(offsets + ray, exists, other=0.0)


@triton.jit
def _intersect_level(ox, oy, oz, dx, dy, dz, side, near, k):
    """Rays in the grid coordinates of the level whose cells have the side 1/``k``, and camera z of entry and exit."""
    shift = (1.0 - k) * 0.5 * (side - 1)
    ox, oy, oz, dx, dy, dz = ox * k + shift, oy * k + shift, oz * k + shift, dx * k, dy * k, dz * k
    t_min, t_max, top = tl.zeros_like(ox) + near, tl.full(ox.shape, float("inf"), ox.dtype), side - 1.0
    t_min, t_max = _intersect_axis(ox, dx, top, t_min, t_max)
    t_min, t_max = _intersect_axis(oy, dy, top, t_min, t_max)
    t_min, t_max = _intersect_axis(oz, dz, top, t_min, t_max)
    return ox, oy, oz, dx, dy, dz, t_min, t_max


@triton.jit
def _segment(ox, oy, oz, dx, dy, dz, side, near, segment, exists, LEVELS: tl.constexpr):
    """Level of a segment, the rays in its coordinates, and the first and last camera z ``[RAYS]`` of the segment.

    Segments run from the outermost level inwards and out again; a ray leaves an empty one before it enters it.
    """
    outwards = tl.full((), segment, tl.int32) - (LEVELS - 1)
    inwards, level = outwards < 0, tl.abs(outwards)
    k = tl.exp2(-level.to(tl.float32))
    _, _, _, _, _, _, t_in, t_out = _intersect_level(ox, oy, oz, dx, dy, dz, side, near, 2 * k)  # of the inner level
    ox, oy, oz, dx, dy, dz, start, end = _intersect_level(ox, oy, oz, dx, dy, dz, side, near, k)
    hits = (t_in < t_out) & (level > 0)
    last = tl.where(inwards & hits, tl.minimum(end, t_in), end)
    start = tl.where(inwards | (level == 0), start, tl.where(hits, t_out, end))
    return level, ox, oy, oz, dx, dy, dz, start, tl.where(exists, last, -1.0)


@triton.jit
def _cell(x, side):
    return tl.minimum(tl.maximum(x.to(tl.int32), 0), side - 2)


@triton.jit
def _locate(
    distance, level, ox, oy, oz, dx, dy, dz, t, dt, side, active
):  # fmt: skip
    """Locate the samples at camera z ``t`` in a level.

    Returns ``[RAYS]`` each: cells, whose z counts the planes of all levels, positions in them, whether the cell is
    occupied, and the steps to the next sample.
    """
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
    layer = level * (side - 1) + iz
    empty = tl.load(distance + (layer * (side - 1) + iy) * (side - 1) + ix, active, other=1).to(tl.int32)
    t_exit = tl.minimum(
        tl.minimum(_empty_block_exit(ox, dx, ix, empty), _empty_block_exit(oy, dy, iy, empty)),
        _empty_block_exit(oz, dz, iz, empty),
    )
    steps = tl.maximum(1, tl.minimum((t_exit - t) / dt, 1e6).to(tl.int32) + 1)
    return ix, iy, level * side + iz, x - ix, y - iy, z - iz, active & (empty == 0), tl.where(empty > 0, steps, 1)


@triton.jit
def _corner(index, ix, iy, iz, fx, fy, fz, side, mask, K: tl.constexpr):
    """Row and trilinear weight ``[RAYS]`` of corner ``K`` of the samples' cells, x fastest; row 0 where masked."""
    x, y, z = fx, fy, fz
    if K % 2 == 0:
        x = 1 - fx
    if K // 2 % 2 == 0:
        y = 1 - fy
    if K // 4 == 0:
        z = 1 - fz
    vertex = ((iz + K // 4) * side + iy + K // 2 % 2) * side + ix + K % 2
    return tl.load(index + vertex, mask, other=0), x * y * z


@triton.jit
def _interpolate_density(
    table, index, ix, iy, iz, fx, fy, fz, side, mask,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Raw density ``[RAYS]`` of samples, which is column ``CHANNELS`` of the table."""
    raw = tl.zeros_like(fx)
    for k in tl.static_range(8):
        row, w = _corner(index, ix, iy, iz, fx, fy, fz, side, mask, k)
        raw += w * tl.load(table + row * STRIDE + CHANNELS, mask, other=0.0)
    return raw


@triton.jit
def _interpolate_table(
    table, index, ix, iy, iz, fx, fy, fz, side, mask,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All columns of the table at samples, ``[RAYS, BLOCK]``."""
    c = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((fx.shape[0], BLOCK), fx.dtype)
    for k in tl.static_range(8):
        row, w = _corner(index, ix, iy, iz, fx, fy, fz, side, mask, k)
        total += w[:, None] * tl.load(table + row[:, None] * STRIDE + c, mask[:, None] & (c < STRIDE), other=0.0)
    return total


@triton.jit
def _step_transmittance(raw, interval):
    """Transmittance ``[RAYS]`` of one step: exp(-softplus(raw)·interval), with log1p after Kahan."""
    e = tl.exp(tl.minimum(raw, 20.0))
    u = 1 + e
    log1p = tl.where(u == 1, e, tl.log(u) * e / tl.where(u == 1, 1.0, u - 1))
    return tl.exp(-tl.where(raw > 20.0, raw, log1p) * interval)


@triton.jit
def forward_kernel(
    table, index, distance, origins, directions, offsets,
    step_size, interval, min_raw, min_transmittance,
    out, out_transmittance, out_depth,
    count, side, near, LEVELS: tl.constexpr,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """March along rays; fills ``out`` ``[R, CHANNELS]``, ``out_transmittance`` ``[R]`` and ``out_depth`` ``[R]``."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    exists = ray < count
    x, y, z, u, v, w, offset = _load_rays(origins, directions, offsets, ray, exists)
    c = tl.arange(0, BLOCK)[None, :]
    total, transmittance = tl.zeros((RAYS, BLOCK), tl.float32), tl.full((RAYS,), 1.0, tl.float32)
    depth = tl.full((RAYS,), float("inf"), tl.float32)
    for segment in range(2 * LEVELS - 1):
        level, ox, oy, oz, dx, dy, dz, t_min, t_max = _segment(x, y, z, u, v, w, side, near, segment, exists, LEVELS)
        dt, n = step_size / tl.sqrt(dx * dx + dy * dy + dz * dz), tl.zeros((RAYS,), tl.int32)
        t = t_min + offset * dt
        active = (t < t_max) & (transmittance >= min_transmittance)
        while tl.max(active.to(tl.int32), 0) > 0:
            ix, iy, iz, fx, fy, fz, occupied, steps = _locate(
                distance, level, ox, oy, oz, dx, dy, dz, t, dt, side, active
            )
            if tl.max(occupied.to(tl.int32), 0) > 0:
                raw = _interpolate_density(table, index, ix, iy, iz, fx, fy, fz, side, occupied, CHANNELS, STRIDE)
                counts = occupied & (raw >= min_raw)
                step_transmittance = tl.where(counts, _step_transmittance(raw, interval), 1.0)
                after = transmittance * step_transmittance
                sample = _interpolate_table(table, index, ix, iy, iz, fx, fy, fz, side, counts, STRIDE, BLOCK)
                total += (transmittance * (1 - step_transmittance))[:, None] * sample
                halves = (transmittance > 0.5) & (after <= 0.5)
                part = tl.log(2 * transmittance) / tl.where(halves, tl.log(transmittance / after), 1.0)
                depth = tl.where(halves, t + (part - 0.5) * dt, depth)
                transmittance = after
            n += steps
            t = t_min + (n + offset) * dt
            active = active & (t < t_max) & (transmittance >= min_transmittance)
    tl.store(out + ray[:, None] * CHANNELS + c, total, exists[:, None] & (c < CHANNELS))
    tl.store(out_transmittance + ray, transmittance, exists)
    tl.store(out_depth + ray, depth, exists)


@triton.jit
def backward_kernel(
    table, index, distance, origins, directions, offsets,
    step_size, interval, min_raw, min_transmittance,
    out, out_transmittance, grad_out, grad_transmittance, grad_table, grad_origins, grad_directions,
    count, side, near, RAY_GRADIENTS: tl.constexpr, LEVELS: tl.constexpr,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """March again and add to the gradients of density and features; fill those of the rays if they are wanted.

    The contribution of everything behind a sample is the total less what has been passed, so one pass from front to
    back suffices. Samples stay at their camera z.
    """
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    exists = ray < count
    x, y, z, u, v, w, offset = _load_rays(origins, directions, offsets, ray, exists)
    c = tl.arange(0, BLOCK)[None, :]
    mask = exists[:, None] & (c < CHANNELS)
    gradient = tl.load(grad_out + ray[:, None] * CHANNELS + c, mask, other=0.0)
    behind = tl.sum(gradient * tl.load(out + ray[:, None] * CHANNELS + c, mask, other=0.0), 1)
    background = tl.load(grad_transmittance + ray, exists, other=0.0) * tl.load(
        out_transmittance + ray, exists, other=0.0
    )
    transmittance = tl.full((RAYS,), 1.0, tl.float32)
    px, py, pz = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    qx, qy, qz = tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32), tl.zeros((RAYS,), tl.float32)
    for segment in range(2 * LEVELS - 1):
        level, ox, oy, oz, dx, dy, dz, t_min, t_max = _segment(x, y, z, u, v, w, side, near, segment, exists, LEVELS)
        dt, n = step_size / tl.sqrt(dx * dx + dy * dy + dz * dz), tl.zeros((RAYS,), tl.int32)
        scale = tl.exp2(-level.to(tl.float32))
        t = t_min + offset * dt
        active = (t < t_max) & (transmittance >= min_transmittance)
        while tl.max(active.to(tl.int32), 0) > 0:
            ix, iy, iz, fx, fy, fz, occupied, steps = _locate(
                distance, level, ox, oy, oz, dx, dy, dz, t, dt, side, active
            )
            if tl.max(occupied.to(tl.int32), 0) > 0:
                raw = _interpolate_density(table, index, ix, iy, iz, fx, fy, fz, side, occupied, CHANNELS, STRIDE)
                counts = occupied & (raw >= min_raw)
                step_transmittance = tl.where(counts, _step_transmittance(raw, interval), 1.0)
                weight = transmittance * (1 - step_transmittance)
                sample = _interpolate_table(table, index, ix, iy, iz, fx, fy, fz, side, counts, STRIDE, BLOCK)
                here = tl.sum(gradient * sample, 1)
                behind -= weight * here
                transmittance *= step_transmittance
                grad_raw = (transmittance * here - behind - background) * interval / (1 + tl.exp(-raw))
                added = tl.where(c == CHANNELS, grad_raw[:, None], weight[:, None] * gradient)
                for k in tl.static_range(8):
                    row, trilinear = _corner(index, ix, iy, iz, fx, fy, fz, side, counts, k)
                    stored = (row > 0)[:, None] & (c < STRIDE)
                    tl.atomic_add(
                        grad_table + row[:, None] * STRIDE + c, trilinear[:, None] * added, stored, sem="relaxed"
                    )
                    if RAY_GRADIENTS:
                        corner = tl.load(table + row[:, None] * STRIDE + c, counts[:, None] & (c < STRIDE), other=0.0)
                        value = scale * tl.sum(corner * added, 1)
                        gx, gy, gz = _trilinear_slopes(fx, fy, fz, k)
                        value = tl.where(counts, value, 0.0)
                        gx, gy, gz = gx * value, gy * value, gz * value
                        px, py, pz = px + gx, py + gy, pz + gz
                        qx, qy, qz = qx + t * gx, qy + t * gy, qz + t * gz
            n += steps
            t = t_min + (n + offset) * dt
            active = active & (t < t_max) & (transmittance >= min_transmittance)
    if RAY_GRADIENTS:
        _store_vector(grad_origins, ray, exists, px, py, pz)
        _store_vector(grad_directions, ray, exists, qx, qy, qz)
