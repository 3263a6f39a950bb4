"""Image quality: PSNR with peak 1, and SSIM with an 11×11 Gaussian window of σ = 1.5 px."""

from __future__ import annotations

import torch
from kornia.metrics import psnr as kornia_psnr
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor

SSIM_WINDOW = 11


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """Return the PSNR of each image.

    Args:
        image: ``[N, 3, H, W]`` in [0, 1].
        truth: ``[N, 3, H, W]`` in [0, 1].

    Returns:
        PSNR ``[N]`` in dB; infinite for equal images.

    >>> psnr(torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.6))
    tensor([20.0000])
    """
    return torch.stack([kornia_psnr(a, b, 1.0) for a, b in zip(image, truth, strict=True)])


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Return the mean SSIM of each image (Wang et al. 2004) over the windows that lie entirely inside the image.

    Args:
        image: ``[N, 3, H, W]`` in [0, 1].
        truth: ``[N, 3, H, W]`` in [0, 1].

    Returns:
        SSIM ``[N]`` in [-1, 1]; NaN where the images are smaller than the window.

    >>> stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 3, 16, 16)
    >>> ssim(stripes, stripes), ssim(stripes, 1 - stripes)
    (tensor([1.]), tensor([-0.9964]))
    """
    if min(image.shape[-2:]) < SSIM_WINDOW:
        return torch.full((len(image),), float("nan"), device=image.device)
    return kornia_ssim(image, truth, SSIM_WINDOW, padding="valid").mean((1, 2, 3))  # type: ignore[no-any-return]


def fit_gain(image: Tensor, truth: Tensor) -> Tensor:
    """Multiply each channel by the factor that brings an image nearest to its truth, by least squares.

    Photographs of one thing differ in exposure and white balance, which cannot always be predicted for a new view.

    Args:
        image: ``[P, C]``, any colours from 0 on.
        truth: ``[P, C]``.

    Returns:
        ``[P, C]``.

    >>> fit_gain(torch.tensor([[0.2], [0.4]]), torch.tensor([[0.3], [0.6]]))
    tensor([[0.3000],
            [0.6000]])
    """
    return image * ((image * truth).sum(0) / image.square().sum(0).clamp_min(1e-12))


def to_unit(image: Tensor) -> Tensor:
    """Map an image of the model in [-0.5, 0.5] to [0, 1] in fp32; values outside are clamped.

    >>> to_unit(torch.tensor([-0.5, 0.0, 0.75]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    return (image.float() + 0.5).clamp(0, 1)
