"""Parts of a radiance grid's training that a whole run does not test."""

import torch
from torch import nn

from dv.data.folder import Views
from dv.lightning.radiance_module import _corner_color
from dv.lightning.vertex_changes import change_parameters
from dv.nets.voxels import SparseVoxels


def test_the_background_is_the_median_of_the_corners():
    images = torch.full((3, 3, 4, 4), 200, dtype=torch.uint8)
    images[:, :, 0, 0] = 10  # the object covers this corner in all views
    poses = torch.eye(4).expand(3, 4, 4)
    assert torch.allclose(_corner_color(Views(["a", "b", "c"], poses, images)), torch.tensor(200 / 255 - 0.5))


def test_unchanged_parameters_keep_their_moments():
    voxels = SparseVoxels(8, 3, 0.0)
    optimizer = torch.optim.Adam([voxels.features, voxels.density])
    for parameter in (voxels.features, voxels.density):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    density: nn.Parameter = voxels.density
    change_parameters(optimizer, voxels, lambda: voxels.resize_features(5))
    assert optimizer.state[density]["exp_avg"].any()
    assert voxels.features in optimizer.param_groups[0]["params"]
    assert voxels.features not in optimizer.state, "a parameter of another shape starts without moments"
