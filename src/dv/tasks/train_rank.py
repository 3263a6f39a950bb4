"""The part of a training that every rank does. The process that only supervises ranks need not import Lightning."""

from __future__ import annotations

import logging
import math
import shlex
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from dv.checkpoint import Checkpoint, read_checkpoint
from dv.config.train import TrainConfig
from dv.data.datamodule import ObjectDataModule
from dv.data.object import ObjectSource
from dv.data.sampling import StepLayout
from dv.errors import UserError
from dv.lightning.callbacks import ENDLESS, LastCheckpoint
from dv.lightning.object_module import ObjectModule, callbacks_of
from dv.runtime.launch import rank_info
from dv.runtime.memory import reset_peak_memory
from dv.tasks.build import build_module, training_object
from dv.tasks.finish import finish_training
from dv.tasks.trainer import make_trainer
from dv.validation import flatten, is_same

log = logging.getLogger("dv.tasks.train")


def train_on_rank(config: TrainConfig) -> float:
    """Train on this rank and return the best validation PSNR, dB."""
    reset_peak_memory()
    run_dir, t = Path(config.output_dir), config.trainer
    resume = read_checkpoint(Path(config.resume)) if config.resume else None
    source = training_object(config)
    layout = StepLayout(config.data.batch_size, t.accumulate_grad_batches, t.processes_here * t.nodes)
    module = build_module(config, source, layout.samples)
    steps_per_epoch = module.samples_per_epoch(source.views("train")) / layout.samples
    steps = t.max_steps or (math.ceil(t.max_epochs * steps_per_epoch) if t.max_epochs else ENDLESS)
    if resume:
        _check_resume(resume, config, module)
        _check_image_size(resume, source)
    if not module.model.has_depth:
        log.info("this model renders no depth: images show source | output | truth only")
    datamodule = ObjectDataModule(
        source, steps, config.seed, layout, t.validation_views, config.data.workers, not module.needs_views
    )
    pl.seed_everything(config.seed, verbose=False)
    trainer = make_trainer(config, run_dir, steps, resume)
    # PyTorch cannot reset the statistics before CUDA is initialised, and declares no type of is_initialized
    if trainer.strategy.root_device.type == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    if rank_info().rank == 0:
        OmegaConf.save(OmegaConf.create(asdict(config) | {"resume": None}), run_dir / "config.yaml")
        for name in ("run.json", "metrics.json"):  # results of an earlier training in this folder
            (run_dir / name).unlink(missing_ok=True)
    length = f"{steps} steps" if not t.max_time else f"at most {t.max_time} (days:hours:minutes:seconds)"
    log.info("training %s in %s (%s)", source.name, run_dir, length)
    last = next(c for c in callbacks_of(trainer) if isinstance(c, LastCheckpoint))
    try:
        with last.handling_signals():
            trainer.fit(module, datamodule=datamodule, ckpt_path=resume.path if resume else None, weights_only=True)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"{error}; resume=auto continues from the last checkpoint; data.workers=0 needs no workers"
        ) from error
    return finish_training(trainer, module, datamodule, run_dir, config)


def _check_image_size(resume: Checkpoint, source: ObjectSource) -> None:
    """Refuse to resume a training on squares with images of another size."""
    side = resume.sizes.get("image_side")
    read = source.views("train").largest
    if side and (read.width, read.height) != (side, side):
        raise UserError(
            f"resume={resume.path} was trained on squares of {side} px, not on images of "
            f"{read.width}×{read.height} px; add data.image_side={side}"
        )


def _check_resume(resume: Checkpoint, config: TrainConfig, module: ObjectModule) -> None:
    """Refuse to resume if model, discriminator, grid placement or a fixed key differs from the checkpoint's."""
    resume.load_model(module.model, config.model.kind)
    discriminator = getattr(module, "discriminator", None) is not None
    if bool(resume.discriminator_state) != discriminator:
        has = "a" if resume.discriminator_state else "no"
        raise UserError(f"resume={resume.path} has {has} discriminator; resume with its loss, or use init_from=")
    if resume.placement != module.model.placement:
        raise UserError(f"resume={resume.path} was trained on another grid placement; resume with its object")
    own, trained = flatten(asdict(config)), flatten(resume.config or {})
    for key in module.fixed_keys:
        if not is_same(own[key], trained.get(key)):
            wanted = shlex.quote(f"{key}={trained.get(key)}")
            raise UserError(
                f"resume={resume.path} was trained with {key}={trained.get(key)}, not {own[key]}; add {wanted}"
            )
