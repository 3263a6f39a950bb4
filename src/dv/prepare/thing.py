"""The points of the thing among all reconstructed points: apart from the table or wall behind it, and in one piece."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_POINTS = 30
CORE_SHARE = 0.6  # the core is what at least this fraction of the cameras show
CORE_RADIUS = 1.2  # and what is nearer to the point of convergence than this, in viewing radii
PART_SHARE = 0.1  # parts that are connected to the core need to be in view of fewer cameras
PART_RADIUS = 4.0  # and may be farther away if a support bounds the thing,
FREE_RADIUS = 2.0  # or up to here if nothing does
LINK = 0.15  # parts are connected if they are nearer to each other than this, relative to the core's diameter
SPACING = 2.5  # and at least this multiple of the core points' usual distance to their neighbours
NEIGHBOURS = 5  # within that distance; points with fewer are outliers
PIECE_SHARE = 0.1  # further pieces of the core count if they have this fraction of the points of the largest
THICKNESSES = (0.02, 0.05, 0.1)  # of a support, in viewing radii: even ones are looked for first, then rough ones
SUPPORT_SHARE = 0.25  # minimum fraction of the points in a support
MAX_BEHIND = 0.1  # maximum fraction of the points behind it
MAX_SUPPORTS = 2  # such as a table and a wall,
MAX_COSINE = 0.5  # which are at least 60° apart
CONTRAST = 3.0  # a support has this multiple of the points of an equally thick layer before it, as no solid has
WIDER = 1.2  # a support reaches farther than the thing on it by this factor,
REACH = 1.2  # and at least this far, in viewing radii

LOWER_PART = 0.3  # of the thing's height above a support, which is assumed to reach down to it


@dataclass(frozen=True)
class Surroundings:
    """How cameras see points.

    Args:
        centers: of the cameras ``[V, 3]``.
        meet: point ``[3]`` where the views converge.
        radius: of the sphere around it that the views show.
        up: unit vector ``[3]``.
    """

    centers: Array
    meet: Array
    radius: float
    up: Array


@dataclass(frozen=True)
class Thing:
    """Points of a thing.

    Args:
        points: ``[M, 3]``.
        feet: projections ``[K, 3]`` of its lower part onto the supports, which it touches unseen; K may be 0.
        supports: what it stands on or hangs on.
    """

    points: Array
    feet: Array
    supports: list[str]


def find_thing(points: Array, share: Array, around: Surroundings) -> Thing | None:
    """Find the points of what the cameras look at.

    Its core are the points near the point of convergence that most cameras show. Supports are taken away: planes with
    many points, none behind them and all cameras before them, that are wider than what is before them. What is
    connected to the core belongs to the thing even if few cameras show it, as parts that stick out towards the cameras.

    Args:
        points: ``[N, 3]``.
        share: fraction ``[N]`` of the cameras whose images contain each point.
        around: cameras and the scale of the scene.

    Returns:
        The thing, or None if its core has fewer than 30 points.
    """
    distance = np.linalg.norm(points - around.meet, axis=1) / around.radius
    local = (share >= PART_SHARE) & (distance < PART_RADIUS)
    points, share, distance = points[local], share[local], distance[local]
    core = (share >= CORE_SHARE) & (distance < CORE_RADIUS)
    if core.sum() < MIN_POINTS:
        return None
    standing = np.ones(len(points), bool)
    planes: list[tuple[Array, float]] = []
    kept = _connected(points, core, distance < FREE_RADIUS)
    while len(planes) < MAX_SUPPORTS:
        found = _find_support(points, standing, core, distance, around)
        if found is None or any(abs(found[0][0] @ normal) > MAX_COSINE for normal, _ in planes):
            break
        plane, standing, kept = found
        planes.append(plane)
    thing = points[kept]
    feet = [_feet(thing, normal, offset) for normal, offset in planes]
    return Thing(thing, np.concatenate([np.empty((0, 3)), *feet]), [_name(normal, around.up) for normal, _ in planes])


def _feet(thing: Array, normal: Array, offset: float) -> Array:
    """Project the points of the thing's lower part onto the support below them."""
    height = thing @ normal - offset
    low, high = np.quantile(height, [0.01, 0.99])
    feet = height < low + LOWER_PART * (high - low)
    return np.asarray(thing[feet] - height[feet, None] * normal)


def _name(normal: Array, up: Array) -> str:
    return "table" if normal @ up > math.cos(math.radians(25)) else "wall"


