"""Writing pictures, point clouds and video: 16-bit colour and depth PNG, PLY, MP4, contact sheets."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import imageio.v2 as imageio  # the streaming video writer
import imageio.v3 as iio
import numpy as np
import torch
from kornia.geometry.transform import resize
from torch import Tensor
from torch.nn import functional


def write_png16(path: Path, image: Tensor) -> None:
    """Write ``[3, H, W]`` or ``[1, H, W]`` in [0, 1] as 16-bit PNG; a sample x is stored as round(65535·x)."""
    counts = (image.double().clamp(0, 1) * 65535).round().to(torch.int32).cpu().numpy().astype(np.uint16)
    # imageio's default backend has no 16-bit RGB; OpenCV's has, but writes a full disk's half picture without a word
    path.write_bytes(iio.imwrite("<bytes>", np.moveaxis(counts, 0, -1).squeeze(), extension=".png", plugin="opencv"))


def write_png(path: Path, image: Tensor) -> None:
    """Write ``[3, H, W]`` in [0, 1] as 8-bit PNG."""
    path.write_bytes(png(image))


def png(image: Tensor) -> bytes:
    """``[3, H, W]`` in [0, 1] as 8-bit PNG."""
    encoded: bytes = iio.imwrite("<bytes>", to_uint8(image), extension=".png")
    return encoded


def to_uint8(image: Tensor) -> np.ndarray:
    """``[3, H, W]`` in [0, 1] as ``[H, W, 3]`` uint8."""
    return (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def write_ply(path: Path, points: Tensor, colors: Tensor) -> None:
    """Write ``points`` ``[N, 3]``, any units, with ``colors`` ``[N, 3]`` in [0, 1] as a binary PLY."""
    rows = np.empty(len(points), [("point", "<f4", 3), ("color", "u1", 3)])
    rows["point"], rows["color"] = points.cpu().numpy(), (colors.clamp(0, 1) * 255).round().byte().cpu().numpy()
    properties = [
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {c}" for c in ("red", "green", "blue")),
    ]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}", *properties, "end_header"]
    path.write_bytes("\n".join([*header, ""]).encode() + rows.tobytes())


class Video:
    """An MP4 (H.264) written frame by frame; small frames are enlarged by whole factors so that they can be watched."""

    def __init__(self, path: Path, fps: int, least_side: int = 256) -> None:
        self.least_side = least_side
        self._writer = imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=2)

    def __enter__(self) -> Video:
        return self

    def add(self, image: Tensor) -> None:
        """Append a frame ``[3, H, W]`` in [0, 1]."""
        frame = to_uint8(image)
        k = -(-self.least_side // frame.shape[0])
        self._writer.append_data(frame.repeat(k, 0).repeat(k, 1))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def depth_picture(depth: Tensor, side: int) -> Tensor:
    """Depth ``[1, P, P]`` as a grey picture ``[3, side, side]``, near bright and far dark over the range it spans."""
    low, high = depth.min(), depth.max()
    grey = 1 - (depth - low) / (high - low).clamp_min(1e-9)
    enlarged: Tensor = resize(grey[None].float(), (side, side), interpolation="nearest")[0]
    return enlarged.expand(3, -1, -1)


def contact_sheet(rows: list[list[Tensor]], gap: int = 2, least_side: int = 1) -> Tensor:
    """Rows of equally sized pictures ``[3, H, W]`` as one picture, ``gap`` white pixels apart.

    Pictures below ``least_side`` px are enlarged by a whole factor.
    """
    lines = []
    for row in rows:
        k = -(-least_side // row[0].shape[1])
        enlarged = [cell.float().cpu().repeat_interleave(k, 1).repeat_interleave(k, 2) for cell in row]
        cells = [functional.pad(cell, (gap,) * 4, value=1.0) for cell in enlarged]
        lines.append(torch.cat(cells, 2))
    return torch.cat(lines, 1)
