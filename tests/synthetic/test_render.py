import functools
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
from omegaconf import OmegaConf

import dv
from dv.errors import UserError
from dv.synthetic import render
from dv.synthetic.mitsuba_scene import FOCAL_PER_SIDE, load_scene, render_depth, render_rgba, square_film
from dv.synthetic.render import SyntheticSettings, render_synthetic, settings_from, split_poses
from dv.synthetic.shapes import MeshShape, linear_to_srgb, tube_mesh

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


@pytest.fixture(scope="module", params=[name for name in render.SCENES if name not in render.IN_SURROUNDINGS])
def shapes(request: pytest.FixtureRequest) -> list[MeshShape]:
    return object_shapes(request.param)


@functools.cache
def object_shapes(name: str) -> list[MeshShape]:
    return render.SCENES[name]()


def render_images(
    shapes: list[MeshShape], variant: str, poses: np.ndarray, side: int = 32, samples: int = 4
) -> np.ndarray:
    """Render sRGB images ``[views, side, side, 3]`` over white in this process."""
    scene = load_scene(shapes, variant)
    return np.stack([encoded(render_rgba(scene, pose, square_film(side), samples, 0)) for pose in poses])


def encoded(rgba: np.ndarray) -> np.ndarray:
    return linear_to_srgb((rgba[..., :3] + 1 - rgba[..., 3:]).clip(0, 1).astype(np.float64))


def read_images(folder: Path) -> np.ndarray:
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
        assert read_images(folder).shape == (count, 32, 32, 3)
        for name, pose in zip(names, split_poses(split, SMALL), strict=True):
            text = (folder / "pose" / f"{name}.txt").read_text()
            assert text.count("\n") == 1
            np.testing.assert_allclose(np.array(text.split(), dtype=float).reshape(4, 4), pose, atol=1e-10)
        lines = [
            [float(number) for number in line.split()] for line in (folder / "intrinsics.txt").read_text().splitlines()
        ]
        near = render.CAMERA_DISTANCE - np.sqrt(3) / 2
        assert near > 0
        assert lines == [[*SMALL.intrinsics, 0], [0, 0, 0], [near], [1], [32, 32]]
        record = json.loads((folder / "dataset.json").read_text())
        assert (record["source"], record["object"], record["pixel_center"]) == ("synthetic", "vase", 0.5)
        assert record["versions"] == {"dv": dv.__version__, "mitsuba": mi.__version__}
        assert record["settings"] == {
            "image_side": 32, "train_views": 24, "validation_views": 2, "test_views": 6, "samples_per_pixel": 8,
            "seed": 3, "variant": "diffuse", "shape": "vase",
        }  # fmt: skip


@pytest.mark.usefixtures("mitsuba")
def test_mean_image_is_a_poor_prediction(shapes: list[MeshShape]) -> None:
    settings = SyntheticSettings(train_views=40, test_views=10)
    train, test = (render_images(shapes, "diffuse", split_poses(split, settings)) for split in ("train", "test"))
    errors = ((test - train.mean(0)) ** 2).mean((1, 2, 3))
    assert (-10 * np.log10(errors)).mean() <= 17
    assert (test.min(3) < 0.98).mean() >= 0.18  # share of the pixels that the object covers


@pytest.mark.usefixtures("mitsuba")
def test_specular_variant_shows_the_same_object(shapes: list[MeshShape]) -> None:
    poses = split_poses("test", SyntheticSettings(test_views=3))
    diffuse, specular = (render_images(shapes, variant, poses) for variant in render.VARIANTS)
    assert np.abs(diffuse - specular).mean() > 0.01
    assert np.corrcoef(diffuse.ravel(), specular.ravel())[0, 1] > 0.9


@pytest.fixture(scope="module")
def ball() -> MeshShape:
    """A grey ball of radius 0.4."""
    rise, turn = np.linspace(-np.pi / 2 + 0.01, np.pi / 2 - 0.01, 90)[:, None], np.linspace(0, 2 * np.pi, 181)[None]
    grid = np.stack([np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise) + 0 * turn], axis=2)
    return tube_mesh(0.4 * grid, np.full((1, 1, 3), 90, np.uint8))


