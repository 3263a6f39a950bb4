"""The sizes of a radiance grid that follow from its configuration and from the training views."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dv.config.train import RadianceGridConfig, TrainConfig
from dv.data.background import has_plain_background
from dv.data.folder import Views
from dv.geometry.grid import GridPlacement
from dv.nets.radiance_sizes import RadianceSizes

AUTO_LEVELS = 6  # of objects in surroundings: the outermost cube is 32 times as wide as the box


def radiance_sizes(
    config: TrainConfig, settings: RadianceGridConfig, views: Views, placement: GridPlacement
) -> RadianceSizes:
    """Return the sizes, where ``model.levels=auto`` depends on whether the views have a plain background."""
    sizes: dict[str, Any] = {f.name: getattr(settings, f.name, None) for f in fields(RadianceSizes)}
    levels = settings.levels
    if levels == "auto":
        levels = 1 if has_plain_background(views) else AUTO_LEVELS
    sizes |= {"grid_side": config.grid.side, "levels": levels}
    sizes["image_side"] = config.data.image_side if isinstance(config.data.image_side, int) else None
    sizes["environment"] = settings.environment if levels > 1 else 0
    exposures = levels > 1 if settings.exposure_rate == "auto" else settings.exposure_rate > 0
    sizes["exposures"] = len(views) if exposures else 0
    if settings.vignetting_rate and not exposures:
        raise ValueError(
            "model.vignetting_rate needs exposures, which are not learned for things before a plain background: add "
            "model.exposure_rate=0.1"
        )
    sizes["vignetting"] = len(set(views.cameras)) if settings.vignetting_rate else 0
    if settings.view_supersampling is None:
        sizes["view_supersampling"] = settings.supersampling + (settings.supersampling > 1)
    if settings.near is None:
        sizes["near"] = placement.near / placement.scale if levels > 1 else 0.0
    return RadianceSizes(**sizes)
