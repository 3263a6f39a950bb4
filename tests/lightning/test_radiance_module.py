"""Parts of a radiance grid's training that a whole run does not test."""

import pytorch_lightning as pl
import torch
from torch import nn

from conftest import TINY_RADIANCE, compose_config
from dv.data.background import corner_color
from dv.data.folder import Views
from dv.data.object import ObjectSource
from dv.data.sampling import ViewDataset
from dv.geometry.camera import Intrinsics
from dv.lightning.radiance_module import RadianceGridModule
from dv.lightning.vertex_changes import change_parameters
from dv.nets.voxels import SparseVoxels


def test_the_background_is_the_median_of_the_corners():
    images = torch.full((3, 3, 4, 4), 200, dtype=torch.uint8)
    images[:, :, 0, 0] = 10  # the object covers this corner in all views
    poses = torch.eye(4).expand(3, 4, 4)
    views = Views.of_one_camera(["a", "b", "c"], poses, images, Intrinsics.square(4.0, 2.0, 2.0, 4))
    assert torch.allclose(corner_color(views), torch.tensor(200 / 255 - 0.5))


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


def test_padded_views_do_not_count_in_a_validation(ball):
    """Ranks without a view left evaluate one again, so that all ranks take part in every collective operation."""
    source = ObjectSource(ball, "ball", image_side=32)
    config = compose_config("train", *TINY_RADIANCE, "output_dir=x")
    calibration = source.calibration()
    module = RadianceGridModule(config, source.views("train"), calibration, calibration.intrinsics)
    views = ViewDataset(source.views("validation"))
    scores = []
    for counted in ([(0, True)], [(0, True), (1, False)], [(0, True), (1, True)]):
        for number, item in enumerate(counted):
            module.validation_step(views[item], number)
        scores.append(float(module.val_psnr.compute()))
        module.val_psnr.reset()
    assert scores[0] == scores[1] != scores[2]


def test_training_and_validation_share_the_focal_length_of_init_from(ball):
    source = ObjectSource(ball, "ball", image_side=32)
    calibration = source.calibration()
    for overrides in ((), ("model.camera_rate=0.01", "model.refine_focal_length=true")):
        config = compose_config("train", *TINY_RADIANCE, "output_dir=x", *overrides)
        module = RadianceGridModule(config, source.views("train"), calibration, calibration.intrinsics)
        module.model.focal_scale.fill_(1.25)
        module._refining = False
        module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        module.on_train_start()
        drawn = module._pool.draw(5, torch.Generator().manual_seed(0))
        _, _, camera = module._refined(drawn)
        torch.testing.assert_close(camera[:, :2], 1.25 * drawn.camera[:, :2], check_dtype=False)
        torch.testing.assert_close(camera[:, 2:], drawn.camera[:, 2:], check_dtype=False)
