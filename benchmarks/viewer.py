"""Frames per second and answers to a drag of the viewer: python benchmarks/viewer.py CKPT [CLIENTS].

A browser without a GPU takes much of two CPU cores itself; what the server does alone is printed beside it.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from dv.config.render import ViewConfig
from dv.config.shared import ObjectConfig, ReadConfig, RenderTrainerConfig, ViewerConfig
from dv.rendering.restore import restore
from dv.viewer.frames import Drawing, Frame, Request
from dv.viewer.panel import Panel
from dv.viewer.scene import Scene
from dv.viewer.server import Viewer

SIDE = 128  # px
SECONDS = 10
LEAST_IMAGE = 1500  # bytes of a message that holds a frame
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def full_frames_per_second(scene: Scene) -> float:
    """Draw full frames of a turn around the object, one after the other."""
    times = []
    for pose in scene.cameras.poses[:40]:
        started = time.perf_counter()
        request = Request(pose, scene.cameras.intrinsics[0].vertical_fov, SIDE, SIDE)
        assert Drawing(scene, request, request.full).advance(SIDE * SIDE) is not None
        times.append(time.perf_counter() - started)
    return 1 / statistics.median(times[5:])


def answers_in_the_browser(viewer: Viewer, browser: Any) -> list[float]:
    """Move the mouse 25 times, a second apart; return seconds from each move to the arrival of its first frame."""
    tab, received, seconds = browser.new_page(viewport={"width": 460, "height": 300}), [], []
    tab.on(
        "websocket",
        lambda socket: socket.on(
            "framereceived", lambda data: received.append(time.perf_counter()) if len(data) > LEAST_IMAGE else None
        ),
    )
    tab.goto(viewer.url)
    tab.wait_for_timeout(5000)
    tab.mouse.move(60, 250)
    tab.mouse.down()
    for i in range(25):
        received.clear()
        started = time.perf_counter()
        tab.mouse.move(60 + 40 * (i % 2) + i % 7, 250)
        tab.wait_for_timeout(1000)
        seconds += [at - started for at in received[:1]]
    tab.close()
    return seconds


def drag(clients: int, scene: Scene) -> tuple[list[float], list[float]]:
    """Drag in every client; return seconds from a camera's arrival to its frame, and frames per second by client."""
    answers: list[float] = []
    shown: dict[Panel, int] = {}
    asked: dict[Panel, float] = {}

    def observe(panel: Panel) -> None:
        show = panel.watcher.show

        def timed(frame: Frame, drawing: Drawing) -> None:
            show(frame, drawing)
            shown[panel] = shown.get(panel, 0) + 1
            if (at := asked.pop(panel, None)) is not None:
                answers.append(time.perf_counter() - at)

        panel.watcher.show = timed
        panel.client.camera.on_update(lambda _: asked.setdefault(panel, time.perf_counter()))

    viewer, ended = Viewer(scene, "127.0.0.1", 0), threading.Event()

    def draw() -> None:
        while not ended.is_set():
            if (pause := viewer.work()) > 0:
                viewer.renderer.wait(min(pause, 0.1))

    thread = threading.Thread(target=draw)
    thread.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        if clients == 1:
            moved = sorted(answers_in_the_browser(viewer, browser))
            print(
                f"mouse to frame in the browser: median {1000 * statistics.median(moved):.0f} ms, "
                f"95 % within {1000 * moved[int(0.95 * (len(moved) - 1))]:.0f} ms, of {len(moved)}"
            )
        tabs = [browser.new_page(viewport={"width": 460, "height": 300}) for _ in range(clients)]
        for tab in tabs:
            tab.goto(viewer.url)
            tab.wait_for_timeout(4000)
            tab.mouse.move(60, 250)
            tab.mouse.down()
        for panel in viewer.panels():
            observe(panel)
        end, step = time.perf_counter() + SECONDS, 0
        while time.perf_counter() < end:
            for tab in tabs:
                tab.mouse.move(60 + 40 * (step % 2) + step % 7, 250)
            step += 1
        browser.close()
    ended.set()
    thread.join()
    viewer.stop()
    return answers, [count / SECONDS for count in shown.values()]


def main() -> None:
    """Print the figures."""
    read, clients = ReadConfig(None, None), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    config = ViewConfig(
        sys.argv[1], ViewerConfig("127.0.0.1", 0), ObjectConfig(None, None, None), read,
        RenderTrainerConfig(0, "32-true", False),
    )  # fmt: skip
    restored = restore(config)
    restored.use_mean_exposure()
    scene = Scene(restored.source, restored.placement, restored.model, restored.checkpoint.step)
    print(f"{Path(sys.argv[1])}: {full_frames_per_second(scene):.1f} full frames a second at {SIDE}²")
    for count in sorted({1, clients}):
        answers, rates = drag(count, scene)
        ordered = sorted(answers)
        print(
            f"{count} clients dragged: {', '.join(f'{rate:.1f}' for rate in rates)} frames a second each; camera to "
            f"frame: median {1000 * statistics.median(ordered):.0f} ms, 95 % within "
            f"{1000 * ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms"
        )


if __name__ == "__main__":
    main()
