"""Volume rendering of sparse voxels: features, transmittance and depth along rays.

:mod:`dv.ops.compositing_reference` defines what is computed, in tensor operations. Compiled kernels compute the same on
CPUs (:mod:`dv.ops.compositing_cpu`) and on NVIDIA GPUs (:mod:`dv.ops.compositing_cuda`).
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from dv.ops.compositing_reference import (
    CompositeOutput,
    Rays,
    composite_reference,
    min_raw_density,
    ray_grid_intersection,
)

__all__ = [
    "CompositeOutput",
    "Rays",
    "composite",
    "composite_reference",
    "empty_space_distance",
    "min_raw_density",
    "ray_grid_intersection",
]


def composite(
    density: Tensor, features: Tensor, index: Tensor, distance: Tensor, rays: Rays, step_size: float, interval: float,
    near: float = 0.0,
) -> CompositeOutput:  # fmt: skip
    """Composite features along rays with the fastest implementation for the device.

    Args:
        density: ``[N]``, raw densities of the stored vertices; row 0 stands for all missing ones and is constant.
        features: ``[N, F]``, features by row likewise.
        index: int32 ``[L, G, G, G]`` (level, z, y, x), the row of each vertex.
        distance: uint8 ``[L, G-1, G-1, G-1]`` (level, z, y, x), the Chebyshev distance from each cell to the nearest
            occupied one of its level, in cells, or a lower bound: 0 for occupied cells, at least 1 for all others.
        rays: R rays in grid coordinates.
        step_size: distance between samples, in vertices of the level.
        interval: optical depth of one step at density 1.
        near: camera z of the first possible sample.

    Returns:
        Features, transmittance and depth of the rays; gradients of the first two flow to ``density`` and ``features``,
        and to origins and directions of the rays, whose samples stay at their camera z.

    Example:
        >>> index = torch.arange(1, 9, dtype=torch.int32).view(1, 2, 2, 2)  # a single cell
        >>> density = torch.tensor([-10.0] + [2.0] * 8)
        >>> features = torch.tensor([[0.0]] + [[1.0]] * 8)
        >>> distance = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
        >>> directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])  # the second ray misses the grid
        >>> rays = Rays(torch.tensor([[0.5, 0.5, -1.0]] * 2), directions, torch.full((2,), 0.5))
        >>> composite(density, features, index, distance, rays, 0.5, 1.0)
        CompositeOutput(features=tensor([[0.9858],
                [0.0000]]), transmittance=tensor([0.0142, 1.0000]), depth=tensor([1.1629,    inf]))
    """
    arguments = density, features, index, distance, rays, step_size, interval, near
    if density.device.type == "cpu":
        from dv.ops import compositing_cpu  # here, because importing numba takes half a second

        return compositing_cpu.composite(*arguments)
    if density.is_cuda and density.dtype == features.dtype == torch.float32 and find_spec("triton"):
        from dv.ops import compositing_cuda  # here, because Triton is installed with PyTorch for CUDA only

        return compositing_cuda.composite(*arguments)
    return composite_reference(*arguments)


def empty_space_distance(occupied: Tensor, max_distance: int = 32) -> Tensor:
    """Return the ``distance`` that :func:`composite` needs in order to skip empty space.

    Empty cells get one more than the largest radius of 0, 1, 2, 4 … ``max_distance`` cells, along the longest axis,
    within which all cells are empty.

    Args:
        occupied: bool ``[..., D, H, W]``, the cells that are not empty.
        max_distance: radius at which the search ends, a power of two.

    Returns:
        uint8 ``[..., D, H, W]``.

    Example:
        >>> empty_space_distance(torch.tensor([[[True, False, False, False, False, False]]]))
        tensor([[[0, 1, 2, 3, 3, 5]]], dtype=torch.uint8)
    """
    distance, near, radius = (~occupied).to(torch.uint8), occupied, 0
    while radius < max_distance:
        reach = max(1, radius)
        for axis in (-3, -2, -1):
            near = _dilate(near, reach, axis)
        radius += reach
        distance.masked_fill_(~near, radius + 1)
    return distance


def _dilate(cells: Tensor, reach: int, axis: int) -> Tensor:
    """Add the cells ``reach`` before and after each given cell along an axis."""
    count = cells.shape[axis] - reach
    if count <= 0:
        return cells
    dilated = cells.clone()
    dilated.narrow(axis, reach, count).logical_or_(cells.narrow(axis, 0, count))
    dilated.narrow(axis, 0, count).logical_or_(cells.narrow(axis, reach, count))
    return dilated
