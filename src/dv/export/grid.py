"""A radiance grid as a NumPy archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dv.geometry.camera import Intrinsics
from dv.radiance import RadianceGrid

LAYOUT = """Vertices of nested cubic grids.
about: JSON text with side G, levels, origin (centre of the first cube) and scale (its side) in world units.
vertices: int16 [N, 4], level l and x, y, z. Vertex (x, y, z) of level l lies at
origin + ((x, y, z) / (G - 1) - 0.5) * scale * 2**l.
density: float32 [N]; softplus(density) is the optical depth of a hundredth of the level's side. Interpolate before the
softplus; missing vertices have -10.
features: float32 [N, F]: the coefficients of spherical harmonics, three per harmonic, of the colour minus 0.5; then
those that only the decoder reads; then a normal, if about says has_normals.
decoder.layers.*: float32, weights and biases of the decoder.
panorama: float32, the colours beyond the last level, [H, W, 3] with rows from +z to -z and columns from azimuth -180 to
180 degrees about z, or one colour [3]."""


def write_grid(model: RadianceGrid, intrinsics: Intrinsics, path: Path) -> int:
    """Write the vertices, the decoder and the background in full precision, as :data:`LAYOUT` says; returns N."""
    voxels, sizes, vertices = model.voxels, model.sizes, model.voxels.vertices()
    about = {
        "layout": LAYOUT,
        "side": voxels.side,
        "levels": sizes.levels,
        "origin": list(model.placement.origin),
        "scale": model.placement.scale,
        "view_degree": sizes.view_degree,
        "has_normals": model.has_decoder and sizes.has_normals,
        "intrinsics": intrinsics._asdict(),
    }
    arrays: dict[str, Any] = {
        "vertices": vertices.short().numpy(),
        "density": voxels.density.detach()[1:].numpy(),
        "features": voxels.features.detach()[1:].numpy(),
        "panorama": (model.background.detach() + 0.5).movedim(0, -1).numpy(),
        "about": np.array(json.dumps(about)),
    }
    if model.has_decoder and model.decoder is not None:
        arrays |= {f"decoder.{name}": value.numpy() for name, value in model.decoder.state_dict().items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return len(vertices)
