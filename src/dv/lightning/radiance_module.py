"""LightningModule of a radiance grid: random pixels of all views, coarse to fine, on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dv.checkpoint import MODEL_PREFIX, description
from dv.data.folder import Views
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.rays import all_pixels, pixel_rays
from dv.lightning.object_module import LossSettings, ObjectModule, OptimizerSettings, to_model
from dv.lightning.pictures import MOST_POINTS
from dv.lightning.radiance_settings import RadianceSettings
from dv.lightning.schedule import Pace
from dv.ops.compositing import least_raw
from dv.radiance import RAYS_TOGETHER, STEP, RadianceGrid, RadianceSizes, Seen

FIND_EMPTY_EVERY = 50  # steps
SMOOTH_EVERY = 50  # steps
FIRST_CHANGE = 50  # step before which vertices do not change by the clock


class RadianceModule(ObjectModule):
    """Training and evaluation of a radiance grid of one object.

    A sample is random pixels with ``settings.rays`` rays together, drawn by the seed and the sample's number alone,
    among those whose central rays meet vertices that are there. The parameters change their size on the way; so their
    gradients are averaged over the ranks here, and not by DDP.
    """

    model: RadianceGrid
    largest_rates: ClassVar = {"density": 0.5}  # raw
    changes: Tensor
    exposure: nn.Parameter | None

    def __init__(
        self,
        sizes: RadianceSizes,
        intrinsics: Intrinsics,
        placement: GridPlacement,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        settings: RadianceSettings,
        views: Views,
        *,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        validation_intrinsics: Intrinsics | None = None,
        samples_per_step: int = 1,
    ) -> None:
        settings.check()
        if settings.rays < sizes.rays_per_pixel:
            raise UserError(
                f"model.rays={settings.rays} is less than one pixel has; with model.supersampling="
                f"{sizes.supersampling} it must be at least {sizes.rays_per_pixel}"
            )
        about = description(sizes, intrinsics, placement, config or {})
        super().__init__(loss, optimizer, about, placement, seed=seed, samples_per_step=samples_per_step)
        self.settings = settings
        self.views = views
        self.intrinsics = intrinsics.at_side(sizes.image_side)
        self.validation_intrinsics = (validation_intrinsics or intrinsics).at_side(sizes.image_side)
        self.model = RadianceGrid(sizes, placement, _background(views), settings.side(sizes.grid_side, 0))
        self._check_density(sizes.initial_density)
        self.model.voxels.have_features(sizes.coefficients)  # until colours depend on the view: it is faster
        # [V, 3], logarithms of the gains of the training views' channels; their mean, 0, is what is rendered
        self.exposure = nn.Parameter(torch.zeros(len(views), 3)) if settings.exposure_rate else None
        self.register_buffer("changes", torch.zeros((), dtype=torch.int64))  # how many of settings.events are over

    def _check_density(self, initial: float) -> None:
        """Refuse densities that no ray sees: they would have no gradients."""
        voxels = self.model.voxels
        least = least_raw(voxels.length(1.0))
        if initial < least:
            raise UserError(
                f"model.initial_density={initial} cannot be seen in a grid that begins with {voxels.side} vertices "
                f"along an edge; give at least {math.ceil(10 * least) / 10}, or refine it from fewer (model.refine_at)"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One Adam, with a parameter group for each of the learning rates."""
        self._pace = Pace(self.trainer.max_steps)
        model = self.model
        parameters = {
            "features": [model.voxels.features], "density": [model.voxels.density], "background": [model.background],
            "linear_share": [model.linear_share], "decoder": list(model.decoder.parameters()) if model.decoder else [],
            "exposure": [self.exposure],
        }  # fmt: skip
        groups = [{"params": parameters[name], "lr": rate} for name, rate in self.learning_rates().items()]
        # ε is far below the gradients of a mean over thousands of rays; β₂ forgets what a coarser surface was like
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)

    def samples_of(self, views: Views) -> int:
        """As many as it takes to draw all pixels once, on average and were none left out."""
        return math.ceil(len(views) * self.model.sizes.image_side**2 / self.pixels_per_sample)

    @property
    def pixels_per_sample(self) -> int:
        """Pixels that the rays of a sample are enough for."""
        return self.settings.rays // self.model.sizes.rays_per_pixel

    def learning_rates(self, progress: float = 0.0) -> dict[str, float]:
        """Of features, density, background, linear share and, where there are some, decoder and exposures.

        The rates of density of all steps have the same sum however many there are, unless one would be too large.
        """
        rate, s = self.optimizer_settings.learning_rate, self.settings
        density_rate = rate * s.density_rate * self._pace.share * s.density_rise**progress
        rates = {
            "features": rate, "density": density_rate,
            "background": rate * s.background_rate, "linear_share": rate * s.linear_share_rate,
        }  # fmt: skip
        if self.model.decoder:
            rates["decoder"] = rate * s.decoder_rate
        if self.exposure is not None:
            rates["exposure"] = rate * s.exposure_rate
        return rates

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the shape that the voxels had.

        Raises :class:`UserError` if there was no linear share then, or other exposures.
        """
        had, have = (
            len(checkpoint["state_dict"].get("exposure", ())),
            0 if self.exposure is None else len(self.exposure),
        )
        if had != have:
            raise UserError(
                f"{self.trainer.ckpt_path} has exposures of {had} views, and this training of {have}; "
                "give model.exposure_rate and the views that it was begun with"
            )
        if f"{MODEL_PREFIX}linear_share" not in checkpoint["state_dict"]:
            path = self.trainer.ckpt_path
            raise UserError(
                f"{path} was written before there was model.linear_share, and its training cannot go on; "
                f"begin another with its weights: init_from={path} and another hydra.run.dir"
            )
        self.model.voxels.fit_to(checkpoint["state_dict"], f"{MODEL_PREFIX}voxels.")

    def on_train_start(self) -> None:
        """Bring pictures and poses to the device, and find the pixels worth rendering."""
        self._images = self.views.images.to(self.device)
        self._poses = self.views.poses.to(self.device)
        self._pixels = self._find_pixels()
        self._changed = int(self.changes)  # here too, since whoever reads a buffer waits for the GPU

    def training_step(self, batch: list[list[int]], batch_idx: int) -> None:
        """One step: gradients of all samples, averaged over them and the ranks; one optimiser step."""
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        progress = self._set_learning_rates(optimizer)
        if self._timer:
            self._pace.see(progress)
        self._change_vertices(progress, optimizer)
        if self.global_step % FIND_EMPTY_EVERY == 0:
            self.model.voxels.find_empty()
        optimizer.zero_grad()
        numbers = [number for turn in batch for number in turn]
        step = STEP if progress >= self.settings.fine_at else 2 * STEP
        with self._without_reduction():
            results = [self._learn(number, len(numbers), step) for number in numbers]
        self._finish_gradients(optimizer, progress)
        drawn = f"random pixels of samples {numbers[0]} to {numbers[-1]}"
        finite = torch.stack([result["loss/generator"] for result in results]).isfinite().all()
        if not self.trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
            raise UserError(f"a loss {self._not_finite(drawn)}")
        norm = self._gradient_norm(lambda: drawn)
        optimizer.step()
        if self.settings.smoothing and self.global_step % SMOOTH_EVERY == 0:
            rate = optimizer.param_groups[0]["lr"]
            self.model.voxels.smooth(min(1.0, self.settings.smoothing * rate * SMOOTH_EVERY))
        if self.exposure is not None:
            self.exposure.data -= self.exposure.data.mean(0)  # all together would be the object's brightness
        if self.logs(self.global_step):
            self._log(results, norm, optimizer)

    def _log(self, results: list[dict[str, Tensor]], norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        values = self._over_samples(results)
        rates = {
            f"learning_rate/{k}": g["lr"] for k, g in zip(self.learning_rates(), optimizer.param_groups, strict=True)
        }
        values |= {"gradient_norm": norm, "linear_share": self.model.linear_share.detach()}
        values |= {name: torch.tensor(rate) for name, rate in rates.items()}
        if self.exposure is not None:
            values["exposure_spread"] = self.exposure.detach().std(0).mean()
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def _learn(self, number: int, samples: int, step: float) -> dict[str, Tensor]:
        """Add the gradients of a sample in a step of ``samples``; returns what to log."""
        generator, count = torch.Generator(self.device), self.pixels_per_sample
        generator.manual_seed(self.seed * 1_000_000_007 + number)
        drawn = torch.randint(len(self._pixels), (count,), generator=generator, device=self.device)
        offsets = torch.rand(count * self.model.sizes.rays_per_pixel, generator=generator, device=self.device)
        view, pixels = self._view_and_pixel(self._pixels[drawn])
        truth = to_model(self._images[view, :, pixels[:, 1], pixels[:, 0]])
        seen = self.model.see_pixels(self._poses[view], pixels, self.intrinsics, offsets, step)
        error = self._exposed(seen, view) - truth
        l1, l2 = error.abs().mean(), error.square().mean()
        loss = self.loss.l1_weight * l1 + self.loss.l2_weight * l2
        self.manual_backward(loss / samples)
        values = {"loss/generator": loss, "loss/l1": l1, "loss/l2": l2, "psnr": -10 * l2.detach().log10()}
        return {name: value.detach() for name, value in values.items()}

    def _view_and_pixel(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Views ``[P]``, and columns and rows ``[P, 2]``, of pixels as :meth:`_find_pixels` numbers them."""
        side = self.model.sizes.image_side
        view, at = numbers.long() // side**2, numbers.long() % side**2
        return view, torch.stack([at % side, at // side], 1)

    def _exposed(self, seen: Seen, view: Tensor) -> Tensor:
        """Colours ``[P, 3]`` in about [-0.5, 0.5] as the training views numbered ``view`` ``[P]`` expose them.

        A view's gain is one of sRGB values, which near enough are a power of light; what lies behind all is as it is.
        """
        if self.exposure is None:
            return seen.colors
        behind = seen.through[:, None] * (self.model.background + 0.5)
        return seen.colors + (seen.colors + 0.5 - behind) * self.exposure[view].expm1()

    def _finish_gradients(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Average over the ranks; push densities down that nothing holds up; leave the row for what is not there."""
        # the decoder has no gradients until it is needed
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.trainer.world_size > 1:
            merged = self._mean_over_ranks(torch.cat([p.grad.flatten() for p in parameters]))
            for p, part in zip(parameters, torch.split(merged, [p.numel() for p in parameters]), strict=True):
                p.grad.copy_(part.view_as(p))
        factor = optimizer.param_groups[0]["lr"] / max(1e-12, self.learning_rates()["features"])
        features, density = cast(Tensor, self.model.voxels.features.grad), cast(Tensor, self.model.voxels.density.grad)
        density += self.settings.sparsity * factor * (self._loss_scale() or 1.0)
        density[0], features[0] = 0, 0
        if progress < self.settings.view_from:
            features[:, 3:] = 0
            cast(Tensor, self.model.linear_share.grad).zero_()
            if self.model.decoder is not None:
                self.model.decoder.zero_grad(set_to_none=False)

    def _change_vertices(self, progress: float, optimizer: torch.optim.Optimizer) -> None:
        """Refine and prune when it is time. Moments go with their vertices; refined ones begin anew.

        Where a slow start has used up that time, some steps come first: nothing is dense yet, and all would be pruned.
        """
        if self._timer and self.global_step < FIRST_CHANGE:
            progress = self.global_step / self.trainer.max_steps
        voxels = self.model.voxels
        events = self.settings.events
        while self._changed < len(events) and progress >= events[self._changed][0]:
            change = events[self._changed][1]
            self._changed += 1
            self.changes.fill_(self._changed)
            if change == "view":
                self._add_view_features(optimizer)
                continue
            _carry_over(optimizer, voxels, voxels.prune)
            refined = sum(earlier == "refine" for _, earlier in events[: self._changed])
            side = self.settings.side(self.model.sizes.grid_side, refined)
            if change == "refine" and side > voxels.side:  # with init_from= they can be fine already
                _carry_over(optimizer, voxels, partial(voxels.refine, side))
            self._pixels = self._find_pixels()  # as a run that is resumed from here does

    def _add_view_features(self, optimizer: torch.optim.Optimizer) -> None:
        """Give vertices what the decoder reads, unless they have it: zeros, and normals of the densities."""
        voxels, sizes = self.model.voxels, self.model.sizes
        if voxels.features.shape[1] < sizes.features:
            _carry_over(optimizer, voxels, partial(voxels.have_features, sizes.features))
            if sizes.has_normals:
                voxels.features.data[:, -3:] = self._normals()

    def _normals(self) -> Tensor:
        """Of the vertices ``[N, 3]``, on the side of the training views that see them."""
        voxels, generator = self.model.voxels, torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(len(self._pixels), (RAYS_TOGETHER,), generator=generator).to(self.device)
        view, pixels = self._view_and_pixel(self._pixels[drawn])
        rays = pixel_rays(self._poses[view], pixels, self.intrinsics)
        towards = voxels.towards_cameras(self.model.rays(*rays, torch.full_like(rays[0][:, 0], 0.5)))
        if self.trainer.world_size > 1:  # the same to the last bit
            towards = self._mean_over_ranks(towards)
        with torch.autocast(self.device.type, enabled=False):  # differences of neighbours need all their bits
            return voxels.normals(towards)

    @torch.no_grad()
    def _find_pixels(self) -> Tensor:
        """Numbers (view, row, column) of the pixels within the border whose central rays meet vertices that are there.

        A ray beside the centre meets nothing dense then either: around all that is dense, vertices are kept.
        """
        side, border = self.model.sizes.image_side, self.loss.border
        pixels = all_pixels(side, self.device)
        inner = pixels[((pixels >= border) & (pixels < side - border)).all(1)]
        found, voxels = [], self.model.voxels
        integer = torch.int32 if len(self._poses) * side**2 <= torch.iinfo(torch.int32).max else torch.int64
        distance = voxels.distance_to_vertices()
        for number, pose in enumerate(self._poses):
            rays = pixel_rays(pose.expand(len(inner), 4, 4), inner, self.intrinsics)
            met = inner[voxels.meets(self.model.rays(*rays, torch.full_like(rays[0][:, 0], 0.5)), distance)]
            found.append((number * side**2 + met[:, 1] * side + met[:, 0]).to(integer))
        met_by_any = torch.cat(found)
        if not len(met_by_any):
            raise UserError(
                f"nothing is left of the grid at step {self.global_step}; the last good checkpoint is "
                f"{self._last_checkpoint()}; try a smaller optimizer.learning_rate or model.sparsity"
            )
        return met_by_any

    def picture(self, pose: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image and depth, camera z, of a validation view."""
        image, depth = self.model.render(pose, self.validation_intrinsics)
        return image[None], depth[None]

    def point_cloud(self) -> tuple[Tensor, Tensor]:
        """The densest vertices."""
        return self.model.point_cloud(MOST_POINTS)


def _background(views: Views) -> Tensor:
    """Median colour ``[3]`` in [-0.5, 0.5] of the views' corners."""
    corners = views.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    return to_model(corners.transpose(1, 2).flatten(0, 1).float().median(0).values)


def _carry_over(optimizer: torch.optim.Optimizer, voxels: nn.Module, change: Callable[[], Tensor | None]) -> None:
    """Change the voxels' parameters, and what the optimiser has of them; ``change`` returns the rows that are kept."""
    names = ("density", "features")
    before = {name: getattr(voxels, name) for name in names}
    kept = change()
    for name, old in before.items():
        new = getattr(voxels, name)
        if new is old:
            continue
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        state = optimizer.state.pop(old, None)
        if state and kept is not None:
            optimizer.state[new] = {k: v[kept] if v.shape == old.shape else v for k, v in state.items()}
