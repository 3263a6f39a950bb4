"""Camera axes, projection and the rays through pixels."""

import numpy as np
import pytest
import torch

from dv.geometry.camera import (
    Intrinsics,
    pixel_grid,
    pixel_rays,
    project,
    rotated_offsets,
    subpixel_offsets,
    subpixel_rays,
    to_camera,
    to_world,
)
from dv.geometry.trajectory import look_at

EYES = torch.tensor([[1.0, -2.0, 0.7], [0.3, 1.5, 2.0]], dtype=torch.float64)
POSES = torch.stack([look_at(eye, torch.zeros_like(eye), torch.tensor([0.0, 0, 1]).double()) for eye in EYES])


@pytest.mark.parametrize("pixel_center", [0.0, 0.5])
def test_points_on_a_ray_project_to_its_pixel_at_their_depth(pixel_center):
    camera = Intrinsics.square(21.0, 9.3, 7.1, 16, pixel_center)
    pixels = pixel_grid(16)
    origins, directions = pixel_rays(POSES[0].expand(256, 4, 4), pixels, camera)
    points = to_camera(POSES[0], origins + 2.5 * directions)
    assert torch.allclose(points[:, 2], torch.full((256,), 2.5, dtype=torch.float64))
    assert torch.allclose(project(points, camera), pixels.double())


def test_points_of_several_cameras_at_once():
    points = torch.randn(5, 3, dtype=torch.float64)
    local = to_camera(POSES, points)
    assert local.shape == (2, 5, 3)
    for pose, local_points in zip(POSES, local, strict=True):
        torch.testing.assert_close(local_points, to_camera(pose, points))
        torch.testing.assert_close(to_world(pose, local_points), points)
    np.testing.assert_allclose(to_camera(POSES.numpy(), points.numpy()), local)
    camera = Intrinsics.square(21.0, 9.3, 7.1, 16, 0.5)
    torch.testing.assert_close(project(local, camera)[1], project(local[1], camera))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_subpixel_offsets_are_centres_of_equal_squares(count):
    points = subpixel_offsets(count)
    assert points.shape == (count**2, 2)
    assert torch.allclose(points.mean(0), torch.zeros(2), atol=1e-7)
    assert torch.allclose(points.amax(0), torch.full((2,), 0.5 - 0.5 / count))
    assert len(torch.unique(points, dim=0)) == count**2


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_rotated_offsets_have_columns_and_rows_of_their_own_and_one_ray_in_each_square(count):
    patterns = rotated_offsets(count)
    centres = (torch.arange(count**2) + 0.5) / count**2 - 0.5
    squares = {tuple(point) for point in subpixel_offsets(count).mul(2 * count).round().tolist()}
    for points in patterns:
        torch.testing.assert_close(points.sort(0).values, centres[:, None].expand(-1, 2))
        assert {tuple(p) for p in (((points + 0.5) * count).floor() * 2 + 1 - count).tolist()} == squares
    torch.testing.assert_close(patterns[0, :, 0], -patterns[1, :, 0])


def test_each_pixel_may_have_its_own_places_of_rays():
    camera, pixels = Intrinsics.square(21.0, 9.3, 7.1, 16, 0.5), pixel_grid(4)
    poses, patterns = POSES[1].expand(len(pixels), 4, 4), rotated_offsets(2).double()
    chosen = torch.arange(len(pixels)) % 2
    origins, directions = subpixel_rays(poses, pixels, camera, patterns[chosen])
    for pixel, which in enumerate(chosen):
        own = subpixel_rays(poses[:1], pixels[pixel : pixel + 1], camera, patterns[which])
        torch.testing.assert_close(directions[4 * pixel : 4 * pixel + 4], own[1])
        torch.testing.assert_close(origins[4 * pixel : 4 * pixel + 4], own[0])


def test_rays_and_projections_of_random_rectangular_cameras_agree():
    """Each ray may have its own camera, with fx ≠ fy and a principal point off centre; resizing keeps directions."""
    rng = np.random.default_rng(0)
    cameras = [
        Intrinsics(
            *rng.uniform(10, 40, 2), *rng.uniform(-5, 25, 2), int(rng.integers(3, 20)), int(rng.integers(3, 20)), c
        )
        for c in (0.0, 0.5, 0.5)
    ]
    for camera in cameras:
        pixels = pixel_grid(camera.width, camera.height)
        assert len(pixels) == camera.width * camera.height
        poses = POSES[1].expand(len(pixels), 4, 4)
        origins, directions = pixel_rays(poses, pixels, camera)
        own = torch.tensor(camera.numbers(), dtype=torch.float64).expand(len(pixels), 4)
        assert torch.equal(pixel_rays(poses, pixels, own)[1], directions)
        points = to_camera(POSES[1], origins + 1.7 * directions)
        assert torch.allclose(project(points, camera), pixels.double())
        scaled = camera.resized(2 * camera.width, 3 * camera.height)
        shift = torch.tensor([0.5 * 2, 0.5 * 3]).double() - 0.5 if camera.pixel_center else 0
        expected = pixels.double() * torch.tensor([2.0, 3]) + shift
        assert torch.allclose(project(points, scaled), expected)
