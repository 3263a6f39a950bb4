"""The server of the interactive page, and its clients."""

from __future__ import annotations

import io
import logging
import math
import threading
import warnings
from contextlib import redirect_stdout

import viser

from dv.viewer.panel import Panel
from dv.viewer.photographs import Photographs
from dv.viewer.renderer import Renderer
from dv.viewer.scene import Scene

logging.getLogger("websockets").setLevel(logging.WARNING)  # it reports every client
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
        with redirect_stdout(io.StringIO()):  # viser prints a frame around its address
            self._server = viser.ViserServer(host, port, label=scene.source.name, verbose=False)
        self._server.gui.configure_theme(show_logo=False, show_share_button=False)
        self._server.gui.main_panel.dock_right()  # beside the image, not over it
        self._place_camera()
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
        with self._lock:
            panels = list(self._panels.values())
        for panel in panels:
            panel.tick()
        pause = self.renderer.work()
        return min(pause, TICK_SECONDS) if any(panel.path.is_playing for panel in panels) else pause

    def stop(self) -> None:
        """Disconnect all clients."""
        with redirect_stdout(io.StringIO()):
            self._server.stop()

    def _place_camera(self) -> None:
        """Start at a typical training view; without a model farther away, so that all cameras are in view."""
        scene, cameras = self.scene, self.scene.cameras
        typical = cameras.typical(scene.placement)
        k, pose = cameras.intrinsics[typical], cameras.poses[typical]
        position, axis = scene.to_page(pose[:3, 3]), pose[:3, 2].numpy()
        target = position + max(0.1, float(-position @ axis)) * axis
        self._server.scene.set_up_direction(cameras.up.numpy())
        camera = self._server.initial_camera
        camera.position = position if scene.model is not None else target + 2 * (position - target)
        camera.look_at, camera.fov = target, 2 * math.atan(k.height / 2 / k.fy)
        reach = float(abs(scene.to_page(cameras.poses[:, :3, 3])).max())
        camera.near, camera.far = 0.01, max(100.0, 10 * reach)

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
