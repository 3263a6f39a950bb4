"""The schema of every configuration: type, range and role of each key. Defaults and explanations are in ``conf/``.

A command composes ``conf/<command>.yaml`` with the command line and parses it into the dataclass here
(:func:`dv.validation.parse`); code below ``tasks/`` gets these objects, never configuration keys.

This is one file of over 300 lines because it is the list of all keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator, Discriminator, Strict, WrapValidator
from pydantic.dataclasses import dataclass

from dv.validation import STRICT, Affects, Requirement, one_of


def _power_of_two(value: int) -> int:
    if value < 2 or value & (value - 1):
        raise ValueError
    return value


def _color(value: Any) -> Any:
    if isinstance(value, str) and value not in ("white", "grey", "gray", "black"):
        raise ValueError
    if isinstance(value, list) and (len(value) != 3 or not all(0 <= x <= 1 for x in value)):
        raise ValueError
    return value


def _color_or_transparent(value: Any) -> Any:
    return value if value == "transparent" else _color(value)


def _duration(value: str) -> str:
    if not re.fullmatch(r"\d+:\d+:\d+:\d+", value):
        raise ValueError
    return value


def _vector(value: list[float]) -> list[float]:
    if len(value) != 3:
        raise ValueError
    return value


def _direction(value: list[float]) -> list[float]:
    if len(value) != 3 or not any(value):
        raise ValueError
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError
    return value


def _text(value: Any) -> Any:
    """Convert numbers to text: Hydra parses a name such as 7 as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Ge(1)]
Supersampling = Annotated[int, Strict(), Ge(1), Le(8)]
NonNegativeInt = Annotated[int, Strict(), Ge(0)]
NonNegative = Annotated[float, Strict(), Ge(0)]
Positive = Annotated[float, Strict(), Gt(0)]
Fraction = Annotated[float, Strict(), Ge(0), Le(1)]
Probability = Annotated[float, Strict(), Ge(0), Lt(1)]
Degree = Annotated[int, Strict(), Ge(0), Le(4)]  # of spherical harmonics
PowerOfTwo = Annotated[int, Strict(), AfterValidator(_power_of_two), Requirement("a power of two")]
Text = Annotated[str, BeforeValidator(_text)]
Vector = Annotated[list[Float], AfterValidator(_vector), Requirement("three numbers, [x,y,z]")]
Color = Annotated[
    str | list[Float], AfterValidator(_color), Requirement("white, grey, black or three numbers from 0 to 1, [r,g,b]")
]
RenderedBackground = Annotated[
    str | list[Float],
    AfterValidator(_color_or_transparent),
    Requirement("transparent, white, grey, black or three numbers from 0 to 1, [r,g,b]"),
]
PixelCenter = Annotated[float, Strict(), *one_of(0, 0.5)]
Gpus = Annotated[NonNegativeInt | Literal["auto"], Affects("execution")]
EXECUTION, BOOKKEEPING, RESUMABLE = Affects("execution"), Affects("bookkeeping"), Affects("resumable")


# --- groups that several commands share -------------------------------------------------------------------------------


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


# --- train.py ---------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class DataConfig:
    """Selection, size and pose noise of the views, and how many samples a process takes at once."""

    image_side: PowerOfTwo | Literal["auto"] | None  # null means auto
    longest_side: Annotated[int, Strict(), Ge(8)] | None
    background: Color
    skip: NonNegativeInt
    training_views: Annotated[int, Strict(), Ge(2)] | None
    noise_angle: NonNegative
    noise_distance: NonNegative
    batch_size: Count
    workers: Annotated[NonNegativeInt, EXECUTION]


@dataclass(config=STRICT)
class OptimizerConfig:
    """Adam with one schedule for all learning rates."""

    learning_rate: NonNegative
    discriminator_learning_rate: NonNegative
    batch_scaling: Literal["none", "sqrt", "linear"]
    schedule: Literal["constant", "cosine", "exponential"]
    warmup_steps: NonNegativeInt
    final_fraction: NonNegative


@dataclass(config=STRICT)
class GridConfig:
    """Sizes of the voxel grid and of the feature maps."""

    side: Annotated[int, Strict(), Ge(4)]
    features: Count
    feature_side: Annotated[int, Strict(), Ge(2)]


@dataclass(config=STRICT)
class LossConfig:
    """Weights of the losses; DeepVoxels has a discriminator if ``gan_weight`` is not 0."""

    l1_weight: NonNegative
    gan_weight: NonNegative
    border: NonNegativeInt
    l2_weight: NonNegative = 0.0  # group files of users may lack it


