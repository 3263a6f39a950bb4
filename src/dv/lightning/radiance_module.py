"""LightningModule of a radiance grid: random pixels of all views, coarse to fine, on any number of ranks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from dv.checkpoint import MODEL_PREFIX
from dv.config.train import RadianceGridConfig, TrainConfig
from dv.data.background import corner_color
from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, pixel_rays
from dv.lightning.camera_refinement import CameraRefinement
from dv.lightning.error_sampling import ErrorSampling, SampleResult
from dv.lightning.object_module import ObjectModule
from dv.lightning.older_runs import upgrade_state
from dv.lightning.pixel_pool import DrawnPixels, PixelPool
from dv.lightning.radiance_rates import parameter_groups, radiance_rates
from dv.lightning.row_adam import RowAdam
from dv.lightning.schedule import StepFraction, steps_made
from dv.lightning.sizes_from_views import radiance_sizes
from dv.lightning.vertex_changes import change_parameters, check_initial_density, grid_side, vertex_changes
from dv.nets.exposure import expose
from dv.object_model import RenderedView
from dv.radiance import STEP_SIZE, RadianceGrid, RayOutput

UPDATE_EVERY = 50  # steps between updates of the empty space, of the errors used and of smoothed features
FIRST_CHANGE = 50  # steps before which vertices change by the step count, not by the clock
RAYS_OF_NORMALS = 1 << 18  # which show from what side vertices are seen


class RadianceGridModule(ObjectModule):
    """Training and validation of a radiance grid.

    A sample is a batch of random pixels whose central rays hit a stored vertex, with ``config.model.rays`` rays at
    most. It depends only on the seed, the sample's number and the errors recorded so far. Parameters change their size
    during the training; therefore this module, not DDP, averages their gradients over the ranks.
    """

    config_class = RadianceGridConfig
    model_class: ClassVar = RadianceGrid
    needs_views = False
    square_images = False
    fixed_keys = (*ObjectModule.fixed_keys, "model.refine_at", "model.prune_at", "model.view_from")
    max_learning_rates: ClassVar = {"density": 0.5}  # in raw density
    model: RadianceGrid
    changes: Tensor
    camera_of_view: Tensor

    def __init__(
        self,
        config: TrainConfig,
        views: Views,
        calibration: Calibration,
        validation_intrinsics: Intrinsics,
        samples_per_step: int = 1,
    ) -> None:
        assert isinstance(config.model, RadianceGridConfig)
        settings = config.model
        sizes = radiance_sizes(config, settings, views, calibration.placement)
        model = RadianceGrid(sizes, calibration.placement, corner_color(views), grid_side(settings, sizes.grid_side, 0))
        super().__init__(config, model, calibration, validation_intrinsics, samples_per_step)
        self.settings, self.views = settings, views
        check_initial_density(model.voxels, sizes.initial_density)
        if calibration.points is not None and settings.point_density is not None:
            model.raise_density(calibration.points, settings.point_density)
        self.model.voxels.resize_features(sizes.coefficients)  # faster until colours depend on the view
        self.distinct_cameras = {k: i for i, k in enumerate(dict.fromkeys(views.cameras))}
        numbers = torch.tensor([self.distinct_cameras[k] for k in views.cameras])
        self.register_buffer("camera_of_view", numbers, persistent=False)
        refined = views.poses, model.placement.scale, settings.refine_focal_length
        self.camera_refinement = CameraRefinement(*refined) if settings.camera_rate else None
        self.error_sampling = ErrorSampling(len(views.pixels), share) if (share := settings.error_sampling) else None
        self.register_buffer("changes", torch.zeros((), dtype=torch.int64))  # number of vertex changes made

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One Adam, with a parameter group for each learning rate."""
        self._step_fraction = StepFraction(self.trainer.max_steps)
        groups = parameter_groups(self.model, self.camera_refinement, self.learning_rates(), self.settings)
        return RowAdam(groups, betas=(0.9, 0.99))  # β₂ forgets gradients from a coarser grid soon

    def samples_per_epoch(self, views: Views) -> int:
        """Number of samples that together have as many pixels as the views."""
        return math.ceil(len(views.pixels) / self.pixels_per_sample)

    @property
    def pixels_per_sample(self) -> int:
        """Number of pixels of a sample."""
        return self.settings.rays // self.model.sizes.rays_per_pixel

    def progress(self) -> float:
        """Return the fraction of all steps that are made, by ``max_steps`` or, if that is more, as the clock tells."""
        of_steps, of_time = self.fractions()
        return max(of_steps, steps_made(of_time, self.settings.view_from, self.settings.early_step_time))

    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        """Learning rates by parameter group, see :func:`radiance_rates`."""
        rate, fraction = self.config.optimizer.learning_rate, self._step_fraction.value
        return radiance_rates(rate, self.settings, self.model, fraction, progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resize the voxels to those of the checkpoint, which may be of an older run.

        Raises:
            UserError: if the checkpoint cannot be resumed, see :func:`upgrade_state`.
        """
        upgrade_state(checkpoint["state_dict"], self.state_dict(), self.trainer.ckpt_path)
        self.model.voxels.resize_to_state(checkpoint["state_dict"], f"{MODEL_PREFIX}voxels.")

    def on_train_start(self) -> None:
        """Copy images and poses to the device, and find the pixels worth rendering."""
        self._pool = PixelPool(self.views, self.device, self.error_sampling)
        if self.model.exposures is not None:
            self.model.exposures.set_cameras(self.views.poses, self.model.placement.scale)
        if self.model.vignetting is not None:
            self.model.vignetting.set_cameras(list(self.distinct_cameras))
        if self.global_step == 0 and self.camera_refinement and self.camera_refinement.log_focal is not None:
            self.camera_refinement.log_focal.data.copy_(self.model.focal_scale.log())  # of init_from=
        self._find_pixels()
        self._changed = int(self.changes)  # on the CPU too, since reading a buffer waits for the GPU

    def training_step(self, batch: list[list[int]], batch_idx: int) -> None:
        """Make one optimiser step with the gradients of all samples, averaged over samples and ranks."""
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        progress = self._set_learning_rates(optimizer)
        if self._timer:
            self._step_fraction.update(progress)
        self._refining = self.camera_refinement is not None and progress < self.settings.cameras_until
        self._change_vertices(progress, optimizer)
        if self.global_step % UPDATE_EVERY == 0:
            self.model.voxels.update_empty_space()
            if self.error_sampling is not None:
                self.error_sampling.renew()
        optimizer.zero_grad()
        numbers = [number for samples_of_round in batch for number in samples_of_round]
        with self._without_reduction():
            samples = [self._add_gradients(number, len(numbers), progress) for number in numbers]
        results = [sample.metrics for sample in samples]
        if self.error_sampling is not None:
            self._record_errors(self.error_sampling, numbers, samples)
        self._finish_gradients(optimizer, progress)
        pixels = f"random pixels of samples {numbers[0]} to {numbers[-1]}"
        is_finite = bool(torch.stack([result["loss/generator"] for result in results]).isfinite().all())
        if not self.trainer.strategy.reduce_boolean_decision(is_finite, all=True):
            raise UserError(f"a loss {self._not_finite(pixels)}")
        norm = self._gradient_norm(lambda: pixels)
        optimizer.step()
        if self.settings.smoothing and self.global_step % UPDATE_EVERY == 0:
            fraction = self.settings.smoothing * optimizer.param_groups[0]["lr"] * UPDATE_EVERY
            self.model.voxels.smooth(min(1.0, fraction))
        if self.model.exposures:
            self.model.exposures.center()
        if self.camera_refinement is not None and self._refining:
            self.camera_refinement.keep_world()
            if self.camera_refinement.log_focal is not None:
                self.model.focal_scale.copy_(self.camera_refinement.log_focal.detach().exp())
        if self.is_logged(self.global_step):
            self._log_step(results, norm, optimizer)

    def _log_step(self, results: list[dict[str, Tensor]], norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        values = self._reduce_results(results)
        values |= {"gradient_norm": norm, "linear_share": self.model.linear_share.detach()}
        for name, group in zip(self.learning_rates(), optimizer.param_groups, strict=True):
            values[f"learning_rate/{name}"] = torch.tensor(group["lr"])
        if self.model.exposures:
            values["exposure_spread"] = self.model.exposures.log_gain.detach().std(0).mean()
        if self.camera_refinement:
            values["camera_angle"] = self.camera_refinement.angles.mean()
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def _add_gradients(self, number: int, samples: int, progress: float) -> SampleResult:
        """Add one sample's share of the gradients of a step of ``samples`` samples.

        A pixel's loss is divided by its likelihood to the power of ``error_correction``; metrics are of even draws.
        """
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_000_007 + number)
        drawn, patterns = self._pool.draw(self.pixels_per_sample, generator), self.model.training_offsets
        chosen = torch.randint(len(patterns), drawn.view.shape, generator=generator, device=self.device)
        places = patterns[chosen]  # varied, since a grid would fit the places of its rays
        step_size = STEP_SIZE if progress >= self.settings.fine_at else 2 * STEP_SIZE
        offsets = torch.rand(places[..., 0].numel(), generator=generator, device=self.device)
        output = self.model.render_pixels(*self._refined(drawn), places, offsets, step_size)
        error = self._exposed(output, drawn) - drawn.color
        l1, l2 = error.abs().mean(1), error.square().mean(1)
        loss = self.loss.l1_weight * l1 + self.loss.l2_weight * l2
        if self.settings.transmittance_weight:
            loss = loss + self.settings.transmittance_weight * output.transmittance
        loss = (loss * drawn.likelihood**-self.settings.error_correction).mean()
        self.manual_backward(loss / samples)
        even_l1, even_l2 = ((x.detach() / drawn.likelihood).mean() for x in (l1, l2))
        losses = {"loss/generator": loss.detach(), "loss/l1": even_l1, "loss/l2": even_l2}
        return SampleResult(losses | {"psnr": -10 * even_l2.log10()}, drawn.number, l2.detach().sqrt())

    def _record_errors(self, sampling: ErrorSampling, numbers: list[int], samples: list[SampleResult]) -> None:
        """Record the errors of all ranks' samples, in the order of their numbers."""
        pixels, errors = (torch.stack(x) for x in zip(*(sample[1:] for sample in samples), strict=True))
        if self.trainer.world_size > 1:
            order = self._of_all_ranks(torch.tensor(numbers, device=self.device)).argsort()
            pixels, errors = self._of_all_ranks(pixels)[order], self._of_all_ranks(errors)[order]
        sampling.record(pixels.flatten(), errors.flatten())

    def _exposed(self, output: RayOutput, drawn: DrawnPixels) -> Tensor:
        """Return rendered pixels ``[P, 3]``, about [-0.5, 0.5], as their views show them."""
        if self.model.exposures is None:
            return output.colors
        log_gain = self.model.exposures.log_gain[drawn.view]
        if self.model.vignetting is not None:
            log_gain = log_gain + self.model.vignetting(self.camera_of_view[drawn.view], drawn.position)
        return expose(output.colors, log_gain.exp(), output.transmittance, self.model.untouched_background)

    def _refined(self, drawn: DrawnPixels) -> tuple[Tensor, Tensor, Tensor]:
        """Return poses ``[P, 4, 4]``, positions ``[P, 2]`` and intrinsics ``[P, 4]`` of pixels, with corrections."""
        refinement, pose = self.camera_refinement, drawn.pose
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._refining):
            if refinement is not None:
                pose = refinement(pose, drawn.view)
            log_focal = refinement.log_focal if refinement is not None else None
            focal = self.model.focal_scale if log_focal is None else log_focal.exp()
            camera = torch.cat([drawn.camera[:, :2] * focal, drawn.camera[:, 2:]], 1)
        return pose, drawn.position, camera

    def _finish_gradients(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Average gradients over the ranks, add the sparsity term, and zero the gradients that must have no effect."""
        self._average_gradients(optimizer)
        factor = optimizer.param_groups[0]["lr"] / max(1e-12, self.learning_rates()["features"])
        features, density = (cast(Tensor, p.grad) for p in (self.model.voxels.features, self.model.voxels.density))
        density[0], features[0] = 0, 0  # the row of empty vertices
        sparsity = self.settings.sparsity * factor * (self._loss_scale() or 1.0)
        density += ((density != 0) | self.settings.move_unseen) * sparsity
        if progress < self.settings.view_from:
            features[:, 3:] = 0
            cast(Tensor, self.model.linear_share.grad).zero_()
            if self.model.decoder is not None:
                self.model.decoder.zero_grad(set_to_none=False)

    def _change_vertices(self, progress: float, optimizer: torch.optim.Optimizer) -> None:
        """Make the changes that are due. Pruning keeps Adam's moments; refinement restarts them from zero.

        The first changes follow the step count: by the clock, slow first steps would be pruned before they are dense.
        """
        if self._timer and self.global_step < FIRST_CHANGE:
            progress = self.global_step / self.trainer.max_steps
        voxels, changes = self.model.voxels, vertex_changes(self.settings)
        while self._changed < len(changes) and progress >= changes[self._changed][0]:
            change = changes[self._changed][1]
            self._changed += 1
            self.changes.fill_(self._changed)
            if change == "view":
                self._add_view_features(optimizer)
                continue
            change_parameters(optimizer, voxels, voxels.prune)
            refinements = sum(earlier == "refine" for _, earlier in changes[: self._changed])
            side = grid_side(self.settings, self.model.sizes.grid_side, refinements)
            if change == "refine" and side > voxels.side:  # with init_from= the grid can be fine already
                change_parameters(optimizer, voxels, partial(voxels.refine, side))
            self._find_pixels()  # as on_train_start of a resumed run does

    def _add_view_features(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the decoder's features, which are zero, and normals of the surfaces, unless vertices have them."""
        voxels, sizes = self.model.voxels, self.model.sizes
        if voxels.features.shape[1] < sizes.features:
            change_parameters(optimizer, voxels, partial(voxels.resize_features, sizes.features))
            if sizes.has_normals:
                voxels.features.data[:, -3:] = self._normals()

    def _normals(self) -> Tensor:
        """Return normals of the vertices ``[N, 3]`` that point towards the training views that see them."""
        voxels, generator = self.model.voxels, torch.Generator().manual_seed(self.seed)
        origins, directions = pixel_rays(*self._refined(self._pool.draw_evenly(RAYS_OF_NORMALS, generator)))
        rays = self.model.rays(origins, directions, torch.full_like(origins[:, 0], 0.5))
        directions = voxels.weighted_view_directions(rays)[:, :3].contiguous()
        if self.trainer.world_size > 1:  # the same on all ranks to the last bit
            directions = self._mean_over_ranks(directions)
        with torch.autocast(self.device.type, enabled=False):  # differences of neighbours need all their bits
            return voxels.normals(directions)

    def _find_pixels(self) -> None:
        """Find the pixels worth rendering.

        Raises:
            UserError: if there are none.
        """
        self._pool.keep_hits(self.model, self.loss.border)
        if not len(self._pool.numbers):
            raise UserError(
                f"nothing is left of the grid at step {self.global_step}; the last good checkpoint is "
                f"{self._last_checkpoint()}; try a smaller optimizer.learning_rate or model.sparsity"
            )

    def render_validation_view(self, pose: Tensor) -> RenderedView:
        """Render a validation view, with depth in world units."""
        return self.model.render(pose, self.validation_intrinsics)
