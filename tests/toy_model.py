"""A model that is defined outside the package: one learned image for all poses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic.dataclasses import dataclass as schema
from torch import Tensor, nn

from dv.config.key_types import NonNegative
from dv.config.train import ModelConfig, TrainConfig
from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.images import to_model_range
from dv.lightning.object_module import ObjectModule
from dv.object_model import ObjectModel, RenderedView
from dv.validation import STRICT


@schema(config=STRICT)
class ToyConfig(ModelConfig):
    rate: NonNegative

    def rules_with(self, config: TrainConfig) -> Iterator[str]:
        if config.loss.gan_weight:
            yield "the toy model does not support loss.gan_weight"


@dataclass(frozen=True)
class ToySizes:
    image_side: int


class ToyModel(ObjectModel):
    sizes_class = ToySizes
    has_depth = False

    def __init__(self, sizes: ToySizes, placement: GridPlacement) -> None:
        super().__init__()
        self.sizes, self.placement = sizes, placement
        self.image = nn.Parameter(torch.zeros(3, sizes.image_side, sizes.image_side))

    def render_views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[RenderedView]:
        for _ in poses:
            yield RenderedView(self.image.detach().clamp(-0.5, 0.5))

    def max_depth(self, poses: Tensor) -> float:
        return self.placement.near + self.placement.scale

    def point_cloud(self, max_points: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 3), torch.full((1, 3), 0.5)


class ToyModule(ObjectModule):
    config_class = ToyConfig
    model_class = ToyModel
    needs_views = False
    model: ToyModel

    def __init__(
        self,
        config: TrainConfig,
        views: Views,
        calibration: Calibration,
        validation_intrinsics: Intrinsics,
        samples: int,
    ) -> None:
        model = ToyModel(ToySizes(views.images.shape[-1]), calibration.placement)
        super().__init__(config, model, calibration, validation_intrinsics, samples)
        self.images = to_model_range(views.images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=self.learning_rates()["image"])

    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        return {"image": self.config.model.rate}

    def samples_per_epoch(self, views: Views) -> int:
        return len(views)

    def training_step(self, batch: list[list[int]], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self._set_learning_rates(optimizer)
        optimizer.zero_grad()
        numbers = [number for samples_of_round in batch for number in samples_of_round]
        loss = torch.stack(
            [(self.model.image - self.images[n % len(self.images)]).square().sum() for n in numbers]
        ).mean()
        self.manual_backward(loss)
        optimizer.step()
        self.log_dict({"train/loss/generator": loss.detach()})

    def render_validation_view(self, pose: Tensor) -> RenderedView:
        return next(self.model.render_views(pose[None], self.validation_intrinsics, 1))