@dataclass(config=STRICT)
class ModelConfig:
    """Base of the schemas of the ``model`` group, one per kind; that of a kind of your own derives from it too."""

    kind: str

    def rules_with(self, config: TrainConfig) -> Iterator[str]:  # noqa: ARG002  # for the schemas that have rules
        """Yield one sentence per fault between the keys of this model and those of other groups."""
        yield from ()


def _keep_parsed(value: Any, handler: Any) -> Any:
    """Accept a model of a kind of your own, which :func:`dv.validation.parse` has parsed already."""
    return value if isinstance(value, ModelConfig) else handler(value)


@dataclass(config=STRICT)
class DeepVoxelsConfig(ModelConfig):
    """The paper's model."""

    kind: Literal["deepvoxels"]
    occlusion_net: Bool
    base_channels: Annotated[int, Strict(), Ge(2)]
    integration_dropout: Probability
    renderer_dropout: Probability

    def rules_with(self, config: TrainConfig) -> Iterator[str]:
        """Require sides that are powers of two, which the U-Nets halve, and images no smaller than feature maps."""
        for key, side in (("grid.side", config.grid.side), ("grid.feature_side", config.grid.feature_side)):
            if side & (side - 1):
                yield f"{key}={side} must be a power of two with model.kind=deepvoxels"
        image_side = config.data.image_side
        if isinstance(image_side, int) and image_side < config.grid.feature_side:
            yield f"data.image_side={image_side} must not be smaller than grid.feature_side={config.grid.feature_side}"


@dataclass(config=STRICT)
class RadianceGridConfig(ModelConfig):
    """The sparse radiance grid. Keys ending in ``_at`` and ``_from`` are fractions of the training."""

    kind: Literal["radiance_grid"]
    view_degree: Degree
    decoder_features: NonNegativeInt
    decoder_width: Count
    decoder_degree: Degree
    reflection_degree: Degree
    rays: Count
    supersampling: Count
    linear_share: Fraction
    initial_density: Float
    point_density: Float | None
    refine_at: list[Annotated[float, Strict(), Gt(0), Lt(1)]]
    prune_at: list[Annotated[float, Strict(), Gt(0), Lt(1)]]
    fine_at: Fraction
    view_from: Fraction
    density_rate: NonNegative
    density_rise: Positive
    background_rate: NonNegative
    linear_share_rate: NonNegative
    decoder_rate: NonNegative
    exposure_rate: NonNegative | Literal["auto"]
    smoothing: NonNegative
    sparsity: NonNegative
    levels: Count | Literal["auto"] = "auto"
    density_falloff: NonNegative = 0.0
    environment: NonNegativeInt = 0
    environment_rate: NonNegative = 0.0
    environment_eps: Positive = 1e-15
    near: NonNegative | None = None
    transmittance_weight: NonNegative = 0.0
    vignetting_rate: NonNegative = 0.0
    camera_rate: NonNegative = 0.0
    cameras_until: Annotated[float, Strict(), Gt(0), Le(1)] = 0.5
    refine_focal_length: Bool = False
    view_supersampling: Supersampling | None = None
    error_sampling: Fraction = 0.0
    error_correction: Fraction = 1.0
    move_unseen: Bool = False
    feature_eps: Positive = 1e-15
    early_step_time: Positive = 1.0

    def rules_with(self, config: TrainConfig) -> Iterator[str]:
        """Check grid side, rays per sample, loss and precision, which rendering single rays restricts."""
        if self.vignetting_rate and not self.exposure_rate:
            yield "model.vignetting_rate needs exposures: give model.exposure_rate=0.1 too"
        if self.refine_focal_length and not self.camera_rate:
            yield "model.refine_focal_length=true needs model.camera_rate, for example 0.003"
        if config.grid.side < 8:
            yield f"grid.side={config.grid.side} must be at least 8 with model=radiance_grid"
        if self.rays < self.supersampling**2:
            yield (
                f"model.rays={self.rays} must be at least {self.supersampling**2}, the rays of one pixel with "
                f"model.supersampling={self.supersampling}"
            )
        if config.loss.gan_weight:
            yield "model=radiance_grid learns from single pixels, which no discriminator can judge; use loss=l2"
        if (precision := config.trainer.precision) in ("16-true", "bf16-true"):
            mixed = precision.replace("true", "mixed")
            yield f"trainer.precision={precision}: rays through a radiance grid need more bits; use {mixed}"


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


