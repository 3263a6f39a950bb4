"""Placement of the grid, given only cameras and possibly reconstructed points; NumPy, world units of the poses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.geometry.grid import GridPlacement
from dv.prepare.field_of_view import Window, Windows, edges, in_window
from dv.prepare.near_plane import NEAR_SHARE, near_plane, nearest_depth
from dv.prepare.thing import Surroundings, Thing, find_thing
from dv.prepare.up import up_direction, upright_box

Array = NDArray[np.float64]

UPRIGHT = 0.9998  # cosine to an axis of the world (1°) from which things count as standing upright in the grid
MAX_BOX = 1.5  # an upright box that is askew in the grid counts unless it is so much wider than the points in it
MARGIN = 1.25  # side of the grid relative to the extent of the thing's points
TRIMMED = 0.0025  # fraction of these points at either end of an axis that does not count
VOLUME_MARGIN = 1.2  # side of the grid relative to the sphere in view: objects fill images up to their corners
CLEARANCE = 0.95  # a margin, not the thing, ends before this fraction of the way to the nearest camera
MAX_RAISE = 1.5  # factor by which the grid may grow for the range of camera distances


@dataclass(frozen=True)
class PlacedGrid:
    """A placement and the sentences that explain it."""

    placement: GridPlacement
    reasons: list[str]


def convergence(poses: Array, window: Windows) -> Array:
    """Find the point nearest to the rays through the middle of ``window`` of all views.

    The sum of distances is minimized by iteratively reweighted least squares, so that outliers have little influence.

    Args:
        poses: ``[V, 4, 4]``.
        window: field of view of the cameras, or one per view.

    Returns:
        The point ``[3]``.

    Raises:
        UserError: if the rays hardly converge, since the cameras look in parallel or outwards.
    """
    left, right, top, bottom = np.broadcast_to(edges(window).reshape(4, -1), (4, len(poses)))
    middle = np.stack([(left + right) / 2, (top + bottom) / 2, np.ones(len(poses))], axis=1)
    rays = np.einsum("vij,vj->vi", poses[:, :3, :3], middle / np.linalg.norm(middle, axis=1, keepdims=True))
    middle_of_all = np.median(poses[:, :3, 3], axis=0)  # near the origin numbers are exact
    centers = poses[:, :3, 3] - middle_of_all
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    weights = np.ones(len(poses))
    for _ in range(20):
        system = (weights[:, None, None] * across).sum(0)
        if np.linalg.eigvalsh(system)[0] < 1e-3 * weights.sum():
            raise UserError("the cameras look in (nearly) the same direction; give the position of the grid: "
                            "grid.origin=[x,y,z] grid.scale=SIDE")  # fmt: skip
        point = np.linalg.solve(system, np.einsum("v,vij,vj->i", weights, across, centers))
        distances = np.linalg.norm(np.einsum("vij,vj->vi", across, point - centers), axis=1)
        weights = 1 / np.maximum(distances, max(1e-3 * np.median(np.linalg.norm(point - centers, axis=1)), 1e-12))
        weights /= weights.max()
    if (np.einsum("vi,vi->v", rays, point - centers) > 0).mean() < 0.5:
        raise UserError("most cameras look away from the point where their axes meet: the poses are not those of the "
                        "format, but have other axes (z into the image in OpenCV, backwards in OpenGL) or are "
                        "world-to-camera")  # fmt: skip
    return np.asarray(point + middle_of_all)


def viewing_radius(poses: Array, window: Windows, point: Array) -> float:
    """Return the radius of the largest sphere around ``point`` that nine out of ten cameras which see it see whole.

    Raises:
        UserError: if fewer than half of the cameras see the point.
    """
    camera_points = to_camera(poses, point[None])
    sees = in_window(camera_points, window)[:, 0]
    if 2 * sees.sum() < len(poses):
        raise UserError(
            f"the cameras have no common viewing volume: {sees.sum()} of {len(poses)} see the point that their axes "
            "pass nearest; give the position of the grid: grid.origin=[x,y,z] grid.scale=SIDE"
        )
    left, right, top, bottom = np.broadcast_to(edges(window).reshape(4, -1), (4, len(poses)))
    zero, one = np.zeros(len(poses)), np.ones(len(poses))
    planes = np.array([[one, zero, -left], [-one, zero, right], [zero, one, -top], [zero, -one, bottom]])
    distances = np.einsum("ekv,vk->ve", planes / np.linalg.norm(planes, axis=1, keepdims=True), camera_points[:, 0])
    return float(np.quantile(distances.min(1)[sees], 0.1))


def place_grid(poses: Array, window: Windows, points: Array | None) -> PlacedGrid:
    """Place the grid around what the cameras look at.

    Centre and side are derived from the extent (per axis, without the outermost 1/4 %) of the points of the thing, see
    :func:`dv.prepare.thing.find_thing`. Without enough points, the grid contains the sphere around the point of
    convergence that the images show, and 20 % more. Views that do not see this point only show surroundings.

    Args:
        poses: ``[V, 4, 4]``.
        window: field of view of the cameras, or one per view.
        points: reconstructed points ``[N, 3]``, if there are any.

    Raises:
        UserError: if the cameras have no common viewing volume.
    """
    meet = convergence(poses, window)
    radius = viewing_radius(poses, window, meet)
    sees = in_window(to_camera(poses, meet[None]), window)[:, 0]
    reasons = [
        f"the views converge at {_format(meet, radius)}, around which a sphere of radius {radius:.4g} is in view"
    ]
    if not sees.all():
        reasons.append(f"{(~sees).sum()} of {len(poses)} views do not show this point and do not count")
    seeing = poses[sees]
    if points is not None:
        windows: Sequence[Window] = [window] * len(poses) if isinstance(window, Window) else window
        shown = [in_window(to_camera(poses[i], points)[None], [windows[i]])[0] for i in range(len(poses)) if sees[i]]
        share = np.mean(shown, axis=0)
        up = up_direction(poses, meet)[0]
        thing = find_thing(points, share, Surroundings(seeing[:, :3, 3], meet, radius, up))
        if thing is not None:
            placed = _around_thing(seeing, thing, up, len(points), reasons)
            return _raise_near_plane(placed, nearest_depth(seeing, points, np.array(shown)))
        reasons.append(f"too few of {len(points)} points are near it and in most images")
    reasons.append("nothing but the cameras places the grid: if scene.png or a first film shows the thing cut, give a "
                   "larger grid.scale, or photographs to source=capture")  # fmt: skip
    side = _before_cameras(seeing, meet, radius, 2 * VOLUME_MARGIN * radius)
    return _with_near_plane(seeing, meet, side, side / 2, reasons)


def _around_thing(poses: Array, thing: Thing, up: Array, total: int, reasons: list[str]) -> PlacedGrid:
    """Place the grid around the points of ``thing`` and where it touches its supports.

    If up is none of the world's axes, around the upright box of these points: its corners may hold what has no points.
    """
    hull = np.concatenate([thing.points, thing.feet])
    low, high = np.quantile(hull, [TRIMMED, 1 - TRIMMED], axis=0)
    extent = float((high - low).max())
    wanted, least = MARGIN * extent, extent
    if np.abs(up).max() < UPRIGHT:  # the thing stands askew in the grid
        corners = upright_box(hull, up, TRIMMED)
        around = np.minimum(low, corners.min(0)), np.maximum(high, corners.max(0))
        box = float((around[1] - around[0]).max())
        if box <= MAX_BOX * extent:
            (low, high), least, wanted = around, box, max(wanted, box)
    center = _away_from_cameras(poses, (low + high) / 2, (wanted - MARGIN * (high - low)).clip(0) / 2, wanted)
    side = _before_cameras(poses, center, least, wanted)
    depths = np.stack([np.quantile((hull - center) @ pose[:3, 2], [0.005, 0.995]) for pose in poses])
    reach = min(1.1 * float(np.abs(depths).max()), side * math.sqrt(3) / 2)
    where = " and ".join({"table": "stand on a table", "wall": "are before a wall"}[s] for s in thing.supports)
    reasons.append(f"{len(thing.points)} of {total} points {where or 'lie there'} and are connected to what most "
                   "cameras show")  # fmt: skip
    size = _format(high - low, extent)
    reasons.append(
        f"their extent is {size}; the grid's side is {side / float((high - low).max()):.3g} times its maximum"
    )
    return _with_near_plane(poses, center, side, reach, reasons)


def _away_from_cameras(poses: Array, center: Array, slack: Array, side: float) -> Array:
    """Move ``center`` by no more than ``slack`` ``[3]`` along each axis, as little as takes cameras out of the cube."""
    direction = -np.sign((poses[:, :3, 3] - center).mean(0))
    steps: list[Array] = [center + step * slack * direction for step in np.linspace(0, 1, 9)]
    free = [float(np.abs(poses[:, :3, 3] - c).max(1).min()) for c in steps]
    enough = [CLEARANCE * f >= side / 2 for f in free]
    return steps[enough.index(True) if any(enough) else int(np.argmax(free))]


def _before_cameras(poses: Array, center: Array, least: float, side: float) -> float:
    """Return ``side``, reduced to no less than ``least`` if a camera would be inside the cube."""
    free = 2 * float(np.abs(poses[:, :3, 3] - center).max(1).min())
    return max(least, min(side, CLEARANCE * free))


def _raise_near_plane(placed: PlacedGrid, nearest: float) -> PlacedGrid:
    """Raise the near plane towards the nearest points; what is reconstructed before it is a floater."""
    near = NEAR_SHARE * nearest
    if near <= placed.placement.near:
        return placed
    reason = f"hardly any point is nearer to a camera than {nearest:.4g}: near plane raised to {near:.4g}"
    return PlacedGrid(replace(placed.placement, near=near), [*placed.reasons, reason])


def _with_near_plane(poses: Array, center: Array, side: float, reach: float, reasons: list[str]) -> PlacedGrid:
    """Add the near plane, and enlarge the grid somewhat if its frustum does not cover the range of camera distances."""
    depths = to_camera(poses, center[None])[:, 0, 2]
    needed = (float(np.quantile(depths, 0.98) - np.quantile(depths, 0.02)) + 2 * reach) / 2
    if needed > side:
        raised = needed if needed <= MAX_RAISE * side else side
        reasons.append(f"cameras are {depths.min():.4g} to {depths.max():.4g} away and a view frustum is two sides of "
                       "the grid deep: " + (f"side raised from {side:.4g} to {needed:.4g}" if raised > side else
                       f"the deepvoxels model needs grid.scale={needed:.4g}"))  # fmt: skip
        side = raised
    inside = int((np.abs(poses[:, :3, 3] - center).max(1) < side / 2).sum())
    if inside:
        reasons.append(f"{inside} cameras are inside the grid; give a smaller grid.scale if that is wrong")
    near = near_plane(poses, center, side, reach)
    x, y, z = center.tolist()
    reasons.append(f"grid centre {_format(center, side)}, side {side:.4g}, near plane {near:.4g}")
    return PlacedGrid(GridPlacement((x, y, z), side, near), reasons)


def override_placement(
    placed: PlacedGrid,
    poses: Array,
    origin: list[float] | None,
    scale: float | None,
    near: float | None,
    nearest: float = 0.0,
) -> PlacedGrid:
    """Replace parts of a placement by given values; the near plane is recomputed for a changed grid unless given.

    Args:
        placed: the placement.
        poses: ``[V, 4, 4]``.
        origin: centre ``[3]`` of the grid, or None as it is.
        scale: side of the grid, or None as it is.
        near: camera z of the near plane.
        nearest: result of :func:`~dv.prepare.near_plane.nearest_depth`.
    """
    if origin is None and scale is None and near is None:
        return placed
    p = placed.placement
    if origin is not None:
        p = replace(p, origin=(float(origin[0]), float(origin[1]), float(origin[2])))
    if scale is not None:
        p = replace(p, scale=float(scale))
    if near is None and (origin is not None or scale is not None):
        p = replace(p, near=max(NEAR_SHARE * nearest, near_plane(poses, np.array(p.origin), p.scale)))
    elif near is not None:
        p = replace(p, near=float(near))
    result = (
        f"as given: grid centre {_format(np.array(p.origin), p.scale)}, side {p.scale:.4g}, near plane {p.near:.4g}"
    )
    return PlacedGrid(p, [*placed.reasons, result])


def _format(vector: Array, unit: float) -> str:
    """Format a place to a thousandth of ``unit`` or better, also far from the origin."""
    decimals = max(0, 3 - math.floor(math.log10(unit)))
    numbers = (f"{x:.{decimals}f}" for x in vector)
    return "(" + ", ".join(n.rstrip("0").rstrip(".") if "." in n else n for n in numbers) + ")"