@pytest.mark.usefixtures("mitsuba")
def test_highlights_move_with_the_camera(ball: MeshShape) -> None:
    """Points of a ball have the same colours in two views, unless the ball is glossy."""
    side = 48
    focal, centre, _ = SyntheticSettings(image_side=side).intrinsics
    first_pose, second_pose = (
        render.look_at_centre(2 * np.array([np.cos(a), np.sin(a), 1]) / np.sqrt(2)) for a in (0.3, 0.9)
    )
    changes = {}
    for variant in render.VARIANTS:
        scene = load_scene([ball], variant)
        depth = render_depth(scene, first_pose, square_film(side))
        row, column = np.nonzero(depth < 1.8)  # away from the silhouette
        z = depth[row, column]
        in_camera = np.stack([(column + 0.5 - centre) * z / focal, (row + 0.5 - centre) * z / focal, z])
        points = first_pose[:3, :3] @ in_camera + first_pose[:3, 3:]
        np.testing.assert_allclose(np.linalg.norm(points, axis=0), 0.4, atol=2e-3)
        x, y, z = second_pose[:3, :3].T @ (points - second_pose[:3, 3:])
        visible = z < 1.8
        to_row, to_column = ((focal * axis / z + centre)[visible].astype(int) for axis in (y, x))
        one, other = render_images([ball], variant, np.stack([first_pose, second_pose]), side, 64)
        changed = np.abs(one[row[visible], column[visible]] - other[to_row, to_column])
        changes[variant] = np.quantile(changed, 0.95)
        assert visible.sum() > 100
    assert changes["diffuse"] < 0.03
    assert changes["specular"] > 0.2


@pytest.mark.usefixtures("mitsuba")
def test_depth_is_along_the_cameras_axis(ball: MeshShape) -> None:
    pose = split_poses("test", SyntheticSettings())[5]
    depth = render_depth(load_scene([ball]), pose, square_film(33))
    assert depth.dtype == np.float32
    assert depth[16, 16] == pytest.approx(1.6, abs=1e-3)
    # On a ray at slope s the ball's front is at z = (2 - sqrt(0.4² (1 + s²) - 2² s²)) / (1 + s²).
    s = 5 / (FOCAL_PER_SIDE * 33)
    assert depth[16, 21] == pytest.approx((2 - np.sqrt(0.16 * (1 + s * s) - 4 * s * s)) / (1 + s * s), abs=1e-3)
    assert np.isinf(depth[0]).all()


def test_whole_object_is_in_every_view(shapes: list[MeshShape]) -> None:
    vertices = np.concatenate([shape.vertices[::5] for shape in shapes])
    settings = SyntheticSettings(train_views=300)
    focal, cx, cy = settings.intrinsics
    for pose in np.concatenate([split_poses(split, settings) for split in render.SPLITS]):
        x, y, z = ((vertices - pose[:3, 3]) @ pose[:3, :3]).T
        assert z.min() > render.NEAR_PLANE
        at = np.stack([focal * x / z + cx, focal * y / z + cy])
        assert at.min() >= 1
        assert at.max() <= settings.image_side - 1


