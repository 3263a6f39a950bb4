"""The LightningModule that a configuration describes: sizes from there, camera and grid placement from the object."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from dv.checkpoint import read_checkpoint
from dv.errors import UserError
from dv.lightning.deepvoxels_module import DeepVoxelsModule
from dv.lightning.object_module import BATCH_SCALINGS, SCHEDULES, LossSettings, ObjectModule, OptimizerSettings
from dv.lightning.radiance_module import RadianceModule
from dv.lightning.radiance_settings import RadianceSettings
from dv.model import ModelSizes
from dv.nets.discriminator import SMALLEST_SIDE
from dv.prepare.check import check_cameras
from dv.radiance import RadianceSizes
from dv.tasks.fields import filled
from dv.tasks.settings import resolved

if TYPE_CHECKING:
    from dv.data.object import ObjectSource

log = logging.getLogger("dv.tasks.train")


def build(config: DictConfig, source: ObjectSource, samples_per_step: int) -> ObjectModule:
    """The module of ``model.kind`` for an object. Raises :class:`UserError` naming the key that cannot be."""
    side, loss = source.views("train").images.shape[-1], config.loss
    border = loss.border
    inner = side - 2 * border
    least = SMALLEST_SIDE if loss.gan_weight else 1
    if border < 0 or inner < least:
        raise UserError(
            f"data.image_side={side} without loss.border={border} leaves {inner} px; "
            f"{f'the discriminator needs {least}: use loss=l1, ' if loss.gan_weight else ''}"
            "a larger data.image_side or a smaller loss.border"
        )
    for key, values in (("schedule", SCHEDULES), ("batch_scaling", BATCH_SCALINGS)):
        if config.optimizer[key] not in values:
            raise UserError(f"optimizer.{key}={config.optimizer[key]} must be one of {', '.join(values)}")
    calibration = source.calibration()
    for finding in check_cameras({split: source.views(split) for split in ("train", "validation")}, calibration):
        log.warning("%s (more: python prepare.py source=check …)", finding.message)
    validated = "validation" if source.folder("validation").is_dir() else "train"
    common: dict[str, Any] = {
        "loss": LossSettings(loss.l1_weight, loss.gan_weight, border, loss.get("l2_weight", 0.0)),
        "optimizer": OptimizerSettings(**config.optimizer),
        "intrinsics": calibration.intrinsics,
        "placement": calibration.placement,
        "validation_intrinsics": source.calibration(validated).intrinsics,
        "seed": config.seed,
        "config": resolved(config),
        "samples_per_step": samples_per_step,
    }
    make = {"deepvoxels": _deepvoxels, "radiance_grid": _radiance_grid}
    if config.model.kind not in make:
        raise UserError(f"model.kind={config.model.kind} must be one of {', '.join(make)}")
    torch.manual_seed(config.seed)
    module = make[config.model.kind](config, source, side, common)
    if config.init_from:
        start = read_checkpoint(Path(config.init_from))
        start.load_model(module.model)
        if isinstance(module, DeepVoxelsModule) and module.discriminator is not None:
            start.load_discriminator(module.discriminator)
    return module


def _deepvoxels(config: DictConfig, _: ObjectSource, side: int, common: dict[str, Any]) -> ObjectModule:
    sizes = ModelSizes(
        image_side=side,
        feature_side=config.grid.feature_side,
        grid_side=config.grid.side,
        grid_features=config.grid.features,
        base_channels=config.model.base_channels,
        occlusion_net=config.model.occlusion_net,
    )
    sizes.check()
    return DeepVoxelsModule(
        sizes,
        dropout={key: config.model[key] for key in ("integration_dropout", "renderer_dropout")},
        keep_bytes=int(config.trainer.operator_memory_gb * 2**30),
        compile=config.trainer.compile,
        **common,
    )


def _radiance_grid(config: DictConfig, source: ObjectSource, side: int, common: dict[str, Any]) -> ObjectModule:
    if config.loss.gan_weight:
        raise UserError("model=radiance_grid learns from single pixels, which no discriminator can judge; use loss=l2")
    if config.trainer.precision in ("16-true", "bf16-true"):
        mixed = config.trainer.precision.replace("true", "mixed")
        raise UserError(
            f"trainer.precision={config.trainer.precision}: rays through a radiance grid need more bits; use {mixed}"
        )
    sizes = filled(RadianceSizes, config.model, image_side=side, grid_side=config.grid.side)
    sizes.check()
    settings = filled(RadianceSettings, config.model)
    return RadianceModule(sizes, settings=settings, views=source.views("train"), **common)
