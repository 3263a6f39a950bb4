"""Placement of the grid, given only cameras and possibly reconstructed points; NumPy, world units of the poses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.geometry.grid import GridPlacement

Array = NDArray[np.float64]

MIN_POINTS = 30
VISIBLE_SHARE = 0.6  # a point counts if it is inside the images of at least this fraction of the cameras
MARGIN = 1.25  # side of the grid relative to the extent of the points
VOLUME_MARGIN = 1.2  # side of the grid relative to the sphere in view: objects fill images up to their corners
TABLE_SHARE = 0.25  # minimum fraction of the points in the plane of a table
TABLE_THICKNESS = 0.02  # distance of these points from the plane, relative to the viewing radius


@dataclass(frozen=True)
class Window:
    """A rectangle of the plane z = 1 in camera axes: ``left < x < right``, ``top < y < bottom``."""

    left: float
    right: float
    top: float
    bottom: float

    def __and__(self, other: Window) -> Window:
        return Window(
            max(self.left, other.left),
            min(self.right, other.right),
            max(self.top, other.top),
            min(self.bottom, other.bottom),
        )

    @property
    def width(self) -> float:
        """Extent along x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent along y."""
        return self.bottom - self.top

    def square(self, side: float, center: tuple[float, float]) -> Window:
        """Return the square of ``side`` inside this window whose centre is nearest to ``center``."""
        x = min(max(center[0], self.left + side / 2), self.right - side / 2)
        y = min(max(center[1], self.top + side / 2), self.bottom - side / 2)
        return Window(x - side / 2, x + side / 2, y - side / 2, y + side / 2)


@dataclass(frozen=True)
class PlacedGrid:
    """A placement and the sentences that explain it."""

    placement: GridPlacement
    reasons: list[str]


def in_window(points: Array, window: Window) -> NDArray[np.bool_]:
    """Return which camera-frame points ``[..., 3]`` are in front of the camera and inside ``window``, ``[...]``."""
    z = points[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = points[..., 0] / z, points[..., 1] / z
    within = (x > window.left) & (x < window.right) & (y > window.top) & (y < window.bottom)
    return np.asarray((z > 0) & within)


def convergence(poses: Array, window: Window) -> Array:
    """Find the point nearest to the rays through the middle of ``window`` of all views.

    The sum of distances is minimized by iteratively reweighted least squares, so that outliers have little influence.

    Args:
        poses: ``[V, 4, 4]``.
        window: field of view of the cameras.

    Returns:
        The point ``[3]``.

    Raises:
        UserError: if the rays hardly converge, since the cameras look in parallel or outwards.
    """
    middle = np.array([(window.left + window.right) / 2, (window.top + window.bottom) / 2, 1.0])
    rays = poses[:, :3, :3] @ (middle / np.linalg.norm(middle))
    centers = poses[:, :3, 3]
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    weights = np.ones(len(poses))
    for _ in range(20):
        system = (weights[:, None, None] * across).sum(0)
        if np.linalg.eigvalsh(system)[0] < 1e-3 * weights.sum():
            raise UserError("the cameras look in (nearly) the same direction; give the position of the grid: "
                            "grid.origin=[x,y,z] grid.scale=SIDE")  # fmt: skip
        point = np.linalg.solve(system, np.einsum("v,vij,vj->i", weights, across, centers))
        distances = np.linalg.norm(np.einsum("vij,vj->vi", across, point - centers), axis=1)
        weights = 1 / np.maximum(distances, 1e-3 * np.median(np.linalg.norm(point - centers, axis=1)))
    if (np.einsum("vi,vi->v", rays, point - centers) > 0).mean() < 0.5:
        raise UserError("most cameras look away from the point where their axes meet; poses must be camera-to-world, "
                        "x right, y down, z into the image (OpenGL poses have y and z reversed)")  # fmt: skip
    return np.asarray(point)


def viewing_radius(poses: Array, window: Window, point: Array) -> float:
    """Return the radius of the largest sphere around ``point`` that is entirely in view of nine out of ten cameras.

    Raises:
        UserError: if there is none.
    """
    camera_points = to_camera(poses, point[None])[:, 0]
    edges = np.array([[1, 0, -window.left], [-1, 0, window.right], [0, 1, -window.top], [0, -1, window.bottom]])
    distances = camera_points @ (edges / np.linalg.norm(edges, axis=1, keepdims=True)).T
    radius = float(np.quantile(distances.min(1), 0.1))
    if radius <= 0:
        raise UserError("the cameras have no common viewing volume; give the position of the grid: "
                        "grid.origin=[x,y,z] grid.scale=SIDE")  # fmt: skip
    return radius


def up_direction(poses: Array, center: Array) -> tuple[Array, str]:
    """Estimate which way is up.

    Photographers hold cameras level: up is perpendicular to the horizontal axis of every image, which is x in landscape
    and y in portrait orientation. Candidates are the directions that are most perpendicular to either axis and the mean
    up direction of the images; the one that agrees with most cameras is taken. Its sign is that of the images' tops or,
    if these are level or contradictory, the side of ``center`` on which most cameras are.

    Args:
        poses: ``[V, 4, 4]``.
        center: point ``[3]`` that the cameras look at.

    Returns:
        The unit vector ``[3]``, and what it was derived from.
    """
    x, y = poses[:, :3, 0], poses[:, :3, 1]
    top = -y.mean(0)
    candidates = {
        "the horizontal axes of the images": np.linalg.eigh(x.T @ x)[1][:, 0],
        "the vertical axes of images taken in portrait orientation": np.linalg.eigh(y.T @ y)[1][:, 0],
        "the mean up direction of the images": top / max(float(np.linalg.norm(top)), 1e-9),
    }
    tilt = {why: float(np.minimum(np.abs(x @ u), np.abs(y @ u)).mean()) for why, u in candidates.items()}
    why = min(tilt, key=lambda key: tilt[key])
    up = candidates[why]
    agreement = float(up @ top)
    if abs(agreement) < 0.2:
        agreement = float(np.median((poses[:, :3, 3] - center) @ up))
    return up * (1 if agreement >= 0 else -1), why


def place_grid(poses: Array, window: Window, points: Array | None) -> PlacedGrid:
    """Place the grid around what the cameras look at.

    Centre and side are derived from the extent (per axis, without the outermost 1 %) of the points that are visible to
    most cameras and inside their common viewing volume; if these lie on a table, of the points above it. Without
    enough points, the grid contains the sphere around the point of convergence that the images show, and 20 % more.

    Args:
        poses: ``[V, 4, 4]``.
        window: field of view of the cameras.
        points: reconstructed points ``[N, 3]``, if there are any.

    Raises:
        UserError: if the cameras have no common viewing volume.
    """
    meet = convergence(poses, window)
    radius = viewing_radius(poses, window, meet)
    reasons = [f"the views converge at {_format(meet)}, around which a sphere of radius {radius:.4g} is in view"]
    if points is not None:
        visible = in_window(to_camera(poses, points), window).mean(0) >= VISIBLE_SHARE
        near_center = np.linalg.norm(points - meet, axis=1) < 1.2 * radius
        kept = points[visible & near_center]
        if len(kept) >= MIN_POINTS:
            standing = points_on_table(kept, up_direction(poses, meet)[0], radius)
            if standing is not None:
                kept = standing
            low, high = np.quantile(kept, [0.01, 0.99], axis=0)
            center, side = (low + high) / 2, MARGIN * float((high - low).max())
            reach = float(np.quantile(np.linalg.norm(kept - center, axis=1), 0.99)) * 1.1
            count, how = len(kept), "are visible to most cameras and inside that sphere"
            if standing is not None:
                count, how = len(kept) // 2, "stand on a table inside that sphere and are visible to most cameras"
            reasons.append(f"{count} of {len(points)} points {how}")
            reasons.append(f"their extent is {_format(high - low)}; the grid's side is {MARGIN:g} times its maximum")
            return _with_near_plane(poses, center, side, min(reach, side * math.sqrt(3) / 2), reasons)
        reasons.append(f"only {len(kept)} of {len(points)} points lie in that sphere: the sphere alone places the grid")
    side = 2 * VOLUME_MARGIN * radius
    return _with_near_plane(poses, meet, side, side / 2, reasons)


def points_on_table(points: Array, up: Array, radius: float) -> Array | None:
    """Find the points that stand on a table.

    A table is a plane within 25° of level that contains a quarter of the points and has hardly any below it, found by
    random sampling (RANSAC, Fischler and Bolles 1981).

    Args:
        points: ``[N, 3]``.
        up: unit vector ``[3]``.
        radius: viewing radius, which sets the scale.

    Returns:
        The M points above the table and their projections onto it ``[2M, 3]``, or None if there is no table.
    """
    rng = np.random.default_rng(0)
    corners = points[rng.integers(len(points), size=(500, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    level = np.abs(normals @ up) > math.cos(math.radians(25)) * np.maximum(lengths, 1e-12)
    if not level.any():
        return None
    normals = normals[level] / lengths[level, None]
    normals *= np.sign(normals @ up)[:, None]
    thickness = TABLE_THICKNESS * radius
    heights = points @ normals.T - np.einsum("kd,kd->k", corners[level, 0], normals)
    best = int((np.abs(heights) < thickness).sum(0).argmax())
    height, normal = heights[:, best], normals[best]
    above = height > 2 * thickness
    if (np.abs(height) < thickness).mean() < TABLE_SHARE or (height < -2 * thickness).mean() > 0.1:
        return None
    standing = points[above]
    if len(standing) < MIN_POINTS:
        return None
    return np.concatenate([standing, standing - height[above, None] * normal])


def near_plane(poses: Array, origin: Array, scale: float, reach: float | None = None) -> float:
    """Choose the near plane for a grid.

    It is in front of the grid's corners in the nearest view, unless the far end of the frustum, two sides behind it,
    would then cut the content in the farthest view.

    Args:
        poses: ``[V, 4, 4]``.
        origin: centre ``[3]`` of the grid.
        scale: side of the grid.
        reach: radius of the content around ``origin``; half the side by default.

    Returns:
        Camera z in world units.
    """
    reach = scale / 2 if reach is None else reach
    depths = to_camera(poses, origin[None])[:, 0, 2]
    near = max(depths.min() - math.sqrt(3) / 2 * scale, depths.max() + reach - 2 * scale)
    return float(max(min(near, depths.min() - reach), 0.01 * scale))


def _with_near_plane(poses: Array, center: Array, side: float, reach: float, reasons: list[str]) -> PlacedGrid:
    """Add the near plane, and enlarge the grid if its frustum does not cover the range of camera distances."""
    depths = to_camera(poses, center[None])[:, 0, 2]
    needed = (float(np.quantile(depths, 0.98) - np.quantile(depths, 0.02)) + 2 * reach) / 2
    if needed > side:
        reasons.append(f"cameras are {depths.min():.4g} to {depths.max():.4g} away and a view frustum is two sides of "
                       f"the grid deep: side raised from {side:.4g} to {needed:.4g}")  # fmt: skip
        side = needed
    near = near_plane(poses, center, side, reach)
    x, y, z = center.tolist()
    reasons.append(f"grid centre {_format(center)}, side {side:.4g}, near plane {near:.4g}")
    return PlacedGrid(GridPlacement((x, y, z), side, near), reasons)


def override_placement(
    placed: PlacedGrid, poses: Array, origin: list[float] | None, scale: float | None, near: float | None
) -> PlacedGrid:
    """Replace parts of a placement by given values; the near plane is recomputed for a changed grid unless given."""
    if origin is None and scale is None and near is None:
        return placed
    p = placed.placement
    if origin is not None:
        p = replace(p, origin=(float(origin[0]), float(origin[1]), float(origin[2])))
    if scale is not None:
        p = replace(p, scale=float(scale))
    if near is None and (origin is not None or scale is not None):
        p = replace(p, near=near_plane(poses, np.array(p.origin), p.scale))
    elif near is not None:
        p = replace(p, near=float(near))
    result = f"as given: grid centre {_format(np.array(p.origin))}, side {p.scale:.4g}, near plane {p.near:.4g}"
    return PlacedGrid(p, [*placed.reasons, result])


def _format(vector: Array) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in vector) + ")"
