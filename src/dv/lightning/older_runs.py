"""Saved states of older trainings of radiance grids."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from dv.checkpoint import MODEL_PREFIX
from dv.errors import UserError

LOG_GAIN, TERMS = f"{MODEL_PREFIX}exposures.log_gain", f"{MODEL_PREFIX}vignetting.terms"
RENAMED = {"exposure": LOG_GAIN, "appearance.exposure": LOG_GAIN, "appearance.vignetting": TERMS}
CAMERAS = f"{MODEL_PREFIX}exposures.cameras", f"{MODEL_PREFIX}vignetting.frames"  # were not saved
ERRORS = "error_sampling.recent", "error_sampling.used"  # start anew, or are dropped with model.error_sampling=0
LEARNED_IF = {  # entries of a state, and the keys that decide whether a training has them
    TERMS: "model.vignetting_rate",
    "camera_refinement.rotation": "model.camera_rate",
    "camera_refinement.log_focal": "model.refine_focal_length",
}


def upgrade_state(state: MutableMapping[str, Tensor], own: Mapping[str, Tensor], path: str | Path | None) -> None:
    """Let the state of a training have the entries that it has today.

    Args:
        state: the saved state, which is changed.
        own: the state of this training before anything is loaded.
        path: of the checkpoint, for messages.

    Raises:
        UserError: if the state has no linear share, exposures of other views, or other parts than this training.
    """
    for older, name in RENAMED.items():
        if older in state:
            state[name] = state.pop(older)
    for name in ERRORS:
        if name not in own:
            state.pop(name, None)
    for name in (*CAMERAS, *ERRORS):
        if name in own:
            state.setdefault(name, own[name])
    state.setdefault(f"{MODEL_PREFIX}focal_scale", torch.tensor(1.0))
    saved, exposures = (len(s.get(LOG_GAIN, ())) for s in (state, own))
    if saved != exposures:
        raise UserError(
            f"{path} has exposures of {saved} views, and this training of {exposures}; "
            "give model.exposure_rate and the views that it was started with"
        )
    for name, key in LEARNED_IF.items():
        if (name in state) != (name in own):
            raise UserError(f"{path} was trained {'with' if name in state else 'without'} {key}, resume it likewise")
    if f"{MODEL_PREFIX}linear_share" not in state:
        raise UserError(
            f"{path} was written before model.linear_share existed, and its training cannot be resumed; "
            f"start another one with its weights: init_from={path} and another hydra.run.dir"
        )
