"""Building the object and the LightningModule of a training configuration."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import torch

from dv.checkpoint import read_checkpoint
from dv.config.train import TrainConfig
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.lightning.kinds import module_class
from dv.lightning.object_module import ObjectModule
from dv.nets.discriminator import MIN_IMAGE_SIDE
from dv.prepare.camera_checks import check_cameras

log = logging.getLogger("dv.tasks.train")
SIZE_KEYS = {  # configuration keys of the sizes in error messages
    "image_side": "data.image_side",
    "feature_side": "grid.feature_side",
    "grid_side": "grid.side",
    "grid_features": "grid.features",
    "base_channels": "model.base_channels",
}


def training_object(config: TrainConfig) -> ObjectSource:
    """Return the object that a training reads.

    Raises:
        UserError: if ``object.root`` or ``object.name`` is not set.
    """
    data, squares = config.data, module_class(config.model.kind).square_images
    if squares and data.longest_side:
        raise UserError(f"data.longest_side={data.longest_side}: model.kind={config.model.kind} reads squares; "
                        "give data.image_side")  # fmt: skip
    return ObjectSource.from_config(
        config.object,
        image_side=data.image_side if isinstance(data.image_side, int) else "auto" if squares else None,
        longest_side=data.longest_side,
        background=data.background,
        skip=data.skip,
        training_views=data.training_views,
        noise_angle=data.noise_angle,
        noise_distance=data.noise_distance,
        noise_seed=config.seed,
    )


def build_module(config: TrainConfig, source: ObjectSource, samples_per_step: int) -> ObjectModule:
    """Build the module of ``model.kind`` for an object, with the weights of ``init_from``.

    Raises:
        UserError: naming the key that does not fit the object, or the checkpoint that does not fit the model.
    """
    views, calibration = source.views("train"), source.calibration()
    _check_border(config, min(min(k.width, k.height) for k in views.cameras))
    for message in check_cameras({split: source.views(split) for split in ("train", "validation")}, calibration):
        log.warning("%s (more: python prepare.py source=check …)", message)
    kind = config.model.kind
    make_module: Callable[..., ObjectModule] = module_class(kind)
    if module_class(kind).square_images:
        calibration = calibration.central_square()
        validation_intrinsics = source.calibration_of("validation").central_square().intrinsics
    else:
        validation_intrinsics = source.views("validation").cameras[0]
    torch.manual_seed(config.seed)
    try:
        module = make_module(config, views, calibration, validation_intrinsics, samples_per_step)
    except UserError:
        raise
    except ValueError as error:  # the model's sizes do not fit together
        named = re.sub(rf"\b({'|'.join(SIZE_KEYS)})=", lambda match: f"{SIZE_KEYS[match[1]]}=", str(error))
        raise UserError(named) from error
    if config.init_from:
        start = read_checkpoint(Path(config.init_from))
        start.load_model(module.model, kind)
        discriminator = getattr(module, "discriminator", None)
        if discriminator is not None and start.discriminator_state:
            try:
                discriminator.load_state_dict(start.discriminator_state)
            except RuntimeError as error:
                raise UserError(f"{start.path} does not fit the discriminator: {error}") from error
    return module


def _check_border(config: TrainConfig, side: int) -> None:
    border, gan = config.loss.border, config.loss.gan_weight
    inner, minimum = side - 2 * border, MIN_IMAGE_SIDE if gan else 1
    if inner < minimum:
        raise UserError(
            f"images of {side} px without loss.border={border} leave {inner} px; "
            f"{f'the discriminator needs {minimum}: use loss=l1, ' if gan else ''}"
            "larger images (data.image_side, data.longest_side) or a smaller loss.border"
        )
