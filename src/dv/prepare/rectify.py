"""Rectification: photographs of any lenses become images of pinhole cameras; no camera is rotated."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from numpy.typing import NDArray
from torch import Tensor

from dv.decoding import image_header, over_background, read_image, read_pixels, turned
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, to_camera
from dv.geometry.grid import GridPlacement
from dv.images import reduced_image
from dv.prepare.field_of_view import Window
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph
from dv.prepare.placement import Array

Image = NDArray[np.float32]
PIXEL_CENTER = 0.5  # of all images that are written
CROP_MARGIN = 1.08
MIN_CROP = 0.25  # of the image's shorter side
COMMON_SHARE = 2 / 3  # of every image that one camera of all must keep to be preferred to a camera for each
UNIFORM_TOLERANCE = 0.1  # maximum difference of a channel in [0, 1] to the background's colour


def common_window(photographs: list[Photograph]) -> Window:
    """Return the rectangle of the plane z = 1 that every photograph covers.

    Raises:
        UserError: if there is none.
    """
    window = functools.reduce(lambda a, b: a & b, (lens.window() for lens in {p.lens for p in photographs}))
    if window.width <= 0 or window.height <= 0:
        raise UserError("the cameras have no field of view in common; prepare them in groups")
    return window


def target_cameras(photographs: list[Photograph], placement: GridPlacement, crop: str) -> dict[Lens, Intrinsics]:
    """Choose the cameras of the images to write, by the lens of the photographs.

    Args:
        photographs: all views.
        placement: of the grid.
        crop: ``full`` for the whole image of each lens, undistorted; ``common`` for the largest rectangle that all
            show, as one camera; ``auto`` for that if it keeps two thirds of every image, else ``full``; ``square`` and
            ``object`` for one square of all lenses, see :func:`square_camera`.

    Raises:
        UserError: if no camera sees the grid's centre, or ``crop`` is unknown.
    """
    lenses = list(dict.fromkeys(p.lens for p in photographs))
    if crop in ("square", "object"):
        return dict.fromkeys(lenses, square_camera(photographs, placement, crop))
    _grid_centers(photographs, placement)
    full = {lens: full_camera(lens) for lens in lenses}
    if crop == "full" or len(set(full.values())) == 1:
        return full
    if crop == "common":
        return dict.fromkeys(lenses, common_camera(lenses))
    if crop != "auto":
        raise UserError(f"source.crop={crop} must be auto, full, common, square or object")
    windows = [lens.window() for lens in lenses]
    common = functools.reduce(lambda a, b: a & b, windows)
    shares = [max(0.0, common.width) * max(0.0, common.height) / (w.width * w.height) for w in windows]
    return dict.fromkeys(lenses, common_camera(lenses)) if min(shares) >= COMMON_SHARE else full


def common_camera(lenses: list[Lens]) -> Intrinsics:
    """Return the pinhole camera of the largest rectangle that all lenses show, at their median resolution."""
    window = functools.reduce(lambda a, b: a & b, (lens.window() for lens in lenses))
    fx, fy = (float(np.median([getattr(lens, name) for lens in lenses])) for name in ("fx", "fy"))
    if window.width * fx < 1 or window.height * fy < 1:
        raise UserError("the cameras have no field of view in common; use source.crop=full")
    width, height = int(window.width * fx), int(window.height * fy)
    return Intrinsics(fx, fy, -window.left * fx, -window.top * fy, width, height, PIXEL_CENTER)


def full_camera(lens: Lens) -> Intrinsics:
    """Return the pinhole camera with the largest upright rectangle that the undistorted image of a lens covers.

    It has the focal lengths of the lens. Without distortion it is the lens itself, so that nothing is resampled.

    >>> full_camera(Lens(64, 48, 50.0, 51.0, 30.0, 25.0))
    Intrinsics(fx=50.0, fy=51.0, cx=30.0, cy=25.0, width=64, height=48, pixel_center=0.5)
    """
    if not lens.distortion and not lens.fisheye:
        return Intrinsics(lens.fx, lens.fy, lens.cx, lens.cy, lens.width, lens.height, PIXEL_CENTER)
    window = lens.window()
    width, height = max(1, int(window.width * lens.fx)), max(1, int(window.height * lens.fy))
    return Intrinsics(lens.fx, lens.fy, -window.left * lens.fx, -window.top * lens.fy, width, height, PIXEL_CENTER)


def square_camera(photographs: list[Photograph], placement: GridPlacement, crop: str) -> Intrinsics:
    """Choose the square of the common field of view to keep, at the resolution of the photographs.

    If all photographs share one ideal lens, the edges of the square lie between pixels, so that nothing is resampled.

    Args:
        photographs: all views.
        placement: of the grid.
        crop: ``square`` for the largest square, with the grid's centre as near to its middle as possible; ``object``
            for the part that shows the grid (as a ball of its side) in nine out of ten views.

    Raises:
        UserError: if no camera sees the grid's centre, or ``crop`` is unknown.
    """
    window = common_window(photographs)
    in_front = _grid_centers(photographs, placement)
    projected = in_front[:, :2] / in_front[:, 2:]
    side = min(window.width, window.height)
    middle: list[float] = np.median(projected, axis=0).tolist()
    if crop == "object":
        radius = placement.scale / 2 / in_front[:, 2:]
        low, high = np.quantile(projected - radius, 0.1, axis=0), np.quantile(projected + radius, 0.9, axis=0)
        middle = ((low + high) / 2).tolist()
        side = min(side, max(CROP_MARGIN * float((high - low).max()), MIN_CROP * side))
    elif crop != "square":
        raise UserError(f"source.crop={crop} must be auto, full, common, square or object")
    lenses = {p.lens for p in photographs}
    if len(lenses) == 1 and (lens := next(iter(lenses))).is_ideal:
        pixels = min(lens.width, lens.height, round(side * lens.fx))
        left = _rounded_and_clamped(middle[0] * lens.fx + lens.cx - pixels / 2, lens.width - pixels)
        top = _rounded_and_clamped(middle[1] * lens.fx + lens.cy - pixels / 2, lens.height - pixels)
        return Intrinsics.square(lens.fx, lens.cx - left, lens.cy - top, pixels, PIXEL_CENTER)
    square = window.square(side, (middle[0], middle[1]))
    pixels = max(1, int(side * float(np.median([np.sqrt(p.lens.fx * p.lens.fy) for p in photographs]))))
    f = pixels / square.width
    return Intrinsics.square(f, -square.left * f, -square.top * f, pixels, PIXEL_CENTER)


def _grid_centers(photographs: list[Photograph], placement: GridPlacement) -> Array:
    """Return the grid's centre ``[N, 3]`` in the axes of those cameras that have it in front of them."""
    centers = to_camera(np.stack([p.pose for p in photographs]), np.array([placement.origin]))[:, 0]
    in_front = centers[centers[:, 2] > 0]
    if not len(in_front):
        raise UserError("no camera has the grid in front of it; check grid.origin and the axes of the poses")
    return np.asarray(in_front)


