"""Vertex normals are surface normals that point towards the cameras that see the surface."""

import pytest
import torch
import torch.nn.functional as F

from dv.nets.voxels import EMPTY_DENSITY, SparseVoxels
from dv.ops.compositing import Rays

SIDE = 33
CENTER = torch.full((3,), (SIDE - 1) / 2)


def shell(radius, thickness, side=SIDE):
    """Return voxels that are dense between two concentric spheres."""
    voxels = SparseVoxels(side, 3, EMPTY_DENSITY)
    radii = (voxels.positions() - CENTER).norm(dim=1)
    with torch.no_grad():
        voxels.density[1:] = torch.where((radii - radius).abs() < thickness / 2, 5.0, EMPTY_DENSITY)
    voxels.update_empty_space()
    return voxels


@pytest.mark.parametrize("thickness", [2.0, 3.0])
def test_normals_of_a_hollow_ball_point_away_from_its_centre(thickness):
    voxels = shell(12, thickness)
    outwards = torch.cat([torch.zeros(1, 3), F.normalize(voxels.positions() - CENTER, dim=1)])
    dense = voxels.density > 0
    towards = outwards + 0.5 * torch.randn(outwards.shape, generator=torch.Generator().manual_seed(0))
    cosines = (voxels.normals(towards) * outwards).sum(1)[dense]
    assert cosines.quantile(0.1) > 0.9
    assert cosines.median() > 0.98
    opposite = (voxels.normals(-towards) * outwards).sum(1)[dense]
    assert opposite.median() < -0.98


def test_normals_in_constant_density_point_towards_the_cameras():
    voxels = SparseVoxels(9, 3, 2.0)
    towards = torch.randn(9**3 + 1, 3, generator=torch.Generator().manual_seed(0))
    inner = (voxels.positions() - 4).abs().amax(1) < 4
    cosines = (voxels.normals(towards) * F.normalize(towards, dim=1)).sum(1)[1:][inner]
    assert cosines.min() > 0.999


def test_missing_and_unseen_vertices_have_no_normals():
    voxels = shell(12, 2.0)
    voxels.prune()
    towards = torch.randn(len(voxels.density), 3, generator=torch.Generator().manual_seed(0))
    towards[:100] = 0
    normals = voxels.normals(towards)
    assert not normals[:100].any(), "no camera sees these vertices"
    torch.testing.assert_close(normals[100:].norm(dim=1), torch.ones(len(normals) - 100))


def test_batches_change_nothing(monkeypatch):
    voxels = shell(12, 3.0)
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand(500, 3, generator=generator) * (SIDE - 1)
    directions = torch.randn(500, 3, generator=generator)
    rays = Rays(origins, directions, torch.rand(500, generator=generator))
    towards = voxels.weighted_view_directions(rays)
    normals = voxels.normals(towards[:, :3])
    monkeypatch.setattr("dv.nets.voxels.RAYS_PER_BATCH", 70)
    monkeypatch.setattr("dv.nets.voxels.VERTICES_PER_BATCH", 1000)
    assert towards.any(1).sum() > 1000
    torch.testing.assert_close(voxels.weighted_view_directions(rays), towards)
    torch.testing.assert_close(voxels.normals(towards[:, :3]), normals)


def test_view_directions_point_towards_the_ray_origins():
    voxels = shell(12, 3.0)
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand(2000, 3, generator=generator) * (SIDE - 1)
    origins[:, 0] = -5
    directions = torch.tensor([[2.0, 0, 0]]).expand(2000, 3)
    towards = voxels.weighted_view_directions(Rays(origins, directions, torch.full((2000,), 0.5)))[:, :3]
    in_front = torch.cat([torch.zeros(1), voxels.positions()[:, 0]]) < CENTER[0] - 3
    dense = voxels.density > 0
    assert not towards[:, 1:].any()
    assert (towards[:, 0] <= 0).all()
    assert (towards[in_front & dense, 0] < -0.01).float().mean() > 0.5
    hidden = ~in_front & (torch.cat([torch.zeros(1), voxels.positions()[:, 0]]) > CENTER[0] + 3)
    assert towards[hidden, 0].abs().sum() < 0.02 * towards[:, 0].abs().sum()
