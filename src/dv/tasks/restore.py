"""A trained model with its camera and object, restored from either kind of checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dv.checkpoint import Checkpoint, read_checkpoint
from dv.data.folder import Calibration
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.model import DeepVoxels
from dv.radiance import RadianceGrid
from dv.tasks.settings import check_devices, check_precision, device_of, object_source
from dv.viewing import AUTOCAST, DeepVoxelsViewer, Frame, has_depth, in_inference


@dataclass
class Restored:
    """A model in eval mode, ready to render any pose."""

    checkpoint: Checkpoint
    model: DeepVoxels | RadianceGrid
    source: ObjectSource
    placement: GridPlacement
    device: torch.device
    precision: str
    viewer: DeepVoxelsViewer | None  # a radiance grid needs none

    @property
    def run_dir(self) -> Path:
        """Where results go by default: the checkpoint's run folder, for a reference ``.pth`` the Hydra run folder."""
        if self.checkpoint.reference:
            return Path(HydraConfig.get().runtime.output_dir)
        folder = self.checkpoint.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder

    @property
    def has_depth(self) -> bool:
        """Whether views come with depth."""
        return has_depth(self.model)

    def farthest(self, poses: Tensor) -> float:
        """What the depth of none of the views ``[N, 4, 4]`` is beyond, camera z in world units."""
        if isinstance(self.model, RadianceGrid):
            return max(float(self.model.farthest(pose)) for pose in poses)
        return self.placement.near + 2 * self.placement.scale  # the frustum ends before it

    def views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[Frame]:
        """Image ``[3, S, S]`` in [-0.5, 0.5] and depth of each of the views ``[N, 4, 4]`` of a camera.

        Depth is camera z ``[1, P, P]`` in world units, None without the occlusion network.
        """
        poses = poses.to(self.device)
        if isinstance(self.model, RadianceGrid):
            frames: Iterator[Frame] = map(self.model.render, poses, repeat(intrinsics))  # one by one, with all threads
        else:
            assert self.viewer is not None
            frames = self.viewer.views(poses, intrinsics, batch_size)
        return in_inference(frames, self.device, self.precision)


def restore(config: DictConfig) -> Restored:
    """Load ``ckpt=`` and find its object: what the command line says, else what the checkpoint was trained on.

    Raises :class:`UserError` if the checkpoint cannot be used or a reference checkpoint comes without an object.
    """
    gpus = check_devices(config.trainer.gpus)
    device = device_of(min(gpus, 1))
    precision = str(config.trainer.precision)
    if precision not in {"32-true", "32", *AUTOCAST}:
        raise UserError(f"trainer.precision={precision} must be 32-true, {' or '.join(AUTOCAST)} here")
    precision = check_precision(precision, gpus)
    if not isinstance(config.batch_size, int) or config.batch_size < 1:
        raise UserError(f"batch_size={config.batch_size} must be a whole number of at least 1")
    if not config.ckpt:
        raise UserError("ckpt is not set; give ckpt=PATH, for example ckpt=outputs/train/…/checkpoints/best.ckpt")
    checkpoint = read_checkpoint(Path(config.ckpt))
    source = object_source(_with_trained(config, checkpoint), checkpoint.sizes.image_side)
    calibration = _any_calibration(source) if checkpoint.placement is None else None
    placement = checkpoint.placement or (calibration.placement if calibration else None)
    assert placement is not None
    return ready(checkpoint, source, placement, device, precision, compile=config.trainer.compile)


def ready(
    checkpoint: Checkpoint,
    source: ObjectSource,
    placement: GridPlacement,
    device: torch.device,
    precision: str,
    *,
    compile: bool = False,
) -> Restored:
    """The model of a checkpoint on a device, ready to render."""
    model = checkpoint.make_model(placement)
    model.to(device).eval()
    if isinstance(model, RadianceGrid):
        return Restored(checkpoint, model, source, placement, device, precision, None)
    if compile:
        model.compile_networks()
    return Restored(checkpoint, model, source, placement, device, precision, DeepVoxelsViewer(model, placement))


def _with_trained(config: DictConfig, checkpoint: Checkpoint) -> DictConfig:
    """``object`` and ``data`` of the command line, what is null there taken from the checkpoint's configuration."""
    trained: dict[str, Any] = checkpoint.config or {}
    merged = OmegaConf.create({key: OmegaConf.to_container(config[key], resolve=True) for key in ("object", "data")})
    for group in ("object", "data"):
        for key, value in trained.get(group, {}).items():
            if merged[group].get(key) is None:
                merged[group][key] = value
    if checkpoint.reference and not merged.object.get("root"):
        raise UserError(
            f"ckpt={checkpoint.path} is a reference checkpoint, which does not say where its grid "
            "lies; give its object, for example object=vase or object=custom object.root=DIR object.name=NAME"
        )
    if checkpoint.reference and merged.object.get("pixel_center") is None:
        merged.object.pixel_center = 0  # what it was trained with, whatever the data says of itself
    defaults = {"background": "white", "skip": 0}
    for key, value in defaults.items():
        if merged.data.get(key) is None:
            merged.data[key] = value
    return merged


def _any_calibration(source: ObjectSource) -> Calibration:
    """Calibration of whichever split is there."""
    for split in ("train", "test", "validation"):
        if (source.folder(split) / "intrinsics.txt").is_file():
            return source.calibration(split)
    return source.calibration()
