"""Image quality: PSNR with peak 1 and SSIM with an 11×11 Gaussian window, σ 1.5."""

from __future__ import annotations

import torch
from kornia.metrics import psnr as kornia_psnr
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor

SSIM_WINDOW = 11


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB ``[N]`` of images ``[N, 3, H, W]`` in [0, 1]; infinite for equal ones."""
    return torch.stack([kornia_psnr(a, b, 1.0) for a, b in zip(image, truth, strict=True)])


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Mean SSIM ``[N]`` of images ``[N, 3, H, W]`` in [0, 1], over the windows that lie wholly inside (Wang 2004).

    NaN where the image is smaller than the window.
    """
    if min(image.shape[-2:]) < SSIM_WINDOW:
        return torch.full((len(image),), float("nan"), device=image.device)
    return kornia_ssim(image, truth, SSIM_WINDOW, padding="valid").mean((1, 2, 3))  # type: ignore[no-any-return]


def to_unit(image: Tensor) -> Tensor:
    """A model image in [-0.5, 0.5] as a picture in [0, 1]."""
    return (image.float() + 0.5).clamp(0, 1)
