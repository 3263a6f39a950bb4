"""The vertices of a radiance grid with 8 bits per number, for pages and files that are sent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dv.nets.voxels import EMPTY_DENSITY, SparseVoxels, adjacent_vertices

RAW_RANGE = (-100.0, 30.0)  # raw densities beyond it make no visible difference
TAILS = 1e-4  # fraction of the vertices whose features may lie beyond either end of the 8 bits


@dataclass(frozen=True)
class PackedVoxels:
    """The vertices of the cells that hold anything; the numbers of a vertex are ``low + step · byte``.

    Attributes:
        stored: bool ``[L, G, G, G]`` (level, z, y, x), the vertices.
        numbers: uint8 ``[1 + F, N]``, raw density and features of the vertices in the order of ``stored``.
        low: ``[1 + F]``.
        step: ``[1 + F]``.
        distance: uint8 ``[L, G-1, G-1, G-1]``, as that of :class:`~dv.nets.voxels.SparseVoxels`.
    """

    stored: Tensor
    numbers: Tensor
    low: Tensor
    step: Tensor
    distance: Tensor

    @property
    def missing(self) -> Tensor:
        """The bytes ``[1 + F]`` of a vertex that is not stored: empty, with features that are zero."""
        value = torch.zeros_like(self.low)
        value[0] = EMPTY_DENSITY
        return ((value - self.low) / self.step).round().byte()


@torch.no_grad()
def pack(voxels: SparseVoxels) -> PackedVoxels:
    """Round the vertices of a grid to 8 bits.

    Raw densities are clamped to :data:`RAW_RANGE`. The bytes of a feature span the values of its channel without the
    outermost :data:`TAILS`, and zero.
    """
    stored = adjacent_vertices(voxels.distance == 0) & (voxels.index != 0)
    rows = voxels.index[stored].long()
    values = torch.cat([voxels.density[rows].clamp(*RAW_RANGE)[None], voxels.features[rows].T]).float().cpu()
    ordered = values.sort(dim=1).values
    tail = int(TAILS * len(rows))
    low, high = ordered[:, tail].clamp_max(0), ordered[:, len(rows) - 1 - tail].clamp_min(0)
    low[0], high[0] = min(EMPTY_DENSITY, float(ordered[0, 0])), max(0.0, float(ordered[0, -1]))
    step = ((high - low) / 255).clamp_min(1e-9)
    numbers = ((values - low[:, None]) / step[:, None]).round().clamp(0, 255).byte()
    return PackedVoxels(stored.cpu(), numbers, low, step, voxels.distance.cpu())
