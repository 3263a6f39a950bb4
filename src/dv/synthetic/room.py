"""The procedural room around the still life: table, chair, lamp, shelf, images, windows and patterned surfaces."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dv.synthetic.chair import chair_shapes
from dv.synthetic.shapes import (
    Array,
    MeshShape,
    Texels,
    box_mesh,
    panel_mesh,
    smoothstep,
    solid_noise,
    swept_grid,
    to_texels,
    tube_mesh,
)

TABLE_TOP = -0.505  # just below the grid, so that the table is no part of what the grid holds
_LOW, _HIGH = np.array([-3.1, -2.9, -2.4]), np.array([4.4, 4.7, 3.4])  # opposite corners of the room
_Color = NDArray[np.float32]

_INK, _CREAM, _BRICK, _GOLD, _SAGE, _NAVY, _ROSE, _SKY, _OAK, _WALNUT, _CLAY, _MOSS = _PALETTE = np.array([
    (0.10, 0.10, 0.13), (0.93, 0.89, 0.79), (0.62, 0.20, 0.14), (0.87, 0.66, 0.25), (0.55, 0.66, 0.52),
    (0.13, 0.20, 0.42), (0.85, 0.55, 0.52), (0.60, 0.77, 0.86), (0.66, 0.47, 0.28), (0.36, 0.21, 0.12),
    (0.75, 0.45, 0.30), (0.26, 0.34, 0.18),
], dtype=np.float32)  # fmt: skip


def room_shapes() -> list[MeshShape]:
    """Return everything but the thing on the table. It is closed on all sides, and lit by some of the shapes."""
    shapes = [*_walls(), *_table(), *_lamp(), *_wall_images(), *_windows(), *_shelf()]
    cos, sin = np.cos(0.8), np.sin(0.8)
    turn, floor = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]), np.array([-2.1, -2.0, _LOW[2] + 1.07])
    for shape in chair_shapes():
        shapes.append(replace(shape, vertices=2.5 * shape.vertices @ turn.T + floor, normals=shape.normals @ turn.T))
    return [replace(shape, surroundings=True) for shape in shapes]


def _surface(width: float, height: float, density: int, paint: Callable[[Array, Array], _Color], seed: int) -> Texels:
    """Paint a texture from positions (world units, from the left and from the top) and age it at several scales."""
    columns, rows = round(width * density), round(height * density)
    u, v = np.meshgrid((np.arange(columns) + 0.5) / density, (np.arange(rows) + 0.5) / density)
    points = np.stack([u, v, np.zeros_like(u)], axis=2)
    age = sum(weight * (solid_noise(points, cells, seed + cells) - 0.5) for weight, cells in ((0.5, 1), (0.4, 5), (0.4, 23)))
    return to_texels(paint(u, v) * (0.9 + np.asarray(age))[..., None])


def _choose(where: NDArray[np.bool_], color: _Color, otherwise: _Color) -> _Color:
    return np.asarray(np.where(where[..., None], color, otherwise), dtype=np.float32)


def _random(*cells: Array, seed: int = 0) -> Array:
    """Return a number in [0, 1) for every cell of integer coordinates."""
    table = np.random.default_rng(seed).random((97, 89))
    return np.asarray(table[cells[0].astype(int) % 97, (cells[1] if len(cells) > 1 else cells[0]).astype(int) % 89])


def _blooms(u: Array, v: Array) -> _Color:
    """Paint a wallpaper of flowers with differing petals on a trellis."""
    row = np.floor(v / 0.55)
    x, y = (u / 0.5 + 0.5 * (row % 2)) % 1 - 0.5, (v / 0.55) % 1 - 0.5
    column = np.floor(u / 0.5 + 0.5 * (row % 2))
    kind, radius, angle = _random(row, column, seed=1), np.hypot(x, y), np.arctan2(y, x)
    color = _choose(np.abs(np.abs(x) + np.abs(y) - 0.5) < 0.03, _SAGE, _CREAM)
    petals = radius < 0.34 * (0.65 + 0.35 * np.cos((4 + np.floor(4 * kind)) * angle + 6 * kind))
    color = _choose(petals, np.asarray(_PALETTE[[6, 2, 5, 10]])[(4 * kind).astype(int)], color)
    color = _choose(np.abs(radius - 0.2) < 0.02, _CREAM, color)
    return _wainscot(u, v, 3.9, _choose(radius < 0.09, _GOLD, color))


def _stripes(u: Array, v: Array) -> _Color:
    """Paint wide and narrow stripes with diamonds."""
    stripe = np.floor(u / 0.32)
    color = np.asarray(_PALETTE[[4, 1, 7, 1]])[stripe.astype(int) % 4]
    color = _choose(np.abs(u % 0.32 - 0.16) < 0.012, _NAVY, color)
    diamond = np.abs(u % 0.32 - 0.16) / 0.10 + np.abs(v % 0.42 - 0.21) / 0.15
    color = _choose(diamond < 1, np.asarray(_PALETTE[[5, 2, 3, 11]])[(4 * _random(stripe, np.floor(v / 0.42))).astype(int)], color)
    return _wainscot(u, v, 3.9, _choose(diamond < 0.4, _CREAM, color))


def _wainscot(u: Array, v: Array, top: float, above: _Color) -> _Color:
    """Paint wooden panelling below ``top``, measured from the ceiling."""
    grain = 0.8 + 0.3 * np.sin(28 * u + 6 * np.sin(2 * v + 5 * np.floor(u / 0.45)))
    wood = np.asarray(_OAK * grain[..., None], dtype=np.float32)
    x, y = np.abs(u % 0.45 - 0.225), np.abs(v - top - 0.95)
    wood = _choose((np.abs(np.maximum(x - 0.15, y - 0.65)) < 0.02) | (x > 0.215), _WALNUT, wood)
    return _choose(v < top, above, _choose(v < top + 0.08, _WALNUT, wood))


def _bricks(u: Array, v: Array) -> _Color:
    row = np.floor(v / 0.21)
    x = u / 0.5 + 0.5 * (row % 2)
    tone = _random(row, np.floor(x), seed=2)[..., None]
    color = _BRICK * (1 - tone) + _CLAY * tone
    mortar = (np.abs(x % 1 - 0.5) > 0.47) | (np.abs(v % 0.21 - 0.105) > 0.092)
    return _choose(mortar, 0.8 * _CREAM, color)


def _tiles(u: Array, v: Array) -> _Color:
    """Paint tiles with quarter circles that turn from tile to tile."""
    column, row = np.floor(u / 0.45), np.floor(v / 0.45)
    kind = _random(row, column, seed=3)
    x, y = u / 0.45 % 1, v / 0.45 % 1
    x, y = np.where(kind % 0.5 < 0.25, x, 1 - x), np.where(kind < 0.5, y, 1 - y)
    ring = np.floor(np.hypot(x, y) * 5).astype(int) % 5
    color = np.asarray(_PALETTE[[1, 5, 1, 3, 7]])[(ring + (5 * kind).astype(int)) % 5]
    return _choose((np.abs(x - 0.5) > 0.485) | (np.abs(y - 0.5) > 0.485), _INK, color)


def _planks(u: Array, v: Array) -> _Color:
    row = np.floor(v / 0.3)
    x = u / 1.7 + _random(row, seed=4)
    tone = _random(row, np.floor(x), seed=5)
    grain = 0.75 + 0.35 * tone + 0.12 * np.sin(50 * v + 5 * np.sin(2 * u + 9 * tone))
    gap = (np.abs(x % 1 - 0.5) > 0.495) | (np.abs(v % 0.3 - 0.15) > 0.143)
    return _choose(gap, _INK, np.asarray(_OAK * grain[..., None], dtype=np.float32))


def _cloth(u: Array, v: Array) -> _Color:
    """Paint a tablecloth: checks, a border of zigzags, and sprigs that differ from square to square."""
    x, y = u % 0.2 < 0.1, v % 0.2 < 0.1
    color = _choose(x & y, _NAVY, _choose(x ^ y, np.asarray((_NAVY + 2 * _CREAM) / 3), _CREAM))
    kind = _random(np.floor(u / 0.2), np.floor(v / 0.2), seed=6)
    a, b = u % 0.2 - 0.15, v % 0.2 - 0.15
    sprig = np.hypot(a, b) < 0.042 * (0.6 + 0.4 * np.cos((3 + np.floor(3 * kind)) * np.arctan2(b, a) + 20 * kind))
    color = _choose(sprig, np.asarray(_PALETTE[[2, 11, 3, 6]])[(4 * kind).astype(int)], color)
    edge = np.minimum(np.minimum(u, u.max() - u), np.minimum(v, v.max() - v))
    zigzag = np.abs((u + v) % 0.12 - 0.06) + 0.06
    color = _choose(edge < 0.2, _choose(edge < zigzag, _BRICK, _CREAM), color)
    return _choose(np.abs(edge - 0.2) < 0.008, _BRICK, color)


def _rug(u: Array, v: Array) -> _Color:
    """Paint a rug with nested borders and medallions."""
    edge = np.minimum(np.minimum(u, u.max() - u), np.minimum(v, v.max() - v))
    color = np.asarray(_PALETTE[[2, 3, 5, 1, 2]])[np.minimum(edge / 0.13, 4).astype(int)]
    x, y = u % 0.6 - 0.3, v % 0.6 - 0.3
    ring = np.floor((np.abs(x) + np.abs(y)) / 0.07).astype(int) % 5
    color = _choose(edge > 0.52, np.asarray(_PALETTE[[3, 0, 1, 5, 2]])[ring], color)
    fringe = (edge < 0.13) & ((u + v) % 0.1 < 0.05)
    return _choose(fringe, _CREAM, color)


def _walls() -> list[MeshShape]:
    """Make walls, floor, ceiling and its bright panel."""
    x, y, z = np.diag(_HIGH - _LOW)
    width, depth, height = _HIGH - _LOW
    top = _LOW + z
    middle = np.array([0.2, 0.4, _HIGH[2] - 0.02])
    beams = [
        box_mesh([_LOW[0], at - 0.12, _HIGH[2] - 0.25], [_HIGH[0], at + 0.12, _HIGH[2]], _wood(7, 0.5, 31))
        for at in (-1.6, 2.4, 3.8)
    ]
    return [
        panel_mesh(top + y, -y, -z, _surface(depth, height, 130, _blooms, 0)),
        panel_mesh(top, x, -z, _surface(width, height, 130, _stripes, 1)),
        panel_mesh(top + x, y, -z, _surface(depth, height, 90, _bricks, 2)),
        panel_mesh(top + x + y, -x, -z, _surface(width, height, 90, _tiles, 3)),
        panel_mesh(_LOW, x, y, _surface(width, depth, 110, _planks, 4)),
        panel_mesh([-2.9, -1.6, _LOW[2] + 0.01], [4.4, 0, 0], [0, 4.2, 0], _surface(4.4, 4.2, 110, _rug, 5)),
        panel_mesh(top + y, x, -y, _surface(width, depth, 60, lambda u, v: _CREAM * (1 - 0.5 * (np.abs(v % 0.5 - 0.25) > 0.23))[..., None], 6)),
        *beams,
        replace(panel_mesh(middle + [-1.4, 1.4, 0], [2.8, 0, 0], [0, -2.8, 0], np.full((1, 1, 3), 255, np.uint8)), radiance=11.0),
    ]  # fmt: skip


def _wood(length: float, width: float, seed: int) -> Texels:
    return _surface(length, width, 60, lambda u, v: _planks(u + seed, 0.14 + 0.0 * v + 0.1 * np.sin(v)) * 0.8, seed)


def _table() -> list[MeshShape]:
    """Make the table, its cloth, and books and a bowl on it that no camera sees before the thing."""
    half_x, half_y = 1.35, 1.15
    cloth = _surface(2 * half_x, 2 * half_y, 420, _cloth, 7)
    shapes = [
        panel_mesh([-half_x, -half_y, TABLE_TOP], [2 * half_x, 0, 0], [0, 2 * half_y, 0], cloth),
        box_mesh([-half_x, -half_y, TABLE_TOP - 0.1], [half_x, half_y, TABLE_TOP - 0.004], cloth[:60]),
    ]
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        path = np.array([x * 1.2, y * 1.0, 0]) + np.linspace(0, 1, 80)[:, None] * [0, 0, 1] * (TABLE_TOP - 0.1 - _LOW[2])
        path[:, 2] += _LOW[2]
        radius = 0.07 + 0.025 * np.sin(np.linspace(0, 6 * np.pi, 80))
        shapes.append(tube_mesh(swept_grid(path, (1, 0, 0), radius, radius, 24), _wood(1, 1, 8)))
    rng, height = np.random.default_rng(9), TABLE_TOP
    for number in range(3):
        size, thickness = np.array([0.42, 0.30]) - 0.03 * number, 0.05 + 0.02 * rng.random()
        low = np.array([-1.15, 0.35, 0]) + [*rng.uniform(0, 0.04, 2), height]
        shapes.append(box_mesh(low, low + [*size, thickness], _cover(rng)))
        height += thickness
    return shapes


def _cover(rng: np.random.Generator) -> Texels:
    """Paint the spine of a book: cloth in one colour with bands, a label and speckles."""
    ground, figure = _PALETTE[rng.permutation(len(_PALETTE))[:2]]
    spine = np.tile(ground * (0.8 + 0.3 * rng.random()), (96, 32, 1))
    for row in rng.integers(4, 90, 4):
        spine[row : row + rng.integers(1, 5)] = figure
    start = rng.integers(15, 60)
    spine[start : start + 14, 6:26] = figure
    spine[start + 3 : start + 11 : 3, 9:23] = ground
    return to_texels(spine * (0.9 + 0.2 * rng.random((96, 32, 1))))


def _shelf() -> list[MeshShape]:
    """Make a shelf full of books on the far wall x, and another on the far wall y."""
    rng = np.random.default_rng(10)
    shapes = []
    for row, height in enumerate((-1.2, -0.2, 0.8, 1.8)):
        board = [_HIGH[0] - 0.55, -2.3, height - 0.06], [_HIGH[0], 2.6, height]
        shapes.append(box_mesh(*board, _wood(5, 0.5, 11 + row)))
        at = -2.25
        while at < 2.45 and height < 1.5:
            thickness, rise, depth = rng.uniform(0.06, 0.16), rng.uniform(0.5, 0.85), rng.uniform(0.32, 0.5)
            if rng.random() < 0.93:
                low = [_HIGH[0] - depth, at, height]
                shapes.append(box_mesh(low, [_HIGH[0] - 0.02, at + thickness, height + rise], _cover(rng)))
            at += thickness + 0.005
    return shapes


def _lamp() -> list[MeshShape]:
    """Make a table lamp with a glowing shade."""
    x, y = -0.98, -0.74
    path = np.array([x, y, TABLE_TOP]) + np.linspace(0, 1, 120)[:, None] * [0, 0, 0.62]
    t = np.linspace(0, 1, 120)
    radius = 0.025 + 0.14 * smoothstep(t, 0.12, 0.0) + 0.07 * np.exp(-(((t - 0.35) / 0.12) ** 2))
    glaze = _surface(1.2, 0.5, 120, lambda u, v: _choose((6 * u + 4 * v) % 1 < 0.5, _SAGE, _CREAM), 12)
    foot = tube_mesh(swept_grid(path, (1, 0, 0), radius, radius, 40), glaze)
    path = np.array([x, y, TABLE_TOP + 0.55]) + np.linspace(0, 1, 30)[:, None] * [0, 0, 0.36]
    radius = np.linspace(0.27, 0.17, 30)
    ribs = _surface(1, 0.4, 100, lambda u, v: _choose(u % 0.1 < 0.01, _GOLD, np.array([1, 0.86, 0.62], np.float32)) + 0 * v[..., None], 13)
    shade = tube_mesh(swept_grid(path, (1, 0, 0), radius, radius, 48), ribs.transpose(1, 0, 2).copy())
    return [foot, replace(shade, radiance=2.8)]


def _landscape(seed: int) -> Callable[[Array, Array], _Color]:
    """Return a painter of hills under a sky with clouds, from 0 to 1.2 units high."""

    def paint(u: Array, v: Array) -> _Color:
        points = np.stack([u, 2 * v, 0 * u], axis=2)
        cloud = smoothstep(solid_noise(points, 3, seed) + 0.5 * solid_noise(points, 9, seed), 0.6, 1.0)[..., None]
        color = np.asarray(_SKY * (1 - cloud) + _CREAM * cloud, dtype=np.float32)
        color = _choose(np.hypot(u - 0.3 - 0.2 * (seed % 3), v - 0.25) < 0.1, _GOLD, color)
        for number, ground in enumerate(_PALETTE[np.roll([4, 11, 3, 10, 9], seed)]):
            line = np.stack([u, 0 * u + number, 0 * u + seed], axis=2)
            ridge = 0.42 + 0.15 * number - 0.28 * solid_noise(line, (2.5, 1, 1), seed + number) - 0.06 * solid_noise(line, (14, 1, 1), seed)
            texture = 0.75 + 0.5 * solid_noise(np.stack([u, v, 0 * u], axis=2), 30 + 5 * number, seed)
            color = _choose(v > ridge, np.asarray(ground * texture[..., None], dtype=np.float32), color)
        return color

    return paint


def _wall_images() -> list[MeshShape]:
    """Make framed images on the two near walls."""
    shapes = []
    places = ((0, -1.9, 0.2, 1.5, 1.1), (0, 0.2, 0.35, 1.2, 1.5), (0, 2.3, 0.0, 1.8, 1.2), (1, -1.7, 0.3, 1.1, 1.4), (1, 0.1, 0.1, 1.7, 1.2), (1, 2.4, 0.35, 1.3, 1.3))
    for number, (wall, at, height, width, tall) in enumerate(places):
        along = np.array([0.0, 1, 0] if wall == 0 else [-1.0, 0, 0])
        inwards = np.array([1.0, 0, 0] if wall == 0 else [0, 1.0, 0])
        centre = along * at * (1 if wall == 0 else -1) + [0, 0, height + 0.4]
        centre += _LOW * inwards
        half = np.abs(along) * width / 2 + [0, 0, tall / 2]
        frame = box_mesh(centre - half - 0.09 * (np.abs(along) + [0, 0, 1]), centre + half + 0.09 * (np.abs(along) + [0, 0, 1]) + 0.07 * inwards, _wood(1, 1, 20 + number))
        corner = centre - along * width / 2 + [0, 0, tall / 2] + 0.075 * inwards
        canvas = _surface(width, tall, 180, lambda u, v, s=number, h=tall: _landscape(s)(u, v / h * 1.1), 30 + number)
        shapes += [frame, panel_mesh(corner, along * width, [0, 0, -tall], canvas)]
    return shapes


def _windows() -> list[MeshShape]:
    """Make two shining windows with bars in the far wall y."""
    shapes = []
    for number, x in enumerate((-0.9, 2.0)):
        corner = np.array([x + 0.8, _HIGH[1] - 0.01, 2.2])
        view = _surface(1.6, 2.4, 100, lambda u, v, s=number: _landscape(7 + s)(u, v / 2.2), 40)
        shapes.append(replace(panel_mesh(corner, [-1.6, 0, 0], [0, 0, -2.4], view), radiance=2.6))
        for low, high in (((-0.9, -2.5), (0.9, -2.4)), ((-0.9, 0), (0.9, 0.1)), ((-0.9, -2.4), (-0.8, 0)), ((0.8, -2.4), (0.9, 0)), ((-0.03, -2.4), (0.03, 0)), ((-0.8, -1.2), (0.8, -1.14))):
            bar = [x + low[0], _HIGH[1] - 0.09, 2.2 + low[1]], [x + high[0], _HIGH[1], 2.2 + high[1]]
            shapes.append(box_mesh(*bar, _wood(1, 0.2, 50)))
    return shapes
