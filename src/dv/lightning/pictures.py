"""Pictures of the training: a validation view, the gates, and the grid as a point cloud."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from dv.geometry.camera import axis_cosines
from dv.geometry.grid import GridPlacement
from dv.images import contact_sheet, depth_picture
from dv.lightning.loggers import log_picture, log_points
from dv.lightning.object_module import ObjectModule, to_model
from dv.metrics import to_unit

MOST_POINTS = 8192  # of the grid; more would only hide each other
SHARE_OF_POINTS = 0.1


class Pictures(Callback):
    """Every ``every_steps`` steps one validation view, slices of the gates and the grid's strongest voxels.

    The view is shown as source | output | truth | depth; its source is the training view nearest to it.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make and log the pictures."""
        steps = trainer.global_step
        if not self.every_steps or steps % self.every_steps or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ObjectModule)
        log_picture(trainer.loggers, "views", self._views(trainer, pl_module), steps)
        gates: tuple[Tensor, Tensor] | None = getattr(pl_module, "last_gates", None)
        if gates is not None:
            log_picture(trainer.loggers, "gates", gate_slices(*gates), steps)
        log_points(trainer.loggers, "voxels", *pl_module.point_cloud(), steps)

    def _views(self, trainer: pl.Trainer, module: ObjectModule) -> Tensor:
        source = trainer.datamodule.source  # type: ignore[attr-defined]
        truth, train = source.views("validation"), source.views("train")
        nearest = int(axis_cosines(truth.poses[:1], train.poses).argmax())
        module.eval()
        with torch.no_grad():
            image, depth = module.picture(truth.poses[0].to(module.device))
        module.train()
        row = [
            to_unit(to_model(train.images[nearest])),
            to_unit(image[0]),
            to_unit(to_model(truth.images[0])),
        ]
        if depth is not None:
            row.append(depth_picture(depth[0].float(), truth.images.shape[-1]))
        return contact_sheet([row], least_side=128)


def gate_slices(update: Tensor, reset: Tensor) -> Tensor:
    """Middle z, y and x slices of the update (upper row) and reset gate ``[1, 1, G, G, G]`` as one grey picture."""
    rows = []
    for gate in (update, reset):
        volume = gate[0, 0].float().cpu()
        middle = len(volume) // 2
        slices = (volume[middle], volume[:, middle], volume[:, :, middle])
        rows.append([s.expand(3, -1, -1) for s in slices])
    return contact_sheet(rows, least_side=128)


def strongest_voxels(grid: Tensor, placement: GridPlacement) -> tuple[Tensor, Tensor]:
    """Where the grid ``[1, F, G, G, G]`` holds most: world positions and colours ``[N, 3]`` of a tenth of its voxels.

    Those of the largest feature norm, at most 8192, none that is zero. Red, green and blue are the first three
    principal components of their features, each from its 2nd to its 98th percentile.
    """
    voxels = grid.detach()[0].flatten(1)
    norms = voxels.float().norm(dim=0)
    count = min(MOST_POINTS, max(1, int(SHARE_OF_POINTS * len(norms))), int(norms.count_nonzero()))
    chosen = norms.topk(count).indices
    points = placement.voxel_centers(grid.shape[-1])[chosen.cpu()].float()
    colors = torch.full((count, 3), 0.5)
    if count < 3:
        return points, colors
    features = voxels[:, chosen].T.double().cpu()
    centered = features - features.mean(0)
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)[:, :3]  # largest variance first
    axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)  # eigenvectors have no sign; keep colours from flickering
    components = centered @ axes
    low, high = components.quantile(torch.tensor([0.02, 0.98], dtype=components.dtype), dim=0)
    colors[:, : components.shape[1]] = ((components - low) / (high - low).clamp_min(1e-9)).clamp(0, 1).float()
    return points, colors
