"""The procedural still life: a vase of flowers with fruit on a table, in a room."""

from dataclasses import replace

import numpy as np

from dv.synthetic.room import TABLE_TOP, room_shapes
from dv.synthetic.shapes import (
    Array,
    MeshShape,
    smoothstep,
    solid_noise,
    spline,
    swept_grid,
    texel_positions,
    to_texels,
    tube_mesh,
)
from dv.synthetic.vase import vase_shapes

_BOTTOM = TABLE_TOP + 0.01  # just inside the grid
_VASE_SCALE, _VASE_AT = 0.54, (-0.05, 0.03)
_STEM, _LEAF, _PEAR, _LEMON, _APPLE, _WHITE, _VIOLET, _CORAL, _SUN = np.array([
    (0.25, 0.40, 0.15), (0.20, 0.45, 0.17), (0.72, 0.72, 0.22), (0.95, 0.80, 0.15), (0.75, 0.12, 0.10),
    (0.96, 0.93, 0.90), (0.45, 0.25, 0.60), (0.92, 0.42, 0.35), (0.97, 0.75, 0.20),
])  # fmt: skip


def still_life_shapes() -> list[MeshShape]:
    """Return the meshes of the thing, which lies in the grid's cube, and of its surroundings."""
    return thing_shapes() + room_shapes()


def thing_shapes() -> list[MeshShape]:
    """Return the meshes of a vase with flowers, an apple, a lemon and a pear."""
    offset = np.array([*_VASE_AT, _BOTTOM + 0.46 * _VASE_SCALE])
    vase = [replace(shape, vertices=_VASE_SCALE * shape.vertices + offset) for shape in vase_shapes()]
    return [*vase, *_flowers(offset + np.array([0, 0, 0.30 * _VASE_SCALE])), *_fruits()]


def _painted(grid: Array, color: Array, second: Array, seed: int, cells: float = 25.0) -> MeshShape:
    """Make a tube speckled and shaded between two colours."""
    points = texel_positions(grid, 96, 96)
    blend = smoothstep(solid_noise(points, cells, seed) + 0.4 * solid_noise(points, 4 * cells, seed + 1), 0.35, 1.0)
    speckles = 1 - 0.35 * (solid_noise(points, 8 * cells, seed + 2) > 0.82)
    return tube_mesh(
        grid, to_texels((color * (1 - blend[..., None]) + second * blend[..., None]) * speckles[..., None])
    )


def _fruits() -> list[MeshShape]:
    t = np.linspace(0, 1, 90)
    rise = np.stack([0 * t, 0 * t, t], axis=1)
    dome = np.sqrt(np.maximum(1 - (2 * t - 1) ** 2, 1e-6))
    apple = 0.098 * dome**0.85 * (1 + 0.15 * np.sin(np.pi * t))
    pear = 0.088 * dome * (1 - 0.48 * smoothstep(t, 0.35, 0.85))
    lemon = 0.07 * dome * (0.75 + 0.25 * np.sin(np.pi * t))
    shapes = []
    for place, radius, height, tilt, colors, seed in (
        ((0.23, 0.05), apple, 0.175, (0, 0, 1), (_APPLE, _SUN), 1),
        ((0.13, -0.22), pear, 0.26, (0.15, -0.1, 1), (_PEAR, _CORAL), 2),
        ((0.27, -0.17), lemon, 0.19, (0.8, 0.6, 0.0), (_LEMON, _PEAR), 3),
    ):
        axis = np.array(tilt) / np.linalg.norm(tilt)
        grid = swept_grid(rise[:, 2:] * height * axis, (0.1, 1, 0.2), radius, radius, 48)
        grid += [*place, 0]
        grid[..., 2] += _BOTTOM - grid[..., 2].min()
        shapes.append(_painted(grid, *colors, seed))
        if seed < 3:
            top = grid[-1].mean(0) - 0.01 * axis
            stalk = top + np.linspace(0, 1, 20)[:, None] * (0.06 * axis + [0.015, 0.01, 0])
            shapes.append(_painted(swept_grid(stalk, (1, 0, 0), 0.005, 0.005, 10), _STEM * 0.6, _STEM, seed + 10))
    return shapes


def _flowers(mouth: Array) -> list[MeshShape]:
    """Make seven bent stems with leaves and blossoms out of the vase's mouth."""
    rng = np.random.default_rng(5)
    shapes = []
    for number in range(7):
        azimuth = 2 * np.pi * (number + 0.3 * rng.random()) / 7
        lean = np.array([np.cos(azimuth), np.sin(azimuth), 0])
        reach, rise = (0.05, 0.44) if number == 0 else (rng.uniform(0.14, 0.27), rng.uniform(0.25, 0.40))
        points = mouth + np.array([
            [0, 0, -0.1], 0.03 * lean, 0.4 * reach * lean + [0, 0, 0.55 * rise], reach * lean + [0, 0, rise],
        ])  # fmt: skip
        path, _ = spline(points, 60)
        radius = np.linspace(0.007, 0.0045, 60)
        shapes.append(_painted(swept_grid(path, (0.3, 0.5, 0.1), radius, radius, 10), _STEM, _LEAF, 20 + number, 60))
        for at in (28, 40):
            shapes.append(_leaf(path[at], azimuth + rng.uniform(-1.6, 1.6), 0.10 + 0.03 * rng.random(), number + at))
        axis = path[-1] - path[-4]
        shapes += _blossom(path[-1], axis / np.linalg.norm(axis), (_CORAL, _VIOLET, _WHITE)[number % 3], number)
    return shapes


def _leaf(base: Array, azimuth: float, length: float, seed: int) -> MeshShape:
    t = np.linspace(0, 1, 40)[:, None]
    out, along = np.array([np.cos(azimuth), np.sin(azimuth), 0]), np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    path = base + length * (t * out + (0.7 * t - 0.9 * t**2) * [0, 0, 1])
    width = 0.003 + 0.24 * length * np.sin(np.pi * t[:, 0] ** 0.8) ** 1.2
    return _painted(swept_grid(path, tuple(along), width, 0.003, 24), _LEAF, _STEM * 1.4, 40 + seed, 40)


def _blossom(centre: Array, axis: Array, color: Array, seed: int) -> list[MeshShape]:
    """Make a heart and petals around an axis."""
    x = np.cross(axis, [0.3, 0.8, 0.1])
    x /= np.linalg.norm(x)
    y = np.cross(axis, x)
    t = np.linspace(0, 1, 30)[:, None]
    dome = 0.022 * np.sqrt(np.maximum(1 - (2 * t[:, 0] - 1) ** 2, 1e-6)) + 0.001
    heart = swept_grid(centre + axis * 0.03 * (t - 0.3), tuple(x), dome, dome, 20)
    shapes = [_painted(heart, _SUN, _STEM, 70 + seed, 90)]
    petals = 6 + seed % 3
    for number in range(petals):
        turn = 2 * np.pi * number / petals
        out, side = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        path = centre + 0.012 * out + 0.062 * (t * out + (0.5 * t - 0.25 * t**2) * axis)
        width = 0.004 + 0.02 * np.sin(np.pi * t[:, 0] ** 1.3 * 0.93)
        shapes.append(_painted(swept_grid(path, tuple(side), width, 0.0028, 20), color, color * 0.55, 80 + seed, 60))
    return shapes
