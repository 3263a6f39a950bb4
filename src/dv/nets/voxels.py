"""Sparse voxel grid: a raw density and features at those vertices of a cubic grid that are not empty."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dv.ops.compositing import CompositeOutput, Rays, composite, empty_space_distance, min_raw_density

EMPTY_DENSITY = -10.0  # raw density of missing vertices
UNITS_PER_SIDE = 100.0  # densities are per hundredth of the grid's side, whatever its resolution
OPAQUE_DENSITY = 100.0  # raw density that absorbs everything within one cell
MIN_OPACITY = 0.01  # per half a cell; vertices below it, and without neighbours above it, are pruned
NORMALS_PER_BATCH = 1 << 16  # bounds the memory of each vertex's 27 neighbours
POWER_ITERATIONS = 16


class SparseVoxels(nn.Module):
    """Grid of ``side³`` vertices that spans a cube; the stored ones are rows of two parameters.

    Vertex (x, y, z) lies at (x, y, z) in grid coordinates, the corners of the cube at 0 and G - 1.

    Attributes:
        density: raw densities ``[N]``; row 0 stands for all missing vertices and never changes.
        features: ``[N, F]``, by row likewise.
        index: int32 ``[G, G, G]`` (z, y, x), the row of each vertex.
        distance: uint8 ``[G-1, G-1, G-1]`` (z, y, x), lower bound of the distance from each cell to the nearest
            occupied one, as of the last change of the vertices or call of :meth:`update_empty_space`.

    Args:
        side: G, vertices along an edge.
        features: F, features per vertex, which start at zero.
        density: initial raw density of all vertices.
    """

    index: Tensor
    distance: Tensor

    def __init__(self, side: int, features: int, density: float) -> None:
        super().__init__()
        count = side**3
        rows = torch.full((count + 1,), float(density))
        rows[0] = EMPTY_DENSITY
        self.density, self.features = nn.Parameter(rows), nn.Parameter(torch.zeros(count + 1, features))
        index = torch.arange(1, count + 1, dtype=torch.int32).view(side, side, side)
        self.register_buffer("index", index)
        self.register_buffer("distance", torch.zeros((side - 1,) * 3, dtype=torch.uint8))
        self.update_empty_space()

    @property
    def side(self) -> int:
        """G, vertices along an edge."""
        return len(self.index)

    def composite(self, rays: Rays, step_size: float) -> CompositeOutput:
        """Composite features along rays.

        Args:
            rays: R rays in grid coordinates.
            step_size: distance between samples, in vertices.

        Returns:
            Features ``[R, F]``, transmittance ``[R]`` and median depth ``[R]``.
        """
        interval = self.interval(step_size)
        return composite(self.density, self.features, self.index, self.distance, rays, step_size, interval)

    def interval(self, step_size: float) -> float:
        """Optical depth at density 1 of a step of ``step_size`` vertices."""
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
        near = F.max_pool3d(self._dense(opaque.float()), 3, 1, 1)[0, 0] > 0
        return self._keep((self.index != 0) & near)

    @torch.no_grad()
    def refine(self, side: int) -> None:
        """Resample the grid to ``side`` vertices along an edge, by trilinear interpolation between stored vertices."""
        size = (side,) * 3

        def upsample(dense: Tensor) -> Tensor:
            return F.interpolate(dense, size=size, mode="trilinear", align_corners=True)

        stored = upsample((self.index != 0).to(self.density.dtype)[None, None])[0, 0] > 0
        density = upsample(self._dense(self.density))[0, 0]
        features = [upsample(self._dense(channel))[0, 0][stored] for channel in self.features.T]
        self.index = torch.zeros(size, dtype=torch.int32, device=stored.device)
        self.index[stored] = torch.arange(1, int(stored.sum()) + 1, dtype=torch.int32, device=stored.device)
        self.density = nn.Parameter(torch.cat([self.density[:1], density[stored]]))
        table = torch.stack(features, 1)
        self.features = nn.Parameter(torch.cat([self.features[:1], table]))
        self.update_empty_space()

    @torch.no_grad()
    def smooth(self, fraction: float) -> None:
        """Diffuse features: move each ``fraction`` of the way, 0 to 1, towards the mean of its six neighbours.

        A missing neighbour counts as equal to the vertex itself.
        """
        pairs = []
        for axis in range(3):
            here, there = (self.index.narrow(axis, start, self.side - 1).flatten() for start in (0, 1))
            both = (here != 0) & (there != 0)
            pairs.append((here[both], there[both]))
        for feature in self.features.T:  # one by one, for less than half the memory
            change = torch.zeros_like(feature)
            for here, there in pairs:
                difference = feature[there] - feature[here]
                change.index_add_(0, here, difference)
                change.index_add_(0, there, difference, alpha=-1)
            feature.add_(change, alpha=fraction / 6)

    def resize_features(self, count: int) -> None:
        """Truncate or zero-pad the features to ``count`` per vertex."""
        self.features = nn.Parameter(F.pad(self.features.detach(), (0, count - self.features.shape[1])))

    def weighted_view_directions(self, rays: Rays) -> Tensor:
        """Sum for each vertex the directions towards the cameras that see it, weighted by the rays' weights of it.

        Args:
            rays: R rays in grid coordinates.

        Returns:
            ``[N, 3]`` (x, y, z); zero for row 0 and for vertices that no ray sees.
        """
        features = torch.zeros(len(self.density), 3, device=self.density.device, requires_grad=True)
        density, interval = self.density.detach(), self.interval(1.0)
        composited = composite(density, features, self.index, self.distance, rays, 1.0, interval).features
        # composited features are linear in the vertices' features: their gradient is the weights
        directions = torch.autograd.grad(composited, features, -F.normalize(rays.directions, dim=1))[0]
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
        offsets = steps.flip(1).to(opacity.dtype)  # [27, 3], x, y, z
        products = (offsets[:, :, None] * offsets[:, None]).flatten(1)  # [27, 9]
        seen = towards.any(1)[self.index.flatten().long()].view_as(self.index)
        normals = torch.zeros_like(towards)
        for vertices in torch.split(torch.nonzero(seen), NORMALS_PER_BATCH):
            rows = self.index[vertices.unbind(1)].long()
            neighbours = index[(vertices[:, None] + 1 + steps).unbind(-1)].long()
            weights = F.normalize(opacity[neighbours], p=1.0, dim=1)
            mean = weights @ offsets
            covariance = (weights @ products).view(-1, 3, 3) - mean[:, :, None] * mean[:, None]
            trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(1e-6)
            inverted = torch.eye(3, device=index.device) - covariance / trace  # the smallest eigenvalue becomes largest
            normals[rows] = (torch.linalg.matrix_power(inverted, POWER_ITERATIONS) @ towards[rows][..., None])[..., 0]
        return F.normalize(normals, dim=1, eps=torch.finfo(normals.dtype).tiny)

    def resize_to_state(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Reallocate all tensors in the shapes of a state dict, so that it can be loaded."""
        for name in ("density", "features", "index", "distance"):
            shape = state[prefix + name].shape
            old = getattr(self, name)
            new = old.new_zeros(shape)
            setattr(self, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)

    def positions(self) -> Tensor:
        """Grid coordinates ``[N - 1, 3]`` (x, y, z) of the stored vertices, in the order of their rows."""
        vertices = torch.nonzero(self.index).flip(1)
        rows = self.index[self.index != 0].long()
        return vertices[rows.argsort()].to(self.density.dtype)

    def _dense(self, rows: Tensor) -> Tensor:
        """Scatter values ``[N]`` by row to values by vertex ``[1, 1, G, G, G]``."""
        return rows[self.index.long()][None, None]

    def _keep(self, vertices: Tensor) -> Tensor:
        """Keep the given vertices ``[G, G, G]`` only; returns their old rows."""
        kept = torch.cat([self.index.new_zeros(1), self.index[vertices]]).long()
        self.index = torch.zeros_like(self.index)
        self.index[vertices] = torch.arange(1, len(kept), dtype=torch.int32, device=kept.device)
        self.density, self.features = nn.Parameter(self.density[kept]), nn.Parameter(self.features[kept])
        self.update_empty_space()
        return kept


def _adjacent_cells(vertices: Tensor) -> Tensor:
    """Cells ``[G-1, G-1, G-1]`` with at least one of the given ``vertices`` ``[G, G, G]`` at a corner."""
    for axis in range(3):
        count = vertices.shape[axis] - 1
        vertices = vertices.narrow(axis, 0, count) | vertices.narrow(axis, 1, count)
    return vertices
