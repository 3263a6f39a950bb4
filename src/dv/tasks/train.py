"""``train.py``: train DeepVoxels on one object."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dv.errors import UserError
from dv.tasks.command import run

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from dv.checkpoint import Checkpoint
    from dv.data.object import ObjectSource
    from dv.lightning.module import DeepVoxelsModule

log = logging.getLogger(__name__)


def train(config: DictConfig) -> float:
    """Train, validate and save to the run's folder; returns the best validation PSNR in dB."""
    from dv.tasks.settings import check_devices, check_numbers, check_precision, image_side_of, object_source, resolved

    gpus = check_devices(config.trainer.gpus)
    check_numbers(config)
    config.trainer.precision = check_precision(str(config.trainer.precision), gpus)
    import pytorch_lightning as pl

    from dv.data.datamodule import ObjectDataModule

    run_dir = Path(config.output_dir)
    resume = _resume_path(config.resume, run_dir)
    source = object_source(config, image_side_of(config.data.image_side))
    ranks = max(1, gpus * config.trainer.nodes)
    steps = config.trainer.max_steps or math.ceil(config.trainer.max_epochs * len(source.views("train")) / ranks)
    module = _build(config, source)
    if resume:
        _check_resume(resume, config, module)
    if not config.model.occlusion_net:
        log.info("model=no_occlusion has no depth: pictures show source | output | truth only")
    datamodule = ObjectDataModule(source, steps, config.seed, config.data.workers)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(resolved(config)), run_dir / "config.yaml")
    pl.seed_everything(config.seed, verbose=False)
    trainer = _trainer(config, run_dir, gpus, steps, resume)
    log.info("training %s in %s (%d steps)", source.name, run_dir, steps)
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume.path if resume else None, weights_only=True)
    return _finish(trainer, module, datamodule, run_dir)


def _resume_path(resume: str | None, run_dir: Path) -> Checkpoint | None:
    from dv.checkpoint import read_checkpoint

    if not resume:
        return None
    path = run_dir / "checkpoints" / "last.ckpt" if resume == "auto" else Path(resume)
    if resume == "auto" and not path.is_file():
        log.info("resume=auto: no %s, starting afresh (give hydra.run.dir=DIR to resume the run in DIR)", path)
        return None
    checkpoint = read_checkpoint(path)
    if checkpoint.reference:
        raise UserError(f"resume={path} is a checkpoint of the reference implementation; use init_from={path}")
    return checkpoint


def _check_resume(resume: Checkpoint, config: DictConfig, module: DeepVoxelsModule) -> None:
    """Refuse to go on with another model, object, loss or seed than those of the checkpoint."""
    resume.load_model(module.model)
    if bool(resume.discriminator_state) != (module.discriminator is not None):
        has = "a" if resume.discriminator_state else "no"
        raise UserError(f"resume={resume.path} has {has} discriminator; resume with its loss, or use init_from=")
    if resume.placement != module.projector.placement:
        raise UserError(f"resume={resume.path} was trained on another grid placement; resume with its object")
    trained = resume.config or {}
    for key, ours, theirs in (
        ("object.name", str(config.object.name), str(trained["object"]["name"])),
        ("seed", config.seed, trained["seed"]),
    ):
        if ours != theirs:
            raise UserError(f"resume={resume.path} was trained with {key}={theirs}, not {ours}; add {key}={theirs}")