def _rounded_and_clamped(offset: float, maximum: int) -> int:
    return min(max(round(offset), 0), maximum)


def rectify(
    photograph: Photograph,
    camera: Intrinsics,
    size: tuple[int, int],
    background: Array,
    *,
    mask: str | None,
) -> Tensor:
    """Compute the image that ``camera`` would have taken from the photograph's pose.

    The photograph is resampled bilinearly at the camera's resolution and then reduced by area averaging. If the lens is
    that of the camera already, it is only cropped.

    Args:
        photograph: the input.
        camera: of the output.
        size: width and height of the output, px.
        background: RGB in [0, 1] behind transparent and masked pixels.
        mask: see :func:`object_mask`; None for no mask.

    Returns:
        uint8 ``[3, height, width]``.

    Raises:
        UserError: if the file cannot be read or has another size than its lens.
    """
    lens, k = photograph.lens, camera
    is_whole = camera == full_camera(lens) and not (lens.distortion or lens.fisheye)
    if is_whole and mask is None and not photograph.stops and not photograph.upright:
        _check_size(photograph, image_header(photograph.path).size)
        reduced = read_pixels(photograph.path, least=size)
        if reduced.dtype == np.uint8 and reduced.shape[2] == 3:
            return reduced_image(reduced, *size)
    image = read_masked(photograph, background, mask=mask)
    _check_size(photograph, (image.shape[1], image.shape[0]))
    left, top = lens.cx - k.cx * lens.fx / k.fx, lens.cy - k.cy * lens.fy / k.fy
    inexact = max(abs(left - round(left)), abs(top - round(top)), abs(lens.fx - k.fx), abs(lens.fy - k.fy))
    if not lens.distortion and not lens.fisheye and inexact < 1e-6 * min(k.width, k.height):
        rows, columns = slice(round(top), round(top) + k.height), slice(round(left), round(left) + k.width)
        return reduced_image(np.ascontiguousarray(image[rows, columns]), *size)
    maps = _undistortion(lens, k)
    # the window lies inside the photograph: only rounding reaches beyond its border
    return reduced_image(cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), *size)


