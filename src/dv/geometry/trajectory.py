"""Camera paths around an object: spiral and interpolation."""

from __future__ import annotations

import math

import torch
from kornia.geometry.quaternion import Quaternion
from torch import Tensor


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world pose ``[4, 4]`` at ``position`` looking at ``target``, image top towards ``up``; all ``[3]``."""
    z = torch.nn.functional.normalize(target - position, dim=0)
    x = torch.linalg.cross(z, up)
    if x.norm() < 1e-6:  # looking along up: any horizontal axis will do
        x = torch.linalg.cross(z, up.roll(1))
    x = torch.nn.functional.normalize(x, dim=0)
    pose = torch.eye(4, dtype=position.dtype)
    pose[:3, :3] = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    pose[:3, 3] = position
    return pose


def spiral(poses: Tensor, center: Tensor, frames: int, turns: float) -> Tensor:
    """Archimedean spiral ``[frames, 4, 4]`` over the part of the sphere around ``center`` that ``poses`` cover.

    The axis is the mean up direction of the given cameras, the radius their median distance, and the elevation falls
    evenly from the highest to the lowest of theirs while the azimuth makes ``turns`` turns.

    Args:
        poses: ``[V, 4, 4]`` camera-to-world, in which image y points down.
        center: ``[3]``, what to look at.
    """
    offsets = poses[:, :3, 3] - center
    up = torch.nn.functional.normalize(-poses[:, :3, 1].mean(0), dim=0)
    radius = offsets.norm(dim=1).median()
    elevation = torch.asin((offsets @ up / offsets.norm(dim=1)).clamp(-1, 1))
    east = offsets[0] - (offsets[0] @ up) * up
    if east.norm() < 1e-6 * radius:
        east = torch.linalg.cross(up, up.roll(1))
    east = torch.nn.functional.normalize(east, dim=0)
    north = torch.linalg.cross(up, east)
    path = []
    for t in torch.linspace(0, 1, frames, dtype=poses.dtype):
        e = elevation.max() + t * (elevation.min() - elevation.max())
        a = 2 * math.pi * turns * t
        direction = e.cos() * (a.cos() * east + a.sin() * north) + e.sin() * up
        path.append(look_at(center + radius * direction, center, up))
    return torch.stack(path)


def interpolate(keys: Tensor, frames: int) -> Tensor:
    """Path ``[frames, 4, 4]`` through the key poses ``[K, 4, 4]``: slerp of rotations, linear in position."""
    path = []
    for t in torch.linspace(0, len(keys) - 1, frames, dtype=keys.dtype):
        i = min(int(t), len(keys) - 2)
        a, b, w = keys[i], keys[i + 1], t - i
        q = Quaternion.from_matrix(a[:3, :3]).slerp(Quaternion.from_matrix(b[:3, :3]), float(w))
        pose = torch.eye(4, dtype=keys.dtype)
        pose[:3, :3] = q.matrix()
        pose[:3, 3] = (1 - w) * a[:3, 3] + w * b[:3, 3]
        path.append(pose)
    return torch.stack(path)


def key_poses(poses: Tensor, count: int) -> Tensor:
    """``count`` of the poses ``[V, 4, 4]``, spread evenly over their list."""
    return poses[torch.linspace(0, len(poses) - 1, min(count, len(poses))).round().long()]
