"""Resizing and writing images: square crops, 8- and 16-bit PNG, PLY point clouds, contact sheets."""

from __future__ import annotations

from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from kornia.geometry.transform import resize
from torch import Tensor
from torch.nn import functional

from dv.errors import UserError

NAMED_BACKGROUNDS = {"white": 1.0, "grey": 0.5, "gray": 0.5, "black": 0.0}


def background_color(background: str | list[float]) -> np.ndarray:
    """Return the RGB colour in [0, 1] of a background.

    Args:
        background: ``white``, ``grey`` (or ``gray``), ``black`` or three numbers in [0, 1].

    Raises:
        UserError: for anything else.
    """
    if isinstance(background, str):
        if background not in NAMED_BACKGROUNDS:
            raise UserError(
                f"data.background={background} must be one of {', '.join(NAMED_BACKGROUNDS)} or [r,g,b] in 0..1"
            )
        return np.full(3, NAMED_BACKGROUNDS[background])
    color = np.asarray(background, float)
    if color.shape != (3,) or not ((color >= 0) & (color <= 1)).all():
        raise UserError(f"data.background={list(background)} must be three numbers in 0..1")
    return color


def over_background(image: Tensor, opacity: Tensor, background: str | list[float]) -> Tensor:
    """Composite an image over a background.

    Args:
        image: colours multiplied by opacity, ``[3, H, W]`` in [0, 1].
        opacity: ``[1, H, W]``.
        background: a colour, or ``transparent``.

    Returns:
        RGB ``[3, H, W]``, or for ``transparent`` RGBA ``[4, H, W]`` whose colours are not multiplied.

    >>> image, opacity = torch.full((3, 1, 1), 0.2), torch.full((1, 1, 1), 0.5)
    >>> over_background(image, opacity, "transparent").flatten()
    tensor([0.4000, 0.4000, 0.4000, 0.5000])
    >>> over_background(image, opacity, "white").flatten()
    tensor([0.7000, 0.7000, 0.7000])
    """
    if background == "transparent":
        return torch.cat([(image / opacity.clamp_min(1e-6)).clamp(0, 1), opacity])
    color = image.new_tensor(background_color(background))[:, None, None]
    return image + (1 - opacity) * color


def square_image(image: np.ndarray, side: int) -> Tensor:
    """Crop the central square of ``image`` ``[H, W, 3]`` in [0, 1] and resize it by area averaging.

    Returns:
        uint8 ``[3, side, side]``.
    """
    height, width = image.shape[:2]
    crop = min(height, width)
    top, left = (height - crop) // 2, (width - crop) // 2
    square = torch.from_numpy(image[top : top + crop, left : left + crop]).permute(2, 0, 1)[None]
    if crop != side:
        square = resize(square, (side, side), interpolation="area")
    return (square[0] * 255).round().clamp(0, 255).byte()


def reduced_image(image: np.ndarray, width: int, height: int) -> Tensor:
    """Reduce ``image`` ``[H, W, 3]``, uint8 or in [0, 1], by averaging all pixels by the share that they cover.

    Returns:
        uint8 ``[3, height, width]``.
    """
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().clamp(0, 255).byte()


def largest_power_of_two(side: int) -> int:
    """Return the largest power of two that is at most ``side``."""
    return 1 << (side.bit_length() - 1)


def write_png16(path: Path, image: Tensor) -> None:
    """Write ``image`` ``[1, H, W]``, RGB or RGBA in [0, 1] as 16-bit PNG: x is stored as round(65535·x)."""
    counts = (image.double().clamp(0, 1) * 65535).round().to(torch.int32).cpu().numpy().astype(np.uint16)
    # imageio's default backend cannot write 16-bit RGB; OpenCV can, but only write_bytes reports a full disk
    path.write_bytes(iio.imwrite("<bytes>", np.moveaxis(counts, 0, -1).squeeze(), extension=".png", plugin="opencv"))


def read_png16(path: Path) -> Tensor:
    """Read what :func:`write_png16` has written, ``[C, H, W]`` in [0, 1]."""
    pixels = iio.imread(path, plugin="opencv", flags=cv2.IMREAD_UNCHANGED, colorspace=None)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / 65535).permute(2, 0, 1)


def write_png(path: Path, image: Tensor) -> None:
    """Write ``image`` ``[3, H, W]`` in [0, 1] as 8-bit PNG."""
    path.write_bytes(encode_png(image))


