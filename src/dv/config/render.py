"""The schemas of the commands that read a checkpoint: ``evaluate.py``, ``render.py``, ``export.py``, ``view.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Strict
from pydantic.dataclasses import dataclass

from dv.config.key_types import Bool, Count, NonNegativeInt, Positive, RenderedBackground, Supersampling, Text
from dv.config.shared import (
    ObjectConfig,
    ProcessesConfig,
    ReadConfig,
    RenderPrecision,
    RenderTrainerConfig,
    ViewerConfig,
)
from dv.config.trajectories import Trajectory
from dv.validation import STRICT


@dataclass(config=STRICT)
class EvaluateTrainerConfig(ProcessesConfig):
    """Processes that share the views, their precision and compilation."""

    precision: RenderPrecision
    compile: Bool


@dataclass(config=STRICT)
class EvaluateConfig:
    """``conf/evaluate.yaml``."""

    ckpt: Text | None
    split: Literal["test", "validation", "train"]
    border: NonNegativeInt
    align_poses: Bool
    supersampling: Supersampling | None
    lpips: Bool | Literal["auto"]
    batch_size: Count
    output_dir: Text | None
    object: ObjectConfig
    data: ReadConfig
    trainer: EvaluateTrainerConfig

    def rules(self) -> Iterator[str]:
        """Yield one sentence per fault between fields."""
        yield from self.trainer.rules()


@dataclass(config=STRICT)
class RenderConfig:
    """``conf/render.yaml``."""

    ckpt: Text | None
    background: RenderedBackground | None
    exposure: Literal["mean", "predicted"]
    supersampling: Supersampling | None
    width: Annotated[int, Strict(), Ge(2), Le(8192)] | None
    height: Annotated[int, Strict(), Ge(2), Le(8192)] | None
    film: Literal["mp4", "gif", "webp"] | None
    beside: Text | list[Text] | None
    stereo: Literal["side_by_side", "anaglyph"] | None
    eye_distance: Positive | None
    output_dir: Text | None
    batch_size: Count
    object: ObjectConfig
    data: ReadConfig
    trainer: RenderTrainerConfig
    trajectory: Trajectory

    @property
    def items_beside(self) -> list[str]:
        """What is shown beside the frames of a film, from left to right."""
        return [self.beside] if isinstance(self.beside, str) else self.beside or []

    def rules(self) -> Iterator[str]:
        """Yield one sentence per fault between fields."""
        beside = self.items_beside
        if self.eye_distance and not self.stereo:
            yield "eye_distance= is for stereo=side_by_side or anaglyph; give one of them"
        if beside and self.stereo:
            yield f"stereo={self.stereo} shows two eyes and nothing beside them; leave out beside="
        if beside and not self.film:
            yield "beside= is shown in a film; give film=mp4, gif or webp"
        if "truth" in beside and self.trajectory.name != "test":
            yield f"beside=truth needs trajectory=test: trajectory={self.trajectory.name} has no photographs"
        if "truth" in beside and (self.width or self.height):
            yield "beside=truth shows photographs at their own size; leave out width= and height="
        if len([item for item in beside if item not in ("truth", "depth")]) > 1:
            yield "beside= takes one other checkpoint"
        if self.background is not None and self.exposure == "predicted":
            yield "exposure=predicted is that of photographs with their surroundings; leave out background="


@dataclass(config=STRICT)
class ExportConfig:
    """``conf/export.yaml``."""

    ckpt: Text | None
    format: Literal["html", "mesh", "points", "splats", "grid", "archive"] | None
    surroundings: Bool
    max_points: Count
    faces: Annotated[int, Strict(), Ge(4)] | None
    pieces: Count | None
    output_dir: Text | None
    object: ObjectConfig
    data: ReadConfig
    trainer: RenderTrainerConfig


@dataclass(config=STRICT)
class ViewConfig:
    """``conf/view.yaml``."""

    ckpt: Text | None
    viewer: ViewerConfig
    object: ObjectConfig
    data: ReadConfig
    trainer: RenderTrainerConfig
