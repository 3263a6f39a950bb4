"""Photographs of any lenses as pictures of one square pinhole camera, without turning any of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from numpy.typing import NDArray
from torch import Tensor

from dv.data.folder import read_image, square_image
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.prepare.photographs import Photograph
from dv.prepare.placement import Array, Window, in_camera

Image = NDArray[np.float32]
CROP_MARGIN = 1.08
LEAST_WINDOW = 0.25  # of the picture's shorter side: nobody wants stamps
UNIFORM = 0.1  # largest difference, of 1, of a channel to the background's colour


@dataclass(frozen=True)
class SquareCamera:
    """The camera that all views get: a square ``window`` of the plane z = 1, ``side`` px wide."""

    window: Window
    side: int

    @property
    def intrinsics(self) -> Intrinsics:
        """Its focal length and principal point."""
        f = self.side / self.window.width
        return Intrinsics(f, -self.window.left * f, -self.window.top * f, self.side, pixel_center=0.5)


def common_window(photographs: list[Photograph]) -> Window:
    """The rectangle of the plane z = 1 that every picture covers. Raises :class:`UserError`."""
    window = functools.reduce(lambda a, b: a & b, (lens.window() for lens in {p.lens for p in photographs}))
    if window.width <= 0 or window.height <= 0:
        raise UserError("the pictures' cameras have no field of view in common; prepare them in groups")
    return window


def square_camera(photographs: list[Photograph], placement: GridPlacement, crop: str) -> SquareCamera:
    """The square of the common field of view to keep, at the pictures' own resolution.

    ``crop=full`` is the largest square, placed to hold the grid's centre in the middle where there is room;
    ``crop=object`` is cut down to what of the grid (as a ball of its side) appears in nine views of ten.
    Where all lenses are one plain pinhole, its edges lie between pixels, so that nothing is resampled.
    """
    window = common_window(photographs)
    centers = in_camera(np.stack([p.pose for p in photographs]), np.array([placement.origin]))[:, 0]
    in_front = centers[centers[:, 2] > 0]
    if not len(in_front):
        raise UserError("no camera has the grid in front of it; check grid.origin and the poses' axes")
    seen = in_front[:, :2] / in_front[:, 2:]
    side = min(window.width, window.height)
    middle: list[float] = np.median(seen, axis=0).tolist()
    if crop == "object":
        radius = placement.scale / 2 / in_front[:, 2:]
        low, high = np.quantile(seen - radius, 0.1, axis=0), np.quantile(seen + radius, 0.9, axis=0)
        middle = ((low + high) / 2).tolist()
        side = min(side, max(CROP_MARGIN * float((high - low).max()), LEAST_WINDOW * side))
    elif crop != "full":
        raise UserError(f"source.crop={crop} must be object or full")
    lenses = {p.lens for p in photographs}
    if len(lenses) == 1 and (lens := next(iter(lenses))).plain:
        pixels = min(lens.width, lens.height, round(side * lens.fx))
        left = _whole(middle[0] * lens.fx + lens.cx - pixels / 2, lens.width - pixels)
        top = _whole(middle[1] * lens.fx + lens.cy - pixels / 2, lens.height - pixels)
        edges = [(left, lens.cx), (left + pixels, lens.cx), (top, lens.cy), (top + pixels, lens.cy)]
        return SquareCamera(Window(*((at - center) / lens.fx for at, center in edges)), pixels)
    f = float(np.median([np.sqrt(p.lens.fx * p.lens.fy) for p in photographs]))
    return SquareCamera(window.square(side, (middle[0], middle[1])), max(1, int(side * f)))


def _whole(offset: float, room: int) -> int:
    return min(max(round(offset), 0), room)


def rectified(
    photograph: Photograph, camera: SquareCamera, side: int, background: Array, *, mask: str | None, upright: bool
) -> Tensor:
    """The picture ``[3, side, side]`` uint8 that ``camera`` would have taken from the photograph's pose.

    Resampled bilinearly at the camera's own resolution, then averaged over areas; only cut where the lens is the
    camera's already. ``mask=uniform`` lays a background of one colour free first. Raises :class:`UserError`.
    """
    image = masked(photograph, background, mask=mask, upright=upright)
    height, width = image.shape[:2]
    lens, f = photograph.lens, camera.intrinsics.f
    if (width, height) != (lens.width, lens.height):
        raise UserError(f"{photograph.path}: {width}×{height} px, but its camera has {lens.width}×{lens.height}")
    left, top = camera.window.left * lens.fx + lens.cx, camera.window.top * lens.fx + lens.cy
    if lens.plain and max(abs(left - round(left)), abs(top - round(top)), abs(lens.fx - f)) < 1e-6 * camera.side:
        rows, columns = slice(round(top), round(top) + camera.side), slice(round(left), round(left) + camera.side)
        return square_image(np.ascontiguousarray(image[rows, columns]), side)
    maker = cv2.fisheye.initUndistortRectifyMap if lens.fisheye else cv2.initUndistortRectifyMap
    distortion = np.array(lens.distortion or (0.0,) * 4)
    target = camera.intrinsics.matrix()[0].numpy()
    maps = maker(lens.matrix(), distortion, np.eye(3), target, (camera.side, camera.side), cv2.CV_32FC1)
    # beyond the border there is nothing to find but rounding
    return square_image(cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), side)


def masked(photograph: Photograph, background: Array, *, mask: str | None, upright: bool) -> Image:
    """The photograph ``[H, W, 3]`` in [0, 1], exposed by its ``stops``; if masked, with what is not the object in the
    background's colour, which stays.
    """
    image = read_image(photograph.path, background, upright)
    exposed = _exposed(image, photograph.stops) if photograph.stops else image
    if mask is None:
        return exposed
    weight = object_mask(photograph, image, mask, upright)[..., None]
    return np.asarray(exposed * weight + background.astype(np.float32) * (1 - weight), np.float32)


def _exposed(image: Image, stops: float) -> Image:
    light = rgb_to_linear_rgb(torch.from_numpy(image).movedim(-1, 0)) * 2**stops
    return np.asarray(linear_rgb_to_rgb(light).clamp(0, 1).movedim(0, -1), np.float32)


def object_mask(photograph: Photograph, image: Image, mask: str, upright: bool = False) -> Image:
    """How much each pixel shows the object, ``[H, W]`` in [0, 1]. Raises :class:`UserError`.

    ``mask`` is ``alpha``, ``uniform`` (everything but what is of the border's colour and connected to it), or anything
    else for the photograph's mask file.
    """
    if mask == "alpha":
        black, white = (read_image(photograph.path, np.full(3, value), upright) for value in (0.0, 1.0))
        return np.asarray(1 - (white - black).mean(2), np.float32)
    if mask == "uniform":
        return _not_background(image, photograph)
    assert photograph.mask is not None
    found = read_image(photograph.mask, np.zeros(3), upright).mean(2)
    if found.shape != image.shape[:2]:
        found = cv2.resize(found, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(found, np.float32)


def _not_background(image: Image, photograph: Photograph) -> Image:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    color = np.median(border, axis=0)
    alike = (np.abs(image - color).max(2) < UNIFORM).astype(np.uint8)
    share = (np.abs(border - color).max(1) < UNIFORM).mean()
    if share < 0.6:
        raise UserError(
            f"{photograph.path}: its border is not of one colour ({100 * share:.0f} % alike), so there is no uniform "
            "background; use source.mask=null, or a folder of masks"
        )
    _, labels = cv2.connectedComponents(alike)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(~(np.isin(labels, outside) & (alike > 0)), np.float32)
