"""What the corners of the images say about the background."""

from __future__ import annotations

import torch
from torch import Tensor

from dv.data.folder import Views
from dv.images import to_model_range

PLAIN_TOLERANCE = 0.1  # maximum difference of a channel in [0, 1] to the colour of a plain background
PLAIN_SHARE = 0.8  # of all corners must have that colour


def corner_color(views: Views) -> Tensor:
    """Return the median colour ``[3]``, in [-0.5, 0.5], of the corner pixels of all images."""
    return to_model_range(_corners(views).float().median(0).values)


def has_plain_background(views: Views) -> bool:
    """Return whether most corner pixels of all images have the same colour."""
    corners = to_model_range(_corners(views))
    difference = (corners - corner_color(views)).abs().amax(1)
    return bool((difference < PLAIN_TOLERANCE).float().mean() > PLAIN_SHARE)


def _corners(views: Views) -> Tensor:
    """Corner pixels ``[4·V, 3]`` of all images, uint8."""
    return torch.cat([views.image(i)[:, [0, 0, -1, -1], [0, -1, 0, -1]].T for i in range(len(views))])
