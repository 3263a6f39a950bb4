"""Checkpoint files: Lightning's, with everything needed to render, and the reference implementation's ``.pth``."""

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
from dv.object_model import ObjectModel
from dv.reference import is_reference, translate_checkpoint
from dv.runtime.files import atomic_file

KEY = "dv"
MODEL_PREFIX = "model."
DISCRIMINATOR_PREFIX = "discriminator."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory; a checkpoint of the reference has no intrinsics, placement or configuration.

    ``kind`` is the configuration's ``model.kind``, and ``sizes`` are the fields of that model's sizes.
    """

    path: Path
    kind: str
    sizes: dict[str, Any]
    model_state: dict[str, Tensor]
    discriminator_state: dict[str, Tensor]
    reference: bool
    intrinsics: Intrinsics | None = None
    placement: GridPlacement | None = None
    config: dict[str, Any] | None = None
    step: int = 0

    def load_model(self, model: ObjectModel, kind: str) -> None:
        """Load weights, statistics and grid into ``model``, whose kind is ``kind``.

        Raises:
            UserError: if they do not fit.
        """
        if kind != self.kind:
            raise UserError(f"{self.path} holds a model of another kind; use model={self.kind}")
        try:
            model.load_saved(self.sizes, self.model_state)
        except ValueError as error:
            raise UserError(f"{self.path} {error}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of either format, without executing code from the file.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file, for example {path}/checkpoints/best.ckpt")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers of old and new files raise many types
        raise UserError(f"{path}: not a checkpoint that can be loaded safely, or truncated") from error
    try:
        if is_reference(loaded):
            sizes, model_state, discriminator_state = translate_checkpoint(loaded)
            return Checkpoint(path, "deepvoxels", asdict(sizes), model_state, discriminator_state, reference=True)
        if isinstance(loaded, dict) and KEY in loaded and "state_dict" in loaded:
            about, state = loaded[KEY], loaded["state_dict"]
            return Checkpoint(
                path,
                about.get("model", "deepvoxels"),
                about["sizes"],
                _without_prefix(state, MODEL_PREFIX),
                _without_prefix(state, DISCRIMINATOR_PREFIX),
                reference=False,
                intrinsics=_intrinsics(about["intrinsics"]),
                placement=GridPlacement(**about["placement"] | {"origin": tuple(about["placement"]["origin"])}),
                config=about["config"],
                step=loaded["global_step"],
            )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: an incomplete dv checkpoint ({error})") from error
    raise UserError(f"{path}: neither a dv checkpoint nor one of the DeepVoxels reference implementation")


def description(
    kind: str, sizes: Any, intrinsics: Intrinsics, placement: GridPlacement, config: dict[str, Any]
) -> dict[str, Any]:
    """Return the plain data beside the weights with which a checkpoint can be rendered without other files."""
    return {
        "version": __version__,
        "model": kind,
        "sizes": asdict(sizes),
        "intrinsics": intrinsics._asdict(),
        "placement": asdict(placement) | {"origin": list(placement.origin)},
        "config": config,
    }


def write_checkpoint(checkpoint: dict[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint atomically, so that a kill at any moment leaves a complete file, old or new.

    Args:
        checkpoint: content of the file.
        path: path of the file, whose folder is created.
        previous: path to which an existing file at ``path`` is renamed.

    Raises:
        UserError: if the file cannot be written, for example on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(path) as temporary:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if previous and path.is_file():
                path.replace(previous)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise UserError(f"cannot write {path}: {error}; free space or choose another output_dir") from error


def _intrinsics(saved: dict[str, Any]) -> Intrinsics:
    """Return saved intrinsics, which had one focal length and one side when all images were square."""
    if "side" not in saved:
        return Intrinsics(**saved)
    return Intrinsics.square(saved["f"], saved["cx"], saved["cy"], saved["side"], saved.get("pixel_center", 0.0))


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
