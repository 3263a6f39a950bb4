"""The film of ``render.py``: what lies beside the rendered frames, and stereo."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from dv.data.folder import Views
from dv.depth_images import depth_colors, depth_range, scale_bar
from dv.geometry.camera import Intrinsics
from dv.images import centered
from dv.rendering.films import Film
from dv.rendering.frames import Frames
from dv.runtime.files import atomic_file

GAP = 4  # white px between images
SAMPLED_FRAMES = 24  # from which the colours' range of depth is taken
Panel = Callable[[int], Tensor]  # frame number -> image [3, H, W]


def write_film(path: Path, panels: list[Panel], largest: set[int], count: int, fps: float) -> None:
    """Write a film whose panels lie side by side; it appears when it is complete.

    Args:
        path: of the film, whose suffix is its format.
        panels: from left to right.
        largest: numbers of the widest and the highest frame; all lie in a rectangle that holds both.
        count: of the frames.
        fps: frames per second.
    """
    sizes = [side_by_side([panel(i) for panel in panels]).shape for i in largest]
    size = max(height for _, height, _ in sizes), max(width for _, _, width in sizes)
    with atomic_file(path) as temporary, Film(temporary, fps, size) as film:
        for i in tqdm(range(count), f"writing {path.name}", unit="frame", leave=False):
            film.add(side_by_side([panel(i) for panel in panels]))


def side_by_side(images: list[Tensor]) -> Tensor:
    """Arrange images ``[3, H, W]`` of any size in one row on white.

    >>> side_by_side([torch.zeros(3, 2, 2), torch.zeros(3, 1, 1)]).shape
    torch.Size([3, 2, 7])
    """
    height = max(image.shape[1] for image in images)
    padded = [centered(image, height, image.shape[2]) for image in images]
    gap = torch.ones(3, height, GAP)
    return torch.cat([part for image in padded for part in (gap, image)][1:], 2)


def truth_panel(views: Views) -> Panel:
    """The photographs of the views."""
    return lambda i: views.image(i).float() / 255


def depth_panel(frames: Frames, cameras: list[Intrinsics]) -> Panel:
    """Depth in colours, of one range for the whole film, with a scale bar in world units.

    Args:
        frames: whose depth may be smaller than their colours.
        cameras: of the frames, at the size of their colours.
    """
    sampled = torch.linspace(0, frames.count - 1, min(frames.count, SAMPLED_FRAMES)).round().int().tolist()
    ranges = [depth_range(*frames.depth(i)) for i in sampled]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)

    @cache
    def bar(height: int) -> Tensor:
        return scale_bar(height, low, high)

    def panel(i: int) -> Tensor:
        depth, opacity = frames.depth(i)
        height, width = cameras[i].height, cameras[i].width
        colors = depth_colors(depth, low, high, opacity)
        enlarged = functional.interpolate(colors[None], (height, width), mode="nearest")[0]
        return torch.cat([enlarged, bar(height)], 2)

    return panel


def anaglyph_panel(left: Frames, right: Frames) -> Panel:
    """The left eye in red and the right eye in cyan."""
    return lambda i: torch.cat([left.rgb(i)[:1], right.rgb(i)[1:]])