def encode_png(image: Tensor) -> bytes:
    """Encode ``image`` ``[3, H, W]`` in [0, 1] as 8-bit PNG."""
    encoded: bytes = iio.imwrite("<bytes>", to_uint8(image), extension=".png")
    return encoded


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert ``image`` ``[3, H, W]`` in [0, 1] to uint8 ``[H, W, 3]``."""
    return (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def write_ply(path: Path, points: Tensor, colors: Tensor, normals: Tensor | None = None) -> None:
    """Write ``points`` ``[N, 3]`` in any unit with ``colors`` ``[N, 3]`` in [0, 1] and ``normals`` as binary PLY."""
    columns = [("point", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)]
    rows = np.empty(len(points), columns if normals is not None else columns[::2])
    rows["point"], rows["color"] = points.cpu().numpy(), (colors.clamp(0, 1) * 255).round().byte().cpu().numpy()
    if normals is not None:
        rows["normal"] = normals.cpu().numpy()
    properties = [
        *(f"property float {axis}" for axis in (*"xyz", *(("nx", "ny", "nz") if normals is not None else ()))),
        *(f"property uchar {c}" for c in ("red", "green", "blue")),
    ]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}", *properties, "end_header"]
    path.write_bytes("\n".join([*header, ""]).encode() + rows.tobytes())


def depth_image(depth: Tensor, height: int, width: int) -> Tensor:
    """Render depth ``[1, P, Q]`` as a grey image ``[3, height, width]``, the nearest pixel white.

    Black is the farthest pixel, or what is ten times as deep as the median.
    """
    low, high = depth.min(), torch.minimum(depth.max(), 10 * depth.median())
    grey = (1 - (depth - low) / (high - low).clamp_min(1e-9)).clamp_min(0)
    enlarged: Tensor = resize(grey[None].float(), (height, width), interpolation="nearest")[0]
    return enlarged.expand(3, -1, -1)


def centered(image: Tensor, height: int, width: int) -> Tensor:
    """Pad ``image`` ``[3, H, W]`` in [0, 1] with white to at least ``height × width`` px.

    >>> centered(torch.zeros(3, 1, 1), 1, 3)[0]
    tensor([[1., 0., 1.]])
    """
    down, right = max(0, height - image.shape[1]), max(0, width - image.shape[2])
    return functional.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0)


def contact_sheet(rows: list[list[Tensor]], gap: int = 2, min_side: int = 1) -> Tensor:
    """Arrange images in rows on one white sheet; smaller images lie in the middle of their cells.

    Args:
        rows: images ``[3, H, W]`` in [0, 1].
        gap: white pixels around each image.
        min_side: rows of smaller height, in px, are enlarged by an integer factor.

    Returns:
        The sheet ``[3, H', W']`` on the CPU.
    """
    lines = []
    for row in rows:
        k = -(-min_side // max(cell.shape[1] for cell in row))
        enlarged = [cell.float().cpu().repeat_interleave(k, 1).repeat_interleave(k, 2) for cell in row]
        height = max(cell.shape[1] for cell in enlarged)
        cells = [functional.pad(centered(cell, height, cell.shape[2]), (gap,) * 4, value=1.0) for cell in enlarged]
        lines.append(torch.cat(cells, 2))
    width = max(line.shape[2] for line in lines)
    return torch.cat([centered(line, line.shape[1], width) for line in lines], 1)


def mean_in_linear_light(colors: Tensor) -> Tensor:
    """Return the sRGB colours ``[P, 3]`` of the mean light of S sRGB colours each, ``[P, S, 3]``, about [-0.5, 0.5].

    >>> mean_in_linear_light(torch.tensor([[[-0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]]))
    tensor([[0.2354, 0.5000, 0.0000]])
    """
    layout = (colors + 0.5).transpose(1, 2)[..., None]  # kornia's, [P, 3, S, 1]
    mean: Tensor = linear_rgb_to_rgb(rgb_to_linear_rgb(layout).mean(2, keepdim=True))
    return mean.flatten(1) - 0.5


def to_model_range(image: Tensor) -> Tensor:
    """Convert uint8 images to the models' [-0.5, 0.5], in the default dtype, which the trainer's precision sets."""
    return image.to(torch.get_default_dtype()) / 255 - 0.5
