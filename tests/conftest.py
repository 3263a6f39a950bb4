"""Shared fixtures: a tiny object in the DeepVoxels folder format, and the commands, called in this process."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from dv.geometry.trajectory import look_at
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph
from dv.tasks.command import config_folder, typed

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # more threads than cores make workers wait for each other
torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)

TINY = [
    "grid.side=8",
    "grid.feature_side=16",
    "grid.features=4",
    "model.base_channels=4",
    "trainer=debug",
    "loss.border=2",
    "trainer.progress_bar=false",
]

TINY_RADIANCE = [  # overrides for a radiance grid
    "model=radiance_grid",
    "grid.side=16",
    "model.rays=256",
    "trainer=debug",
    "trainer.progress_bar=false",
]

CHROMIUM = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--ignore-gpu-blocklist", "--disable-background-networking", "--disable-component-update"]  # fmt: skip


def step_overrides(count: int) -> list[str]:
    """Return overrides for ``count`` training steps, with validation, checkpoint and images after the last one only."""
    events = ("save", "validate", "picture")
    return [f"trainer.max_steps={count}", *[f"trainer.{event}_every_steps={count}" for event in events]]


def write_views(folder: Path, count: int, side: int, *, seed: int = 0, size: tuple[int, int] | None = None) -> None:
    """Write images of a sphere shaded by its normals, seen from ``count`` poses on the upper hemisphere."""
    height, width = size or (side, side)
    crop = min(height, width)
    f, cx, cy = 1.4 * crop, (width - 1) / 2, (height - 1) / 2
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - cx) / f, (v - cy) / f, np.ones((height, width))], -1)
    for i in range(count):
        azimuth, elevation = 2 * np.pi * (i + rng.random() * 0.3) / count, np.radians(15 + 50 * rng.random())
        eye = 1.6 * np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        pose = look_at(torch.tensor(eye), torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1]).double())
        pose = pose.numpy()
        d = rays @ pose[:3, :3].T
        d /= np.linalg.norm(d, axis=-1, keepdims=True)
        b = d @ eye
        disc = b**2 - (eye @ eye - 0.45**2)
        point = eye + d * (-b - np.sqrt(np.maximum(disc, 0)))[..., None]
        color = np.where((disc > 0)[..., None], 0.5 + point, 1.0)
        iio.imwrite(folder / "rgb" / f"{i:06d}.png", (color.clip(0, 1) * 255).astype(np.uint8))
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(f"{x:.9g}" for x in pose.reshape(-1)))
    (folder / "intrinsics.txt").write_text(f"{f} {cx} {cy} 0.\n0 0 0\n0.73\n1.0\n{height} {width}\n")


def exact_rotation(view: Photograph) -> Photograph:
    """Make the rotation of a view exact: pose files are rounded."""
    pose = view.pose.copy()
    u, _, v = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = u @ v
    return replace(view, pose=pose)


def pinhole_numbers(lens: Lens) -> list[float]:
    """Size, focal lengths and principal point of a lens without distortion."""
    assert not lens.distortion
    assert not lens.fisheye
    return [lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy]


def write_object(root: Path, side: int = 32, train: int = 8, name: str = "ball") -> Path:
    """Write an object with all three splits and return its root."""
    for split, count, seed in (("train", train, 0), ("validation", 2, 1), ("test", 3, 2)):
        write_views(root / split / name, count, side, seed=seed)
    return root


@pytest.fixture(scope="session")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the object ``ball`` with 32 px images; tests must not write to it."""
    return write_object(tmp_path_factory.mktemp("objects"))


def compose_config(task: str, *overrides: str) -> Any:
    """Return the typed configuration that a command line composes."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return typed(task, compose(task, list(overrides)))


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capfd, monkeypatch, tmp_path):
    """Return a function that calls an entry point: ``command("train", "object=custom", …)`` runs under tmp_path."""

    def call(name: str, *arguments: str) -> Result:
        import importlib

        GlobalHydra.instance().clear()
        if not any(a.startswith(("hydra.run.dir", "hydra.sweep.dir")) for a in arguments):
            arguments = (*arguments, f"hydra.run.dir={tmp_path / 'run'}")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capfd.readouterr()
        code = 0
        try:
            getattr(importlib.import_module("dv.cli"), name)()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            GlobalHydra.instance().clear()
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def ball_overrides(ball):
    """Return overrides that select the tiny object and tiny sizes."""
    return ["object=custom", f"object.root={ball}", "object.name=ball", *TINY]


@pytest.fixture(scope="session")
def trained(ball, tmp_path_factory) -> Path:
    """Checkpoint of a tiny trained model."""
    import subprocess

    run = tmp_path_factory.mktemp("trained")
    arguments = [f"object.root={ball}", "object=custom", "object.name=ball", *TINY, "loss=l1", f"hydra.run.dir={run}"]
    subprocess.run([sys.executable, "-m", "dv.tasks.train", *arguments], check=True, capture_output=True)
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture
def ball_checkpoint(ball: Path, tmp_path: Path) -> Path:
    """Checkpoint of a ball with a decoder."""
    from radiance_balls import ball_grid, write_checkpoint

    grid = ball_grid(grid_side=32, decoder_features=5, reflection_degree=2, supersampling=2, linear_share=1.0)
    return write_checkpoint(grid, tmp_path / "ball.ckpt", ball)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    """Playwright, for Debian's or another Chromium of the system."""
    if not shutil.which("chromium"):  # a package of the system, which pip cannot bring; .ci/run installs it
        pytest.skip("tests of pages need chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: Any) -> Iterator[Any]:
    """A browser that renders WebGL2 on the CPU."""
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
    yield browser
    browser.close()
