"""From configuration groups to the objects they describe."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.number import is_number

log = logging.getLogger(__name__)
# least values of numbers that may be null
OPTIONAL = {"trainer.max_steps": 1, "trainer.max_epochs": 1, "data.training_views": 2}


def check_devices(gpus: int | str) -> int:
    """Number of GPUs to use: 0 is the CPU, N are N GPUs, ``auto`` all there are. Raises :class:`UserError`."""
    there = torch.cuda.device_count()
    if gpus == "auto":
        return there
    if not isinstance(gpus, int) or gpus < 0:
        raise UserError(f"trainer.gpus={gpus} must be a number or auto")
    if gpus > there:
        raise UserError(f"trainer.gpus={gpus}, but this machine has {there} GPUs; use trainer.gpus={there} or auto")
    return gpus


def processes_here(config: DictConfig) -> int:
    """Processes on this machine: one a GPU, on CPUs ``trainer.processes``. Raises :class:`UserError`."""
    gpus, processes = config.trainer.gpus, config.trainer.processes
    if not isinstance(processes, int) or processes < 1:
        raise UserError(f"trainer.processes={processes} must be a whole number of at least 1")
    if gpus and processes > 1:
        raise UserError(f"trainer.processes={processes} is for CPUs: with trainer.gpus={gpus} every GPU has a process")
    return int(gpus or processes)


def device_of(gpus: int) -> torch.device:
    """The device on which this process computes."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpus else torch.device("cpu")


def check_precision(precision: str, gpus: int) -> str:
    """The precision to compute in: on a CPU without 16-bit arithmetic, fp32 instead of a hundredfold wait."""
    if not gpus and precision == "bf16-mixed" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning("this CPU has no bf16 arithmetic; trainer.precision=bf16-mixed computes in fp32 here")
        return "32-true"
    return precision


def image_side_of(value: int | str | None) -> int | None:
    """``data.image_side``: a number of px, or None for ``auto``."""
    if value in (None, "auto"):
        return None
    if not isinstance(value, int) or value < 2 or value & (value - 1):
        raise UserError(f"data.image_side={value} must be a power of two, at least 2, or auto")
    return value


def object_source(config: DictConfig, image_side: int | None) -> ObjectSource:
    """The object of the ``object`` and ``data`` configuration. Raises :class:`UserError` if it is not said."""
    for key in ("root", "name"):
        if not config.object.get(key):
            raise UserError(f"object.{key} is not set; give object=… or object=custom object.root=DIR object.name=NAME")
    background = config.data.background
    return ObjectSource(
        root=Path(config.object.root),
        name=str(config.object.name),
        how_to_get=config.object.get("how_to_get") or "",
        image_side=image_side,
        background=list(background) if isinstance(background, ListConfig) else background,
        skip=config.data.skip,
        training_views=config.data.get("training_views"),
        noise_angle=config.data.get("noise_angle") or 0.0,
        noise_distance=config.data.get("noise_distance") or 0.0,
        noise_seed=config.get("seed", 0),
        pixel_center=config.object.get("pixel_center"),
    )


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` aside and rename it."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(_finite(content), indent=1, allow_nan=False))
    aside.replace(path)


def _finite(value: Any) -> Any:
    """``value`` with null for numbers that JSON does not know: SSIM of a picture smaller than its window, say."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_numbers(config: DictConfig) -> None:
    """Refuse numbers of the ``train`` configuration that cannot be. Raises :class:`UserError` naming the key."""
    whole = {
        "data.skip": 0,
        "data.workers": 0,
        "data.batch_size": 1,
        "seed": 0,
        "grid.side": 4,
        "grid.features": 1,
        "grid.feature_side": 2,
        "loss.border": 0,
        "optimizer.warmup_steps": 0,
        "trainer.nodes": 1,
        "trainer.processes": 1,
        "trainer.accumulate_grad_batches": 1,
        "trainer.save_every_steps": 1,
        "trainer.validate_every_steps": 1,
        "trainer.picture_every_steps": 0,
        "trainer.log_every_steps": 1,
    }
    if config.model.kind == "deepvoxels":
        whole["model.base_channels"] = 2
    whole |= {key: least for key, least in OPTIONAL.items() if OmegaConf.select(config, key) is not None}
    for key, least in whole.items():
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key}={value} must be a whole number of at least {least}")
    t = config.trainer
    if t.max_steps is None and t.max_epochs is None and t.max_time is None:
        raise UserError("nothing ends the training; give trainer.max_steps, trainer.max_epochs or trainer.max_time")
    views = t.validation_views
    if not isinstance(views, int | float) or views <= 0 or (isinstance(views, float) and views > 1):
        raise UserError(f"trainer.validation_views={views} must be a number of views or a fraction in (0, 1]")
    for key in (
        "loss.l1_weight",
        "loss.gan_weight",
        "loss.l2_weight",
        "optimizer.learning_rate",
        "optimizer.final_fraction",
        "trainer.operator_memory_gb",
        "data.noise_angle",
        "data.noise_distance",
    ):
        value = OmegaConf.select(config, key)
        if not is_number(value) or value < 0:
            raise UserError(f"{key}={value} must be a number that is not negative")
    if config.optimizer.schedule == "exponential" and not config.optimizer.final_fraction:
        raise UserError("optimizer.final_fraction=0 is never reached exponentially; give 0.01, or another schedule")
    for key in ("model.integration_dropout", "model.renderer_dropout") if config.model.kind == "deepvoxels" else ():
        if not 0 <= OmegaConf.select(config, key) < 1:
            raise UserError(f"{key}={OmegaConf.select(config, key)} must be in [0, 1)")
