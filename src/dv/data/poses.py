"""Pose files, and whether their cameras see the grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from kornia.geometry.linalg import inverse_transformation
from numpy.typing import NDArray
from torch import Tensor

from dv.data.calibration import Calibration
from dv.data.reading import ImageReading
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, project, rigid_defect, to_camera
from dv.runtime.foreign_files import numbers_of, read_text

log = logging.getLogger(__name__)


def read_matrix(path: Path) -> NDArray[np.float64]:
    """Read a matrix ``[4, 4]`` from 16 numbers, on one line or four.

    Raises:
        UserError: if the file does not hold 16 numbers.
    """
    text = read_text(path)
    try:
        numbers = [number for line in text.splitlines() for number in numbers_of(line)]
    except ValueError as error:
        raise UserError(f"{path}: contains something that is not a number") from error
    if len(numbers) != 16:
        raise UserError(f"{path}: a pose has 16 numbers (4×4), this file has {len(numbers)}")
    return np.array(numbers, np.float64).reshape(4, 4)


def read_pose(path: Path, world_to_camera: bool = False) -> Tensor:
    """Read a camera-to-world pose from 16 numbers, on one line or four.

    Args:
        path: the file.
        world_to_camera: whether the file holds the inverse of the pose.

    Returns:
        The pose ``[4, 4]`` float64.

    Raises:
        UserError: if the file is not a rigid transform.
    """
    pose = torch.from_numpy(read_matrix(path))
    defect = rigid_defect(pose)
    if defect:
        raise UserError(f"{path}: {defect}")
    return inverse_transformation(pose[None])[0] if world_to_camera else pose


def sees_grid(
    pose: Tensor, calibration: Calibration, camera: Intrinsics | None = None, in_frustum: bool = True
) -> bool:
    """Return whether any of 12³ points of the grid is in the image and beyond the near plane.

    Args:
        pose: camera-to-world ``[4, 4]``.
        calibration: with the grid's placement.
        camera: intrinsics of the view; by default those of the calibration.
        in_frustum: whether the point must be before the end of the view frustum too, two sides behind the near plane.
    """
    placement, camera = calibration.placement, camera or calibration.intrinsics
    points = to_camera(pose, placement.voxel_centers(12))
    pixels = project(points, camera)
    inside = (pixels >= -0.5).all(1) & (pixels < pixels.new_tensor([camera.width, camera.height]) - 0.5).all(1)
    end = placement.near + 2 * placement.scale if in_frustum else math.inf
    return bool((inside & (points[:, 2] >= placement.near) & (points[:, 2] < end)).any())


def check_grid_in_view(
    poses: Mapping[Path, Tensor], calibration: Calibration, cameras: Mapping[str, Intrinsics], reading: ImageReading
) -> list[str]:
    """Report cameras that do not see the grid.

    In images as they are, cameras that only show surroundings are allowed, unless they are the majority.
    """
    squares = reading.image_side is not None
    blind = [p for p, pose in poses.items() if not sees_grid(pose, calibration, cameras.get(p.stem), squares)]
    if blind and not squares and 2 * len(blind) < len(poses):
        what = "%s: %d of %d views only show surroundings of the grid, such as %s"
        log.warning(what, blind[0].parent.parent, len(blind), len(poses), blind[0].stem)
        return []
    return [
        f"{path}: this camera does not see the grid; check origin, near plane and scale in intrinsics.txt, "
        "and whether poses are camera-to-world (OpenCV axes)"
        for path in blind
    ]
