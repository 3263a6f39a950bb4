"""Parts of a radiance grid's training that no whole run shows."""

import torch
from torch import nn

from dv.data.folder import Views
from dv.lightning.radiance_module import _background, _carry_over
from dv.nets.voxels import SparseVoxels


def test_the_background_is_what_most_corners_show():
    images = torch.full((3, 3, 4, 4), 200, dtype=torch.uint8)
    images[:, :, 0, 0] = 10  # something lies in this corner of all views
    poses = torch.eye(4).expand(3, 4, 4)
    assert torch.allclose(_background(Views(["a", "b", "c"], poses, images)), torch.tensor(200 / 255 - 0.5))


def test_moments_stay_with_parameters_that_do_not_change():
    voxels = SparseVoxels(8, 3, 0.0)
    optimizer = torch.optim.Adam([voxels.features, voxels.density])
    for parameter in (voxels.features, voxels.density):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    density: nn.Parameter = voxels.density
    _carry_over(optimizer, voxels, lambda: voxels.resize_features(5))
    assert optimizer.state[density]["exp_avg"].any()
    assert voxels.features in optimizer.param_groups[0]["params"]
    assert voxels.features not in optimizer.state, "it has another shape and begins anew"
