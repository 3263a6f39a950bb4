"""Schemas of the groups of keys that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Strict
from pydantic.dataclasses import dataclass

from dv.config.key_types import (
    AS_TEXT,
    BOOKKEEPING,
    EXECUTION,
    Bool,
    Color,
    Count,
    Gpus,
    NonNegativeInt,
    PixelCenter,
    Text,
)
from dv.validation import STRICT


@dataclass(config=STRICT)
class ObjectConfig:
    """Where the images of an object lie."""

    root: Annotated[Text | None, EXECUTION]
    name: Text | None
    pixel_center: PixelCenter | None
    how_to_get: Annotated[str | None, BOOKKEEPING] = None


@dataclass(config=STRICT)
class ReadConfig:
    """How evaluation and rendering read an object; null: as the checkpoint was trained."""

    background: Color | None
    skip: NonNegativeInt | None


@dataclass(config=STRICT)
class ViewerConfig:
    """Where the interactive page is served."""

    host: Text
    port: Annotated[int, Strict(), Ge(0), Le(65535)]


@dataclass(config=STRICT)
class ProcessesConfig:
    """Processes that share the work of a command."""

    gpus: Gpus
    processes: Annotated[Count, EXECUTION]
    nodes: Annotated[Count, EXECUTION]

    @property
    def processes_here(self) -> int:
        """Number of processes on this machine: one per GPU, on CPUs ``processes``. ``gpus`` must be a number."""
        assert self.gpus != "auto"
        return self.gpus or self.processes

    def rules(self) -> Iterator[str]:
        """Yield a fault if several processes per GPU are configured."""
        if self.gpus not in (0, "auto") and self.processes > 1:
            yield f"trainer.processes={self.processes} is for CPUs: with trainer.gpus={self.gpus} there is one per GPU"


RenderPrecision = Annotated[Literal["32-true", "32", "bf16-mixed", "16-mixed"], AS_TEXT]


@dataclass(config=STRICT)
class RenderTrainerConfig:
    """The device that renders, its precision and compilation."""

    gpus: Gpus
    precision: RenderPrecision
    compile: Bool
