"""Poses of trajectories are rigid, upright and on the sphere of the cameras from which they are made."""

import math

import torch

from dv.geometry.camera import rigid_defect
from dv.geometry.trajectory import interpolate, key_poses, look_at, orbit, spiral

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
CENTER = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)


def hemisphere(count: int = 12, radius: float = 2.0) -> torch.Tensor:
    poses = []
    for i in range(count):
        azimuth, elevation = 2 * math.pi * i / count, math.radians(10 + 60 * i / count)
        offset = torch.tensor(
            [math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation)],
            dtype=torch.float64,
        )
        poses.append(look_at(CENTER + radius * offset, CENTER, UP))
    return torch.stack(poses)


def test_look_at_is_rigid_and_sees_the_target_upright():
    pose = look_at(CENTER + torch.tensor([1.0, 2, 3]).double(), CENTER, UP)
    assert rigid_defect(pose) is None
    seen = pose[:3, :3].T @ (CENTER - pose[:3, 3])
    torch.testing.assert_close(seen[:2], torch.zeros(2).double(), atol=1e-12, rtol=0)
    assert seen[2] > 0
    assert pose[2, 1] < 0  # image y points down


def test_look_at_straight_down_is_rigid():
    assert rigid_defect(look_at(CENTER + 2 * UP, CENTER, UP)) is None


def test_orbit_is_one_even_revolution_at_the_median_elevation():
    poses = hemisphere()
    path = orbit(poses, CENTER, 24)
    offsets = path[:, :3, 3] - CENTER
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((24,), 2.0).double())
    assert all(rigid_defect(pose) is None for pose in path)
    up = torch.nn.functional.normalize(-poses[:, :3, 1].mean(0), dim=0)
    elevation = torch.asin((poses[:, :3, 3] - CENTER) @ up / 2)
    torch.testing.assert_close(torch.asin(offsets @ up / 2), elevation.median().expand(24))
    steps = (path.roll(-1, 0) - path)[:, :3, 3].norm(dim=1)  # including the one from the last frame to the first
    torch.testing.assert_close(steps, steps[:1].expand(24))


def test_the_up_axis_can_be_given():
    """The cameras are rolled by 90°, so their own up directions do not give the up direction of the world."""
    poses = hemisphere()
    sideways = poses.clone()
    sideways[:, :3, 0], sideways[:, :3, 1] = poses[:, :3, 1], -poses[:, :3, 0]
    for path in (orbit(sideways, CENTER, 8, UP), spiral(sideways, CENTER, 8, 1, UP)):
        torch.testing.assert_close(path[:, 2, 0], torch.zeros(8).double())  # horizontal x axis
        assert (path[:, 2, 1] < 0).all()
    heights = (orbit(sideways, CENTER, 8, UP)[:, :3, 3] - CENTER) @ UP
    torch.testing.assert_close(heights, heights[:1].expand(8))


def test_spiral_stays_on_the_covered_part_of_the_sphere():
    poses = hemisphere()
    path = spiral(poses, CENTER, 40, turns=2)
    assert path.shape == (40, 4, 4)
    offsets = path[:, :3, 3] - CENTER
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((40,), 2.0).double())
    assert all(rigid_defect(pose) is None for pose in path)
    up = torch.nn.functional.normalize(-poses[:, :3, 1].mean(0), dim=0)
    heights = offsets @ up
    assert (heights.diff() < 0).all()
    azimuths = torch.atan2(offsets @ torch.linalg.cross(up, poses[0, :3, 0]), offsets @ poses[0, :3, 0])
    assert len(set((azimuths > 0).int().diff().nonzero().flatten().tolist())) >= 3


def rotation_cosine(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return ((p[:3, :3].T @ q[:3, :3]).trace() - 1) / 2


def test_interpolation_passes_through_its_keys():
    keys = key_poses(hemisphere(), 4)
    path = interpolate(keys, 31)
    torch.testing.assert_close(path[[0, 10, 20, 30]], keys, atol=1e-6, rtol=0)
    assert all(rigid_defect(pose) is None for pose in path)
    middle, a, b = path[5], keys[0], keys[1]
    torch.testing.assert_close(middle[:3, 3], (a[:3, 3] + b[:3, 3]) / 2)
    # slerp at 0.5 is at the same angle from both keys
    torch.testing.assert_close(rotation_cosine(a, middle), rotation_cosine(middle, b), atol=1e-6, rtol=0)


def test_turns_stay_in_front_of_cameras_that_cover_one_side():
    """Seen one by one, no camera of the path is farther from the nearest training camera than they are spaced."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    angles = torch.linspace(-0.5, 0.9, 15, dtype=torch.float64) + 3.0  # across ±π
    places = torch.stack([2 * angles.cos(), 2 * angles.sin(), torch.full_like(angles, 0.4)], 1)
    cameras = torch.stack([look_at(place, torch.zeros(3, dtype=torch.float64), up) for place in places])
    for path in (orbit(cameras, torch.zeros(3).double(), 40, up), spiral(cameras, torch.zeros(3).double(), 60, 2, up)):
        assert torch.cdist(path[:, :3, 3], places).amin(1).max() < 0.11
    loop = orbit(cameras, torch.zeros(3).double(), 40, up)[:, :3, 3]
    assert torch.cdist(loop, places).amin(0).max() < 0.2  # and all are passed
    steps = (loop - loop.roll(1, 0)).norm(dim=1)
    assert steps.max() < 0.3  # it can be played in a loop
    around = orbit(cameras, torch.zeros(3).double(), 8, up, covered=False)[:, :3, 3]
    assert torch.cdist(around, places).amin(1).max() > 3
