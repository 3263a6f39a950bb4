"""The path of one client: key frames, where a camera is along them, and the file that they are saved in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dv.data.key_frames import key_frames_json
from dv.geometry.trajectory import interpolate

FRAMES_PER_SECOND = 15  # of a path that is played


@dataclass
class CameraPath:
    """Key frames, camera-to-world ``[4, 4]`` float64 each."""

    poses: list[Tensor] = field(default_factory=list)
    seconds_per_key_frame: float = 2.0
    _frames: Tensor | None = field(default=None, repr=False)
    _started: float = 0.0

    @property
    def is_playing(self) -> bool:
        """Whether a camera moves along the path now."""
        return self._frames is not None

    def play(self) -> None:
        """Start at the first key frame; needs two."""
        if len(self.poses) > 1:
            count = round(self.seconds_per_key_frame * (len(self.poses) - 1) * FRAMES_PER_SECOND) + 1
            self._frames, self._started = interpolate(torch.stack(self.poses), max(2, count)), time.perf_counter()

    def stop(self) -> None:
        """Stop where the camera is."""
        self._frames = None

    def now(self) -> Tensor | None:
        """Return the pose ``[4, 4]`` of this moment; the path stops behind its last one. None if it is not played."""
        if self._frames is None:
            return None
        frame = int((time.perf_counter() - self._started) * FRAMES_PER_SECOND)
        pose = self._frames[min(frame, len(self._frames) - 1)]
        if frame >= len(self._frames):
            self._frames = None
        return pose

    def to_json(self) -> str:
        """Return the text of a file for ``render.py trajectory=FILE``."""
        return key_frames_json(self.poses, self.seconds_per_key_frame)
