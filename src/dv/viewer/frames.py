"""One frame of the page: strips of rows of a rendered view, as colour, depth, opacity or normals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dv.depth_images import depth_colors, depth_range, normal_colors
from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays, project, to_camera
from dv.images import over_background, to_uint8
from dv.metrics import to_unit
from dv.object_model import ObjectModel, RenderedView
from dv.runtime.devices import autocast
from dv.viewer.scene import Scene

Channel = Literal["color", "depth", "opacity", "normals"]
SAME_PLACE = 1e-3  # of the box's side: how far a camera may be from a photograph's to be compared with it
BEHIND = 1e6  # depth in units of the page of what hides nothing


@dataclass(frozen=True, eq=False)
class Comparison:
    """A photograph of a training view over the left ``share`` of the frame.

    Args:
        image: uint8 ``[3, H, W]``.
        pose: camera-to-world ``[4, 4]``.
        intrinsics: of the photograph.
        share: position of the edge, 0 to 1.
    """

    image: Tensor
    pose: Tensor
    intrinsics: Intrinsics
    share: float


@dataclass(frozen=True, eq=False)
class Request:
    """What one client wants to see; a new object for every change, compared by identity.

    Args:
        pose: camera-to-world ``[4, 4]`` float64.
        fov: vertical field of view, rad.
        width: of the canvas, px.
        height: of the canvas, px.
        max_height: of a frame at rest, px.
        channel: what is shown.
        thing: whether only what lies in the box is shown, before ``background``.
        background: a colour.
        needs_depth: whether lines and points of the page are hidden by surfaces before them.
        comparison: a photograph over a part of the frame.
    """

    pose: Tensor
    fov: float
    width: int
    height: int
    max_height: int = 512
    channel: Channel = "color"
    thing: bool = False
    background: str = "white"
    needs_depth: bool = False
    comparison: Comparison | None = None

    @property
    def full(self) -> Intrinsics:
        """The camera of the frame at rest."""
        return self._camera(self.height)

    def coarse(self, pixels: float) -> Intrinsics:
        """The camera of a frame of at most about this many pixels."""
        return self._camera(math.isqrt(int(pixels * self.height / self.width)))

    def _camera(self, height: int) -> Intrinsics:
        height = max(2, min(height, self.height, self.max_height))
        width = max(2, round(height * self.width / self.height))
        f = height / 2 / math.tan(self.fov / 2)
        return Intrinsics(f, f, width / 2, height / 2, width, height, 0.5)


class Frame(NamedTuple):
    """A picture uint8 ``[H, W, 3]`` and, if asked for, the depth ``[H, W]`` of its pixels in units of the page."""

    image: np.ndarray
    depth: np.ndarray | None


class Drawing:
    """A frame that is rendered strip by strip, so that a newer request need not wait for it.

    Args:
        scene: what is shown.
        request: how.
        camera: at the size of the frame.
    """

    def __init__(self, scene: Scene, request: Request, camera: Intrinsics) -> None:
        self.scene, self.request, self.camera = scene, request, camera
        self.rows = 0  # that have been rendered
        self._strips: list[RenderedView] = []

    def advance(self, pixels: float) -> Frame | None:
        """Render about so many more pixels, at least a row; return the frame when it is complete."""
        k, model = self.camera, self.scene.model
        if model is None:
            return self._finish(RenderedView(torch.full((3, k.height, k.width), 0.4)))
        model = self.scene.renderer(self.request.thing)
        if model.squares_only:
            self.rows = k.height
            return self._finish(_square_view(model, self.request.pose, k, self.scene.precision))
        rows = min(k.height - self.rows, max(1, int(pixels / k.width)))
        strip = k._replace(cy=k.cy - self.rows, height=rows)
        self._strips.append(_render(model, self.request.pose, strip, self.scene.precision))
        self.rows += rows
        if self.rows < k.height:
            return None
        image, depth, opacity = (
            None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None], 1)
            for parts in zip(*self._strips, strict=True)
        )
        assert image is not None
        return self._finish(RenderedView(image, depth, opacity))

    def _finish(self, view: RenderedView) -> Frame:
        request, k = self.request, self.camera
        image = to_unit(view.image).float().cpu()
        opacity = None if view.opacity is None else view.opacity.float().cpu()
        depth = None if view.depth is None else view.depth.float().cpu()
        if request.thing and opacity is not None and request.channel == "color":
            image = over_background(image, opacity, request.background)
        if depth is not None and depth.shape[1:] != image.shape[1:]:
            depth = F.interpolate(depth[None], image.shape[1:], mode="bilinear")[0]
        if request.channel == "opacity" and opacity is not None:
            image = opacity.expand(3, -1, -1)
        elif request.channel == "depth" and depth is not None:
            image = depth_colors(depth, *depth_range(depth, opacity), opacity)
        elif request.channel == "normals" and depth is not None:
            image = normal_colors(depth, request.pose, k, opacity)
        if request.comparison is not None:
            image = wiped(image, request.comparison, request.pose, k, self.scene.placement.scale)
        return Frame(to_uint8(image), self._hiding_depth(depth, opacity))

    def _hiding_depth(self, depth: Tensor | None, opacity: Tensor | None) -> np.ndarray | None:
        if not self.request.needs_depth or depth is None:
            return None
        scaled = depth[0] / self.scene.placement.scale
        hidden: np.ndarray = (scaled if opacity is None else scaled.where(opacity[0] > 0.5, BEHIND)).numpy()
        return hidden


@torch.no_grad()  # not inference_mode, whose tensors a training could not use later
def _render(model: ObjectModel, pose: Tensor, camera: Intrinsics, precision: str) -> RenderedView:
    device = next(model.parameters()).device
    with autocast(device, precision):
        return next(iter(model.render_views(pose[None].to(device), camera, 1)))


def _square_view(model: ObjectModel, pose: Tensor, camera: Intrinsics, precision: str) -> RenderedView:
    """Render the central square of the camera's image, enlarged to its height, on grey."""
    side = min(camera.width, camera.height)
    view = _render(model, pose, camera.central_square(), precision)
    image = F.interpolate(view.image[None].float(), (side, side), mode="bilinear", align_corners=False)[0]
    left, top = (camera.width - side) // 2, (camera.height - side) // 2
    padding = left, camera.width - side - left, top, camera.height - side - top
    depth = None
    if view.depth is not None:
        resized = F.interpolate(view.depth[None].float(), (side, side), mode="bilinear", align_corners=False)[0]
        depth = F.pad(resized, padding, value=float(view.depth.max()))
    return RenderedView(F.pad(image, padding, value=0.25), depth)


