"""The procedural room around the still life: table, chair, lamp, shelf, images, windows and patterned surfaces."""

from dataclasses import replace

import numpy as np

from dv.synthetic.chair import chair_shapes
from dv.synthetic.patterns import (
    CREAM,
    GOLD,
    SAGE,
    Color,
    blooms,
    boards,
    book_cover,
    bricks,
    choose,
    cloth,
    landscape,
    planks,
    rug,
    stripes,
    surface,
    tiles,
)
from dv.synthetic.shapes import (
    Array,
    MeshShape,
    Texels,
    box_mesh,
    panel_mesh,
    smoothstep,
    swept_grid,
    tube_mesh,
)

TABLE_TOP = -0.505  # just below the grid, so that the table is no part of what the grid holds
_LOW, _HIGH = np.array([-3.1, -2.9, -2.4]), np.array([4.4, 4.7, 3.4])  # opposite corners of the room


def room_shapes() -> list[MeshShape]:
    """Return everything but the thing on the table. It is closed on all sides, and lit by some of the shapes."""
    shapes = [*_walls(), *_table(), *_lamp(), *_wall_images(), *_windows(), *_shelf()]
    cos, sin = np.cos(0.8), np.sin(0.8)
    turn, floor = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]), np.array([-2.1, -2.0, _LOW[2] + 1.07])
    for shape in chair_shapes():
        shapes.append(replace(shape, vertices=2.5 * shape.vertices @ turn.T + floor, normals=shape.normals @ turn.T))
    return [replace(shape, surroundings=True) for shape in shapes]


def _walls() -> list[MeshShape]:
    """Make walls, floor, ceiling and its bright panel."""
    x, y, z = np.diag(_HIGH - _LOW)
    width, depth, height = _HIGH - _LOW
    top = _LOW + z
    middle, white = np.array([0.2, 0.4, _HIGH[2] - 0.02]), np.full((1, 1, 3), 255, dtype=np.uint8)
    beams = [
        box_mesh([_LOW[0], at - 0.12, _HIGH[2] - 0.25], [_HIGH[0], at + 0.12, _HIGH[2]], _wood(7, 0.5, 31))
        for at in (-1.6, 2.4, 3.8)
    ]
    return [
        panel_mesh(top + y, -y, -z, surface(depth, height, 130, blooms, 0)),
        panel_mesh(top, x, -z, surface(width, height, 130, stripes, 1)),
        panel_mesh(top + x, y, -z, surface(depth, height, 90, bricks, 2)),
        panel_mesh(top + x + y, -x, -z, surface(width, height, 90, tiles, 3)),
        panel_mesh(_LOW, x, y, surface(width, depth, 110, planks, 4)),
        panel_mesh([-2.9, -1.6, _LOW[2] + 0.01], [4.4, 0, 0], [0, 4.2, 0], surface(4.4, 4.2, 110, rug, 5)),
        panel_mesh(top + y, x, -y, surface(width, depth, 60, boards, 6)),
        *beams,
        replace(
            panel_mesh([middle[0] - 1.4, middle[1] + 1.4, middle[2]], [2.8, 0, 0], [0, -2.8, 0], white), radiance=11.0
        ),
    ]


def _wood(length: float, width: float, seed: int) -> Texels:
    def paint(u: Array, v: Array) -> Color:
        return np.asarray(0.8 * planks(u + seed, 0.14 + 0.1 * np.sin(v)))

    return surface(length, width, 60, paint, seed)


def _table() -> list[MeshShape]:
    """Make the table, its cloth, and books at its edge."""
    half_x, half_y = 1.35, 1.15
    checks = surface(2 * half_x, 2 * half_y, 420, cloth, 7)
    shapes = [
        panel_mesh([-half_x, -half_y, TABLE_TOP], [2 * half_x, 0, 0], [0, 2 * half_y, 0], checks),
        box_mesh([-half_x, -half_y, TABLE_TOP - 0.1], [half_x, half_y, TABLE_TOP - 0.004], checks[:60]),
    ]
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        path = np.linspace([1.2 * x, y, _LOW[2]], [1.2 * x, y, TABLE_TOP - 0.1], 80)
        radius = 0.07 + 0.025 * np.sin(np.linspace(0, 6 * np.pi, 80))
        shapes.append(tube_mesh(swept_grid(path, (1, 0, 0), radius, radius, 24), _wood(1, 1, 8)))
    rng, height = np.random.default_rng(9), TABLE_TOP
    for number in range(3):
        size, thickness = np.array([0.42, 0.30]) - 0.03 * number, 0.05 + 0.02 * rng.random()
        low = np.array([-1.15, 0.35, height]) + 0.04 * rng.random(3) * np.array([1, 1, 0])
        shapes.append(box_mesh(low, low + np.array([*size, thickness]), book_cover(rng)))
        height += thickness
    return shapes


