"""The Lightning trainer of a training configuration, with its callbacks, loggers and processes."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy

from dv.checkpoint import Checkpoint
from dv.config.train import TrainConfig
from dv.errors import UserError
from dv.lightning.callbacks import AtomicCheckpointIO, Clock, LastCheckpoint, ProgressBar, Pruning
from dv.lightning.live_view import LiveView
from dv.lightning.loggers import make_loggers
from dv.lightning.training_images import TrainingImages
from dv.runtime.watchdog import is_orphaned
from dv.tasks.command import in_sweep
from dv.tasks.wandb_results import named_logger


def make_trainer(config: TrainConfig, run_dir: Path, steps: int, resume: Checkpoint | None) -> pl.Trainer:
    """Make the trainer of a run.

    Args:
        config: configuration of the training, whose ``trainer.gpus`` is a number.
        run_dir: the run's folder.
        steps: maximum number of optimiser steps.
        resume: checkpoint that the run is resumed from.

    Raises:
        UserError: for settings that Lightning refuses.
    """
    t = config.trainer
    warnings.filterwarnings(
        "ignore", ".*(does not have many workers|LeafSpec|Experiment logs directory|sync_dist=True|broadcast_buffers).*"
    )
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    several = t.processes_here * t.nodes > 1
    environment = (
        LightningEnvironment()
        if not several
        else TorchElasticEnvironment()
        if TorchElasticEnvironment.detect()
        else SLURMEnvironment(auto_requeue=False)
    )
    resume_step = resume.step if resume else None
    try:
        return pl.Trainer(
            accelerator="cuda" if t.gpus else "cpu",
            devices=t.processes_here,
            num_nodes=t.nodes,
            # SharedState merges the buffers; DDP would overwrite them with those of rank 0
            strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
            precision=t.precision,
            max_steps=steps,
            max_time=t.max_time,
            val_check_interval=min(t.validate_every_steps, steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=t.log_every_steps,
            logger=make_loggers(named_logger(config.logger, run_dir), run_dir, asdict(config), resume_step),
            callbacks=_callbacks(config, run_dir, resume),
            plugins=[AtomicCheckpointIO(), environment],
            use_distributed_sampler=False,
            enable_progress_bar=t.progress_bar,
            enable_model_summary=False,
            default_root_dir=run_dir,
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error


def _callbacks(config: TrainConfig, run_dir: Path, resume: Checkpoint | None) -> list[Callback]:
    t, checkpoints = config.trainer, run_dir / "checkpoints"
    callbacks: list[Callback] = [
        ModelCheckpoint(
            checkpoints,
            "best",
            monitor="val/psnr",
            mode="max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        ),
        LastCheckpoint(
            checkpoints,
            t.save_every_steps,
            resume.path if resume else None,
            "resume=auto" if in_sweep() else f"hydra.run.dir={run_dir} resume=auto",
            is_orphaned,
        ),
        Clock(),
        TrainingImages(t.picture_every_steps),
    ]
    if config.trial:
        callbacks.append(Pruning(config.trial))
    if config.view:
        callbacks.append(LiveView(config.viewer.host, config.viewer.port))
    if t.progress_bar:
        callbacks.append(ProgressBar(refresh_rate=t.progress_every_steps))
    return callbacks
