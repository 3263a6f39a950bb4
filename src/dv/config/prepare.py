"""The schema of ``prepare.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Discriminator, Strict
from pydantic.dataclasses import dataclass

from dv.config.key_types import (
    Color,
    Count,
    Direction,
    Float,
    Gpus,
    NonNegative,
    NonNegativeInt,
    PixelCenter,
    Positive,
    Sha256,
    Text,
    Vector,
)
from dv.config.shared import ObjectConfig
from dv.validation import STRICT


@dataclass(config=STRICT)
class RenderSource:
    """Keys of everything that Mitsuba renders; sizes that are null come from ``preset``."""

    shape: Literal["vase", "cube", "pedestal", "chair", "still_life"] | None
    variant: Literal["diffuse", "specular"]
    preset: Literal["demo", "small", "paper"] | None
    image_side: Annotated[int, Strict(), Ge(8)] | None
    image_height: Annotated[int, Strict(), Ge(8)] | None
    exposure_jitter: NonNegative | None
    train_views: Count | None
    validation_views: Count | None
    test_views: Count | None
    samples_per_pixel: Count | None
    seed: NonNegativeInt
    workers: NonNegativeInt


@dataclass(config=STRICT)
class SyntheticSource(RenderSource):
    """Procedural objects."""

    name: Literal["synthetic"]


@dataclass(config=STRICT)
class MeshSource(RenderSource):
    """A mesh file rendered in the same way."""

    name: Literal["mesh"]
    path: Text | None
    up: Literal["y", "z"] | None


@dataclass(config=STRICT)
class ImportSource:
    """Keys that all imports share."""

    path: Text | None
    background: Color
    crop: Literal["auto", "full", "common", "square", "object"]
    image_side: Annotated[int, Strict(), Ge(2)] | None
    longest_side: Annotated[int, Strict(), Ge(2)] | None
    mask: Text | None


@dataclass(config=STRICT)
class CaptureSource(ImportSource):
    """Photographs or a video, whose cameras COLMAP finds."""

    name: Literal["capture"]
    frames: Annotated[int, Strict(), Ge(4)]
    largest_side: Annotated[int, Strict(), Ge(64)]
    matching: Literal["auto", "exhaustive", "sequential"]
    cameras: Literal["auto", "single", "several"]
    camera_model: str
    camera_params: list[Float] | None
    max_features: Annotated[int, Strict(), Ge(100)]
    seed: NonNegativeInt


@dataclass(config=STRICT)
class PosedSource(ImportSource):
    """Images with known cameras."""

    name: str
    triangulate: bool | Literal["auto"]


@dataclass(config=STRICT)
class LayoutSource(PosedSource):
    """Layouts of folders that hold images and cameras."""

    name: Literal["nsvf", "nerfpp", "polycam", "record3d"]


@dataclass(config=STRICT)
class NamedImagesSource(PosedSource):
    """Files of cameras that name images, which may be elsewhere."""

    name: Literal[
        "transforms", "colmap", "llff", "neus", "metashape", "realitycapture", "opensfm", "openmvg", "meshroom",
        "bundler",
    ]  # fmt: skip
    images: Text | None


@dataclass(config=STRICT)
class Co3dSource(PosedSource):
    """A sequence of CO3D."""

    name: Literal["co3d"]
    sequence: Text | None


@dataclass(config=STRICT)
class MiddleburySource(PosedSource):
    """Images with ``*_par.txt``."""

    name: Literal["middlebury"]
    par: Text | None
    input_pixel_center: PixelCenter


@dataclass(config=STRICT)
class FolderSource(PosedSource):
    """A copy of an object in the DeepVoxels layout."""

    name: Literal["folder"]
    object: Text | None


@dataclass(config=STRICT)
class OfficialSource:
    """The archive of the published scenes."""

    name: Literal["official"]
    path: Text | None
    url: str | None
    sha256: Sha256 | None
    max_gb: Positive
    pixel_center: PixelCenter


@dataclass(config=STRICT)
class CheckSource:
    """Check of an object, with a report."""

    name: Literal["check"]


@dataclass(config=STRICT)
class ExportSource:
    """Export of an object as ``transforms.json``."""

    name: Literal["export"]


@dataclass(config=STRICT)
class PlacementConfig:
    """The grid of an import; null: placed automatically."""

    origin: Vector | None
    scale: Positive | None
    near: Positive | None
    up: Direction | None


@dataclass(config=STRICT)
class ViewsConfig:
    """Training views to keep."""

    every: Count
    random: Annotated[int, Strict(), Ge(2)] | None
    farthest: Annotated[int, Strict(), Ge(2)] | None
    seed: NonNegativeInt


@dataclass(config=STRICT)
class NoiseConfig:
    """Noise that is added to the training views."""

    angle: NonNegative
    distance: NonNegative
    exposure: NonNegative


@dataclass(config=STRICT)
class PrepareDataConfig:
    """How check and export read an object."""

    background: Color
    skip: NonNegativeInt


@dataclass(config=STRICT)
class PrepareTrainerConfig:
    """Accepted as for every command; preparing computes on the CPU."""

    gpus: Gpus


@dataclass(config=STRICT)
class MeshConfig:
    """The mesh file of ``source=mesh``."""

    path: Text | None


@dataclass(config=STRICT)
class PrepareConfig:
    """``conf/prepare.yaml``."""

    output_dir: Text | None
    object: ObjectConfig
    grid: PlacementConfig
    views: ViewsConfig
    noise: NoiseConfig
    data: PrepareDataConfig
    trainer: PrepareTrainerConfig
    source: Annotated[
        SyntheticSource | MeshSource | CaptureSource | LayoutSource | NamedImagesSource | Co3dSource | MiddleburySource
        | FolderSource | OfficialSource | CheckSource | ExportSource,
        Discriminator("name"),
    ]  # fmt: skip
    mesh: MeshConfig | None = None

    def rules(self) -> Iterator[str]:
        """Yield one sentence per fault between fields."""
        if self.views.random and self.views.farthest:
            yield "give views.random or views.farthest, not both"
        source = self.source
        squares = isinstance(source, ImportSource) and source.crop in ("square", "object")
        if isinstance(source, ImportSource) and not squares and source.image_side:
            yield (
                f"source.image_side={source.image_side} is the side of squares: give source.crop=square or object too, "
                f"or source.longest_side={source.image_side} for whole images"
            )
        if isinstance(source, ImportSource) and squares and source.longest_side:
            yield f"source.longest_side={source.longest_side} is for whole images; give source.image_side"
        if self.grid.up and not isinstance(self.source, CaptureSource):
            yield f"grid.up is for source=capture, not for source={self.source.name}, whose world stays as it is"