@dataclass(config=STRICT)
class TrainerConfig(ProcessesConfig):
    """Processes, precision, length and intervals of a training."""

    precision: Annotated[
        Literal["32-true", "32", "16-mixed", "16-true", "16", "bf16-mixed", "bf16-true", "bf16", "64-true", "64"],
        BeforeValidator(_text),
    ]
    compile: Annotated[Bool, EXECUTION]
    max_epochs: Count | None
    max_steps: Count | None
    accumulate_grad_batches: Count
    max_time: Annotated[str, AfterValidator(_duration), Requirement("a duration, DD:HH:MM:SS")] | None
    operator_memory_gb: Annotated[NonNegative, EXECUTION]
    save_every_steps: Annotated[Count, EXECUTION]
    validate_every_steps: Count
    validation_views: (
        Annotated[int, Strict(), Ge(1), Requirement("a number of views, at least 1,")]
        | Annotated[float, Strict(), Gt(0), Le(1), Requirement("a fraction of them, above 0 and at most 1.0")]
    )
    picture_every_steps: NonNegativeInt
    log_every_steps: Count
    progress_bar: Annotated[Bool, BOOKKEEPING]
    progress_every_steps: Annotated[NonNegativeInt, BOOKKEEPING]


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


@dataclass(config=STRICT)
class TrialConfig:
    """The Optuna trial that a run of a search reports to."""

    pruner: dict[str, Any]
    storage: str | None = None
    study: Text | None = None
    number: NonNegativeInt | None = None


@dataclass(config=STRICT)
class TrainConfig:
    """``conf/train.yaml``."""

    seed: NonNegativeInt
    trial: Annotated[TrialConfig | None, BOOKKEEPING]
    init_from: str | None
    resume: Annotated[str | None, BOOKKEEPING]
    evaluate: Annotated[Literal["test", "validation"] | None, BOOKKEEPING]
    output_dir: Annotated[Text, BOOKKEEPING]
    view: Annotated[Bool, BOOKKEEPING]
    viewer: Annotated[ViewerConfig, BOOKKEEPING]
    data: DataConfig
    optimizer: OptimizerConfig
    object: ObjectConfig
    grid: GridConfig
    loss: LossConfig
    model: Annotated[DeepVoxelsConfig | RadianceGridConfig, Discriminator("kind"), WrapValidator(_keep_parsed)]
    trainer: Annotated[TrainerConfig, RESUMABLE]
    logger: Annotated[LoggerConfig, BOOKKEEPING]

    def rules(self) -> Iterator[str]:
        """Yield one sentence per fault between fields."""
        t, o, d = self.trainer, self.optimizer, self.data
        if d.longest_side and isinstance(d.image_side, int):
            yield (
                f"data.image_side={d.image_side} crops images to squares and data.longest_side={d.longest_side} does "
                "not; give one of them"
            )
        if t.max_steps is None and t.max_epochs is None and t.max_time is None:
            yield "nothing ends the training; give trainer.max_steps, trainer.max_epochs or trainer.max_time"
        if o.schedule == "exponential" and not o.final_fraction:
            yield "optimizer.final_fraction=0 is never reached exponentially; give 0.01, or another schedule"
        yield from t.rules()
        yield from self.model.rules_with(self)


# --- evaluate.py and render.py ----------------------------------------------------------------------------------------


RenderPrecision = Annotated[Literal["32-true", "32", "bf16-mixed", "16-mixed"], BeforeValidator(_text)]


@dataclass(config=STRICT)
class RenderTrainerConfig:
    """The device that renders, its precision and compilation."""

    gpus: Gpus
    precision: RenderPrecision
    compile: Bool


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


# --- export.py --------------------------------------------------------------------------------------------------------


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


# --- view.py ----------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class ViewConfig:
    """``conf/view.yaml``."""

    ckpt: Text | None
    viewer: ViewerConfig
    object: ObjectConfig
    data: ReadConfig
    trainer: RenderTrainerConfig


# --- prepare.py -------------------------------------------------------------------------------------------------------


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
    sha256: Annotated[str, AfterValidator(_sha256), Requirement("64 hexadecimal digits")] | None
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
    up: Annotated[list[Float], AfterValidator(_direction), Requirement("three numbers, not all 0")] | None


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


# --- report.py --------------------------------------------------------------------------------------------------------


@dataclass(config=STRICT)
class ReportConfig:
    """``conf/report.yaml``."""

    runs: Text | list[Text]
    output_dir: Text | None
    group: str | list[str] | None
    over: str | list[str] | None
    sort: str | None


SCHEMAS: dict[str, Any] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "render": RenderConfig,
    "export": ExportConfig,
    "view": ViewConfig,
    "prepare": PrepareConfig,
    "report": ReportConfig,
}
