"""Emission and absorption along rays through sparse voxels: what a ray sees, and how deep.

Along a ray lie samples a fixed ``step`` apart, ``offsets`` (in steps) from where it enters the grid. A sample takes raw
density and features from the eight vertices around it, by trilinear interpolation. With optical depth
``softplus(raw)·length`` its opacity is ``α = 1 - exp(-softplus(raw)·length)``; what is left of the light in front of
it, ``T = Π (1 - α)`` over the samples before, makes its weight ``T·α`` (Max 1995). A ray sees the weighted sum of
features.

Samples count that lie in a cell that is not empty, have an α of at least ``LEAST_ALPHA``, and have at least
``LEAST_THROUGH`` of the light left in front of them.

Grid coordinates: vertex (x, y, z) lies at (x, y, z), in tensors ``[z, y, x]``; the grid spans [0, G-1]³.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_ALPHA = 1e-3
LEAST_THROUGH = 1e-2


class Rays(NamedTuple):
    """R rays in grid coordinates: points ``origins + t·directions``, ``[R, 3]`` each, with t in units of camera z.

    ``offsets`` ``[R]`` in [0, 1), of their samples.
    """

    origins: Tensor
    directions: Tensor
    offsets: Tensor


class Composited(NamedTuple):
    """What R rays see: features ``[R, F]``, light that comes through ``[R]``, and depth ``[R]``.

    Depth is the camera z by which half of the light is gone, infinite where more than that comes through. A sample
    stands for a step with itself in the middle. Gradients flow through the other two.
    """

    features: Tensor
    through: Tensor
    depth: Tensor


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step: float, length: float
) -> Composited:
    """Composite features along rays.

    Args:
        density: raw, ``[N]``, of the vertices that are there; row 0 stands for all others and is constant.
        features: ``[N, F]``, likewise.
        index: int32 ``[G, G, G]``, row of each vertex.
        distance: uint8 ``[G-1, G-1, G-1]``, cells from each cell to the nearest that is not empty, along the longest
            axis, or fewer; at least 1 unless the cell itself is not empty.
        rays: ``[R]``.
        step: between samples, in vertices.
        length: optical depth of a step at density 1.
    """
    if density.device.type == "cpu":
        found = _Composite.apply(density, features, index, distance, *rays, step, length)  # type: ignore[no-untyped-call]
        return Composited(*found)
    if density.is_cuda and density.dtype == features.dtype == torch.float32 and find_spec("triton"):
        from dv.ops import compositing_cuda

        return compositing_cuda.composite(density, features, index, distance, rays, step, length)
    return composite_by_tensors(density, features, index, distance, rays, step, length)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, features: Tensor, index: Tensor, distance: Tensor,
        origins: Tensor, directions: Tensor, offsets: Tensor, step: float, length: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        from dv.ops import compositing_cpu  # numba takes half a second to import, and only this needs it

        compositing_cpu.threads()
        count = len(origins)
        out, through, depth = features.new_empty(count, features.shape[1]), *features.new_empty(2, count).unbind()
        counts = torch.empty(count, dtype=torch.int64)
        given = compositing_cpu.arrays(density, features, index, distance, origins, directions, offsets)
        constants = [density.numpy(force=True).dtype.type(x) for x in (step, length, least_raw(length), LEAST_THROUGH)]
        compositing_cpu.forward(*given, *constants, *compositing_cpu.arrays(out, through, depth, counts))
        ctx.given, ctx.constants, ctx.counts = given, constants, counts
        ctx.save_for_backward(out, through)
        ctx.mark_non_differentiable(depth)
        return out, through, depth

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from dv.ops import compositing_cpu

        threads = compositing_cpu.threads()
        out, through = ctx.saved_tensors
        density, features, index, *_ = ctx.given
        ends = ctx.counts.cumsum(0)
        total, firsts = int(ends[-1]), ends - ctx.counts
        of_out, of_through = (gradient.contiguous() for gradient in gradients[:2])
        cells, of_rays = torch.empty(total, 3, dtype=torch.int32), torch.empty(total, dtype=torch.int32)
        fractions, weights, of_raw = out.new_empty(total, 3), out.new_empty(total), out.new_empty(total)
        samples = compositing_cpu.arrays(cells, fractions, weights, of_raw, of_rays)
        compositing_cpu.backward(
            *ctx.given,
            *ctx.constants,
            *compositing_cpu.arrays(out, through, firsts, ends, of_out, of_through),
            *samples,
        )
        of_density, of_features = (
            torch.zeros(density.shape, dtype=out.dtype),
            torch.zeros(features.shape, dtype=out.dtype),
        )
        compositing_cpu.scatter(index, *samples, *compositing_cpu.arrays(of_out, of_density, of_features), threads)
        return of_density, of_features, None, None, None, None, None, None, None


def composite_by_tensors(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step: float, length: float
) -> Composited:
    """:func:`composite` in tensor operations, on any device."""
    side, count = index.shape[0], len(rays.origins)
    enter, leave = span(rays, side)
    dt = step / rays.directions.norm(dim=1)
    most = int(((leave - enter) / dt).amax().clamp_min(0).ceil()) + 1 if count else 0
    t = enter[:, None] + (torch.arange(most, device=dt.device) + rays.offsets[:, None]) * dt[:, None]
    ray, n = torch.nonzero(t < leave[:, None], as_tuple=True)
    t = t[ray, n]
    points = rays.origins[ray] + t[:, None] * rays.directions[ray]
    cell = points.long().clamp(0, side - 2)
    full = distance[cell[:, 2], cell[:, 1], cell[:, 0]] == 0
    ray, t, points, cell = ray[full], t[full], points[full], cell[full]
    fractions = points - cell
    corner = torch.tensor([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)], device=cell.device)
    at = cell[:, None] + corner
    rows = index[at[..., 2], at[..., 1], at[..., 0]].long()
    weights = torch.where(corner.bool(), fractions[:, None], 1 - fractions[:, None]).prod(-1)
    optical = F.softplus((weights * density[rows]).sum(1)) * length
    dense = -torch.expm1(-optical.detach()) >= LEAST_ALPHA
    ray, t, rows, weights, optical = ray[dense], t[dense], rows[dense], weights[dense], optical[dense]
    until = optical.double().cumsum(0)  # over all rays one after the other
    before = until - optical
    firsts = torch.searchsorted(ray, torch.arange(count, device=ray.device))
    begun = torch.cat([before, before.new_zeros(1)])[firsts]
    left = torch.exp(begun[ray] - before)
    counts = left.detach() >= LEAST_THROUGH
    light = (left * -torch.expm1(-optical.double()) * counts).to(features.dtype)
    seen = features.new_zeros(count, features.shape[1]).index_add(
        0, ray, light[:, None] * (weights[..., None] * features[rows]).sum(1)
    )
    passed = optical.new_zeros(count).index_add(0, ray, optical * counts)
    after = left * torch.exp(-optical.double())
    halved = torch.nonzero((left > 0.5) & (after <= 0.5)).squeeze(1)  # at most one sample of a ray
    part = torch.log(2 * left[halved]) / optical[halved] - 0.5
    depth = features.new_full((count,), torch.inf)
    depth[ray[halved]] = (t[halved] + part * dt[ray[halved]]).detach().to(depth.dtype)
    return Composited(seen, torch.exp(-passed), depth)


def least_raw(length: float) -> float:
    """Raw density at which a step of optical depth ``length`` at density 1 has an opacity of LEAST_ALPHA."""
    return math.log(math.expm1(-math.log1p(-LEAST_ALPHA) / length))


def span(rays: Rays, side: int) -> tuple[Tensor, Tensor]:
    """Where rays ``[R]`` enter and leave the grid, in camera z, not behind the camera; one that misses leaves first."""
    o, d = rays.origins, rays.directions
    a, b = -o / d, (side - 1 - o) / d
    outside = (d == 0) & ((o < 0) | (o > side - 1))
    low = torch.where(d == 0, -torch.inf, torch.minimum(a, b)).amax(1).clamp_min(0)
    high = torch.where(d == 0, torch.inf, torch.maximum(a, b)).amin(1)
    return low, torch.where(outside.any(1), -torch.ones_like(high), high)


def empty_distance(full: Tensor, most: int = 32) -> Tensor:
    """``distance`` of :func:`composite` for cells ``[D, H, W]`` of which some are ``full``.

    One more than the largest of 0, 1, 2, 4 … ``most`` cells, along the longest axis, within which there is none.
    """
    distance, near, radius = (~full).to(torch.uint8), full, 0
    while radius < most:
        reach = max(1, radius)
        for axis in range(3):
            near = _widened(near, reach, axis)
        radius += reach
        distance.masked_fill_(~near, radius + 1)
    return distance


def _widened(cells: Tensor, reach: int, axis: int) -> Tensor:
    """Cells, and those that lie ``reach`` before and behind them."""
    count = cells.shape[axis] - reach
    if count <= 0:
        return cells
    wide = cells.clone()
    wide.narrow(axis, reach, count).logical_or_(cells.narrow(axis, 0, count))
    wide.narrow(axis, 0, count).logical_or_(cells.narrow(axis, reach, count))
    return wide
