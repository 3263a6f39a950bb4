"""Painted patterns: wallpaper, bricks, tiles, wood, cloth, book covers and landscapes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dv.synthetic.shapes import Array, Texels, smoothstep, solid_noise, to_texels

Color = NDArray[np.float32]
_INK, CREAM, _BRICK, GOLD, SAGE, _NAVY, _ROSE, _SKY, _OAK, _WALNUT, _CLAY, _MOSS = _PALETTE = np.array([
    (0.10, 0.10, 0.13), (0.93, 0.89, 0.79), (0.62, 0.20, 0.14), (0.87, 0.66, 0.25), (0.55, 0.66, 0.52),
    (0.13, 0.20, 0.42), (0.85, 0.55, 0.52), (0.60, 0.77, 0.86), (0.66, 0.47, 0.28), (0.36, 0.21, 0.12),
    (0.75, 0.45, 0.30), (0.26, 0.34, 0.18),
], dtype=np.float32)  # fmt: skip


def surface(width: float, height: float, density: int, paint: Callable[[Array, Array], Color], seed: int) -> Texels:
    """Paint a texture from positions (world units, from the left and from the top) and age it at several scales."""
    columns, rows = round(width * density), round(height * density)
    u, v = np.meshgrid((np.arange(columns) + 0.5) / density, (np.arange(rows) + 0.5) / density)
    points = np.stack([u, v, np.zeros_like(u)], axis=2)
    scales = ((0.5, 1), (0.4, 5), (0.4, 23))
    age = sum(weight * (solid_noise(points, cells, seed + cells) - 0.5) for weight, cells in scales)
    return to_texels(paint(u, v) * (0.9 + np.asarray(age))[..., None])


def choose(where: NDArray[np.bool_], color: Color, otherwise: Color) -> Color:
    """Return ``color`` at the texels ``where`` and another elsewhere."""
    return np.asarray(np.where(where[..., None], color, otherwise), dtype=np.float32)


def _random(row: Array, column: Array, seed: int = 0) -> Array:
    """Return a number in [0, 1) for every cell of integer coordinates."""
    table = np.random.default_rng(seed).random((97, 89))
    return np.asarray(table[row.astype(int) % 97, column.astype(int) % 89])


def _one_of(colors: list[int], number: Array) -> Color:
    """Choose colours of the palette by numbers in [0, 1)."""
    return np.asarray(_PALETTE[colors][(len(colors) * number).astype(int)])


def blooms(u: Array, v: Array) -> Color:
    """Paint a wallpaper of flowers with differing petals on a trellis."""
    row = np.floor(v / 0.55)
    x, y = (u / 0.5 + 0.5 * (row % 2)) % 1 - 0.5, (v / 0.55) % 1 - 0.5
    column = np.floor(u / 0.5 + 0.5 * (row % 2))
    kind, radius, angle = _random(row, column, seed=1), np.hypot(x, y), np.arctan2(y, x)
    color = choose(np.abs(np.abs(x) + np.abs(y) - 0.5) < 0.03, SAGE, CREAM)
    petals = radius < 0.34 * (0.65 + 0.35 * np.cos((4 + np.floor(4 * kind)) * angle + 6 * kind))
    color = choose(petals, _one_of([6, 2, 5, 10], kind), color)
    color = choose(np.abs(radius - 0.2) < 0.02, CREAM, color)
    return _wainscot(u, v, 3.9, choose(radius < 0.09, GOLD, color))


def stripes(u: Array, v: Array) -> Color:
    """Paint wide and narrow stripes with diamonds."""
    stripe = np.floor(u / 0.32)
    color = np.asarray(_PALETTE[[4, 1, 7, 1]])[stripe.astype(int) % 4]
    color = choose(np.abs(u % 0.32 - 0.16) < 0.012, _NAVY, color)
    diamond = np.abs(u % 0.32 - 0.16) / 0.10 + np.abs(v % 0.42 - 0.21) / 0.15
    color = choose(diamond < 1, _one_of([5, 2, 3, 11], _random(stripe, np.floor(v / 0.42))), color)
    return _wainscot(u, v, 3.9, choose(diamond < 0.4, CREAM, color))


def _wainscot(u: Array, v: Array, top: float, above: Color) -> Color:
    """Paint wooden panelling below ``top``, measured from the ceiling."""
    grain = 0.8 + 0.3 * np.sin(28 * u + 6 * np.sin(2 * v + 5 * np.floor(u / 0.45)))
    wood = np.asarray(_OAK * grain[..., None], dtype=np.float32)
    x, y = np.abs(u % 0.45 - 0.225), np.abs(v - top - 0.95)
    wood = choose((np.abs(np.maximum(x - 0.15, y - 0.65)) < 0.02) | (x > 0.215), _WALNUT, wood)
    return choose(v < top, above, choose(v < top + 0.08, _WALNUT, wood))


def bricks(u: Array, v: Array) -> Color:
    """Paint bricks in tones that differ from brick to brick."""
    row = np.floor(v / 0.21)
    x = u / 0.5 + 0.5 * (row % 2)
    tone = _random(row, np.floor(x), seed=2)[..., None]
    color = _BRICK * (1 - tone) + _CLAY * tone
    mortar = (np.abs(x % 1 - 0.5) > 0.47) | (np.abs(v % 0.21 - 0.105) > 0.092)
    return choose(mortar, 0.8 * CREAM, color)


def tiles(u: Array, v: Array) -> Color:
    """Paint tiles with quarter circles that turn from tile to tile."""
    column, row = np.floor(u / 0.45), np.floor(v / 0.45)
    kind = _random(row, column, seed=3)
    x, y = u / 0.45 % 1, v / 0.45 % 1
    x, y = np.where(kind % 0.5 < 0.25, x, 1 - x), np.where(kind < 0.5, y, 1 - y)
    ring = np.floor(np.hypot(x, y) * 5).astype(int) % 5
    color = np.asarray(_PALETTE[[1, 5, 1, 3, 7]])[(ring + (5 * kind).astype(int)) % 5]
    return choose((np.abs(x - 0.5) > 0.485) | (np.abs(y - 0.5) > 0.485), _INK, color)


def planks(u: Array, v: Array) -> Color:
    """Paint grained planks in differing tones."""
    row = np.floor(v / 0.3)
    x = u / 1.7 + _random(row, row, seed=4)
    tone = _random(row, np.floor(x), seed=5)
    grain = 0.75 + 0.35 * tone + 0.12 * np.sin(50 * v + 5 * np.sin(2 * u + 9 * tone))
    gap = (np.abs(x % 1 - 0.5) > 0.495) | (np.abs(v % 0.3 - 0.15) > 0.143)
    return choose(gap, _INK, np.asarray(_OAK * grain[..., None], dtype=np.float32))


def cloth(u: Array, v: Array) -> Color:
    """Paint a tablecloth: checks, a border of zigzags, and sprigs that differ from square to square."""
    x, y = u % 0.2 < 0.1, v % 0.2 < 0.1
    color = choose(x & y, _NAVY, choose(x ^ y, np.asarray((_NAVY + 2 * CREAM) / 3), CREAM))
    kind = _random(np.floor(u / 0.2), np.floor(v / 0.2), seed=6)
    a, b = u % 0.2 - 0.15, v % 0.2 - 0.15
    sprig = np.hypot(a, b) < 0.042 * (0.6 + 0.4 * np.cos((3 + np.floor(3 * kind)) * np.arctan2(b, a) + 20 * kind))
    color = choose(sprig, _one_of([2, 11, 3, 6], kind), color)
    edge = np.minimum(np.minimum(u, u.max() - u), np.minimum(v, v.max() - v))
    zigzag = np.abs((u + v) % 0.12 - 0.06) + 0.06
    color = choose(edge < 0.2, choose(edge < zigzag, _BRICK, CREAM), color)
    return choose(np.abs(edge - 0.2) < 0.008, _BRICK, color)


def boards(_u: Array, v: Array) -> Color:
    """Paint white boards with dark gaps."""
    return choose(np.abs(v % 0.5 - 0.25) > 0.23, _WALNUT, CREAM)


def rug(u: Array, v: Array) -> Color:
    """Paint a rug with nested borders and medallions."""
    edge = np.minimum(np.minimum(u, u.max() - u), np.minimum(v, v.max() - v))
    color = np.asarray(_PALETTE[[2, 3, 5, 1, 2]])[np.minimum(edge / 0.13, 4).astype(int)]
    x, y = u % 0.6 - 0.3, v % 0.6 - 0.3
    ring = np.floor((np.abs(x) + np.abs(y)) / 0.07).astype(int) % 5
    color = choose(edge > 0.52, np.asarray(_PALETTE[[3, 0, 1, 5, 2]])[ring], color)
    fringe = (edge < 0.13) & ((u + v) % 0.1 < 0.05)
    return choose(fringe, CREAM, color)


def book_cover(rng: np.random.Generator) -> Texels:
    """Paint the spine of a book: cloth in one colour with bands, a label and speckles."""
    ground, figure = _PALETTE[rng.permutation(len(_PALETTE))[:2]]
    spine = np.tile(ground * (0.8 + 0.3 * rng.random()), (96, 32, 1))
    for row in rng.integers(4, 90, 4):
        spine[row : row + rng.integers(1, 5)] = figure
    start = rng.integers(15, 60)
    spine[start : start + 14, 6:26] = figure
    spine[start + 3 : start + 11 : 3, 9:23] = ground
    return to_texels(spine * (0.9 + 0.2 * rng.random((96, 32, 1))))


def landscape(seed: int, height: float) -> Callable[[Array, Array], Color]:
    """Return a painter of hills under a sky with clouds, on a canvas a little higher than ``height``."""

    def paint(u: Array, v: Array) -> Color:
        v = v / height
        points = np.stack([u, 2 * v, 0 * u], axis=2)
        cloud = smoothstep(solid_noise(points, 3, seed) + 0.5 * solid_noise(points, 9, seed), 0.6, 1.0)[..., None]
        color = np.asarray(_SKY * (1 - cloud) + CREAM * cloud, dtype=np.float32)
        color = choose(np.hypot(u - 0.3 - 0.2 * (seed % 3), v - 0.25) < 0.1, GOLD, color)
        for number, ground in enumerate(_PALETTE[np.roll([4, 11, 3, 10, 9], seed)]):
            line = np.stack([u, 0 * u + number, 0 * u + seed], axis=2)
            ridge = 0.42 + 0.15 * number - 0.28 * solid_noise(line, (2.5, 1, 1), seed + number)
            ridge -= 0.06 * solid_noise(line, (14, 1, 1), seed)
            texture = 0.75 + 0.5 * solid_noise(np.stack([u, v, 0 * u], axis=2), 30 + 5 * number, seed)
            color = choose(v > ridge, np.asarray(ground * texture[..., None], dtype=np.float32), color)
        return color

    return paint
