"""The pixels of all training views that are worth rendering, as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays
from dv.radiance import RadianceGrid


@torch.no_grad()
def find_pixels(model: RadianceGrid, poses: Tensor, intrinsics: Intrinsics, border: int) -> Tensor:
    """Find the pixels whose central rays pass through a cell with a stored vertex, and return their numbers.

    The other rays of the pixels that are left out hit nothing dense either, since pruning keeps the neighbours of every
    dense vertex.

    Args:
        model: the grid.
        poses: camera-to-world ``[V, 4, 4]`` of the training views.
        intrinsics: intrinsics of these views.
        border: number of pixels along each edge of the images that are left out.

    Returns:
        ``[N]``: ``(view · S + row) · S + column``, as int32 where that suffices.
    """
    side, voxels = model.sizes.image_side, model.voxels
    pixels = pixel_grid(side, poses.device)
    inner = pixels[((pixels >= border) & (pixels < side - border)).all(1)]
    dtype = torch.int32 if len(poses) * side**2 <= torch.iinfo(torch.int32).max else torch.int64
    distance = voxels.distance_to_vertices()
    found = []
    for view, pose in enumerate(poses):
        rays = pixel_rays(pose.expand(len(inner), 4, 4), inner, intrinsics)
        if model.sizes.environment:
            found.append((view * side**2 + inner[:, 1] * side + inner[:, 0]).to(dtype))
            continue
        hit = inner[voxels.hits_vertices(model.rays(*rays, torch.full_like(rays[0][:, 0], 0.5)), distance)]
        found.append((view * side**2 + hit[:, 1] * side + hit[:, 0]).to(dtype))
    return torch.cat(found)


def view_and_pixel(numbers: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Convert numbers of :func:`find_pixels` to views ``[P]`` and to columns and rows ``[P, 2]``.

    >>> view_and_pixel(torch.tensor([21]), 4)
    (tensor([1]), tensor([[1, 1]]))
    """
    view, position = numbers.long() // side**2, numbers.long() % side**2
    return view, torch.stack([position % side, position // side], 1)
