"""A trained model with its camera and object, restored from either kind of checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
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
from dv.geometry.projector import Projector
from dv.model import DeepVoxels
from dv.tasks.settings import check_devices, check_precision, device_of, object_source

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass
class Restored:
    """A model in eval mode whose grid has been inpainted once, ready to render any pose."""

    checkpoint: Checkpoint
    model: DeepVoxels
    source: ObjectSource
    placement: GridPlacement
    device: torch.device
    precision: str
    inpainted: Tensor

    @property
    def run_dir(self) -> Path:
        """Where results go by default: the checkpoint's run folder, for a reference ``.pth`` the Hydra run folder."""
        if self.checkpoint.reference:
            return Path(HydraConfig.get().runtime.output_dir)
        folder = self.checkpoint.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else folder

    def views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Image ``[3, S, S]`` in [-0.5, 0.5] and depth of each of the views ``[N, 4, 4]`` of a camera.

        Depth is camera z ``[1, P, P]`` in world units, None without the occlusion network. ``batch_size`` views are
        rendered together while the operators of the next ones are made.
        """
        s = self.model.sizes
        projector = Projector(intrinsics, self.placement, s.feature_side, s.grid_side, rim=s.rim)
        batches = torch.split(poses.to(self.device), batch_size)
        with ThreadPoolExecutor(1) as ahead:
            following = ahead.submit(projector.resampling, batches[0])
            for i in range(len(batches)):
                resampling = following.result()
                if i + 1 < len(batches):
                    following = ahead.submit(projector.resampling, batches[i + 1])
                with torch.inference_mode(), self._autocast():
                    rendering = self.model.render(self.inpainted, resampling)
                depths: Iterable[Tensor | None] = [None] * len(resampling)
                if rendering.depth_map is not None:
                    depths = self.placement.to_world_depth(rendering.depth_map.float(), s.grid_side)
                yield from zip(rendering.image, depths, strict=True)

    def _autocast(self) -> Any:
        if self.precision in AUTOCAST:
            return torch.autocast(self.device.type, AUTOCAST[self.precision])
        return nullcontext()


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
    """The model of a checkpoint on a device, its grid inpainted."""
    model = DeepVoxels(checkpoint.sizes)
    checkpoint.load_model(model)
    model.to(device).eval()
    if compile:
        model.compile_networks()
    with torch.inference_mode():
        inpainted = model.inpaint()
    return Restored(checkpoint, model, source, placement, device, precision, inpainted)


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
