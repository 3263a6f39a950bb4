"""From configuration groups to the objects they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from dv.data.object import ObjectSource
from dv.errors import UserError


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


def device_of(gpus: int) -> torch.device:
    """The device on which one process computes."""
    return torch.device("cuda" if gpus else "cpu")


def image_side_of(value: int | str | None) -> int | None:
    """``data.image_side``: a number of px, or None for ``auto``."""
    if value in (None, "auto"):
        return None
    if not isinstance(value, int):
        raise UserError(f"data.image_side={value} must be a number of pixels or auto")
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
    )


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` aside and rename it."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(json.dumps(content, indent=1))
    aside.replace(path)
