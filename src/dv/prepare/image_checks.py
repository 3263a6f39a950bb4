"""Slow checks of images: exposure, sharpness, and whether the grid contains the object."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dv.data.calibration import Calibration
from dv.data.folder import Views
from dv.geometry.camera import axis_cosines, project, to_camera
from dv.prepare.photographs import shorten
from dv.prepare.placement import Array

HULL_SIDE = 32  # voxels across the cube of twice the grid's side
SILHOUETTE_SIDE = 64  # px
SILHOUETTE_TOLERANCE = 0.1  # maximum difference of a channel in [0, 1] to the background


def check_images(train: Views, calibration: Calibration) -> list[str]:
    """Return what is suspicious about the training images; none of it prevents training.

    Args:
        train: training views.
        calibration: of these views.

    Returns:
        One sentence per finding.
    """
    grey = [train.image(i).float().mean(0).numpy() / 255 for i in range(len(train))]
    nearest = axis_cosines(train.poses, train.poses).topk(min(5, len(train))).indices.numpy()
    messages = []
    blank = [name for name, image in zip(train.names, grey, strict=True) if image.std() < 0.01]
    if blank:
        messages.append(f"{shorten(blank)}: of one colour; remove these views")
    brightness = np.log(np.maximum([image.mean() for image in grey], 1e-3))
    jumps = _outliers(brightness - np.median(brightness[nearest], axis=1), minimum=0.2)
    if len(jumps):
        messages.append(f"{shorten([train.names[i] for i in jumps])}: much brighter or darker than the neighbouring "
                        "views; was exposure fixed? remove or correct them, or let exposures be "
                        "learned: experiment=capture, or experiment=radiance model.exposure_rate=0.1")  # fmt: skip
    sharpness = np.log([max(float(cv2.Laplacian(image, cv2.CV_32F).var()), 1e-9) for image in grey])
    relative = sharpness - np.median(sharpness[nearest], axis=1)
    blurred = [i for i in _outliers(relative, minimum=1.0) if relative[i] < 0]
    if blurred:
        messages.append(f"{shorten([train.names[i] for i in blurred])}: blurred compared with the neighbouring views; "
                        "remove them")  # fmt: skip
    return [*messages, *_hull_outside_grid(train, calibration)]


def _outliers(values: Array, minimum: float) -> NDArray[np.intp]:
    """Return where ``values`` deviate by more than ``minimum`` and by more than eight robust standard deviations."""
    deviation = np.abs(values - np.median(values))
    spread = 1.4826 * float(np.median(deviation))
    return np.flatnonzero(deviation > max(minimum, 8 * spread))


def _silhouettes(views: Views) -> list[NDArray[np.bool_]] | None:
    """Return what differs from the background in each image, dilated by a pixel; None if a background is not plain."""
    silhouettes = []
    for i in range(len(views)):
        small = (
            cv2.resize(views.image(i).permute(1, 2, 0).numpy(), (SILHOUETTE_SIDE,) * 2, interpolation=cv2.INTER_AREA)
            / 255
        )
        border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
        background = np.median(border, axis=0)
        if (np.abs(border - background).max(1) > SILHOUETTE_TOLERANCE).mean() > 0.2:
            return None
        foreground = np.abs(small - background).max(2) > SILHOUETTE_TOLERANCE
        silhouettes.append(cv2.dilate(foreground.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    return silhouettes


def _hull_outside_grid(views: Views, calibration: Calibration) -> list[str]:
    """Check whether the visual hull of the silhouettes (Laurentini 1994) lies inside the grid."""
    silhouettes = _silhouettes(views)
    if silhouettes is None:
        return []
    p = calibration.placement
    axis = (np.arange(HULL_SIDE) + 0.5) / HULL_SIDE * 2 - 1
    voxels = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) * p.scale + p.origin
    seen, covered = np.zeros(len(voxels)), np.zeros(len(voxels))  # number of images
    for pose, camera, silhouette in zip(views.poses, views.cameras, silhouettes, strict=True):
        k = camera.resized(SILHOUETTE_SIDE, SILHOUETTE_SIDE)
        points = to_camera(pose, torch.from_numpy(voxels))
        pixels = np.floor(project(points, k).numpy() + 0.5).astype(int)
        visible = (points[:, 2].numpy() > 0) & ((pixels >= 0) & (pixels < SILHOUETTE_SIDE)).all(1)
        seen += visible
        covered[visible] += silhouette[pixels[visible, 1], pixels[visible, 0]]
    hull = voxels[(seen > 0.6 * len(views)) & (covered > 0.97 * seen)]
    if not len(hull):
        return ["no point in or around the grid is on the object in all images: poses or intrinsics do not fit the "
                "images, or the grid misses the object"]  # fmt: skip
    low, high = hull.min(0), hull.max(0)
    voxel = 2 * p.scale / HULL_SIDE
    outside = (np.abs(hull - p.origin) > p.scale / 2 + voxel).any(1)
    if outside.mean() < 0.02:
        return []
    center, side = (low + high) / 2, 1.1 * float((high - low).max())
    x, y, z = center
    return [f"{100 * outside.mean():.0f} % of what the silhouettes enclose lies outside the grid, which cuts or misses "
            f"the object; it would fit into a side of {side:.4g} around {x:.4g} {y:.4g} {z:.4g} (lines 4 and 2 of "
            "intrinsics.txt)"]  # fmt: skip
