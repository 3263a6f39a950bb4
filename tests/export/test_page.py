"""The page renders what the model renders, and its controls do what they say."""

import base64
import shutil

import numpy as np
import pytest
import torch

from dv.data.key_frames import read_key_frames
from dv.export.page import page
from dv.geometry.trajectory import interpolate, look_at
from dv.images import read_png16
from dv.metrics import to_unit
from radiance_balls import CAMERA, ball_grid

UP = torch.tensor([0.0, 0.0, 1.0])
PIXELS = """([pose, lens, width, height]) => {
  let text = "";
  for (const byte of dv.render(pose, lens, width, height)) text += String.fromCharCode(byte);
  return btoa(text);
}"""
GRIDS = {
    "colours": {},
    "harmonics": {"view_degree": 2},
    "high_harmonics": {"view_degree": 4},
    "decoder": {"decoder_features": 5, "decoder_width": 16, "decoder_degree": 2},
    "reflections": {"decoder_features": 4, "decoder_width": 30, "reflection_degree": 4, "supersampling": 2},
    "odd_side": {"grid_side": 19, "linear_share": 0.7, "supersampling": 3},
    "surroundings": {"levels": 3, "environment": 8, "decoder_features": 5, "near": 0.2},
    "far_away": {"origin": (30.0, -20.0, 10.0)},
}


def pose_at(x: float, y: float, z: float, origin=(0.0, 0.0, 0.0)) -> torch.Tensor:
    center = torch.tensor(origin)
    return look_at(center + torch.tensor([x, y, z]), center, UP)


def opened(browser, grid, path, size=(720, 300)):
    path.write_text(page(grid, pose_at(1.5, 0.2, 0.4), CAMERA, UP, "a <ball>"), encoding="utf-8")
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    tab.goto(path.as_uri())
    tab.wait_for_function("window.dv")
    tab.errors = errors
    return tab


def shot(tab) -> bytes:
    """The canvas, once it rests."""
    tab.wait_for_function("dv.resting")
    return base64.b64decode(tab.evaluate("document.querySelector('canvas').toDataURL().split(',')[1]"))


@pytest.mark.parametrize("name", GRIDS)
def test_pages_show_what_the_model_renders(name, browser, tmp_path):
    sizes = {"grid_side": 24, **GRIDS[name]}
    origin = sizes.get("origin", (0.0, 0.0, 0.0))
    grid = ball_grid(seed=3, **sizes)
    tab = opened(browser, grid, tmp_path / "page.html")
    camera = CAMERA._replace(fx=40.0, cx=25.0, cy=12.0, width=48, height=40)
    for place in ((1.4, 0.0, 0.3), (-0.3, 1.2, -0.8), (0.7, 0.6, 0.2), (0.1, 0.0, 0.1)):  # the last one is inside
        pose = pose_at(*place, origin=origin)
        expected = to_unit(grid.render(pose, camera).image).permute(1, 2, 0).numpy()
        text = tab.evaluate(PIXELS, [pose.tolist(), list(camera.numbers()), camera.width, camera.height])
        found = np.frombuffer(base64.b64decode(text), np.uint8).reshape(40, 48, 4)[..., :3] / 255
        assert -10 * np.log10(np.square(found - expected).mean()) > 40, place
    assert not tab.errors
    tab.close()


def test_mouse_keys_and_buttons(browser, tmp_path):
    tab = opened(browser, ball_grid(grid_side=16), tmp_path / "page.html")
    assert tab.title() == "a <ball>"
    first = shot(tab)

    def drag(button: str = "left") -> None:
        tab.mouse.move(60, 50)
        tab.mouse.down(button=button)
        tab.mouse.move(90, 60, steps=3)
        tab.mouse.up(button=button)

    distance = "Math.hypot(...[0, 1, 2].map((i) => dv.camera.pose[i][3] - dv.camera.target[i]))"
    before = tab.evaluate(distance)
    drag()
    assert tab.evaluate(distance) == pytest.approx(before)  # it orbits
    pose = np.array(tab.evaluate("dv.camera.pose"))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    turned = shot(tab)
    assert turned != first
    drag("right")
    assert np.abs(tab.evaluate("dv.camera.target")).max() > 0.01
    assert shot(tab) != turned
    tab.mouse.wheel(0, -300)
    tab.wait_for_function(f"{distance} < {0.9 * before}")
    tab.click("#reset")
    assert shot(tab) == first
    tab.focus("canvas")
    tab.keyboard.press("ArrowLeft")
    assert shot(tab) != first
    tab.click("#reset")
    assert tab.is_hidden("#surroundings")
    tab.fill("#background", "#00ff00")
    assert shot(tab) != first
    assert tab.evaluate("[...dv.render(dv.camera.pose, [8, 8, 8, 8], 16, 16)].slice(0, 3)") == [0, 255, 0]
    assert not tab.errors
    tab.close()


