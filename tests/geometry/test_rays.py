"""Rays through pixels against the projection of what lies on them."""

import pytest
import torch

from dv.geometry.camera import Intrinsics, project
from dv.geometry.grid import to_camera
from dv.geometry.rays import all_pixels, pixel_rays, within_pixel
from dv.geometry.trajectory import look_at


@pytest.mark.parametrize("pixel_center", [0.0, 0.5])
def test_points_on_a_ray_project_to_its_pixel_at_their_depth(pixel_center):
    camera = Intrinsics(21.0, 9.3, 7.1, 16, pixel_center)
    eye = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
    pose = look_at(eye, torch.zeros_like(eye), torch.tensor([0.0, 0, 1], dtype=torch.float64))
    pixels = all_pixels(16)
    origins, directions = pixel_rays(pose.expand(256, 4, 4), pixels, camera)
    points = to_camera(pose, origins + 2.5 * directions)
    assert torch.allclose(points[:, 2], torch.full((256,), 2.5, dtype=torch.float64))
    assert torch.allclose(project(points, camera), pixels.double())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_pixel_is_made_up_of_equal_squares(count):
    points = within_pixel(count)
    assert points.shape == (count**2, 2)
    assert torch.allclose(points.mean(0), torch.zeros(2), atol=1e-7)
    assert torch.allclose(points.amax(0), torch.full((2,), 0.5 - 0.5 / count))
    assert len(torch.unique(points, dim=0)) == count**2
