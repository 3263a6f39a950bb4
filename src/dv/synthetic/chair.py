"""The procedural armchair: turned legs, spindles and slats of painted wood, and cushions in patterned cloth."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

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

_Point = tuple[float, float, float]
_Painter = Callable[[Array, Array, Array], NDArray[np.float32]]  # (position, along, around (0 to 1)) -> colours

_WALNUT, _EBONY, _IVORY, _GOLD, _CRIMSON, _NAVY, _FOREST, _SKY, _ROSE, _TEAL = _PALETTE = np.array([
    (0.24, 0.10, 0.04), (0.06, 0.04, 0.04), (0.97, 0.94, 0.84), (0.95, 0.70, 0.14), (0.62, 0.04, 0.07),
    (0.04, 0.06, 0.28), (0.03, 0.24, 0.12), (0.58, 0.84, 0.94), (0.94, 0.55, 0.52), (0.03, 0.42, 0.44),
], dtype=np.float32)  # fmt: skip


def chair_shapes() -> list[MeshShape]:
    """Return the meshes of an armchair facing +x: walnut on its left, painted wood on its right, cushions in cloth."""
    dark, light = _wood(_WALNUT, _EBONY, _GOLD), _wood(_TEAL, _IVORY, _GOLD)
    crest = _wood(_EBONY, _GOLD, _CRIMSON)
    shapes = [
        _cushion((0.012, 0, 0.0), (0.205, 0.205, 0.062), _seat_cloth, dimples=True),
        *_back_pad(),
        _rail([(0.19, -0.19, -0.085), (0.19, 0.19, -0.085)], 0.030, 0.020, light),
        _rail([(-0.17, -0.17, -0.085), (-0.17, 0.17, -0.085)], 0.030, 0.020, dark),
        _rail([(-0.245, -0.16, 0.415), (-0.262, 0, 0.436), (-0.245, 0.16, 0.415)], 0.030, 0.016, crest),
        _rail([(-0.19, -0.165, 0.075), (-0.20, 0, 0.075), (-0.19, 0.165, 0.075)], 0.018, 0.012, light),
        _rail([(-0.214, -0.17, 0.205), (-0.225, 0, 0.205), (-0.214, 0.17, 0.205)], 0.013, 0.011, dark),
        _turned_rod((0.0, -0.20, -0.30), (0.0, 0.20, -0.30), 0.013, 5, light),
    ]  # fmt: skip
    for side, wood, other in ((1, dark, light), (-1, light, dark)):
        shapes += [
            _turned_rod((0.185, 0.19 * side, -0.10), (0.205, 0.21 * side, -0.425), 0.024, 4, wood),
            _post(side, wood),
            _rail([(0.18, 0.195 * side, -0.085), (-0.17, 0.18 * side, -0.085)], 0.030, 0.020, other),
            _turned_rod((0.19, 0.197 * side, -0.30), (-0.19, 0.192 * side, -0.30), 0.012, 6, other),
            _turned_rod((0.197, 0.203 * side, -0.22), (-0.182, 0.187 * side, -0.22), 0.010, 7, wood),
            _turned_rod((0.155, 0.20 * side, -0.07), (0.165, 0.222 * side, 0.145), 0.017, 3, other),
            _arm(side, wood),
            _cushion((0.02, 0.223 * side, 0.168), (0.115, 0.024, 0.016), _arm_cloth(side)),
        ]
        for x in (-0.10, -0.035, 0.03, 0.095):
            shapes.append(_turned_rod((x, 0.193 * side, -0.07), (x, 0.216 * side, 0.145), 0.0075, 3, wood))
    for number, y in enumerate(np.linspace(-0.132, 0.132, 7)):
        wood = (light, dark)[number % 2]
        shapes.append(_turned_rod((-0.193, y, 0.075), (-0.218, 1.03 * y, 0.205), 0.0085, 3, wood))
        shapes.append(_turned_rod((-0.175, 0.97 * y, -0.075), (-0.193, y, 0.075), 0.0085, 3, wood))
    for number, height in enumerate((-0.245, -0.205, -0.165)):
        slat = [(-0.183, -0.172, height), (-0.183, 0.172, height)]
        shapes.append(_rail([*slat], 0.011, 0.007, (light, dark)[number % 2]))
    return shapes


def _painted_tube(grid: Array, painter: _Painter, rows: int, columns: int, roughness: float) -> MeshShape:
    """Make a tube whose texture ``[rows, columns, 3]`` the painter paints."""
    along, around = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns)[None] + 0.5) / columns
    return tube_mesh(grid, to_texels(painter(texel_positions(grid, rows, columns), along, around)), roughness)


def _wood(ground: NDArray[np.float32], ring: NDArray[np.float32], line: NDArray[np.float32]) -> _Painter:
    """Return a painter of grained wood with striped rings that are edged by a line."""

    def paint(position: Array, along: Array, around: Array) -> NDArray[np.float32]:
        grain = solid_noise(position, (14, 14, 14), 1) + 0.5 * solid_noise(position, 55, 2)
        color = ground * (0.68 + 0.55 * np.abs(np.sin(14 * grain)))[..., None]
        bands, stripe = (along * 11) % 1 + 0 * around, (9 * along + 2 * around) % 1
        color = np.where((bands < 0.3)[..., None], np.where((stripe < 0.5)[..., None], ring, ground), color)
        return np.asarray(np.where((np.abs(bands - 0.3) < 0.05)[..., None], line, color), dtype=np.float32)

    return paint


def _turned_rod(start: _Point, end: _Point, radius: float, knobs: int, painter: _Painter) -> MeshShape:
    """Make a straight rod turned on a lathe, with ``radius`` as its maximum radius."""
    t = np.linspace(0, 1, 40 * knobs)[:, None]
    path = np.array(start) + t * (np.array(end) - np.array(start))
    wave = np.abs(np.sin(np.pi * knobs * t[:, 0]))
    collar = smoothstep(np.cos(4 * np.pi * knobs * t[:, 0]), 0.86, 0.94)
    profile = radius * (0.60 + 0.40 * wave**1.5) * (1 - 0.25 * smoothstep(t[:, 0], 0.6, 1.0))
    profile = np.maximum(profile, radius * 0.8 * collar)
    return _painted_tube(swept_grid(path, (0.6, 0.8, 0.1), profile, profile, 20), painter, 256, 48, 0.1)


def _rail(points: list[_Point], height: float, thickness: float, painter: _Painter) -> MeshShape:
    """Make a bar of rectangular section through points: half axes ``height`` along z and ``thickness`` across."""
    path, _ = spline(np.array(points), 60)
    return _painted_tube(swept_grid(path, (0, 0, 1), height, thickness, 40, power=5), painter, 512, 128, 0.1)


def _post(side: int, painter: _Painter) -> MeshShape:
    """Make a back leg that continues as a post of the backrest."""
    points = [
        (-0.225, 0.20, -0.425),
        (-0.185, 0.187, -0.20),
        (-0.172, 0.18, -0.06),
        (-0.195, 0.178, 0.12),
        (-0.248, 0.178, 0.40),
    ]
    path, _ = spline(np.array(points) * [1, side, 1], 160)
    t = np.linspace(0, 1, 160)
    size = 0.014 + 0.007 * smoothstep(t, 0, 0.35) - 0.006 * smoothstep(t, 0.5, 1)
    return _painted_tube(swept_grid(path, (1, 0, 0), size, size, 32, power=4), painter, 1024, 96, 0.1)


def _arm(side: int, painter: _Painter) -> MeshShape:
    """Make an armrest, curved down at its front."""
    points = [
        (-0.19, 0.185, 0.155), (-0.08, 0.216, 0.150), (0.06, 0.226, 0.150), (0.16, 0.224, 0.152),
        (0.203, 0.217, 0.143), (0.222, 0.212, 0.112), (0.214, 0.210, 0.080),
    ]  # fmt: skip
    path, _ = spline(np.array(points) * [1, side, 1], 160)
    width = 0.016 + 0.008 * np.sin(np.pi * np.linspace(0, 1, 160) ** 1.5)
    return _painted_tube(swept_grid(path, (0, 1, 0), width, 0.012, 32, power=3), painter, 512, 96, 0.1)


def _cushion(centre: _Point, size: _Point, painter: _Painter, dimples: bool = False) -> MeshShape:
    """Make a stuffed cushion of half axes ``size``, thin along z, optionally with dimples for buttons."""
    rise = np.linspace(-np.pi / 2 + 0.01, np.pi / 2 - 0.01, 160)[:, None]
    angle = np.linspace(0, 2 * np.pi, 241)[None]

    def signed_power(wave: Array, exponent: float) -> Array:
        return np.asarray(np.sign(wave) * np.abs(wave) ** exponent)

    flat, up = signed_power(np.cos(rise), 0.45), signed_power(np.sin(rise), 0.8)
    x, y = flat * signed_power(np.cos(angle), 0.5), flat * signed_power(np.sin(angle), 0.5)
    z = np.broadcast_to(up, x.shape) * 1.0
    if dimples:
        for u, v in np.ndindex(3, 3):
            z = z * (1 - 0.55 * np.exp(-((x - 0.58 * (u - 1)) ** 2 + (y - 0.58 * (v - 1)) ** 2) / 0.012))
    grid = np.array(centre) + np.stack([x, y, z], axis=2) * size
    return _painted_tube(grid, painter, 768, 1024 if dimples else 512, 0.2)


def _back_pad() -> list[MeshShape]:
    """Make the upholstered backrest: a cushion that stands on its edge and leans back."""
    flat = _cushion((0, 0, 0), (0.088, 0.168, 0.030), _back_cloth, dimples=True)
    lean = np.arctan2(0.045, 0.20)
    upwards = np.array([-np.sin(lean), 0, np.cos(lean)])
    axes = np.stack([upwards, [0, -1, 0], [np.cos(lean), 0, np.sin(lean)]], axis=1)
    return [
        MeshShape(
            flat.vertices @ axes.T + [-0.234, 0, 0.305],
            flat.normals @ axes.T,
            flat.uv,
            flat.faces,
            flat.texture,
            roughness=0.2,
        )
    ]


def _weave(color: NDArray[np.float32], position: Array, seed: int) -> NDArray[np.float32]:
    """Modulate colours with woven threads and uneven dye."""
    threads = 0.88 + 0.12 * np.sign(
        np.sin(700 * position[..., 0]) * np.sin(700 * position[..., 1] + 300 * position[..., 2])
    )
    dye = 0.72 + 0.3 * solid_noise(position, 12, seed) + 0.22 * solid_noise(position, 60, seed + 1)
    return np.asarray(color * (threads * dye)[..., None], dtype=np.float32)


def _blossoms(x: Array, y: Array, pitch: float, colors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Paint flowers on a staggered lattice with colours ``[5, 3]``: ground, leaves, petals, ring and eye."""
    row = np.floor(y / pitch)
    u, v = (x / pitch + 0.5 * (row % 2)) % 1 - 0.5, (y / pitch) % 1 - 0.5
    column = np.floor(x / pitch + 0.5 * (row % 2))
    radius, angle = np.hypot(u, v), np.arctan2(v, u) + column + 2 * row
    petals = 5 + (column + 2 * row) % 3
    color = np.where(
        (np.abs(u + v) % 0.5 < 0.035)[..., None] | (np.abs(u - v) % 0.5 < 0.035)[..., None], colors[1], colors[0]
    )
    color = np.where((radius < 0.40 * (0.7 + 0.3 * np.cos(petals * angle)))[..., None], colors[2], color)
    color = np.where((np.abs(radius - 0.2) < 0.035)[..., None], colors[3], color)
    return np.asarray(np.where((radius < 0.10)[..., None], colors[4], color))


