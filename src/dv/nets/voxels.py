"""Sparse voxel grid: a raw density and features at those vertices of nested cubic grids that are not empty."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dv.ops.compositing import CompositeOutput, Rays, composite, empty_space_distance, min_raw_density

EMPTY_DENSITY = -10.0  # raw density of missing vertices
UNITS_PER_SIDE = 100.0  # densities are per hundredth of a level's side, whatever its resolution
OPAQUE_DENSITY = 100.0  # raw density that absorbs everything within one cell
MIN_OPACITY = 0.01  # per half a cell; vertices below it, and without neighbours above it, are pruned
VERTICES_PER_BATCH = 1 << 14  # bounds the memory of what is computed from each vertex's neighbours
RAYS_PER_BATCH = 1 << 15  # likewise of the rays' recorded samples
POWER_ITERATIONS = 16


class SparseVoxels(nn.Module):
    """Grid of ``side³`` vertices that spans a cube, and outer levels; the stored vertices are rows of two parameters.

    Vertex (x, y, z) lies at (x, y, z) in grid coordinates, the corners of the cube at 0 and G - 1. Each further level
    has the same number of vertices and the same centre, and is twice as wide as the one before; it has no vertices
    within that, where samples belong to the inner level.

    Attributes:
        density: raw densities ``[N]``; row 0 stands for all missing vertices and never changes.
        features: ``[N, F]``, by row likewise.
        index: int32 ``[L, G, G, G]`` (level, z, y, x), the row of each vertex.
        distance: uint8 ``[L, G-1, G-1, G-1]``, lower bound of the distance from each cell to the nearest occupied one
            of its level, as of the last change of the vertices or call of :meth:`update_empty_space`.

    Args:
        side: G, vertices along an edge.
        features: F, features per vertex, which start at zero.
        density: initial raw density of the innermost level's vertices.
        levels: L, number of nested cubes.
        falloff: by which the initial raw density falls from level to level, down to what is just not skipped.
    """

    index: Tensor
    distance: Tensor

    def __init__(self, side: int, features: int, density: float, levels: int = 1, falloff: float = 0.0) -> None:
        super().__init__()
        stored = _beyond_inner_level(levels, side)
        index = torch.zeros(stored.shape, dtype=torch.int32)
        index[stored] = torch.arange(1, int(stored.sum()) + 1, dtype=torch.int32)
        self.register_buffer("index", index)
        self.register_buffer("distance", torch.zeros((levels, *(side - 1,) * 3), dtype=torch.uint8))
        minimum = min_raw_density(self.interval(1.0)) + 0.1  # samples a vertex apart are just not skipped
        by_level = [max(density - falloff * level, min(density, minimum)) for level in range(levels)]
        rows = F.pad(torch.tensor(by_level).repeat_interleave(stored.flatten(1).sum(1)), (1, 0), value=EMPTY_DENSITY)
        self.density, self.features = nn.Parameter(rows), nn.Parameter(torch.zeros(len(rows), features))
        self.update_empty_space()

    @property
    def side(self) -> int:
        """G, vertices along an edge."""
        return self.index.shape[1]

    @property
    def levels(self) -> int:
        """L, number of nested cubes."""
        return len(self.index)

    def composite(self, rays: Rays, step_size: float, near: float = 0.0) -> CompositeOutput:
        """Composite features along rays.

        Args:
            rays: R rays in grid coordinates.
            step_size: distance between samples, in vertices.
            near: camera z of the first possible sample.

        Returns:
            Features ``[R, F]``, transmittance ``[R]`` and median depth ``[R]``.
        """
        interval = self.interval(step_size)
        return composite(self.density, self.features, self.index, self.distance, rays, step_size, interval, near)

    def interval(self, step_size: float) -> float:
        """Optical depth at density 1 of a step of ``step_size`` vertices, equal in all levels."""
        return step_size / (self.side - 1) * UNITS_PER_SIDE

    def distance_to_vertices(self) -> Tensor:
        """Return what :attr:`distance` would be if every stored vertex were dense."""
        return empty_space_distance(_adjacent_cells(self.index != 0))

    def hits_vertices(self, rays: Rays, distance: Tensor) -> Tensor:
        """Return which rays pass through a cell with a stored vertex.

        Args:
            rays: R rays in grid coordinates.
            distance: result of :meth:`distance_to_vertices`.

        Returns:
            bool ``[R]``.
        """
        opaque, no_features = torch.full_like(self.density, OPAQUE_DENSITY), self.features[:, :0]
        output = composite(opaque, no_features, self.index, distance, rays, 0.5, self.interval(0.5))
        return output.transmittance < 0.5

    @torch.no_grad()
    def update_empty_space(self) -> None:
        """Recompute :attr:`distance`; a cell is empty if no sample in it contributes, even with a step size of 1."""
        dense = self.density >= min_raw_density(self.interval(1.0))
        vertices = dense.index_select(0, self.index.flatten()).view_as(self.index)
        self.distance = empty_space_distance(_adjacent_cells(vertices))

    @torch.no_grad()
    def prune(self) -> Tensor:
        """Remove the vertices whose opacity, and that of all neighbours, is at most :data:`MIN_OPACITY`.

        Returns:
            The rows that were kept ``[N']``, row 0 among them.
        """
        opaque = -torch.expm1(-F.softplus(self.density) * self.interval(0.5)) > MIN_OPACITY
        near = F.max_pool3d(self._dense(opaque.float()), 3, 1, 1)[:, 0] > 0
        return self._keep((self.index != 0) & near)

    @torch.no_grad()
    def refine(self, side: int) -> None:
        """Resample the grid to ``side`` vertices along an edge, by trilinear interpolation between stored vertices."""
        size = (side,) * 3

        def upsample(rows: Tensor) -> Tensor:
            return F.interpolate(self._dense(rows), size=size, mode="trilinear", align_corners=True)[:, 0]

        is_stored = (torch.arange(len(self.density), device=self.density.device) > 0).to(self.density.dtype)
        stored = (upsample(is_stored) > 0) & _beyond_inner_level(self.levels, side).to(is_stored.device)
        density = upsample(self.density)[stored]
        features = [upsample(channel)[stored] for channel in self.features.T]
        self.index = torch.zeros(stored.shape, dtype=torch.int32, device=stored.device)
        self.index[stored] = torch.arange(1, len(density) + 1, dtype=torch.int32, device=stored.device)
        self.density = nn.Parameter(torch.cat([self.density[:1], density]))
        table = torch.stack(features, 1)
        self.features = nn.Parameter(torch.cat([self.features[:1], table]))
        self.update_empty_space()

    @torch.no_grad()
    def smooth(self, fraction: float) -> None:
        """Diffuse features: move each ``fraction`` of the way, 0 to 1, towards the mean of its six neighbours.

        A missing neighbour counts as equal to the vertex itself.
        """
        padded = F.pad(self.index, (1,) * 6)
        index, before = padded.flatten(), self.features.clone()
        for places in torch.split(torch.nonzero(index)[:, 0], VERTICES_PER_BATCH):
            rows = index[places].long()
            own = before.index_select(0, rows)
            change = -6 * own
            for stride in (1, padded.shape[3], padded.shape[2] * padded.shape[3]):
                for step in (-stride, stride):
                    neighbours = index[places + step].long()
                    change += before.index_select(0, torch.where(neighbours > 0, neighbours, rows))
            self.features.index_copy_(0, rows, own.add_(change, alpha=fraction / 6))

    @torch.no_grad()
    def raise_density(self, points: Tensor, density: float) -> None:
        """Raise the raw density of the vertices around points to ``density``, where it is lower.

        Args:
            points: ``[P, 3]`` (x, y, z), grid coordinates; those beyond the outermost level have no effect.
            density: raw density.
        """
        corners = torch.cartesian_prod(*[torch.arange(2, device=points.device)] * 3)
        middle = (self.side - 1) / 2
        for level, index in enumerate(self.index):
            at = (points - middle) / 2**level + middle
            cells = at[((at >= 0) & (at < self.side - 1)).all(1)].long().flip(1)
            vertices = (cells[:, None] + corners).flatten(0, 1)
            rows = index[vertices.unbind(1)].long()
            rows = rows[rows > 0]
            self.density[rows] = self.density[rows].clamp_min(density)
        self.update_empty_space()

    def resize_features(self, count: int) -> None:
        """Truncate or zero-pad the features to ``count`` per vertex."""
        self.features = nn.Parameter(F.pad(self.features.detach(), (0, count - self.features.shape[1])))

    def weighted_view_directions(self, rays: Rays, near: float = 0.0) -> Tensor:
        """Sum for each vertex the directions towards the cameras that see it, weighted by the rays' weights of it.

        Args:
            rays: R rays in grid coordinates.
            near: camera z of the first possible sample.

        Returns:
            ``[N, 4]``: the directions (x, y, z), and the sum of the weights; zero for row 0 and for vertices that no
            ray sees.
        """
        features = torch.zeros(len(self.density), 4, device=self.density.device, requires_grad=True)
        density, interval = self.density.detach(), self.interval(1.0)
        directions = torch.zeros_like(features, requires_grad=False)
        for batch in map(Rays, *(torch.split(x, RAYS_PER_BATCH) for x in rays)):
            composited = composite(density, features, self.index, self.distance, batch, 1.0, interval, near).features
            towards = F.pad(-F.normalize(batch.directions, dim=1), (0, 1), value=1.0)
            # composited features are linear in the vertices' features: their gradient is the weights
            directions += torch.autograd.grad(composited, features, towards)[0]
        directions[0] = 0
        return directions

    @torch.no_grad()
    def normals(self, towards: Tensor) -> Tensor:
        """Estimate the normals of the surfaces in which vertices lie.

        Opacity extends least across a surface: the normal is the eigenvector with the smallest eigenvalue of the
        opacity-weighted covariance of the positions of a vertex and its 26 neighbours (Hoppe et al. 1992, section 3.2),
        found by power iteration from ``towards``.

        Args:
            towards: directions ``[N, 3]`` (x, y, z) on the outer side of the surface, as from
                :meth:`weighted_view_directions`.

        Returns:
            Unit normals ``[N, 3]`` (x, y, z); zero where ``towards`` is.
        """
        opacity = -torch.expm1(-F.softplus(self.density) * self.interval(1.0))
        index = F.pad(self.index, (1,) * 6)
        steps = torch.cartesian_prod(*[torch.arange(-1, 2, device=index.device)] * 3)  # [27, 3], z, y, x
        around = F.pad(steps + 1, (1, 0))  # level, z, y, x in the padded index
        offsets = steps.flip(1).to(opacity.dtype)  # [27, 3], x, y, z
        products = (offsets[:, :, None] * offsets[:, None]).flatten(1)  # [27, 9]
        seen = towards.any(1)[self.index.flatten().long()].view_as(self.index)
        normals = torch.zeros_like(towards)
        for vertices in torch.split(torch.nonzero(seen), VERTICES_PER_BATCH):
            rows = self.index[vertices.unbind(1)].long()
            neighbours = index[(vertices[:, None] + around).unbind(-1)].long()
            weights = F.normalize(opacity[neighbours], p=1.0, dim=1)
            mean = weights @ offsets
            covariance = (weights @ products).view(-1, 3, 3) - mean[:, :, None] * mean[:, None]
            trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(1e-6)
            inverted = torch.eye(3, device=index.device) - covariance / trace  # the smallest eigenvalue becomes largest
            normals[rows] = (torch.linalg.matrix_power(inverted, POWER_ITERATIONS) @ towards[rows][..., None])[..., 0]
        return F.normalize(normals, dim=1, eps=torch.finfo(normals.dtype).tiny)

    def resize_to_state(self, state: MutableMapping[str, Tensor], prefix: str = "") -> None:
        """Reallocate all tensors in the shapes of a state dict, so that it can be loaded.

        In state dicts without levels, index and distance get a first axis of one level.
        """
        for name in ("index", "distance"):
            if state[prefix + name].ndim == 3:
                state[prefix + name] = state[prefix + name][None]
        for name in ("density", "features", "index", "distance"):
            shape = state[prefix + name].shape
            old = getattr(self, name)
            new = old.new_zeros(shape)
            setattr(self, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)

    def vertices(self) -> Tensor:
        """Level and place in it ``[N - 1, 4]`` (level, x, y, z) of the stored vertices, in the order of their rows."""
        vertices = torch.nonzero(self.index)[self.index[self.index != 0].argsort()]
        return vertices[:, [0, 3, 2, 1]]

    def positions(self) -> Tensor:
        """Grid coordinates ``[N - 1, 3]`` (x, y, z) of the stored vertices, in the order of their rows."""
        vertices, middle = self.vertices(), (self.side - 1) / 2
        return (vertices[:, 1:].to(self.density.dtype) - middle) * 2 ** vertices[:, :1] + middle

    def _dense(self, rows: Tensor) -> Tensor:
        """Scatter values ``[N]`` by row to values by vertex ``[L, 1, G, G, G]``."""
        return rows[self.index.long()][:, None]

    def _keep(self, vertices: Tensor) -> Tensor:
        """Keep the given vertices ``[L, G, G, G]`` only; returns their old rows."""
        kept = torch.cat([self.index.new_zeros(1), self.index[vertices]]).long()
        self.index = torch.zeros_like(self.index)
        self.index[vertices] = torch.arange(1, len(kept), dtype=torch.int32, device=kept.device)
        self.density, self.features = nn.Parameter(self.density[kept]), nn.Parameter(self.features[kept])
        self.update_empty_space()
        return kept


def _adjacent_cells(vertices: Tensor) -> Tensor:
    """Cells ``[L, G-1, G-1, G-1]`` with at least one of the given ``vertices`` ``[L, G, G, G]`` at a corner."""
    for axis in (1, 2, 3):
        count = vertices.shape[axis] - 1
        vertices = vertices.narrow(axis, 0, count) | vertices.narrow(axis, 1, count)
    return vertices


def adjacent_vertices(cells: Tensor) -> Tensor:
    """Vertices ``[L, G, G, G]`` at the corners of the given ``cells`` ``[L, G-1, G-1, G-1]``."""
    for axis in (1, 2, 3):
        pad = [0] * (2 * (3 - axis))
        cells = F.pad(cells, (*pad, 1, 0)) | F.pad(cells, (*pad, 0, 1))
    return cells


def _beyond_inner_level(levels: int, side: int) -> Tensor:
    """Return the vertices ``[L, G, G, G]`` of all cells that extend beyond the inner level; all those of level 0."""
    position = torch.arange(side)
    # coordinates that only cells within the inner level, from a quarter to three quarters of the side, have as a corner
    inner = (position - 1 >= (side - 1) / 4) & (position + 1 <= (side - 1) * 3 / 4)
    within = inner[:, None, None] & inner[:, None] & inner
    return torch.stack([torch.ones_like(within), *[~within] * (levels - 1)])
