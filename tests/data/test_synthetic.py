import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dv.data import synthetic
from dv.data.synthetic import SyntheticSettings, render_synthetic, split_poses
from dv.errors import UserError

mi = pytest.importorskip("mitsuba")
SMALL = SyntheticSettings(
    image_side=32, train_views=24, validation_views=2, test_views=6, samples_per_pixel=8, seed=3, workers=1
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("rendered")
    render_synthetic("vase", output_dir, SMALL)
    return output_dir


@pytest.fixture(scope="module")
def mitsuba() -> Any:
    mi.set_variant("scalar_rgb")
    return mi


def images(folder: Path) -> np.ndarray:
    return np.stack([np.array(mi.Bitmap(str(path))) for path in sorted((folder / "rgb").iterdir())]) / 255


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_layout(rendered: Path) -> None:
    assert sorted(path.name for path in rendered.iterdir()) == ["test", "train", "validation"]
    for split, count in (("train", 24), ("validation", 2), ("test", 6)):
        folder = rendered / split / "vase"
        assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "intrinsics.txt", "pose", "rgb"]
        names = [f"{view:06d}" for view in range(count)]
        assert [path.name for path in sorted((folder / "rgb").iterdir())] == [f"{name}.png" for name in names]
        assert [path.name for path in sorted((folder / "pose").iterdir())] == [f"{name}.txt" for name in names]
        assert images(folder).shape == (count, 32, 32, 3)
        for name, pose in zip(names, split_poses(split, SMALL), strict=True):
            text = (folder / "pose" / f"{name}.txt").read_text()
            assert text.count("\n") == 1
            np.testing.assert_allclose(np.array(text.split(), dtype=float).reshape(4, 4), pose, atol=1e-10)
        lines = [
            [float(number) for number in line.split()] for line in (folder / "intrinsics.txt").read_text().splitlines()
        ]
        near = synthetic.CAMERA_DISTANCE - np.sqrt(3) / 2
        assert near > 0
        assert lines == [[*SMALL.intrinsics, 0], [0, 0, 0], [near], [1], [32, 32]]
        record = json.loads((folder / "dataset.json").read_text())
        assert (record["source"], record["object"], record["settings"]["seed"]) == ("synthetic", "vase", 3)


def test_mean_image_is_a_poor_prediction(rendered: Path) -> None:
    mean = images(rendered / "train" / "vase").mean(0)
    errors = ((images(rendered / "test" / "vase") - mean) ** 2).mean((1, 2, 3))
    assert (-10 * np.log10(errors)).mean() <= 16


@pytest.mark.usefixtures("mitsuba")
def test_object_fills_the_views() -> None:
    scene = synthetic.load_scene("vase")
    alpha = [synthetic.render_rgba(scene, pose, 32, 4, 0)[..., 3] for pose in split_poses("train", SMALL)]
    assert np.mean(alpha) >= 0.35


def test_whole_object_is_in_every_view() -> None:
    vertices = np.concatenate([shape.vertices[::5] for shape in synthetic.vase_shapes()])
    settings = SyntheticSettings(train_views=300)
    focal, cx, cy = settings.intrinsics
    for pose in np.concatenate([split_poses(split, settings) for split in synthetic.SPLITS]):
        x, y, z = ((vertices - pose[:3, 3]) @ pose[:3, :3]).T
        assert z.min() > synthetic.NEAR_PLANE
        pixels = np.stack([focal * x / z + cx, focal * y / z + cy])
        assert pixels.min() >= 1
        assert pixels.max() <= settings.image_side - 2


def test_meshes_lie_in_the_grid_and_face_outwards() -> None:
    for shape in synthetic.vase_shapes():
        assert np.abs(shape.vertices).max() <= 0.47
        corners = shape.vertices[shape.faces]
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert ((face_normals * shape.normals[shape.faces].mean(1)).sum(1) > 0).all()
        volume = (corners[:, 0] * face_normals).sum() / 6
        assert volume > 0


def test_glaze_differs_at_every_azimuth() -> None:
    glaze = synthetic.vase_shapes()[0].texture[::8, ::8]
    for turn in range(4, glaze.shape[1] - 4):
        assert np.abs(glaze - np.roll(glaze, turn, axis=1)).mean() > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_poses_and_intrinsics_agree_with_mitsuba(mitsuba: Any, seed: int) -> None:
    """A small glowing ball appears where its centre is projected."""
    rng = np.random.default_rng(seed)
    side = 48
    focal, cx, cy = SyntheticSettings(image_side=side).intrinsics
    pose = split_poses("train", SyntheticSettings(seed=seed))[rng.integers(100)]
    point = rng.uniform(-0.25, 0.25, 3)
    ball = {
        "type": "sphere",
        "center": point.tolist(),
        "radius": 0.04,
        "emitter": {"type": "area", "radiance": {"type": "rgb", "value": 1.0}},
    }
    scene = mitsuba.load_dict({"type": "scene", "integrator": {"type": "path", "max_depth": 1}, "ball": ball})
    light = synthetic.render_rgba(scene, pose, side, 256, 0)[..., 0]
    rows, columns = np.indices(light.shape)
    seen = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    x, y, z = (np.linalg.inv(pose) @ [*point, 1])[:3]
    np.testing.assert_allclose(seen, [focal * x / z + cx, focal * y / z + cy], atol=0.05)


