"""Learning rates of the parts of a radiance grid, and the optimiser's parameter groups."""

from __future__ import annotations

from typing import Any

from dv.config.train import RadianceGridConfig
from dv.lightning.camera_refinement import CameraRefinement
from dv.radiance import RadianceGrid

AUTO_EXPOSURE_RATE = 0.1  # of photographs in surroundings
EPS = 1e-15  # of Adam, far below the gradients of a mean over thousands of rays
CAMERA_EPS = 1e-8  # likewise of cameras: while nothing is learned yet, cameras have gradients by rounding only


def radiance_rates(
    rate: float, settings: RadianceGridConfig, model: RadianceGrid, step_fraction: float, progress: float
) -> dict[str, float]:
    """Return learning rates by parameter group; decoder, exposures, vignetting and cameras are there if they exist.

    The learning rates of density have the same sum over the training however many steps it has, unless they reach
    their maximum.

    Args:
        rate: of features.
        settings: multiples of it.
        model: the grid that is trained.
        step_fraction: estimated fraction of the training that one step takes.
        progress: fraction of the training that is over.
    """
    multiples = {
        "features": 1.0,
        "density": settings.density_rate * step_fraction * settings.density_rise**progress,
        "background": settings.environment_rate if model.sizes.environment else settings.background_rate,
        "linear_share": settings.linear_share_rate,
    }
    if model.decoder:
        multiples["decoder"] = settings.decoder_rate
    if model.exposures:
        auto = settings.exposure_rate == "auto"
        multiples["exposure"] = AUTO_EXPOSURE_RATE if auto else float(settings.exposure_rate)
        if settings.vignetting_rate:
            multiples["vignetting"] = settings.vignetting_rate
    if settings.camera_rate:
        multiples["cameras"] = settings.camera_rate * max(0.0, 1 - progress / settings.cameras_until)
    return {name: rate * multiple for name, multiple in multiples.items()}


def parameter_groups(
    model: RadianceGrid, cameras: CameraRefinement | None, rates: dict[str, float], settings: RadianceGridConfig
) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups, in the order of the learning ``rates`` by name.

    Args:
        model: the grid that is trained.
        cameras: corrections of its training poses.
        rates: initial learning rates.
        settings: ``move_unseen``, whether vertices without a gradient move, and ε of features and panorama.
    """
    parameters = {
        "features": [model.voxels.features],
        "density": [model.voxels.density],
        "background": [model.background],
        "linear_share": [model.linear_share],
        "decoder": list(model.decoder.parameters()) if model.decoder else [],
        "exposure": list(model.exposures.parameters()) if model.exposures else [],
        "vignetting": list(model.vignetting.parameters()) if model.vignetting else [],
        "cameras": list(cameras.parameters()) if cameras else [],
    }
    eps = {"features": settings.feature_eps, "cameras": CAMERA_EPS}
    if model.sizes.environment:
        eps["background"] = settings.environment_eps
    by_rows = () if settings.move_unseen else ("features", "density")
    return [
        {"params": parameters[name], "lr": rate, "by_rows": name in by_rows, "eps": eps.get(name, EPS)}
        for name, rate in rates.items()
    ]
