"""What happens around the training steps: checkpoints that survive, timing, the progress bar."""

from __future__ import annotations

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

from dv.checkpoint import write_atomically
from dv.errors import Interrupted
from dv.lightning.object_module import ObjectModule

ENDLESS = 10**9  # steps of a training that the clock ends


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written aside and renamed; the last but one is kept, should the last be damaged."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        write_atomically(checkpoint, path, path.with_name("previous.ckpt") if path.name == "last.ckpt" else None)


class LastCheckpoint(Callback):
    """Writes ``last.ckpt`` every ``every_steps`` steps, at the end, on Ctrl-C or SIGTERM, or if ``abandoned()``.

    It writes before a step begins, when the step before it is wholly logged and validated: so a resumed run repeats
    an undisturbed one. ``resumed`` is the checkpoint that the run went on from, the last good one until the first is
    written; ``how_to_go_on`` ends the message of an interruption. Signals that someone handles already, as SLURM's
    warnings are, go on to them once the checkpoint is written.
    """

    def __init__(
        self,
        folder: Path,
        every_steps: int,
        resumed: Path | None = None,
        how_to_go_on: str = "resume=auto",
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = folder / "last.ckpt"
        self.every_steps = every_steps
        self.written = resumed
        self.how_to_go_on = how_to_go_on
        self.abandoned = abandoned
        self._signal: int | None = None
        known = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        handlers = {signum: signal.getsignal(signum) for signum in known}  # before Lightning's
        self._others: dict[int, Any] = {s: handler for s, handler in handlers.items() if callable(handler)}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to signals around ``trainer.fit``; give them back afterwards."""
        previous = {signum: signal.getsignal(signum) for signum in self._signals}
        self._listen()
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        if self._signal is not None:  # it came when there was no step left to stop before
            signal.raise_signal(self._signal)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen again, since Lightning has put its own in place, which would exchange messages between ranks."""
        self._begun_at = trainer.global_step
        # Lightning expects checkpoints from the end of a batch; ours are from the start of the next, already counted
        total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        total.ready = total.started = total.processed = total.completed
        self._listen()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The validation after the training may be killed: all is written, and resuming repeats it."""
        if trainer.state.fn == "validate":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @property
    def _signals(self) -> set[int]:
        return {signal.SIGINT, signal.SIGTERM, *self._others}

    def _listen(self) -> None:
        for signum in self._signals if self._signal is None else ():  # a second signal ends the process at once
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum
        if signum not in self._others:
            signal.signal(signum, signal.SIG_DFL)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write when it is time, or when some rank was asked to stop."""
        step = trainer.global_step
        trainer.fit_loop.epoch_loop._batches_that_stepped = step  # for the loggers, likewise
        if trainer.strategy.reduce_boolean_decision(self._signal is not None or self.abandoned(), all=False):
            self._write(trainer)
            signum, self._signal = self._signal, None
            if signum and signum in self._others:
                self._others[signum](signum, None)
                return
            raise Interrupted(
                f"interrupted at step {step}; continue with the same command and {self.how_to_go_on}",
                signum or signal.SIGTERM,
            )
        if step > self._begun_at and step % self.every_steps == 0:
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
    """Logs wall-clock seconds: of every training step, and of the training so far, validation and saving included.

    A resumed run counts on from its checkpoint.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._began = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self._before + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._before = state_dict["elapsed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of the step."""
        self._step_began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the times."""
        assert isinstance(pl_module, ObjectModule)
        if pl_module.logs(trainer.global_step):
            pl_module.log_dict({"time/step": time.perf_counter() - self._step_began, "time/elapsed": self.elapsed})


class ProgressBar(TQDMProgressBar):
    """Steps done, the latest training and validation PSNR, and the time left, by steps or by ``max_time``."""

    @property
    def total_train_batches(self) -> int | float:
        """Steps in all, infinite if the clock alone ends the training."""
        return math.inf if self.trainer.max_steps >= ENDLESS else super().total_train_batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, ObjectModule)
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
        assert isinstance(pl_module, ObjectModule)
        progress = pl_module.progress()
        if progress > self._progress:
            seconds = (time.perf_counter() - self._began) * (1 - progress) / (progress - self._progress)
            behind["left"] = str(timedelta(seconds=round(seconds)))
        return behind
