"""Depth maps as images: colours of a perceptually uniform colour map, its scale bar, and surface normals."""

from __future__ import annotations

from functools import cache

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dv.geometry.camera import Intrinsics
from dv.geometry.depth_maps import depth_normals

COLOR_MAP = "viridis"  # perceptually uniform, also in grey and for colour-blind readers
TEXT_FRACTION = 1 / 24  # height of the scale bar's text, of the image's height
MIN_TEXT = 9  # px


def depth_range(depth: Tensor, opacity: Tensor | None = None) -> tuple[float, float]:
    """Return the nearest and farthest depth of what is opaque, without 1 % of outliers at either end.

    Nothing beyond three times the median counts, so that distant surroundings leave colours for the rest.

    Args:
        depth: ``[1, H, W]``.
        opacity: in [0, 1], in the shape of ``depth``; None: everything is opaque.
    """
    opaque = depth if opacity is None or not (opacity > 0.5).any() else depth[opacity > 0.5]
    values = opaque.flatten().float()
    values = values[:: max(1, len(values) // 100_000)]  # quantile takes no more than 16 million values
    low, median, high = torch.quantile(values, values.new_tensor([0.01, 0.5, 0.99])).tolist()
    high = min(high, 3 * median)
    return low, max(high, low + 1e-6 * max(1.0, abs(low)))


def depth_colors(depth: Tensor, low: float, high: float, opacity: Tensor | None = None) -> Tensor:
    """Colour depth ``[1, H, W]``: ``low`` and nearer is yellow, ``high`` and farther dark violet, RGB ``[3, H, W]``.

    With an opacity ``[1, H, W]``, colours fade to white where it is low.
    """
    nearness = 1 - ((depth[0].float().cpu() - low) / (high - low)).clamp(0, 1)
    table = _colors()
    colors = table[(nearness * (len(table) - 1)).round().long()].permute(2, 0, 1)
    return colors if opacity is None else torch.lerp(torch.ones_like(colors), colors, opacity.float().cpu())


def normal_colors(depth: Tensor, pose: Tensor, intrinsics: Intrinsics, opacity: Tensor | None = None) -> Tensor:
    """Colour the surface normals of a depth map: (x + 1)/2 as red and so on, in world axes, RGB ``[3, H, W]``.

    Args:
        depth: camera z ``[1, H, W]``.
        pose: camera-to-world ``[4, 4]``.
        intrinsics: at the size of the depth map.
        opacity: ``[1, H, W]``; colours fade to white where it is low.

    >>> wall = normal_colors(torch.ones(1, 4, 4), torch.eye(4), Intrinsics.square(4.0, 2.0, 2.0, 4))
    >>> wall[:, 0, 0]  # faces the camera, which looks along +z
    tensor([0.5000, 0.5000, 0.0000])
    """
    normals, _ = depth_normals(depth[0].cpu().double(), intrinsics)
    world = torch.einsum("ij,jhw->ihw", pose[:3, :3].cpu().double(), normals)
    colors = ((world + 1) / 2).float()
    return colors if opacity is None else torch.lerp(torch.ones_like(colors), colors, opacity.float().cpu())


def scale_bar(height: int, low: float, high: float) -> Tensor:
    """Draw the colours from ``low``, at the top, to ``high``, with five labels, RGB ``[3, height, W]`` on white."""
    size = max(MIN_TEXT, round(height * TEXT_FRACTION))
    font = ImageFont.load_default(size)
    digits = max(0, 2 - int(np.floor(np.log10(high - low))))
    labels = [f"{value:.{digits}f}" for value in np.linspace(low, high, 5)]
    bar, gap = size, size // 2
    width = bar + 2 * gap + round(max(font.getlength(label) for label in labels)) + gap
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top, bottom = size, height - 1 - size
    values = torch.linspace(low, high, max(2, bottom - top + 1)).view(1, -1, 1).expand(1, -1, bar)
    colors = (depth_colors(values, low, high) * 255).round().byte().permute(1, 2, 0).numpy()
    sheet.paste(Image.fromarray(colors), (gap, top))
    for label, y in zip(labels, np.linspace(top, bottom, 5), strict=True):
        draw.text((bar + 2 * gap, y), label, "black", font, anchor="lm")
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


@cache
def _colors() -> Tensor:
    """The colour map ``[256, 3]``, from dark to bright."""
    return torch.from_numpy(matplotlib.colormaps[COLOR_MAP](np.arange(256))[:, :3]).float()