def test_poses_cover_the_northern_hemisphere() -> None:
    settings = SyntheticSettings()
    for split in synthetic.SPLITS:
        poses = split_poses(split, settings)
        rotations = poses[:, :3, :3]
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1) - np.eye(3), 0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(poses), 1)
        np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), synthetic.CAMERA_DISTANCE)
        assert (poses[:, 2, 1] < 0).all()  # upright: y points down
        assert np.abs(poses[:, 2, 0]).max() < 1e-12
        elevation = np.degrees(np.arcsin(poses[:, 2, 3] / synthetic.CAMERA_DISTANCE))
        assert 3 <= elevation.min() < 12
        assert 55 < elevation.max() <= 85
    train, validation = split_poses("train", settings), split_poses("validation", settings)
    assert len(np.unique(np.concatenate([train, validation]).round(9), axis=0)) == 110
    directions = train[:, :3, 3] / synthetic.CAMERA_DISTANCE
    nearest = np.sort(directions @ directions.T, axis=1)[:, -2]
    assert np.degrees(np.arccos(nearest)).min() > 4
    test_elevation = split_poses("test", settings)[:, 2, 3]
    assert (np.diff(test_elevation) < 0).all()


def test_same_seed_gives_the_same_images(rendered: Path, tmp_path: Path) -> None:
    render_synthetic("vase", tmp_path, SyntheticSettings(**vars(SMALL) | {"workers": 2}))
    for split in synthetic.SPLITS:
        for path in (rendered / split / "vase").rglob("*.*"):
            assert path.read_bytes() == (tmp_path / path.relative_to(rendered)).read_bytes()


def test_finished_dataset_is_left_alone(rendered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(rendered)
    render_synthetic("vase", rendered, SyntheticSettings(**vars(SMALL) | {"workers": 2}))
    assert "nothing to do" in capsys.readouterr().out
    assert files(rendered) == before


def test_other_settings_are_refused(rendered: Path) -> None:
    before = files(rendered)
    with pytest.raises(UserError, match=r"seed = 3 \(now 4\); choose another output_dir or delete"):
        render_synthetic("vase", rendered, SyntheticSettings(**vars(SMALL) | {"seed": 4}))
    assert files(rendered) == before


def test_foreign_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "vase" / "rgb").mkdir(parents=True)
    with pytest.raises(UserError, match="not rendered by this program; choose another output_dir"):
        render_synthetic("vase", tmp_path, SMALL)
    assert files(tmp_path).keys() == {"train", "train/vase", "train/vase/rgb"}


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_run_continues(tmp_path: Path, stop: signal.Signals) -> None:
    settings = SyntheticSettings(
        image_side=32, train_views=36, validation_views=1, test_views=3, samples_per_pixel=64, workers=1
    )
    program = (
        "from pathlib import Path; from dv.data.synthetic import *\n"
        f"if __name__ == '__main__': render_synthetic('vase', Path({str(tmp_path)!r}), {settings})"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(synthetic.__file__).parents[2])}
    running = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )  # fmt: skip
    partial = tmp_path / ".vase.partial"
    deadline = time.monotonic() + 30
    while not list(partial.glob("*/rgb/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    if stop == signal.SIGINT:
        os.killpg(running.pid, stop)  # as a terminal does: the workers get it too
    else:
        running.kill()
    _, errors = running.communicate(timeout=10)  # the workers hold the pipe: they end as well
    assert running.returncode != 0
    assert errors.count("Traceback") == (1 if stop == signal.SIGINT else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vase.partial", "script.py"]
    before = {path.relative_to(partial): path.stat().st_mtime_ns for path in partial.glob("*/rgb/*.png")}
    assert 0 < len(before) < 40
    with pytest.raises(UserError, match=r"image_side = 32 \(now 16\)"):
        render_synthetic("vase", tmp_path, SyntheticSettings(**vars(settings) | {"image_side": 16}))
    render_synthetic("vase", tmp_path, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "test", "train", "validation"]
    after = {
        Path(split) / "rgb" / path.name: path.stat().st_mtime_ns
        for split in synthetic.SPLITS
        for path in (tmp_path / split / "vase" / "rgb").iterdir()
    }
    assert len(after) == 40
    assert {path: after[path] for path in before} == before


def test_continues_between_the_finished_folders(rendered: Path, tmp_path: Path) -> None:
    """Stopped after test had its final name."""
    import shutil

    shutil.copytree(rendered / "test", tmp_path / "test")
    for split in ("train", "validation"):
        shutil.copytree(rendered / split / "vase", tmp_path / ".vase.partial" / split)
    render_synthetic("vase", tmp_path, SMALL)
    assert files(tmp_path).keys() == files(rendered).keys()


def test_unknown_object(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown synthetic object 'teapot'; known: vase"):
        render_synthetic("teapot", tmp_path, SMALL)


def test_missing_mitsuba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(UserError, match=r"pip install 'dv\[synthetic\]'"):
        render_synthetic("vase", tmp_path, SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_side", 7), ("train_views", 0), ("test_views", 0), ("samples_per_pixel", 0), ("seed", -1), ("workers", -1)],
)
def test_settings_out_of_range(key: str, value: int) -> None:
    with pytest.raises(UserError, match=f"source.{key} must be at least"):
        SyntheticSettings(**{key: value})
