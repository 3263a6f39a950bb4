"""The part of the training that all models share: validation, learning rates, averages over ranks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor
from torchmetrics import MeanMetric

from dv.checkpoint import KEY, description
from dv.config.train import ModelConfig, TrainConfig
from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.data.sampling import View
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.images import to_model_range
from dv.lightning.schedule import scaled_learning_rate, schedule_factor
from dv.losses import cut_border
from dv.metrics import psnr, ssim, to_unit
from dv.object_model import ObjectModel, RenderedView


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return the callbacks of a trainer."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it undeclared
    return callbacks


class ObjectModule(pl.LightningModule):
    """Manual optimisation of an :class:`~dv.object_model.ObjectModel`. A batch holds the samples of one optimiser step.

    Gradients are averaged over the samples of a step, whichever rank computes them. A subclass is constructed as
    ``Module(config, views, calibration, validation_intrinsics, samples_per_step)``, makes its ``model`` and passes the
    other arguments on.

    Args:
        config: configuration of the training.
        model: the model to train.
        calibration: intrinsics and grid placement of the training views.
        validation_intrinsics: intrinsics of the validation views; of the first one if they differ.
        samples_per_step: number of samples per optimiser step, on all ranks.
    """

    config_class: ClassVar[type[ModelConfig]]  # the schema of the `model` group
    model_class: ClassVar[type[ObjectModel]]
    needs_views: ClassVar[bool] = True  # whether batches hold views; otherwise they hold sample numbers
    square_images: ClassVar[bool] = True  # whether images are squares of one camera, as the paper's network needs
    fixed_keys: ClassVar[tuple[str, ...]] = ("object.name", "seed")  # must be the same when a run is resumed
    max_learning_rates: ClassVar[Mapping[str, float]] = {}  # by parameter group, after scaling
    model: ObjectModel

    def __init__(
        self,
        config: TrainConfig,
        model: ObjectModel,
        calibration: Calibration,
        validation_intrinsics: Intrinsics,
        samples_per_step: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.model = model
        self.loss = config.loss
        self.seed = config.seed
        self.validation_intrinsics = validation_intrinsics
        self.samples_per_step = samples_per_step
        self.about = description(
            config.model.kind, model.sizes, calibration.intrinsics, calibration.placement, asdict(config)
        )
        # "disable": no warning about NaN, which is the SSIM of images smaller than its window
        self.val_psnr, self.val_ssim = (MeanMetric("disable").set_dtype(torch.float64) for _ in range(2))

    @abstractmethod
    def render_validation_view(self, pose: Tensor) -> RenderedView:
        """Render a view of pose ``[4, 4]`` and ``validation_intrinsics``; the unit of its depth is free."""

    def render_view(self, pose: Tensor, intrinsics: Intrinsics) -> RenderedView:
        """Render a validation view, each of which may have its own camera."""
        self.validation_intrinsics = intrinsics
        return self.render_validation_view(pose)

    @abstractmethod
    def samples_per_epoch(self, views: Views) -> int:
        """Number of samples in one pass over the training views."""

    @abstractmethod
    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        """Learning rates by parameter group, in the optimiser's order, before batch scaling and the common schedule."""

    def validation_step(self, view: View, batch_idx: int) -> None:
        """Score one validation view by PSNR and SSIM, without the border that the loss leaves out."""
        output = to_unit(self.render_view(view.pose, view.camera).image[None])
        truth = to_unit(to_model_range(view.image[None]))
        output, truth = cut_border(output, self.loss.border), cut_border(truth, self.loss.border)
        if view.counts:  # not as a weight of 0: without its check for NaN, MeanMetric ignores weights
            self.val_psnr.update(psnr(output, truth).mean())
            self.val_ssim.update(ssim(output, truth).mean())

    def on_validation_epoch_end(self) -> None:
        """Log the means over the views of all ranks."""
        metrics = {"val/psnr": self.val_psnr, "val/ssim": self.val_ssim}
        self.log_dict({name: metric.compute() for name, metric in metrics.items()}, prog_bar=True)
        for metric in metrics.values():
            metric.reset()

    def is_logged(self, steps: int) -> bool:
        """Return whether to log after ``steps`` steps; ``self.log`` takes time even if Lightning drops its values."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        return bool(every) and steps % every == 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add sizes, camera, grid placement and configuration.

        Raises:
            UserError: for weights that are not finite.
        """
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
        """Return the fraction of the training that is over, in [0, 1]: by steps or, if that is more, by the clock."""
        return max(self.fractions())

    def fractions(self) -> tuple[float, float]:
        """Return which fractions of ``max_steps`` and of ``max_time`` are over, in [0, 1]; without a limit 0."""
        of_time = 0.0
        if timer := self._timer:
            elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
            if remaining is not None:
                of_time = elapsed / max(1e-9, elapsed + remaining)
        return min(1.0, self.global_step / max(1, self.trainer.max_steps)), min(1.0, of_time)

    @property
    def _timer(self) -> Timer | None:
        """The callback that ends the training by the clock."""
        return next((c for c in callbacks_of(self.trainer) if isinstance(c, Timer)), None)

    def _set_learning_rates(self, optimizer: torch.optim.Optimizer) -> float:
        """Set the learning rates of this step and return the progress that they follow, equal on all ranks."""
        progress = self.progress()
        if self._timer and self.trainer.world_size > 1:  # clocks differ, learning rates must not
            now = torch.tensor(progress, device=self.device, dtype=torch.float64)
            progress = float(cast(Tensor, self.trainer.strategy.reduce(now, reduce_op="max")))
        factor = schedule_factor(self.config.optimizer, self.global_step, progress)
        # not from the optimiser's state: a checkpoint may hold the rates of another configuration
        for group, (name, rate) in zip(optimizer.param_groups, self.learning_rates(progress).items(), strict=True):
            scheduled = scaled_learning_rate(self.config.optimizer, rate, self.samples_per_step) * factor
            group["lr"] = min(scheduled, self.max_learning_rates.get(name, math.inf))
        return progress

    def _reduce_results(self, results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Average results over the samples of all ranks; take the extremes of ``range/…_min`` and ``range/…_max``."""
        names = list(results[0])
        table = torch.stack(
            [torch.stack([result[name].to(torch.get_default_dtype()) for name in names]) for result in results]
        )
        sign = torch.tensor([-1.0 if name.endswith("_min") else 1.0 for name in names], device=table.device)
        means, extremes = self._mean_over_ranks(table.mean(0)), (table * sign).amax(0)
        if self.trainer.world_size > 1:
            extremes = cast(Tensor, self.trainer.strategy.reduce(extremes, reduce_op="max"))
        is_range = [name.startswith("range/") for name in names]
        reduced = torch.where(torch.tensor(is_range, device=table.device), extremes * sign, means)
        return dict(zip(names, reduced, strict=True))

    def _mean_over_ranks(self, tensor: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor
        return cast(Tensor, self.trainer.strategy.reduce(tensor, reduce_op="mean"))

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the gradients of an optimiser's parameters over the ranks, for modules that DDP does not reduce."""
        if self.trainer.world_size == 1:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        merged = self._mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(merged, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _of_all_ranks(self, tensor: Tensor) -> Tensor:
        """Join tensors of equal shapes along their first axis, rank after rank."""
        return cast(Tensor, self.all_gather(tensor)).flatten(0, 1)

    def _without_reduction(self) -> AbstractContextManager[None]:
        """Return a context in which backward passes do not average gradients over the ranks."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _gradient_norm(self, describe_views: Callable[[], str]) -> Tensor:
        """Return the norm of the whole gradient.

        Raises:
            UserError: if it is not finite, before it gets into the weights. With fp16 the scaler skips such steps.
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
            raise UserError(f"the gradient of {bad} {self._not_finite(describe_views())}")
        return norm

    def _loss_scale(self) -> float | None:
        """Return the factor by which fp16 training scales its gradients; None in other precisions."""
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler.get_scale() if scaler else None

    def _not_finite(self, views: str) -> str:
        return (
            f"is not a finite number at step {self.global_step} ({views}); the last good checkpoint is "
            f"{self._last_checkpoint()}; try a smaller optimizer.learning_rate or trainer.precision=32-true"
        )

    def _last_checkpoint(self) -> str:
        written = (getattr(c, "written", None) for c in callbacks_of(self.trainer))
        return str(next(filter(None, written), "none: no checkpoint had been written"))
