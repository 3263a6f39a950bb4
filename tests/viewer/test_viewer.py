"""The interactive page in a browser, and the command that serves it."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TINY_RADIANCE, step_overrides
from dv.data.key_frames import read_key_frames
from dv.data.object import ObjectSource
from dv.geometry.grid import GridPlacement
from dv.viewer.scene import Scene
from dv.viewer.server import Viewer
from radiance_balls import ball_grid, write_checkpoint

ROOT = Path(__file__).parents[2]


@contextmanager
def served(scene):
    """A viewer whose frames another thread draws."""
    viewer, ended = Viewer(scene, "127.0.0.1", 0), threading.Event()

    def draw():
        while not ended.is_set():
            if (pause := viewer.work()) > 0:
                viewer.renderer.wait(min(pause, 0.1))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield viewer
    finally:
        ended.set()
        thread.join()
        viewer.stop()


@pytest.fixture
def scene(ball):
    grid = ball_grid(grid_side=16, levels=2)
    return Scene(ObjectSource(ball, "ball"), grid.placement, grid)


def opened(browser, viewer):
    tab = browser.new_page(viewport={"width": 800, "height": 600})
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(viewer.url)
    tab.get_by_text(re.compile(r"\d+×\d+ px|Cameras")).first.wait_for()
    return tab


def picture(tab, viewer) -> np.ndarray:
    """The canvas at rest, below where browsers without a GPU are warned of it."""
    tab.wait_for_timeout(300)
    shots = [np.zeros(1)]

    def rests():
        eventually(tab, lambda: viewer.renderer.is_idle)
        tab.wait_for_timeout(500)
        box = tab.locator("canvas").first.bounding_box()
        shot = tab.screenshot(clip={"x": box["x"], "y": box["y"] + 200, "width": box["width"], "height": 400})
        shots.append(np.array(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float))
        return np.array_equal(shots[-2], shots[-1])

    eventually(tab, rests)
    return shots[-1]


def eventually(tab, condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        tab.wait_for_timeout(100)


def differ(a, b) -> float:
    return float(np.abs(a - b).mean())


def changed(tab, viewer, before, least, what="", seconds=30) -> np.ndarray:
    """The canvas once it differs from `before` by more than `least`: a busy browser draws late."""
    end = time.monotonic() + seconds
    while differ(now := picture(tab, viewer), before) <= least:
        assert time.monotonic() < end, what
    return now


@pytest.mark.slow
def test_the_page_follows_its_controls(browser, scene, tmp_path):
    with served(scene) as viewer:
        tab = opened(browser, viewer)
        tab.mouse.move(200, 300)
        tab.mouse.wheel(0, 600)
        first = picture(tab, viewer)
        tab.mouse.down()
        tab.mouse.move(280, 320, steps=5)
        tab.mouse.up()
        turned = changed(tab, viewer, first, 3)
        tab.get_by_role("checkbox", name="Crop to box").click()
        changed(tab, viewer, turned, 3)  # the wall behind the ball is left out
        tab.get_by_role("checkbox", name="Crop to box").click()
        eventually(tab, lambda: differ(picture(tab, viewer), turned) < 1)
        tab.mouse.move(200, 300)
        tab.mouse.wheel(0, 1500)  # until cameras are in the picture
        plain = changed(tab, viewer, turned, 3)
        for name in ("Box", "Cameras", "Points"):
            tab.get_by_role("checkbox", name=name, exact=True).click()
            shown = changed(tab, viewer, plain, 0.2, name)
            tab.get_by_role("checkbox", name=name, exact=True).click()
            plain = changed(tab, viewer, shown, 0.2, name)
        tab.get_by_role("button", name="Save path").click()
        tab.get_by_text("at least two key frames").wait_for()
        (panel,) = viewer.panels()
        poses = [panel.pose()]
        tab.get_by_role("button", name="Add key frame").click()
        tab.mouse.move(200, 300)
        tab.mouse.wheel(0, 300)
        eventually(tab, lambda: not torch.allclose(panel.pose(), poses[0], atol=1e-3, rtol=0))
        picture(tab, viewer)
        poses.append(panel.pose())
        tab.get_by_role("button", name="Add key frame").click()
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Save path").click()
        download.value.save_as(tmp_path / "path.json")
        saved, _ = read_key_frames(tmp_path / "path.json", 25.0)
        torch.testing.assert_close(saved, torch.stack(poses))
        tab.get_by_role("button", name="Play or stop").click()
        eventually(tab, lambda: not panel.path.is_playing)
        eventually(tab, lambda: torch.allclose(panel.pose(), poses[-1], atol=1e-4, rtol=0))
        for channel in ("Depth", "Normals", "Opacity"):
            before = picture(tab, viewer)
            tab.locator("input[value=Colour],input[value=Depth],input[value=Normals]").first.click()
            tab.get_by_role("option", name=channel).click()
            changed(tab, viewer, before, 3, channel)
        assert not tab.errors
        tab.close()


def test_photographs_are_compared(browser, ball):
    """Without a model the photograph is all there is; it lies over the canvas as its camera sees it."""
    scene = Scene(ObjectSource(ball, "ball"), GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5))
    with served(scene) as viewer:
        tab = opened(browser, viewer)
        tab.get_by_role("checkbox", name="Compare").click()
        (panel,) = viewer.panels()
        place = scene.cameras.poses[0][:3, 3]
        eventually(tab, lambda: torch.allclose(panel.pose()[:3, 3], place, atol=1e-5, rtol=0))
        frames = []
        show = panel.show
        panel.watcher.show = lambda frame, drawing: (frames.append((frame, drawing)), show(frame, drawing))
        panel.update()
        picture(tab, viewer)
        frame, drawing = frames[-1]
        k = drawing.camera
        middle = frame.image[k.height // 2 - 2 : k.height // 2 + 2, k.width // 2 - 2 : k.width // 2 + 2].mean((0, 1))
        photograph = scene.photograph(0).float()
        np.testing.assert_allclose(middle, photograph[:, 15:17, 15:17].mean((1, 2)).numpy(), atol=6)
        tab.close()


@pytest.mark.slow
def test_clients_come_and_go(browser, scene):
    with served(scene) as viewer:
        tabs = [opened(browser, viewer) for _ in range(3)]
        before = [picture(tab, viewer) for tab in tabs]
        tabs[0].mouse.move(200, 300)
        tabs[0].mouse.down()
        tabs[0].mouse.move(300, 300, steps=4)
        tabs[0].mouse.up()
        changed(tabs[0], viewer, before[0], 3)
        after = [picture(tab, viewer) for tab in tabs]
        assert differ(before[1], after[1]) < 0.5  # each has a camera of its own
        tabs[1].close()
        with socket.create_connection(("127.0.0.1", viewer.port)) as rude:
            rude.sendall(b"\x00\xff nonsense")
        scene.model.voxels.density.data.fill_(-20)
        viewer.renderer.replace_model(scene.model, 9)
        changed(tabs[2], viewer, after[2], 3)
        tabs[2].get_by_text("step 9").wait_for()
        tabs[2].close()
        tabs[0].goto("about:blank")
        eventually(tabs[0], lambda: not viewer.is_watched)
        tabs[0].close()


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_command_serves_until_it_is_stopped(stop, ball, tmp_path):
    """It shows a checkpoint anew when it is written anew, and keeps it when what is written is no checkpoint."""
    path = write_checkpoint(ball_grid(grid_side=8), tmp_path / "ball.ckpt", ball)
    content = path.read_bytes()
    command = [sys.executable, ROOT / "view.py", f"ckpt={path}", "viewer.port=0", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as view:
        try:
            assert re.fullmatch(r"ball: http://127\.0\.0\.1:\d+ \(Ctrl-C stops\)\n", view.stdout.readline())
            path.write_bytes(content[: len(content) // 2])
            assert view.stdout.readline().startswith(f"kept step 7: {path}: not a checkpoint")
            path.write_bytes(content)
            assert view.stdout.readline() == f"step 7: {path}\n"
            write_checkpoint(ball_grid(grid_side=8, origin=(1.0, 0.0, 0.0)), path, ball)
            assert "model of another kind or object; start view.py again" in view.stdout.readline()
            view.send_signal(stop)
            assert view.wait(30) == 0
            assert view.stdout.read() == "stopped\n"
        finally:
            view.kill()


def test_bad_input(command, ball_checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = command("view", f"ckpt={ball_checkpoint}", f"viewer.port={port}")
    assert result.code == 1
    assert re.fullmatch(rf"error: 127.0.0.1:{port} cannot be listened at: .*; give another viewer.port.*\n", result.err)
    result = command("view")
    assert (result.code, result.err) == (1, "error: nothing to show; give ckpt=PATH of a checkpoint, or object=NAME\n")
    result = command("view", f"ckpt={ball_checkpoint}", "viewer.host=nowhere.invalid")
    assert result.code == 1
    assert re.search(r"nowhere.invalid:8080 cannot be listened at: .*; give another viewer.host", result.err)
    result = command("view", f"ckpt={ball_checkpoint.parent}")
    assert (result.code, "is a folder; give a file" in result.err) == (1, True)


@pytest.mark.slow
def test_a_watched_training_is_the_same(browser, ball, tmp_path):
    """Its weights equal those of a training that nobody looks at."""
    fields = ["object=custom", f"object.root={ball}", "object.name=ball", *TINY_RADIANCE, *step_overrides(600)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    states = []
    for name in ("watched", "alone"):
        run = tmp_path / name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, ROOT / "train.py", *fields, f"hydra.run.dir={run}"]
        if name == "watched":
            command += ["view=true", f"viewer.port={port}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as t:
            if name == "watched":
                line = ""
                while "is shown at" not in line:
                    line = t.stdout.readline()
                    assert line
                tab = browser.new_page(viewport={"width": 500, "height": 400})
                tab.goto(f"http://127.0.0.1:{port}")
                tab.get_by_text(re.compile(r"\d+×\d+ px · step [1-9]")).first.wait_for()
                tab.close()
            t.communicate()
            assert t.returncode == 0
        states.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert json.dumps(sorted(states[0])) == json.dumps(sorted(states[1]))
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
