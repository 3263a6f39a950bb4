"""``train.py``: train a model on one object."""

from __future__ import annotations

import json
import logging
import math
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from dv.checkpoint import Checkpoint, read_checkpoint
from dv.config import EvaluateConfig, TrainConfig
from dv.data.datamodule import ObjectDataModule
from dv.data.sampling import StepLayout
from dv.errors import UserError
from dv.lightning.callbacks import ENDLESS, LastCheckpoint
from dv.lightning.object_module import ObjectModule
from dv.runtime.devices import count_gpus, supported_precision
from dv.runtime.launch import rank_info, run_on_ranks
from dv.runtime.memory import reset_peak_memory
from dv.tasks.build import build_module, training_object
from dv.tasks.command import in_sweep, run, typed
from dv.tasks.evaluate import evaluate
from dv.tasks.finish import finish_training
from dv.tasks.record import recording_failure
from dv.tasks.resume import changed_keys, checkpoint_to_resume, finished_psnr, locked_run
from dv.tasks.trainer import make_trainer
from dv.tasks.wandb_results import log_test_scores
from dv.validation import flatten, is_same

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> float:
    """Train, validate and save to the run's folder, on as many processes as configured.

    With ``resume=auto`` a finished run is not repeated.

    Returns:
        The best validation PSNR, dB.
    """
    if config.trial and not in_sweep():
        raise UserError("sweep=optuna is a search over many runs; start it with python train.py -m …")
    gpus = count_gpus(config.trainer.gpus)
    precision: Any = supported_precision(config.trainer.precision, gpus)
    trainer = replace(config.trainer, gpus=gpus, precision=precision)
    config = replace(config, trainer=trainer)
    run_dir = Path(config.output_dir)
    with locked_run(run_dir) as lock:
        best = finished_psnr(run_dir, config) if config.resume == "auto" else None
        if best is None:
            if config.resume == "auto" and in_sweep() and (changed := changed_keys(run_dir, config, {"result"})):
                raise UserError(
                    f"{run_dir} holds a run of another sweep, with {', '.join(changed)}; use another hydra.sweep.dir"
                )
            resume = checkpoint_to_resume(config.resume, run_dir)
            config = replace(config, resume=str(resume.path) if resume else None)
            with recording_failure(run_dir):
                best = float(run_on_ranks(train_on_rank, config, trainer.processes_here, trainer.nodes, (lock,)))
        else:
            log.info("%s is finished (best validation PSNR %.2f dB)", run_dir, best)
        if config.evaluate and _evaluated_split(run_dir) != config.evaluate:
            _evaluate(config, run_dir)
    return best


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
    if not module.model.has_depth:
        log.info("this model renders no depth: images show source | output | truth only")
    datamodule = ObjectDataModule(
        source, steps, config.seed, layout, t.validation_views, config.data.workers, not module.needs_views
    )
    pl.seed_everything(config.seed, verbose=False)
    trainer = make_trainer(config, run_dir, steps, resume)
    # PyTorch cannot reset the statistics before CUDA is initialised; is_initialized has no annotations
    if trainer.strategy.root_device.type == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    if rank_info().rank == 0:
        OmegaConf.save(OmegaConf.create(asdict(config) | {"resume": None}), run_dir / "config.yaml")
        for name in ("run.json", "metrics.json"):  # results of an earlier training in this folder
            (run_dir / name).unlink(missing_ok=True)
    length = f"{steps} steps" if not t.max_time else f"at most {t.max_time} (days:hours:minutes:seconds)"
    log.info("training %s in %s (%s)", source.name, run_dir, length)
    last = next(c for c in trainer.callbacks if isinstance(c, LastCheckpoint))  # type: ignore[attr-defined]
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


def _evaluated_split(run_dir: Path) -> str | None:
    path = run_dir / "metrics.json"
    return json.loads(path.read_text()).get("split") if path.is_file() else None


def _evaluate(config: TrainConfig, run_dir: Path) -> None:
    """Score the best checkpoint as ``evaluate.py`` does by default."""
    defaults: EvaluateConfig = typed("evaluate", hydra.compose("evaluate"))
    t = config.trainer
    assert config.evaluate
    metrics = evaluate(
        replace(
            defaults,
            ckpt=str(run_dir / "checkpoints" / "best.ckpt"),
            split=config.evaluate,
            trainer=replace(defaults.trainer, gpus=t.gpus, processes=t.processes, nodes=t.nodes),
        )
    )
    if config.evaluate == "test":
        log_test_scores(config, run_dir, metrics["mean"])


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


if __name__ == "__main__":
    run("train")