def test_meshes_lie_in_the_grid_closed_and_face_outwards(shapes: list[MeshShape]) -> None:
    for shape in shapes:
        assert np.abs(shape.vertices).max() <= 0.47
        np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=1), 1, atol=1e-9)
        corners = shape.vertices[shape.faces]
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        wrong = (face_normals * shape.normals[shape.faces].mean(1)).sum(1) <= 0
        areas = np.linalg.norm(face_normals, axis=1)
        assert areas[wrong].sum() <= 1e-3 * areas.sum()  # except for some faces in the sharpest corners
        assert (corners[:, 0] * face_normals).sum() > 0  # 6 times the volume
        # Closed: every edge between two positions is traversed equally often in both directions.
        _, place = np.unique((shape.vertices + 0.123456789).round(7), axis=0, return_inverse=True)
        edges = place.ravel()[shape.faces][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        low, high = np.sort(edges, axis=1).T
        _, edge = np.unique(low.astype(np.int64) * (place.max() + 1) + high, return_inverse=True)
        assert (np.bincount(edge.ravel(), np.sign(edges[:, 1] - edges[:, 0])) == 0).all()


def test_thin_parts_of_the_chair() -> None:
    """Spindles and slats are thinner than a thirtieth of the grid's side."""
    sizes = [np.sort(np.ptp(shape.vertices, axis=0)) for shape in object_shapes("chair")]
    assert sum(size[1] < 1 / 30 and size[2] > 0.1 for size in sizes) >= 16


def test_glaze_differs_at_every_azimuth() -> None:
    glaze = render.vase_shapes()[0].texture[::8, ::8] / 255
    for turn in range(4, glaze.shape[1] - 4):
        assert np.abs(glaze - np.roll(glaze, turn, axis=1)).mean() > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_poses_and_intrinsics_agree_with_mitsuba(mitsuba: Any, seed: int) -> None:
    """A small emitting ball appears where its centre projects to."""
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
    light = render_rgba(scene, pose, square_film(side), 256, 0)[..., 0]
    rows, columns = np.indices(light.shape)
    seen = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum() + 0.5
    x, y, z = (np.linalg.inv(pose) @ [*point, 1])[:3]
    np.testing.assert_allclose(seen, [focal * x / z + cx, focal * y / z + cy], atol=0.05)


def test_poses_cover_the_northern_hemisphere() -> None:
    settings = SyntheticSettings()
    for split in render.SPLITS:
        poses = split_poses(split, settings)
        rotations = poses[:, :3, :3]
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1) - np.eye(3), 0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(poses), 1)
        np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), render.CAMERA_DISTANCE)
        assert (poses[:, 2, 1] < 0).all()  # upright: y points down
        assert np.abs(poses[:, 2, 0]).max() < 1e-12
        elevation = np.degrees(np.arcsin(poses[:, 2, 3] / render.CAMERA_DISTANCE))
        assert 3 <= elevation.min() < 12
        assert 55 < elevation.max() <= 85
    train, validation = split_poses("train", settings), split_poses("validation", settings)
    assert len(np.unique(np.concatenate([train, validation]).round(9), axis=0)) == 110
    directions = train[:, :3, 3] / render.CAMERA_DISTANCE
    nearest = np.sort(directions @ directions.T, axis=1)[:, -2]
    assert np.degrees(np.arccos(nearest)).min() > 4
    test_elevation = split_poses("test", settings)[:, 2, 3]
    assert (np.diff(test_elevation) < 0).all()


def test_same_seed_gives_the_same_images(rendered: Path, tmp_path: Path) -> None:
    render_synthetic("vase", tmp_path, SyntheticSettings(**vars(SMALL) | {"workers": 2}))
    for split in render.SPLITS:
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


