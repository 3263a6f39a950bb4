"""A trained model and its object, restored from a checkpoint of dv or of the reference implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from torch import Tensor

from dv.checkpoint import Checkpoint, read_checkpoint
from dv.config.render import EvaluateConfig, ExportConfig, RenderConfig, ViewConfig
from dv.config.shared import ObjectConfig, ReadConfig
from dv.data.object import SPLITS, ObjectSource
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.lightning.kinds import module_class
from dv.object_model import ObjectModel, RenderedView
from dv.runtime.devices import autocast, count_gpus, device_of, supported_precision

RELATIVE = "the checkpoint names it as its training did: run from the same folder, or give object.root=DIR"


@dataclass
class Restored:
    """A trained model in eval mode, ready to render any pose."""

    checkpoint: Checkpoint
    model: ObjectModel
    source: ObjectSource
    placement: GridPlacement
    device: torch.device
    precision: str
    mean_exposure: bool = False  # see use_mean_exposure
    supersampling: int | None = None  # see supersample

    def use_mean_exposure(self) -> None:
        """Render all views with the mean exposure of the training views, as a film has it."""
        self.model.use_mean_exposure()
        self.mean_exposure = True

    def supersample(self, rays: int) -> None:
        """Render all views by ``rays``² rays per pixel.

        Raises:
            UserError: if the model has no rays.
        """
        try:
            self.model.supersample(rays)
        except ValueError as error:
            raise UserError(f"supersampling= with {self.checkpoint.path}: {error}; leave it out") from error
        self.supersampling = rays

    @property
    def run_dir(self) -> Path:
        """Default folder of results: the checkpoint's run folder, for a reference ``.pth`` the Hydra run folder."""
        if self.checkpoint.reference:
            return Path(HydraConfig.get().runtime.output_dir)
        folder = self.checkpoint.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder

    def render_views(self, poses: Tensor, cameras: Sequence[Intrinsics], batch_size: int) -> Iterator[RenderedView]:
        """Yield the views of poses ``[N, 4, 4]`` and their cameras, rendered without gradients in ``precision``."""
        end = 0
        for camera, same in groupby(cameras):
            start, end = end, end + len(list(same))
            yield from self._render_views(poses[start:end].to(self.device), camera, batch_size)

    def _render_views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[RenderedView]:
        views = self.model.render_views(poses, intrinsics, batch_size)
        while True:
            with torch.inference_mode(), autocast(self.device, self.precision):
                view = next(views, None)
            if view is None:
                return
            yield view


def restore(config: EvaluateConfig | RenderConfig | ExportConfig | ViewConfig) -> Restored:
    """Load the checkpoint ``config.ckpt`` and find its object: as configured, else what the checkpoint was trained on.

    Raises:
        UserError: if the checkpoint cannot be used, or a reference checkpoint comes without an object.
    """
    gpus = count_gpus(config.trainer.gpus)
    device, precision = device_of(min(gpus, 1)), supported_precision(config.trainer.precision, gpus)
    if not config.ckpt:
        raise UserError("ckpt is not set; give ckpt=PATH, for example ckpt=outputs/train/…/checkpoints/best.ckpt")
    checkpoint = read_checkpoint(Path(config.ckpt))
    source = _object_of(checkpoint, config.object, config.data)
    restored = load(checkpoint, source, checkpoint.placement or any_placement(source), device, precision)
    if config.trainer.compile:
        restored.model.compile_networks()
    return restored


def load(
    checkpoint: Checkpoint, source: ObjectSource, placement: GridPlacement, device: torch.device, precision: str
) -> Restored:
    """Build the model of a checkpoint on a device, ready to render.

    Raises:
        UserError: if the entries of its state do not fit its sizes.
    """
    model_class = module_class(checkpoint.kind).model_class
    try:
        model = model_class.from_state(checkpoint.sizes, placement, checkpoint.model_state)
    except ValueError as error:
        raise UserError(f"{checkpoint.path} {error}") from error
    return Restored(checkpoint, model.to(device).eval(), source, placement, device, precision)


def _object_of(checkpoint: Checkpoint, wanted: ObjectConfig, read: ReadConfig) -> ObjectSource:
    """Return the object of the command line; what is null there is as the checkpoint was trained."""
    trained: dict[str, Any] = checkpoint.config or {}
    trained_object, data = trained.get("object", {}), trained.get("data", {})

    def first(value: Any, *others: Any) -> Any:
        return next((item for item in (value, *others) if item is not None), None)

    if checkpoint.reference and not wanted.root:
        raise UserError(
            f"ckpt={checkpoint.path} is a reference checkpoint, which does not say where its grid "
            "lies; give its object, for example object=vase or object=custom object.root=DIR object.name=NAME"
        )
    # a reference checkpoint was trained with pixel centres at 0, whatever dataset.json says
    pixel_center = first(wanted.pixel_center, trained_object.get("pixel_center"), 0 if checkpoint.reference else None)
    found = replace(
        wanted,
        root=first(wanted.root, trained_object.get("root")),
        name=first(wanted.name, trained_object.get("name")),
        pixel_center=pixel_center,
        how_to_get=wanted.how_to_get or (RELATIVE if wanted.root is None else ""),
    )
    return ObjectSource.from_config(
        found,
        image_side=checkpoint.sizes.get("image_side"),
        longest_side=data.get("longest_side"),
        background=first(read.background, data.get("background"), "white"),
        skip=first(read.skip, data.get("skip"), 0),
        training_views=data.get("training_views"),
        noise_angle=data.get("noise_angle") or 0.0,
        noise_distance=data.get("noise_distance") or 0.0,
        noise_seed=trained.get("seed", 0),
    )


def any_placement(source: ObjectSource) -> GridPlacement:
    """Return the grid placement of the first split that exists."""
    for split in SPLITS:
        if (source.folder(split) / "intrinsics.txt").is_file():
            return source.calibration(split).placement
    return source.calibration().placement
