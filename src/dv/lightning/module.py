"""LightningModule of DeepVoxels: generator and discriminator trained by manual optimisation, on any number of ranks."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from dv.checkpoint import KEY, description
from dv.data.sampling import TrainingBatch, TrainingSample, View
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.lightning.merging import SharedState
from dv.losses import all_finite, cut_border, deepvoxels_losses
from dv.metrics import psnr, ssim, to_unit
from dv.model import DeepVoxels, ModelSizes, Rendering
from dv.nets.discriminator import Discriminator

SCHEDULES = ("constant", "cosine")
BATCH_SCALINGS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}  # power of the samples of a step


@dataclass(frozen=True)
class LossSettings:
    """The ``loss`` configuration; without ``gan_weight`` there is no discriminator."""

    l1_weight: float
    gan_weight: float
    border: int


@dataclass(frozen=True)
class OptimizerSettings:
    """The ``optimizer`` configuration: Adam for both networks, each with its own rate and one schedule."""

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
        return warm * (self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def to_model(image: Tensor) -> Tensor:
    """uint8 images as the network's [-0.5, 0.5], in the precision that the trainer has set as default."""
    return image.to(torch.get_default_dtype()) / 255 - 0.5


class DeepVoxelsModule(pl.LightningModule):
    """Training and evaluation of one object.

    One backward pass over the sum of both losses serves both networks, since neither loss reaches the other's
    weights; one Adam with a parameter group for each then steps both. So a batch is one optimiser step, and Lightning
    counts, saves and resumes in batches.
    """

    def __init__(
        self,
        sizes: ModelSizes,
        intrinsics: Intrinsics,
        placement: GridPlacement,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        *,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        dropout: dict[str, float] | None = None,
        validation_intrinsics: Intrinsics | None = None,
        keep_bytes: int = 0,
        compile: bool = False,
        samples_per_step: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = DeepVoxels(sizes, **(dropout or {}))
        self.discriminator = Discriminator() if loss.gan_weight else None
        self.loss = loss
        self.optimizer_settings = optimizer
        self.samples_per_step = samples_per_step
        self.seed = seed
        self.about = description(sizes, intrinsics, placement, config or {})
        self.projector = Projector(
            intrinsics, placement, sizes.feature_side, sizes.grid_side, rim=sizes.rim, keep_bytes=keep_bytes
        )
        self.validation_projector = Projector(
            validation_intrinsics or intrinsics, placement, sizes.feature_side, sizes.grid_side, rim=sizes.rim
        )
        self.last_gates: tuple[Tensor, Tensor] | None = None
        self._inpainted: Tensor | None = None
        if compile:
            self.model.compile_networks()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One Adam, a parameter group for the generator and one for the discriminator."""
        o = self.optimizer_settings
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "lr": o.learning_rate}]
        if self.discriminator is not None:
            groups.append({"params": list(self.discriminator.parameters()), "lr": o.discriminator_learning_rate})
        return torch.optim.Adam(groups, fused=True)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """One step: gradients of all samples, round by round, averaged over them and the ranks; one optimiser step.

        A round ends with one grid on all ranks (see :class:`SharedState`); the next begins from it.
        """
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        self._set_learning_rates(optimizer)
        optimizer.zero_grad()  # before the forward pass, which can use their memory
        samples = sum(len(turn) for turn in batch)
        alone = samples == self.trainer.world_size == 1
        state = SharedState(self.model, *filter(None, [self.discriminator]))
        results: list[dict[str, Tensor]] = []
        for turn in batch:
            if not alone:
                state.begin()
            for sample in turn:
                last = len(results) == samples - 1
                with nullcontext() if last else self._without_reduction():
                    grid, result = self._learn(sample, samples)
                results.append(result)
                if alone:
                    self.model.remember(grid)
                else:
                    state.add(grid)
            if not alone:
                state.end(self._mean_over_ranks)
        norm = self._gradient_norm(batch)
        optimizer.step()
        values = self._over_samples(results)
        values |= {
            "gradient_norm": norm,
            "learning_rate/generator": torch.tensor(optimizer.param_groups[0]["lr"]),
            "learning_rate/discriminator": torch.tensor(optimizer.param_groups[-1]["lr"]),
        }
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        return values["loss/generator"]

    def _learn(self, sample: TrainingSample, samples: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Take in the source view, render both targets, add the gradients of a step of ``samples``.

        Returns the updated grid and what to log.
        """
        # Dropout depends on seed and sample alone: a resumed run repeats an undisturbed one, N ranks one process.
        torch.manual_seed(self.seed * 1_000_000_007 + sample.number)
        truth = to_model(sample.target_images)
        rendering, integrated = self.model(
            to_model(sample.source_image),
            self.projector.lifting(sample.source_pose),
            self.projector.resampling(sample.target_poses),
        )
        image = rendering.image
        del rendering  # and with it the frustums, once the backward pass is through with them
        losses = deepvoxels_losses(
            image,
            truth,
            l1_weight=self.loss.l1_weight,
            gan_weight=self.loss.gan_weight,
            border=self.loss.border,
            discriminator=self.discriminator,
        )
        if not self.trainer.strategy.reduce_boolean_decision(all_finite(losses), all=True):
            raise UserError(f"a loss {self._not_finite([sample])}")
        loss = losses.generator if losses.discriminator is None else losses.generator + losses.discriminator
        self.manual_backward(loss / samples if samples > 1 else loss)
        self.last_gates = (integrated.update.detach(), integrated.reset.detach())

        values = {"loss/generator": losses.generator, "loss/l1": losses.l1}
        if losses.generator_gan is not None and losses.discriminator is not None:
            values |= {"loss/generator_gan": losses.generator_gan, "loss/discriminator": losses.discriminator}
        with torch.no_grad():
            output = cut_border(image.detach().float(), self.loss.border)
            target = cut_border(truth, self.loss.border)
            values |= {
                "psnr": psnr(to_unit(output), to_unit(target)).mean(),
                "range/output_min": output.min(),
                "range/output_max": output.max(),
                "range/target_min": target.min(),
                "range/target_max": target.max(),
            }
        return integrated.grid.detach(), {name: value.detach() for name, value in values.items()}

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

    def _gradient_norm(self, batch: TrainingBatch) -> Tensor:
        """Norm of the whole gradient; stops before one that is not finite gets into the weights.

        With fp16 the scaler skips such steps itself.
        """
        named = [(name, p.grad) for name, p in self.named_parameters() if p.grad is not None]
        norms = torch._foreach_norm([gradient for _, gradient in named])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler:
            return norm / scaler.get_scale()
        if not torch.isfinite(norm):
            bad = next(
                (name for (name, _), n in zip(named, norms, strict=True) if not torch.isfinite(n)), "the weights"
            )
            raise UserError(f"the gradient of {bad} {self._not_finite([s for turn in batch for s in turn])}")
        return norm

    def _not_finite(self, samples: list[TrainingSample]) -> str:
        views = "; ".join(f"source view {s.names[0]}, target views {', '.join(s.names[1:])}" for s in samples)
        return (
            f"is not a finite number at step {self.global_step} ({views}); the last good checkpoint is "
            f"{self._last_checkpoint()}; try a smaller optimizer.learning_rate or trainer.precision=32-true"
        )

    def on_validation_epoch_start(self) -> None:
        """Inpaint the grid once for all views."""
        with torch.no_grad():
            self._inpainted = self.model.inpaint()
        self._scores = torch.zeros(3, dtype=torch.float64, device=self.device)  # sums of PSNR and SSIM, views

    def validation_step(self, view: View, batch_idx: int) -> None:
        """PSNR and SSIM of one validation view, without the border that training does not see."""
        output = to_unit(self.render(view.pose).image)
        truth = to_unit(to_model(view.image[None]))
        output, truth = cut_border(output, self.loss.border), cut_border(truth, self.loss.border)
        scores = torch.stack(
            [psnr(output, truth).mean(), ssim(output, truth).mean(), torch.ones_like(output[0, 0, 0, 0])]
        )
        self._scores += view.counts * scores.double()

    def on_validation_epoch_end(self) -> None:
        """Log the means over the views of all ranks; forget the inpainted grid, since the next step changes it."""
        self._inpainted = None
        scores = self._scores
        if self.trainer.world_size > 1:
            scores = cast(Tensor, self.trainer.strategy.reduce(scores, reduce_op="sum"))
        self.log_dict({"val/psnr": scores[0] / scores[2], "val/ssim": scores[1] / scores[2]}, prog_bar=True)

    def render(self, pose: Tensor) -> Rendering:
        """Render one view ``[4, 4]`` from the saved grid, inpainting it unless a validation has done so already."""
        inpainted = self.model.inpaint() if self._inpainted is None else self._inpainted
        return self.model.render(inpainted, self.validation_projector.resampling([pose]))

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
        for timer in (c for c in self.trainer.callbacks if isinstance(c, Timer)):  # type: ignore[attr-defined]
            elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
            if remaining is not None:
                done = max(done, elapsed / max(1e-9, elapsed + remaining))
        return min(1.0, done)

    def _set_learning_rates(self, optimizer: torch.optim.Optimizer) -> None:
        progress = self.progress()
        by_clock = any(isinstance(c, Timer) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        if by_clock and self.trainer.world_size > 1:  # clocks differ, learning rates must not
            now = torch.tensor(progress, device=self.device, dtype=torch.float64)
            progress = float(cast(Tensor, self.trainer.strategy.reduce(now, reduce_op="max")))
        factor = self.optimizer_settings.factor(self.global_step, progress)
        o = self.optimizer_settings  # not what a checkpoint remembers
        for group, rate in zip(optimizer.param_groups, (o.learning_rate, o.discriminator_learning_rate), strict=False):
            group["lr"] = o.scaled(rate, self.samples_per_step) * factor

    def _last_checkpoint(self) -> str:
        written = (getattr(c, "written", None) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        return str(next(filter(None, written), "none: no checkpoint had been written"))