@pytest.mark.parametrize("stop", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_interrupted_run_continues(tmp_path: Path, stop: signal.Signals) -> None:
    settings = SyntheticSettings(
        image_side=32, train_views=36, validation_views=1, test_views=3, samples_per_pixel=64, workers=1
    )
    program = (
        "from pathlib import Path; from dv.synthetic.render import *\n"
        f"if __name__ == '__main__': render_synthetic('vase', Path({str(tmp_path)!r}), {settings})"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(render.__file__).parents[2])}
    running = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore SIGINT
    )  # fmt: skip
    partial = tmp_path / ".vase.partial"
    deadline = time.monotonic() + 300
    while not list(partial.glob("*/rgb/[0-9]*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    if stop == signal.SIGINT:
        os.killpg(running.pid, stop)  # like a terminal, which signals the workers too
    else:
        running.kill()
    _, errors = running.communicate(timeout=10)  # returns only after the workers, which share the pipe
    assert running.returncode != 0
    assert errors.count("Traceback") == (1 if stop == signal.SIGINT else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vase.partial", "script.py"]
    before = {path.relative_to(partial): path.stat().st_mtime_ns for path in partial.glob("*/rgb/[0-9]*.png")}
    assert 0 < len(before) < 40
    with pytest.raises(UserError, match=r"image_side = 32 \(now 16\)"):
        render_synthetic("vase", tmp_path, SyntheticSettings(**vars(settings) | {"image_side": 16}))
    render_synthetic("vase", tmp_path, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "test", "train", "validation"]
    after = {
        Path(split) / "rgb" / path.name: path.stat().st_mtime_ns
        for split in render.SPLITS
        for path in (tmp_path / split / "vase" / "rgb").iterdir()
    }
    assert len(after) == 40
    assert {path: after[path] for path in before} == before


def test_continues_after_some_splits_are_in_place(rendered: Path, tmp_path: Path) -> None:
    """The interrupted run had moved only the test split to its final place."""
    import shutil

    shutil.copytree(rendered / "test", tmp_path / "test")
    for split in ("train", "validation"):
        shutil.copytree(rendered / split / "vase", tmp_path / ".vase.partial" / split)
    render_synthetic("vase", tmp_path, SMALL)
    assert files(tmp_path).keys() == files(rendered).keys()


def test_unknown_object(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown synthetic object 'teapot'; known: vase, cube, pedestal, chair"):
        render_synthetic("teapot", tmp_path, SMALL)
    with pytest.raises(UserError, match="'lamp'"):
        render_synthetic("vase", tmp_path, SyntheticSettings(**vars(SMALL) | {"shape": "lamp"}))


@pytest.mark.parametrize(("name", "shape", "rendered"), [("greek", None, "pedestal"), ("mine", "cube", "cube")])
def test_names_of_folders_and_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: str | None, rendered: str
) -> None:
    def triangle() -> list[MeshShape]:
        vertices, normals = 0.4 * np.eye(3), np.full((3, 3), 3**-0.5)
        faces, texture = np.array([[0, 1, 2]], dtype=np.uint32), np.zeros((1, 1, 3), dtype=np.uint8)
        return [MeshShape(vertices, normals, np.zeros((3, 2)), faces, texture)]

    monkeypatch.setitem(render.SCENES, rendered, triangle)
    settings = SyntheticSettings(16, 1, 1, 1, 1, variant="specular", shape=shape, workers=1)
    render_synthetic(name, tmp_path, settings)
    record = json.loads((tmp_path / "train" / name / "dataset.json").read_text())
    assert (record["object"], record["settings"]["shape"], record["settings"]["variant"]) == (
        name,
        rendered,
        "specular",
    )
    with pytest.raises(UserError, match=r"variant = specular \(now diffuse\)"):
        render_synthetic(name, tmp_path, SyntheticSettings(**vars(settings) | {"variant": "diffuse"}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (128, 100, 10, 40, 64)),
        ({"preset": "small"}, (128, 100, 10, 40, 64)),
        ({"preset": "demo"}, (64, 100, 10, 40, 64)),
        ({"image_side": 64}, (64, 100, 10, 40, 64)),
        ({"preset": "paper"}, (512, 479, 100, 1000, 256)),
        ({"preset": "paper", "image_side": 128, "samples_per_pixel": 32}, (128, 479, 100, 1000, 32)),
    ],
)
def test_presets(given: dict[str, Any], expected: tuple[int, ...]) -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "source" / "synthetic.yaml")
    settings = settings_from(OmegaConf.merge(config, given))
    assert (
        settings.image_side, settings.train_views, settings.validation_views, settings.test_views,
        settings.samples_per_pixel,
    ) == expected  # fmt: skip
    assert (settings.variant, settings.shape, settings.seed) == ("diffuse", None, 0)


def test_missing_mitsuba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(UserError, match=r"pip install 'dv\[synthetic\]'"):
        render_synthetic("vase", tmp_path, SMALL)
    assert not list(tmp_path.iterdir())


def test_import_needs_no_renderer() -> None:
    imports = "import sys, dv.synthetic.render, dv.synthetic.mesh"
    program = f"{imports}; print({{'torch', 'mitsuba', 'trimesh'}} & sys.modules.keys())"
    environment = os.environ | {"PYTHONPATH": str(Path(render.__file__).parents[2])}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True) == "set()\n"
