"""Where to put the grid, given only cameras and perhaps reconstructed points. NumPy, world units of the poses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dv.errors import UserError
from dv.geometry.grid import GridPlacement

Array = NDArray[np.float64]

LEAST_POINTS = 30
SEEN_BY = 0.6  # of the cameras must have a point in their picture for it to count
MARGIN = 1.25  # of the grid's side over the extent of the points
VOLUME_MARGIN = 1.2  # over the sphere that pictures hold: things fill pictures, up to their corners
TABLE_SHARE, TABLE_THICKNESS = 0.25, 0.02  # of the points, and of the viewing radius, that make a table


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
        """The square of ``side`` inside this window whose centre is nearest to ``center``."""
        x = min(max(center[0], self.left + side / 2), self.right - side / 2)
        y = min(max(center[1], self.top + side / 2), self.bottom - side / 2)
        return Window(x - side / 2, x + side / 2, y - side / 2, y + side / 2)


@dataclass(frozen=True)
class Placed:
    """A placement with the reasoning that led to it, in sentences."""

    placement: GridPlacement
    reasons: list[str]


def in_camera(poses: Array, points: Array) -> Array:
    """World points ``[N, 3]`` in the axes of each of the cameras ``[V, 4, 4]``: ``[V, N, 3]``."""
    offsets = points[None] - poses[:, None, :3, 3]
    return np.asarray(np.einsum("vni,vij->vnj", offsets, poses[:, :3, :3]))


def inside(points: Array, window: Window) -> NDArray[np.bool_]:
    """Which camera-frame points ``[..., 3]`` lie in front of the camera and within ``window``."""
    z = points[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = points[..., 0] / z, points[..., 1] / z
    within = (x > window.left) & (x < window.right) & (y > window.top) & (y < window.bottom)
    return np.asarray((z > 0) & within)


def convergence(poses: Array, window: Window) -> Array:
    """The point ``[3]`` nearest to the central rays of all views, outliers weighted down (L1 by reweighting).

    Raises :class:`UserError` where the rays hardly converge: cameras that look in parallel, or outwards.
    """
    middle = np.array([(window.left + window.right) / 2, (window.top + window.bottom) / 2, 1.0])
    rays = poses[:, :3, :3] @ (middle / np.linalg.norm(middle))
    centers = poses[:, :3, 3]
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    weights = np.ones(len(poses))
    for _ in range(20):
        system = (weights[:, None, None] * across).sum(0)
        if np.linalg.eigvalsh(system)[0] < 1e-3 * weights.sum():
            raise UserError("the cameras look in (nearly) the same direction; say where the grid is to be: "
                            "grid.origin=[x,y,z] grid.scale=SIDE")  # fmt: skip
        point = np.linalg.solve(system, np.einsum("v,vij,vj->i", weights, across, centers))
        miss = np.linalg.norm(np.einsum("vij,vj->vi", across, point - centers), axis=1)
        weights = 1 / np.maximum(miss, 1e-3 * np.median(np.linalg.norm(point - centers, axis=1)))
    if (np.einsum("vi,vi->v", rays, point - centers) > 0).mean() < 0.5:
        raise UserError("most cameras look away from the point where their axes meet; poses must be camera-to-world, "
                        "x right, y down, z into the picture (OpenGL poses have y and z the other way)")  # fmt: skip
    return np.asarray(point)


def viewing_radius(poses: Array, window: Window, point: Array) -> float:
    """Radius of the largest sphere around ``point`` that nine cameras of ten have wholly in ``window``."""
    seen_from = in_camera(poses, point[None])[:, 0]
    edges = np.array([[1, 0, -window.left], [-1, 0, window.right], [0, 1, -window.top], [0, -1, window.bottom]])
    distances = seen_from @ (edges / np.linalg.norm(edges, axis=1, keepdims=True)).T
    radius = float(np.quantile(distances.min(1), 0.1))
    if radius <= 0:
        raise UserError("the cameras have no common viewing volume; say where the grid is to be: "
                        "grid.origin=[x,y,z] grid.scale=SIDE")  # fmt: skip
    return radius


def up_direction(poses: Array, center: Array) -> tuple[Array, str]:
    """Which way is up ``[3]``, and why.

    Photographers hold cameras level: the true up is at right angles to the horizontal axis of every picture, which is
    x in landscape, y where the camera was turned by a quarter. Of the directions that suit either axis best, and of
    the mean picture-up, the one that most cameras agree with is taken; its sign is that of the pictures' tops, or
    where they are level or mixed, the side of ``center`` on which most cameras stand.
    """
    x, y = poses[:, :3, 0], poses[:, :3, 1]
    top = -y.mean(0)
    candidates = {
        "the pictures' horizontal axes": np.linalg.eigh(x.T @ x)[1][:, 0],
        "the vertical axes of pictures taken sideways": np.linalg.eigh(y.T @ y)[1][:, 0],
        "the mean of the pictures' tops": top / max(float(np.linalg.norm(top)), 1e-9),
    }
    level = {why: float(np.minimum(np.abs(x @ u), np.abs(y @ u)).mean()) for why, u in candidates.items()}
    why = min(level, key=lambda key: level[key])
    up = candidates[why]
    agreement = float(up @ top)
    if abs(agreement) < 0.2:
        agreement = float(np.median((poses[:, :3, 3] - center) @ up))
    return up * (1 if agreement >= 0 else -1), why


def place_grid(poses: Array, window: Window, points: Array | None) -> Placed:
    """Place the grid around what the cameras look at.

    Its centre and side come from the robust extent (per axis, without the outermost 1 %) of those ``points``
    ``[N, 3]`` that most cameras have in their picture and that lie in the cameras' common viewing volume, and if these
    lie on a table, of what stands on it; without points from that volume alone: the sphere around the point of
    convergence that the pictures hold, and a fifth more.
    Raises :class:`UserError` where the cameras have no such volume.
    """
    meet = convergence(poses, window)
    radius = viewing_radius(poses, window, meet)
    reasons = [f"the views converge at {_listed(meet)} and have a sphere of radius {radius:.4g} there in view"]
    if points is not None:
        seen = inside(in_camera(poses, points), window).mean(0) >= SEEN_BY
        near_center = np.linalg.norm(points - meet, axis=1) < 1.2 * radius
        kept = points[seen & near_center]
        if len(kept) >= LEAST_POINTS:
            standing = on_table(kept, up_direction(poses, meet)[0], radius)
            if standing is not None:
                kept = standing
            low, high = np.quantile(kept, [0.01, 0.99], axis=0)
            center, side = (low + high) / 2, MARGIN * float((high - low).max())
            reach = float(np.quantile(np.linalg.norm(kept - center, axis=1), 0.99)) * 1.1
            count, how = len(kept), "are in view of most cameras and in that sphere"
            if standing is not None:
                count, how = len(kept) // 2, "stand on a table in that sphere, in view of most cameras"
            reasons.append(f"{count} of {len(points)} points {how}")
            reasons.append(f"they span {_listed(high - low)}, the grid {MARGIN:g} times the most of it")
            return _with_near(poses, center, side, min(reach, side * math.sqrt(3) / 2), reasons)
        reasons.append(f"only {len(kept)} of {len(points)} points lie in that sphere: it alone decides")
    side = 2 * VOLUME_MARGIN * radius
    return _with_near(poses, meet, side, side / 2, reasons)


def on_table(points: Array, up: Array, radius: float) -> Array | None:
    """Those of ``points`` ``[N, 3]`` that stand on a table, with their feet on it; None if there is none.

    A table is a plane within 25° of level that holds a quarter of the points, found by random sampling (RANSAC,
    Fischler and Bolles 1981), with hardly any below it.
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
    if len(standing) < LEAST_POINTS:
        return None
    return np.concatenate([standing, standing - height[above, None] * normal])


