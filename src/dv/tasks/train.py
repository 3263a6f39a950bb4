"""``train.py``: train DeepVoxels on one object."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from dv.errors import UserError
from dv.runtime.launch import place, run_on_ranks
from dv.runtime.memory import reset_peak_memory
from dv.runtime.watchdog import orphaned
from dv.tasks.command import in_sweep, run
from dv.tasks.evaluate import evaluate
from dv.tasks.resume import alone_in, changed, checkpoint_to_resume, finished
from dv.tasks.run_record import recording_failure
from dv.tasks.wandb_results import log_test_scores

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from dv.checkpoint import Checkpoint
    from dv.data.datamodule import ObjectDataModule
    from dv.lightning.object_module import ObjectModule

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train, validate and save to the run's folder, on as many processes as are configured.

    Returns the best validation PSNR in dB. With ``resume=auto`` a run that has been finished is not made again.
    """
    from dv.tasks.settings import check_devices, check_numbers, check_precision, processes_here, resolved

    config.trainer.gpus = check_devices(config.trainer.gpus)
    check_numbers(config)
    if config.trial and not in_sweep():
        raise UserError("sweep=optuna is a search over many runs; start it with python train.py -m …")
    config.trainer.precision = check_precision(str(config.trainer.precision), config.trainer.gpus)
    run_dir = Path(config.output_dir)
    with alone_in(run_dir) as lock:
        best = finished(run_dir, resolved(config)) if config.resume == "auto" else None
        if best is None:
            if config.resume == "auto" and in_sweep() and (before := changed(run_dir, resolved(config))):
                raise UserError(
                    f"{run_dir} holds a run with {', '.join(before)}: not this sweep; use another hydra.sweep.dir"
                )
            resume = checkpoint_to_resume(config.resume, run_dir)
            config.resume = str(resume.path) if resume else None
            with recording_failure(run_dir):
                best = float(run_on_ranks(train_on_rank, config, processes_here(config), config.trainer.nodes, (lock,)))
        else:
            log.info("%s is finished (best validation PSNR %.2f dB)", run_dir, best)
        if config.evaluate and _evaluated_split(run_dir) != config.evaluate:
            _evaluate(config, run_dir)
    return best


def train_on_rank(config: DictConfig) -> float:
    """What every process of a training does; returns the best validation PSNR in dB."""
    import pytorch_lightning as pl
    import torch

    from dv.checkpoint import read_checkpoint
    from dv.data.datamodule import ObjectDataModule
    from dv.data.sampling import StepShape
    from dv.lightning.callbacks import ENDLESS, LastCheckpoint
    from dv.radiance import RadianceGrid
    from dv.tasks.build import build
    from dv.tasks.settings import image_side_of, object_source, processes_here, resolved
    from dv.viewing import has_depth

    reset_peak_memory()
    run_dir = Path(config.output_dir)
    resume = read_checkpoint(Path(config.resume)) if config.resume else None
    source = object_source(config, image_side_of(config.data.image_side))
    t = config.trainer
    shape = StepShape(config.data.batch_size, t.accumulate_grad_batches, processes_here(config) * t.nodes)
    module = build(config, source, shape.samples)
    epoch = module.samples_of(source.views("train")) / shape.samples
    steps = t.max_steps or (math.ceil(t.max_epochs * epoch) if t.max_epochs else ENDLESS)
    if resume:
        _check_resume(resume, config, module)
    if not has_depth(module.model):
        log.info("model=no_occlusion has no depth: pictures show source | output | truth only")
    numbers_only = isinstance(module.model, RadianceGrid)
    datamodule = ObjectDataModule(
        source, steps, config.seed, shape, t.validation_views, config.data.workers, numbers_only
    )
    pl.seed_everything(config.seed, verbose=False)
    trainer = _trainer(config, run_dir, steps, resume)
    # PyTorch refuses to reset what no run in this process has counted yet; its is_initialized has no annotations
    if trainer.strategy.root_device.type == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    if place().rank == 0:
        OmegaConf.save(OmegaConf.create(resolved(config) | {"resume": None}), run_dir / "config.yaml")
        for name in ("run.json", "metrics.json"):  # of what was trained here before
            (run_dir / name).unlink(missing_ok=True)
    length = f"{steps} steps" if not t.max_time else f"at most {t.max_time} (days:hours:minutes:seconds)"
    log.info("training %s in %s (%s)", source.name, run_dir, length)
    last = next(c for c in trainer.callbacks if isinstance(c, LastCheckpoint))  # type: ignore[attr-defined]
    try:
        with last.listening():
            trainer.fit(module, datamodule=datamodule, ckpt_path=resume.path if resume else None, weights_only=True)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"{error}; resume=auto goes on from the last checkpoint; data.workers=0 needs none") from error
    return _finish(trainer, module, datamodule, run_dir, config)


def _evaluated_split(run_dir: Path) -> str | None:
    path = run_dir / "metrics.json"
    return json.loads(path.read_text()).get("split") if path.is_file() else None


def _evaluate(config: DictConfig, run_dir: Path) -> None:
    """Score the best checkpoint as ``evaluate.py`` does, which has its own defaults."""
    evaluation = hydra.compose("evaluate")
    evaluation.ckpt, evaluation.split = str(run_dir / "checkpoints" / "best.ckpt"), config.evaluate
    for key in ("gpus", "processes", "nodes"):
        evaluation.trainer[key] = config.trainer[key]
    metrics = evaluate(evaluation)
    if config.evaluate == "test":
        log_test_scores(config, run_dir, metrics["mean"])


