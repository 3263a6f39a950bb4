"""Vertices have the normals of the surfaces that they lie in, on the side from which they are seen."""

import pytest
import torch
import torch.nn.functional as F

from dv.nets.voxels import NOTHING, SparseVoxels
from dv.ops.compositing import Rays

SIDE = 33
CENTER = torch.full((3,), (SIDE - 1) / 2)


def shell(radius, thickness, side=SIDE):
    """Dense between two spheres."""
    voxels = SparseVoxels(side, 3, NOTHING)
    away = (voxels.positions() - CENTER).norm(dim=1)
    with torch.no_grad():
        voxels.density[1:] = torch.where((away - radius).abs() < thickness / 2, 5.0, NOTHING)
    voxels.find_empty()
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


def test_where_density_does_not_tell_normals_are_those_of_the_cameras():
    voxels = SparseVoxels(9, 3, 2.0)
    towards = torch.randn(9**3 + 1, 3, generator=torch.Generator().manual_seed(0))
    inner = (voxels.positions() - 4).abs().amax(1) < 4
    cosines = (voxels.normals(towards) * F.normalize(towards, dim=1)).sum(1)[1:][inner]
    assert cosines.min() > 0.999


def test_vertices_that_are_not_there_have_no_normals():
    voxels = shell(12, 2.0)
    voxels.prune()
    towards = torch.randn(len(voxels.density), 3, generator=torch.Generator().manual_seed(0))
    towards[:100] = 0
    normals = voxels.normals(towards)
    assert not normals[:100].any(), "nor those that no camera sees"
    torch.testing.assert_close(normals[100:].norm(dim=1), torch.ones(len(normals) - 100))


def test_vertices_are_seen_from_where_rays_come():
    voxels = shell(12, 3.0)
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand(2000, 3, generator=generator) * (SIDE - 1)
    origins[:, 0] = -5
    directions = torch.tensor([[2.0, 0, 0]]).expand(2000, 3)
    towards = voxels.towards_cameras(Rays(origins, directions, torch.full((2000,), 0.5)))
    before = torch.cat([torch.zeros(1), voxels.positions()[:, 0]]) < CENTER[0] - 3
    dense = voxels.density > 0
    assert not towards[:, 1:].any()
    assert (towards[:, 0] <= 0).all()
    assert (towards[before & dense, 0] < -0.01).float().mean() > 0.5
    hidden = ~before & (torch.cat([torch.zeros(1), voxels.positions()[:, 0]]) > CENTER[0] + 3)
    assert towards[hidden, 0].abs().sum() < 0.02 * towards[:, 0].abs().sum()
