"""What lies over the image in the scene of one client: the box, training cameras, points and the path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import viser
from torch import Tensor
from viser import transforms

from dv.viewer.photographs import Photographs
from dv.viewer.scene import Scene

GREY, ORANGE = (90, 90, 90), (255, 140, 0)
POINT_SIZE = 0.004  # of the box's side
KEY_FRAME_SIZE = 0.04


def add_box(client: viser.ClientHandle) -> Any:
    """Add the edges of the box."""
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    edges = [(a, b) for a in corners for b in corners if (a != b).sum() == 1 and (a < b).any()]
    lines = np.array([[a.numpy(), b.numpy()] for a, b in edges])
    return client.scene.add_line_segments("/box", lines, GREY, thickness=2.0, thickness_units="screen")


def add_points(client: viser.ClientHandle, scene: Scene) -> list[Any]:
    """Add the points of the scene, if there are any."""
    positions, colors = scene.points()
    return [client.scene.add_point_cloud("/points", positions, colors, point_size=POINT_SIZE)] if len(colors) else []


def add_cameras(
    client: viser.ClientHandle, scene: Scene, photographs: Photographs, visit: Callable[[int], None]
) -> Iterator[Any]:
    """Add training cameras as frusta with thumbnails; a click on one calls ``visit`` with the number of its view."""

    def clicked(view: int, _event: object) -> None:
        visit(view)

    for view, thumbnail in photographs.thumbnails():
        k = scene.cameras.intrinsics[view]
        node = client.scene.add_camera_frustum(
            f"/cameras/{view}",
            k.vertical_fov,
            k.width / k.height,
            scale=photographs.frustum_size,
            thickness=1.5,
            thickness_units="screen",
            color=GREY,
            image=thumbnail,
            **_place(scene, scene.cameras.poses[view]),
        )
        node.on_click(partial(clicked, view))
        yield node


def add_path(client: viser.ClientHandle, scene: Scene, poses: list[Tensor]) -> list[Any]:
    """Add key frames as frusta with the camera's field of view, and lines between them."""
    camera = client.camera
    style: dict[str, Any] = {"thickness": 2.0, "thickness_units": "screen"}
    nodes: list[Any] = []
    for i, pose in enumerate(poses):
        place = {"scale": KEY_FRAME_SIZE, "color": ORANGE, **_place(scene, pose), **style}
        nodes.append(client.scene.add_camera_frustum(f"/path/{i}", camera.fov, camera.aspect, **place))
    if len(poses) > 1:
        centers = np.array([scene.to_page(pose[:3, 3]) for pose in poses])
        lines = np.stack([centers[:-1], centers[1:]], 1)
        nodes.append(client.scene.add_line_segments("/path/lines", lines, ORANGE, **style))
    return nodes


def _place(scene: Scene, pose: Tensor) -> dict[str, Any]:
    rotation = transforms.SO3.from_matrix(pose[:3, :3].numpy())
    return {"wxyz": rotation.wxyz, "position": scene.to_page(pose[:3, 3])}
