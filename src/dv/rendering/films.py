"""Films: MP4, GIF and WebP, written frame by frame by FFmpeg."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import imageio_ffmpeg
import numpy as np
from torch import Tensor

from dv.images import centered, to_uint8

PALETTE = "split[frames][all];[all]palettegen[palette];[frames][palette]paletteuse=dither=sierra2_4a"
ENCODERS: dict[str, dict[str, Any]] = {  # by the suffix of the file
    "mp4": {"codec": "libx264", "quality": 8, "macro_block_size": 2},
    "gif": {"codec": "gif", "pix_fmt_out": "pal8", "output_params": ["-vf", PALETTE, "-loop", "0"]},
    "webp": {"codec": "libwebp_anim", "pix_fmt_out": "yuv420p", "output_params": ["-loop", "0", "-quality", "90"]},
}


class Film:
    """Context manager that writes a film frame by frame, in the format of the file's suffix.

    GIFs have 256 colours for all frames together, and whole hundredths of a second for each. GIF and WebP loop.

    Args:
        path: the file to write: ``.mp4`` (H.264), ``.gif`` or ``.webp``.
        fps: frames per second.
        size: height and width in px, in the middle of which smaller frames lie on white; None: of the first frame.
        min_side: frames of smaller height, in px, are enlarged by an integer factor, so that they can be watched.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int] | None = None, min_side: int = 256) -> None:
        self.path, self.fps, self.size, self.min_side = path, fps, size, min_side
        self._writer: Generator[None, np.ndarray | None, None] | None = None

    def __enter__(self) -> Film:
        return self

    def add(self, image: Tensor) -> None:
        """Append a frame ``[3, H, W]`` in [0, 1].

        Raises:
            OSError: if FFmpeg cannot write it, for example on a full disk.
        """
        self.size = self.size or (image.shape[1], image.shape[2])
        frame = to_uint8(centered(image.float(), *self.size))
        k = -(-self.min_side // frame.shape[0])
        frame = frame.repeat(k, 0).repeat(k, 1)
        if self.path.suffix == ".mp4":  # H.264 needs even sides
            frame = np.pad(frame, (*((0, side % 2) for side in frame.shape[:2]), (0, 0)), mode="edge")
        if self._writer is None:
            options = {"macro_block_size": 1, "quality": None, **ENCODERS[self.path.suffix[1:]]}
            size = frame.shape[1], frame.shape[0]
            self._writer = imageio_ffmpeg.write_frames(
                str(self.path), size, fps=self.fps, ffmpeg_log_level="error", **options
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