def _seat_cloth(position: Array, along: Array, around: Array) -> NDArray[np.float32]:
    """Paint brocade: a dark and a light half of blossoms, a border, buttons, and striped sides."""
    x, y, z = np.moveaxis(position, -1, 0)
    night = _blossoms(x, y, 0.055, _PALETTE[[5, 9, 3, 4, 2]])
    day = _blossoms(x, y, 0.042, _PALETTE[[2, 3, 4, 5, 3]])
    color = np.where((y > 0.35 * x)[..., None], night, day)
    edge = np.maximum(np.abs(x - 0.012), np.abs(y)) / 0.205
    color = np.where((edge > 0.80)[..., None], np.where(((24 * around) % 1 < 0.5)[..., None], _CRIMSON, _IVORY), color)
    color = np.where((np.abs(edge - 0.80) < 0.02)[..., None], _GOLD, color)
    stripes = np.where(
        ((32 * around + 3 * along) % 1 < 0.5)[..., None], _NAVY, np.where((around % 0.5 < 0.25)[..., None], _SKY, _GOLD)
    )
    color = np.where((edge > 0.93)[..., None], stripes, color)
    for u, v in np.ndindex(3, 3):
        button = np.hypot((x - 0.012) / 0.205 - 0.58 * (u - 1), y / 0.205 - 0.58 * (v - 1))
        color = np.where(((button < 0.07) & (z > 0))[..., None], _GOLD if (u + v) % 2 else _CRIMSON, color)
    return _weave(color, position, 3)


