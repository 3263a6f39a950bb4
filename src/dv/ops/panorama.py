"""A panorama: colours by direction, as an image of the whole sphere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_panorama(image: Tensor, directions: Tensor) -> Tensor:
    """Interpolate the colours of a panorama bilinearly.

    Args:
        image: ``[C, H, W]``. Rows go from world direction +z to -z, columns from azimuth -180° to 180° about z, where 0
            is +x; the first and the last column are neighbours.
        directions: unit vectors ``[R, 3]``.

    Returns:
        ``[R, C]``.

    Example:
        >>> image = torch.zeros(1, 2, 4)
        >>> image[:, 0] = 1  # the sky
        >>> sample_panorama(image, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -0.6, -0.8]])).T
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    x, y, z = directions.unbind(1)
    padded = F.pad(image[None], (1, 1, 0, 0), mode="circular")
    column = torch.atan2(y, x) / math.pi * image.shape[2] / padded.shape[3]  # in [-1, 1] from edge to edge
    row = torch.acos(z.clamp(-1, 1)) * (2 / math.pi) - 1
    at = torch.stack([column, row], 1)[None, None].to(image.dtype)
    found = F.grid_sample(padded, at, padding_mode="border", align_corners=False)
    return found[0, :, 0].T
