"""The grid is placed around what the cameras look at, in any world coordinates and for any number of cameras."""

import numpy as np
import pytest
import torch

from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.geometry.trajectory import look_at
from dv.prepare.field_of_view import Window, in_window
from dv.prepare.placement import convergence, near_plane, override_placement, place_grid, viewing_radius
from dv.prepare.up import up_direction

WINDOW = Window(-0.3, 0.3, -0.3, 0.3)


def cameras(count=40, center=(0.0, 0, 0), distance=(2.0, 2.0), seed=0, elevation=(5, 70), jitter=0.0, roll=0.0):
    """Return poses on a hemisphere, aimed at its centre with error ``jitter``, rolled by ``roll`` quarter turns."""
    rng = np.random.default_rng(seed)
    poses = []
    for i in range(count):
        a, e = 2 * np.pi * i / count, np.radians(rng.uniform(*elevation))
        d = rng.uniform(*distance)
        eye = np.array(center) + d * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        target = np.array(center) + jitter * rng.normal(size=3)
        pose = look_at(torch.tensor(eye), torch.tensor(target), torch.tensor([0.0, 0, 1]).double()).numpy()
        c, s = np.cos(roll * np.pi / 2), np.sin(roll * np.pi / 2)
        pose[:3, :3] = pose[:3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        poses.append(pose)
    return np.stack(poses)


def in_other_world(poses, points, seed=0):
    """Transform poses and points to another world, which is rotated, scaled and moved."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    scale, shift = rng.uniform(0.05, 20), rng.normal(size=3) * 5
    moved = poses.copy()
    moved[:, :3, :3] = rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T + shift
    return moved, scale * points @ rotation.T + shift, rotation, scale, shift


def test_convergence_is_where_the_axes_meet_despite_outliers():
    poses = cameras(center=(1, 2, 3), jitter=0.0)
    np.testing.assert_allclose(convergence(poses, WINDOW), (1, 2, 3), atol=1e-6)
    poses[::10, :3, :3] = cameras(center=(1, 2, 3), jitter=0.8, seed=5)[::10, :3, :3]
    np.testing.assert_allclose(convergence(poses, WINDOW), (1, 2, 3), atol=0.02)


def test_the_viewing_sphere_just_fits_the_images():
    poses = cameras()
    radius = viewing_radius(poses, WINDOW, np.zeros(3))
    np.testing.assert_allclose(radius, 2 * 0.3 / np.hypot(1, 0.3), rtol=1e-9)
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(500, 3))
    ball *= radius / np.linalg.norm(ball, axis=1, keepdims=True)
    assert in_window(to_camera(poses, 0.999 * ball), WINDOW).all()
    assert not in_window(to_camera(poses, 1.1 * ball), WINDOW).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_grid_holds_the_points_in_any_world(seed):
    rng = np.random.default_rng(seed)
    object_points = rng.uniform(-1, 1, (2000, 3)) * (0.15, 0.25, 0.2) + (0.05, 0, 0.1)
    walls = rng.normal(size=(1500, 3))
    walls = 8 * walls / np.linalg.norm(walls, axis=1, keepdims=True)
    poses, points, _, scale, _ = in_other_world(cameras(jitter=0.05), np.concatenate([object_points, walls]), seed)
    placed = place_grid(poses, WINDOW, points).placement
    local = (points[:2000] - placed.origin) / placed.scale
    assert np.abs(local).max() <= 0.55  # the world is rotated, so corners may lie outside the robust extent
    assert 0.5 * scale <= placed.scale <= 1.25 * scale * 2 * np.linalg.norm((0.15, 0.25, 0.2))
    depths = to_camera(poses, points[:2000])[..., 2]
    assert placed.near <= depths.min()
    assert placed.near + 2 * placed.scale >= depths.max()


def test_without_points_the_viewing_sphere_sets_the_grid():
    placed = place_grid(cameras(center=(1, 2, 3)), WINDOW, None)
    np.testing.assert_allclose(placed.placement.origin, (1, 2, 3), atol=1e-6)
    np.testing.assert_allclose(placed.placement.scale, 1.2 * 4 * 0.3 / np.hypot(1, 0.3), rtol=1e-6)
    assert "sphere of radius 0.5747" in placed.reasons[0]
    few = place_grid(cameras(), WINDOW, np.zeros((3, 3)))
    assert "too few of 3 points" in few.reasons[1]


def test_the_grid_grows_with_the_range_of_camera_distances():
    poses = cameras(distance=(1.5, 2.0))
    object_points = np.random.default_rng(0).uniform(-0.15, 0.15, (500, 3))
    placed = place_grid(poses, WINDOW, object_points)
    assert any("raised" in reason for reason in placed.reasons)
    depths = to_camera(poses, object_points)[..., 2]
    covered = (depths > placed.placement.near) & (depths < placed.placement.near + 2 * placed.placement.scale)
    assert covered.mean() > 0.95
    tight = place_grid(cameras(distance=(1.0, 4.0)), WINDOW, object_points)  # raising the side would lose the object
    assert tight.placement.scale < 0.5
    assert any("needs grid.scale=1.6" in reason for reason in tight.reasons)


def test_near_plane_and_far_end_enclose_the_grid():
    np.testing.assert_allclose(near_plane(cameras(), np.zeros(3), 1.0), 2 - np.sqrt(3) / 2)
    spread = cameras(distance=(2.0, 2.8))
    depths = to_camera(spread, np.zeros((1, 3)))[:, 0, 2]
    near = near_plane(spread, np.zeros(3), 1.0)
    assert near <= depths.min() - 0.5
    assert near + 2 >= depths.max() + 0.5 - 1e-9
    assert near_plane(cameras(distance=(0.3, 0.3)), np.zeros(3), 1.0) > 0


@pytest.mark.parametrize("roll", [0, 1, 2, 3])
@pytest.mark.parametrize("elevation", [(10, 60), (-3, 3)])
def test_up_is_found_however_the_camera_was_held(roll, elevation):
    poses, _, rotation, _, shift = in_other_world(cameras(roll=roll, elevation=elevation), np.zeros((1, 3)))
    up, _ = up_direction(poses, shift)
    if elevation[0] < 0 and roll in (1, 3):  # level cameras held sideways cannot tell up from down
        up = up * np.sign(up @ rotation[:, 2])
    if roll == 2:  # held upside down, as are the images, which define up
        up = -up
    np.testing.assert_allclose(up, rotation[:, 2], atol=0.02)


def test_up_of_mixed_landscape_and_portrait_images():
    poses = np.concatenate([cameras(30), cameras(10, roll=1, seed=3)])
    up, _ = up_direction(poses, np.zeros(3))
    np.testing.assert_allclose(up, (0, 0, 1), atol=0.1)


def test_given_values_override_the_placement():
    poses = cameras()
    placed = place_grid(poses, WINDOW, None)
    moved = override_placement(placed, poses, [0.1, 0, 0], 1.0, None).placement
    assert (moved.origin, moved.scale) == ((0.1, 0.0, 0.0), 1.0)
    assert moved.near == near_plane(poses, np.array([0.1, 0, 0]), 1.0)
    assert override_placement(placed, poses, None, None, 0.5).placement.near == 0.5
    assert override_placement(placed, poses, None, None, None) is placed


def test_unsuitable_cameras_are_refused():
    parallel = np.tile(np.eye(4), (5, 1, 1))
    parallel[:, 0, 3] = range(5)
    with pytest.raises(UserError, match=r"the same direction; give .* grid.origin=\[x,y,z\] grid.scale=SIDE"):
        place_grid(parallel, WINDOW, None)
    opengl = cameras() @ np.diag([1, -1, -1, 1])
    with pytest.raises(UserError, match="look away from the point where their axes meet"):
        place_grid(opengl, WINDOW, None)
    apart = cameras(center=(0, 0, 0), jitter=3.0)
    with pytest.raises(UserError, match=r"grid.origin=\[x,y,z\]|look away"):
        place_grid(apart, WINDOW, None)


def test_windows():
    a = Window(-0.4, 0.4, -0.3, 0.3) & Window(-0.3, 0.5, -0.5, 0.2)
    assert (a.left, a.right, a.top, a.bottom) == (-0.3, 0.4, -0.3, 0.2)
    square = a.square(0.4, (10.0, 0.0))
    np.testing.assert_allclose([square.left, square.right, square.top, square.bottom], [0.0, 0.4, -0.2, 0.2])
