"""Poses and cameras of the training views, for exporting and viewing: the images themselves may be missing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dv.data.folder import read_poses
from dv.data.object import ObjectSource
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.trajectory import up_direction


class TrainingCameras(NamedTuple):
    """V training views: names, poses ``[V, 4, 4]`` float64, intrinsics, and the world's up direction ``[3]``."""

    names: list[str]
    poses: Tensor
    intrinsics: list[Intrinsics]
    up: Tensor

    def typical(self, placement: GridPlacement) -> int:
        """Return the view of median elevation among those whose optical axes pass nearest to the centre of the box."""
        offsets = self.poses[:, :3, 3] - torch.tensor(placement.origin, dtype=self.poses.dtype)
        beside = torch.linalg.cross(offsets, self.poses[:, :3, 2]).norm(dim=1) / placement.scale
        elevation = offsets @ self.up / offsets.norm(dim=1)
        near = (beside <= beside.min() + 0.05).nonzero()[:, 0]
        return int(near[(elevation[near] - elevation[near].median()).abs().argmin()])


def read_training_cameras(source: ObjectSource) -> TrainingCameras:
    """Read the poses and cameras of the views that are trained on, without noise.

    Without a recorded up direction, it is the mean of the cameras'.

    Raises:
        UserError: with every fault of the poses.
    """
    names, poses = read_poses(source.folder("train"), source.calibration())
    kept = source.trained_views(poses)
    names, poses, up = [names[i] for i in kept], poses[kept], source.up()
    return TrainingCameras(names, poses, source.cameras("train", names), up_direction(poses) if up is None else up)
