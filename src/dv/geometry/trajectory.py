"""Camera paths around an object: spiral, orbit and interpolation."""

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


def spiral(poses: Tensor, center: Tensor, frames: int, turns: float, up: Tensor | None = None) -> Tensor:
    """Archimedean spiral ``[frames, 4, 4]`` over the part of the sphere around ``center`` that ``poses`` cover.

    The elevation falls evenly from the highest to the lowest of the given cameras while the azimuth makes ``turns``
    turns; axis and radius as for :func:`orbit`.

    Args:
        poses: ``[V, 4, 4]`` camera-to-world, in which image y points down.
        center: ``[3]``, what to look at.
        up: ``[3]``, the axis.
    """
    around = _Sphere(poses, center, up)
    t = torch.linspace(0, 1, frames, dtype=poses.dtype)
    highest, lowest = around.elevation.max(), around.elevation.min()
    return around.path(highest + t * (lowest - highest), 2 * math.pi * turns * t)


def orbit(poses: Tensor, center: Tensor, frames: int, up: Tensor | None = None) -> Tensor:
    """A full turn ``[frames, 4, 4]`` around ``center`` at the median elevation of ``poses``; it closes, for a loop.

    The axis is ``up``, by default the mean up direction of the given cameras ``[V, 4, 4]``; the radius is their median
    distance.
    """
    around = _Sphere(poses, center, up)
    t = torch.arange(frames, dtype=poses.dtype) / frames
    return around.path(around.elevation.median().expand(frames), 2 * math.pi * t)


class _Sphere:
    """The sphere around ``center`` on which cameras stand: axes, radius, and the elevation of each."""

    def __init__(self, poses: Tensor, center: Tensor, up: Tensor | None) -> None:
        offsets = poses[:, :3, 3] - center
        self.center = center
        self.up = torch.nn.functional.normalize(-poses[:, :3, 1].mean(0) if up is None else up, dim=0)
        self.radius = offsets.norm(dim=1).median()
        self.elevation = torch.asin((offsets @ self.up / offsets.norm(dim=1)).clamp(-1, 1))
        east = offsets[0] - (offsets[0] @ self.up) * self.up
        if east.norm() < 1e-6 * self.radius:
            east = torch.linalg.cross(self.up, self.up.roll(1))
        self.east = torch.nn.functional.normalize(east, dim=0)
        self.north = torch.linalg.cross(self.up, self.east)

    def path(self, elevation: Tensor, azimuth: Tensor) -> Tensor:
        poses = []
        for e, a in zip(elevation, azimuth, strict=True):
            direction = e.cos() * (a.cos() * self.east + a.sin() * self.north) + e.sin() * self.up
            poses.append(look_at(self.center + self.radius * direction, self.center, self.up))
        return torch.stack(poses)


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
