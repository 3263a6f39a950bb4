"""Compositing along rays on NVIDIA GPUs: a warp's rays march through the voxels together and skip what is empty.

What is computed is said in :mod:`dv.ops.compositing`, whose ``composite_by_tensors`` is the same in plain tensors; the
march is that of :mod:`dv.ops.compositing_cpu`. Gradients are added atomically, in an order that varies: two runs
differ in the last bits.
"""

# Triton compiles these functions when they are first called, and keeps the result. It comes with PyTorch for CUDA.
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dv.ops.compositing import LEAST_THROUGH, Composited, Rays, least_raw

RAYS = 32  # of a program: one warp


@triton.jit
def _within(o, d, top, enter, leave):
    """Camera z ``[RAYS]`` between which rays are in the box along one axis too, of ``enter`` to ``leave``."""
    a, b = -o / d, (top - o) / d
    flat = d == 0
    misses = flat & ((o < 0) | (o > top))
    enter = tl.where(flat, enter, tl.maximum(enter, tl.minimum(a, b)))
    leave = tl.where(flat, leave, tl.minimum(leave, tl.maximum(a, b)))
    return enter, tl.where(misses, -1.0, leave)


@triton.jit
def _edge(o, d, at, empty):
    """Camera z ``[RAYS]`` at which rays leave the cells nearer than ``empty`` to cell ``at`` along one axis."""
    beyond = tl.where(d > 0, empty, 1 - empty)
    return tl.where(d == 0, 1e30, (at + beyond - o) / d)


@triton.jit
def _vector(vectors, ray, there):
    return (
        tl.load(vectors + 3 * ray, there, other=1.0),
        tl.load(vectors + 3 * ray + 1, there, other=1.0),
        tl.load(vectors + 3 * ray + 2, there, other=1.0),
    )


@triton.jit
def _rays(origins, directions, offsets, ray, there, step, top):
    """``[RAYS]`` each: origins and directions, offsets in steps; camera z of a step and where rays enter and leave."""
    ox, oy, oz = _vector(origins, ray, there)
    dx, dy, dz = _vector(directions, ray, there)
    enter, leave = tl.zeros_like(ox), tl.full(ox.shape, float("inf"), ox.dtype)
    enter, leave = _within(ox, dx, top, enter, leave)
    enter, leave = _within(oy, dy, top, enter, leave)
    enter, leave = _within(oz, dz, top, enter, leave)
    dt = step / tl.sqrt(dx * dx + dy * dy + dz * dz)
    return ox, oy, oz, dx, dy, dz, tl.load(offsets + ray, there, other=0.0), dt, enter, tl.where(there, leave, -1.0)


@triton.jit
def _cell(x, side):
    return tl.minimum(tl.maximum(x.to(tl.int32), 0), side - 2)


@triton.jit
def _sample(
    distance, ox, oy, oz, dx, dy, dz, t, dt, side, marches
):  # fmt: skip
    """``[RAYS]`` each, of samples at camera z ``t``: cells, places in them, which hold something, steps to the next."""
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    ix, iy, iz = _cell(x, side), _cell(y, side), _cell(z, side)
    empty = tl.load(distance + (iz * (side - 1) + iy) * (side - 1) + ix, marches, other=1).to(tl.int32)
    edge = tl.minimum(tl.minimum(_edge(ox, dx, ix, empty), _edge(oy, dy, iy, empty)), _edge(oz, dz, iz, empty))
    beyond = tl.maximum(1, tl.minimum((edge - t) / dt, 1e6).to(tl.int32) + 1)
    return ix, iy, iz, x - ix, y - iy, z - iz, marches & (empty == 0), tl.where(empty > 0, beyond, 1)


