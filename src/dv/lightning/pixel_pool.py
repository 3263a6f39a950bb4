"""The pixels of all training views that are worth rendering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dv.data.folder import Views
from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays
from dv.images import to_model_range
from dv.lightning.error_sampling import ErrorSampling
from dv.radiance import RadianceGrid


class DrawnPixels(NamedTuple):
    """P pixels of the training views.

    Args:
        number: row of each pixel in the :attr:`~dv.data.folder.Views.pixels` of the views, ``[P]``.
        view: number of each pixel's view, ``[P]``.
        position: column and row, ``[P, 2]``.
        color: ``[P, 3]`` in [-0.5, 0.5].
        pose: camera-to-world ``[P, 4, 4]`` of the view.
        camera: intrinsics of the view, ``[P, 4]`` as in :meth:`~dv.geometry.camera.Intrinsics.numbers`.
        likelihood: how likely the pixel was to be drawn, relative to even draws, ``[P]``.
    """

    number: Tensor
    view: Tensor
    position: Tensor
    color: Tensor
    pose: Tensor
    camera: Tensor
    likelihood: Tensor


class PixelPool:
    """All pixels of the training views on one device, and the numbers of those that are worth rendering.

    Args:
        views: the training views.
        device: where to keep and draw pixels.
        sampling: draws by the pixels' errors; by default draws are even.
    """

    def __init__(self, views: Views, device: torch.device, sampling: ErrorSampling | None = None) -> None:
        self.sampling = sampling
        self.intrinsics = views.cameras
        self.colors, self.poses = views.pixels.to(device), views.poses.to(device)
        self.starts = torch.tensor(views.starts, device=device)
        self.widths, self.heights = torch.tensor([(k.width, k.height) for k in views.cameras], device=device).T
        self.cameras = torch.tensor([k.numbers() for k in views.cameras], dtype=torch.float64, device=device)
        self.numbers = torch.empty(0, dtype=torch.int32, device=device)  # until keep_hits

    def keep_hits(self, model: RadianceGrid, border: int) -> None:
        """Keep the pixels worth rendering; see :func:`find_pixels`."""
        self.numbers = find_pixels(model, self.poses, self.intrinsics, border)
        if self.sampling is not None:
            self.sampling.set_pool(self.numbers)

    def draw(self, count: int, generator: torch.Generator) -> DrawnPixels:
        """Draw ``count`` pixels with replacement by their errors, if they are sampled so, otherwise evenly."""
        if self.sampling is None:
            return self.draw_evenly(count, generator)
        return self._drawn(*self.sampling.draw(count, generator))

    def draw_evenly(self, count: int, generator: torch.Generator) -> DrawnPixels:
        """Draw ``count`` pixels with replacement, on the device of the generator."""
        places = torch.randint(len(self.numbers), (count,), generator=generator, device=generator.device)
        places = places.to(self.numbers.device)
        return self._drawn(places, torch.ones_like(places, dtype=torch.get_default_dtype()))

    def _drawn(self, places: Tensor, likelihood: Tensor) -> DrawnPixels:
        numbers = self.numbers[places]
        view, position = view_and_pixel(numbers, self.starts, self.widths)
        colors = to_model_range(self.colors[numbers])
        return DrawnPixels(numbers, view, position, colors, self.poses[view], self.cameras[view], likelihood)


@torch.no_grad()
def find_pixels(model: RadianceGrid, poses: Tensor, cameras: Sequence[Intrinsics], border: int) -> Tensor:
    """Find the pixels whose central rays pass through a cell with a stored vertex, and return their numbers.

    With an environment, which is learned too, these are all pixels. Otherwise the other rays of the pixels that are
    left out hit nothing dense either, since pruning keeps the neighbours of every dense vertex.

    Args:
        model: the grid.
        poses: camera-to-world ``[V, 4, 4]`` of the training views.
        cameras: intrinsics of these views.
        border: number of pixels along each edge of the images that are left out.

    Returns:
        ``[N]``: rows of the :attr:`~dv.data.folder.Views.pixels` of the views, as int32 where that suffices.
    """
    voxels = model.voxels
    dtype = torch.int32 if sum(k.width * k.height for k in cameras) <= torch.iinfo(torch.int32).max else torch.int64
    distance = voxels.distance_to_vertices()
    found, start, size, inner = [], 0, (0, 0), poses.new_empty(0, 2)
    for pose, k in zip(poses, cameras, strict=True):
        if (k.width, k.height) != size:
            size = k.width, k.height
            pixels = pixel_grid(*size, poses.device)
            inner = pixels[((pixels >= border) & (pixels < pixels.new_tensor(size) - border)).all(1)]
        hit = inner
        if not model.sizes.environment:
            rays = pixel_rays(pose.expand(len(inner), 4, 4), inner, k)
            hit = inner[voxels.hits_vertices(model.rays(*rays, torch.full_like(rays[0][:, 0], 0.5)), distance)]
        found.append((start + hit[:, 1] * k.width + hit[:, 0]).to(dtype))
        start += k.width * k.height
    return torch.cat(found)


def view_and_pixel(numbers: Tensor, starts: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Convert numbers of :func:`find_pixels` to views ``[P]`` and to columns and rows ``[P, 2]``.

    Args:
        numbers: ``[P]``.
        starts: number of each view's first pixel, and at the end of all pixels, ``[V + 1]``.
        widths: of the views' images, px, ``[V]``.

    >>> view_and_pixel(torch.tensor([17]), torch.tensor([0, 12, 20]), torch.tensor([3, 4]))
    (tensor([1]), tensor([[1, 1]]))
    """
    numbers = numbers.long()
    view = torch.searchsorted(starts, numbers, right=True) - 1
    position, width = numbers - starts[view], widths[view]
    return view, torch.stack([position % width, position // width], 1)
