"""The procedural puzzle cube: 3 x 3 x 3 carved stones, the top layer turned and three stones missing."""

import numpy as np
from numpy.typing import NDArray

from dv.synthetic.shapes import Array, MeshShape, smoothstep, to_texels

_PITCH, _HALF_SIDE, _EDGE_RADIUS = 0.205, 0.0985, 0.016  # distance between stones, half side and edge radius of each
_TOP_TURN = np.radians(27.0)
_MISSING = ((1, 1, 1), (-1, -1, 0), (1, -1, -1))
_TILE = 160  # texels per side of a stone's face
_PATTERN_COUNT = 9
_NIGHT, _PLUM, _FOREST, _CRIMSON, _CREAM, _GOLD, _SKY, _ORANGE, _TEAL, _BLACK = _PALETTE = np.array([
    (0.03, 0.05, 0.24), (0.26, 0.03, 0.24), (0.03, 0.22, 0.10), (0.60, 0.03, 0.07), (0.98, 0.95, 0.86),
    (0.98, 0.76, 0.14), (0.64, 0.90, 0.95), (0.96, 0.42, 0.06), (0.02, 0.42, 0.46), (0.04, 0.04, 0.05),
], dtype=np.float32)  # fmt: skip
# Palette indices of ground, figure and detail, for even and odd stones, on the cube's sides -x, +x, -y, +y, -z, +z.
_COLORS = np.array([
    [(4, 3, 0), (5, 9, 3)], [(0, 5, 6), (9, 4, 7)], [(3, 5, 4), (1, 6, 5)], [(6, 0, 7), (4, 8, 1)],
    [(2, 5, 4), (8, 4, 0)], [(9, 5, 3), (4, 0, 8)],
])  # fmt: skip


