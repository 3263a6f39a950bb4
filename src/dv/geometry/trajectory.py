"""Camera trajectories around an object: spiral, orbit and interpolation of poses."""

from __future__ import annotations

import math

import torch
from kornia.geometry.quaternion import Quaternion
from torch import Tensor

from dv.geometry.camera import Intrinsics

MIN_UNCOVERED = math.pi / 2  # rad of the horizon without cameras, that trajectories do not cross


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Return the pose of an upright camera that looks at a point.

    Args:
        position: centre of the camera ``[3]``, world units.
        target: point ``[3]`` in the centre of the view, world units.
        up: world direction ``[3]`` that points to the top of the image.

    Returns:
        Camera-to-world ``[4, 4]``.

    >>> look_at(torch.tensor([0.0, -2.0, 0.0]), target=torch.zeros(3), up=torch.tensor([0.0, 0.0, 1.0]))
    tensor([[ 1.,  0.,  0.,  0.],
            [ 0.,  0.,  1., -2.],
            [ 0., -1.,  0.,  0.],
            [ 0.,  0.,  0.,  1.]])
    """
    z = torch.nn.functional.normalize(target - position, dim=0)
    x = torch.linalg.cross(z, up)
    if x.norm() < 1e-6:  # the view is along up: any horizontal x will do
        x = torch.linalg.cross(z, up.roll(1))
    x = torch.nn.functional.normalize(x, dim=0)
    pose = torch.eye(4, dtype=position.dtype)
    pose[:3, :3] = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    pose[:3, 3] = position
    return pose


def spiral(poses: Tensor, center: Tensor, frames: int, turns: float, up: Tensor | None = None) -> Tensor:
    """Return an Archimedean spiral over the part of the sphere around ``center`` that the given cameras cover.

    The elevation falls linearly from the highest to the lowest of the cameras. The radius is their median distance.
    Where the cameras leave a quarter of the horizon or more uncovered, turns go back and forth in front of the rest.

    Args:
        poses: camera-to-world ``[V, 4, 4]`` of the cameras.
        center: point ``[3]`` to look at, world units.
        frames: number of frames.
        turns: number of turns around the axis.
        up: axis ``[3]`` of the spiral; by default the mean up direction (-y) of the cameras.

    Returns:
        Camera-to-world ``[frames, 4, 4]``.

    >>> cameras = orbit(torch.eye(4)[None], torch.tensor([0.0, 0.0, 2.0]), frames=8)
    >>> spiral(cameras, torch.tensor([0.0, 0.0, 2.0]), frames=5, turns=2).shape
    torch.Size([5, 4, 4])
    """
    sphere = _CameraSphere(poses, center, up)
    t = torch.linspace(0, 1, frames, dtype=poses.dtype)
    highest, lowest = sphere.elevation.max(), sphere.elevation.min()
    return sphere.trajectory(highest + t * (lowest - highest), sphere.turn(turns * t))


def orbit(
    poses: Tensor,
    center: Tensor,
    frames: int,
    up: Tensor | None = None,
    elevation: float | None = None,
    covered: bool = True,
) -> Tensor:
    """Return one turn around ``center`` that can be played in a loop.

    The radius is the median distance of the given cameras. Where they leave a quarter of the horizon or more uncovered,
    the turn goes back and forth in front of the rest.

    Args:
        poses: camera-to-world ``[V, 4, 4]`` of the cameras.
        center: point ``[3]`` to look at, world units.
        frames: number of frames.
        up: axis ``[3]`` of the orbit; by default the mean up direction (-y) of the cameras.
        elevation: of the orbit, rad; by default the median elevation of the cameras.
        covered: False turns all the way round whatever the cameras cover.

    Returns:
        Camera-to-world ``[frames, 4, 4]``.

    >>> trajectory = orbit(torch.eye(4)[None], center=torch.tensor([0.0, 0.0, 2.0]), frames=4)
    >>> (trajectory[:, :3, 3] - torch.tensor([0.0, 0.0, 2.0])).norm(dim=1)  # distances from the centre
    tensor([2., 2., 2., 2.])
    """
    sphere = _CameraSphere(poses, center, up)
    t = torch.arange(frames, dtype=poses.dtype) / frames
    angle = sphere.elevation.median() if elevation is None else torch.tensor(elevation, dtype=poses.dtype)
    return sphere.trajectory(angle.expand(frames), sphere.turn(t) if covered else 2 * math.pi * t)


def up_direction(poses: Tensor) -> Tensor:
    """Return the mean up direction ``[3]`` (-y) of cameras with the poses ``[V, 4, 4]``."""
    return torch.nn.functional.normalize(-poses[:, :3, 1].mean(0), dim=0)


def eye_poses(
    poses: Tensor, cameras: list[Intrinsics], center: Tensor, offset: float
) -> tuple[Tensor, list[Intrinsics]]:
    """Return poses and cameras of one eye, moved along the camera's x by ``offset``.

    Principal points are shifted so that ``center`` keeps its place in the image: there the two eyes' images coincide,
    and a screen shows it at its own distance.

    Args:
        poses: camera-to-world ``[N, 4, 4]``.
        cameras: of the poses.
        center: point ``[3]``, world units.
        offset: world units; negative for the left eye.
    """
    moved, shifted = poses.clone(), []
    moved[:, :3, 3] += offset * poses[:, :3, 0]
    depths = ((center - poses[:, :3, 3]) * poses[:, :3, 2]).sum(1)
    for k, depth in zip(cameras, depths.tolist(), strict=True):
        shifted.append(k._replace(cx=k.cx + k.fx * offset / depth) if depth > abs(offset) else k)
    return moved, shifted


class _CameraSphere:
    """The sphere around ``center`` that fits the cameras: its axes, its radius, and the elevation of each camera."""

    def __init__(self, poses: Tensor, center: Tensor, up: Tensor | None) -> None:
        offsets = poses[:, :3, 3] - center
        self.center = center
        self.up = up_direction(poses) if up is None else torch.nn.functional.normalize(up, dim=0)
        self.radius = offsets.norm(dim=1).median()
        self.elevation = torch.asin((offsets @ self.up / offsets.norm(dim=1)).clamp(-1, 1))  # [V], rad
        east = offsets[0] - (offsets[0] @ self.up) * self.up
        if east.norm() < 1e-6 * self.radius:  # the first camera is at the pole
            east = torch.linalg.cross(self.up, self.up.roll(1))
        self.east = torch.nn.functional.normalize(east, dim=0)
        self.north = torch.linalg.cross(self.up, self.east)
        self.azimuth = torch.atan2(offsets @ self.north, offsets @ self.east)  # [V], rad

    def turn(self, turns: Tensor) -> Tensor:
        """Return azimuths, rad, for a number of turns ``[T]``: around, or back and forth where there are cameras."""
        known = torch.remainder(self.azimuth, 2 * math.pi).sort().values
        gaps = torch.diff(known, append=known[:1] + 2 * math.pi)
        widest = int(gaps.argmax())
        if len(known) < 3 or gaps[widest] < MIN_UNCOVERED:
            return 2 * math.pi * turns
        start, arc = known[(widest + 1) % len(known)], 2 * math.pi - gaps[widest]
        return start + arc * (1 - torch.cos(2 * math.pi * turns)) / 2

    def trajectory(self, elevation: Tensor, azimuth: Tensor) -> Tensor:
        """Return poses ``[T, 4, 4]`` that look at the centre, given angles ``[T]`` in rad."""
        poses = []
        for e, a in zip(elevation, azimuth, strict=True):
            direction = e.cos() * (a.cos() * self.east + a.sin() * self.north) + e.sin() * self.up
            poses.append(look_at(self.center + self.radius * direction, self.center, self.up))
        return torch.stack(poses)


def interpolate(keys: Tensor, frames: int) -> Tensor:
    """Interpolate between key poses: spherical linear (slerp) in rotation, linear in position.

    Args:
        keys: camera-to-world ``[K, 4, 4]``, at least two.
        frames: number of frames; the first and the last are the first and the last key.

    Returns:
        Camera-to-world ``[frames, 4, 4]``.

    >>> keys = torch.eye(4).repeat(2, 1, 1)
    >>> keys[1, 0, 3] = 1.0  # the second camera is at x = 1
    >>> interpolate(keys, frames=3)[:, 0, 3]
    tensor([0.0000, 0.5000, 1.0000])
    """
    trajectory = []
    for t in torch.linspace(0, len(keys) - 1, frames, dtype=keys.dtype):
        i = min(int(t), len(keys) - 2)
        a, b, w = keys[i], keys[i + 1], t - i
        q = Quaternion.from_matrix(a[:3, :3]).slerp(Quaternion.from_matrix(b[:3, :3]), float(w))
        pose = torch.eye(4, dtype=keys.dtype)
        pose[:3, :3] = q.matrix()
        pose[:3, 3] = (1 - w) * a[:3, 3] + w * b[:3, 3]
        trajectory.append(pose)
    return torch.stack(trajectory)


def key_poses(poses: Tensor, count: int) -> Tensor:
    """Return at most ``count`` of the poses ``[V, 4, 4]``, evenly spaced in their order."""
    return poses[torch.linspace(0, len(poses) - 1, min(count, len(poses))).round().long()]
