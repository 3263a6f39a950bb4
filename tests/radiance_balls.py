"""Radiance grids of a ball that need no training."""

from pathlib import Path

import torch

from dv.checkpoint import MODEL_PREFIX, description
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.nets.radiance_sizes import RadianceSizes
from dv.radiance import RadianceGrid

RADIUS = 0.45  # world units, the ball of the fixture `ball`
CAMERA = Intrinsics(44.8, 44.8, 15.5, 15.5, 32, 32)


def ball_grid(seed: int = 0, origin: tuple[float, float, float] = (0.0, 0.0, 0.0), **sizes) -> RadianceGrid:
    """A ball with smooth random features in the first level, and fog with a wall in outer ones."""
    generator = torch.Generator().manual_seed(seed)
    grid = RadianceGrid(RadianceSizes(image_side=None, **sizes), GridPlacement(origin, 1.0, 0.5))
    voxels, side = grid.voxels, sizes["grid_side"]
    points = voxels.positions() / (side - 1) - 0.5
    inner = (points.abs() <= 0.5).all(1)
    ball = 60 * side / 16 * (RADIUS - points.norm(dim=1))
    wall = torch.where(points[:, 2] < -0.6, 3.0, -12.0)
    voxels.density.data[1:] = torch.where(inner, ball, wall)
    waves = torch.randn(3, voxels.features.shape[1], generator=generator) * 4
    voxels.features.data[1:] = 0.4 * torch.sin(points @ waves)
    if grid.decoder is not None:
        last = grid.decoder.layers[-1]
        last.weight.data = 0.5 * torch.randn(last.weight.shape, generator=generator) / last.weight.shape[1] ** 0.5
    if grid.sizes.environment:
        grid.background.data = torch.rand(grid.background.shape, generator=generator) - 0.5
    else:
        grid.background.data = torch.tensor([0.5, 0.5, 0.5])
    voxels.prune()
    return grid.eval()


def write_checkpoint(grid: RadianceGrid, path: Path, root: Path) -> Path:
    """Write a grid as training writes it, of the object ``ball``."""
    config = {"object": {"root": str(root), "name": "ball"}, "data": {}}
    state = {MODEL_PREFIX + name: value for name, value in grid.state_dict().items()}
    about = description("radiance_grid", grid.sizes, CAMERA, grid.placement, config)
    torch.save({"dv": about, "state_dict": state, "global_step": 7}, path)
    return path
