"""What a frame of the viewer holds, and which frame is drawn next."""

import logging
import math
import threading
import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from dv.data.object import ObjectSource
from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays, project, to_camera
from dv.geometry.grid import GridPlacement
from dv.geometry.trajectory import look_at
from dv.images import to_uint8
from dv.metrics import to_unit
from dv.viewer import renderer as renderer_module
from dv.viewer.frames import Comparison, Drawing, Request, wiped
from dv.viewer.renderer import Renderer
from dv.viewer.scene import Scene
from radiance_balls import ball_grid

POSE = look_at(torch.tensor([1.2, 0.3, 0.9]).double(), torch.zeros(3).double(), torch.tensor([0, 0, 1.0]).double())


@pytest.fixture
def scene(ball) -> Scene:
    grid = ball_grid(grid_side=16, levels=2, environment=4)
    return Scene(ObjectSource(ball, "ball"), grid.placement, grid)


def request(**changes) -> Request:
    return Request(**{"pose": POSE, "fov": 0.8, "width": 50, "height": 40, **changes})


def drawn(scene, wish, pixels=1e9):
    drawing = Drawing(scene, wish, wish.full)
    while (frame := drawing.advance(pixels)) is None:
        pass
    return frame


def test_strips_make_the_whole_view(scene):
    wish = request(needs_depth=True)
    f = 20 / math.tan(0.4)
    view = scene.model.render(POSE, Intrinsics(f, f, 25.0, 20.0, 50, 40, 0.5))
    for pixels in (1, 130, 1e9):
        frame = drawn(scene, wish, pixels)
        assert np.abs(frame.image.astype(int) - to_uint8(to_unit(view.image)).astype(int)).max() <= 1
        seen = view.opacity[0].numpy() > 0.5
        np.testing.assert_allclose(frame.depth[seen], view.depth[0].numpy()[seen], rtol=1e-4)


def test_what_is_shown(scene):
    grid = scene.model
    levels = grid.sizes.levels
    black, grey = (drawn(scene, request(thing=True, background=b)).image for b in ("black", "grey"))
    opacity = drawn(scene, request(thing=True, channel="opacity")).image / 255.0
    np.testing.assert_allclose(grey - 1.0 * black, 127.5 * (1 - opacity), atol=2.5)
    assert grid.sizes.levels == levels  # the thing is a copy
    nearest = drawn(scene, request(channel="depth")).image[20, 25]
    assert nearest[0] > 150  # yellow
    assert nearest[2] < 100
    normal = drawn(scene, request(channel="normals")).image[20, 25] / 127.5 - 1
    assert normal @ (POSE[:3, 3] / POSE[:3, 3].norm()).numpy() > 0.95