def _shelf() -> list[MeshShape]:
    """Make a shelf full of books on the far wall x."""
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
                shapes.append(box_mesh(low, [_HIGH[0] - 0.02, at + thickness, height + rise], book_cover(rng)))
            at += thickness + 0.005
    return shapes


def _lamp() -> list[MeshShape]:
    """Make a table lamp with a glowing shade."""
    x, y = -0.98, -0.74
    path = np.linspace([x, y, TABLE_TOP], [x, y, TABLE_TOP + 0.62], 120)
    t = np.linspace(0, 1, 120)
    radius = 0.025 + 0.14 * smoothstep(t, 0.12, 0.0) + 0.07 * np.exp(-(((t - 0.35) / 0.12) ** 2))
    glaze = surface(1.2, 0.5, 120, lambda u, v: choose((6 * u + 4 * v) % 1 < 0.5, SAGE, CREAM), 12)
    foot = tube_mesh(swept_grid(path, (1, 0, 0), radius, radius, 40), glaze)
    path = np.linspace([x, y, TABLE_TOP + 0.55], [x, y, TABLE_TOP + 0.91], 30)
    radius = np.linspace(0.27, 0.17, 30)
    warm = np.array([1, 0.86, 0.62], dtype=np.float32)
    ribs = surface(0.4, 1, 100, lambda _, v: choose(v % 0.1 < 0.01, GOLD, warm), 13)
    shade = tube_mesh(swept_grid(path, (1, 0, 0), radius, radius, 48), ribs)
    return [foot, replace(shade, radiance=2.8)]


# Images on the near walls: wall (0: x, 1: y), position along it, height of the centre, width and height.
_IMAGES = (
    (0, -1.9, 0.6, 1.5, 1.1), (0, 0.2, 0.75, 1.2, 1.5), (0, 2.3, 0.4, 1.8, 1.2),
    (1, -1.7, 0.7, 1.1, 1.4), (1, 0.1, 0.5, 1.7, 1.2), (1, 2.4, 0.75, 1.3, 1.3),
)  # fmt: skip


def _wall_images() -> list[MeshShape]:
    """Make framed landscapes on the two near walls."""
    shapes = []
    for number, (wall, at, height, width, tall) in enumerate(_IMAGES):
        inwards, along = np.eye(3)[wall], np.eye(3)[1 - wall]
        centre = _LOW * inwards + at * along + [0, 0, height]
        half = (width / 2 + 0.09) * along + [0, 0, tall / 2 + 0.09]
        to_right = -along if wall == 0 else along  # seen from inside
        corner = centre - to_right * width / 2 + [0, 0, tall / 2] + 0.075 * inwards
        canvas = surface(width, tall, 180, landscape(number, tall / 1.1), 30 + number)
        shapes.append(box_mesh(centre - half, centre + half + 0.07 * inwards, _wood(1, 1, 20 + number)))
        shapes.append(panel_mesh(corner, width * to_right, [0, 0, -tall], canvas))
    return shapes


# Bars of a window: left, bottom, right and top, from the middle of its upper edge.
_BARS = (
    (-0.9, -2.5, 0.9, -2.4), (-0.9, 0, 0.9, 0.1), (-0.9, -2.4, -0.8, 0), (0.8, -2.4, 0.9, 0),
    (-0.03, -2.4, 0.03, 0), (-0.8, -1.2, 0.8, -1.14),
)  # fmt: skip


def _windows() -> list[MeshShape]:
    """Make two shining windows with bars in the far wall y."""
    shapes, wall, top = [], _HIGH[1], 2.2
    for number, x in enumerate((-0.9, 2.0)):
        view = surface(1.6, 2.4, 100, landscape(7 + number, 2.2), 40)
        pane = panel_mesh([x + 0.8, wall - 0.01, top], [-1.6, 0, 0], [0, 0, -2.4], view)
        shapes.append(replace(pane, radiance=2.6))
        for left, low, right, high in _BARS:
            shapes.append(
                box_mesh([x + left, wall - 0.09, top + low], [x + right, wall, top + high], _wood(1, 0.2, 50))
            )
    return shapes
