"""The cameras of ``render.py``: those of a trajectory, of another size, or of a second eye."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dv.config.trajectories import Trajectory
from dv.data.folder import read_poses
from dv.data.key_frames import read_key_frames
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.trajectory import eye_poses, interpolate, key_poses, orbit, spiral
from dv.rendering.restore import Restored

EYE_DISTANCE = 1 / 30  # of the distance to the centre of the box, comfortable on a screen


class Shots(NamedTuple):
    """N views to render: names, poses ``[N, 4, 4]`` float64 and cameras."""

    names: list[str]
    poses: Tensor
    cameras: list[Intrinsics]


def trajectory(restored: Restored, config: Trajectory) -> Shots:
    """Return the views of a trajectory, where nothing else is known with the camera of the first training view.

    Raises:
        UserError: if poses or the file of a path are missing or faulty.
    """
    source = restored.source
    if config.name == "poses" or (config.name == "test" and (source.folder("test") / "pose").is_dir()):
        calibration = source.calibration("test")
        names, poses = read_poses(source.folder("test"), calibration)
        return Shots(names, poses, source.cameras("test", names))
    if config.name == "test":
        views = source.views("test")
        return Shots(views.names, views.poses, views.cameras)
    calibration = source.calibration()
    known_names, known = read_poses(source.folder("train"), calibration)
    center = torch.tensor(restored.placement.origin, dtype=known.dtype)
    if config.name == "file":
        if not config.path:
            raise UserError("trajectory.path is not set; give trajectory=FILE.json")
        poses = interpolate(*read_key_frames(Path(config.path), config.fps)).to(known.dtype)
    elif config.name == "spiral":
        poses = spiral(known, center, config.frames, config.turns, source.up())
    elif config.name == "orbit":
        poses = orbit(known, center, config.frames, source.up())
    elif config.name == "turntable":
        poses = orbit(known, center, config.frames, source.up(), math.radians(config.elevation), covered=False)
    else:
        poses = interpolate(key_poses(known, config.key_poses), config.frames)
    cameras = source.cameras("train", known_names[:1]) * len(poses)
    return Shots([f"{i:06d}" for i in range(len(poses))], poses, cameras)


def resized(shots: Shots, width: int | None, height: int | None) -> Shots:
    """Return the views at another size; with one side given, at the aspect ratio of each camera."""
    if width is None and height is None:
        return shots

    def size(k: Intrinsics) -> tuple[int, int]:
        scale = width / k.width if width else (height or k.height) / k.height
        return width or max(2, round(scale * k.width)), height or max(2, round(scale * k.height))

    return shots._replace(cameras=[k.fitted(*size(k)) for k in shots.cameras])


def eyes(shots: Shots, restored: Restored, distance: float | None) -> tuple[Shots, Shots]:
    """Return the views of the left and of the right eye, which are ``distance`` apart, world units.

    Raises:
        UserError: if they are so far apart that neither would show the thing.
    """
    center = torch.tensor(restored.placement.origin, dtype=shots.poses.dtype)
    away = float((shots.poses[:, :3, 3] - center).norm(dim=1).median())
    if distance is None:
        distance = away * EYE_DISTANCE
    if distance > away / 2:
        raise UserError(
            f"eye_distance={distance:g} is more than half the distance of {away:.4g} to the centre of the box; "
            f"{away * EYE_DISTANCE:.2g} is comfortable"
        )
    pairs = [eye_poses(shots.poses, shots.cameras, center, sign * distance / 2) for sign in (-1, 1)]
    left, right = (shots._replace(poses=poses, cameras=cameras) for poses, cameras in pairs)
    return left, right