def test_photographs_lie_where_their_rays_go(scene):
    """Against projecting one pixel after the other, from a camera that is turned and has another lens."""
    photograph = (torch.rand(3, 30, 20, generator=torch.Generator().manual_seed(1)) * 255).byte()
    k = Intrinsics(25.0, 27.0, 9.0, 16.0, 20, 30)
    turned = POSE.clone()
    turn = torch.tensor(0.3, dtype=torch.float64)
    turned[:3, :3] = POSE[:3, :3] @ torch.tensor(
        [[turn.cos(), -turn.sin(), 0.0], [turn.sin(), turn.cos(), 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
    )
    camera = Intrinsics(30.0, 30.0, 12.0, 14.0, 24, 28, 0.5)
    image = torch.zeros(3, 28, 24)
    found = wiped(image.clone(), Comparison(photograph, POSE, k, 1.0), turned, camera, 1.0)
    expected = torch.zeros(3, 28, 24)
    for column, row in pixel_grid(24, 28).tolist():
        origin, direction = pixel_rays(turned[None], torch.tensor([[column, row]]), camera)
        x, y = project(to_camera(POSE, origin + direction), k)[0].tolist()
        if -0.5 <= x <= 19.5 and -0.5 <= y <= 29.5:
            place = torch.tensor([[[[(x + 0.5) / 10 - 1, (y + 0.5) / 15 - 1]]]], dtype=torch.float64)
            options = {"padding_mode": "border", "align_corners": False}
            color = functional.grid_sample(photograph[None].double() / 255, place, **options)
            expected[:, row, column] = color.flatten().float()
    torch.testing.assert_close(found, expected)
    elsewhere = turned.clone()
    elsewhere[0, 3] += 0.1
    assert torch.equal(wiped(image, Comparison(photograph, POSE, k, 1.0), elsewhere, camera, 1.0), image)
    half = wiped(image.clone(), Comparison(photograph, POSE, k, 0.5), POSE, camera, 1.0)
    assert half[:, :, 13:].max() == 0


def shown_by(renderer, seconds=5.0):
    end = time.perf_counter() + seconds
    while not renderer.is_idle:
        renderer.work()
        assert time.perf_counter() < end


def test_coarse_while_moving_and_full_at_rest(scene, monkeypatch):
    monkeypatch.setattr(renderer_module, "REST_SECONDS", 0.02)
    renderer, frames = Renderer(scene), []
    watcher = renderer.add(lambda frame, drawing: frames.append((frame.image.shape[:2], drawing.request)))
    watcher.rate = 10_000.0
    wishes = [request(), request()]
    renderer.want(watcher, wishes[0])
    renderer.work()
    watcher.rate = 10_000.0
    renderer.want(watcher, wishes[1])
    shown_by(renderer)
    assert [wish for _, wish in frames] == [wishes[0], wishes[1], wishes[1]]
    assert frames[0][0] < (40, 50)
    assert frames[-1][0] == (40, 50)
    renderer.replace_model(scene.model, 8)
    shown_by(renderer)
    assert frames[-1][0] == (40, 50)
    assert scene.step == 8


def test_clients_take_turns_and_failures_are_reported_once(scene, caplog):
    renderer, served = Renderer(scene), {"a": 0, "b": 0}

    def fail(frame, drawing):
        raise ConnectionError("gone")

    def show(name):
        return lambda *_: served.update({name: served[name] + 1})

    watchers = [renderer.add(show("a")), renderer.add(fail), renderer.add(show("b"))]
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            for watcher in watchers:
                renderer.want(watcher, request(height=10, width=10))
            for _ in range(3):
                renderer.work()
    assert served["a"] > 20
    assert served["b"] > 20
    assert [record.message for record in caplog.records] == ["cannot draw this view: ConnectionError: gone"]
    for watcher in (*watchers, watchers[0]):
        renderer.remove(watcher)
    assert not renderer.is_watched


def test_a_path_is_played_from_start_to_end(monkeypatch):
    from dv.viewer import path as path_module

    now = [100.0]
    monkeypatch.setattr(path_module.time, "perf_counter", lambda: now[0])
    path = path_module.CameraPath([POSE, POSE.clone()], seconds_per_key_frame=1.0)
    path.poses[1][0, 3] += 1.0
    assert path.now() is None
    path.play()
    places = []
    while path.is_playing:
        places.append(float(path.now()[0, 3] - POSE[0, 3]))
        now[0] += 0.25
    np.testing.assert_allclose(places[:4], [0, 3 / 15, 7 / 15, 11 / 15], atol=1e-6)
    assert places[-1] == pytest.approx(1.0)


def test_any_unit_of_the_world(scene):
    far = Scene(scene.source, GridPlacement((6.4e6, -5.0, 2.0), 1.0, 0.5))
    pose = far.to_world(np.eye(3), np.array([0.25, 0.5, -1.0]))
    np.testing.assert_allclose(far.to_page(pose[:3, 3]), [0.25, 0.5, -1.0], atol=1e-9)
    assert request(height=100, width=3000).coarse(300).width * request(height=100, width=3000).coarse(300).height < 600


def test_tasks_run_where_frames_are_drawn(scene, caplog):
    """In their order, before frames; one that fails is reported and stops nothing."""
    renderer, ran = Renderer(scene), []
    renderer.soon(lambda: ran.append(threading.current_thread()))
    renderer.soon(lambda: ran[5])
    renderer.soon(lambda: ran.append("last"))
    assert not renderer.is_idle
    with caplog.at_level(logging.WARNING):
        shown_by(renderer)
    assert ran == [threading.current_thread(), "last"]
    assert "IndexError" in caplog.text
