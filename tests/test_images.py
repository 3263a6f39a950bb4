import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from dv.decoding import read_image
from dv.images import contact_sheet, depth_image, square_image, write_png, write_png16
from dv.rendering.films import Film


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_png_reads_back_exactly(tmp_path, channels):
    image = torch.rand(channels, 9, 7, dtype=torch.float64)
    write_png16(tmp_path / "a.png", image)
    stored = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    stored = stored[..., ::-1] if channels == 3 else stored  # OpenCV reads BGR
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored.reshape(9, 7, channels), np.round(65535 * image.permute(1, 2, 0).numpy()))


def test_sixteen_bit_channels_are_red_green_blue(tmp_path):
    red = torch.zeros(3, 4, 4)
    red[0] = 1
    write_png16(tmp_path / "red.png", red)
    assert iio.imread(tmp_path / "red.png")[0, 0].tolist()[0] > 0
    assert iio.imread(tmp_path / "red.png")[0, 0].tolist()[2] == 0


def test_eight_bit_png(tmp_path):
    image = torch.rand(3, 4, 5)
    write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.png"), (image * 255).round().byte().permute(1, 2, 0))


def test_video_has_all_frames_and_enlarges_small_ones(tmp_path):
    with Film(tmp_path / "v.mp4", fps=10) as film:
        for i in range(5):
            film.add(torch.full((3, 32, 32), i / 4))
    frames = iio.imread(tmp_path / "v.mp4")
    assert frames.shape == (5, 256, 256, 3)
    assert frames[0].mean() < 20
    assert frames[-1].mean() > 235


def test_depth_image_is_bright_near():
    image = depth_image(torch.tensor([[[1.0, 2.0], [3.0, 3.0]]]), 4, 4)
    assert image.shape == (3, 4, 4)
    assert image[0, 0, 0] == 1
    assert image[0, -1, -1] == 0


def test_contact_sheet():
    assert contact_sheet([[torch.zeros(3, 4, 4)] * 3] * 2, gap=1).shape == (3, 12, 18)


def test_images_are_resized_by_area_averaging():
    image = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    averaged = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    expected = torch.from_numpy((averaged * 255).round().astype(np.uint8)).permute(2, 0, 1)
    torch.testing.assert_close(square_image(image, 4), expected)


def test_grey_and_sixteen_bit_images(tmp_path):
    grey = np.full((4, 4), 51, np.uint8)
    iio.imwrite(tmp_path / "grey.png", grey)
    np.testing.assert_allclose(read_image(tmp_path / "grey.png", np.ones(3)), np.full((4, 4, 3), 0.2), atol=1e-6)
    iio.imwrite(tmp_path / "deep.png", grey.astype(np.uint16) * 257)
    np.testing.assert_allclose(read_image(tmp_path / "deep.png", np.ones(3)), np.full((4, 4, 3), 0.2), atol=1e-6)
