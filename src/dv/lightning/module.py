"""LightningModule of DeepVoxels: generator and discriminator trained by manual optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from torch import Tensor

from dv.checkpoint import KEY, description
from dv.data.sampling import TrainingBatch, View
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.losses import all_finite, cut_border, deepvoxels_losses
from dv.metrics import psnr, ssim, to_unit
from dv.model import DeepVoxels, ModelSizes, Rendering
from dv.nets.discriminator import Discriminator

SCHEDULES = ("constant", "cosine")


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
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = DeepVoxels(sizes, **(dropout or {}))
        self.discriminator = Discriminator() if loss.gan_weight else None
        self.loss = loss
        self.optimizer_settings = optimizer
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
        for group in groups:
            group["initial_lr"] = group["lr"]
        return torch.optim.Adam(groups, fused=True)

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        """One step: take in the source view, render both targets, step both networks, remember the grid."""
        # Dropout depends on seed, step and rank alone: a resumed run repeats an undisturbed one.
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank)
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        self._set_learning_rates(optimizer)
        optimizer.zero_grad()  # before the forward pass, which can use their memory
        truth = to_model(batch.target_images)
        rendering, integrated = self.model(
            to_model(batch.source_image),
            self.projector.lifting(batch.source_pose),
            self.projector.resampling(batch.target_poses),
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
            raise UserError(
                f"a loss is not a finite number at step {self.global_step} (source view {batch.names[0]}, target "
                f"views {', '.join(batch.names[1:])}); the last good checkpoint is {self._last_checkpoint()}; try a "
                "smaller optimizer.learning_rate or trainer.precision=32-true"
            )
        self.manual_backward(
            losses.generator if losses.discriminator is None else losses.generator + losses.discriminator
        )
        optimizer.step()
        self._remember(integrated.grid)
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
                "learning_rate/generator": torch.tensor(optimizer.param_groups[0]["lr"]),
                "learning_rate/discriminator": torch.tensor(optimizer.param_groups[-1]["lr"]),
            }
        self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})
        return losses.generator.detach()

    def on_validation_epoch_start(self) -> None:
        """Inpaint the grid once for all views."""
        with torch.no_grad():
            self._inpainted = self.model.inpaint()

    def validation_step(self, view: View, batch_idx: int) -> None:
        """PSNR and SSIM of one validation view, without the border that training does not see."""
        output = to_unit(self.render(view.pose).image)
        truth = to_unit(to_model(view.image[None]))
        output, truth = cut_border(output, self.loss.border), cut_border(truth, self.loss.border)
        for name, value in (("psnr", psnr(output, truth)), ("ssim", ssim(output, truth))):
            self.log(f"val/{name}", value.mean(), on_epoch=True, batch_size=1, sync_dist=True, prog_bar=name == "psnr")

    def on_validation_epoch_end(self) -> None:
        """Forget the inpainted grid: the next step changes it."""
        self._inpainted = None

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
        factor = self.optimizer_settings.factor(self.global_step, self.progress())
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _remember(self, grid: Tensor) -> None:
        """Keep one grid: under DDP every rank goes on from the mean of what the ranks integrated."""
        grid = grid.detach()
        if self.trainer.world_size > 1:
            grid = cast(Tensor, self.trainer.strategy.reduce(grid.clone(), reduce_op="mean"))
        self.model.remember(grid)

    def _last_checkpoint(self) -> str:
        written = (getattr(c, "written", None) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        return str(next(filter(None, written), "none: no checkpoint had been written"))
