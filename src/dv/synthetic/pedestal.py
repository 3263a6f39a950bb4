"""The procedural pedestal: a painted plinth, a fluted drum with a frieze, and a square top with a basin."""

import numpy as np
from numpy.typing import NDArray

from dv.synthetic.shapes import (
    Array,
    MeshShape,
    Texels,
    smoothstep,
    solid_noise,
    surface_noise,
    texel_positions,
    to_texels,
    tube_mesh,
)

_NIGHT, _RED, _OCHRE, _MARBLE, _BLUE, _BLACK, _GREEN, _PALE, _PINK = _PALETTE = np.array([
    (0.05, 0.07, 0.28), (0.58, 0.07, 0.05), (0.93, 0.62, 0.13), (0.97, 0.94, 0.87), (0.10, 0.33, 0.66),
    (0.06, 0.05, 0.05), (0.05, 0.30, 0.18), (0.62, 0.85, 0.80), (0.93, 0.68, 0.58),
], dtype=np.float32)  # fmt: skip
_ROWS, _COLUMNS = 640, 576
_FLUTES, _KEYS = 20, 16

# Parts of the outline from the centre of the underside to the centre of the basin: name, end point (half width, height,
# squareness: 0 round, 1 square), and how far the segment to that point bulges outwards.
_START = (0.0005, -0.42, 1.0)
_PARTS = (
    ("under", (0.243, -0.42, 1.0), 0.0), ("plinth", (0.243, -0.295, 1.0), 0.0), ("edge", (0.231, -0.283, 1.0), 0.004),
    ("ledge", (0.205, -0.283, 0.0), 0.0), ("torus", (0.205, -0.222, 0.0), 0.032), ("fillet", (0.194, -0.216, 0.0), 0.0),
    ("scotia", (0.180, -0.170, 0.0), -0.024), ("fillet", (0.182, -0.165, 0.0), 0.0),
    ("ring", (0.178, -0.130, 0.0), 0.019), ("foot", (0.157, -0.112, 0.0), -0.006),
    ("drum", (0.150, 0.010, 0.0), 0.002), ("step", (0.164, 0.016, 0.0), 0.0), ("frieze", (0.163, 0.100, 0.0), 0.0),
    ("step", (0.147, 0.106, 0.0), 0.0), ("upper", (0.141, 0.195, 0.0), 0.0), ("bead", (0.141, 0.225, 0.0), 0.014),
    ("echinus", (0.217, 0.290, 0.0), -0.016), ("soffit", (0.226, 0.292, 1.0), 0.0),
    ("abacus", (0.226, 0.355, 1.0), 0.0), ("cyma", (0.243, 0.380, 1.0), -0.007), ("lip", (0.243, 0.403, 1.0), 0.003),
    ("top", (0.188, 0.410, 0.0), 0.0), ("rim", (0.172, 0.404, 0.0), 0.006), ("basin", (0.0005, 0.312, 0.0), 0.03),
)  # fmt: skip


def pedestal_shapes() -> list[MeshShape]:
    """Return the mesh of a weathered column base in painted marble whose colours and motifs differ at every azimuth."""
    outline, extents = _outline()
    position, turn = np.linspace(0, 1, _ROWS)[:, None], np.linspace(0, 1, _COLUMNS + 1)[None]
    angle = 2 * np.pi * turn
    # |cos|^p + |sin|^p with a large p is a square with slightly rounded edges.
    square = (np.abs(np.cos(angle)) ** 40 + np.abs(np.sin(angle)) ** 40) ** (-1 / 40)
    width, height, squareness = outline.T[..., None]
    radius = width * (1 + squareness * (square - 1)) + _relief(position, turn, extents)
    grid = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.broadcast_to(height, radius.shape)], axis=2)
    return [tube_mesh(grid, _paint(grid, extents), roughness=0.14)]