def _check_size(photograph: Photograph, size: tuple[int, int]) -> None:
    lens = photograph.lens
    if size != (lens.width, lens.height):
        raise UserError(f"{photograph.path}: {size[0]}×{size[1]} px, but its camera has {lens.width}×{lens.height}")


@functools.lru_cache(maxsize=1)  # most photographs in a row have one lens, and the maps are as large as a photograph
def _undistortion(lens: Lens, k: Intrinsics) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where the pixels of a pinhole are in a photograph, in OpenCV's fixed point numbers."""
    init_maps = cv2.fisheye.initUndistortRectifyMap if lens.fisheye else cv2.initUndistortRectifyMap
    distortion = np.array(lens.distortion or (0.0,) * 4)
    maps = init_maps(lens.matrix(), distortion, np.eye(3), k.matrix()[0].numpy(), (k.width, k.height), cv2.CV_16SC2)
    return maps[0], maps[1]


def read_masked(photograph: Photograph, background: Array, *, mask: str | None) -> NDArray[Any]:
    """Read a photograph, apply its ``stops`` and replace everything but the object by the background's colour.

    Returns:
        RGB ``[H, W, 3]``: uint8 as decoded if nothing has to be computed, which takes a quarter of the memory, or
        float32 in [0, 1]; see :func:`rectify` for the arguments.
    """
    pixels = read_pixels(photograph.path, photograph.upright)
    if mask is None and not photograph.stops and pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return pixels
    image = over_background(pixels, background)
    exposed = _change_exposure(image, photograph.stops) if photograph.stops else image
    if mask is None:
        return exposed
    weight = object_mask(photograph, image, mask)[..., None]
    return np.asarray(exposed * weight + background.astype(np.float32) * (1 - weight), np.float32)


def _change_exposure(image: Image, stops: float) -> Image:
    linear = rgb_to_linear_rgb(torch.from_numpy(image).movedim(-1, 0)) * 2**stops
    return np.asarray(linear_rgb_to_rgb(linear).clamp(0, 1).movedim(0, -1), np.float32)


def object_mask(photograph: Photograph, image: Image, mask: str) -> Image:
    """Compute the coverage of each pixel by the object.

    Args:
        photograph: whose file or mask file is read.
        image: the photograph ``[H, W, 3]`` in [0, 1].
        mask: ``alpha``; ``uniform`` for everything but pixels of the border's colour that are connected to the border;
            anything else for the photograph's mask file, which may be smaller, and turned as the photograph is stored.

    Returns:
        Coverage ``[H, W]`` in [0, 1].

    Raises:
        UserError: if a file cannot be read, a mask has another shape, or the background is not uniform.
    """
    if mask == "alpha":
        pixels = read_pixels(photograph.path, photograph.upright)
        alpha = pixels[..., 3] if pixels.shape[2] == 4 else np.full(pixels.shape[:2], 255, np.uint8)
        return np.asarray(alpha / np.float32(np.iinfo(alpha.dtype).max), np.float32)
    if mask == "uniform":
        return _foreground(image, photograph)
    assert photograph.mask is not None
    coverage = read_image(photograph.mask, np.zeros(3), photograph.upright).mean(2)
    height, width = image.shape[:2]
    if photograph.upright and not _same_aspect(coverage, width, height):
        coverage = turned(coverage, image_header(photograph.path).orientation)
    if not _same_aspect(coverage, width, height):
        size = f"{coverage.shape[1]}×{coverage.shape[0]}"
        raise UserError(f"{photograph.mask}: a mask of {size} px for a photograph of {width}×{height} px")
    if coverage.shape != (height, width):
        coverage = cv2.resize(coverage, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(coverage, np.float32)


def _same_aspect(image: Image, width: int, height: int) -> bool:
    return bool(abs(image.shape[1] * height - image.shape[0] * width) <= max(*image.shape, width, height))


def _foreground(image: Image, photograph: Photograph) -> Image:
    """Return 1 where ``image`` differs from the uniform background around the object."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    color = np.median(border, axis=0)
    similar = (np.abs(image - color).max(2) < UNIFORM_TOLERANCE).astype(np.uint8)
    share = (np.abs(border - color).max(1) < UNIFORM_TOLERANCE).mean()
    if share < 0.6:
        raise UserError(
            f"{photograph.path}: the border of the image does not have one colour (only {100 * share:.0f} % are "
            "similar), so there is no uniform background; use source.mask=null, or a folder of masks"
        )
    _, labels = cv2.connectedComponents(similar)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(~(np.isin(labels, outside) & (similar > 0)), np.float32)
