"""Schemas of the ``trajectory`` group."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import Discriminator, Strict
from pydantic.dataclasses import dataclass

from dv.config.key_types import Float, Positive, Text
from dv.validation import STRICT


@dataclass(config=STRICT)
class TestTrajectory:
    """The poses of the test split."""

    name: Literal["test"]
    fps: Positive


@dataclass(config=STRICT)
class PosesTrajectory:
    """The poses of a folder without images."""

    name: Literal["poses"]
    fps: Positive


@dataclass(config=STRICT)
class OrbitTrajectory:
    """One turn around the object."""

    name: Literal["orbit"]
    frames: Annotated[int, Strict(), Ge(2)]
    fps: Positive


@dataclass(config=STRICT)
class TurntableTrajectory:
    """One turn around the object at a given elevation."""

    name: Literal["turntable"]
    frames: Annotated[int, Strict(), Ge(2)]
    elevation: Annotated[Float, Gt(-90), Lt(90)]
    fps: Positive


@dataclass(config=STRICT)
class SpiralTrajectory:
    """An Archimedean spiral around the object."""

    name: Literal["spiral"]
    frames: Annotated[int, Strict(), Ge(2)]
    turns: Float
    fps: Positive


@dataclass(config=STRICT)
class InterpolateTrajectory:
    """A path through training poses."""

    name: Literal["interpolate"]
    frames: Annotated[int, Strict(), Ge(2)]
    key_poses: Annotated[int, Strict(), Ge(2)]
    fps: Positive


@dataclass(config=STRICT)
class FileTrajectory:
    """A path through the key frames of a file."""

    name: Literal["file"]
    path: Text | None
    fps: Positive


Trajectory = Annotated[
    TestTrajectory
    | PosesTrajectory
    | OrbitTrajectory
    | TurntableTrajectory
    | SpiralTrajectory
    | InterpolateTrajectory
    | FileTrajectory,
    Discriminator("name"),
]
