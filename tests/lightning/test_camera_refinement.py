"""Corrections of cameras: what is put in comes out."""

import pytest
import torch
from torch.nn import functional as F

from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays
from dv.geometry.grid import GridPlacement
from dv.geometry.trajectory import look_at
from dv.lightning.camera_refinement import CameraRefinement
from dv.nets.radiance_sizes import RadianceSizes
from dv.radiance import RadianceGrid
from dv.tasks.align import align_pose


def cameras_around(count, seed=0):
    """Return poses [count, 4, 4] that look at the origin from a distance of 2."""
    g = torch.Generator().manual_seed(seed)
    positions = 2 * F.normalize(torch.randn(count, 3, generator=g, dtype=torch.float64), dim=1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return torch.stack([look_at(position, torch.zeros(3, dtype=torch.float64), up) for position in positions])


@pytest.mark.parametrize("seed", range(3))
def test_moving_the_whole_world_is_no_correction(seed):
    poses = cameras_around(7, seed)
    g = torch.Generator().manual_seed(seed)
    angle, shift = 1e-4 * torch.randn(3, generator=g), 1e-4 * torch.randn(3, generator=g)
    growth = 1e-4 * float(torch.randn(1, generator=g))
    refinement = CameraRefinement(poses, unit=0.5)
    centers = (poses[:, :3, 3] - poses[:, :3, 3].mean(0)).float() / 0.5
    moved = torch.linalg.cross(angle.expand_as(centers), centers) + shift + growth * centers
    single = 1e-3 * torch.randn(7, 6, generator=g)
    with torch.no_grad():
        refinement.rotation.copy_(angle.expand(7, 3))
        refinement.shift.copy_(moved)
    refinement.keep_world()
    assert max(refinement.rotation.abs().max(), refinement.shift.abs().max()) < 1e-8
    with torch.no_grad():
        refinement.rotation.copy_(single[:, :3])
        refinement.shift.copy_(single[:, 3:])
    refinement.keep_world()
    left = torch.cat([refinement.rotation, refinement.shift], 1)
    assert left.norm() > 0.7 * single.norm(), "corrections of single cameras stay"


def textured_ball():
    """Return a grid with a patterned ball in it."""
    sizes = RadianceSizes(None, 33, initial_density=-9.0)
    grid = RadianceGrid(sizes, GridPlacement((0.0, 0.0, 0.0), 1.0, 0.1))
    at = grid.voxels.positions() / 32 - 0.5
    with torch.no_grad():
        grid.voxels.density[1:] = (0.35 - at.norm(dim=1)) * 60
        grid.voxels.features[1:] = torch.sin(at * torch.tensor([9.0, 12.0, 15.0])) / 2
    grid.voxels.update_empty_space()
    return grid


@pytest.mark.parametrize("focal_scale", [1.0, 1.1])
def test_a_pose_is_aligned_with_what_the_model_renders(focal_scale):
    grid, camera = textured_ball(), Intrinsics.square(60.0, 24.0, 24.0, 48, 0.5)
    grid.focal_scale.fill_(focal_scale)
    pose = cameras_around(1)[0]
    image = ((grid.render(pose, camera).image + 0.5) * 0.8 * 255).round().byte()  # a darker photograph
    wrong = CameraRefinement(pose[None], 1.0)
    with torch.no_grad():
        wrong.rotation.copy_(torch.tensor([[0.01, -0.008, 0.012]]))
        wrong.shift.copy_(torch.tensor([[0.02, 0.01, -0.02]]))
    start = wrong(pose[None], torch.tensor([0]))[0].detach()
    found = align_pose(grid, start, camera, image)
    true = grid.render(pose, camera).image
    before, after = ((grid.render(p, camera).image - true).square().mean() for p in (start, found))
    assert after < before / 10, (before, after)
    assert (found - pose).norm() < 0.8 * (start - pose).norm()
    assert all(parameter.grad is None for parameter in grid.parameters()), "the model stays as it is"


def test_gradients_by_poses_point_where_the_loss_falls():
    """Samples enter and leave a ray as it moves, so single differences are coarse; the whole gradient must agree."""
    grid, camera = textured_ball().double(), Intrinsics.square(20.0, 8.0, 8.0, 16, 0.5)
    poses = cameras_around(1)
    pixels, view = pixel_grid(16), torch.zeros(256, dtype=torch.long)
    refinement = CameraRefinement(poses, 1.0, focal_length=True).double()
    truth = grid.render(poses[0], camera).image.flatten(1).T
    numbers = torch.tensor([camera.numbers()], dtype=torch.float64).expand(256, 4)
    with torch.no_grad():
        refinement.rotation += torch.tensor([[0.01, -0.02, 0.01]])
        refinement.log_focal += 0.02

    def loss():
        moved = refinement(poses.expand(256, 4, 4), view)
        scaled = torch.cat([numbers[:, :2] * refinement.log_focal.exp(), numbers[:, 2:]], 1)
        origins, directions = pixel_rays(moved, pixels, scaled)
        colors = grid(origins, directions, torch.full((256,), 0.5, dtype=torch.float64), 0.1).colors
        return (colors - truth).square().mean()

    loss().backward()
    ours, differences = [], []
    for parameter in refinement.parameters():
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            values = []
            for change in (2e-3, -4e-3):
                flat[i] += change
                values.append(float(loss().detach()))
            flat[i] += 2e-3
            differences.append((values[0] - values[1]) / 4e-3)
        ours += parameter.grad.view(-1).tolist()
    a, b = torch.tensor(ours), torch.tensor(differences)
    assert len(a) == 7
    assert F.cosine_similarity(a, b, dim=0) > 0.95
    assert 0.7 < a.norm() / b.norm() < 1.4