def _find_support(
    points: Array, standing: Mask, core: Mask, distance: Array, around: Surroundings
) -> tuple[tuple[Array, float], Mask, Mask] | None:
    """Find a plane that carries the thing, the points ``[N]`` before it, and those of the thing before it."""
    near = standing & (distance < FREE_RADIUS)
    for relative in THICKNESSES:
        thickness = relative * around.radius
        plane = _fit_plane(points[near], distance[near] < CORE_RADIUS, around.centers, thickness)
        if plane is None:
            continue
        normal, offset = plane
        height = points @ normal - offset
        before = standing & (height > 2 * thickness)
        if (before & core).sum() < MIN_POINTS:
            continue
        thing = _connected(points, core & before, before)
        across = points - height[:, None] * normal
        middle = np.median(across[thing], axis=0)
        on_plane = standing & (np.abs(height) < thickness)
        reach = [np.quantile(np.linalg.norm(across[m] - middle, axis=1), 0.9) for m in (on_plane, thing)]
        if thing.sum() >= MIN_POINTS and reach[0] > max(WIDER * reach[1], REACH * around.radius):
            return plane, before, thing
    return None


def _fit_plane(points: Array, inner: Mask, centers: Array, thickness: float) -> tuple[Array, float] | None:
    """Fit a plane by random sampling (RANSAC, Fischler and Bolles 1981), then least squares.

    Args:
        points: ``[N, 3]``.
        inner: which of them are in the sphere where hardly any may be behind the plane.
        centers: of the cameras ``[V, 3]``, which must be before the plane.
        thickness: maximum distance of its points.

    Returns:
        Its normal ``[3]`` towards the cameras and its offset along it, or None.
    """
    if len(points) < MIN_POINTS:
        return None
    rng = np.random.default_rng(0)
    corners = points[rng.integers(len(points), size=(1000, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals = normals[lengths > 0] / lengths[lengths > 0, None]
    offsets = np.einsum("kd,kd->k", corners[lengths > 0, 0], normals)
    sample = rng.permutation(len(points))[:3000]
    best = None
    for step in range(3):
        sides = np.where(np.median(centers @ normals.T - offsets, axis=0) >= 0, 1.0, -1.0)
        normals, offsets = normals * sides[:, None], offsets * sides
        at = points[sample] @ normals.T - offsets
        share = (np.abs(at) < thickness).mean(0)
        behind = (at[inner[sample]] < -2 * thickness).mean(0) if inner[sample].any() else np.zeros(len(share))
        before = (centers @ normals.T - offsets > 2 * thickness).mean(0) > 0.95
        solid = ((at > 2 * thickness) & (at < 4 * thickness)).mean(0) * CONTRAST > share
        share[(behind > MAX_BEHIND) | ~before | solid | (share < SUPPORT_SHARE)] = 0
        if not len(share) or share.max() == 0:
            break
        best = normals[share.argmax()], float(offsets[share.argmax()])
        if step < 2:
            on_plane = points[np.abs(points @ best[0] - best[1]) < thickness]
            normal = np.linalg.svd(on_plane - on_plane.mean(0), full_matrices=False)[2][2]
            normals, offsets = normal[None], np.array([on_plane.mean(0) @ normal])
    return best


def _connected(points: Array, core: Mask, allowed: Mask) -> Mask:
    """Return the points ``[N]`` that are connected to the core within ``allowed``, by density (DBSCAN, Ester 1996)."""
    middle = np.median(points[core], axis=0)
    size = 2 * float(np.quantile(np.linalg.norm(points[core] - middle, axis=1), 0.9))
    scaled = ((points - middle) / size).astype(np.float32)
    spacing = _distances(scaled[allowed], scaled[allowed], NEIGHBOURS + 1)[:, -1]
    link = max(LINK, SPACING * float(np.median(spacing[core[allowed]])))
    dense = np.zeros(len(points), bool)
    dense[allowed] = spacing < link
    pieces: list[Mask] = []
    rest = dense.copy()
    while (rest & core).any():
        piece = np.zeros(len(points), bool)
        piece[(rest & core).argmax()] = True
        edge = piece
        while edge.any():
            rest &= ~edge
            edge = _within(scaled, rest, edge, link)
            piece |= edge
        pieces.append(piece)
    counts = [int((piece & core).sum()) for piece in pieces]
    kept = np.zeros(len(points), bool)
    for piece, count in zip(pieces, counts, strict=True):
        if count >= PIECE_SHARE * max(counts):
            kept |= piece
    return kept | _within(scaled, allowed & ~kept, kept, link)


def _within(points: NDArray[np.float32], asked: Mask, others: Mask, radius: float) -> Mask:
    """Return which of the points ``asked`` are nearer than ``radius`` to one of ``others``, all ``[N]``."""
    near = np.zeros(len(points), bool)
    if asked.any() and others.any():
        near[asked] = _distances(points[asked], points[others], 1)[:, 0] < radius
    return near


def _distances(points: NDArray[np.float32], others: NDArray[np.float32], count: int) -> Array:
    """Return the distances ``[N, count]`` of points to their nearest ``others``, in ascending order."""
    count = min(count, len(others))
    tree = cv2.flann.Index(np.ascontiguousarray(others), {"algorithm": 4})  # one k-d tree, which is exact
    squared = tree.knnSearch(np.ascontiguousarray(points), count, params={"checks": -1})[1]
    return np.sqrt(squared.astype(np.float64))
