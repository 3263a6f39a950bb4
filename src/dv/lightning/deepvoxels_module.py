"""LightningModule of DeepVoxels: generator and discriminator trained by manual optimisation, on any number of ranks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from dv.checkpoint import description
from dv.data.folder import Views
from dv.data.sampling import TrainingBatch, TrainingSample
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.lightning.object_module import LossSettings, ObjectModule, OptimizerSettings, to_model
from dv.lightning.pictures import strongest_voxels
from dv.lightning.shared_state import SharedState
from dv.losses import all_finite, cut_border, deepvoxels_losses
from dv.metrics import psnr, to_unit
from dv.model import DeepVoxels, ModelSizes, Rendering
from dv.nets.discriminator import Discriminator


class DeepVoxelsModule(ObjectModule):
    """Training and evaluation of one object.

    One backward pass over the sum of both losses serves both networks, since neither loss reaches the other's
    weights; one Adam with a parameter group for each then steps both.
    """

    model: DeepVoxels

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
        about = description(sizes, intrinsics, placement, config or {})
        super().__init__(loss, optimizer, about, placement, seed=seed, samples_per_step=samples_per_step)
        self.model = DeepVoxels(sizes, **(dropout or {}))
        self.discriminator = Discriminator() if loss.gan_weight else None
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
        networks = {"generator": self.model, "discriminator": self.discriminator}
        groups: list[dict[str, Any]] = [
            {"params": list(cast(nn.Module, networks[name]).parameters()), "lr": rate}
            for name, rate in self.learning_rates().items()
        ]
        return torch.optim.Adam(groups, fused=True)

    def samples_of(self, views: Views) -> int:
        """Every view is the target of one sample."""
        return len(views)

    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        """Of generator and discriminator."""
        o = self.optimizer_settings
        rates = {"generator": o.learning_rate, "discriminator": o.discriminator_learning_rate}
        return rates if self.discriminator is not None else {"generator": o.learning_rate}

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> None:
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
        norm = self._gradient_norm(lambda: self._views_of([sample for turn in batch for sample in turn]))
        optimizer.step()
        if self.logs(self.global_step):
            self._log(results, norm, optimizer)

    def _log(self, results: list[dict[str, Tensor]], norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        values = self._over_samples(results)
        values |= {
            "gradient_norm": norm,
            "learning_rate/generator": torch.tensor(optimizer.param_groups[0]["lr"]),
            "learning_rate/discriminator": torch.tensor(optimizer.param_groups[-1]["lr"]),
        }
        self.log_dict({f"train/{name}": value for name, value in values.items()})

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
            l2_weight=self.loss.l2_weight,
            gan_weight=self.loss.gan_weight,
            border=self.loss.border,
            discriminator=self.discriminator,
        )
        if not self.trainer.strategy.reduce_boolean_decision(all_finite(losses), all=True):
            raise UserError(f"a loss {self._not_finite(self._views_of([sample]))}")
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

    @staticmethod
    def _views_of(samples: list[TrainingSample]) -> str:
        return "; ".join(f"source view {s.names[0]}, target views {', '.join(s.names[1:])}" for s in samples)

    def on_validation_epoch_start(self) -> None:
        """Inpaint the grid once for all views."""
        super().on_validation_epoch_start()
        with torch.no_grad():
            self._inpainted = self.model.inpaint()

    def on_validation_epoch_end(self) -> None:
        """Forget the inpainted grid, since the next step changes it."""
        super().on_validation_epoch_end()
        self._inpainted = None

    def render(self, pose: Tensor) -> Rendering:
        """Render one view ``[4, 4]`` from the saved grid, inpainting it unless a validation has done so already."""
        inpainted = self.model.inpaint() if self._inpainted is None else self._inpainted
        return self.model.render(inpainted, self.validation_projector.resampling([pose]))

    def picture(self, pose: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image and depth map of a validation view."""
        rendering = self.render(pose)
        return rendering.image, rendering.depth_map

    def point_cloud(self) -> tuple[Tensor, Tensor]:
        """The voxels of the largest features."""
        return strongest_voxels(self.model.grid, self.projector.placement)