def _build(config: DictConfig, source: ObjectSource) -> DeepVoxelsModule:
    """The module for an object: sizes from the configuration, camera and grid from the object."""
    import torch

    from dv.checkpoint import read_checkpoint
    from dv.data.check import check_cameras
    from dv.lightning.module import SCHEDULES, DeepVoxelsModule, LossSettings, OptimizerSettings
    from dv.model import ModelSizes
    from dv.nets.discriminator import SMALLEST_SIDE
    from dv.tasks.settings import resolved

    views = source.views("train")
    sizes = ModelSizes(
        image_side=views.images.shape[-1],
        feature_side=config.grid.feature_side,
        grid_side=config.grid.side,
        grid_features=config.grid.features,
        base_channels=config.model.base_channels,
        occlusion_net=config.model.occlusion_net,
    )
    sizes.check()
    border = config.loss.border
    inner = sizes.image_side - 2 * border
    least = SMALLEST_SIDE if config.loss.gan_weight else 1
    if border < 0 or inner < least:
        raise UserError(
            f"data.image_side={sizes.image_side} without loss.border={border} leaves {inner} px; "
            f"{f'the discriminator needs {least}: use loss=l1, ' if config.loss.gan_weight else ''}"
            "a larger data.image_side or a smaller loss.border"
        )
    if config.optimizer.schedule not in SCHEDULES:
        raise UserError(f"optimizer.schedule={config.optimizer.schedule} must be one of {', '.join(SCHEDULES)}")
    calibration = source.calibration()
    for finding in check_cameras({split: source.views(split) for split in ("train", "validation")}, calibration):
        log.warning("%s (more: python prepare.py source=check …)", finding.message)
    validated = "validation" if source.folder("validation").is_dir() else "train"
    torch.manual_seed(config.seed)
    module = DeepVoxelsModule(
        sizes,
        calibration.intrinsics,
        calibration.placement,
        LossSettings(config.loss.l1_weight, config.loss.gan_weight, border),
        OptimizerSettings(**config.optimizer),
        seed=config.seed,
        config=resolved(config),
        dropout={key: config.model[key] for key in ("integration_dropout", "renderer_dropout")},
        validation_intrinsics=source.calibration(validated).intrinsics,
        keep_bytes=int(config.trainer.operator_memory_gb * 2**30),
        compile=config.trainer.compile,
    )
    if config.init_from:
        start = read_checkpoint(Path(config.init_from))
        start.load_model(module.model)
        if module.discriminator is not None:
            start.load_discriminator(module.discriminator)
    return module


def _trainer(config: DictConfig, run_dir: Path, gpus: int, steps: int, resume: Checkpoint | None) -> pl.Trainer:
    import pytorch_lightning as pl
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.callbacks import Callback, ModelCheckpoint

    from dv.lightning.callbacks import AtomicCheckpointIO, LastCheckpoint, Pictures, ProgressBar, StepTime
    from dv.lightning.loggers import make_loggers
    from dv.tasks.settings import resolved

    t = config.trainer
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec|Experiment logs directory).*")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
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
        LastCheckpoint(checkpoints, t.save_every_steps, resume.path if resume else None),
        StepTime(),
        Pictures(t.picture_every_steps),
    ]
    if t.progress_bar:
        callbacks.append(ProgressBar(refresh_rate=t.progress_every_steps))
    plain = resolved(config)
    try:
        return pl.Trainer(
            accelerator="cuda" if gpus else "cpu",
            devices=gpus or 1,
            num_nodes=t.nodes,
            strategy="ddp" if gpus * t.nodes > 1 else "auto",
            precision=t.precision,
            max_steps=steps,
            max_time=t.max_time,
            val_check_interval=min(t.validate_every_steps, steps),
            check_val_every_n_epoch=None,
            limit_val_batches=t.validation_views,
            num_sanity_val_steps=0,
            log_every_n_steps=t.log_every_steps,
            logger=make_loggers(config.logger.name, run_dir, plain, plain["logger"], resume.step if resume else None),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            use_distributed_sampler=False,
            enable_progress_bar=t.progress_bar,
            enable_model_summary=False,
            default_root_dir=run_dir,
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error


def _finish(trainer: pl.Trainer, module: DeepVoxelsModule, datamodule: pl.LightningDataModule, run_dir: Path) -> float:
    """Validate the end of the training, keep it as ``best.ckpt`` if it is, and say where things are."""
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.loggers import WandbLogger

    best = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint))
    best_psnr = float(best.best_model_score) if best.best_model_score is not None else float("-inf")
    final = trainer.validate(module, datamodule=datamodule, verbose=False, weights_only=True)[0]["val/psnr"]
    checkpoints = run_dir / "checkpoints"
    if trainer.is_global_zero and final >= best_psnr:
        aside = checkpoints / ".best.ckpt.partial"
        shutil.copyfile(checkpoints / "last.ckpt", aside)
        aside.replace(checkpoints / "best.ckpt")
    for logger in trainer.loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # the next job of a sweep starts a W&B run of its own
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
