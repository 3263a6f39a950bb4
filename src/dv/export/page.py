"""One HTML file that renders a radiance grid in any browser with WebGL2, without network or server.

The grid goes into 3D textures with 8 bits per number (:mod:`dv.export.packed`), in bricks of 8³ cells; bricks and cells
without anything are skipped. ``page.frag`` marches the rays and evaluates the decoder, once per ray, as SNeRG does
(Hedman et al. 2021, "Baking Neural Radiance Fields for Real-Time View Synthesis"); the scripts unpack the
payload, move the camera and adapt the resolution to the frame rate.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dv.export.packed import PackedVoxels, pack
from dv.geometry.camera import Intrinsics
from dv.ops.compositing import empty_space_distance, min_raw_density
from dv.ops.encoding import REFLECTED_SCALE, VIEW_SCALE
from dv.radiance import STEP_SIZE, RadianceGrid

BRICK = 8  # cells along an edge of a brick
SCRIPTS = ("payload.js", "renderer.js", "camera.js", "path.js", "page.js")
MAX_BRICKS = 255  # along an edge of the atlas: the place of a brick is three bytes


def page(model: RadianceGrid, pose: Tensor, intrinsics: Intrinsics, up: Tensor, name: str) -> str:
    """Return a page that shows a radiance grid with the mean exposure.

    Args:
        model: the grid.
        pose: of the first view, camera-to-world ``[4, 4]``.
        intrinsics: of a camera of the training; its image fits into the window.
        up: world direction ``[3]`` about which the camera orbits.
        name: of the object.

    Raises:
        ValueError: if the grid is too large for the textures of a page.
    """
    packed = pack(model.voxels)
    arrays = _brick_arrays(packed)
    arrays["stored"] = np.packbits(packed.stored.numpy())
    arrays["numbers"] = packed.numbers.numpy()
    if np.count_nonzero(arrays["skip"] == 0) > MAX_BRICKS**3:
        raise ValueError("the grid is too large for a page; train with a smaller grid.side")
    arrays["weights"] = _decoder_weights(model) if model.has_decoder else np.empty(0, np.float32)
    arrays["panorama"] = _rgba(model.background) if model.sizes.environment else np.empty(0, np.float32)
    about = _about(model, packed)
    about |= _view(model, pose, intrinsics, up) | {"name": name}
    about["arrays"], payload = _joined(arrays)
    defines = about["defines"]
    shader = _file("page.frag").replace("SUM_OTHER_GROUPS", defines.pop("SUM_OTHER_GROUPS"))
    return Template(_file("page.html")).substitute(
        title=html.escape(name),
        about=json.dumps(about).replace("<", "\\u003c"),
        shader=shader,
        script='"use strict";\n' + "\n".join(map(_file, SCRIPTS)),
        payload=base64.b64encode(gzip.compress(payload, 9, mtime=0)).decode(),
    )


def _file(name: str) -> str:
    return files("dv.export").joinpath("web", name).read_text(encoding="utf-8")


def _brick_arrays(packed: PackedVoxels) -> dict[str, NDArray[Any]]:
    """Return ``skip`` ``[L·B³]``, bricks to the nearest one that holds anything, and the ``cells`` of those that do."""
    levels, count = packed.distance.shape[:2]
    across = -(-count // BRICK)
    pad = across * BRICK - count
    distance = F.pad(packed.distance, (0, pad) * 3, value=1)
    split = distance.view(levels, across, BRICK, across, BRICK, across, BRICK).permute(0, 1, 3, 5, 2, 4, 6)
    bricks = split.reshape(levels, across, across, across, BRICK**3)
    occupied = (bricks == 0).any(-1)
    return {"skip": empty_space_distance(occupied).numpy().ravel(), "cells": bricks[occupied].numpy().ravel()}


def _decoder_weights(model: RadianceGrid) -> NDArray[np.float32]:
    """Return the decoder's layers as rows of four-channel texels: the weights of each input, then the biases."""
    assert model.decoder is not None
    first, second, last = (layer for layer in model.decoder.layers if isinstance(layer, torch.nn.Linear))
    width = -(-first.out_features // 4) * 4
    rows = []
    for layer, inputs in ((first, first.in_features), (second, width), (last, width)):
        padded = torch.zeros(inputs + 1, width)
        padded[: layer.in_features, : layer.out_features] = layer.weight.detach().T
        padded[-1, : layer.out_features] = layer.bias.detach()
        rows.append(padded)
    return torch.cat(rows).numpy()


def _rgba(panorama: Tensor) -> NDArray[np.float32]:
    return F.pad(panorama.detach().cpu().permute(1, 2, 0), (0, 1)).contiguous().numpy()


def _about(model: RadianceGrid, packed: PackedVoxels) -> dict[str, Any]:
    """Return the numbers that the shader needs."""
    sizes, side = model.sizes, model.voxels.side
    channels = len(packed.numbers)
    groups = -(-channels // 4)
    pad = (0, 4 * groups - channels)
    reflections = (sizes.reflection_degree + 1) ** 2 if model.has_decoder and sizes.has_normals else 0
    directions = (sizes.decoder_degree + 1) ** 2
    quads = -(-sizes.decoder_width // 4) if model.has_decoder else 0
    interval = model.voxels.interval(STEP_SIZE)
    return {
        "side": side,
        "levels": sizes.levels,
        "groups": groups,
        "channels": channels,
        "quads": quads,
        "missing": F.pad(packed.missing, pad).tolist(),
        "low": F.pad(packed.low, pad).tolist(),
        "range": F.pad(255 * packed.step, pad).tolist(),
        "interval": interval,
        "minRaw": min_raw_density(interval),
        "near": sizes.near * model.placement.scale,
        "linearShare": float(model.linear_share.detach()),
        "panorama": sizes.environment,
        "rays": sizes.view_rays,
        "scale": model.placement.scale,
        "corner": model.corner.tolist(),
        "defines": {
            "SIDE": side,
            "BRICKS": -(-(side - 1) // BRICK),
            "GROUPS": groups,
            "COEFFICIENTS": sizes.coefficients,
            "DECODER_FEATURES": sizes.decoder_inputs,
            "DIRECTIONS": directions,
            "REFLECTIONS": reflections,
            "QUADS": quads,
            "INPUTS": sizes.decoder_inputs + directions - 1 + reflections,
            "VIEW_SCALE": VIEW_SCALE,
            "REFLECTED_SCALE": REFLECTED_SCALE,
            # arrays of textures may be indexed by constants only
            "SUM_OTHER_GROUPS": " ".join(f"sums[{g}] += weight * texture(numbers[{g}], at);" for g in range(1, groups)),
        },
    }


def _view(model: RadianceGrid, pose: Tensor, intrinsics: Intrinsics, up: Tensor) -> dict[str, Any]:
    """Return the first view, the lens, and the colour behind the grid."""
    k = model.corrected(intrinsics)
    color = model.background.detach().cpu() if not model.sizes.environment else torch.full((3,), 0.5)
    color = color.clamp(-0.5, 0.5)
    hexadecimal = "".join(f"{round(255 * (value + 0.5)):02x}" for value in color.tolist())
    return {
        "pose": pose.tolist(),
        "target": list(model.placement.origin),
        "up": F.normalize(up, dim=0).tolist(),
        "lens": {"fx": k.fx, "fy": k.fy, "width": k.width, "height": k.height},
        "background": color.tolist(),
        "backgroundColor": f"#{hexadecimal}",
    }


def _joined(arrays: dict[str, NDArray[Any]]) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Return where the arrays lie in the payload, each at a multiple of four bytes, and the payload."""
    places: dict[str, dict[str, Any]] = {}
    payload = bytearray()
    for name, array in arrays.items():
        payload += bytes(-len(payload) % 4)
        places[name] = {"offset": len(payload), "count": array.size, "type": array.dtype.name}
        payload += array.tobytes()
    return places, bytes(payload)
