"""The procedural vase: profile, handles, relief and glaze."""

import numpy as np
from numpy.typing import NDArray

from dv.synthetic.shapes import Array, MeshShape, Texels, spline, surface_noise, to_texels, tube_mesh

# Radius and height, from the centre of the underside up the outer wall, over the lip and down the inner wall.
_PROFILE = np.array([
    (0.0005, -0.435), (0.15, -0.445), (0.215, -0.46), (0.235, -0.445), (0.215, -0.405), (0.15, -0.355),
    (0.14, -0.325), (0.20, -0.26), (0.29, -0.16), (0.345, -0.04), (0.355, 0.05), (0.335, 0.12), (0.27, 0.19),
    (0.19, 0.235), (0.16, 0.28), (0.165, 0.35), (0.205, 0.42), (0.25, 0.455), (0.255, 0.468), (0.235, 0.465),
    (0.185, 0.42), (0.14, 0.35), (0.135, 0.28), (0.17, 0.22), (0.25, 0.165), (0.31, 0.10), (0.325, 0.04),
    (0.315, -0.04), (0.26, -0.15), (0.16, -0.24), (0.0005, -0.27),
])  # fmt: skip
# Index of the first and last profile point of each band of relief and decoration.
_FOOT, _WAIST, _FLUTES, _BELLY, _SHOULDER, _NECK, _LIP, _INSIDE = (
    (2, 4), (4, 7), (7, 9), (9, 11), (11, 13), (13, 16), (16, 19), (19, 30),
)  # fmt: skip
_FLUTE_COUNT, _PANEL_COUNT = 16, 8
_NIGHT, _PLUM, _LEAF, _CRIMSON, _CREAM, _GOLD, _SKY, _ORANGE, _TEAL = _PALETTE = np.array([
    (0.03, 0.05, 0.22), (0.27, 0.03, 0.26), (0.04, 0.25, 0.10), (0.62, 0.04, 0.08), (1.00, 0.96, 0.85),
    (0.98, 0.75, 0.16), (0.66, 0.92, 0.93), (0.95, 0.40, 0.06), (0.02, 0.45, 0.48),
], dtype=np.float32)  # fmt: skip


def vase_shapes() -> list[MeshShape]:
    """Return the meshes of a hollow amphora: a fluted and embossed body and two handles.

    The glaze differs at every azimuth, so that no view can be predicted from the others without their poses.
    """
    rows, columns = 400, 252
    profile, knots = spline(_PROFILE, rows)
    position, turn = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns + 1)[None]
    flute, flute_strength = _flutes(turn, position, knots)
    _, distance, _, boss_window = _panels(turn, position, knots)
    fluting = 0.016 * flute_strength * np.abs(np.sin(np.pi * flute))
    bosses = 0.012 * boss_window * np.exp(-((distance / 0.06) ** 6))
    radius = profile[:, :1] + fluting + bosses
    azimuth = 2 * np.pi * turn
    height = np.broadcast_to(profile[:, 1:], radius.shape)
    body = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=2)
    return [
        tube_mesh(body, _vase_glaze(knots)),
        tube_mesh(_handle(0.3), _handle_glaze(_CREAM, _CRIMSON, 7)),
        tube_mesh(_handle(0.3 + np.pi), _handle_glaze(_NIGHT, _GOLD, 5)),
    ]


def _along_band(position: Array, knots: Array, band: tuple[int, int]) -> Array:
    """Map positions along the whole profile (0 to 1) to positions along one band (0 to 1)."""
    first, last = knots[list(band)]
    return np.asarray((position - first) / (last - first))


def _flutes(turn: Array, position: Array, knots: Array) -> tuple[Array, Array]:
    """Return the index of the twisted flute (its fraction: position across), and the relief's strength (0 to 1)."""
    along = _along_band(position, knots, _FLUTES)
    strength = np.sin(np.pi * along.clip(0, 1)) ** 0.5
    return _FLUTE_COUNT * (turn + 0.10 * along), strength


