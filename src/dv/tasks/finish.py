"""The end of a training: final validation, best checkpoint, and results for loggers and ``run.json``."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from dv.config.loggers import WandbConfig
from dv.config.train import TrainConfig
from dv.data.datamodule import ObjectDataModule
from dv.lightning.callbacks import Clock
from dv.lightning.loggers import RunWandbLogger
from dv.lightning.object_module import ObjectModule, callbacks_of
from dv.runtime.files import atomic_file
from dv.tasks.command_line import shell_override
from dv.tasks.record import record_finished
from dv.tasks.wandb_results import log_results

log = logging.getLogger("dv.tasks.train")


def finish_training(
    trainer: pl.Trainer, module: ObjectModule, datamodule: ObjectDataModule, run_dir: Path, config: TrainConfig
) -> float:
    """Validate the trained model, make it ``best.ckpt`` if no earlier validation was better, and record the run.

    Returns:
        The best validation PSNR, dB.
    """
    best = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    clock = next(c for c in callbacks_of(trainer) if isinstance(c, Clock))
    seconds, steps, device = clock.elapsed, trainer.global_step, trainer.strategy.root_device
    best_psnr = float(best.best_model_score) if best.best_model_score is not None else float("-inf")
    scores = trainer.validate(module, datamodule=datamodule, verbose=False, weights_only=True)[0]
    final, checkpoints = scores["val/psnr"], run_dir / "checkpoints"
    if trainer.is_global_zero and final >= best_psnr:
        with atomic_file(checkpoints / "best.ckpt") as temporary:
            shutil.copyfile(checkpoints / "last.ckpt", temporary)
    best_psnr = max(final, best_psnr)
    for logger in trainer.loggers:
        logger.finalize("success")
        if isinstance(logger, RunWandbLogger) and trainer.is_global_zero:
            assert isinstance(config.logger, WandbConfig)
            log_results(logger, config, checkpoints / "best.ckpt", datamodule.source, device, best_psnr, steps)
            logger.close()
    if trainer.is_global_zero:
        record_finished(run_dir, steps, seconds, scores, device, trainer.world_size)
    log.info(
        "validation PSNR %.2f dB after %d steps; next: python evaluate.py %s",
        final,
        steps,
        shell_override("ckpt", str(checkpoints / "best.ckpt")),
    )
    return best_psnr
