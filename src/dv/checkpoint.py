"""Checkpoint files: ours (Lightning's, with sizes, camera and configuration inside) and the reference's ``.pth``."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dv import __version__
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.model import DeepVoxels, ModelSizes
from dv.nets.discriminator import Discriminator
from dv.radiance import RadianceGrid, RadianceSizes
from dv.reference import infer_sizes, is_reference, load_reference

KEY = "dv"
MODELS = {ModelSizes: "deepvoxels", RadianceSizes: "radiance_grid"}
MODEL_PREFIX = "model."
DISCRIMINATOR_PREFIX = "discriminator."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. Camera and configuration are None in one of the reference implementation."""

    path: Path
    sizes: ModelSizes | RadianceSizes
    model_state: dict[str, Tensor]
    discriminator_state: dict[str, Tensor]
    reference: bool
    intrinsics: Intrinsics | None = None
    placement: GridPlacement | None = None
    config: dict[str, Any] | None = None
    step: int = 0

    def load_model(self, model: DeepVoxels | RadianceGrid) -> None:
        """Copy weights, BatchNorm statistics and grid into ``model``. Raises :class:`UserError` if they do not fit."""
        if isinstance(model, RadianceGrid) != isinstance(self.sizes, RadianceSizes):
            raise UserError(f"{self.path} holds another kind of model; use model={MODELS[type(self.sizes)]}")
        if isinstance(model, RadianceGrid):
            for key in ("view_degree", "decoder_features", "decoder_width", "decoder_degree", "reflection_degree"):
                ours, theirs = getattr(model.sizes, key), getattr(self.sizes, key)
                if ours != theirs:
                    raise UserError(f"{self.path} has model.{key}={theirs}, not {ours}; add model.{key}={theirs}")
            model.voxels.fit_to(self.model_state, "voxels.")
            srgb_alone = {"linear_share": torch.tensor(0.0)}  # before there was a share
            _load(model, srgb_alone | self.model_state, self.path)
        elif self.reference:
            load_reference(model, self.model_state)
        else:
            _load(model, self.model_state, self.path)

    def make_model(self, placement: GridPlacement) -> DeepVoxels | RadianceGrid:
        """The model that the checkpoint holds."""
        model = (
            RadianceGrid(self.sizes, placement, side=2)
            if isinstance(self.sizes, RadianceSizes)
            else DeepVoxels(self.sizes)
        )
        self.load_model(model)
        return model

    def load_discriminator(self, discriminator: Discriminator) -> None:
        """Copy the discriminator, where the checkpoint has one. Raises :class:`UserError` if it does not fit."""
        if self.discriminator_state and self.reference:
            load_reference(discriminator, self.discriminator_state)
        elif self.discriminator_state:
            _load(discriminator, self.discriminator_state, self.path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read either kind of checkpoint, weights only. Raises :class:`UserError` naming the file and what is wrong."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers of old and new files raise kinds of all sorts
        raise UserError(
            f"{path}: not a checkpoint that can be loaded safely; it is truncated or of another kind"
        ) from error
    try:
        if is_reference(loaded):
            sizes = infer_sizes(loaded["model"])
            sizes.check()
            return Checkpoint(path, sizes, loaded["model"], loaded.get("discriminator") or {}, reference=True)
        if isinstance(loaded, dict) and KEY in loaded and "state_dict" in loaded:
            about, state = loaded[KEY], loaded["state_dict"]
            return Checkpoint(
                path,
                (RadianceSizes if about.get("model") == MODELS[RadianceSizes] else ModelSizes)(**about["sizes"]),
                _strip(state, MODEL_PREFIX),
                _strip(state, DISCRIMINATOR_PREFIX),
                reference=False,
                intrinsics=Intrinsics(**about["intrinsics"]),
                placement=GridPlacement(**about["placement"] | {"origin": tuple(about["placement"]["origin"])}),
                config=about["config"],
                step=loaded["global_step"],
            )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: an incomplete dv checkpoint ({error})") from error
    raise UserError(f"{path}: neither a dv checkpoint nor one of the DeepVoxels reference implementation")


def description(
    sizes: ModelSizes | RadianceSizes, intrinsics: Intrinsics, placement: GridPlacement, config: dict[str, Any]
) -> dict[str, Any]:
    """What a checkpoint must hold, beside weights, so that it can be rendered without anything else. Plain data."""
    return {
        "version": __version__,
        "model": MODELS[type(sizes)],
        "sizes": sizes.as_dict(),
        "intrinsics": asdict(intrinsics),
        "placement": asdict(placement) | {"origin": list(placement.origin)},
        "config": config,
    }


def write_atomically(checkpoint: dict[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint aside and rename it, so that a kill at any moment leaves a whole file, old or new.

    The old one gets the name ``previous``, if given. Raises :class:`UserError` if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.is_file():
            path.replace(previous)
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        aside.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error}; free space or choose another output_dir") from error


def _strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _load(module: DeepVoxels | RadianceGrid | Discriminator, state: dict[str, Tensor], path: Path) -> None:
    ours = module.state_dict()
    wrong = [
        f"{name} is {tuple(state[name].shape) if name in state else 'missing'}, needs to be {tuple(value.shape)}"
        for name, value in ours.items()
        if name not in state or state[name].shape != value.shape
    ]
    if wrong:
        raise UserError(f"{path} does not fit the configured model: {wrong[0]} ({len(wrong)} such entries)")
    module.load_state_dict(state)
