"""What the training of any model of one object has in common: validation, learning rates, averages over ranks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from dv.checkpoint import KEY
from dv.data.folder import Views
from dv.data.sampling import View
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.losses import cut_border
from dv.metrics import psnr, ssim, to_unit
from dv.model import DeepVoxels
from dv.radiance import RadianceGrid

SCHEDULES = ("constant", "cosine", "exponential")
BATCH_SCALINGS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # power of the samples of a step


@dataclass(frozen=True)
class LossSettings:
    """The ``loss`` configuration; without ``gan_weight`` there is no discriminator."""

    l1_weight: float
    gan_weight: float
    border: int
    l2_weight: float = 0.0


@dataclass(frozen=True)
class OptimizerSettings:
    """The ``optimizer`` configuration: Adam with one schedule for all rates."""

    learning_rate: float
    discriminator_learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.02
    batch_scaling: str = "none"

    def scaled(self, rate: float, samples: int) -> float:
        """A learning rate for steps that average the gradients of ``samples``."""
        return rate * float(samples ** BATCH_SCALINGS[self.batch_scaling])

    def factor(self, step: int, progress: float) -> float:
        """What the learning rates are multiplied by at ``step``, ``progress`` in [0, 1] of the training being over."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "constant":
            return warm
        if self.schedule == "exponential":
            return warm * float(self.final_fraction**progress)
        return warm * (self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def to_model(image: Tensor) -> Tensor:
    """uint8 images as the network's [-0.5, 0.5], in the precision that the trainer has set as default."""
    return image.to(torch.get_default_dtype()) / 255 - 0.5


class ObjectModule(pl.LightningModule):
    """Manual optimisation of a ``model`` of one object. A batch is one optimiser step, so Lightning counts in batches.

    Gradients are averaged over the samples of a step, wherever they are computed.
    """

    model: DeepVoxels | RadianceGrid
    # by name of the parameter group, what no step's learning rate is above
    largest_rates: ClassVar[Mapping[str, float]] = {}

    def __init__(
        self,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        about: dict[str, Any],
        placement: GridPlacement,
        *,
        seed: int = 0,
        samples_per_step: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.loss = loss
        self.optimizer_settings = optimizer
        self.about = about
        self.placement = placement
        self.seed = seed
        self.samples_per_step = samples_per_step

    @abstractmethod
    def picture(self, pose: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image ``[1, 3, S, S]`` in [-0.5, 0.5] and depth ``[1, 1, P, P]``, of whatever unit, of a validation view."""

    @abstractmethod
    def point_cloud(self) -> tuple[Tensor, Tensor]:
        """World positions and colours in [0, 1], ``[N, 3]`` each, of what the model holds."""

    @abstractmethod
    def samples_of(self, views: Views) -> int:
        """Samples in one pass over the training views."""

    @abstractmethod
    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        """Learning rate of each parameter group of the optimiser, by name, before the schedule that all have."""

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._scores = torch.zeros(3, dtype=torch.float64, device=self.device)  # sums of PSNR and SSIM, views

    def validation_step(self, view: View, batch_idx: int) -> None:
        """PSNR and SSIM of one validation view, without the border that training does not see."""
        output = to_unit(self.picture(view.pose)[0])
        truth = to_unit(to_model(view.image[None]))
        output, truth = cut_border(output, self.loss.border), cut_border(truth, self.loss.border)
        scores = torch.stack(
            [psnr(output, truth).mean(), ssim(output, truth).mean(), torch.ones_like(output[0, 0, 0, 0])]
        )
        self._scores += view.counts * scores.double()

    def on_validation_epoch_end(self) -> None:
        """Log the means over the views of all ranks."""
        scores = self._scores
        if self.trainer.world_size > 1:
            scores = cast(Tensor, self.trainer.strategy.reduce(scores, reduce_op="sum"))
        self.log_dict({"val/psnr": scores[0] / scores[2], "val/ssim": scores[1] / scores[2]}, prog_bar=True)

    def logs(self, steps: int) -> bool:
        """Whether what the last of ``steps`` steps gives is written down. Logging what is not takes as long."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        return bool(every) and steps % every == 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add sizes, camera, grid placement and configuration; refuse to save weights that are not finite."""
        bad = [
            name
            for name, value in checkpoint["state_dict"].items()
            if value.is_floating_point() and not torch.isfinite(value).all()
        ]
        if bad:
            raise UserError(
                f"{bad[0]} is not finite at step {self.global_step} ({len(bad)} such tensors); the last good "
                f"checkpoint is {self._last_checkpoint()}; try a smaller optimizer.learning_rate"
            )
        checkpoint[KEY] = self.about

    def progress(self) -> float:
        """Part of the training that is over, in [0, 1]: by steps or, where ``max_time`` is nearer, by the clock."""
        done = self.global_step / max(1, self.trainer.max_steps)
        if timer := self._timer:
            elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
            if remaining is not None:
                done = max(done, elapsed / max(1e-9, elapsed + remaining))
        return min(1.0, done)

    @property
    def _timer(self) -> Timer | None:
        """What ends the training by the clock."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        return next((c for c in callbacks if isinstance(c, Timer)), None)

    def _set_learning_rates(self, optimizer: torch.optim.Optimizer) -> float:
        """Set the rates of this step; returns the progress that they follow, the same on all ranks."""
        progress = self.progress()
        if self._timer and self.trainer.world_size > 1:  # clocks differ, learning rates must not
            now = torch.tensor(progress, device=self.device, dtype=torch.float64)
            progress = float(cast(Tensor, self.trainer.strategy.reduce(now, reduce_op="max")))
        factor = self.optimizer_settings.factor(self.global_step, progress)
        # not what a checkpoint remembers
        for group, (name, rate) in zip(optimizer.param_groups, self.learning_rates(progress).items(), strict=True):
            scheduled = self.optimizer_settings.scaled(rate, self.samples_per_step) * factor
            group["lr"] = min(scheduled, self.largest_rates.get(name, math.inf))
        return progress

    def _over_samples(self, results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Means of what the samples of all ranks gave, and of ``…_min`` and ``…_max`` the extremes."""
        names = list(results[0])
        table = torch.stack(
            [torch.stack([result[name].to(torch.get_default_dtype()) for name in names]) for result in results]
        )
        sign = torch.tensor([-1.0 if name.endswith("_min") else 1.0 for name in names], device=table.device)
        means, extremes = self._mean_over_ranks(table.mean(0)), (table * sign).amax(0)
        if self.trainer.world_size > 1:
            extremes = cast(Tensor, self.trainer.strategy.reduce(extremes, reduce_op="max"))
        is_range = [name.startswith("range/") for name in names]
        mixed = torch.where(torch.tensor(is_range, device=table.device), extremes * sign, means)
        return dict(zip(names, mixed, strict=True))

    def _mean_over_ranks(self, tensor: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor
        return cast(Tensor, self.trainer.strategy.reduce(tensor, reduce_op="mean"))

    def _without_reduction(self) -> AbstractContextManager[None]:
        """Gradients of all samples but the last are summed here; the ranks' sums are averaged with the last."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _gradient_norm(self, views: Callable[[], str]) -> Tensor:
        """Norm of the whole gradient; stops before one that is not finite gets into the weights, naming the ``views``.

        With fp16 the scaler skips such steps itself.
        """
        named = [(name, p.grad) for name, p in self.named_parameters() if p.grad is not None]
        norms = torch._foreach_norm([gradient for _, gradient in named])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if (scale := self._loss_scale()) is not None:
            return norm / scale
        if not torch.isfinite(norm):
            bad = next(
                (name for (name, _), n in zip(named, norms, strict=True) if not torch.isfinite(n)), "the weights"
            )
            raise UserError(f"the gradient of {bad} {self._not_finite(views())}")
        return norm

    def _loss_scale(self) -> float | None:
        """What gradients are multiplied by until the optimiser's step, with fp16."""
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler.get_scale() if scaler else None

    def _not_finite(self, views: str) -> str:
        return (
            f"is not a finite number at step {self.global_step} ({views}); the last good checkpoint is "
            f"{self._last_checkpoint()}; try a smaller optimizer.learning_rate or trainer.precision=32-true"
        )

    def _last_checkpoint(self) -> str:
        written = (getattr(c, "written", None) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        return str(next(filter(None, written), "none: no checkpoint had been written"))