def _outline() -> tuple[Array, dict[str, tuple[float, float]]]:
    """Return evenly spaced half width, height and squareness ``[rows, 3]``, and each part's (start, end) in 0 to 1."""
    points, part_of = [np.array(_START)], [0]
    for number, (_, end, bulge) in enumerate(_PARTS):
        start, t = points[-1], np.linspace(0, 1, 41)[1:, None]
        segment = np.array(end) - start
        outwards = np.array([segment[1], -segment[0], 0]) / np.hypot(segment[0], segment[1])
        points += list(start + t * segment + bulge * np.sin(np.pi * t) ** 0.7 * outwards)
        part_of += [number] * len(t)
    curve = np.array(points)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve[:, :2], axis=0), axis=1))])
    length /= length[-1]
    last = {number: length[i] for i, number in enumerate(part_of)}
    extents = {name: (last[n - 1] if n else 0.0, last[n]) for n, (name, _, _) in enumerate(_PARTS)}
    even = np.linspace(0, 1, _ROWS)
    return np.stack([np.interp(even, length, axis) for axis in curve.T], axis=1), extents


def _along(position: Array, extents: dict[str, tuple[float, float]], part: str) -> Array:
    """Map positions along the whole outline (0 to 1) to positions along one part (0 to 1)."""
    first, last = extents[part]
    return np.asarray((position - first) / (last - first))