def _check_resume(resume: Checkpoint, config: DictConfig, module: ObjectModule) -> None:
    """Refuse to go on with another model, object, loss or seed than those of the checkpoint."""
    resume.load_model(module.model)
    discriminator = getattr(module, "discriminator", None) is not None
    if bool(resume.discriminator_state) != discriminator:
        has = "a" if resume.discriminator_state else "no"
        raise UserError(f"resume={resume.path} has {has} discriminator; resume with its loss, or use init_from=")
    if resume.placement != module.placement:
        raise UserError(f"resume={resume.path} was trained on another grid placement; resume with its object")
    trained = OmegaConf.create(resume.config or {})
    keys = ["object.name", "seed"]
    if config.model.kind == "radiance_grid":  # it remembers how many of these changes are over
        keys += ["model.refine_at", "model.prune_at", "model.view_from"]
    for key in keys:
        ours, theirs = (str(OmegaConf.select(c, key)) for c in (config, trained))
        if ours != theirs:
            wanted = shlex.quote(f"{key}={theirs}")
            raise UserError(f"resume={resume.path} was trained with {key}={theirs}, not {ours}; add {wanted}")


def _trainer(config: DictConfig, run_dir: Path, steps: int, resume: Checkpoint | None) -> pl.Trainer:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.callbacks import Callback, ModelCheckpoint
    from pytorch_lightning.strategies import DDPStrategy

    from dv.lightning.callbacks import AtomicCheckpointIO, Clock, LastCheckpoint, ProgressBar
    from dv.lightning.dashboard import GridScalars
    from dv.lightning.loggers import make_loggers
    from dv.lightning.pictures import Pictures
    from dv.lightning.pruning import Pruning
    from dv.tasks.settings import processes_here, resolved
    from dv.tasks.wandb_results import named

    t = config.trainer
    warnings.filterwarnings(
        "ignore", ".*(does not have many workers|LeafSpec|Experiment logs directory|sync_dist=True|broadcast_buffers).*"
    )
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    checkpoints = run_dir / "checkpoints"
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
            orphaned,
        ),
        Clock(),
        Pictures(t.picture_every_steps),
    ]
    if config.model.kind == "deepvoxels":
        callbacks.append(GridScalars())
    if config.trial:
        callbacks.append(Pruning(config.trial))
    if t.progress_bar:
        callbacks.append(ProgressBar(refresh_rate=t.progress_every_steps))
    plain = resolved(config)
    several = processes_here(config) * t.nodes > 1
    environment = (
        LightningEnvironment()
        if not several
        else TorchElasticEnvironment()
        if TorchElasticEnvironment.detect()
        else SLURMEnvironment(auto_requeue=False)
    )
    settings = named(plain["logger"], run_dir)
    try:
        return pl.Trainer(
            accelerator="cuda" if t.gpus else "cpu",
            devices=processes_here(config),
            num_nodes=t.nodes,
            # the state beside the weights is merged by SharedState; DDP would overwrite it with that of rank 0
            strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
            precision=t.precision,
            max_steps=steps,
            max_time=t.max_time,
            val_check_interval=min(t.validate_every_steps, steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=t.log_every_steps,
            logger=make_loggers(config.logger.name, run_dir, plain, settings, resume.step if resume else None),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), environment],
            use_distributed_sampler=False,
            enable_progress_bar=t.progress_bar,
            enable_model_summary=False,
            default_root_dir=run_dir,
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error


def _finish(
    trainer: pl.Trainer, module: ObjectModule, datamodule: ObjectDataModule, run_dir: Path, config: DictConfig
) -> float:
    """Validate the end of the training, keep it as ``best.ckpt`` if it is, and say where things are."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    from dv.lightning.callbacks import Clock
    from dv.lightning.loggers import RunWandbLogger
    from dv.tasks.run_record import write_record
    from dv.tasks.settings import resolved
    from dv.tasks.wandb_results import show_results

    best = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    clock = next(c for c in trainer.callbacks if isinstance(c, Clock))  # type: ignore[attr-defined]
    seconds = clock.elapsed
    best_psnr = float(best.best_model_score) if best.best_model_score is not None else float("-inf")
    scores = trainer.validate(module, datamodule=datamodule, verbose=False, weights_only=True)[0]
    final, checkpoints = scores["val/psnr"], run_dir / "checkpoints"
    if trainer.is_global_zero and final >= best_psnr:
        aside = checkpoints / ".best.ckpt.partial"
        shutil.copyfile(checkpoints / "last.ckpt", aside)
        aside.replace(checkpoints / "best.ckpt")
    for logger in trainer.loggers:
        logger.finalize("success")
        if isinstance(logger, RunWandbLogger) and trainer.is_global_zero:
            show_results(
                logger,
                resolved(config)["logger"],
                checkpoints / "best.ckpt",
                datamodule.source,
                trainer.strategy.root_device,
                config.trainer.precision,
                module.loss.border,
                max(final, best_psnr),
                trainer.global_step,
            )
            logger.close()
    if trainer.is_global_zero:
        write_record(run_dir, trainer.global_step, seconds, scores, trainer.strategy.root_device, trainer.world_size)
    log.info(
        "validation PSNR %.2f dB after %d steps; next: python evaluate.py ckpt=%s",
        final,
        trainer.global_step,
        checkpoints / "best.ckpt",
    )
    return max(final, best_psnr)


def main() -> None:
    """Command line."""
    run("train", train)


if __name__ == "__main__":
    main()
