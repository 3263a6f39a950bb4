"""Rendering a trained model from any pose, whichever model it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.model import DeepVoxels

Frame = tuple[Tensor, Tensor | None]  # image [3, S, S] in [-0.5, 0.5]; depth [1, P, P], camera z in world units
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class DeepVoxelsViewer:
    """Views of DeepVoxels, whose grid is inpainted once."""

    def __init__(self, model: DeepVoxels, placement: GridPlacement) -> None:
        self.model = model
        self.placement = placement
        with torch.inference_mode():
            self.inpainted = model.inpaint()

    def views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[Frame]:
        """Each view ``[N, 4, 4]``; depth is None without the occlusion network.

        ``batch_size`` views are rendered together while the operators of the next ones are made.
        """
        s = self.model.sizes
        projector = Projector(intrinsics, self.placement, s.feature_side, s.grid_side, rim=s.rim)
        batches = torch.split(poses, batch_size)
        with ThreadPoolExecutor(1) as ahead:
            following = ahead.submit(projector.resampling, batches[0])
            for i in range(len(batches)):
                resampling = following.result()
                if i + 1 < len(batches):
                    following = ahead.submit(projector.resampling, batches[i + 1])
                rendering = self.model.render(self.inpainted, resampling)
                depths: Iterable[Tensor | None] = [None] * len(resampling)
                if rendering.depth_map is not None:
                    depths = self.placement.to_world_depth(rendering.depth_map.float(), s.grid_side)
                yield from zip(rendering.image, depths, strict=True)


def has_depth(model: nn.Module) -> bool:
    """Whether a model renders depth."""
    return not isinstance(model, DeepVoxels) or model.sizes.occlusion_net


def in_inference(frames: Iterator[Frame], device: torch.device, precision: str) -> Iterator[Frame]:
    """Frames as they are asked for, computed without gradients in a precision."""
    while True:
        context: Any = torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)
        with torch.inference_mode(), context:
            frame = next(frames, None)
        if frame is None:
            return
        yield frame
