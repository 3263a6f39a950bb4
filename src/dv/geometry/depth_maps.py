"""Normals of depth maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dv.geometry.camera import Intrinsics


def depth_normals(depth: Tensor, camera: Intrinsics) -> tuple[Tensor, Tensor]:
    """Return the normals of a depth map, by central differences of the points in it.

    Args:
        depth: camera z ``[H, W]``.
        camera: at the size of the depth map.

    Returns:
        Unit normals towards the camera and unit directions of the rays, ``[3, H, W]`` each, in camera axes.

    >>> normals, _ = depth_normals(torch.ones(4, 4), Intrinsics.square(4.0, 2.0, 2.0, 4))
    >>> normals[:, 0, 0]  # a wall in front of the camera
    tensor([ 0.,  0., -1.])
    """
    fx, fy, cx, cy = camera.numbers()
    rows, columns = torch.meshgrid(torch.arange(len(depth)), torch.arange(depth.shape[1]), indexing="ij")
    rays = torch.stack([(columns - cx) / fx, (rows - cy) / fy, torch.ones_like(depth)])
    points = F.pad((rays * depth)[None], (1, 1, 1, 1), mode="replicate")[0]
    right, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    return F.normalize(torch.linalg.cross(down, right, dim=0), dim=0), F.normalize(rays, dim=0)
