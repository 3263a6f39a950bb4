"""Translation of the reference implementation's checkpoints: names, sizes and weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dv.errors import UserError
from dv.model import DeepVoxels, ModelSizes
from dv.nets.blocks import Down2d, Down3d
from dv.nets.discriminator import Discriminator
from dv.nets.occlusion import OcclusionNet
from dv.nets.unet import UNet

GRID = "deepvoxels"
_INTEGRATION = {
    "reset_old": "reset_old_net",
    "reset_new": "reset_new_net",
    "update_old": "update_old_net",
    "update_new": "update_new_net",
    "candidate_old": "old_integration",
    "candidate_new": "new_integration",
}


def model_names(model: DeepVoxels) -> dict[str, str]:
    """Map the names of a DeepVoxels state dict to those of the reference implementation."""
    modules: dict[str, str] = {}
    for i, down in enumerate(model.extractor.downs):
        modules |= _sequence(down, f"extractor.downs.{i}", f"feature_extractor.net.0.downs.{i}.net")
    modules |= _unet(model.extractor.unet, "extractor.unet", "feature_extractor.net.1")
    for ours, theirs in _INTEGRATION.items():
        modules[f"integration.{ours}"] = f"integration_net.{theirs}.1"
    modules |= _unet(model.inpainting.unet, "inpainting.unet", "inpainting_net")
    if isinstance(model.flatten, OcclusionNet):
        modules |= _sequence(model.flatten.prep, "flatten.prep", "occlusion_net.occlusion_prep")
        modules |= _unet(model.flatten.unet, "flatten.unet", "occlusion_net.occlusion_net")
        modules["flatten.visibility"] = "occlusion_net.softmax_net.0.net.1"
    else:
        modules |= _sequence(model.flatten.layers, "flatten.layers", "depth_collapse_net")
    modules |= _unet(model.renderer.unet, "renderer.unet", "rendering_net.net.0")
    for i, up in enumerate(model.renderer.ups):
        modules |= _sequence(up, f"renderer.ups.{i}", f"rendering_net.net.1.ups.{i}.net")
    modules |= _sequence(model.renderer.out_layer, "renderer.out_layer", "rendering_net.net", first=2)
    return {"grid": GRID} | dict(_entries(model, modules))


def discriminator_names(discriminator: Discriminator) -> dict[str, str]:
    """Map the names of a discriminator's state dict to those of the reference implementation."""
    modules = {}
    position = 0
    for name, layer in discriminator.layers.named_children():
        position += isinstance(layer, nn.Conv2d)  # the reference has a separate layer for its padding
        modules[f"layers.{name}"] = f"model.{position}"
        position += 1
    return dict(_entries(discriminator, modules))


def is_reference(checkpoint: Any) -> bool:
    """Return whether a loaded file is a checkpoint of the reference implementation."""
    return isinstance(checkpoint, dict) and isinstance(checkpoint.get("model"), dict) and GRID in checkpoint["model"]


def infer_sizes(state: dict[str, Tensor]) -> ModelSizes:
    """Infer the sizes of the network from a reference ``model`` state dict.

    Raises:
        UserError: if an entry that determines a size is missing.
        ValueError: if the sizes do not fit together.
    """
    try:
        downs = _count(state, "feature_extractor.net.0.downs.{}.net.1.weight")
        levels = 1
        while "feature_extractor.net.1.unet_block" + ".model.1" * levels + ".model.0.net.1.weight" in state:
            levels += 1
        first = "net.0.downs.0.net.1.weight" if downs else "net.1.in_layer.0.net.1.weight"
        feature_side = 2**levels
        return ModelSizes(
            image_side=feature_side * 2**downs,
            feature_side=feature_side,
            grid_side=state[GRID].shape[-1],
            grid_features=state[GRID].shape[1],
            base_channels=state[f"feature_extractor.{first}"].shape[0],
            occlusion_net=not any(name.startswith("depth_collapse_net") for name in state),
        )
    except (KeyError, IndexError) as error:
        raise UserError(f"not a complete reference checkpoint: its model lacks {error}") from error


def translate_checkpoint(checkpoint: dict[str, Any]) -> tuple[ModelSizes, dict[str, Tensor], dict[str, Tensor]]:
    """Return sizes, model state and discriminator state of a reference checkpoint, in this package's names.

    The discriminator state is empty if the checkpoint has none.

    Raises:
        UserError: if entries are missing or do not fit.
    """
    sizes = infer_sizes(checkpoint["model"])
    with torch.device("meta"):  # names and shapes only
        model, discriminator = DeepVoxels(sizes), Discriminator()
    state = checkpoint.get("discriminator")
    return sizes, translate(model, checkpoint["model"]), translate(discriminator, state) if state else {}


def translate(module: DeepVoxels | Discriminator, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a reference state dict under the names of the state dict of ``module``.

    Raises:
        UserError: naming the first entry that is missing or does not fit.
    """
    names = model_names(module) if isinstance(module, DeepVoxels) else discriminator_names(module)
    own = module.state_dict()
    missing = [theirs for theirs in names.values() if theirs not in state]
    if missing:
        raise UserError(f"the reference checkpoint lacks {missing[0]} ({len(missing)} of {len(names)} entries missing)")
    for name, theirs in names.items():
        if own[name].shape != state[theirs].shape:
            raise UserError(
                f"the reference checkpoint does not fit: {theirs} is {tuple(state[theirs].shape)}, "
                f"the model needs {tuple(own[name].shape)}"
            )
    return {name: state[theirs] for name, theirs in names.items()}


def _count(state: dict[str, Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def _entries(module: nn.Module, modules: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name in module.state_dict():
        parent, _, leaf = name.rpartition(".")
        if parent:
            yield name, f"{modules[parent]}.{leaf}"


def _sequence(block: nn.Module, ours: str, theirs: str, first: int = 0) -> dict[str, str]:
    """Map the layer names of a block to the reference's.

    There, the padding of a downsampling convolution is a layer of its own, and every other convolution is the second
    layer of a submodule ``net`` whose first one pads.
    """
    names = {}
    position = first
    for name, layer in block.named_children():
        padded = isinstance(layer, nn.Conv2d | nn.Conv3d)
        down = isinstance(block, Down2d | Down3d)
        position += padded and down
        names[f"{ours}.{name}"] = f"{theirs}.{position}" + (".net.1" if padded and not down else "")
        position += 1
    return names


def _unet(unet: UNet, ours: str, theirs: str) -> dict[str, str]:
    names = _sequence(unet.in_layer, f"{ours}.in_layer", f"{theirs}.in_layer")
    innermost = len(unet.downs) - 1
    for i, (down, up) in enumerate(zip(unet.downs, unet.ups, strict=True)):
        block = f"{theirs}.unet_block" + ".model.1" * i
        names |= _sequence(down, f"{ours}.downs.{i}", f"{block}.model.0.net")
        names |= _sequence(up, f"{ours}.ups.{i}", f"{block}.model.{1 if i == innermost else 2}.net")
    return names | _sequence(unet.out_layer, f"{ours}.out_layer", f"{theirs}.out_layer")
