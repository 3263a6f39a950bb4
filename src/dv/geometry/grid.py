"""Where the voxel grid sits in the world, and how far the canonical view frustum reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GridPlacement:
    """A cube of side ``scale`` centred on ``origin``, seen from ``near`` onwards; all in world units."""

    origin: tuple[float, float, float]
    scale: float
    near: float

    def voxel_side(self, grid_side: int) -> float:
        """Side v of a voxel, world units."""
        return self.scale / grid_side

    def frustum_depth(self, grid_side: int) -> int:
        """Number D = 2G of depth samples, a voxel side apart, of the canonical view frustum."""
        return 2 * grid_side

    def voxel_centers(self, grid_side: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """World positions ``[G³, 3]`` (x, y, z) of all voxels in tensor order (z slowest, x fastest)."""
        i = (torch.arange(grid_side, dtype=dtype) - grid_side / 2) * self.voxel_side(grid_side)
        z, y, x = torch.meshgrid(i, i, i, indexing="ij")
        return torch.stack([x, y, z], -1).reshape(-1, 3) + torch.tensor(self.origin, dtype=dtype)

    def to_world_depth(self, depth_map: Tensor, grid_side: int) -> Tensor:
        """Camera z in world units of the occlusion network's depth map Σ d_k·w_k, d in [-1/2, 1/2)."""
        span = self.frustum_depth(grid_side) * self.voxel_side(grid_side)
        return self.near + (depth_map + 0.5) * span


def default_near(near: float) -> float:
    """The near plane of a file: 0 stands for √3/2, whatever the scale (published layout)."""
    return near if near != 0 else math.sqrt(3) / 2


def to_camera(pose: Tensor, points: Tensor) -> Tensor:
    """World points ``[N, 3]`` in the axes of the camera with camera-to-world ``pose`` ``[4, 4]``."""
    # by hand: kornia's transform_points goes through homogeneous coordinates with an ε that shows at small scales
    return (points - pose[:3, 3]) @ pose[:3, :3]


def to_world(pose: Tensor, points: Tensor) -> Tensor:
    """Camera points ``[N, 3]`` in world axes, given the camera-to-world ``pose`` ``[4, 4]``."""
    return points @ pose[:3, :3].T + pose[:3, 3]
