"""Vignetting of several cameras."""

import torch

from dv.geometry.camera import Intrinsics
from dv.nets.vignetting import Vignetting

WIDE, TALL = Intrinsics(30.0, 31.0, 20.0, 11.0, 40, 24, 0.5), Intrinsics.square(20.0, 10.0, 10.0, 20, 0.5)


def two_cameras():
    vignetting = Vignetting(2)
    vignetting.set_cameras([WIDE, TALL])
    with torch.no_grad():
        vignetting.terms.copy_(torch.tensor([[-0.3, 0.1], [0.2, 0.0]]))
    return vignetting


def test_each_camera_has_a_polynomial_of_the_distance_from_its_principal_point():
    pixels = [(19.5, 10.5), (0.0, 0.0), (3.0, 4.0), (30.0, 2.0)]
    ours = two_cameras()(torch.tensor([0, 0, 1, 0]), torch.tensor(pixels))[:, 0]
    for log_gain, camera, (column, row) in zip(ours, (WIDE, WIDE, TALL, WIDE), pixels, strict=True):
        squared = ((column - camera.cx + 0.5) ** 2 + (row - camera.cy + 0.5) ** 2) / (
            (camera.width**2 + camera.height**2) / 4
        )
        a, b = (-0.3, 0.1) if camera is WIDE else (0.2, 0.0)
        expected = a * (squared - 1 / 3) + b * (squared**2 - 0.2)
        torch.testing.assert_close(log_gain, torch.tensor(expected, dtype=torch.float32))
    assert ours[1] < ours[0], "corners are darker"


def test_an_image_has_the_vignetting_of_the_most_similar_camera_at_any_size():
    vignetting = two_cameras()
    for number, camera in enumerate((WIDE, TALL)):
        column, row = torch.meshgrid(torch.arange(camera.width), torch.arange(camera.height), indexing="xy")
        pixels = torch.stack([column.flatten(), row.flatten()], 1)
        expected = vignetting(torch.full((len(pixels),), number), pixels)
        torch.testing.assert_close(vignetting.image(camera), expected)
        double = vignetting.image(camera.resized(2 * camera.width, 2 * camera.height)).view(2 * camera.height, -1)
        halved = torch.nn.functional.avg_pool2d(double[None], 2).view(-1, 1)
        torch.testing.assert_close(halved, expected, rtol=0, atol=0.002)
