"""The server of the interactive page, and its clients."""

from __future__ import annotations

import logging
import threading
import warnings

import numpy as np
import rich
import viser

from dv.object_model import ObjectModel
from dv.viewer.panel import Panel
from dv.viewer.photographs import Photographs
from dv.viewer.renderer import Renderer
from dv.viewer.scene import Scene

logging.getLogger("websockets").setLevel(logging.WARNING)  # it reports every client
rich.get_console().quiet = True  # viser prints its address and its end by it, and dv prints nothing by it
warnings.filterwarnings("ignore", "Queued a .* on a closed connection")  # of a client that has just gone
TICK_SECONDS = 1 / 15  # between positions of cameras that move along a path


class Viewer:
    """Serves a scene to any number of clients, each with a camera and controls of its own.

    Nothing is drawn but by :meth:`work`, which one thread calls again and again.

    Args:
        scene: what is shown.
        host: address that the server listens at; ``127.0.0.1`` is reached from this machine only.
        port: of the server, which must be free; 0 for any free one.
    """

    def __init__(self, scene: Scene, host: str, port: int) -> None:
        self.scene, self.host = scene, host
        self.renderer = Renderer(scene)
        self._photographs = Photographs(scene)
        self._panels: dict[int, Panel] = {}
        self._lock = threading.Lock()
        start = self._first_camera()  # before the server starts: the cameras may have faults
        self._server = viser.ViserServer(host, port, label=scene.source.name, verbose=False)
        self._server.gui.configure_theme(show_logo=False, show_share_button=False)
        self._server.gui.main_panel.dock_right()  # beside the image, not over it
        self._server.scene.set_up_direction(scene.cameras.up.numpy())
        camera = self._server.initial_camera
        camera.position, camera.look_at, camera.fov = start
        reach = float(abs(scene.to_page(scene.cameras.poses[:, :3, 3])).max())
        camera.near, camera.far = 0.01, max(100.0, 10 * reach)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)

    @property
    def port(self) -> int:
        """Port that the server listens at."""
        return int(self._server.get_port())

    @property
    def url(self) -> str:
        """Address of the page."""
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def is_watched(self) -> bool:
        """Whether there is any client."""
        return self.renderer.is_watched

    def work(self) -> float:
        """Draw for about 40 ms; return the seconds until there may be something to do again, at most 1."""
        panels = self.panels()
        for panel in panels:
            panel.tick()
        pause = self.renderer.work()
        return min(pause, TICK_SECONDS) if any(panel.path.is_playing for panel in panels) else pause

    def stop(self) -> None:
        """Disconnect all clients."""
        logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it reports clients that leave while this stops
        self._server.stop()

    def replace_model(self, model: ObjectModel, step: int) -> None:
        """Show another state of the model to all clients, points included."""
        self.renderer.replace_model(model, step)
        for panel in self.panels():
            panel.refresh_points()

    def panels(self) -> list[Panel]:
        """Return the pages of the clients."""
        with self._lock:
            return list(self._panels.values())

    def _first_camera(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return position, target and vertical field of view, rad, of a typical training view.

        Without a model the camera is farther away, so that all training cameras are in view.
        """
        scene, cameras = self.scene, self.scene.cameras
        typical = cameras.typical(scene.placement)
        k, pose = cameras.intrinsics[typical], cameras.poses[typical]
        position, target = scene.to_page(pose[:3, 3]), scene.target(pose)
        return position if scene.model is not None else 2 * position - target, target, k.vertical_fov

    def _connect(self, client: viser.ClientHandle) -> None:
        panel = Panel(client, self.scene, self.renderer, self._photographs)
        with self._lock:
            self._panels[client.client_id] = panel
            gone = client.client_id not in self._server.get_clients()
        if gone:  # while the panel was being built
            self._disconnect(client)

    def _disconnect(self, client: viser.ClientHandle) -> None:
        with self._lock:
            panel = self._panels.pop(client.client_id, None)
        if panel is not None:
            panel.close()
