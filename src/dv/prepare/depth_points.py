"""Points of surfaces from depth images of views whose cameras are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dv.decoding import read_pixels
from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.prepare.photographs import Photograph
from dv.prepare.placement import Array

MAX_POINTS = 100_000  # of all views, before those that contradict each other are left out
LONGEST = 512  # px: larger depth images are read at every n-th pixel
TOLERANCE = 0.05  # relative difference of depths that agree
MIN_AGREEING = 0.3  # fraction of the points that other views show; below it the depths are not of these cameras


@dataclass(frozen=True)
class DepthImage:
    """Camera z of the pixels of a photograph.

    Args:
        photograph: whose lens and pose it has.
        path: PNG of 16 bits, or ``.npy``, of the photograph's shape and any size; 0 is unknown.
        unit: world units per count.
    """

    photograph: Photograph
    path: Path
    unit: float


def points_of_depth(images: Sequence[DepthImage]) -> Array | None:
    """Return points ``[N, 3]`` on which at least two depth images agree; None if most contradict each other.

    Points of every image are compared with the depth that the next ones of the sequence have where they show them.

    Raises:
        UserError: if a file cannot be read or has another shape than its photograph.
    """
    if len(images) < 2:
        return None
    depths = [_read(image) for image in images]
    per_image = max(1, MAX_POINTS // len(images))
    steps = {1, 2, max(1, len(images) // 8)}
    kept, compared, agreeing = [], 0, 0
    for i, (image, depth) in enumerate(zip(images, depths, strict=True)):
        points = _unproject(image.photograph, depth, per_image)
        agrees = np.zeros(len(points), bool)
        shown = np.zeros(len(points), bool)
        for step in steps:
            j = (i + step) % len(images)
            if j != i:
                known, same = _compare(points, images[j].photograph, depths[j])
                shown |= known
                agrees |= same
        kept.append(points[agrees])
        compared, agreeing = compared + int(shown.sum()), agreeing + int(agrees.sum())
    if agreeing < max(1.0, MIN_AGREEING * compared):
        return None
    return np.concatenate(kept)


def _read(image: DepthImage) -> NDArray[np.float32]:
    """Return the depth ``[H, W]`` in world units, 0 where it is unknown."""
    try:
        counts = np.load(image.path, allow_pickle=False) if image.path.suffix == ".npy" else _counts(image.path)
        depth = np.asarray(counts, np.float64).squeeze() * image.unit
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{image.path}: cannot be read as a depth image ({error})") from error
    lens = image.photograph.lens
    if depth.ndim != 2 or abs(depth.shape[1] * lens.height - depth.shape[0] * lens.width) > max(
        *depth.shape, lens.width
    ):
        raise UserError(f"{image.path}: depth of {'×'.join(map(str, reversed(depth.shape)))} px for an image of "
                        f"{lens.width}×{lens.height} px")  # fmt: skip
    height, width = depth.shape
    rows, columns = (_spread(side, max(height, width)) for side in (height, width))
    depth = depth[np.ix_(rows, columns)].astype(np.float32)
    return np.where(np.isfinite(depth), depth, np.float32(0))


def _spread(side: int, longest: int) -> NDArray[np.intp]:
    """Return the indices of pixels along a side of an image whose longest side is reduced to :data:`LONGEST`."""
    count = max(1, round(side * min(1.0, LONGEST / longest)))
    return ((np.arange(count) + 0.5) * side / count).astype(np.intp)


def _counts(path: Path) -> Array:
    pixels = read_pixels(path)
    if pixels.dtype != np.uint16:
        raise UserError(f"{path}: a depth image must have 16 bits, this one is a picture of 8")
    return pixels[..., 0]


def _unproject(photograph: Photograph, depth: NDArray[np.float32], count: int) -> Array:
    """Return the world points ``[N, 3]`` of at most ``count`` evenly spaced pixels with known depth."""
    known = np.argwhere(depth > 0)
    rows, columns = known[:: max(1, len(known) // count)].T
    lens = photograph.lens
    scale = np.array([lens.width / depth.shape[1], lens.height / depth.shape[0]])
    pixels = (np.stack([columns, rows], 1) + 0.5) * scale - 0.5
    z = depth[rows, columns][:, None]
    local = np.concatenate([lens.unproject(pixels) * z, z], 1) if len(pixels) else np.empty((0, 3))
    return np.asarray(local @ photograph.pose[:3, :3].T + photograph.pose[:3, 3])


def _compare(points: Array, photograph: Photograph, depth: NDArray[np.float32]) -> tuple[np.ndarray, np.ndarray]:
    """Return which world points ``[N, 3]`` a depth image shows, and which it has at the same depth."""
    lens = photograph.lens
    local = to_camera(photograph.pose, points)
    shown = local[:, 2] > 0
    pixels = np.full((len(points), 2), -1.0)
    if shown.any():
        pixels[shown] = lens.project(local[shown])
    scale = np.array([depth.shape[1] / lens.width, depth.shape[0] / lens.height])
    indices = np.floor((pixels + 0.5) * scale)
    shown &= (indices >= 0).all(1) & (indices < depth.shape[::-1]).all(1)
    columns, rows = indices[shown].astype(int).T
    found = np.zeros(len(points))
    found[shown] = depth[rows, columns]
    known = shown & (found > 0)
    return known, known & (np.abs(found - local[:, 2]) < TOLERANCE * local[:, 2])