def near_plane(poses: Array, origin: Array, scale: float, reach: float | None = None) -> float:
    """The near plane for a grid: before its corners in the nearest view, unless what lies within ``reach`` (default:
    half its side) of the centre would then be cut behind in the farthest; the frustum is twice the side deep.
    """
    reach = scale / 2 if reach is None else reach
    depths = in_camera(poses, origin[None])[:, 0, 2]
    near = max(depths.min() - math.sqrt(3) / 2 * scale, depths.max() + reach - 2 * scale)
    return float(max(min(near, depths.min() - reach), 0.01 * scale))


def _with_near(poses: Array, center: Array, side: float, reach: float, reasons: list[str]) -> Placed:
    depths = in_camera(poses, center[None])[:, 0, 2]
    needed = (float(np.quantile(depths, 0.98) - np.quantile(depths, 0.02)) + 2 * reach) / 2
    if needed > side:
        reasons.append(f"cameras stand {depths.min():.4g} to {depths.max():.4g} away and a view frustum is twice the "
                       f"grid deep: side raised from {side:.4g} to {needed:.4g}")  # fmt: skip
        side = needed
    near = near_plane(poses, center, side, reach)
    x, y, z = center.tolist()
    reasons.append(f"grid centre {_listed(center)}, side {side:.4g}, near plane {near:.4g}")
    return Placed(GridPlacement((x, y, z), side, near), reasons)


def overridden(
    placed: Placed, poses: Array, origin: list[float] | None, scale: float | None, near: float | None
) -> Placed:
    """``placed`` with the given values instead; the near plane follows a changed grid unless it is given too."""
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
    said = f"as given: grid centre {_listed(np.array(p.origin))}, side {p.scale:.4g}, near plane {p.near:.4g}"
    return Placed(p, [*placed.reasons, said])


def _listed(vector: Array) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in vector) + ")"
