"""RadianceGrid: a persistent grid of features, optimised itself and seen along true rays.

DeepVoxels' idea, a 3D grid of features that belongs to one object, without the networks around it. The vertices of a
sparse grid hold density and features. A ray sees the features that emission and absorption leave of those along it
(:mod:`dv.ops.compositing`), once, as a vector f with the light T that comes through. A pixel's colour is

    ``Σ_k Y_k(direction) · f_k + (1 - T) · decoder(f, direction, mirrored) + T · background``,

averaged over its rays: a camera's pixel has an area, and what lies in it is mixed. Lenses and renderers mix linear
light, programs that make pictures smaller mostly sRGB values; ``linear_share`` says how much of the first. It is
learned, and not bounded: a camera whose response is steeper than sRGB goes beyond 1.

The first features are coefficients of spherical harmonics Y, summed after compositing, which is the same as before it,
since both are linear; the decoder is a small network. The last three are a normal, at which the direction is mirrored:
what a glossy surface shows comes from there, whatever its slope (Verbin et al. 2022, Ref-NeRF). Voxels that do not have
more than the coefficients yet are seen without a decoder.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor, nn

from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.rays import all_pixels, pixel_rays, within_pixel
from dv.nets.decoder import ViewDecoder
from dv.nets.voxels import SparseVoxels
from dv.number import is_number
from dv.ops.compositing import Rays

STEP = 0.5  # vertices between samples when a picture is rendered
RAYS_TOGETHER = 1 << 18  # on CPUs, for memory
RAYS_TOGETHER_ON_GPUS = 1 << 20  # all of a 512² picture with four a pixel
MOST_DEGREE = 4
LEAST_NORMAL = 1e-3  # length of a composited normal below which it counts less
MIRRORED_SCALE = 0.25  # of the harmonics of mirrored directions: with 1, what is not glossy is learned more slowly
VIEW_SCALE = 0.25  # of the harmonics that depend on the view: what does not is learned first, and by four times


@dataclass(frozen=True)
class RadianceSizes:
    """All that determines a radiance grid, but for which vertices are there."""

    image_side: int = field(metadata={"key": "data.image_side"})  # px
    grid_side: int = field(metadata={"key": "grid.side"})  # vertices along an edge, at the end of the training
    view_degree: int = field(default=0, metadata={"key": "model.view_degree"})  # of the harmonics; 0: one colour
    decoder_features: int = field(default=0, metadata={"key": "model.decoder_features"})  # 0: no decoder
    decoder_width: int = field(default=32, metadata={"key": "model.decoder_width"})
    decoder_degree: int = field(default=1, metadata={"key": "model.decoder_degree"})  # of harmonics of directions
    reflection_degree: int = field(default=0, metadata={"key": "model.reflection_degree"})  # of mirrored ones; 0: none
    initial_density: float = field(default=-5.0, metadata={"key": "model.initial_density"})  # raw
    supersampling: int = field(default=1, metadata={"key": "model.supersampling"})  # rays along a pixel's edge
    linear_share: float = field(default=0.0, metadata={"key": "model.linear_share"})  # to begin with

    @property
    def features(self) -> int:
        """Features of a vertex: coefficients of three colours, what the decoder alone reads, and a normal."""
        return self.decoded + 3 * self.has_normals

    @property
    def decoded(self) -> int:
        """Features of a vertex that the decoder reads."""
        return self.coefficients + self.decoder_features

    @property
    def has_normals(self) -> bool:
        """Whether a vertex's last three features are a normal."""
        return self.decoder_features > 0 and self.reflection_degree > 0

    @property
    def told(self) -> int:
        """Values that tell the decoder a direction: its harmonics, its slope to the surface, its mirror image's."""
        mirrored = (self.reflection_degree + 1) ** 2 if self.has_normals else 0
        return (self.decoder_degree + 1) ** 2 - 1 + mirrored

    @property
    def coefficients(self) -> int:
        """Of harmonics of three colours."""
        return int(3 * (self.view_degree + 1) ** 2)

    @property
    def rays_per_pixel(self) -> int:
        """Rays through a pixel, in a square pattern."""
        return self.supersampling**2

    def check(self) -> None:
        """Raise :class:`UserError` naming the configuration key if the sizes cannot be."""
        if self.grid_side < 8:
            raise UserError(f"grid.side={self.grid_side} must be at least 8 with model=radiance_grid")
        for key in ("view_degree", "decoder_degree", "reflection_degree"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) not in range(MOST_DEGREE + 1):
                raise UserError(f"model.{key}={getattr(self, key)} must be 0 to {MOST_DEGREE}")
        if not is_number(self.initial_density):
            raise UserError(f"model.initial_density={self.initial_density} must be a number")
        if not is_number(self.linear_share) or not 0 <= self.linear_share <= 1:
            raise UserError(f"model.linear_share={self.linear_share} must be a number from 0 to 1")
        for key, least in (("decoder_features", 0), ("decoder_width", 1), ("supersampling", 1)):
            value = getattr(self, key)
            if not isinstance(value, int) or value < least:
                raise UserError(f"model.{key}={value} must be a whole number of at least {least}")

    def as_dict(self) -> dict[str, Any]:
        """The sizes as plain data."""
        return asdict(self)


