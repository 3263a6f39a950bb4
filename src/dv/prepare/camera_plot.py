"""Drawings of an object's cameras and grid: a 3D plot, and a contact sheet of the views with the grid's box."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dv.data.folder import Views
from dv.geometry.camera import Intrinsics, project, to_camera, to_world
from dv.geometry.grid import GridPlacement
from dv.prepare.placement import Array

COLORS = {"train": "#1f77b4", "validation": "#2ca02c", "test": "#d62728"}
PYRAMID_LENGTH = 0.12  # of a drawn camera, relative to the median distance to the grid
MAX_POINTS, MAX_CAMERAS = 4000, 200
SHEET_VIEWS, SHEET_COLUMNS, SHEET_SIDE = 48, 8, 160
BOX_COLOR = (255, 0, 160)


def plot_scene(
    path: Path,
    poses_by_split: dict[str, Array],
    placement: GridPlacement,
    intrinsics: Intrinsics,
    points: Array | None = None,
) -> None:
    """Write a PNG with an oblique view and a top view (along z) of the cameras, the grid's box and points.

    Args:
        path: the file to write.
        poses_by_split: camera-to-world ``[V, 4, 4]`` by split; at most 200 evenly selected ones are drawn per split.
        placement: of the grid.
        intrinsics: of the cameras, which are all drawn as pyramids with this field of view.
        points: ``[N, 3]`` in world units; those far from cameras and grid are not drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    origin = np.array(placement.origin)
    centers = np.concatenate([poses[:, :3, 3] for poses in poses_by_split.values()])
    distance = float(np.median(np.linalg.norm(centers - origin, axis=1)))
    extent = np.concatenate([centers, origin + placement.scale / 2 * _corners()])
    low, high = extent.min(0), extent.max(0)
    if points is not None:
        margin = 0.1 * (high - low)
        points = points[((points > low - margin) & (points < high + margin)).all(1)]
        points = points[:: max(1, len(points) // MAX_POINTS)]
    for i, (elevation, azimuth, title) in enumerate(((25, -60, "oblique"), (90, -90, "from above (along z)"))):
        axes: Any = figure.add_subplot(1, 2, i + 1, projection="3d", proj_type="ortho" if i else "persp")
        if points is not None:
            axes.scatter(*points.T, s=1, c="0.45", alpha=0.5, linewidths=0, label=f"{len(points)} points")
        for edge in box_edges(placement):
            axes.plot(*edge.T, color="k", linewidth=1.2)
        for split, poses in poses_by_split.items():
            shown = poses[:: -(-len(poses) // MAX_CAMERAS)]
            lines = np.concatenate([_pyramid(pose, intrinsics, PYRAMID_LENGTH * distance) for pose in shown])
            axes.plot(*lines.T, color=COLORS.get(split, "0.3"), linewidth=0.7, label=f"{len(poses)} {split}")
        axes.set(xlabel="x", ylabel="y", zlabel="" if i else "z", title=title)
        axes.set_box_aspect(np.maximum(high - low, 1e-9))
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        if i:
            axes.set_zticks([])
        axes.view_init(elevation, azimuth)
    figure.axes[0].legend(loc="upper left", markerscale=6)
    x, y, z = placement.origin
    figure.suptitle(f"grid: side {placement.scale:.4g} around ({x:.4g}, {y:.4g}, {z:.4g}), near {placement.near:.4g}")
    figure.savefig(path, dpi=90)


def _corners() -> Array:
    return np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


def box_edges(placement: GridPlacement) -> list[Array]:
    """Return the end points ``[2, 3]`` in world units of the twelve edges of the grid's box."""
    corners = np.array(placement.origin) + placement.scale / 2 * _corners()
    return [np.stack([a, b]) for a, b in itertools.combinations(corners, 2) if np.count_nonzero(a != b) == 1]


def _pyramid(pose: Array, intrinsics: Intrinsics, length: float) -> Array:
    """Return the line ``[L, 3]`` that draws a camera as a pyramid; a NaN at its end separates it from the next."""
    k = intrinsics
    x, y = (np.array([0.0, k.width]) - k.cx) / k.fx, (np.array([0.0, k.height]) - k.cy) / k.fy
    a, b, c, d = np.array([(x[0], y[0], 1), (x[1], y[0], 1), (x[1], y[1], 1), (x[0], y[1], 1)]) * length
    eye = np.zeros(3)
    line = np.stack([eye, a, b, eye, b, c, eye, c, d, eye, d, a])
    return np.concatenate([to_world(pose, line), np.full((1, 3), np.nan)])


def contact_sheet_with_grid(splits: dict[str, Views], placement: GridPlacement) -> NDArray[np.uint8]:
    """Draw the grid's box and the name on at most 48 evenly selected views of every split.

    Returns:
        The sheet, uint8 ``[H, W, 3]``.
    """
    sheets = []
    for split, views in splits.items():
        cells = []
        for i in range(0, len(views), -(-len(views) // SHEET_VIEWS)):
            image, k = views.image(i).permute(1, 2, 0).numpy(), views.cameras[i]
            scale = SHEET_SIDE / max(k.width, k.height)
            k = k.resized(max(1, round(k.width * scale)), max(1, round(k.height * scale)))
            cell = cv2.resize(image, (k.width, k.height), interpolation=cv2.INTER_AREA)
            for edge in box_edges(placement):
                ends = to_camera(views.poses[i], torch.from_numpy(edge))
                if (ends[:, 2] > 0).all():
                    pixels = project(ends, k).clamp(-1000, 1000).tolist()
                    a, b = (tuple(int(16 * x) for x in pixel) for pixel in pixels)
                    cv2.line(cell, a, b, BOX_COLOR, 1, cv2.LINE_AA, 4)  # 4: coordinates are in 1/16 px
            around = ((0, SHEET_SIDE - k.height), (0, SHEET_SIDE - k.width), (0, 0))
            cell = np.pad(cell, around, constant_values=255)
            label = np.full((18, SHEET_SIDE, 3), 255, np.uint8)
            cv2.putText(label, f"{split}/{views.names[i]}"[-26:], (2, 13), 0, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
            cells.append(np.pad(np.concatenate([cell, label]), ((2, 2), (2, 2), (0, 0)), constant_values=255))
        cells += [np.full_like(cells[0], 255)] * (-len(cells) % SHEET_COLUMNS)
        rows = [np.concatenate(cells[i : i + SHEET_COLUMNS], 1) for i in range(0, len(cells), SHEET_COLUMNS)]
        sheets.append(np.concatenate(rows))
    return np.concatenate(sheets)
