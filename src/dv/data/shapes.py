"""Textured meshes and how to sweep them, for procedural objects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeshShape:
    """A textured triangle mesh in world coordinates, z up, inside the grid's cube.

    vertices and normals: (n, 3), normals of unit length pointing out of the material; uv: (n, 2) in [0, 1], v = 0 in
    the texture's first row; faces: (m, 3) counter-clockwise from outside; texture: (height, width, 3) in sRGB, [0, 1].
    """

    vertices: Array
    normals: Array
    uv: Array
    faces: NDArray[np.uint32]
    texture: NDArray[np.float32]


def spline(points: Array, samples: int) -> tuple[Array, Array]:
    """Smooth curve (samples, 2) through points (n, 2), and where on it the points lie, rising from 0 to 1."""
    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    slopes = np.gradient(points, at, axis=0)
    sample = np.linspace(0, at[-1], samples)
    piece = np.searchsorted(at, sample, side="right").clip(1, len(at) - 1) - 1
    length = (at[piece + 1] - at[piece])[:, None]
    x = (sample - at[piece])[:, None] / length
    curve = (
        points[piece] * (1 + 2 * x) * (1 - x) ** 2
        + points[piece + 1] * (3 - 2 * x) * x**2
        + length * (slopes[piece] * x * (1 - x) ** 2 - slopes[piece + 1] * x**2 * (1 - x))
    )
    return curve, at / at[-1]


def tube_mesh(grid: Array, texture: NDArray[np.float32]) -> MeshShape:
    """Mesh of a bent tube: grid (rows along it, columns counter-clockwise around it, 3), last column = first."""
    along = np.gradient(grid, axis=0)
    wrapped = np.concatenate([grid[:, -2:-1], grid, grid[:, 1:2]], axis=1)
    normals = np.cross(wrapped[:, 2:] - wrapped[:, :-2], along)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    rows, columns, _ = grid.shape
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    index = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    here, right, up, across = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack([here, right, across], -1), np.stack([here, across, up], -1)])
    return MeshShape(
        grid.reshape(-1, 3), normals.reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), faces.reshape(-1, 3), texture
    )
