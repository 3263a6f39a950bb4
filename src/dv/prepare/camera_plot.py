"""A 3D picture of an object's cameras, its grid and what points are known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.prepare.placement import Array

COLORS = {"train": "#1f77b4", "validation": "#2ca02c", "test": "#d62728"}
FRUSTUM = 0.12  # length of a drawn camera, of the median distance to the grid
SHOWN_POINTS, SHOWN_CAMERAS = 4000, 200


def scene_picture(
    path: Path,
    poses_by_split: dict[str, Array],
    placement: GridPlacement,
    intrinsics: Intrinsics,
    points: Array | None = None,
) -> None:
    """Write a PNG with two views, askew and from above (along z): cameras by split, the grid's box, points.

    Args:
        poses_by_split: ``[V, 4, 4]`` camera-to-world by split; of many, 200 spread over their list are drawn.
        intrinsics: of all cameras; their pyramids have its field of view.
        points: ``[N, 3]``, world units; those far from cameras and grid are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    origin = np.array(placement.origin)
    centers = np.concatenate([poses[:, :3, 3] for poses in poses_by_split.values()])
    distance = float(np.median(np.linalg.norm(centers - origin, axis=1)))
    reach = np.concatenate([centers, origin + placement.scale / 2 * _corners()])
    low, high = reach.min(0), reach.max(0)
    if points is not None:
        margin = 0.1 * (high - low)
        points = points[((points > low - margin) & (points < high + margin)).all(1)]
        points = points[:: max(1, len(points) // SHOWN_POINTS)]
    for place, (elevation, azimuth, title) in enumerate(((25, -60, "askew"), (90, -90, "from above (along z)"))):
        axes: Any = figure.add_subplot(1, 2, place + 1, projection="3d", proj_type="ortho" if place else "persp")
        if points is not None:
            axes.scatter(*points.T, s=1, c="0.45", alpha=0.5, linewidths=0, label=f"{len(points)} points")
        for edge in box_edges(placement):
            axes.plot(*edge.T, color="k", linewidth=1.2)
        for split, poses in poses_by_split.items():
            shown = poses[:: -(-len(poses) // SHOWN_CAMERAS)]
            lines = np.concatenate([_pyramid(pose, intrinsics, FRUSTUM * distance) for pose in shown])
            axes.plot(*lines.T, color=COLORS.get(split, "0.3"), linewidth=0.7, label=f"{len(poses)} {split}")
        axes.set(xlabel="x", ylabel="y", zlabel="" if place else "z", title=title)
        axes.set_box_aspect(np.maximum(high - low, 1e-9))
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        if place:
            axes.set_zticks([])
        axes.view_init(elevation, azimuth)
    figure.axes[0].legend(loc="upper left", markerscale=6)
    x, y, z = placement.origin
    figure.suptitle(f"grid: side {placement.scale:.4g} around ({x:.4g}, {y:.4g}, {z:.4g}), near {placement.near:.4g}")
    figure.savefig(path, dpi=90)


def _corners() -> Array:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


def box_edges(placement: GridPlacement) -> list[Array]:
    """The twelve edges ``[2, 3]`` of the grid's box, world units."""
    corners = np.array(placement.origin) + placement.scale / 2 * _corners()
    return [np.stack([a, b]) for a, b in itertools.combinations(corners, 2) if np.count_nonzero(a != b) == 1]


def _pyramid(pose: Array, intrinsics: Intrinsics, length: float) -> Array:
    """One line ``[L, 3]`` that draws a camera's pyramid, with a gap (nan) at its end."""
    edge = np.array([0.0, intrinsics.side])
    x, y = (edge - intrinsics.cx) / intrinsics.f, (edge - intrinsics.cy) / intrinsics.f
    frame = np.array([(x[0], y[0], 1), (x[1], y[0], 1), (x[1], y[1], 1), (x[0], y[1], 1)]) * length
    eye = np.zeros(3)
    way = np.stack([eye, frame[0], frame[1], eye, frame[1], frame[2], eye, frame[2], frame[3], eye, frame[3], frame[0]])
    return np.concatenate([way @ pose[:3, :3].T + pose[:3, 3], np.full((1, 3), np.nan)])
