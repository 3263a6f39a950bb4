"""Vignetting of several cameras."""

import torch

from dv.geometry.camera import Intrinsics
from dv.lightning.vignetting import Vignetting

WIDE, TALL = Intrinsics(30.0, 31.0, 20.0, 11.0, 40, 24, 0.5), Intrinsics.square(20.0, 10.0, 10.0, 20, 0.5)


def test_each_camera_has_a_polynomial_of_the_distance_from_its_principal_point():
    vignetting = Vignetting([WIDE, TALL, WIDE])
    with torch.no_grad():
        vignetting.terms.copy_(torch.tensor([[-0.3, 0.1], [0.0, 0.0]]))
    pixels = [(19.5, 10.5), (0.0, 0.0), (3.0, 4.0), (30.0, 2.0)]
    ours = vignetting(torch.tensor([0, 0, 1, 2]), torch.tensor(pixels))[:, 0]
    for log_gain, camera, (column, row) in zip(ours, (WIDE, WIDE, TALL, WIDE), pixels, strict=True):
        squared = ((column - camera.cx + 0.5) ** 2 + (row - camera.cy + 0.5) ** 2) / (
            (camera.width**2 + camera.height**2) / 4
        )
        expected = -0.3 * (squared - 1 / 3) + 0.1 * (squared**2 - 0.2) if camera is WIDE else 0.0
        torch.testing.assert_close(log_gain, torch.tensor(expected, dtype=torch.float32))
    assert ours[1] < ours[0], "corners are darker"
