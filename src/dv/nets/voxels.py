"""Sparse voxels: a density and features at those vertices of a cubic grid where there is something to see."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dv.ops.compositing import Composited, Rays, composite, empty_distance, least_raw

NOTHING = -10.0  # raw density of vertices that are not there
PERCENT = 100.0  # a density is per hundredth of the grid's side, whatever its resolution
FAINT = 0.01  # opacity per half a voxel below which a vertex holds nothing
VERTICES_TOGETHER = 1 << 16  # whose 27 neighbours are looked at, for memory
POWER = 16  # of the matrix that leaves of a direction what lies across a surface


class SparseVoxels(nn.Module):
    """Vertices of a grid of ``side³`` that spans a cube, those that are there as rows of two parameters.

    ``density`` ``[N]`` and ``features`` ``[N, F]`` have a first row for all vertices that are not there, which stays as
    it is. ``index`` int32 ``[G, G, G]`` (z, y, x) says which row a vertex has. Vertex (x, y, z) lies at (x, y, z) in
    grid coordinates, the corners of the cube at 0 and G - 1. ``distance`` uint8 ``[G-1, G-1, G-1]`` says how far the
    next cell is that holds anything, as of the last time the vertices changed or :meth:`find_empty` was called.
    """

    index: Tensor
    distance: Tensor

    def __init__(self, side: int, features: int, density: float) -> None:
        super().__init__()
        count = side**3
        rows = torch.full((count + 1,), float(density))
        rows[0] = NOTHING
        self.density, self.features = nn.Parameter(rows), nn.Parameter(torch.zeros(count + 1, features))
        index = torch.arange(1, count + 1, dtype=torch.int32).view(side, side, side)
        self.register_buffer("index", index)
        self.register_buffer("distance", torch.zeros((side - 1,) * 3, dtype=torch.uint8))
        self.find_empty()

    @property
    def side(self) -> int:
        """G, vertices along an edge."""
        return len(self.index)

    def composite(self, rays: Rays, step: float) -> Composited:
        """What rays ``[R]`` in grid coordinates see, with samples ``step`` vertices apart."""
        return composite(self.density, self.features, self.index, self.distance, rays, step, self.length(step))

    def length(self, step: float) -> float:
        """Optical depth at density 1 of a step of ``step`` vertices."""
        return step / (self.side - 1) * PERCENT

    def distance_to_vertices(self) -> Tensor:
        """``distance`` as it were if every vertex that is there were dense."""
        return empty_distance(_cells(self.index != 0))

    def meets(self, rays: Rays, distance: Tensor) -> Tensor:
        """Which rays ``[R]`` meet any vertex that is there; ``distance`` is :meth:`distance_to_vertices`."""
        opaque, nothing = torch.full_like(self.density, PERCENT), self.features[:, :0]
        found = composite(opaque, nothing, self.index, distance, rays, 0.5, self.length(0.5))
        return found.through < 0.5

    @torch.no_grad()
    def find_empty(self) -> None:
        """Find the cells in which no sample counts, even a whole vertex apart: they have no vertex of any density."""
        dense = self.density >= least_raw(self.length(1.0))
        there = dense.index_select(0, self.index.flatten()).view_as(self.index)
        self.distance = empty_distance(_cells(there))

    @torch.no_grad()
    def prune(self) -> Tensor:
        """Forget vertices with neither density nor neighbours that have it; returns the rows kept ``[N']``."""
        holds = -torch.expm1(-F.softplus(self.density) * self.length(0.5)) > FAINT
        near = F.max_pool3d(self._dense(holds.float()), 3, 1, 1)[0, 0] > 0
        return self._keep((self.index != 0) & near)

    @torch.no_grad()
    def refine(self, side: int) -> None:
        """Go over to ``side`` vertices along an edge, interpolating between those that are there."""
        size = (side,) * 3

        def up(dense: Tensor) -> Tensor:
            return F.interpolate(dense, size=size, mode="trilinear", align_corners=True)

        there = up((self.index != 0).to(self.density.dtype)[None, None])[0, 0] > 0
        density = up(self._dense(self.density))[0, 0]
        features = [up(self._dense(channel))[0, 0][there] for channel in self.features.T]
        self.index = torch.zeros(size, dtype=torch.int32, device=there.device)
        self.index[there] = torch.arange(1, int(there.sum()) + 1, dtype=torch.int32, device=there.device)
        self.density = nn.Parameter(torch.cat([self.density[:1], density[there]]))
        table = torch.stack(features, 1)
        self.features = nn.Parameter(torch.cat([self.features[:1], table]))
        self.find_empty()

    @torch.no_grad()
    def smooth(self, part: float) -> None:
        """Let features spread as heat does: each goes ``part`` of the way, 0 to 1, to the mean of its six neighbours.

        Those that are not there count as equal.
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
            feature.add_(change, alpha=part / 6)

    def have_features(self, count: int) -> None:
        """Let vertices have ``count`` features: the first that they have, or zeros after them."""
        self.features = nn.Parameter(F.pad(self.features.detach(), (0, count - self.features.shape[1])))

    def towards_cameras(self, rays: Rays) -> Tensor:
        """Sum over rays ``[R]`` of the directions ``[N, 3]`` (x, y, z) in which vertices are seen, by their weights."""
        features = torch.zeros(len(self.density), 3, device=self.density.device, requires_grad=True)
        density, length = self.density.detach(), self.length(1.0)
        seen = composite(density, features, self.index, self.distance, rays, 1.0, length).features
        # the gradient of what is seen is the weights
        towards = torch.autograd.grad(seen, features, -F.normalize(rays.directions, dim=1))[0]
        towards[0] = 0  # vertices that are not there
        return towards

    @torch.no_grad()
    def normals(self, towards: Tensor) -> Tensor:
        """Unit normals ``[N, 3]`` (x, y, z) of surfaces that vertices lie in, on the side of ``towards`` ``[N, 3]``.

        Across a surface opacity spreads least: the least eigenvector of its covariance over a vertex and its 26
        neighbours (Hoppe et al. 1992, section 3.2), by power iteration from ``towards``. Where that is 0, so is this.
        """
        opacity = -torch.expm1(-F.softplus(self.density) * self.length(1.0))
        index = F.pad(self.index, (1,) * 6)
        steps = torch.cartesian_prod(*[torch.arange(-1, 2, device=index.device)] * 3)  # z, y, x
        offsets = steps.flip(1).to(opacity.dtype)
        products = (offsets[:, :, None] * offsets[:, None]).flatten(1)
        wanted = towards.any(1)[self.index.flatten().long()].view_as(self.index)
        found = torch.zeros_like(towards)
        for part in torch.split(torch.nonzero(wanted), VERTICES_TOGETHER):
            rows = self.index[part.unbind(1)].long()
            near = index[(part[:, None] + 1 + steps).unbind(-1)].long()
            weights = F.normalize(opacity[near], p=1.0, dim=1)
            mean = weights @ offsets
            covariance = (weights @ products).view(-1, 3, 3) - mean[:, :, None] * mean[:, None]
            spread = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_min(1e-6)
            across = torch.eye(3, device=index.device) - covariance / spread
            found[rows] = (torch.linalg.matrix_power(across, POWER) @ towards[rows][..., None])[..., 0]
        return F.normalize(found, dim=1, eps=torch.finfo(found.dtype).tiny)

    def fit_to(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Take the shape of a saved state, so that it can be loaded."""
        for name in ("density", "features", "index", "distance"):
            shape = state[prefix + name].shape
            old = getattr(self, name)
            new = old.new_zeros(shape)
            setattr(self, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)

    def positions(self) -> Tensor:
        """Grid coordinates ``[N - 1, 3]`` (x, y, z) of the vertices that are there, by row."""
        at = torch.nonzero(self.index).flip(1)
        rows = self.index[self.index != 0].long()
        return at[rows.argsort()].to(self.density.dtype)

    def _dense(self, rows: Tensor) -> Tensor:
        """Values ``[N]`` by vertex ``[1, 1, G, G, G]``."""
        return rows[self.index.long()][None, None]

    def _keep(self, there: Tensor) -> Tensor:
        kept = torch.cat([self.index.new_zeros(1), self.index[there]]).long()
        self.index = torch.zeros_like(self.index)
        self.index[there] = torch.arange(1, len(kept), dtype=torch.int32, device=kept.device)
        self.density, self.features = nn.Parameter(self.density[kept]), nn.Parameter(self.features[kept])
        self.find_empty()
        return kept


def _cells(vertices: Tensor) -> Tensor:
    """Which cells ``[G-1, G-1, G-1]`` have one of the ``vertices`` ``[G, G, G]`` at a corner."""
    for axis in range(3):
        count = vertices.shape[axis] - 1
        vertices = vertices.narrow(axis, 0, count) | vertices.narrow(axis, 1, count)
    return vertices