@triton.jit
def _corner(index, ix, iy, iz, fx, fy, fz, side, here, K: tl.constexpr):
    """Row and weight ``[RAYS]`` of corner ``K`` of the samples' cells, x fastest; row 0 if not ``here``."""
    x, y, z = fx, fy, fz
    if K % 2 == 0:
        x = 1 - fx
    if K // 2 % 2 == 0:
        y = 1 - fy
    if K // 4 == 0:
        z = 1 - fz
    at = ((iz + K // 4) * side + iy + K // 2 % 2) * side + ix + K % 2
    return tl.load(index + at, here, other=0), x * y * z


@triton.jit
def _raw(
    table, index, ix, iy, iz, fx, fy, fz, side, here,
    COUNT: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Raw density ``[RAYS]`` of samples: column ``COUNT`` of the table."""
    raw = tl.zeros_like(fx)
    for k in tl.static_range(8):
        row, w = _corner(index, ix, iy, iz, fx, fy, fz, side, here, k)
        raw += w * tl.load(table + row * STRIDE + COUNT, here, other=0.0)
    return raw


@triton.jit
def _seen(
    table, index, ix, iy, iz, fx, fy, fz, side, here,
    STRIDE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Columns ``[RAYS, WIDE]`` of the table at samples."""
    c = tl.arange(0, WIDE)[None, :]
    total = tl.zeros((fx.shape[0], WIDE), fx.dtype)
    for k in tl.static_range(8):
        row, w = _corner(index, ix, iy, iz, fx, fy, fz, side, here, k)
        total += w[:, None] * tl.load(table + row[:, None] * STRIDE + c, here[:, None] & (c < STRIDE), other=0.0)
    return total


@triton.jit
def _stays(raw, length):
    """Light ``[RAYS]``, of 1, that steps of ``length`` at raw densities let through; log1p by Kahan's way."""
    e = tl.exp(tl.minimum(raw, 20.0))
    u = 1 + e
    log1p = tl.where(u == 1, e, tl.log(u) * e / tl.where(u == 1, 1.0, u - 1))
    return tl.exp(-tl.where(raw > 20.0, raw, log1p) * length)


@triton.jit
def _forward(
    table, index, distance, origins, directions, offsets,
    step, length, least_raw, least_through,
    out, through, depth,
    count, side, COUNT: tl.constexpr, STRIDE: tl.constexpr, WIDE: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """Fill ``out`` ``[R, COUNT]``, ``through`` ``[R]`` and ``depth`` ``[R]``."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    there = ray < count
    ox, oy, oz, dx, dy, dz, offset, dt, enter, leave = _rays(origins, directions, offsets, ray, there, step, side - 1.0)
    c = tl.arange(0, WIDE)[None, :]
    total, left = tl.zeros((RAYS, WIDE), tl.float32), tl.full((RAYS,), 1.0, tl.float32)
    half, n = tl.full((RAYS,), float("inf"), tl.float32), tl.zeros((RAYS,), tl.int32)
    t = enter + offset * dt
    marches = t < leave
    while tl.max(marches.to(tl.int32), 0) > 0:
        ix, iy, iz, fx, fy, fz, here, steps = _sample(distance, ox, oy, oz, dx, dy, dz, t, dt, side, marches)
        if tl.max(here.to(tl.int32), 0) > 0:
            raw = _raw(table, index, ix, iy, iz, fx, fy, fz, side, here, COUNT, STRIDE)
            counts = here & (raw >= least_raw)
            stays = tl.where(counts, _stays(raw, length), 1.0)
            after = left * stays
            seen = _seen(table, index, ix, iy, iz, fx, fy, fz, side, counts, STRIDE, WIDE)
            total += (left * (1 - stays))[:, None] * seen
            halved = (left > 0.5) & (after <= 0.5)
            part = tl.log(2 * left) / tl.where(halved, tl.log(left / after), 1.0)
            half = tl.where(halved, t + (part - 0.5) * dt, half)
            left = after
        n += steps
        t = enter + (n + offset) * dt
        marches = marches & (t < leave) & (left >= least_through)
    tl.store(out + ray[:, None] * COUNT + c, total, there[:, None] & (c < COUNT))
    tl.store(through + ray, left, there)
    tl.store(depth + ray, half, there)


@triton.jit
def _backward(
    table, index, distance, origins, directions, offsets,
    step, length, least_raw, least_through,
    out, through, of_out, of_through, of_table,
    count, side, COUNT: tl.constexpr, STRIDE: tl.constexpr, WIDE: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """March again and add to the gradients of density and features.

    What lies behind a sample is the whole less what has been passed, so one pass from the front is enough.
    """
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    there = ray < count
    ox, oy, oz, dx, dy, dz, offset, dt, enter, leave = _rays(origins, directions, offsets, ray, there, step, side - 1.0)
    c = tl.arange(0, WIDE)[None, :]
    wanted = there[:, None] & (c < COUNT)
    gradient = tl.load(of_out + ray[:, None] * COUNT + c, wanted, other=0.0)
    behind = tl.sum(gradient * tl.load(out + ray[:, None] * COUNT + c, wanted, other=0.0), 1)
    end = tl.load(of_through + ray, there, other=0.0) * tl.load(through + ray, there, other=0.0)
    left, n = tl.full((RAYS,), 1.0, tl.float32), tl.zeros((RAYS,), tl.int32)
    t = enter + offset * dt
    marches = t < leave
    while tl.max(marches.to(tl.int32), 0) > 0:
        ix, iy, iz, fx, fy, fz, here, steps = _sample(distance, ox, oy, oz, dx, dy, dz, t, dt, side, marches)
        if tl.max(here.to(tl.int32), 0) > 0:
            raw = _raw(table, index, ix, iy, iz, fx, fy, fz, side, here, COUNT, STRIDE)
            counts = here & (raw >= least_raw)
            stays = tl.where(counts, _stays(raw, length), 1.0)
            weight = left * (1 - stays)
            seen = tl.sum(gradient * _seen(table, index, ix, iy, iz, fx, fy, fz, side, counts, STRIDE, WIDE), 1)
            behind -= weight * seen
            left *= stays
            of_raw = (left * seen - behind - end) * length / (1 + tl.exp(-raw))
            added = tl.where(c == COUNT, of_raw[:, None], weight[:, None] * gradient)
            for k in tl.static_range(8):
                row, w = _corner(index, ix, iy, iz, fx, fy, fz, side, counts, k)
                wanted = (row > 0)[:, None] & (c < STRIDE)
                tl.atomic_add(of_table + row[:, None] * STRIDE + c, w[:, None] * added, wanted, sem="relaxed")
        n += steps
        t = enter + (n + offset) * dt
        marches = marches & (t < leave) & (left >= least_through)


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step: float, length: float
) -> Composited:
    """:func:`dv.ops.compositing.composite` of float32 tensors."""
    found = _Composite.apply(density, features, index, distance, *rays, step, length)
    return Composited(*found)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, index: Tensor, distance: Tensor,
        origins: Tensor, directions: Tensor, offsets: Tensor, step: float, length: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        count, columns = len(origins), features.shape[1]
        table = _table(density, features)
        given = [table, *(x.contiguous() for x in (index, distance, origins, directions, offsets))]
        out, through, depth = features.new_empty(count, columns), *features.new_empty(2, count).unbind()
        sizes = (count, len(index), columns, table.shape[1], triton.next_power_of_2(table.shape[1]), RAYS)
        constants = (step, length, least_raw(length), LEAST_THROUGH)
        ctx.grid = (triton.cdiv(count, RAYS),)
        if count:
            _forward[ctx.grid](*given, *constants, out, through, depth, *sizes, num_warps=1)
        ctx.constants, ctx.sizes = constants, sizes
        ctx.save_for_backward(*given, out, through)
        ctx.mark_non_differentiable(depth)
        return out, through, depth

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *given, out, through = ctx.saved_tensors
        of_out, of_through = (gradient.contiguous() for gradient in gradients[:2])
        of_table, columns = torch.zeros_like(given[0]), out.shape[1]
        if len(out):
            _backward[ctx.grid](
                *given, *ctx.constants, out, through, of_out, of_through, of_table, *ctx.sizes, num_warps=1
            )
        return of_table[:, columns], of_table[:, :columns], None, None, None, None, None, None, None


def _table(density: Tensor, features: Tensor) -> Tensor:
    """``[N, STRIDE]``: features, density and what fills rows up to multiples of 16 bytes, read and added to at once."""
    table = features.new_zeros(len(features), -(-(features.shape[1] + 1) // 4) * 4)
    table[:, : features.shape[1]] = features
    table[:, features.shape[1]] = density
    return table
