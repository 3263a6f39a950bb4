"""Alignment of a held-out view's camera with a trained model, which tells errors of poses from errors of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from dv.geometry.camera import Intrinsics
from dv.images import to_model_range
from dv.lightning.camera_refinement import CameraRefinement
from dv.metrics import fit_gain
from dv.radiance import RadianceGrid

STEPS = 100
PIXELS = 2048  # per step
LEARNING_RATE = 1e-3  # rad, and sides of the box, per step; it falls to 0


def align_pose(model: RadianceGrid, pose: Tensor, camera: Intrinsics, image: Tensor) -> Tensor:
    """Find the pose near a given one from which a model renders an image best, up to a gain per channel.

    Args:
        model: the trained model, which stays as it is.
        pose: camera-to-world ``[4, 4]``.
        camera: intrinsics of the image.
        image: uint8 ``[3, H, W]``.

    Returns:
        The pose ``[4, 4]`` after gradient descent on random pixels.
    """
    device, generator = pose.device, torch.Generator().manual_seed(0)
    correction = CameraRefinement(pose[None], model.placement.scale).to(device)
    parameters = list(correction.parameters())
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    view, camera = torch.zeros(1, dtype=torch.long, device=device), model.corrected(camera)
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(STEPS):
            column = torch.randint(camera.width, (PIXELS,), generator=generator)
            row = torch.randint(camera.height, (PIXELS,), generator=generator)
            truth = to_model_range(image[:, row, column].T).to(device) + 0.5
            moved = correction(pose[None], view).expand(PIXELS, 4, 4)
            rendered = model.render_pixels(moved, torch.stack([column, row], 1).to(device), camera).colors + 0.5
            loss = (fit_gain(rendered, truth) - truth).square().mean()
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
        aligned: Tensor = correction(pose[None], view)[0].detach()
    return aligned
