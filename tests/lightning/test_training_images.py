"""Images are rendered on the model's device during training."""

from types import SimpleNamespace

import torch

from dv.data.object import ObjectSource
from dv.lightning.training_images import TrainingImages
from dv.object_model import RenderedView


def test_a_view_is_rendered_on_the_device_of_the_model(ball):
    rendered = []

    class OnMetaDevice(torch.nn.Module):
        device = torch.device("meta")

        def render_view(self, pose, intrinsics):
            rendered.append(pose.device)
            return RenderedView(torch.zeros(3, 32, 32))

    trainer = SimpleNamespace(datamodule=SimpleNamespace(source=ObjectSource(ball, "ball", image_side=32)))
    assert TrainingImages(1)._validation_view(trainer, OnMetaDevice()).ndim == 3
    assert rendered == [OnMetaDevice.device]
