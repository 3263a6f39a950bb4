"""LightningModule of DeepVoxels: generator and discriminator trained by manual optimisation, on any number of ranks."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import chain
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dv.config.train import DeepVoxelsConfig, TrainConfig
from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.data.sampling import TrainingBatch, TrainingSample
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.projector import Projector
from dv.images import to_model_range
from dv.lightning.callbacks import GridScalars
from dv.lightning.object_module import ObjectModule
from dv.lightning.shared_state import SharedState
from dv.losses import all_finite, cut_border, deepvoxels_losses
from dv.metrics import psnr, to_unit
from dv.model import DeepVoxels, ModelSizes, Rendering
from dv.nets.discriminator import Discriminator
from dv.object_model import RenderedView


class DeepVoxelsModule(ObjectModule):
    """Training and validation of DeepVoxels.

    One backward pass over the sum of both losses serves generator and discriminator, since neither loss reaches the
    other's weights; one Adam with a parameter group for each then steps both.
    """

    config_class = DeepVoxelsConfig
    model_class: ClassVar = DeepVoxels
    model: DeepVoxels

    def __init__(
        self,
        config: TrainConfig,
        views: Views,
        calibration: Calibration,
        validation_intrinsics: Intrinsics,
        samples_per_step: int = 1,
    ) -> None:
        assert isinstance(config.model, DeepVoxelsConfig)
        sizes = ModelSizes(
            image_side=views.cameras[0].width,
            feature_side=config.grid.feature_side,
            grid_side=config.grid.side,
            grid_features=config.grid.features,
            base_channels=config.model.base_channels,
            occlusion_net=config.model.occlusion_net,
        )
        model = DeepVoxels(
            sizes,
            calibration.placement,
            integration_dropout=config.model.integration_dropout,
            renderer_dropout=config.model.renderer_dropout,
        )
        super().__init__(config, model, calibration, validation_intrinsics, samples_per_step)
        self.discriminator = Discriminator() if self.loss.gan_weight else None
        grid = calibration.placement, sizes.feature_side, sizes.grid_side
        cache_bytes = int(config.trainer.operator_memory_gb * 2**30)
        self.projector = Projector(calibration.intrinsics, *grid, rim=sizes.rim, cache_bytes=cache_bytes)
        self.validation_projector = Projector(validation_intrinsics, *grid, rim=sizes.rim)
        self.last_gates: tuple[Tensor, Tensor] | None = None
        self._inpainted: Tensor | None = None
        if config.trainer.compile:
            self.model.compile_networks()

    def configure_callbacks(self) -> list[pl.Callback]:
        """Log statistics of the voxel grid."""
        return [GridScalars()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One Adam with a parameter group for the generator and, if there is one, for the discriminator."""
        networks = {"generator": self.model, "discriminator": self.discriminator}
        groups: list[dict[str, Any]] = [
            {"params": list(cast(nn.Module, networks[name]).parameters()), "lr": rate}
            for name, rate in self.learning_rates().items()
        ]
        return torch.optim.Adam(groups, fused=True)

    def samples_per_epoch(self, views: Views) -> int:
        """Every view is the target of one sample."""
        return len(views)

    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        """Learning rates of the generator and, if there is one, of the discriminator."""
        rates = {"generator": self.config.optimizer.learning_rate}
        if self.discriminator is not None:
            rates["discriminator"] = self.config.optimizer.discriminator_learning_rate
        return rates

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Make one optimiser step with the gradients of all samples, averaged over samples and ranks.

        Each round ends with the same grid on all ranks (see :class:`SharedState`), from which the next one starts.
        """
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        self._set_learning_rates(optimizer)
        optimizer.zero_grad()  # before the forward pass, which can reuse the memory of the gradients
        samples = sum(len(samples_of_round) for samples_of_round in batch)
        alone = samples == self.trainer.world_size == 1
        state = SharedState(self.model, *filter(None, [self.discriminator]))
        results: list[dict[str, Tensor]] = []
        for samples_of_round in batch:
            if not alone:
                state.begin()
            for sample in samples_of_round:
                last = len(results) == samples - 1
                with nullcontext() if last else self._without_reduction():
                    grid, result = self._add_gradients(sample, samples)
                results.append(result)
                if alone:
                    self.model.remember(grid)
                else:
                    state.add(grid)
            if not alone:
                state.end(self._mean_over_ranks)
        norm = self._gradient_norm(lambda: self._describe_views(list(chain.from_iterable(batch))))
        optimizer.step()
        if self.is_logged(self.global_step):
            self._log_step(results, norm, optimizer)

    def _log_step(self, results: list[dict[str, Tensor]], norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        values = self._reduce_results(results)
        values |= {
            "gradient_norm": norm,
            "learning_rate/generator": torch.tensor(optimizer.param_groups[0]["lr"]),
            "learning_rate/discriminator": torch.tensor(optimizer.param_groups[-1]["lr"]),
        }
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def _add_gradients(self, sample: TrainingSample, samples: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Integrate the source view, render both target views and add their share of the step's gradients.

        Args:
            sample: source and target views.
            samples: number of samples per step.

        Returns:
            The updated grid, and metrics by name.
        """
        # dropout depends on seed and sample only: a resumed run equals an uninterrupted one, and N ranks one process
        torch.manual_seed(self.seed * 1_000_000_007 + sample.number)
        truth = to_model_range(sample.target_images)
        rendering, integrated = self.model(
            to_model_range(sample.source_image),
            self.projector.lifting(sample.source_pose),
            self.projector.resampling(sample.target_poses),
        )
        image = rendering.image
        del rendering  # depth map and visibility would keep the frustums alive in the backward pass
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
            raise UserError(f"a loss {self._not_finite(self._describe_views([sample]))}")
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
    def _describe_views(samples: list[TrainingSample]) -> str:
        return "; ".join(f"source view {s.names[0]}, target views {', '.join(s.names[1:])}" for s in samples)

    def on_validation_epoch_start(self) -> None:
        """Inpaint the grid once for all views."""
        with torch.no_grad():
            self._inpainted = self.model.inpaint()

    def on_validation_epoch_end(self) -> None:
        """Log the scores and drop the inpainted grid, since the next step changes it."""
        super().on_validation_epoch_end()
        self._inpainted = None

    def render(self, pose: Tensor) -> Rendering:
        """Render the view of a pose ``[4, 4]`` from the stored grid, inpainted for this view or once per validation."""
        inpainted = self.model.inpaint() if self._inpainted is None else self._inpainted
        return self.model.render(inpainted, self.validation_projector.resampling([pose]))

    def render_validation_view(self, pose: Tensor) -> RenderedView:
        """Render a validation view; its depth is the occlusion network's depth map, in [-1/2, 1/2)."""
        rendering = self.render(pose)
        return RenderedView(rendering.image[0], None if rendering.depth_map is None else rendering.depth_map[0])
