"""Volume rendering of sparse voxels in plain tensor operations, and the types that all implementations share.

The samples of a ray lie a fixed ``step_size`` apart, starting where the ray enters the grid. A sample's raw density and
features are interpolated trilinearly from the eight vertices of its cell. Its opacity is
``α = 1 - exp(-softplus(raw) · interval)``, the transmittance in front of it is ``T = Π (1 - α)`` over all samples in
front, and its weight is ``T·α`` (Max 1995, "Optical Models for Direct Volume Rendering"). The ray's features are the
weighted sum of the samples' features.

A sample contributes only if its cell is not empty, its α is at least :data:`MIN_ALPHA`, and the transmittance in front
of it is at least :data:`MIN_TRANSMITTANCE`.

Grid coordinates: vertex (x, y, z) of level 0 lies at (x, y, z) and is stored at ``[0, z, y, x]``; level 0 spans
[0, G-1]³. Level l has the same number of vertices, the same centre and 2^l times the width, so its cells and steps are
2^l times as long; their optical depth at equal density is the same. A sample belongs to the innermost level that
contains it. A ray therefore consists of segments: from the outermost level inwards and out again. In each segment the
samples start where it begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_ALPHA = 1e-3
MIN_TRANSMITTANCE = 1e-2


class Rays(NamedTuple):
    """R rays in grid coordinates, each with the points ``origin + t·direction``.

    Args:
        origins: ``[R, 3]`` (x, y, z).
        directions: ``[R, 3]`` (x, y, z), scaled such that t is camera z.
        offsets: ``[R]`` in [0, 1), the distance from the entry point to the first sample in steps.
    """

    origins: Tensor
    directions: Tensor
    offsets: Tensor


class CompositeOutput(NamedTuple):
    """Composited features, transmittance and depth of R rays.

    Args:
        features: ``[R, F]``, the weighted sum of the samples' features.
        transmittance: ``[R]``, what remains after the last sample.
        depth: ``[R]``, the median depth: the camera z at which transmittance falls to one half, infinite if it never
            does. A sample represents the step that is centred on it. Not differentiable.
    """

    features: Tensor
    transmittance: Tensor
    depth: Tensor


def composite_reference(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float = 0.0,
) -> CompositeOutput:  # fmt: skip
    """Composite features along rays in tensor operations, on any device.

    Takes and returns the same as :func:`dv.ops.compositing.composite`.

    Example:
        >>> index = torch.arange(1, 9, dtype=torch.int32).view(1, 2, 2, 2)  # a single cell
        >>> density = torch.tensor([-10.0] + [2.0] * 8)
        >>> features = torch.tensor([[0.0]] + [[1.0]] * 8)
        >>> distance = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
        >>> rays = Rays(torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0.5]))
        >>> output = composite_reference(density, features, index, distance, rays, 0.25, 1.0)
        >>> alpha = 1 - torch.exp(-F.softplus(density[1]))
        >>> torch.testing.assert_close(output.transmittance, (1 - alpha).pow(3)[None])  # it falls below 0.01 here
        >>> torch.testing.assert_close(output.features[:, 0], 1 - output.transmittance)
        >>> round(float(output.depth), 3)
        1.081
    """
    side, count, device = index.shape[1], len(rays.origins), density.device
    found = [_occupied_samples(rays, distance, *segment, step_size) for segment in ray_segments(rays, index, near)]
    ray, level, t, dt, points = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = ray.argsort(stable=True)
    ray, level, t, dt, points = (x[order] for x in (ray, level, t, dt, points))
    cell = points.long().clamp(0, side - 2)
    fractions = points - cell
    corner = torch.tensor([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)], device=device)
    vertices = cell[:, None] + corner  # [samples, 8, 3]
    rows = index[level[:, None], vertices[..., 2], vertices[..., 1], vertices[..., 0]].long()
    trilinear = torch.where(corner.bool(), fractions[:, None], 1 - fractions[:, None]).prod(-1)
    optical_depth = F.softplus((trilinear * density[rows]).sum(1)) * interval
    opaque = -torch.expm1(-optical_depth.detach()) >= MIN_ALPHA
    ray, t, dt, rows, trilinear, optical_depth = (x[opaque] for x in (ray, t, dt, rows, trilinear, optical_depth))
    accumulated = optical_depth.double().cumsum(0)  # over the samples of all rays in sequence
    before = accumulated - optical_depth
    first_samples = torch.searchsorted(ray, torch.arange(count, device=device))
    before_ray = torch.cat([before, before.new_zeros(1)])[first_samples]
    transmittance = torch.exp(before_ray[ray] - before)
    counts = transmittance.detach() >= MIN_TRANSMITTANCE
    weights = (transmittance * -torch.expm1(-optical_depth.double()) * counts).to(features.dtype)
    composited = features.new_zeros(count, features.shape[1]).index_add(
        0, ray, weights[:, None] * (trilinear[..., None] * features[rows]).sum(1)
    )
    total_optical_depth = optical_depth.new_zeros(count).index_add(0, ray, optical_depth * counts)
    transmittance_after = transmittance * torch.exp(-optical_depth.double())
    # at most one sample of each ray
    halving = torch.nonzero((transmittance > 0.5) & (transmittance_after <= 0.5)).squeeze(1)
    steps = torch.log(2 * transmittance[halving]) / optical_depth[halving] - 0.5
    depth = features.new_full((count,), torch.inf)
    depth[ray[halving]] = (t[halving] + steps * dt[halving]).detach().to(depth.dtype)
    return CompositeOutput(composited, torch.exp(-total_optical_depth), depth)


def ray_segments(rays: Rays, index: Tensor, near: float) -> Iterator[tuple[int, Rays, Tensor, Tensor]]:
    """Yield the segments of rays: the level, the rays in its coordinates, and the camera z ``[R]`` of both ends.

    A ray ends before it starts where its segment is empty.
    """
    levels, side = index.shape[:2]
    spans = []
    for level in range(levels):
        k = 0.5**level
        shift = (1 - k) / 2 * (side - 1)
        own = Rays(rays.origins * k + shift, rays.directions * k, rays.offsets)
        spans.append((own, *ray_grid_intersection(own, side, near)))
    for segment in range(2 * levels - 1):
        level = abs(segment - levels + 1)
        own, start, end = spans[level]
        if level:
            _, t_in, t_out = spans[level - 1]
            if segment < levels - 1:
                end = torch.where(t_in < t_out, torch.minimum(end, t_in), end)
            else:
                start = torch.where(t_in < t_out, t_out, end)
        yield level, own, start, end


def _occupied_samples(
    rays: Rays, distance: Tensor, level: int, own: Rays, start: Tensor, end: Tensor, step_size: float
) -> tuple[Tensor, ...]:
    """Samples of one segment in occupied cells: ray, level, camera z, camera z per step, and points in the level."""
    dt = step_size / own.directions.detach().norm(dim=1)
    longest = ((end - start) / dt).amax().clamp_min(0) if len(dt) else 0
    steps = torch.arange(math.ceil(float(longest)) + 1, device=dt.device)
    t = start[:, None] + (steps + rays.offsets[:, None]) * dt[:, None]
    ray, n = torch.nonzero(t < end[:, None], as_tuple=True)
    t = t[ray, n]
    points = own.origins[ray] + t[:, None] * own.directions[ray]
    cell = points.long().clamp(0, distance.shape[1] - 1)
    occupied = distance[level, cell[:, 2], cell[:, 1], cell[:, 0]] == 0
    return ray[occupied], torch.full_like(ray[occupied], level), t[occupied], dt[ray[occupied]], points[occupied]


def min_raw_density(interval: float) -> float:
    """Return the raw density at which a sample's opacity is :data:`MIN_ALPHA`.

    Args:
        interval: optical depth of one step at density 1.

    Example:
        >>> raw = torch.tensor(min_raw_density(0.5), dtype=torch.float64)
        >>> round(float(1 - torch.exp(-F.softplus(raw) * 0.5)), 9)
        0.001
    """
    return math.log(math.expm1(-math.log1p(-MIN_ALPHA) / interval))


def ray_grid_intersection(rays: Rays, side: int, near: float = 0.0) -> tuple[Tensor, Tensor]:
    """Intersect rays with the cube of a level by the slab method.

    Args:
        rays: R rays in the grid coordinates of the level.
        side: G, vertices along an edge of the grid.
        near: camera z at which rays start.

    Returns:
        Camera z ``[R]`` at which the rays enter, at least ``near``, and at which they leave. A ray that misses the grid
        leaves before it enters.

    Example:
        >>> rays = Rays(torch.tensor([[-1.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0]]), torch.zeros(1))
        >>> ray_grid_intersection(rays, 4)
        (tensor([0.5000]), tensor([2.]))
    """
    o, d = rays.origins.detach(), rays.directions.detach()
    a, b = -o / d, (side - 1 - o) / d
    outside = (d == 0) & ((o < 0) | (o > side - 1))
    t_min = torch.where(d == 0, -torch.inf, torch.minimum(a, b)).amax(1).clamp_min(near)
    t_max = torch.where(d == 0, torch.inf, torch.maximum(a, b)).amin(1)
    return t_min, torch.where(outside.any(1), -torch.ones_like(t_max), t_max)
