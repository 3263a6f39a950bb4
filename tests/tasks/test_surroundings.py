"""A ball in a room, from training with outer levels to images of the ball alone."""

import json
import shutil

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from conftest import TINY_RADIANCE, step_overrides
from dv.checkpoint import read_checkpoint
from dv.data.background import has_plain_background
from dv.data.object import ObjectSource
from dv.geometry.trajectory import look_at
from dv.radiance import RadianceGrid
from faults import read_weights

SIDE, FOCAL, RADIUS, ROOM = 32, 36.0, 0.4, 2.4


def render_room(pose):
    """Return the image [32, 32, 3] of a ball in a room with patterned walls, and the mask of the ball."""
    v, u = np.mgrid[:SIDE, :SIDE]
    center = (SIDE - 1) / 2
    rays = np.stack([(u - center) / FOCAL, (v - center) / FOCAL, np.ones((SIDE, SIDE))], -1) @ pose[:3, :3].T
    eye = pose[:3, 3]
    wall = ((np.sign(rays) * ROOM - eye) / rays).min(-1)  # from inside, the nearest plane that the ray approaches
    color = 0.5 + 0.3 * np.sin(2.5 * (eye + wall[..., None] * rays) + [0, 1, 2])
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    b = unit @ eye
    discriminant = b**2 - (eye @ eye - RADIUS**2)
    ball = eye + unit * (-b - np.sqrt(np.maximum(discriminant, 0)))[..., None]
    mask = discriminant > 0
    return np.where(mask[..., None], (0.5 + ball).clip(0, 1), color), mask


def write_room(root):
    """Write the ball in the room as object "thing", with exposures that differ by view."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 2), ("test", 4)):
        folder = root / split / "thing"
        (folder / "rgb").mkdir(parents=True)
        (folder / "pose").mkdir()
        (folder / "intrinsics.txt").write_text(f"{FOCAL} 15.5 15.5 0.\n0 0 0\n0.5\n1.0\n{SIDE} {SIDE}\n")
        for i in range(count):
            direction = rng.normal(size=3) * [1, 1, 0.4]
            eye = torch.tensor(1.5 * direction / np.linalg.norm(direction))
            up = torch.tensor([0.0, 0.0, 1.0]).double()
            pose = look_at(eye, torch.tensor(rng.normal(size=3) * 0.1), up).numpy()
            image = render_room(pose)[0]
            iio.imwrite(folder / "rgb" / f"{i:03d}.png", (image * 255).round().astype(np.uint8))
            (folder / "pose" / f"{i:03d}.txt").write_text(" ".join(f"{x:.9g}" for x in pose.ravel()))
    return root


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


def read_png16(path):
    """Return an image [H, W, 3 or 4] in [0, 1], whose colours OpenCV reads in the order BGR."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    return stored[..., [2, 1, 0, 3][: stored.shape[2]]] / 65535


def overrides(room):
    given = ["object=custom", f"object.root={room}", "object.name=thing", *TINY_RADIANCE, "model.supersampling=1"]
    return [*given, "grid.side=24", "model.levels=3", "model.environment=8", "model.rays=1024", "trainer.gpus=0"]


def test_a_thing_in_a_room_is_learned_and_isolated(command, room, tmp_path):
    run = tmp_path / "run"
    steps = [*step_overrides(500), "optimizer.learning_rate=0.05", "model.decoder_features=0"]
    trained = command("train", *overrides(room), *steps, f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    ckpt = f"ckpt={run / 'checkpoints' / 'last.ckpt'}"
    assert command("evaluate", ckpt, "trainer.gpus=0", "align_poses=true").code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["mean"]["psnr"] > metrics["baseline"]["psnr"] + 5
    assert metrics["mean_gain"]["psnr"] > metrics["mean_border"]["psnr"] - 1e-6
    assert metrics["aligned_gain"].keys() == metrics["mean"].keys()

    refused = command("render", ckpt, "background=white", "exposure=predicted", "trainer.gpus=0")
    assert refused.code == 1
    assert "leave out background=" in refused.err
    for background in ("transparent", "black"):
        out = tmp_path / background
        done = command(
            "render", ckpt, "trajectory=test", f"background={background}", f"output_dir={out}", "trainer.gpus=0"
        )
        assert done.code == 0, done.err
    poses = json.loads((tmp_path / "black" / "frames.json").read_text())["poses"]
    for i, pose in enumerate(poses):
        image, mask = render_room(np.array(pose))
        rgba = read_png16(tmp_path / "transparent" / "rgb" / f"{i:06d}.png")
        black = read_png16(tmp_path / "black" / "rgb" / f"{i:06d}.png")
        assert rgba.shape == (SIDE, SIDE, 4)
        found = rgba[..., 3] > 0.5
        assert (found & mask).sum() / (found | mask).sum() > 0.85
        shown = np.minimum(black, rgba[..., 3:])  # a colour is cut where it is above its opacity
        np.testing.assert_allclose(rgba[..., :3] * rgba[..., 3:], shown, atol=1e-4)
        assert (black - shown).max() < 0.05
        assert np.abs(rgba[..., :3] - image)[found & mask].mean() < 0.08
    assert iio.imread(tmp_path / "transparent" / "video.mp4").shape[-1] == 3


def test_levels_follow_the_background(room, ball):
    rooms, balls = (ObjectSource(root, name).views("train") for root, name in ((room, "thing"), (ball, "ball")))
    assert not has_plain_background(rooms)
    assert has_plain_background(balls)


@pytest.mark.parametrize("levels", ["auto", "1"])
def test_levels_are_chosen_and_overridable(command, room, tmp_path, levels):
    run = tmp_path / "run"
    given = [*overrides(room), *step_overrides(2), f"model.levels={levels}", "grid.side=8", f"hydra.run.dir={run}"]
    assert command("train", *given).code == 0
    state = read_weights(run / "checkpoints" / "last.ckpt")
    assert len(state["model.voxels.index"]) == (6 if levels == "auto" else 1)
    assert state["model.background"].shape == ((3, 8, 16) if levels == "auto" else (3,))
    assert ("model.exposures.log_gain" in state) == (levels == "auto")


def test_isolating_keeps_the_first_level(command, room, tmp_path):
    run = tmp_path / "run"
    assert command("train", *overrides(room), *step_overrides(2), f"hydra.run.dir={run}").code == 0
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")
    model = RadianceGrid.from_state(saved.sizes, saved.placement, saved.model_state)
    views = ObjectSource(room, "thing").views("test")
    whole = model.render(views.poses[0], views.cameras[0])
    model.isolate()
    alone = model.render(views.poses[0], views.cameras[0])
    assert (alone.opacity <= whole.opacity + 1e-6).all()
    assert model.max_depth(views.poses) < 3
    beside = alone.opacity[0] == 0  # rays beside the box
    assert (alone.image[:, beside] == -0.5).all()


def test_models_without_opacity_cannot_isolate(command, ball, tmp_path):
    shutil.copytree(ball, tmp_path / "object")
    from conftest import TINY

    given = ["object=custom", f"object.root={tmp_path / 'object'}", "object.name=ball", *TINY, "trainer.gpus=0"]
    run = tmp_path / "run"
    assert command("train", *given, *step_overrides(1), f"hydra.run.dir={run}").code == 0
    done = command("render", f"ckpt={run / 'checkpoints' / 'last.ckpt'}", "background=white", "trainer.gpus=0")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "this model has no opacity" in done.err
    assert not (run / "render").exists()