def _back_cloth(position: Array, along: Array, around: Array) -> NDArray[np.float32]:
    """Paint blossoms in front and zigzags behind, on the cushion before it is raised: x upwards, z to the front."""
    x, y, z = np.moveaxis(position, -1, 0)
    front = np.where(
        (y > 0.02)[..., None],
        _blossoms(y, x, 0.048, _PALETTE[[2, 8, 4, 5, 3]]),
        _blossoms(y, x, 0.06, _PALETTE[[4, 1, 3, 2, 5]]),
    )
    zigzag = np.floor((x + np.abs((y + 1) % 0.05 - 0.025)) / 0.016).astype(int)
    behind = np.where(
        (y > 0)[..., None],
        _PALETTE[np.array([5, 7, 5, 3])[zigzag % 4]],
        _PALETTE[np.array([2, 6, 3, 6, 2, 4])[zigzag % 6]],
    )
    color = np.where((z > 0)[..., None], front, behind)
    piping = np.where(((60 * around) % 1 < 0.5)[..., None], _GOLD, _EBONY)
    return _weave(np.where((np.abs(along - 0.5) < 0.035)[..., None], piping, color), position, 5)


def _arm_cloth(side: int) -> _Painter:
    """Return a painter of striped and spotted cloth."""

    def paint(position: Array, _along: Array, _around: Array) -> NDArray[np.float32]:
        x, y, _ = np.moveaxis(position, -1, 0)
        color = np.where(
            ((x / 0.022 + side * y / 0.022) % 1 < 0.5)[..., None], _PALETTE[5 + side], _PALETTE[2 if side > 0 else 3]
        )
        spots = np.hypot((x / 0.022) % 1 - 0.5, (y / 0.022) % 1 - 0.5) < 0.2
        return _weave(np.where(spots[..., None], _CRIMSON, color), position, 7)

    return paint