def test_two_fingers_zoom(browser, tmp_path):
    tab = opened(browser, ball_grid(grid_side=16), tmp_path / "page.html")
    before = tab.evaluate("dv.camera.pose[0][3]")
    tab.evaluate("""() => {
      const canvas = document.querySelector("canvas");
      const send = (type, id, x) => canvas.dispatchEvent(new PointerEvent(
        type, {pointerId: id, pointerType: "touch", clientX: x, clientY: 60, buttons: 1}));
      canvas.setPointerCapture = () => {};
      send("pointerdown", 1, 80); send("pointerdown", 2, 100); send("pointermove", 2, 140); send("pointerup", 2, 140);
    }""")
    assert tab.evaluate("dv.camera.pose[0][3]") < 0.6 * before
    tab.close()


def test_surroundings_can_be_left_out(browser, tmp_path):
    grid = ball_grid(grid_side=16, levels=3, environment=8)
    tab = opened(browser, grid, tmp_path / "page.html")
    pixel = "[...dv.render(dv.camera.pose, [8, 8, 8, 8], 16, 16)].slice(0, 3)"
    tab.uncheck("#surroundings")
    assert tab.evaluate(pixel) == [255, 255, 255]
    tab.fill("#background", "#336699")
    assert tab.evaluate(pixel) == [0x33, 0x66, 0x99]
    tab.check("#surroundings")
    assert tab.evaluate(pixel) != [0x33, 0x66, 0x99]
    tab.close()


def test_a_saved_path_is_the_path_of_the_page(browser, tmp_path):
    tab = opened(browser, ball_grid(grid_side=16), tmp_path / "page.html")
    for _ in range(3):
        tab.click("#add")
        tab.evaluate("dv.camera.orbit(0.3, 0.1)")
    assert tab.inner_text("#keys") == "3 key frames"
    tab.fill("#seconds", "0.5")
    with tab.expect_download() as download:
        tab.click("#save")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "a _ball__path.json"  # as browsers write names of files
    keys, frames = read_key_frames(path, fps=8)
    assert (len(keys), frames) == (3, 9)
    for i, pose in enumerate(interpolate(keys, frames)):
        found = tab.evaluate("([keys, at]) => interpolated(keys, at)", [keys.tolist(), i / 4])
        np.testing.assert_allclose(found, pose.numpy(), atol=1e-6)
    tab.click("#play")
    tab.wait_for_function("document.getElementById('play').textContent === 'Play'")
    np.testing.assert_allclose(tab.evaluate("dv.camera.pose"), keys[-1].numpy(), atol=1e-6)
    tab.click("#clear")
    assert tab.is_disabled("#save")
    tab.close()


def test_a_path_of_the_page_is_rendered_to_the_pictures_of_the_page(browser, command, ball_checkpoint, tmp_path):
    """From the exported page through its saved file to the frames of render.py."""
    result = command("export", f"ckpt={ball_checkpoint}", "format=html", f"output_dir={tmp_path}")
    assert result.code == 0, result.err
    tab = browser.new_page(viewport={"width": 720, "height": 300})
    tab.goto((tmp_path / "ball.html").as_uri())
    tab.wait_for_function("window.dv")
    tab.fill("#seconds", "0.5")
    for _ in range(3):
        tab.click("#add")
        tab.evaluate("dv.camera.orbit(0.5, 0.2)")
    with tab.expect_download() as download:
        tab.click("#save")
    path = tmp_path / "path.json"
    download.value.save_as(path)
    out = tmp_path / "out"
    result = command("render", f"ckpt={ball_checkpoint}", f"trajectory={path}", "trajectory.fps=4", f"output_dir={out}")
    assert result.code == 0, result.err
    keys, frames = read_key_frames(path, 4)
    assert frames == 5
    for i in range(frames):
        pose = tab.evaluate("([keys, at]) => interpolated(keys, at)", [keys.tolist(), i / 2])
        text = tab.evaluate(PIXELS, [pose, list(CAMERA.numbers()), 32, 32])
        shown = np.frombuffer(base64.b64decode(text), np.uint8).reshape(32, 32, 4)[..., :3] / 255
        rendered = read_png16(out / "rgb" / f"{i:06d}.png").permute(1, 2, 0).numpy()
        assert -10 * np.log10(np.square(shown - rendered).mean()) > 40, i
    tab.close()


def test_a_browser_without_webgl2_is_told_so(playwright, tmp_path):
    (tmp_path / "page.html").write_text(page(ball_grid(grid_side=8), pose_at(1.5, 0, 0), CAMERA, UP, "ball"))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer", "--disable-3d-apis"]
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_function("document.getElementById('message').textContent.includes('WebGL2')")
    assert tab.is_hidden("#controls")
    browser.close()


def test_a_lost_context_is_restored(browser, tmp_path):
    tab = opened(browser, ball_grid(grid_side=16), tmp_path / "page.html")
    first = shot(tab)
    tab.evaluate("""() => {
      const gl = document.querySelector("canvas").getContext("webgl2");
      window.lose = gl.getExtension("WEBGL_lose_context");
      lose.loseContext();
    }""")
    tab.wait_for_timeout(200)
    tab.evaluate("lose.restoreContext()")
    tab.wait_for_timeout(300)
    assert shot(tab) == first
    assert not tab.errors
    tab.close()
