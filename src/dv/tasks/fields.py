"""Dataclasses filled from configuration groups whose keys have the names of their fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

Kind = TypeVar("Kind")


def filled(kind: Callable[..., Kind], config: DictConfig, **given: Any) -> Kind:
    """The fields of the dataclass ``kind`` that ``config`` has, as plain data, and those given."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    known = {f.name for f in fields(cast(Any, kind))}
    return kind(**{str(key): value for key, value in plain.items() if key in known} | given)
