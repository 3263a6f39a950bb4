"""The initial densities of a sparse grid of several levels."""

import torch

from dv.nets.voxels import SparseVoxels
from dv.ops.compositing import Rays, min_raw_density


def density_of(voxels, level):
    """Return the raw density of all stored vertices of a level, which is one."""
    rows = voxels.index[level][voxels.index[level] > 0].long()
    (density,) = voxels.density[rows].unique().tolist()
    return density


def test_initial_densities_fall_from_level_to_level_but_are_never_skipped():
    voxels = SparseVoxels(8, 3, -5.0, levels=4, falloff=1.5)
    minimum = min_raw_density(voxels.interval(1.0))  # -9.57
    assert [density_of(voxels, level) for level in range(3)] == [-5.0, -6.5, -8.0]
    assert minimum < density_of(voxels, 3) < minimum + 0.11
    deep = SparseVoxels(8, 3, -5.0, levels=4, falloff=100.0)
    assert all(minimum < density_of(deep, level) < minimum + 0.11 for level in (1, 2, 3))
    ray = Rays(torch.tensor([[3.4, 3.4, -60.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.full((1,), 0.5))
    deep.composite(ray, 1.0).features.sum().backward()
    outermost = deep.index[3][deep.index[3] > 0].long()
    assert deep.features.grad[outermost].any(), "vertices whose samples are skipped would never learn"


def test_without_falloff_all_levels_start_equally():
    voxels = SparseVoxels(8, 3, -5.0, levels=3)
    assert voxels.density[1:].unique().tolist() == [-5.0]


def test_densities_below_the_minimum_are_kept():
    assert density_of(SparseVoxels(8, 3, -20.0, levels=2, falloff=1.0), 1) == -20.0
