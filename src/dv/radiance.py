"""RadianceGrid: a persistent sparse grid of densities and features, optimised directly and rendered along rays.

It is DeepVoxels' idea, a 3D grid of features that belongs to one object, without the networks around it. Each vertex of
a sparse grid holds a density and a feature vector. Emission and absorption along a ray (:mod:`dv.ops.compositing`) give
one composited feature vector f and the transmittance T of the ray, whose colour is

    ``Σ_k Y_k(direction) · f_k + (1 - T) · decoder(f, direction, reflected) + T · background``.

The first features are coefficients of spherical harmonics Y, summed after compositing; this equals summing before,
since both are linear. The decoder is a small network. The last three features are a normal, at which the view direction
is reflected: the colour of a glossy surface depends on that direction (Ref-NeRF, Verbin et al. 2022). Voxels that hold
the coefficients only, as they do early in the training, are rendered without the decoder.

A pixel's colour is the mean over its rays, since a camera integrates over the pixel's area. Lenses and renderers
average linear light, programs that downscale images mostly average sRGB values; ``linear_share`` interpolates between
the two. It is learned and not bounded: cameras whose response curve is steeper than sRGB reach values above 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics, pixel_grid, rotated_offsets, subpixel_offsets, subpixel_rays
from dv.geometry.grid import GridPlacement
from dv.images import mean_in_linear_light
from dv.nets.decoder import ViewDecoder
from dv.nets.exposure import ViewExposures, expose
from dv.nets.radiance_sizes import RadianceSizes
from dv.nets.vignetting import Vignetting
from dv.nets.voxels import SparseVoxels
from dv.object_model import ObjectModel, RenderedView
from dv.ops.compositing import Rays
from dv.ops.encoding import Degrees, encode, view_color
from dv.ops.harmonics import spherical_harmonics
from dv.ops.panorama import sample_panorama

STEP_SIZE = 0.5  # vertices between the samples of a rendered image
RAYS_PER_CHUNK = 1 << 16  # on CPUs, bounds the memory
RAYS_PER_CHUNK_GPU = 1 << 20  # a 512² image with four rays per pixel at once

BEFORE = {"linear_share": torch.tensor(0.0), "focal_scale": torch.tensor(1.0)}  # what older checkpoints computed


class RayOutput(NamedTuple):
    """Rendered rays or pixels: ``colors`` ``[R, 3]``, about [-0.5, 0.5], ``transmittance`` and ``depth`` ``[R]``."""

    colors: Tensor
    transmittance: Tensor
    depth: Tensor


class RadianceGrid(ObjectModel):
    """The radiance of one object in a cube, and the background colour.

    Args:
        sizes: sizes of grid and decoder.
        placement: placement of the cube in the world.
        background: initial RGB ``[3]`` in [-0.5, 0.5]; a parameter, like the voxels.
        side: initial number of vertices along an edge, by default the final one.

    >>> grid = RadianceGrid(RadianceSizes(image_side=4, grid_side=8), GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5))
    >>> pose = torch.eye(4)
    >>> pose[2, 3] = -1.5  # looks along +z at the cube
    >>> view = next(grid.render_views(pose[None], Intrinsics.square(4.0, 2.0, 2.0, 4), batch_size=1))
    >>> view.image.shape, view.opacity.shape
    (torch.Size([3, 4, 4]), torch.Size([1, 4, 4]))
    """

    sizes_class: ClassVar = RadianceSizes
    sizes: RadianceSizes
    placement: GridPlacement
    corner: Tensor
    focal_scale: Tensor
    subpixel_offsets: Tensor
    training_offsets: Tensor

    def __init__(
        self, sizes: RadianceSizes, placement: GridPlacement, background: Tensor | None = None, side: int | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.placement = placement
        self.voxels = SparseVoxels(
            side or sizes.grid_side, sizes.features, sizes.initial_density, sizes.levels, sizes.density_falloff
        )
        self.decoder = (
            ViewDecoder(sizes.decoder_inputs, sizes.direction_channels, sizes.decoder_width)
            if sizes.decoder_features
            else None
        )
        self.linear_share = nn.Parameter(torch.tensor(float(sizes.linear_share)))
        color, rows = torch.zeros(3) if background is None else background.clone(), sizes.environment
        self.background = nn.Parameter(color[:, None, None].repeat(1, rows, 2 * rows) if rows else color)
        self.exposures = ViewExposures(sizes.exposures) if sizes.exposures else None
        self.vignetting = Vignetting(sizes.vignetting) if sizes.vignetting else None
        self.has_mean_exposure = False  # whether rendered views have the mean exposure, not the predicted one
        # buffers, since copying a tensor from the CPU in every step would keep a GPU waiting
        self.register_buffer("focal_scale", torch.tensor(1.0))  # of rendered views, found by camera refinement
        self.register_buffer("corner", torch.tensor(placement.origin) - placement.scale / 2, persistent=False)
        self.register_buffer("subpixel_offsets", subpixel_offsets(sizes.view_rays), persistent=False)
        self.register_buffer("training_offsets", rotated_offsets(sizes.supersampling), persistent=False)

    @classmethod
    def from_state(cls, sizes: Mapping[str, Any], placement: GridPlacement, state: Mapping[str, Tensor]) -> Self:
        """Build the grid of a checkpoint without allocating a dense grid first."""
        model = cls(RadianceSizes(**sizes), placement, side=2)
        model.load_saved(sizes, state)
        return model

    def load_saved(self, sizes: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """Load a state dict together with its vertices.

        Raises:
            ValueError: if a size that shapes features or decoder differs, or an entry does not fit.
        """
        shaping = "view_degree", "decoder_features", "decoder_width", "decoder_degree", "reflection_degree"
        for key in (*shaping, "levels", "environment"):
            own, saved = getattr(self.sizes, key), getattr(RadianceSizes(**sizes), key)
            if own != saved:
                raise ValueError(f"has model.{key}={saved}, not {own}; add model.{key}={saved}")
        complete = BEFORE | dict(state)
        for part in ("exposures", "vignetting"):  # of other views or cameras
            if sizes.get(part, 0) != getattr(self.sizes, part):
                own = {name: value for name, value in self.state_dict().items() if name.startswith(f"{part}.")}
                complete = {k: v for k, v in complete.items() if not k.startswith(f"{part}.")} | own
        self.voxels.resize_to_state(complete, "voxels.")
        super().load_saved(sizes, complete)

    def raise_density(self, points: Tensor, density: float) -> None:
        """Raise the raw density around points of surfaces ``[P, 3]``, world units, to ``density``."""
        relative = (points - torch.tensor(self.placement.origin, dtype=points.dtype)) / self.placement.scale + 0.5
        self.voxels.raise_density(relative * (self.voxels.side - 1), density)

    def rays(self, origins: Tensor, directions: Tensor, offsets: Tensor) -> Rays:
        """Transform world rays, ``[R, 3]`` origins and directions, to grid coordinates."""
        dtype, scale = self.voxels.density.dtype, (self.voxels.side - 1) / self.placement.scale
        given = ((origins - self.corner) * scale, directions * scale, offsets)
        return Rays(*(x.to(dtype).contiguous() for x in given))

    def forward(self, origins: Tensor, directions: Tensor, offsets: Tensor, step_size: float = STEP_SIZE) -> RayOutput:
        """Render world rays.

        Args:
            origins: ``[R, 3]``.
            directions: ``[R, 3]``, scaled so that camera z advances by 1.
            offsets: position of the samples within a step ``[R]``, in [0, 1).
            step_size: distance between samples, vertices.
        """
        near = self.sizes.near * self.placement.scale
        output = self.voxels.composite(self.rays(origins, directions, offsets), step_size, near)
        unit = F.normalize(directions, dim=1).to(output.features.dtype)
        if torch.is_grad_enabled() or unit.is_cuda or torch.compiler.is_exporting():
            colors = self.shade(output.features, output.transmittance, unit)
        else:  # rays that hit nothing have no colour; to a GPU their decoding costs less than to wait for their number
            hits = torch.nonzero(output.transmittance < 1)[:, 0]
            shaded = self.shade(output.features[hits], output.transmittance[hits], unit[hits])
            colors = torch.zeros_like(unit).index_copy_(0, hits, shaded.to(unit.dtype))
        colors = colors + output.transmittance[:, None] * self.background_color(unit)
        return RayOutput(colors, output.transmittance, output.depth)

    def shade(self, features: Tensor, transmittance: Tensor, directions: Tensor) -> Tensor:
        """Return the colours of composited features, without what the background adds.

        Args:
            features: ``[R, F]``; a vertex's features are those of a ray that it absorbs.
            transmittance: of the rays ``[R]``.
            directions: of the rays, unit vectors ``[R, 3]`` away from the camera.

        Returns:
            RGB ``[R, 3]``, about [-0.5, 0.5] times the rays' opacity.
        """
        s = self.sizes
        if self.decoder is None or not self.has_decoder:
            return view_color(features, spherical_harmonics(directions, s.view_degree), s.view_degree)
        degrees = Degrees(s.view_degree, s.decoder_degree, s.reflection_degree)
        colors, inputs = encode(features, directions, degrees)
        decoded: Tensor = self.decoder(inputs, 1 - transmittance)
        return colors + decoded

    @property
    def has_opacity(self) -> bool:
        """Whether rendered views have opacity."""
        return True

    @property
    def has_decoder(self) -> bool:
        """Whether the colour depends on a decoder; early in the training, voxels hold no features for it."""
        return self.decoder is not None and self.voxels.features.shape[1] > self.sizes.coefficients

    def background_color(self, directions: Tensor) -> Tensor:
        """Return the colour beyond the last level in unit ``directions`` ``[R, 3]``: ``[3]`` or ``[R, 3]``."""
        return sample_panorama(self.background, directions) if self.sizes.environment else self.background

    def render_pixels(
        self,
        poses: Tensor,
        pixels: Tensor,
        intrinsics: Intrinsics | Tensor,
        places: Tensor | None = None,
        offsets: Tensor | None = None,
        step_size: float = STEP_SIZE,
    ) -> RayOutput:
        """Render pixels: the mean colour of their rays according to ``linear_share``, and the lower median depth.

        Args:
            poses: camera-to-world ``[P, 4, 4]``, of each pixel's view.
            pixels: column and row ``[P, 2]``.
            intrinsics: those of all views, or of each pixel's view, ``[P, 4]`` as in :meth:`Intrinsics.numbers`.
            places: of the S rays in a pixel, px from its centre, as in :func:`subpixel_rays`; by default those of
                rendered views.
            offsets: offsets of the rays ``[P · S]``, as in :meth:`forward`; 0.5 by default.
            step_size: distance between samples, vertices.
        """
        places = self.subpixel_offsets if places is None else places
        rays = places.shape[-2]
        origins, directions = subpixel_rays(poses, pixels, intrinsics, places)
        offsets = torch.full_like(origins[:, 0], 0.5) if offsets is None else offsets
        output = self(origins, directions, offsets, step_size)
        colors = output.colors.view(-1, rays, 3)
        mixed = torch.lerp(colors.mean(1), mean_in_linear_light(colors), self.linear_share)
        transmittance, depth = output.transmittance.view(-1, rays).mean(1), output.depth.view(-1, rays)
        return RayOutput(mixed, transmittance, depth.median(1).values)

    def corrected(self, intrinsics: Intrinsics) -> Intrinsics:
        """Return intrinsics with the focal length that the refinement of the training's cameras found."""
        scale = float(self.focal_scale)
        return intrinsics._replace(fx=intrinsics.fx * scale, fy=intrinsics.fy * scale)

    @property
    def untouched_background(self) -> Tensor | None:
        """The background ``[3]`` if it is one colour, which exposures do not change."""
        return None if self.sizes.environment else self.background

    @torch.no_grad()
    def render(self, pose: Tensor, intrinsics: Intrinsics) -> RenderedView:
        """Render the view of a pose ``[4, 4]``, with the exposure and vignetting that its camera would have.

        Depth is where transmittance falls to 1/2; for rays that keep more than that, it is the depth of the farthest
        corner of the cube.
        """
        width, height, intrinsics = intrinsics.width, intrinsics.height, self.corrected(intrinsics)
        pixels = pixel_grid(width, height, pose.device)
        rays_per_chunk = RAYS_PER_CHUNK_GPU if pose.is_cuda else RAYS_PER_CHUNK
        chunks = torch.split(pixels, max(1, rays_per_chunk // self.sizes.view_rays**2))
        outputs = [self.render_pixels(pose.expand(len(chunk), 4, 4), chunk, intrinsics) for chunk in chunks]
        colors, transmittance, depth = map(torch.cat, zip(*outputs, strict=True))
        depth = torch.where(depth.isfinite(), depth, self.farthest_corner(pose).to(depth.dtype))
        if self.exposures is not None and not self.has_mean_exposure:
            log_gain = self.exposures.predict(pose, self.placement.scale)
            if self.vignetting is not None:
                log_gain = log_gain + self.vignetting.image(intrinsics)
            colors = expose(colors, log_gain.exp().to(colors.dtype), transmittance, self.untouched_background)
        image = colors.T.reshape(3, height, width).clamp(-0.5, 0.5)
        return RenderedView(image, depth.view(1, height, width), 1 - transmittance.view(1, height, width))

    # one by one whatever the batch size, since each view uses all threads
    def render_views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[RenderedView]:  # noqa: ARG002
        """Render views one by one, since one view occupies the whole device."""
        for pose in poses:
            yield self.render(pose, intrinsics)

    def use_mean_exposure(self) -> None:
        """Render all views with the mean exposure of the training views, as a film has it."""
        self.has_mean_exposure = True

    def supersample(self, rays: int) -> None:
        """Render views by ``rays``² rays per pixel."""
        self.sizes = replace(self.sizes, view_supersampling=rays)
        self.subpixel_offsets = subpixel_offsets(rays).to(self.subpixel_offsets)

    def isolate(self) -> None:
        """Keep the first level only, before black and with the mean exposure."""
        self.use_mean_exposure()
        self.sizes = replace(self.sizes, levels=1, environment=0)
        self.voxels.index, self.voxels.distance = self.voxels.index[:1], self.voxels.distance[:1]
        self.background = nn.Parameter(self.background.new_full((3,), -0.5))

    def max_depth(self, poses: Tensor) -> float:
        """Camera z of the farthest corner of the outermost cube from any of the poses, world units."""
        return max(float(self.farthest_corner(pose)) for pose in poses)

    def farthest_corner(self, pose: Tensor) -> Tensor:
        """Return camera z of the farthest corner of the outermost cube, for a camera of ``pose`` ``[4, 4]``."""
        axis = pose[:3, 2]
        center = torch.tensor(self.placement.origin, dtype=pose.dtype, device=pose.device)
        outermost = self.placement.scale * 2.0 ** (self.sizes.levels - 1)
        return (center - pose[:3, 3]) @ axis + axis.abs().sum() * outermost / 2

    def point_cloud(self, max_points: int) -> tuple[Tensor, Tensor]:
        """Return the densest vertices and their colours without the view-dependent part."""
        v, p = self.voxels, self.placement
        rows = v.density.detach()[1:].topk(min(max_points, len(v.density) - 1)).indices
        points = (v.positions()[rows] / (v.side - 1) - 0.5) * p.scale + v.density.new_tensor(p.origin)
        return points.float().cpu(), (v.features.detach()[1:][rows, :3].float() + 0.5).clamp(0, 1).cpu()
