"""Pictures of the training are made where the model is."""

from types import SimpleNamespace

import torch
from dv.lightning.pictures import Pictures

from dv.data.object import ObjectSource


def test_a_view_is_rendered_on_the_device_of_the_model(ball):
    rendered = []

    class Elsewhere(torch.nn.Module):
        device = torch.device("meta")

        def picture(self, pose):
            rendered.append(pose.device)
            return torch.zeros(1, 3, 32, 32), None

    trainer = SimpleNamespace(datamodule=SimpleNamespace(source=ObjectSource(ball, "ball", image_side=32)))
    assert Pictures(1)._views(trainer, Elsewhere()).ndim == 3
    assert rendered == [Elsewhere.device]