def cube_shapes() -> list[MeshShape]:
    """Return the mesh of a puzzle cube. Every face is carved differently; gaps and missing stones show its inside."""
    stones = [
        cell for cell in ((x, y, z) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)) if cell not in _MISSING
    ]
    columns = 12
    tiles = np.zeros((-(-6 * len(stones) // columns), columns, _TILE, _TILE, 3), dtype=np.float32)
    parts = []
    for number, cell in enumerate(stones):
        for side in range(6):
            index = 6 * number + side
            tile = divmod(index, columns)
            outside = cell[side // 2] == 2 * (side % 2) - 1
            pattern = (5 * index + side + index // 7) % _PATTERN_COUNT if outside else -1
            x, y = (
                2 * axis
                for axis in np.meshgrid((np.arange(_TILE) + 0.5) / _TILE - 0.5, (np.arange(_TILE) + 0.5) / _TILE - 0.5)
            )
            tiles[tile] = _face_texture(pattern, x, y, side, sum(cell) % 2, index)
            parts.append(_face(pattern, side, cell, (tile[1], tile[0]), tiles.shape[1::-1], index))
    texture = tiles.transpose(0, 2, 1, 3, 4).reshape(tiles.shape[0] * _TILE, columns * _TILE, 3)
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = [part.faces + np.uint32(start) for part, start in zip(parts, starts, strict=False)]
    vertices, normals, uv = (
        np.concatenate([getattr(part, key) for part in parts]) for key in ("vertices", "normals", "uv")
    )
    return [MeshShape(vertices, normals, uv, np.concatenate(faces), to_texels(texture), roughness=0.09)]


def _face(
    pattern: int, side: int, cell: tuple[int, ...], tile: tuple[int, int], tiles: tuple[int, int], index: int
) -> MeshShape:
    """Make one of a stone's six faces (``side``: 2 * axis + 1 if positive), with its relief carved inwards."""
    edge = _HALF_SIDE - _EDGE_RADIUS
    rim = edge + _EDGE_RADIUS * np.tan(np.linspace(0, np.pi / 4, 5)[1:])
    line = np.concatenate([-rim[::-1], np.linspace(-edge, edge, 41), rim])
    x, y = np.meshgrid(line, line)
    # The axes are right-handed: seen from outside, the face is spanned by the second and the third.
    axis, sign = side // 2, 2 * (side % 2) - 1
    first, second = (axis + 1) % 3, (axis + 2) % 3
    points = np.empty((*x.shape, 3))
    points[..., axis], points[..., first], points[..., second] = sign * _HALF_SIDE, sign * x, y
    core = points.clip(-edge, edge)
    normals = points - core
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    points = core + _EDGE_RADIUS * normals
    points[..., axis] -= sign * _relief(pattern, x / _HALF_SIDE, y / _HALF_SIDE, index)
    carved = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
    inner = (slice(5, -5),) * 2  # the rim keeps the normals that it shares with the next face
    normals[inner] = carved[inner] / np.linalg.norm(carved[inner], axis=2, keepdims=True)
    points += np.array(cell) * _PITCH
    if cell[2] == 1:
        c, s = np.cos(_TOP_TURN), np.sin(_TOP_TURN)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        points, normals = points @ turn.T, normals @ turn.T
    # Half a texel inside the tile's border, so that interpolation does not mix in other tiles.
    uv = (0.5 + np.stack([x, y], -1) / (2 * _HALF_SIDE) * (1 - 1 / _TILE) + np.array(tile)) / np.array(tiles)
    grid = np.arange(x.size, dtype=np.uint32).reshape(x.shape)
    here, right, up, across = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    faces = np.concatenate([np.stack([here, right, across], -1), np.stack([here, across, up], -1)])
    texture = np.zeros((1, 1, 3), dtype=np.uint8)
    return MeshShape(points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces.reshape(-1, 3), texture)


def _pattern_fields(pattern: int, x: Array, y: Array, index: int) -> tuple[Array, Array]:
    """Return the signed fields of a pattern's figure and detail at x, y in [-1, 1]: positive inside, slopes about 1."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    count = 5 + index % 4
    spin = angle + 0.7 * index
    if pattern == 0:  # bowl with rings
        return 0.68 - radius, np.sin(24 * radius) / 24
    if pattern == 1:  # star, dotted around
        star = 0.42 + 0.24 * np.cos(count * spin) - radius
        around = (spin * 14 / (2 * np.pi)) % 1 - 0.5
        return star, 0.07 - np.hypot(0.36 * around, radius - 0.66)
    if pattern == 2:  # chequers within a frame
        inside = 0.74 - np.maximum(np.abs(x), np.abs(y))
        checks = np.sin(np.pi * 4 * x / 0.74) * np.sin(np.pi * 4 * y / 0.74)
        return np.minimum(inside, 0.1 * checks), 0.05 - np.abs(inside + 0.06)
    if pattern == 3:  # pips
        pip = np.hypot((1.8 * x + 10.5) % 1 - 0.5, (1.8 * y + 10.5) % 1 - 0.5) / 1.8
        inside = 0.82 - np.maximum(np.abs(x), np.abs(y))
        return np.minimum(0.19 - pip, inside), np.minimum(0.09 - pip, inside)
    if pattern == 4:  # flower
        petals = 0.7 * np.abs(np.cos(count / 2 * spin)) ** 0.6 - radius
        return petals, np.minimum(0.04 - np.abs(radius - 0.33), petals + 0.05)
    if pattern == 5:  # spiral
        arm = np.abs((angle / (2 * np.pi) + 3.2 * radius * (-1) ** index) % 1 - 0.5) / 3.2
        return np.minimum(0.08 - arm, 0.8 - radius), np.minimum(0.025 - arm, 0.8 - radius)
    if pattern == 6:  # Truchet tiles: quarter circles with random orientation
        cells = 5
        u, v = (cells * (axis * 0.98 + 1) / 2 for axis in (x, y))
        turned = np.sin(12.99 * np.floor(u) + 78.2 * np.floor(v) + index) > 0
        u, v = np.where(turned, 1 - u % 1, u % 1), v % 1
        arc = np.minimum(np.abs(np.hypot(u, v) - 0.5), np.abs(np.hypot(1 - u, 1 - v) - 0.5)) * 2 / cells
        inside = 0.82 - np.maximum(np.abs(x), np.abs(y))
        return np.minimum(0.085 - arc, inside), np.minimum(0.03 - arc, inside)
    if pattern == 7:  # nested diamonds
        ring = np.abs(x) + np.abs(y)
        return np.minimum(np.sin(13 * ring) / 13, 0.95 - ring), np.minimum(np.sin(39 * ring) / 39, 0.45 - ring)
    wave = np.sin(9 * x + 2.5 * np.sin(5 * y + index)) / 9  # waves
    inside = 0.8 - np.maximum(np.abs(x), np.abs(y))
    return np.minimum(wave, inside), np.minimum(0.03 - np.abs(wave - 0.06), inside)


def _relief(pattern: int, x: Array, y: Array, index: int) -> Array:
    """Return how deep (world) a face is carved at x, y in [-1, 1]; zero near its edges."""
    if pattern < 0:
        return np.zeros_like(x)
    figure, detail = _pattern_fields(pattern, x, y, index)
    within = smoothstep(np.maximum(np.abs(x), np.abs(y)), 0.83, 0.76)
    if pattern == 0:
        return 0.1 * smoothstep(figure, 0.0, 0.45)
    return within * (0.012 * smoothstep(figure, -0.03, 0.03) + 0.006 * smoothstep(detail, -0.015, 0.015))


def _face_texture(pattern: int, x: Array, y: Array, side: int, odd: int, index: int) -> NDArray[np.float32]:
    """Return the colours ``[rows, columns, 3]`` of a stone's face at x, y in [-1, 1]."""
    rng = np.random.default_rng(index)
    if pattern < 0:  # inner face, visible only through gaps
        color = np.where(((4 * (x + y)) % 1 < 0.5)[..., None], _BLACK, _TEAL)
    else:
        ground, figure, detail = _PALETTE[_COLORS[side, odd]]
        hatched = np.sin(60 * (x if index % 2 else y) + 3 * np.sin(7 * (x - y))) > 0.4
        in_figure, in_detail = (field > 0 for field in _pattern_fields(pattern, x, y, index))
        color = np.where(hatched[..., None], 0.8 * ground + 0.2 * figure, ground)
        color = np.where(in_figure[..., None], figure, color)
        color = np.where(in_detail[..., None], detail, color)
        edge = np.maximum(np.abs(x), np.abs(y))
        beads = ((9 * x) % 1 < 0.5) ^ ((9 * y) % 1 < 0.5)
        color = np.where((edge > 0.87)[..., None], np.where(beads[..., None], figure, ground), color)
        color = np.where(((edge > 0.84) & (edge < 0.875))[..., None], _GOLD, color)
    grain = np.kron(rng.random((_TILE // 4, _TILE // 4)), np.ones((4, 4))) + rng.random(x.shape)
    return np.asarray(color * (0.78 + 0.22 * grain[..., None]), dtype=np.float32)