@dataclass
class Seen:
    """What R rays or pixels see: colours ``[R, 3]``, about [-0.5, 0.5], light let through and depth ``[R]``."""

    colors: Tensor
    through: Tensor
    depth: Tensor


class RadianceGrid(nn.Module):
    """The radiance of one object in a cube, and the colour behind it.

    Args:
        sizes: of the grid.
        placement: of the cube in the world.
        background: RGB ``[3]`` in [-0.5, 0.5] to begin with; a parameter, as the voxels are.
        side: vertices along an edge to begin with.
    """

    corner: Tensor
    within_pixel: Tensor

    def __init__(
        self, sizes: RadianceSizes, placement: GridPlacement, background: Tensor | None = None, side: int | None = None
    ) -> None:
        sizes.check()
        super().__init__()
        self.sizes = sizes
        self.placement = placement
        self.voxels = SparseVoxels(side or sizes.grid_side, sizes.features, sizes.initial_density)
        self.decoder = ViewDecoder(sizes.decoded, sizes.told, sizes.decoder_width) if sizes.decoder_features else None
        self.linear_share = nn.Parameter(torch.tensor(float(sizes.linear_share)))
        self.background = nn.Parameter(torch.zeros(3) if background is None else background.clone())
        # here, since what is made on a CPU anew for every step keeps a GPU waiting
        self.register_buffer("corner", torch.tensor(placement.origin) - placement.scale / 2, persistent=False)
        self.register_buffer("within_pixel", within_pixel(sizes.supersampling), persistent=False)

    def rays(self, origins: Tensor, directions: Tensor, offsets: Tensor) -> Rays:
        """World rays ``[R, 3]`` in grid coordinates."""
        dtype, scale = self.voxels.density.dtype, (self.voxels.side - 1) / self.placement.scale
        given = ((origins - self.corner) * scale, directions * scale, offsets)
        return Rays(*(x.to(dtype).contiguous() for x in given))

    def forward(self, origins: Tensor, directions: Tensor, offsets: Tensor, step: float = STEP) -> Seen:
        """What world rays ``[R, 3]`` see.

        Args:
            origins: ``[R, 3]``.
            directions: ``[R, 3]``, with camera z as the unit of length.
            offsets: ``[R]`` in [0, 1), of the samples, in steps.
            step: between samples, in vertices.
        """
        found = self.voxels.composite(self.rays(origins, directions, offsets), step)
        s = self.sizes
        decoder = self.decoder if found.features.shape[1] > s.coefficients else None
        degree = max(s.view_degree, s.decoder_degree if decoder else 0)
        unit = F.normalize(directions, dim=1).to(found.features.dtype)
        basis = spherical_harmonics(unit, degree)
        harmonics = torch.cat([basis[:, :1], VIEW_SCALE * basis[:, 1 : (s.view_degree + 1) ** 2]], 1)
        coefficients = found.features[:, : s.coefficients].view(len(origins), -1, 3)
        colors = (coefficients * harmonics[..., None]).sum(1) + found.through[:, None] * self.background
        if decoder is not None:
            told = [basis[:, 1 : (s.decoder_degree + 1) ** 2]]
            if s.has_normals:
                normals = F.normalize(found.features[:, -3:], dim=1, eps=LEAST_NORMAL)
                slope = (unit * normals).sum(1, keepdim=True)
                mirrored = spherical_harmonics(unit - 2 * slope * normals, s.reflection_degree)
                told += [slope, MIRRORED_SCALE * mirrored[:, 1:]]
            colors = colors + decoder(found.features[:, : s.decoded], torch.cat(told, 1), 1 - found.through)
        return Seen(colors, found.through, found.depth)

    def see_pixels(
        self, poses: Tensor, pixels: Tensor, intrinsics: Intrinsics, offsets: Tensor | None = None, step: float = STEP
    ) -> Seen:
        """What pixels see: the mean of their rays, colours by ``linear_share``, and the lower median of their depths.

        Args:
            poses: ``[P, 4, 4]``, of each pixel's view.
            pixels: column and row ``[P, 2]``.
            intrinsics: of all views.
            offsets: ``[P · rays_per_pixel]`` of the samples of the rays, as in :meth:`forward`; left out: halves.
            step: between samples, in vertices.
        """
        rays = self.sizes.rays_per_pixel
        points = (pixels[:, None] + self.within_pixel).view(-1, 2)
        origins, directions = pixel_rays(poses.repeat_interleave(rays, 0), points, intrinsics)
        offsets = torch.full_like(origins[:, 0], 0.5) if offsets is None else offsets
        seen = self(origins, directions, offsets, step)
        colors = seen.colors.view(-1, rays, 3, 1).transpose(1, 2)  # as kornia has them, [P, 3, rays, 1]
        srgb = colors.mean(2, keepdim=True)
        linear = linear_rgb_to_rgb(rgb_to_linear_rgb(colors + 0.5).mean(2, keepdim=True)) - 0.5
        mixed = torch.lerp(srgb, linear, self.linear_share).flatten(1)
        return Seen(mixed, seen.through.view(-1, rays).mean(1), seen.depth.view(-1, rays).median(1).values)

    @torch.no_grad()
    def render(self, pose: Tensor, intrinsics: Intrinsics) -> tuple[Tensor, Tensor]:
        """Image ``[3, S, S]`` in [-0.5, 0.5] and depth ``[1, S, S]`` of a view with pose ``[4, 4]``.

        Depth is camera z in world units, of where half of the light is gone; where more than that comes from the
        background, it is that of the grid's farthest corner.
        """
        side = self.sizes.image_side
        pixels, camera = all_pixels(side, pose.device), intrinsics.at_side(side)
        seen, together = [], RAYS_TOGETHER_ON_GPUS if pose.is_cuda else RAYS_TOGETHER
        for part in torch.split(pixels, max(1, together // self.sizes.rays_per_pixel)):
            seen.append(self.see_pixels(pose.expand(len(part), 4, 4), part, camera))
        depth = torch.cat([s.depth for s in seen])
        depth = torch.where(depth.isfinite(), depth, self.farthest(pose).to(depth.dtype))
        image = torch.cat([s.colors for s in seen]).T.reshape(3, side, side)
        return image.clamp(-0.5, 0.5), depth.view(1, side, side)

    def farthest(self, pose: Tensor) -> Tensor:
        """Camera z of the farthest corner of the cube, which no depth is beyond."""
        axis = pose[:3, 2]
        center = torch.tensor(self.placement.origin, dtype=pose.dtype, device=pose.device)
        return (center - pose[:3, 3]) @ axis + axis.abs().sum() * self.placement.scale / 2

    def point_cloud(self, most: int) -> tuple[Tensor, Tensor]:
        """World positions and mean colours in [0, 1], ``[N, 3]`` each, of the ``most`` densest vertices."""
        v, p = self.voxels, self.placement
        rows = v.density.detach()[1:].topk(min(most, len(v.density) - 1)).indices
        points = (v.positions()[rows] / (v.side - 1) - 0.5) * p.scale + v.density.new_tensor(p.origin)
        return points.float().cpu(), (v.features.detach()[1:][rows, :3].float() + 0.5).clamp(0, 1).cpu()


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics ``[R, (degree + 1)²]`` of unit directions ``[R, 3]``.

    Up to the second degree without their constant factors, then with those of Schmidt's semi-normalisation.
    """
    x, y, z = directions.unbind(1)
    basis = [torch.ones_like(x)]
    if degree > 0:
        basis += [x, y, z]
    if degree > 1:
        xx, yy, zz, xy = x * x, y * y, z * z, x * y
        basis += [xy, y * z, x * z, xx - yy, 3 * zz - 1]
    if degree > 2:
        a, b, c = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15)
        basis += [a * y * (3 * xx - yy), c * xy * z, b * y * (5 * zz - 1), z * (5 * zz - 3) / 2]
        basis += [b * x * (5 * zz - 1), c / 2 * z * (xx - yy), a * x * (xx - 3 * yy)]
    if degree > 3:
        a, b, c, d = math.sqrt(35) / 2, math.sqrt(35 / 8), math.sqrt(5) / 2, math.sqrt(5 / 8)
        basis += [a * xy * (xx - yy), b * y * z * (3 * xx - yy), c * xy * (7 * zz - 1), d * y * z * (7 * zz - 3)]
        basis += [(zz * (35 * zz - 30) + 3) / 8, d * x * z * (7 * zz - 3), c / 2 * (xx - yy) * (7 * zz - 1)]
        basis += [b * x * z * (xx - 3 * yy), a / 4 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))]
    return torch.stack(basis, 1)
