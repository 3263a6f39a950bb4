"""A radiance grid as a ``torch.export`` archive, which renders without this package."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dv.nets.voxels import SparseVoxels
from dv.ops.compositing_reference import MIN_ALPHA, MIN_TRANSMITTANCE, CompositeOutput, Rays, ray_segments
from dv.radiance import RadianceGrid

USAGE = """program = torch.export.load(path).module()
image, depth, opacity = program(pose, camera, columns, rows)
pose: camera-to-world [4, 4] float32, OpenCV axes (x right, y down, z forward), in the world of the object.
camera: fx, fy, cx, cy [4] float32, px, where the centre of the first pixel is (0, 0).
columns, rows: pixel indices [W] and [H] float32, for example torch.arange(W).float(); at least one of each.
image: sRGB [3, H, W] in [0, 1]; opacity: [1, H, W]; depth: camera z [1, H, W], meaningful where opacity is above 1/2.
Memory grows with H * W: render large images in strips of rows."""


class PortableVoxels(SparseVoxels):
    """Composites by operations that ``torch.export`` knows.

    Args:
        voxels: whose vertices it has.
    """

    def __init__(self, voxels: SparseVoxels) -> None:
        super().__init__(side=2, features=0, density=0.0, levels=voxels.levels)
        state = voxels.state_dict()
        self.resize_to_state(state)
        self.load_state_dict(state)

    def composite(self, rays: Rays, step_size: float, near: float = 0.0) -> CompositeOutput:
        """Composite as :func:`dv.ops.compositing_reference.composite_reference`, one sample of every ray at a time."""
        features = rays.origins.new_zeros(rays.origins.shape[0], self.features.shape[1])
        transmittance, depth = torch.ones_like(rays.offsets), torch.full_like(rays.offsets, torch.inf)
        for level, own, start, end in ray_segments(rays, self.index, near):
            features, transmittance, depth = self._follow(
                level, own, start, end, step_size, (features, transmittance, depth)
            )
        return CompositeOutput(features, transmittance, depth)

    def _follow(
        self, level: int, own: Rays, start: Tensor, end: Tensor, step_size: float, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Follow rays through one segment, and return features, transmittance and depth after it."""
        interval, cells = self.interval(step_size), self.side - 2
        index, distance = self.index[level].flatten(), self.distance[level].flatten()
        dt = step_size / own.directions.norm(dim=1)

        def at(step: Tensor) -> Tensor:
            t: Tensor = start + (step + own.offsets) * dt
            return t

        def goes_on(step: Tensor, _features: Tensor, transmittance: Tensor, _depth: Tensor) -> Tensor:
            unfinished: Tensor = ((at(step) < end) & (transmittance >= MIN_TRANSMITTANCE)).any()
            return unfinished

        def sample(step: Tensor, features: Tensor, transmittance: Tensor, depth: Tensor) -> tuple[Tensor, ...]:
            t = at(step)
            active = (t < end) & (transmittance >= MIN_TRANSMITTANCE)
            point = own.origins + t[:, None] * own.directions
            cell = torch.where(active[:, None], point, 0.0).long().clamp(0, cells)
            x, y, z = cell.unbind(1)
            empty = distance[(z * (cells + 1) + y) * (cells + 1) + x].float()
            density, found = torch.zeros_like(t), torch.zeros_like(features)
            fraction = point - cell
            for corner in range(8):
                bits = [corner & 1, corner >> 1 & 1, corner >> 2]
                sides = [fraction[:, a] if bit else 1 - fraction[:, a] for a, bit in enumerate(bits)]
                weight = sides[0] * sides[1] * sides[2]
                row = index[((z + bits[2]) * (cells + 2) + y + bits[1]) * (cells + 2) + x + bits[0]].long()
                density = density + weight * self.density[row]
                found = found + weight[:, None] * self.features[row]
            optical_depth = F.softplus(density) * interval
            alpha = -torch.expm1(-optical_depth)
            counts = active & (empty == 0) & (alpha >= MIN_ALPHA)
            weight = torch.where(counts, transmittance * alpha, 0.0)
            after = torch.where(counts, transmittance * torch.exp(-optical_depth), transmittance)
            halves = counts & (transmittance > 0.5) & (after <= 0.5)
            halving = t + (torch.log(2 * transmittance) / optical_depth - 0.5) * dt
            skipped = torch.clamp(torch.floor((empty - 1) / step_size), min=1.0)
            return (
                step + torch.where(active, skipped, 0.0),
                features + torch.where(counts[:, None], weight[:, None] * found, 0.0),
                after,
                torch.where(halves, halving, depth),
            )

        loop: Any = torch.while_loop  # PyTorch declares no types
        _, features, transmittance, depth = loop(goes_on, sample, (torch.zeros_like(start), *state))
        return features, transmittance, depth


class PortableGrid(nn.Module):
    """Renders what :meth:`RadianceGrid.render` renders, by operations that ``torch.export`` knows.

    Args:
        grid: on the CPU.
    """

    def __init__(self, grid: RadianceGrid) -> None:
        super().__init__()
        self.grid = copy.deepcopy(grid)
        self.grid.use_mean_exposure()
        self.grid.voxels = PortableVoxels(grid.voxels)

    def forward(self, pose: Tensor, camera: Tensor, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Render an image, as :data:`USAGE` says."""
        height, width = rows.shape[0], columns.shape[0]  # of len() torch.export would make constants
        pixels = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1).view(-1, 2)
        corrected = torch.cat([camera[:2] * self.grid.focal_scale, camera[2:]])
        count = height * width
        output = self.grid.render_pixels(pose.expand(count, 4, 4), pixels, corrected.expand(count, 4))
        image = (output.colors + 0.5).clamp(0, 1).T.reshape(3, height, width)
        depth = torch.where(output.depth.isfinite(), output.depth, self.grid.farthest_corner(pose))
        return image, depth.view(1, height, width), 1 - output.transmittance.view(1, height, width)


@torch.no_grad()
def write_archive(grid: RadianceGrid, about: dict[str, Any], path: Path) -> None:
    """Write a program that ``torch.export.load`` reads.

    Args:
        grid: on the CPU.
        about: stored beside the program as ``about.json``.
        path: the file, ``.pt2``.
    """
    columns, rows = torch.export.Dim("columns", min=2), torch.export.Dim("rows", min=2)
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor(grid.placement.origin) - torch.tensor([0.0, 0.0, 2 * grid.placement.scale])
    example = pose, torch.tensor([20.0, 20.0, 3.0, 2.0]), torch.arange(7.0), torch.arange(5.0)
    shapes = {"pose": None, "camera": None, "columns": {0: columns}, "rows": {0: rows}}
    program = torch.export.export(PortableGrid(grid).eval(), example, dynamic_shapes=shapes, strict=False)
    buffer = io.BytesIO()  # on a full disk PyTorch's writer of files ends the process
    torch.export.save(program, buffer, extra_files={"about.json": json.dumps(about)})
    path.write_bytes(buffer.getbuffer())