def wiped(image: Tensor, comparison: Comparison, pose: Tensor, camera: Intrinsics, scale: float) -> Tensor:
    """Return an image ``[3, H, W]`` in [0, 1] with the photograph over its left part.

    From the photograph's place any direction of view will do: both are central projections from one point. From
    elsewhere the photograph is left out.
    """
    if float((comparison.pose[:3, 3] - pose[:3, 3]).norm()) > SAME_PLACE * scale:
        return image
    height, width = image.shape[1:]
    origins, directions = pixel_rays(pose.expand(height * width, 4, 4), pixel_grid(width, height), camera)
    there = comparison.pose.clone()
    there[:3, 3] = pose[:3, 3]
    seen = to_camera(there, origins + directions)
    k = comparison.intrinsics
    size = torch.tensor([k.width, k.height], dtype=seen.dtype)
    places = ((project(seen, k) + 0.5) / size * 2 - 1).view(1, height, width, 2)  # grid_sample's: edges at ±1
    photograph = F.grid_sample(
        comparison.image[None].double() / 255, places, padding_mode="border", align_corners=False
    )[0].float()
    inside = ((places[0].abs() <= 1).all(-1).flatten() & (seen[:, 2] > 0)).view(height, width)
    left = torch.arange(width) < comparison.share * width
    mixed = torch.where(inside & left, photograph, image)
    edge = round(comparison.share * width)
    if 0 < edge < width:
        mixed[:, :, edge] = torch.tensor([1.0, 0.6, 0.0])[:, None]
    return mixed
