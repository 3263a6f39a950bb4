"""Images logged during the training: a validation view, the gates, and the model as a point cloud."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from dv.geometry.camera import axis_cosines
from dv.images import contact_sheet, depth_image, to_model_range
from dv.lightning.loggers import log_image, log_point_cloud
from dv.lightning.object_module import ObjectModule
from dv.metrics import to_unit

MAX_POINTS = 8192  # of the point cloud; more would only hide each other


class TrainingImages(Callback):
    """Logs one validation view, slices of the gates and the model's point cloud every ``every_steps`` steps.

    The view is shown as source | output | truth | depth, where source is the nearest training view.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make and log the images."""
        steps = trainer.global_step
        if not self.every_steps or steps % self.every_steps or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ObjectModule)
        log_image(trainer.loggers, "views", self._validation_view(trainer, pl_module), steps)
        gates: tuple[Tensor, Tensor] | None = getattr(pl_module, "last_gates", None)
        if gates is not None:
            log_image(trainer.loggers, "gates", gate_slices(*gates), steps)
        log_point_cloud(trainer.loggers, "voxels", *pl_module.model.point_cloud(MAX_POINTS), steps)

    def _validation_view(self, trainer: pl.Trainer, module: ObjectModule) -> Tensor:
        source = trainer.datamodule.source  # type: ignore[attr-defined]
        truth, train = source.views("validation"), source.views("train")
        nearest = int(axis_cosines(truth.poses[:1], train.poses).argmax())
        module.eval()
        with torch.no_grad():
            view = module.render_view(truth.poses[0].to(module.device), truth.cameras[0])
        module.train()
        row = [
            to_unit(to_model_range(train.image(nearest))),
            to_unit(view.image),
            to_unit(to_model_range(truth.image(0))),
        ]
        if view.depth is not None:
            row.append(depth_image(view.depth.float(), *truth.image(0).shape[1:]))
        return contact_sheet([row], min_side=128)


def gate_slices(update: Tensor, reset: Tensor) -> Tensor:
    """Middle z, y and x slices of the update (upper row) and reset gate ``[1, 1, G, G, G]`` as one grey image."""
    rows = []
    for gate in (update, reset):
        volume = gate[0, 0].float().cpu()
        middle = len(volume) // 2
        slices = (volume[middle], volume[:, middle], volume[:, :, middle])
        rows.append([s.expand(3, -1, -1) for s in slices])
    return contact_sheet(rows, min_side=128)
