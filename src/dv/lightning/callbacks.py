"""What happens around the training steps: checkpoints that survive, pictures, timing, the progress bar."""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from dv.checkpoint import write_atomically
from dv.data.pictures import contact_sheet, depth_picture
from dv.data.sampling import TrainingBatch
from dv.errors import UserError
from dv.geometry.camera import axis_cosines
from dv.lightning.loggers import log_picture
from dv.lightning.module import DeepVoxelsModule, to_model
from dv.metrics import to_unit


class Interrupted(UserError):
    """The user or the system asked the training to stop; the last checkpoint has been written."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written aside and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        write_atomically(checkpoint, Path(path))


class LastCheckpoint(Callback):
    """Writes ``last.ckpt`` every ``every_steps`` steps, at the end, and on Ctrl-C or SIGTERM.

    It writes before a step begins, when the step before it is wholly logged and validated: so a resumed run repeats
    an undisturbed one. ``resumed`` is the checkpoint that the run went on from, the last good one until the first is
    written.
    """

    def __init__(self, folder: Path, every_steps: int, resumed: Path | None = None) -> None:
        self.path = folder / "last.ckpt"
        self.every_steps = every_steps
        self.written = resumed
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to SIGINT and SIGTERM; a second one ends the process at once."""
        self._begun_at = trainer.global_step
        # Lightning expects checkpoints from the end of a batch; ours are from the start of the next, already counted
        total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready = total.started = total.processed = total.completed
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum
        signal.signal(signum, signal.SIG_DFL)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write when it is time, or when some rank was asked to stop."""
        step = trainer.global_step
        trainer.fit_loop.epoch_loop._batches_that_stepped = step  # for the loggers, likewise
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            self._write(trainer)
            raise Interrupted(
                f"interrupted at step {step}; continue with the same command and "
                f"hydra.run.dir={self.path.parent.parent} resume=auto",
                self._signal or signal.SIGTERM,
            )
        if step > self._begun_at and step % self.every_steps == 0:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the end of the training."""
        self._write(trainer)
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _write(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.written = self.path
        for logger in trainer.loggers:
            logger.save()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


class StepTime(Callback):
    """Logs the wall-clock seconds of every training step."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the time."""
        pl_module.log("time/step", time.perf_counter() - self._began)


class Pictures(Callback):
    """Every ``every_steps`` steps, one validation view as source | output | truth | depth, and slices of the gates.

    The source is the training view nearest to the validation view.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: TrainingBatch, batch_idx: int
    ) -> None:
        """Make and log the pictures."""
        if not self.every_steps or trainer.global_step % self.every_steps or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, DeepVoxelsModule)
        log_picture(trainer.loggers, "views", self._views(trainer, pl_module), trainer.global_step)
        if pl_module.last_gates is not None:
            log_picture(trainer.loggers, "gates", gate_slices(*pl_module.last_gates), trainer.global_step)

    def _views(self, trainer: pl.Trainer, module: DeepVoxelsModule) -> Tensor:
        source = trainer.datamodule.source  # type: ignore[attr-defined]
        truth, train = source.views("validation"), source.views("train")
        nearest = int(axis_cosines(truth.poses[:1], train.poses).argmax())
        module.eval()
        with torch.no_grad():
            rendering = module.render(truth.poses[0])
        module.train()
        row = [
            to_unit(to_model(train.images[nearest])),
            to_unit(rendering.image[0]),
            to_unit(to_model(truth.images[0])),
        ]
        if rendering.depth_map is not None:
            row.append(depth_picture(rendering.depth_map[0].float(), truth.images.shape[-1]))
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


class ProgressBar(TQDMProgressBar):
    """Steps done, the latest training and validation PSNR, and the time left, by steps or by ``max_time``."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, DeepVoxelsModule)
        self._began, self._progress = time.perf_counter(), pl_module.progress()

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar."""
        metrics = trainer.callback_metrics
        shown = {"psnr": metrics.get("train/psnr"), "val_psnr": metrics.get("val/psnr")}
        behind: dict[str, int | str | float | dict[str, float]] = {
            name: f"{float(value):.2f}" for name, value in shown.items() if value is not None
        }
        assert isinstance(pl_module, DeepVoxelsModule)
        progress = pl_module.progress()
        if progress > self._progress:
            seconds = (time.perf_counter() - self._began) * (1 - progress) / (progress - self._progress)
            behind["left"] = str(timedelta(seconds=round(seconds)))
        return behind
