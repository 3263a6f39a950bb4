"""Saved states of older trainings of radiance grids."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from dv.checkpoint import MODEL_PREFIX
from dv.errors import UserError


def upgrade_state(state: MutableMapping[str, Tensor], exposures: int, path: str | Path | None) -> None:
    """Let the state of a training have the entries that it has today.

    Args:
        state: the saved state, which is changed.
        exposures: number of views whose exposures this training learns.
        path: of the checkpoint, for messages.

    Raises:
        UserError: if the state has no linear share, or exposures of other views.
    """
    if "exposure" in state:  # before vignetting could be learned
        state["appearance.exposure"] = state.pop("exposure")
    state.setdefault(f"{MODEL_PREFIX}focal_scale", torch.tensor(1.0))
    saved = len(state.get("appearance.exposure", ()))
    if saved != exposures:
        raise UserError(
            f"{path} has exposures of {saved} views, and this training of {exposures}; "
            "give model.exposure_rate and the views that it was started with"
        )
    if f"{MODEL_PREFIX}linear_share" not in state:
        raise UserError(
            f"{path} was written before model.linear_share existed, and its training cannot be resumed; "
            f"start another one with its weights: init_from={path} and another hydra.run.dir"
        )
