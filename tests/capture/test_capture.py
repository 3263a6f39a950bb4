"""`prepare.py source=capture` on photographs and videos with known cameras."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import imageio.v3 as iio
import numpy as np
import pytest

from conftest import TINY
from dv.capture.frames import decode_photographs, decode_video, find_photographs
from dv.capture.structure_from_motion import _group_by_camera, matched_pairs
from dv.data.calibration import read_calibration
from dv.data.object import SPLITS, ObjectSource
from dv.prepare.lens import Lens
from photo_scene import HALF, alignment_errors, handheld_pose, poses_around, render_scene, write_jpeg

pytest.importorskip("pycolmap")
PHONE = Lens(300, 400, 380, 380, 150, 200, (-0.15, 0.03, 0, 0))
ROOT = Path(__file__).parents[2]
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * HALF + (0, 0, HALF[2])


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """Handheld portrait photographs with barrel distortion, half of them stored sideways, and their true poses."""
    folder = tmp_path_factory.mktemp("phone")
    poses = poses_around(18)
    for i, pose in enumerate(poses):
        write_jpeg(folder / f"shot{i:02d}.jpg", render_scene(pose, PHONE), sideways=i % 2 == 0)
    return folder, poses


@pytest.fixture(scope="module")
def rgba(tmp_path_factory):
    """Rendered images of the box alone, with alpha."""
    folder = tmp_path_factory.mktemp("rgba")
    lens = Lens(320, 320, 380, 380, 160, 160)
    poses = poses_around(24, (0.95, 1.1))
    for i, pose in enumerate(poses):
        image = (render_scene(pose, lens, table=False) * 255).round().astype(np.uint8)
        iio.imwrite(folder / f"{i:02d}.png", image)
    return folder, poses


def test_pictures_for_colmap_have_no_spaces_in_their_names(tmp_path):
    for name in ("IMG 1.png", "IMG_0001  (2).png", "c.png"):
        iio.imwrite(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    given = {"largest_side": 100, "background": np.ones(3), "mask": None}
    frames = decode_photographs(sorted(tmp_path.glob("*.png")), tmp_path / "work", **given)
    assert [frame.path.name for frame in frames] == ["IMG_1.png", "IMG_0001_(2).png", "c.png"]


def poses_of(root: Path, name: str) -> dict[str, np.ndarray]:
    source = ObjectSource(root, name)
    views = [source.views(split) for split in SPLITS]
    return {name: pose for v in views for name, pose in zip(v.names, v.poses.numpy(), strict=True)}


def assert_reconstructed(root: Path, name: str, truth: dict[str, np.ndarray], side: tuple[float, float]) -> None:
    """Assert poses within 1 % and 0.5° of the truth, and the box in a grid whose side is within ``side`` true units."""
    ours = poses_of(root, name)
    keys = sorted(ours)
    assert len(keys) >= 0.9 * len(truth)
    estimated, true = np.stack([ours[k] for k in keys]), np.stack([truth[k] for k in keys])
    distances, angles, rotation, scale = alignment_errors(estimated, true)
    assert distances.max() < 0.01 * np.ptp(true[:, :3, 3], axis=0).max()
    assert angles.max() < 0.5
    assert rotation[2, 2] > np.cos(np.radians(8))  # the up directions agree
    placement = read_calibration(root / "train" / name / "intrinsics.txt").placement
    assert (placement.origin, placement.scale) == ((0, 0, 0), 1)
    local = (CORNERS - true[:, :3, 3].mean(0)) @ rotation / scale + estimated[:, :3, 3].mean(0)
    assert np.abs(local).max() < 0.5
    assert side[0] < scale < side[1]
    depths = np.stack([(local - pose[:3, 3]) @ pose[:3, 2] for pose in estimated])
    assert placement.near < depths.min()
    assert depths.max() < placement.near + 2 * placement.scale


@pytest.mark.slow
def test_handheld_portrait_photographs_with_distortion(command, phone, tmp_path):
    folder, poses = phone
    root = tmp_path / "my things" / "box"
    result = command("prepare", "source=capture", f"source.path={folder}", f"output_dir='{root}'")
    assert result.code == 0, result.err
    assert_reconstructed(root, "box", {f"shot{i:02d}": pose for i, pose in enumerate(poses)}, (0.6, 1.0))
    assert "stand on a table" in result.out
    assert "up is derived from" in result.out
    record = json.loads((root / "train" / "box" / "dataset.json").read_text())
    assert record["pixel_center"] == 0.5
    assert ObjectSource(root, "box").up().tolist() == [0, 0, 1]
    assert record["provenance"]["registered"].endswith(" of 18")
    assert {"pycolmap", "dv"} <= record["provenance"]["versions"].keys()
    assert iio.imread(root / "train" / "box" / "scene.png").shape[0] > 200
    assert not list(root.glob(".*"))
    # the printed command trains on it; only sizes are added
    _, script, *arguments = shlex.split(result.out.split("paper's model: ")[1].splitlines()[0])
    assert script == "train.py"
    trained = command("train", *arguments, *TINY, "loss=l1", "data.image_side=32", "trainer.max_steps=1")
    assert trained.code == 0, trained.err
    # a second run has nothing to do; one with another grid reuses the reconstruction
    again = command("prepare", "source=capture", f"source.path={folder}", f"output_dir='{root}'")
    assert "nothing to do" in again.out
    rescaled = command("prepare", "source=capture", f"source.path={folder}", f"output_dir='{root}'", "grid.scale=1.5")
    assert rescaled.code == 1
    assert "exists already" in rescaled.err
    before = poses_of(root, "box")
    for split in SPLITS:
        shutil.rmtree(root / split)
    rescaled = command("prepare", "source=capture", f"source.path={folder}", f"output_dir='{root}'", "grid.scale=1.5")
    assert rescaled.code == 0, rescaled.err
    assert "matching" not in rescaled.err
    assert read_calibration(root / "train" / "box" / "intrinsics.txt").placement.scale == 1.5
    after = poses_of(root, "box")
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_rendered_rgba_images(command, rgba, tmp_path):
    folder, poses = rgba
    root = tmp_path / "out"
    arguments = [f"source.path={folder}", f"output_dir={root}", "object.name=box", "source.mask=alpha"]
    result = command("prepare", "source=capture", *arguments, "source.background=black")
    assert result.code == 0, result.err
    assert_reconstructed(root, "box", {f"{i:02d}": pose for i, pose in enumerate(poses)}, (0.6, 0.9))
    images = ObjectSource(root, "box").views("train").images
    assert (images[:, :, 0, 0] == 0).all()


@pytest.mark.slow
def test_video(command, tmp_path):
    lens = Lens(320, 240, 330, 330, 160, 120)
    poses = [handheld_pose(4.0 * i, 30, 1.7, 0) for i in range(36)]
    with imageio.get_writer(tmp_path / "walk.mp4", fps=12, quality=9, macro_block_size=2) as writer:
        for pose in poses:
            writer.append_data((render_scene(pose, lens)[..., :3] * 255).astype(np.uint8))
    root = tmp_path / "out"
    result = command(
        "prepare", "source=capture", f"source.path={tmp_path / 'walk.mp4'}", f"output_dir={root}", "source.frames=12"
    )
    assert result.code == 0, result.err
    assert len(poses_of(root, "out")) >= 11


def test_the_sharpest_frame_of_each_part_is_taken(tmp_path):
    import cv2

    rng = np.random.default_rng(0)
    with imageio.get_writer(tmp_path / "v.mp4", fps=10, quality=10, macro_block_size=2) as writer:
        for i in range(20):
            frame = cv2.resize(rng.integers(0, 255, (32, 32, 3), np.uint8), (128, 128))
            frame[:20, :20] = i * 12  # the number of the frame
            writer.append_data(frame if i % 5 == 3 else cv2.GaussianBlur(frame, (0, 0), 6))
    frames = decode_video(tmp_path / "v.mp4", tmp_path / "work", count=4, largest_side=100)
    assert [frame.size for frame in frames] == [(100, 100)] * 4
    numbers = [iio.imread(frame.path)[4:8, 4:8].mean() / 12 for frame in frames]
    np.testing.assert_allclose(numbers, [3, 8, 13, 18], atol=0.4)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "file_name"), [(signal.SIGKILL, "database.db"), (signal.SIGINT, "pairs.txt")])
def test_an_interrupted_capture_continues(phone, tmp_path, stop, file_name):
    folder, poses = phone
    root = tmp_path / "out"
    arguments = [sys.executable, "prepare.py", "source=capture", f"source.path={folder}", f"output_dir={root}"]
    arguments += ["object.name=box", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    running = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(root.glob(f".box.partial/{file_name}")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    running.send_signal(stop)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    assert [path.name for path in root.iterdir()] == [".box.partial"]
    images = {p: p.stat().st_mtime_ns for p in (root / ".box.partial" / "pictures").iterdir()}
    assert len(images) == 18
    finished = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert_reconstructed(root, "box", {f"shot{i:02d}": pose for i, pose in enumerate(poses)}, (0.6, 1.0))


def refused(command, tmp_path, *arguments: str) -> str:
    """Return the one error line of a capture that is refused and writes nothing."""
    result = command("prepare", "source=capture", f"output_dir={tmp_path / 'out'}", *arguments)
    assert result.code == 1
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not list((tmp_path / "out").glob("[!.]*"))  # except the hidden work folder, from which another run continues
    return lines[0]


def write_noise(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(first, first + count):
        iio.imwrite(folder / f"noise{i}.png", np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8))
    return folder


def test_bad_input_gets_one_clear_line(command, tmp_path):
    assert "source.path is not set" in refused(command, tmp_path)
    assert "no such file or folder" in refused(command, tmp_path, "source.path=nowhere")
    (tmp_path / "empty").mkdir()
    assert "contains no photographs" in refused(command, tmp_path, f"source.path={tmp_path / 'empty'}")
    few = write_noise(tmp_path / "few", 3)
    assert "3 photographs are too few" in refused(command, tmp_path, f"source.path={few}")
    (tmp_path / "v.mp4").write_text("hello")
    assert "v.mp4: cannot be read as a video" in refused(command, tmp_path, f"source.path={tmp_path / 'v.mp4'}")
    broken = write_noise(tmp_path / "broken", 5)
    for name in ("noise1.png", "noise3.png"):
        (broken / name).write_bytes((broken / name).read_bytes()[:80])
    message = refused(command, tmp_path, f"source.path={broken}")
    assert "2 problems" in message
    assert "noise1.png: cannot be read" in message
    five = f"source.path={write_noise(tmp_path / 'five', 5)}"
    assert "must be alpha, uniform or a folder" in refused(command, tmp_path, five, "source.mask=mask")
    (tmp_path / "masks").mkdir()
    message = refused(command, tmp_path, five, f"source.mask={tmp_path / 'masks'}")
    assert "has no mask for 5 photographs, such as noise0.png" in message
    assert "the border of the image does not have one colour" in refused(command, tmp_path, five, "source.mask=uniform")
    assert "camera_model=FOO is not a camera model" in refused(command, tmp_path, five, "source.camera_model=FOO")
    message = refused(command, tmp_path, five, "source.camera_params=[1,2]")
    assert "must be the 4 numbers f, cx, cy, k of SIMPLE_RADIAL" in message
    assert "source.matching=all must be auto, exhaustive or sequential" in refused(
        command, tmp_path, five, "source.matching=all"
    )
    assert "source.frames=1 must be" in refused(command, tmp_path, five, "source.frames=1")
    assert "source.largest_side=10 must be" in refused(command, tmp_path, five, "source.largest_side=10")
    assert "grid.up=[0,0,0] must be" in refused(command, tmp_path, five, "grid.up=[0,0,0]")
    assert "no two images could be related" in refused(command, tmp_path, five)


def test_too_few_registered_images(command, phone, tmp_path):
    folder, _ = phone
    mixed = write_noise(tmp_path / "mixed", 8)
    for i in range(5):
        shutil.copy(folder / f"shot{i:02d}.jpg", mixed)
    message = refused(command, tmp_path, f"source.path={mixed}")
    assert "of 13 images were registered (not noise0, noise1" in message
    assert "source.max_features" in message


def test_pairs_of_a_video():
    assert matched_pairs(4, "exhaustive") == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    pairs = matched_pairs(60, "sequential")
    assert (0, 10) in pairs
    assert (1, 12) not in pairs
    assert (0, 55) in pairs  # the camera returns to the beginning


def test_images_of_one_device_and_size_share_a_camera(tmp_path):
    image = np.zeros((60, 80, 4), np.float32)
    write_jpeg(tmp_path / "a.jpg", image, focal_35mm=27)
    write_jpeg(tmp_path / "b.jpg", image, focal_35mm=27)
    write_jpeg(tmp_path / "c.jpg", image, sideways=True)
    frames = decode_photographs(
        find_photographs(tmp_path), tmp_path / "w", largest_side=40, background=np.ones(3), mask=None
    )
    assert [frame.size for frame in frames] == [(40, 30), (40, 30), (40, 30)]
    assert frames[0].focal == pytest.approx(27 / 36 * 40)
    groups = {key: len(_group_by_camera(frames, SimpleNamespace(cameras=key))) for key in ("auto", "single", "several")}
    assert groups == {"auto": 1, "single": 1, "several": 3}
