"""Lightning callbacks: checkpoints and signals, timing, pruning of trials, grid statistics, the progress bar."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from dv.checkpoint import write_checkpoint
from dv.config.train import TrialConfig
from dv.errors import Interrupted
from dv.lightning.object_module import ObjectModule

log = logging.getLogger(__name__)
ENDLESS = 10**9  # maximum number of steps of a training that the clock ends


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and keeps the ``last.ckpt`` before as ``previous.ckpt`` in case of damage."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        write_checkpoint(checkpoint, path, path.with_name("previous.ckpt") if path.name == "last.ckpt" else None)


class LastCheckpoint(Callback):
    """Writes ``last.ckpt`` at intervals, at the end, on Ctrl-C or SIGTERM, and when the parent process has died.

    It writes before a step starts, when the previous step has been logged and validated; therefore a resumed run equals
    an uninterrupted one. Signals that have a handler already, such as SLURM's warnings, are passed on to it once the
    checkpoint is written.

    Args:
        folder: folder of the checkpoints.
        every_steps: number of steps between checkpoints.
        resumed: checkpoint that the run continues from, named in error messages until the first one is written.
        how_to_resume: overrides that the message of an interruption recommends.
        orphaned: function that returns whether the process that started this one has died.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        resumed: Path | None = None,
        how_to_resume: str = "resume=auto",
        orphaned: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = folder / "last.ckpt"
        self.every_steps = every_steps
        self.written = resumed
        self.how_to_resume = how_to_resume
        self.orphaned = orphaned
        self._signal: int | None = None
        known = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {signum: signal.getsignal(signum) for signum in known}  # before Lightning installs its own
        self._others: dict[int, Any] = {s: handler for s, handler in handlers.items() if callable(handler)}

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle signals around ``trainer.fit`` and restore the previous handlers afterwards."""
        previous = {signum: signal.getsignal(signum) for signum in self._signals}
        self._install_handlers()
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        if self._signal is not None:  # received after the last step had started
            signal.raise_signal(self._signal)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the handlers again: Lightning has installed its own, which exchange messages between ranks."""
        self._first_step = trainer.global_step
        # Lightning expects checkpoints written at the end of a batch; ours are written when the next is counted already
        total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready = total.started = total.processed = total.completed
        self._install_handlers()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the default SIGTERM for the validation after the training: everything is saved by then."""
        if trainer.state.fn == "validate":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @property
    def _signals(self) -> set[int]:
        return {signal.SIGINT, signal.SIGTERM, *self._others}

    def _install_handlers(self) -> None:
        for signum in self._signals if self._signal is None else ():  # a second signal ends the process at once
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum
        if signum not in self._others:
            signal.signal(signum, signal.SIG_DFL)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write at the interval, and when any rank has received a signal or lost its parent."""
        step = trainer.global_step
        trainer.fit_loop.epoch_loop._batches_that_stepped = step  # numbers the rows of the loggers
        if trainer.strategy.reduce_boolean_decision(self._signal is not None or self.orphaned(), all=False):
            self._write(trainer)
            signum, self._signal = self._signal, None
            if signum and signum in self._others:
                self._others[signum](signum, None)
                return
            raise Interrupted(
                f"interrupted at step {step}; continue with the same command and {self.how_to_resume}",
                signum or signal.SIGTERM,
            )
        if step > self._first_step and step % self.every_steps == 0:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the end of the training."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # first: a resumed run keeps what was logged before its checkpoint
        trainer.save_checkpoint(self.path)
        self.written = self.path


class Clock(Callback):
    """Logs wall-clock seconds: of each training step, and of the whole training including validation and saving.

    A resumed run continues from the time in its checkpoint.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, before and after resuming."""
        return self._before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Save the elapsed time in checkpoints."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the elapsed time of a checkpoint."""
        self._before = state_dict["elapsed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the step."""
        self._step_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the times."""
        assert isinstance(pl_module, ObjectModule)
        if pl_module.is_logged(trainer.global_step):
            seconds = time.perf_counter() - self._step_started
            pl_module.log_dict({"time/step": seconds, "time/elapsed": self.elapsed})


class Pruning(Callback):
    """Reports every validation to the Optuna trial of this run, and stops the training if the pruner says so."""

    def __init__(self, trial: TrialConfig) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let rank 0 ask the pruner and stop all ranks if it says so."""
        if trainer.state.fn != "fit":
            return
        pruned = False
        if trainer.is_global_zero:
            import optuna  # optional
            from hydra.utils import instantiate

            assert self.trial.number is not None
            study = optuna.load_study(
                study_name=self.trial.study, storage=self.trial.storage, pruner=instantiate(self.trial.pruner)
            )
            trial = optuna.trial.Trial(study, study.trials[self.trial.number]._trial_id)
            trial.report(float(trainer.callback_metrics["val/psnr"]), trainer.global_step)
            pruned = trial.should_prune()
            if pruned:
                trial.set_user_attr("pruned", trainer.global_step)
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            log.info("trial pruned at step %d: other trials were better there", trainer.global_step)
            trainer.should_stop = True


class GridScalars(Callback):
    """Logs statistics of DeepVoxels' grid as ``grid/…`` on rank 0; the grid is the same on all ranks."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep the grid from before a step that will be logged."""
        logged = trainer.is_global_zero and pl_module.is_logged(trainer.global_step + 1)
        self._before = pl_module.model.grid.clone() if logged else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the grid and its change in this step."""
        if self._before is not None:
            scalars = grid_scalars(pl_module.model.grid, self._before, pl_module.last_gates)
            pl_module.log_dict({f"grid/{name}": value for name, value in scalars.items()}, rank_zero_only=True)
            self._before = None


def grid_scalars(grid: Tensor, before: Tensor, gates: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """Return statistics of a grid ``[1, F, G, G, G]``: mean, deviation, fraction of zero voxels, norm of its change.

    With ``gates``, the update and reset gates ``[1, 1, G, G, G]``, their means are included.
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


class ProgressBar(TQDMProgressBar):
    """Shows steps done, the latest training and validation PSNR, and the time left, by steps or by ``max_time``."""

    @property
    def total_train_batches(self) -> int | float:
        """Number of steps, infinite if the clock alone ends the training."""
        return math.inf if self.trainer.max_steps >= ENDLESS else super().total_train_batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, ObjectModule)
        self._started, self._progress = time.perf_counter(), max(pl_module.fractions())

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the text beside the bar."""
        metrics = trainer.callback_metrics
        shown = {"psnr": metrics.get("train/psnr"), "val_psnr": metrics.get("val/psnr")}
        text: dict[str, int | str | float | dict[str, float]] = {
            name: f"{float(value):.2f}" for name, value in shown.items() if value is not None
        }
        assert isinstance(pl_module, ObjectModule)
        progress = max(pl_module.fractions())
        if progress > self._progress:
            seconds = (time.perf_counter() - self._started) * (1 - progress) / (progress - self._progress)
            text["left"] = str(timedelta(seconds=round(seconds)))
        return text
