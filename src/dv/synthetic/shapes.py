"""Textured triangle meshes, surfaces swept along curves, and procedural noise for their textures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Texels = NDArray[np.uint8]


@dataclass(frozen=True)
class MeshShape:
    """A triangle mesh in world coordinates, z up, inside the voxel grid's cube."""

    vertices: Array  # [N, 3]
    normals: Array  # [N, 3], unit length, pointing out of the material
    uv: Array  # [N, 2], v = 0 in the texture's first row
    faces: NDArray[np.uint32]  # [M, 3] vertex indices, counter-clockwise seen from outside
    texture: Texels  # [height, width, 3] in sRGB
    colors: Texels | None = None  # [N, 3] vertex colours in sRGB, used instead of the texture
    repeat: bool = False  # whether the texture repeats outside [0, 1]
    roughness: float = 0.12  # of the specular variant's surface, from 0 (a mirror) to 1
    surroundings: bool = False  # whether it is no part of the object, and may lie outside the cube
    radiance: float = 0.0  # factor of the texture's linear colours that the surface emits


def to_texels(colors: NDArray[np.floating]) -> Texels:
    """Clip colours to [0, 1] and quantize them to 8 bits."""
    return np.round(255 * colors.clip(0, 1)).astype(np.uint8)


def srgb_to_linear(values: Array) -> Array:
    """Convert sRGB values in [0, 1] to linear RGB in [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: Array) -> Array:
    """Convert linear RGB in [0, 1] to sRGB values in [0, 1]."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def smoothstep(x: Array, low: float, high: float) -> Array:
    """Return 0 below ``low``, 1 above ``high`` and a cubic between; ``low > high`` gives a falling step."""
    t = ((x - low) / (high - low)).clip(0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def spline(points: Array, samples: int) -> tuple[Array, Array]:
    """Interpolate points with a cubic Hermite spline that is sampled evenly in its parameter, the chord length.

    Args:
        points: Control points ``[N, D]``.
        samples: Number of points on the curve.

    Returns:
        The curve ``[samples, D]``, and the parameters ``[N]`` of the control points, which rise from 0 to 1.
    """
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


def swept_grid(
    path: Array,
    side: tuple[float, float, float],
    width: Array | float,
    height: Array | float,
    columns: int = 32,
    power: float = 2.0,
) -> Array:
    """Sweep a superellipse along a path and close it with domed ends.

    Args:
        path: Centre line ``[N, 3]``.
        side: Direction of the section's first axis, which is made perpendicular to the path.
        width: Half axis of the section along ``side``, a scalar or ``[N]``.
        height: Half axis of the section perpendicular to ``side`` and the path, a scalar or ``[N]``.
        columns: Number of points around the section.
        power: Exponent of the superellipse: 2 gives an ellipse, larger values a more rectangular section.

    Returns:
        Grid ``[N + 16, columns + 1, 3]`` of points for :func:`tube_mesh`.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.asarray(side) - (tangent @ side)[:, None] * tangent
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    axes = np.stack([np.broadcast_to(width, len(path)), np.broadcast_to(height, len(path))], axis=1)
    quarter = np.linspace(0.02, np.pi / 2, 9)[:-1, None]
    bulge = 0.4 * axes.min(1)
    path = np.concatenate([
        path[:1] - bulge[0] * np.cos(quarter) * tangent[:1],
        path,
        path[-1:] + bulge[-1] * np.cos(quarter[::-1]) * tangent[-1:],
    ])  # fmt: skip
    axes = np.concatenate([axes[:1] * np.sin(quarter), axes, axes[-1:] * np.sin(quarter[::-1])])
    tangent, across = (np.pad(vectors, ((8, 8), (0, 0)), mode="edge") for vectors in (tangent, across))
    angle = np.linspace(0, 2 * np.pi, columns + 1)
    x, y = (np.sign(wave) * np.abs(wave) ** (2 / power) for wave in (np.cos(angle), np.sin(angle)))
    return np.asarray(
        path[:, None]
        + (axes[:, :1] * x)[..., None] * across[:, None]
        + (axes[:, 1:] * y)[..., None] * np.cross(tangent, across)[:, None]
    )


def tube_mesh(grid: Array, texture: Texels, roughness: float = 0.12) -> MeshShape:
    """Make a closed mesh of a bent tube. Triangle fans close the ends, so the first and last row should be small.

    Args:
        grid: Points ``[rows along it, columns counter-clockwise around it, 3]``, the last column equal to the first.
        texture: Texture ``[height, width, 3]``, its rows along the tube.
        roughness: See :class:`MeshShape`.
    """
    grid = np.concatenate([grid[:, :-1], grid[:, :1]], axis=1)  # makes the seam exact
    along = np.gradient(grid, axis=0)
    wrapped = np.concatenate([grid[:, -2:-1], grid, grid[:, 1:2]], axis=1)
    normals = np.cross(wrapped[:, 2:] - wrapped[:, :-2], along)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    rows, columns, _ = grid.shape
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    index = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    here, right, up, across = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    first, last = np.full((2, columns - 1), [[index.size], [index.size + 1]], dtype=np.uint32)
    faces = np.concatenate([
        np.stack([here, right, across], -1).reshape(-1, 3),
        np.stack([here, across, up], -1).reshape(-1, 3),
        np.stack([first, index[0, 1:], index[0, :-1]], -1),
        np.stack([last, index[-1, :-1], index[-1, 1:]], -1),
    ])  # fmt: skip
    ends = grid[[0, -1], :-1]
    outwards = np.cross(ends, np.roll(ends, -1, axis=1)).sum(1) * [[-1], [1]]
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    return MeshShape(
        np.concatenate([grid.reshape(-1, 3), ends.mean(1)]),
        np.concatenate([normals.reshape(-1, 3), outwards]),
        np.concatenate([np.stack([u, v], -1).reshape(-1, 2), [[0.5, 0], [0.5, 1]]]),
        faces,
        texture,
        roughness=roughness,
    )


def panel_mesh(corner: ArrayLike, u: ArrayLike, v: ArrayLike, texture: Texels) -> MeshShape:
    """Make a parallelogram with the edges ``u`` and ``v`` ``[3]``; the texture's first row lies along ``u``."""
    corner, u, v = (np.asarray(vector, dtype=np.float64) for vector in (corner, u, v))
    normal = np.cross(u, v)
    return MeshShape(
        np.stack([corner, corner + u, corner + u + v, corner + v]),
        np.tile(normal / np.linalg.norm(normal), (4, 1)),
        np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
        np.array([[0, 1, 2], [0, 2, 3]], dtype=np.uint32),
        texture,
    )


def box_mesh(low: ArrayLike, high: ArrayLike, texture: Texels) -> MeshShape:
    """Make a box between two opposite corners ``[3]``; each side shows the whole texture."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    x, y, z = np.diag(high - low)
    sides = [
        panel_mesh(corner, u, v, texture)
        for corner, u, v in (
            (low + z, y, -z), (high, -y, -z), (low + x + z, -x, -z), (low + y + z, x, -z), (low, y, x), (low + z, x, y),
        )
    ]  # fmt: skip
    vertices, normals, uv = (
        np.concatenate([getattr(side, key) for side in sides]) for key in ("vertices", "normals", "uv")
    )
    faces = np.concatenate([side.faces + np.uint32(4 * number) for number, side in enumerate(sides)])
    return MeshShape(vertices, normals, uv, faces, texture)


def texel_positions(grid: Array, rows: int, columns: int) -> Array:
    """Return the world positions ``[rows, columns, 3]`` of the texels of the texture of ``tube_mesh(grid, ...)``."""
    for axis, count in ((0, rows), (1, columns)):
        position = (np.arange(count) + 0.5) / count * (grid.shape[axis] - 1)
        lower = position.astype(int)
        weight = np.expand_dims(position - lower, (1 - axis, 2))
        grid = grid.take(lower, axis) * (1 - weight) + grid.take(lower + 1, axis) * weight
    return grid


def surface_noise(rng: np.random.Generator, rows: int, columns: int, cells: int) -> NDArray[np.float32]:
    """Return value noise ``[rows, columns]`` in [0, 1], ``cells`` per axis, periodic along the columns."""
    knots = rng.random((cells + 1, cells), dtype=np.float32)
    knots = np.concatenate([knots, knots[:, :1]], axis=1)
    for axis, length in ((0, rows), (1, columns)):
        position = np.linspace(0, cells, length, dtype=np.float32)
        cell = position.astype(np.int64).clip(0, cells - 1)
        x = position - cell
        weight = np.expand_dims(x * x * (3 - 2 * x), 1 - axis)
        knots = knots.take(cell, axis) * (1 - weight) + knots.take(cell + 1, axis) * weight
    return knots


def solid_noise(points: Array, cells: float | tuple[float, float, float], seed: int) -> Array:
    """Return value noise ``[...]`` in [0, 1] at points ``[..., 3]``, ``cells`` per unit of length (along x, y, z)."""
    period = 32
    knots = np.random.default_rng(seed).random(period**3, dtype=np.float32)
    scaled = points * np.asarray(cells)
    floor = np.floor(scaled)
    part = (scaled - floor).astype(np.float32)
    part = part * part * (3 - 2 * part)
    cell = floor.astype(np.int64)
    strides = (period * period, period, 1)
    indices = [[(cell[..., i] + d) % period * strides[i] for d in (0, 1)] for i in range(3)]
    weights = [(1 - part[..., i], part[..., i]) for i in range(3)]
    return np.asarray(
        sum(
            knots[indices[0][i] + indices[1][j] + indices[2][k]] * (weights[0][i] * weights[1][j] * weights[2][k])
            for i, j, k in np.ndindex(2, 2, 2)
        )
    )
