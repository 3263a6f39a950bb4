"""The schema of ``train.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Discriminator, Strict, WrapValidator
from pydantic.dataclasses import dataclass

from dv.config.key_types import (
    AS_TEXT,
    BOOKKEEPING,
    EXECUTION,
    RESUMABLE,
    Bool,
    Color,
    Count,
    Degree,
    Duration,
    Float,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PowerOfTwo,
    Probability,
    Supersampling,
    Text,
)
from dv.config.loggers import LoggerConfig
from dv.config.shared import ObjectConfig, ProcessesConfig, ViewerConfig
from dv.validation import STRICT, Requirement


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

    def rules_with(self, _config: TrainConfig, /) -> Iterator[str]:
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
class TrainerConfig(ProcessesConfig):
    """Processes, precision, length and intervals of a training."""

    precision: Annotated[
        Literal["32-true", "32", "16-mixed", "16-true", "16", "bf16-mixed", "bf16-true", "bf16", "64-true", "64"],
        AS_TEXT,
    ]
    compile: Annotated[Bool, EXECUTION]
    max_epochs: Count | None
    max_steps: Count | None
    accumulate_grad_batches: Count
    max_time: Duration | None
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
