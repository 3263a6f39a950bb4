"""When the vertices of a radiance grid change during the training, and how the optimiser follows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dv.config.train import RadianceGridConfig
from dv.errors import UserError
from dv.nets.voxels import SparseVoxels
from dv.ops.compositing import min_raw_density

MIN_SIDE = 8  # vertices along an edge


def vertex_changes(config: RadianceGridConfig) -> list[tuple[float, str]]:
    """List when each change happens, as a fraction of the training, and its kind: prune, refine or view.

    ``view`` gives vertices the features that depend on the view.
    """
    times = {"prune": config.prune_at, "refine": config.refine_at, "view": [config.view_from]}
    changes = [(time, change) for change, times_of_change in times.items() for time in times_of_change]
    return sorted(changes, key=lambda change: change[0])


def grid_side(config: RadianceGridConfig, final_side: int, refinements: int) -> int:
    """Number of vertices along an edge after ``refinements``, each of which doubles it up to ``final_side``."""
    return max(MIN_SIDE, round(final_side / float(2 ** (len(config.refine_at) - refinements))))


def check_initial_density(voxels: SparseVoxels, initial_density: float) -> None:
    """Refuse an initial raw density below which samples are skipped, so that nothing would ever have a gradient.

    Raises:
        UserError: with the minimum density.
    """
    minimum = min_raw_density(voxels.interval(1.0))
    if initial_density < minimum:
        raise UserError(
            f"model.initial_density={initial_density} is invisible in a grid that starts with {voxels.side} vertices "
            f"along an edge; give at least {math.ceil(10 * minimum) / 10}, or start coarser (model.refine_at)"
        )


def change_parameters(optimizer: torch.optim.Optimizer, voxels: nn.Module, change: Callable[[], Tensor | None]) -> None:
    """Change the parameters of the voxels and replace them in the optimiser.

    Args:
        optimizer: the optimiser of the voxels.
        voxels: the module whose ``density`` and ``features`` change.
        change: makes new parameters. It returns the old rows ``[N']`` that they consist of, whose moments are kept, or
            None if moments restart from zero.
    """
    names = ("density", "features")
    before = {name: getattr(voxels, name) for name in names}
    kept = change()
    for name, old in before.items():
        new = getattr(voxels, name)
        if new is old:
            continue
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        state = optimizer.state.pop(old, None)
        if state and kept is not None:
            optimizer.state[new] = {k: v[kept] if v.shape == old.shape else v for k, v in state.items()}
