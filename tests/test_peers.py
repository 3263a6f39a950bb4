"""The peers: they read the rays that dv reads, the plain ones train, and their test views are scored as dv's are."""

import json
import math
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dense_grid
import exported
import imageio.v3 as iio
import numpy as np
import pytest
import run
import score
import torch

from dv.data.object import ObjectSource
from dv.geometry.camera import pixel_grid, pixel_rays
from dv.images import write_png16
from dv.importers.folder import read_folder
from dv.prepare.export import export_transforms

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
TEST_VIEWS = 3


@pytest.fixture(scope="module")
def views(ball, tmp_path_factory):
    """Folder of the exported ball."""
    folder = tmp_path_factory.mktemp("peers") / "exported"
    return export_transforms(ObjectSource(ball, "ball"), read_folder(ball, "ball"), folder)


def test_rays_of_exported_views_are_those_of_dv(views, ball):
    rays = exported.read_views(views, "test").rays()
    source = ObjectSource(ball, "ball")
    placement, read = source.calibration().placement, source.views("test")
    pixels = pixel_grid(32)
    expected = [pixel_rays(pose.expand(len(pixels), 4, 4), pixels, read.cameras[0]) for pose in read.poses]
    origins, directions = (torch.cat(parts).numpy() for parts in zip(*expected, strict=True))
    origins = (origins - placement.origin) / (placement.scale / 2)
    np.testing.assert_allclose(rays.origins, origins, atol=1e-5)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(rays.directions, directions / lengths, atol=1e-5)
    hit = rays.far > rays.near
    assert 0.2 < hit.mean() <= 1
    for distance in (rays.near, rays.far):
        at = rays.origins[hit] + distance[hit, None] * rays.directions[hit]
        np.testing.assert_allclose(np.abs(at).max(1), 1, atol=1e-4)


def test_the_dense_grid_learns_and_is_scored(views, tmp_path, monkeypatch):
    for name, value in {"COARSE_SIDE": 12, "SIDE": 24, "RAYS": 512}.items():
        monkeypatch.setattr(dense_grid, name, value)
    train, test = (exported.read_views(views, split) for split in ("train", "test"))
    background = torch.from_numpy(train.corner_color())
    torch.testing.assert_close(background, torch.ones(3))
    found = []
    for steps in (0, 60):
        grid, done = dense_grid.train(train, seconds=600, most_steps=steps)
        images = dense_grid.render_views(grid, test, background)
        exported.write_result(tmp_path / str(steps), images.numpy(), 1.5, done)
        found.append(score.score(views, tmp_path / str(steps)))
    before, after = found
    assert after["steps"] == 60
    assert after["seconds"] == 1.5
    assert after["views"] == TEST_VIEWS
    assert after["psnr"] > before["psnr"] + 5
    assert after["ssim"] > before["ssim"]


def test_the_border_is_not_scored(views, tmp_path):
    images = exported.read_views(views, "test").images.copy()
    images[:, :5] = images[:, -5:] = images[:, :, :5] = images[:, :, -5:] = 0.5
    exported.write_result(tmp_path, images, 1, 1)
    assert score.score(views, tmp_path)["psnr"] == math.inf
    assert score.score(views, tmp_path, border=4)["psnr"] < 40


def test_images_of_16_bits_and_some_of_the_views_are_scored(views, tmp_path):
    truth = torch.from_numpy(exported.read_views(views, "test").images[2]).permute(2, 0, 1)
    (tmp_path / "rgb").mkdir()
    write_png16(tmp_path / "rgb" / "000002.png", (truth * 0.9).clamp(0, 1))
    scores = score.score(views, tmp_path)
    inner = truth[:, 5:-5, 5:-5]
    assert scores["views"] == 1
    assert scores["psnr"] == pytest.approx(-10 * math.log10((0.1 * inner).square().mean()), abs=0.02)
    assert "| one |  |  |  | 1 |  |" in score.table({"one": scores})


@pytest.mark.slow
def test_one_command_trains_and_scores(ball, tmp_path):
    words = ["--root", ball, "--name", "ball", "--output", tmp_path, "--peers", "radiance", "dense_grid"]
    command = [sys.executable, PEERS / "run.py", *words, "--seconds", "60"]  # kernels may have to be compiled
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for peer in ("radiance_60", "dense_grid_60"):
        assert f"| {peer} | 60" in done.stdout
        scores = json.loads((tmp_path / "ball" / peer / "score.json").read_text())
        assert scores["psnr"] > 15
        assert scores["memory"] > 0.1
        assert scores["steps"] > 5


@pytest.mark.slow
def test_lpips_grows_with_noise(views, tmp_path):
    python = run.python_of("lpips", tmp_path)
    truth = exported.read_views(views, "test").images
    noise = np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    found = []
    for level in (0, 0.05, 0.2):
        exported.write_result(tmp_path / str(level), truth + level * noise, 1.5, 2)
        found.append(run.measure_lpips(views, tmp_path / str(level), python, border=0))
    assert found[0] == 0
    assert 0.001 < found[1] < found[2]
    with pytest.raises(SystemExit, match="images have 22×22 px; LPIPS needs 31"):
        run.measure_lpips(views, tmp_path / "0", python)


def test_known_results_get_lpips(ball, views, tmp_path, monkeypatch, capsys):
    """The command adds it to the score of every result that lacks it, and trains nothing again."""
    images = exported.read_views(views, "test").images
    shutil.copytree(views, tmp_path / "ball" / "exported")
    result = tmp_path / "ball" / "dense_grid_60"
    exported.write_result(result, images * 0.9, 60, 2)
    (result / "score.json").write_text(json.dumps(score.score(views, result)))
    monkeypatch.setattr(run, "python_of", lambda *_: "python")
    monkeypatch.setattr(run, "measure_lpips", lambda *_: 0.125)
    words = ["--root", str(ball), "--name", "ball", "--output", str(tmp_path), "--peers", "dense_grid"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words, "--seconds", "60", "--lpips"])
    run.main()
    assert "| dense_grid_60 | 60 | 2 |  | 3 | 0.125 |" in capsys.readouterr().out
    assert json.loads((result / "score.json").read_text())["lpips"] == 0.125


@pytest.mark.skipif(find_spec("mitsuba") is None, reason="Mitsuba is not installed")
def test_mitsuba_learns(views, tmp_path):
    found = []
    for seconds in ("0.01", "5", "25", "100"):  # the more on a busy machine, whose first seconds compile kernels
        command = [sys.executable, PEERS / "mitsuba_grid.py", views, tmp_path, "--seconds", seconds, "--side", "16"]
        done = subprocess.run(command, capture_output=True, text=True)
        if "needs LLVM" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        found.append(score.score(views, tmp_path)["psnr"])
        if found[-1] > found[0] + 3:
            break
    assert found[-1] > found[0] + 3
    assert iio.imread(tmp_path / "rgb" / "000000.png").shape == (32, 32, 3)
