"""Schemas of the ``logger`` group."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Discriminator, Strict
from pydantic.dataclasses import dataclass

from dv.config.key_types import Bool, NonNegativeInt, Text
from dv.validation import STRICT


@dataclass(config=STRICT)
class CsvConfig:
    """``metrics.csv`` only."""

    name: Literal["csv"]


@dataclass(config=STRICT)
class TensorBoardConfig:
    """TensorBoard beside ``metrics.csv``."""

    name: Literal["tensorboard"]


@dataclass(config=STRICT)
class WandbConfig:
    """W&B beside ``metrics.csv``."""

    name: Literal["wandb"]
    mode: Literal["online", "offline", "disabled"] | None
    project: Text | None
    entity: Text | None
    run_name: Text | None
    not_in_run_name: list[str]
    group: Text | None
    job_type: Text | None
    tags: str | list[str] | None
    notes: str | None
    table_views: NonNegativeInt | None
    trajectory: Literal["spiral", "orbit"] | None
    frames: Annotated[int, Strict(), Ge(2)]
    artifact: Bool


LoggerConfig = Annotated[CsvConfig | TensorBoardConfig | WandbConfig, Discriminator("name")]