def _panels(turn: Array, position: Array, knots: Array) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """Return the belly panel, distance (world) and angle about its centre, and 1 on the belly, 0 elsewhere."""
    along = _along_band(position, knots, _BELLY)
    panel = np.floor(_PANEL_COUNT * turn)
    belly_radius = _PROFILE[_BELLY[0] : _BELLY[1] + 1, 0].mean()
    belly_length = np.linalg.norm(np.diff(_PROFILE[_BELLY[0] : _BELLY[1] + 1], axis=0), axis=1).sum()
    x = (turn - (panel + 0.5) / _PANEL_COUNT) * 2 * np.pi * belly_radius
    y = (along - 0.5) * belly_length
    inside = ((along >= 0) & (along <= 1)).astype(np.float64)
    return panel.astype(np.int64) % _PANEL_COUNT, np.hypot(x, y), np.arctan2(y, x), inside


def _handle(turn: float) -> Array:
    """Return the grid ``[rows, columns, 3]`` of a tapering tube from belly to neck at azimuth ``turn`` (radians)."""
    middle, _ = spline(
        np.array([(0.32, 0.10), (0.385, 0.13), (0.425, 0.20), (0.405, 0.28), (0.33, 0.33), (0.24, 0.33), (0.15, 0.31)]),
        120,
    )
    tangent = np.gradient(middle, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    around = np.linspace(0, 2 * np.pi, 33)[None]
    thickness = np.linspace(0.036, 0.026, len(middle))[:, None]
    in_plane = thickness * np.cos(around)
    radial = middle[:, :1] + in_plane * tangent[:, 1:]
    height = middle[:, 1:] - in_plane * tangent[:, :1]
    sideways = thickness * np.sin(around)
    x, y = np.cos(turn), np.sin(turn)
    return np.stack([radial * x - sideways * y, radial * y + sideways * x, height], axis=2)


def _handle_glaze(ground: NDArray[np.float32], stripe: NDArray[np.float32], turns: int) -> Texels:
    along, around = (np.arange(512)[:, None] + 0.5) / 512, (np.arange(128)[None] + 0.5) / 128
    striped = ((turns * along + around) % 1 < 0.38)[..., None]
    return to_texels(np.where(striped, stripe, ground))


def _vase_glaze(knots: Array) -> Texels:
    """Return the texture ``[rows along the profile, columns of azimuth, 3]`` in sRGB."""
    rows, columns = 1536, 2048
    position, turn = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)[None]
    glaze = np.empty((rows, columns, 3), dtype=np.float32)
    glaze[:] = _NIGHT

    def band_area(band: tuple[int, int]) -> tuple[NDArray[np.float32], Array, Array]:
        """Return the band's rows of the glaze and of ``position``, and the position along the band (0 to 1)."""
        chosen = slice(*np.searchsorted(position[:, 0], knots[list(band)]))
        return glaze[chosen], position[chosen], _along_band(position[chosen], knots, band)

    def paint(area: NDArray[np.float32], where: NDArray[np.bool_], color: NDArray[np.float32]) -> None:
        np.copyto(area, color, where=where[..., None])

    # Every band has a dark and a light half, shifted from band to band, so that the mean colour of one view is a poor
    # prediction of the next.
    def halves(start: float, dark: list[int], light: list[int]) -> NDArray[np.float32]:
        """Return colours ``[1, columns, 3]`` in sectors from ``start`` (turns) on, the dark ones first."""
        cycle = _PALETTE[dark + light]
        return np.asarray(cycle[np.floor(len(cycle) * (turn - start)).astype(int) % len(cycle)])

    foot, _, _ = band_area(_FOOT)
    foot[:] = halves(0.4, [0], [5])
    paint(foot, (20 * turn) % 1 < 0.3, halves(0.4, [5], [0]))

    waist, _, along = band_area(_WAIST)
    waist[:] = halves(0.1, [3, 0], [4, 5])
    paint(waist, np.hypot((18 * turn) % 1 - 0.5, 2.2 * (along - 0.55)) < 0.33, halves(0.1, [5, 4], [2, 4]))

    fluted, rows_position, along = band_area(_FLUTES)
    flute, _ = _flutes(turn, rows_position, knots)
    number = np.floor(flute).astype(int) % _FLUTE_COUNT
    fluted[:] = _PALETTE[[0, 1, 0, 2, 0, 3, 0, 1, 4, 5, 4, 6, 4, 7, 4, 5]][number]
    vein = np.abs(flute % 1 - 0.5) < 0.06 + 0.04 * np.sin(40 * along)
    paint(fluted, vein, _PALETTE[[5, 4, 7, 4, 5, 4, 6, 4, 3, 0, 2, 0, 8, 0, 1, 0]][number])

    belly, rows_position, _ = band_area(_BELLY)
    panel, distance, angle, _ = _panels(turn, rows_position, knots)
    belly[:] = _PALETTE[[4, 5, 4, 6, 0, 1, 0, 2]][panel]
    paint(belly, distance < 0.089, _PALETTE[[5, 4, 6, 4, 3, 0, 8, 0]][panel])
    petals = distance < 0.083 * (0.62 + 0.38 * np.cos((5 + panel % 4) * angle))
    paint(belly, petals, _PALETTE[[3, 2, 0, 7, 5, 6, 4, 7]][panel])
    paint(belly, distance < 0.026, _PALETTE[[4, 5, 5, 4, 0, 3, 1, 4]][panel])
    paint(belly, np.abs((_PANEL_COUNT * turn + 0.5) % 1 - 0.5) < 0.03, _GOLD)

    shoulder, _, along = band_area(_SHOULDER)
    tongue = np.abs((16 * turn) % 1 - 0.5)
    shoulder[:] = halves(0.25, [0, 2], [4, 4])
    paint(shoulder, tongue < 0.36 * np.sqrt(1 - along), halves(0.25, [3, 1], [6, 5]))
    paint(shoulder, tongue < 0.16 * np.sqrt((0.8 - along).clip(0)), halves(0.25, [5, 4], [0, 1]))

    neck, _, along = band_area(_NECK)
    across, up = (20 * turn + 2 * along) % 1, (4 * along) % 1
    neck[:] = halves(0.75, [0], [4])
    paint(neck, np.abs(across - 0.5) + np.abs(up - 0.5) < 0.36, halves(0.75, [4, 6], [2, 0]))
    paint(neck, (2 * turn - along) % 1 < 0.2, _CRIMSON)

    lip, _, _ = band_area(_LIP)
    lip[:] = halves(0.5, [0], [5])
    paint(lip, (36 * turn) % 1 < 0.35, _CRIMSON)

    inside, _, along = band_area(_INSIDE)
    inside[:] = halves(0.0, [8, 0], [4, 6])
    paint(inside, (12 * turn + 3 * along) % 1 < 0.3, halves(0.0, [4, 6], [8, 7]))
    paint(inside, (7 * along) % 1 < 0.12, _NIGHT)

    for knot in knots[[_WAIST[0], _FLUTES[0], _BELLY[0], _SHOULDER[0], _NECK[0], _LIP[0]]]:
        paint(glaze, np.abs(position - knot) < 0.0042, _GOLD)
        paint(glaze, np.abs(position - knot) < 0.0014, _NIGHT)
    # Uneven glaze and specks: detail at every scale that never repeats.
    rng = np.random.default_rng(0)
    glaze *= 0.78
    for weight, cells in ((0.2, 7), (0.12, 31), (0.08, 127)):
        glaze *= 1 + weight * surface_noise(rng, rows, columns, cells)[..., None]
    glaze[surface_noise(rng, rows, columns, 170) > 0.93] *= 0.45
    return to_texels(glaze)
