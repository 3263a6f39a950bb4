"""Placement of the voxel grid in the world and depth range of the canonical view frustum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GridPlacement:
    """A cube around the object, and the depth at which view frustums begin.

    Args:
        origin: centre (x, y, z) of the cube, world units.
        scale: side of the cube, world units.
        near: camera z of the near plane, world units.
    """

    origin: tuple[float, float, float]
    scale: float
    near: float

    def voxel_side(self, grid_side: int) -> float:
        """Return the side v of a voxel in world units."""
        return self.scale / grid_side

    def frustum_depth(self, grid_side: int) -> int:
        """Return the number D = 2G of depth planes of the canonical view frustum; they are one voxel side apart."""
        return 2 * grid_side

    def voxel_centers(self, grid_side: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the world positions of all voxels.

        Args:
            grid_side: G, voxels.
            dtype: of the result.

        Returns:
            Positions ``[G³, 3]`` (x, y, z), world units, in the order of a grid tensor (z slowest, x fastest).

        >>> GridPlacement((0.0, 0.0, 0.0), scale=2.0, near=1.0).voxel_centers(2)[:3]
        tensor([[-1., -1., -1.],
                [ 0., -1., -1.],
                [-1.,  0., -1.]], dtype=torch.float64)
        """
        i = (torch.arange(grid_side, dtype=dtype) - grid_side / 2) * self.voxel_side(grid_side)
        z, y, x = torch.meshgrid(i, i, i, indexing="ij")
        return torch.stack([x, y, z], -1).reshape(-1, 3) + torch.tensor(self.origin, dtype=dtype)

    def to_world_depth(self, depth_map: Tensor, grid_side: int) -> Tensor:
        """Convert a depth map of the occlusion network to camera z.

        Args:
            depth_map: expected depth Σ d_k·w_k, any shape, where depth plane k has d_k = k/D - 1/2, in [-1/2, 1/2).
            grid_side: G, voxels.

        Returns:
            Camera z in world units, in the shape of ``depth_map``.

        >>> GridPlacement((0.0, 0.0, 0.0), scale=2.0, near=1.0).to_world_depth(torch.tensor([-0.5, 0.0]), grid_side=4)
        tensor([1., 3.])
        """
        span = self.frustum_depth(grid_side) * self.voxel_side(grid_side)
        return self.near + (depth_map + 0.5) * span


def near_or_default(near: float) -> float:
    """Return the near plane read from ``intrinsics.txt``; 0 stands for √3/2 at any scale, as in the published data."""
    return near if near != 0 else math.sqrt(3) / 2
