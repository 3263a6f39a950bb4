"""PSNR and SSIM compared with plain implementations of their formulas."""

import numpy as np
import torch

from dv.metrics import psnr, ssim, to_unit


def test_psnr_has_peak_one_and_is_per_view():
    truth = torch.zeros(2, 3, 8, 8)
    image = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01)])
    torch.testing.assert_close(psnr(image, truth), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)


def slow_ssim(a, b):
    """Mean SSIM (Wang et al. 2004) by loops over the 11×11 windows inside the image."""
    t = np.arange(11) - 5
    g = np.exp(-(t**2) / (2 * 1.5**2))
    window = np.outer(g, g) / np.outer(g, g).sum()
    values = []
    for c in range(3):
        for i in range(a.shape[1] - 10):
            for j in range(a.shape[2] - 10):
                x, y = a[c, i : i + 11, j : j + 11], b[c, i : i + 11, j : j + 11]
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
                cov = (window * x * y).sum() - mx * my
                values.append(
                    (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2) / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))
                )
    return np.mean(values)


def test_ssim_equals_a_loop_over_windows():
    rng = np.random.default_rng(0)
    a = rng.random((3, 16, 18))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)
    ours = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    np.testing.assert_allclose(ours.item(), slow_ssim(a, b), atol=1e-8)


def test_ssim_of_an_image_smaller_than_the_window_is_nan():
    assert ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).isnan().all()


def test_model_images_are_mapped_to_zero_to_one():
    torch.testing.assert_close(to_unit(torch.tensor([-0.6, -0.5, 0.0, 0.5])), torch.tensor([0.0, 0.0, 0.5, 1.0]))
