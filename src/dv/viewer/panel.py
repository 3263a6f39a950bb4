"""The page of one client: its camera, its controls, and what lies in its scene."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import viser
from torch import Tensor
from viser import transforms

from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.viewer.frames import Channel, Comparison, Drawing, Frame, Request
from dv.viewer.overlays import add_box, add_cameras, add_path, add_points
from dv.viewer.path import CameraPath
from dv.viewer.photographs import Photographs
from dv.viewer.renderer import Renderer
from dv.viewer.scene import Scene

CHANNELS: dict[str, Channel] = {"Colour": "color", "Depth": "depth", "Opacity": "opacity", "Normals": "normals"}
BACKGROUNDS = ("white", "grey", "black")
MAX_HEIGHT = 1080  # px
JPEG_QUALITY = {False: 80, True: 95}  # of coarse and of full frames
STATUS_SECONDS = 0.5  # between changes of the line of text


class Panel:
    """Everything that one client sees and does; other clients see nothing of it.

    Args:
        client: of viser.
        scene: what is shown.
        renderer: draws the frames.
        photographs: of the training views.
    """

    def __init__(self, client: viser.ClientHandle, scene: Scene, renderer: Renderer, photographs: Photographs) -> None:
        self.client, self.scene, self.renderer, self.photographs = client, scene, renderer, photographs
        self.path = CameraPath()
        self._comparison: Comparison | None = None
        self._overlays: dict[str, list[Any]] = {}
        self._path_nodes: list[Any] = []
        self._status_shown = 0.0
        self._is_setting = False  # whether the program, not the user, sets a control
        self._add_controls()
        k = scene.cameras.intrinsics[scene.cameras.typical(scene.placement)]
        client.camera.fov = 2 * math.atan(max(k.height / k.fy, k.width / k.fx / client.camera.aspect) / 2)
        self.watcher = renderer.add(self.show)
        client.camera.on_update(lambda _: self.update())
        if scene.model is None:
            self._toggle("cameras", True)
            self._toggle("box", True)
        self.update()

    def close(self) -> None:
        """Stop drawing for this client."""
        self.path.stop()
        self.renderer.remove(self.watcher)

    def _add_controls(self) -> None:
        gui, model = self.client.gui, self.scene.model
        self.status = gui.add_markdown(self.scene.source.name)
        with gui.add_folder("Image", visible=model is not None):
            channels = ["Colour"]
            if model is not None and model.has_depth:
                channels += ["Depth", "Normals"]
            if self.scene.has_opacity:
                channels += ["Opacity"]
            self.channel = gui.add_dropdown("Show", channels, initial_value="Colour")
            self.resolution = gui.add_slider(
                "Resolution", 64, MAX_HEIGHT, 8, self.scene.resolution, hint="rows of an image at rest"
            )
            self.thing = gui.add_checkbox("Crop to box", False, visible=self.scene.has_opacity,
                                          hint="show only what lies in the box")  # fmt: skip
            self.background = gui.add_dropdown("Background", BACKGROUNDS, initial_value="white",
                                               visible=self.scene.has_opacity, hint="of what is cropped")  # fmt: skip
        with gui.add_folder("Scene"):
            self.box = gui.add_checkbox("Box", model is None)
            self.cameras = gui.add_checkbox("Cameras", model is None, hint="click one to compare with its photograph")
            self.points = gui.add_checkbox("Points", False)
        with gui.add_folder("Photograph"):
            last = len(self.scene.cameras.names) - 1
            self.view = gui.add_slider("View", 0, max(1, last), 1, 0, disabled=last < 1)
            self.compare = gui.add_checkbox("Compare", False, hint="go to the view and lay its photograph over it")
            self.wipe = gui.add_slider("Wipe", 0.0, 1.0, 0.01, 1.0 if model is None else 0.5,
                                       hint="share of the frame that the photograph covers")  # fmt: skip
        with gui.add_folder("Path"):
            self.seconds = gui.add_slider("Seconds", 0.2, 10.0, 0.1, 2.0, hint="from one key frame to the next")
            add, remove = gui.add_button("Add key frame"), gui.add_button("Remove last key frame")
            play, save = gui.add_button("Play or stop"), gui.add_button("Save path")
        for control in (self.channel, self.resolution, self.thing, self.background, self.wipe):
            control.on_update(lambda _: self.update())
        for name in ("box", "cameras", "points"):
            control = getattr(self, name)
            control.on_update(lambda event, name=name: self._toggle(name, event.target.value))
        self.compare.on_update(lambda event: self._set_comparison(event.target.value))
        self.view.on_update(lambda _: self._set_comparison(True) if self.compare.value else None)
        self.seconds.on_update(lambda event: setattr(self.path, "seconds_per_key_frame", event.target.value))
        add.on_click(lambda _: self._set_key_frames([*self.path.poses, self.pose()]))
        remove.on_click(lambda _: self._set_key_frames(self.path.poses[:-1]))
        play.on_click(lambda _: self._play())
        save.on_click(lambda _: self._save())

    # --- what is drawn ------------------------------------------------------------------------------------------------

    def pose(self) -> Tensor:
        """Return the camera's pose ``[4, 4]`` float64 in the world."""
        camera = self.client.camera
        return self.scene.to_world(transforms.SO3(camera.wxyz).as_matrix(), camera.position)

    def update(self) -> None:
        """Ask for a frame of what camera and controls say now."""
        camera = self.client.camera
        if self.scene.model is None and self._comparison is None:
            self.client.scene.set_background_image(None)
            return
        comparison = self._comparison
        request = Request(
            self.pose(),
            camera.fov,
            max(2, camera.image_width),
            max(2, camera.image_height),
            int(self.resolution.value),
            CHANNELS[self.channel.value],
            self.thing.value,
            self.background.value,
            any(self._overlays.values()) or bool(self._path_nodes),
            None if comparison is None else replace(comparison, share=self.wipe.value),
        )
        self.renderer.want(self.watcher, request)

    def show(self, frame: Frame, drawing: Drawing) -> None:
        """Send a frame to the client."""
        k = drawing.camera
        is_full = k == drawing.request.full
        self.client.scene.set_background_image(
            frame.image, "jpeg", jpeg_quality=JPEG_QUALITY[is_full], depth=frame.depth
        )
        now = time.perf_counter()
        if is_full or now - self._status_shown > STATUS_SECONDS:
            self._status_shown = now
            self.status.content = self._status_line(k)

    def _status_line(self, camera: Intrinsics) -> str:
        parts = [self.scene.source.name, f"{camera.width}×{camera.height} px"]
        if self.scene.model is not None:
            parts.append(f"step {self.scene.step}")
        if (rate := self.watcher.frames_per_second) is not None:
            parts.append(f"{rate:.1f} frames/s")
        return " · ".join(parts)

    # --- what lies in the scene ---------------------------------------------------------------------------------------

    def _toggle(self, name: str, visible: bool) -> None:
        self._remove(name)
        if visible and name == "points":
            self.renderer.soon(self.refresh_points)
        elif visible:
            self._overlays[name] = self._cameras() if name == "cameras" else [add_box(self.client)]
        self.update()

    def _remove(self, name: str) -> None:
        for node in self._overlays.pop(name, []):
            node.remove()

    def _cameras(self) -> list[Any]:
        return list(add_cameras(self.client, self.scene, self.photographs, self._visit))

    def refresh_points(self) -> None:
        """Show the points of the model as it is now, if points are switched on; called where frames are drawn."""
        if not self.points.value:
            return
        self._remove("points")
        self._overlays["points"] = add_points(self.client, self.scene)
        if not self._overlays["points"]:
            self._say("No points", "This object has none.")
        self.update()

    # --- photographs --------------------------------------------------------------------------------------------------

    def _visit(self, view: int) -> None:
        self._set_control(self.view, view)
        self._set_control(self.compare, True)
        self._compare(True)

    def _set_comparison(self, on: bool) -> None:
        if not self._is_setting:
            self._compare(on)

    def _compare(self, on: bool) -> None:
        """Go to the view that is chosen and lay its photograph over it, or leave the comparison."""
        self._comparison = None
        view = int(self.view.value)
        if on:
            try:
                image = self.photographs.image(view)
                pose, k = self.scene.cameras.poses[view], self.scene.cameras.intrinsics[view]
                self._comparison = Comparison(image, pose, k, self.wipe.value)
                self._go_to(pose, k)
            except UserError as error:
                self._say("Cannot show this", str(error))
                self._set_control(self.compare, False)
        for node in self._overlays.get("cameras", []):
            node.visible = self._comparison is None  # the camera would look out of one of them
        self.update()

    def _go_to(self, pose: Tensor, fitted: Intrinsics | None = None) -> None:
        """Move the camera to a pose, upright; with intrinsics the whole of their image is in view."""
        camera = self.client.camera
        with self.client.atomic():
            camera.position = self.scene.to_page(pose[:3, 3])
            camera.up_direction = self.scene.cameras.up.numpy()
            camera.look_at = self.scene.target(pose)
            if fitted is not None:
                camera.fov = self._fitting_fov(pose, fitted)

    def _fitting_fov(self, pose: Tensor, k: Intrinsics) -> float:
        """Return the vertical field of view in which the whole photograph lies."""
        camera = self.client.camera
        x, y = (
            (np.array([-0.5, k.width - 0.5]) - k.numbers()[2]) / k.fx,
            (np.array([-0.5, k.height - 0.5]) - k.numbers()[3]) / k.fy,
        )
        corners = np.array([[a, b, 1.0] for a in x for b in y]) @ pose[:3, :3].numpy().T
        upright = corners @ transforms.SO3(camera.wxyz).as_matrix()
        sides = np.abs(upright[:, :2] / upright[:, 2:])
        return 2 * math.atan(min(3.0, float(max(sides[:, 1].max(), sides[:, 0].max() / camera.aspect))))

    # --- path ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Move the camera along the path if it is played."""
        if (pose := self.path.now()) is not None:
            self._go_to(pose)

    def _set_key_frames(self, poses: list[Tensor]) -> None:
        self.path.poses = poses
        for node in self._path_nodes:
            node.remove()
        self._path_nodes = add_path(self.client, self.scene, poses)
        self.update()

    def _play(self) -> None:
        if self.path.is_playing:
            self.path.stop()
        elif self._has_path():
            self.path.play()

    def _save(self) -> None:
        if self._has_path():
            name = f"{self.scene.source.name}_path.json"
            self.client.send_file_download(name, self.path.to_json().encode(), save_immediately=True)
            self._say("Path saved", f"python render.py ckpt=PATH trajectory={name}")

    def _has_path(self) -> bool:
        if len(self.path.poses) < 2:
            self._say("No path yet", "Move the camera and add at least two key frames.")
        return len(self.path.poses) > 1

    # --- messages -----------------------------------------------------------------------------------------------------

    def _say(self, title: str, text: str) -> None:
        self.client.add_notification(title, text, auto_close_seconds=6.0)

    def _set_control(self, control: Any, value: Any) -> None:
        """Set a control without what happens when the user does."""
        self._is_setting = True
        try:
            control.value = value
        finally:
            self._is_setting = False