def _side(turn: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the side of the square (0 to 3) and the position across it (-1 to 1)."""
    quarter = (4 * turn + 0.5) % 4
    return np.floor(quarter).astype(np.int64), np.tan((quarter % 1 - 0.5) * np.pi / 2)


def _emblem(side: NDArray[np.int64], x: Array, y: Array) -> Array:
    """Return the signed field of the emblem on a side of the plinth at x, y (half heights): positive inside."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    palmette = 0.72 * np.abs(np.cos(3.5 * (angle - np.pi / 2))) ** 0.5 * smoothstep(angle, -2.6, -0.4) - radius
    star = 0.55 + 0.22 * np.cos(8 * angle) - radius
    rings = np.sin(17 * radius) * 0.1 * smoothstep(radius, 0.78, 0.72)
    rhombs = 0.62 - np.abs(x) * 0.6 - np.abs(y) + 0.25 * np.sin(9 * np.maximum(np.abs(x), np.abs(y)))
    return np.choose(side, [star, palmette, rings, rhombs])


def _relief(position: Array, turn: Array, extents: dict[str, tuple[float, float]]) -> Array:
    """Return the outward displacement ``[rows, columns]`` of the surface."""

    def within(part: str) -> Array:
        """Return 1 on the part and 0 elsewhere, smooth at its ends."""
        along = _along(position, extents, part)
        return smoothstep(along, 0.0, 0.08) * smoothstep(along, 1.0, 0.92)

    twist = _along(position, extents, "upper")
    flutes = np.abs(np.sin(np.pi * _FLUTES * turn)) ** 0.7 * within("drum")
    twisted = np.abs(np.sin(np.pi * _FLUTES * (turn + 0.12 * twist))) * within("upper")
    side, across = _side(turn)
    x, y = 3.9 * across, 2 * _along(position, extents, "plinth") - 1
    panel = smoothstep(np.maximum(np.abs(y) / 0.78, np.abs(across) / 0.93), 1.0, 0.9) * within("plinth")
    emblem = sum(smoothstep(_emblem(side, x - shift, y), -0.1, 0.1) for shift in (-2.4, 0.0, 2.4))
    dentils = smoothstep(np.cos(2 * np.pi * 7 * across), -0.2, 0.2) * within("abacus")
    eggs = np.abs(np.cos(np.pi * 24 * turn)) * within("echinus")
    beads = np.abs(np.sin(np.pi * 30 * turn)) * within("bead")
    rope = np.abs(np.sin(np.pi * (26 * turn + 1.2 * _along(position, extents, "torus")))) * within("torus")
    key = _greek_key(turn, _along(position, extents, "frieze")) * within("frieze")
    shells = np.abs(np.cos(np.pi * 12 * turn)) * smoothstep(_along(position, extents, "basin"), 0.02, 0.1)
    shells = shells * smoothstep(_along(position, extents, "basin"), 0.95, 0.6)
    return np.asarray(
        -0.020 * flutes - 0.014 * twisted - 0.016 * panel + 0.014 * panel * emblem - 0.022 * dentils + 0.010 * eggs
        - 0.010 * beads - 0.009 * rope - 0.008 * key + 0.012 * shells
    )  # fmt: skip


def _greek_key(turn: Array, along: Array) -> Array:
    """Return 1 on the line of the Greek key around the frieze, 0 elsewhere."""
    pattern = np.array([
        [1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 0, 1, 0, 1],
        [1, 0, 1, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ])  # fmt: skip
    row = ((1 - along) * 9).clip(0, 8.999).astype(int)
    return np.asarray(pattern[row, np.floor(_KEYS * turn * 8).astype(int) % 8], dtype=np.float64)


def _paint(grid: Array, extents: dict[str, tuple[float, float]]) -> Texels:
    """Return the texture ``[rows along the outline, columns of azimuth, 3]``."""
    rows, columns = 1024, 1536
    position, turn = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns)[None] + 0.5) / columns
    texel_points = texel_positions(grid, rows, columns)
    colors = np.empty((rows, columns, 3), dtype=np.float32)
    colors[:] = _MARBLE
    side, across = _side(turn)

    def area(part: str) -> tuple[NDArray[np.float32], Array]:
        """Return the part's rows of the texture, and the positions along the part (0 to 1)."""
        first, last = np.searchsorted(position[:, 0], extents[part])
        return colors[first:last], _along(position[first:last], extents, part)

    def paint(part: NDArray[np.float32], where: NDArray[np.bool_], color: NDArray[np.float32]) -> None:
        np.copyto(part, color, where=where[..., None])

    def sectors(shift: float, choice: list[int]) -> NDArray[np.float32]:
        """Return colours ``[1, columns, 3]`` by azimuth, so that a view's mean colour predicts others poorly."""
        return np.asarray(_PALETTE[np.array(choice)[np.floor(len(choice) * (turn + shift)).astype(int) % len(choice)]])

    plinth, along = area("plinth")
    x, y = 3.9 * across, 2 * along - 1
    ground = _PALETTE[np.array([0, 1, 3, 2])[side]]
    plinth[:] = ground
    paint(plinth, (np.abs(y) < 0.78) & (np.abs(across) < 0.93), _PALETTE[np.array([5, 0, 8, 3])[side]])
    paint(plinth, (np.abs((x * 4) % 1 - 0.5) + np.abs((y * 4) % 1 - 0.5) < 0.16) & (np.abs(y) < 0.74), ground)
    for shift, inks in ((-2.4, [2, 1, 1, 0]), (0.0, [3, 7, 0, 1]), (2.4, [2, 1, 6, 5])):
        emblem = _emblem(side, x - shift, y)
        paint(plinth, emblem > -0.04, _PALETTE[np.array(inks)[side]])
        paint(plinth, np.abs(emblem - 0.1) < 0.035, _PALETTE[np.array([1, 3, 5, 2])[side]])
    paint(plinth, (np.abs(y) > 0.84) & ((34 * across) % 1 < 0.5), _PALETTE[np.array([2, 0, 3, 1])[side]])

    for part, shift, ground, ink, count, slant in (
        ("edge", 0.0, [0, 5, 3, 2], [2, 1, 1, 3], 60, 0.0), ("ledge", 0.1, [5, 0, 3, 3], [1, 4, 2, 8], 40, 2.0),
        ("torus", 0.3, [0, 5, 3, 2], [1, 2, 7, 3], 26, 1.2), ("scotia", 0.55, [5, 6, 3, 7], [4, 2, 1, 3], 36, 0.0),
        ("ring", 0.8, [0, 5, 3, 2], [4, 1, 2, 3], 44, -2.0), ("foot", 0.2, [1, 0, 3, 3], [5, 4, 2, 7], 40, 0.0),
        ("step", 0.4, [5, 0, 2, 3], [1, 4, 3, 0], 48, 0.0), ("bead", 0.7, [5, 0, 3, 2], [2, 4, 1, 3], 30, 0.0),
        ("lip", 0.15, [5, 0, 3, 3], [1, 2, 2, 0], 56, 3.0), ("cyma", 0.65, [0, 1, 3, 2], [4, 0, 8, 3], 64, 0.0),
    ):  # fmt: skip
        band, along = area(part)
        band[:] = sectors(shift, ground)
        paint(band, (count * turn + slant * along) % 1 < 0.3, sectors(shift, ink))

    drum, along = area("drum")
    flute = np.floor(_FLUTES * turn).astype(int)
    drum[:] = _PALETTE[np.array([3, 2, 3, 3, 3, 7, 3, 2, 3, 0, 5, 1, 0, 5, 6, 0, 5, 1, 0, 5])[flute]]
    dots = np.hypot((_FLUTES * turn) % 1 - 0.5, 0.9 * ((7 * along + 0.5 * (flute % 2)) % 1 - 0.5))
    paint(drum, dots < 0.22, _PALETTE[np.array([1, 0, 4, 5, 6, 1, 0, 5, 1, 3, 2, 7, 2, 3, 8, 2, 7, 2, 3, 8])[flute]])
    paint(drum, dots < 0.09, _PALETTE[np.array([2, 3])[flute % 2]])
    frieze, along = area("frieze")
    frieze[:] = sectors(0.35, [5, 0, 3, 3, 1])
    paint(frieze, _greek_key(turn, along) > 0, sectors(0.35, [2, 3, 1, 0, 2]))
    upper, along = area("upper")
    strand = np.floor(_FLUTES * (turn + 0.12 * along)).astype(int) % _FLUTES
    upper[:] = _PALETTE[np.array([0, 5, 1, 0, 5, 6, 0, 1, 5, 0, 3, 2, 3, 7, 3, 3, 2, 8, 3, 3])[strand]]
    paint(upper, np.abs((_FLUTES * (turn + 0.12 * along)) % 1 - 0.5) < 0.1 + 0.06 * np.sin(50 * along), _OCHRE)
    echinus, along = area("echinus")
    egg = np.abs((24 * turn + 0.5) % 1 - 0.5)
    echinus[:] = sectors(0.9, [0, 5, 3, 2])
    paint(echinus, egg < 0.36 * np.sin(np.pi * along.clip(0, 1)) ** 0.6, sectors(0.9, [2, 1, 7, 3]))
    paint(echinus, egg < 0.14 * np.sin(np.pi * along.clip(0, 1)), sectors(0.9, [3, 2, 0, 1]))
    abacus, along = area("abacus")
    abacus[:] = _PALETTE[np.array([3, 5, 0, 2])[side]]
    paint(abacus, np.cos(2 * np.pi * 7 * across) < 0, _PALETTE[np.array([2, 1, 4, 3])[side]])
    paint(
        abacus, np.abs((14 * across) % 1 - 0.5) + np.abs(3 * along - 1.5) < 0.4, _PALETTE[np.array([2, 3, 3, 1])[side]]
    )

    top, _ = area("top")
    x, y, _ = np.moveaxis(texel_points[slice(*np.searchsorted(position[:, 0], extents["top"]))], -1, 0)
    mosaic = np.floor(64 * x).astype(int) + np.floor(64 * y).astype(int)
    top[:] = _PALETTE[np.array([0, 5, 3, 3])[side]]
    paint(top, mosaic % 3 == 0, np.broadcast_to(_PALETTE[np.array([4, 1, 2, 8])[side]], top.shape))
    paint(top, np.maximum(np.abs(x), np.abs(y)) > 0.222, _RED)
    rim, _ = area("rim")
    rim[:] = sectors(0.6, [2, 5, 3, 1, 0])
    basin, along = area("basin")
    shell = np.floor(12 * turn + 0.5).astype(int) % 12
    basin[:] = _PALETTE[np.array([0, 5, 4, 0, 6, 1, 3, 7, 3, 2, 3, 8])[shell]]
    paint(
        basin,
        np.sin(45 * along + 2 * np.cos(2 * np.pi * 12 * turn)) > 0.6,
        _PALETTE[np.array([2, 3, 7, 2, 3, 2, 0, 1, 4, 5, 1, 0])[shell]],
    )
    paint(basin, along > 0.8, _OCHRE)
    paint(basin, along > 0.9, _NIGHT)

    # Weathering: streaks of verdigris, soot, and grain at every scale.
    coarse = texel_points[::2, ::2]
    stain = solid_noise(coarse, (26, 26, 5), 3) * solid_noise(coarse, 7, 4)
    verdigris = 0.75 * smoothstep(stain, 0.47, 0.65).repeat(2, 0).repeat(2, 1)[..., None]
    soot = 0.55 * smoothstep(solid_noise(coarse, 6, 5), 0.66, 0.84).repeat(2, 0).repeat(2, 1)[..., None]
    colors += verdigris * (np.array((0.28, 0.62, 0.52), np.float32) - colors)
    colors *= 1 - soot
    rng = np.random.default_rng(0)
    for cells in (60, 170, 400):
        colors *= 1 - 0.18 * surface_noise(rng, rows, columns, cells)[..., None]
    return to_texels(1.08 * colors)
