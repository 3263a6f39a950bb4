"""What the corners of the images say about the background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dv.data.folder import Views
from dv.decoding import over_background, read_pixels
from dv.images import to_model_range

PLAIN_TOLERANCE = 0.1  # maximum difference of a channel in [0, 1] to the colour of a plain background
PLAIN_SHARE = 0.8  # of all corners must have that colour
FILES_READ = 20


def corner_color(views: Views) -> Tensor:
    """Return the median colour ``[3]``, in [-0.5, 0.5], of the corner pixels of all images."""
    return to_model_range(_corners_of_views(views).float().median(0).values)


def has_plain_background(views: Views) -> bool:
    """Return whether most corner pixels of all images have the same colour."""
    return is_plain(_corners_of_views(views) / 255)


def is_plain(corners: Tensor) -> bool:
    """Return whether most of the colours ``[N, 3]`` in [0, 1] are about the same.

    >>> is_plain(torch.zeros(9, 3)), is_plain(torch.linspace(0, 1, 90).view(30, 3))
    (True, False)
    """
    difference = (corners - corners.median(0).values).abs().amax(1)
    return bool((difference < PLAIN_TOLERANCE).float().mean() > PLAIN_SHARE)


def corners_of_files(paths: list[Path]) -> Tensor:
    """Read the corner colours ``[N, 3]`` in [0, 1] of some of the images, over white where they are transparent."""
    some = paths[:: max(1, len(paths) // FILES_READ)]
    corners = [read_pixels(path)[[0, 0, -1, -1], [0, -1, 0, -1]] for path in some]
    return torch.cat([torch.from_numpy(over_background(four[None], np.ones(3))[0]) for four in corners])


def _corners_of_views(views: Views) -> Tensor:
    """Corner pixels ``[4·V, 3]`` of all images, uint8."""
    spans = zip(views.starts, views.starts[1:], (k.width for k in views.cameras), strict=False)
    return views.pixels[[row for start, end, w in spans for row in (start, start + w - 1, end - w, end - 1)]]
