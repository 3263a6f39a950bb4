"""What the dashboards show of the voxel grid as numbers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from dv.lightning.deepvoxels_module import DeepVoxelsModule


class GridScalars(Callback):
    """Logs ``grid/…`` with the rows that are logged anyway, on rank 0; the grid is the same on all ranks."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the grid from before a step that will be logged."""
        assert isinstance(pl_module, DeepVoxelsModule)
        logged = trainer.is_global_zero and pl_module.logs(trainer.global_step + 1)
        self._before = pl_module.model.grid.clone() if logged else None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the step has made of the grid."""
        assert isinstance(pl_module, DeepVoxelsModule)
        if self._before is not None:
            scalars = grid_scalars(pl_module.model.grid, self._before, pl_module.last_gates)
            pl_module.log_dict({f"grid/{name}": value for name, value in scalars.items()}, rank_zero_only=True)
            self._before = None


def grid_scalars(grid: Tensor, before: Tensor, gates: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """Of the grid ``[1, F, G, G, G]``: mean, standard deviation, share of zero voxels, norm of its change.

    And the means of the update and reset gates ``[1, 1, G, G, G]`` that changed it.
    """
    values = grid.float()
    scalars = {
        "mean": values.mean(),
        "std": values.std(correction=0),
        "zero_voxels": (grid == 0).all(1).float().mean(),
        "change_norm": (values - before.float()).norm(),
    }
    if gates is not None:
        scalars |= {f"{name}_gate": gate.float().mean() for name, gate in zip(("update", "reset"), gates, strict=True)}
    return scalars
