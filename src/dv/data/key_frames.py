"""Files of key frames, which pages save and ``render.py trajectory=FILE`` renders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from dv.errors import UserError
from dv.geometry.camera import rigid_defect
from dv.runtime.foreign_files import read_text

Number = Annotated[float, Field(allow_inf_nan=False)]
MAX_FRAMES = 100_000


class KeyFrame(BaseModel):
    """``pose`` is camera-to-world, by rows, in OpenCV axes and the world of the object."""

    pose: list[list[Number]]


class KeyFrames(BaseModel):
    """Two or more key frames, and the time from one to the next."""

    key_frames: Annotated[list[KeyFrame], Field(min_length=2)]
    seconds_per_key_frame: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0


def key_frames_json(poses: list[Tensor], seconds_per_key_frame: float) -> str:
    """Return the text of a file of key frames with the poses ``[4, 4]``."""
    frames = [KeyFrame(pose=pose.tolist()) for pose in poses]
    return KeyFrames(key_frames=frames, seconds_per_key_frame=seconds_per_key_frame).model_dump_json(indent=1)


def read_key_frames(path: Path, fps: float) -> tuple[Tensor, int]:
    """Read a file of key frames.

    Returns:
        Poses ``[K, 4, 4]``, and the number of frames from the first to the last at ``fps`` frames per second.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise UserError(f"trajectory={path}: no such file")
    try:
        content = KeyFrames.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: not a file of key frames: {where}: {first['msg']}") from error
    poses = []
    for i, frame in enumerate(content.key_frames):
        rows = frame.pose
        if [len(row) for row in rows] != [4] * 4:
            raise UserError(f"{path}: the pose of key frame {i} must have 4 rows of 4 numbers")
        pose = torch.tensor(rows, dtype=torch.float64)
        if defect := rigid_defect(pose):
            raise UserError(f"{path}: the pose of key frame {i} {defect}")
        poses.append(pose)
    frames = round(content.seconds_per_key_frame * (len(poses) - 1) * fps) + 1
    if frames > MAX_FRAMES:
        raise UserError(f"{path}: {frames} frames at trajectory.fps={fps:g} are more than {MAX_FRAMES}")
    return torch.stack(poses), max(2, frames)
