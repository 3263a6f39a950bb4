"""Points on the surfaces that cameras see: their places, normals and colours from any direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays
from dv.radiance import STEP_SIZE, RadianceGrid

MIN_WEIGHT = 0.5  # rays that a vertex absorbs, of one ray per vertex's side at the centre of the box
REACH = 1.5  # vertices, from a vertex to the surface along its normal
MAX_SIDE = 512  # px, of the images whose rays are followed
POINTS_PER_CHUNK = 1 << 16  # bounds the memory of colours


@dataclass(frozen=True)
class Surface:
    """N points, one near each vertex that cameras see.

    Attributes:
        model: the grid.
        positions: ``[N, 3]``, world units.
        normals: unit vectors ``[N, 3]`` towards the cameras.
        spacing: ``[N]``, distance to the next vertex, world units.
        features: ``[N, F]`` of the grid at the points.
        opacity: ``[N]`` of the surface there.
    """

    model: RadianceGrid
    positions: Tensor
    normals: Tensor
    spacing: Tensor
    features: Tensor
    opacity: Tensor

    def __getitem__(self, chosen: Tensor) -> Surface:
        """Return the surface of some of the points, by index or mask."""
        fields = self.positions, self.normals, self.spacing, self.features, self.opacity
        return Surface(self.model, *(field[chosen] for field in fields))

    @torch.no_grad()
    def colors(self, directions: Tensor) -> Tensor:
        """Return RGB ``[N, 3]`` in [0, 1] seen along unit directions ``[N, 3]`` or one for all, ``[3]``."""
        directions = directions.expand(len(self.features), 3).float()
        chunks = zip(
            torch.split(self.features, POINTS_PER_CHUNK), torch.split(directions, POINTS_PER_CHUNK), strict=True
        )
        colors = [self.model.shade(features, torch.zeros(len(features)), along) for features, along in chunks]
        return (torch.cat(colors) + 0.5).clamp(0, 1)

    def frontal_colors(self) -> Tensor:
        """Return RGB ``[N, 3]`` in [0, 1] seen along the normals."""
        return self.colors(-self.normals)


def visible_surface(model: RadianceGrid, poses: Tensor, cameras: Sequence[Intrinsics]) -> Surface:
    """Find where rays along the normals of vertices that cameras see reach a surface.

    Args:
        model: the grid, on the CPU.
        poses: camera-to-world ``[V, 4, 4]``.
        cameras: of the views.

    Returns:
        Points near the vertices that absorb at least :data:`MIN_WEIGHT` rays, at the median depth of a ray that starts
        :data:`REACH` vertices outside.
    """
    voxels, placement = model.voxels, model.placement
    seen = torch.zeros(len(voxels.density), 4)  # directions towards the cameras, and weights
    near = model.sizes.near * placement.scale
    progress = tqdm(zip(poses, cameras, strict=True), "looking for surfaces", len(poses), unit="view", leave=False)
    for pose, camera in progress:
        k = with_pixels_per_vertex(model, pose, model.corrected(camera), 1.0, MAX_SIDE)
        pixels = pixel_grid(k.width, k.height)
        origins, directions = pixel_rays(pose.expand(len(pixels), 4, 4), pixels, k)
        rays = model.rays(origins, directions, torch.full_like(origins[:, 0], 0.5))
        seen += voxels.weighted_view_directions(rays, near) / max(1.0, k.fx * k.fy / _vertex_pixels(model, pose) ** 2)
    normals = voxels.normals(seen[:, :3].contiguous())
    found = (seen[:, 3] >= MIN_WEIGHT) & normals.any(1)
    rows = found.nonzero()[:, 0]
    spacing = placement.scale / (voxels.side - 1) * 2.0 ** voxels.vertices()[rows - 1, 0]
    vertices = voxels.positions()[rows - 1].double() / (voxels.side - 1) - 0.5
    positions = vertices * placement.scale + torch.tensor(placement.origin)
    surface, met = along_normals(model, positions, normals[rows], spacing)
    return surface[met]


@torch.no_grad()
def along_normals(model: RadianceGrid, positions: Tensor, normals: Tensor, spacing: Tensor) -> tuple[Surface, Tensor]:
    """Follow rays from outside along the normals at places near surfaces.

    Args:
        model: the grid.
        positions: ``[N, 3]``, world units.
        normals: unit vectors ``[N, 3]`` out of the surface.
        spacing: ``[N]``, distance to the next vertex, world units.

    Returns:
        The surface, and which rays met it within :data:`REACH` vertices on either side, bool ``[N]``.
    """
    outside = positions + (REACH * spacing)[:, None] * normals
    rays = model.rays(outside, -normals.to(outside.dtype), torch.full_like(spacing, 0.5))
    output = model.voxels.composite(rays, STEP_SIZE)
    met = output.depth < 2 * REACH * spacing
    opacity = 1 - output.transmittance
    points = outside - torch.where(met, output.depth, REACH * spacing)[:, None] * normals
    features = output.features / opacity.clamp_min(1e-6)[:, None]
    return Surface(model, points, normals, spacing, features, opacity), met


def _vertex_pixels(model: RadianceGrid, pose: Tensor) -> float:
    """Return the focal length, px, at which a vertex in the centre of the box is as wide as a pixel."""
    p = model.placement
    distance = float((pose[:3, 3].double() - torch.tensor(p.origin)).norm())
    return max(distance, p.scale / 2) * (model.voxels.side - 1) / p.scale


def with_pixels_per_vertex(
    model: RadianceGrid, pose: Tensor, camera: Intrinsics, count: float, max_side: float
) -> Intrinsics:
    """Return a camera whose image has ``count`` pixels per vertex at the centre of the box, on either axis.

    Args:
        model: the grid.
        pose: camera-to-world ``[4, 4]``.
        camera: that sees the same.
        count: pixels, may be below 1.
        max_side: px, of the image.
    """
    wanted = count * _vertex_pixels(model, pose) / math.sqrt(camera.fx * camera.fy)
    k = min(wanted, max_side / max(camera.width, camera.height))
    return camera.resized(max(1, round(k * camera.width)), max(1, round(k * camera.height)))
