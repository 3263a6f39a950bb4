"""The still life: images, masks, depth and exposures against slow or independent ways to the same."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from dv.data.calibration import read_calibration
from dv.data.folder import read_views
from dv.data.reading import ImageReading
from dv.errors import UserError
from dv.synthetic import render, workers
from dv.synthetic.handheld import exposure_stops, split_path
from dv.synthetic.mitsuba_scene import load_scene, render_depth
from dv.synthetic.render import SyntheticSettings, render_synthetic, settings_from, split_poses
from dv.synthetic.shapes import MeshShape, box_mesh, srgb_to_linear
from dv.synthetic.still_life import still_life_shapes, thing_shapes
from dv.synthetic.truth import MAX_DEPTH, fast_depth, load_truth, object_coverage

mi = pytest.importorskip("mitsuba")
TINY = SyntheticSettings(
    image_side=16, image_height=24, train_views=3, validation_views=1, test_views=1, samples_per_pixel=4, workers=1,
    shape="still_life", exposure_jitter=0.15,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def shapes() -> Iterator[list[MeshShape]]:
    """The shapes, made once for all tests."""
    made = still_life_shapes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(render.SCENES, "still_life", lambda: made)
        yield made


@pytest.fixture(scope="module")
def truth(shapes: list[MeshShape]) -> Any:
    mi.set_variant("scalar_rgb")
    return load_truth(shapes)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory, shapes: list[MeshShape]) -> Path:
    root = tmp_path_factory.mktemp("still")
    render_synthetic("still_life", root, TINY)
    return root


def test_depth_is_that_of_single_rays(truth: Any) -> None:
    film = replace(TINY, image_side=12, image_height=18).film
    for pose in split_poses("train", TINY):
        depth = fast_depth(truth, pose, film)
        slow = np.empty_like(depth)
        for row, column in np.ndindex(slow.shape):
            x, y = (column + 0.5 - film.width / 2) / film.focal, (row + 0.5 - film.height / 2) / film.focal
            direction = pose[:3, :3] @ [x, y, 1.0]
            slow[row, column] = truth.ray_intersect(mi.Ray3f(pose[:3, 3].tolist(), direction.tolist())).t
        assert np.isfinite(slow).all()  # the room covers every pixel
        np.testing.assert_allclose(depth, slow, atol=1e-5)
        assert depth.max() < MAX_DEPTH


def test_depth_agrees_with_that_of_other_objects(shapes: list[MeshShape]) -> None:
    mi.set_variant("scalar_rgb")
    alone = [shape for shape in shapes if not shape.surroundings]
    pose, film = split_poses("test", TINY)[0], TINY.film
    depth = fast_depth(load_truth(alone), pose, film)
    np.testing.assert_allclose(depth, render_depth(load_scene(alone), pose, film), atol=1e-5)
    assert 0.02 < np.isfinite(depth).mean() < 0.5


def test_mask_is_the_share_of_rays_that_hit_the_thing(truth: Any, shapes: list[MeshShape]) -> None:
    """No surroundings hide the thing on this path, so that a ray hits it first if it hits it at all."""
    film, fine = TINY.film, 6
    alone = load_truth([shape for shape in shapes if not shape.surroundings])
    for pose in split_poses("train", TINY):
        large = film._replace(width=fine * film.width, height=fine * film.height, focal=fine * film.focal)
        hit = np.isfinite(fast_depth(alone, pose, large)).reshape(film.height, fine, film.width, fine).mean((1, 3))
        mask = object_coverage(truth, pose, film, 0)
        assert mask.max() == 1
        assert np.abs(mask - hit).max() < 0.15
        assert np.abs(mask - hit).mean() < 0.005


def test_what_hides_the_thing_is_not_in_its_mask(shapes: list[MeshShape]) -> None:
    mi.set_variant("scalar_rgb")
    pose, film = split_poses("train", TINY)[0], TINY.film
    ahead = pose[:3, 3] + 0.5 * pose[:3, 2]
    board = replace(box_mesh(ahead - 0.2, ahead + 0.2, np.zeros((1, 1, 3), np.uint8)), surroundings=True)
    assert object_coverage(load_truth([*shapes, board]), pose, film, 0).max() == 0


def test_every_view_of_the_path_shows_the_thing_and_the_room(truth: Any) -> None:
    settings = replace(settings_from(source_group(), "still_life"), shape="still_life")
    film = replace(settings, image_side=24).film
    azimuths = []
    for split, count in (("train", 60), ("validation", 6), ("test", 10)):
        poses = split_poses(split, settings)
        assert len(poses) == count
        np.testing.assert_allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1) - np.eye(3), 0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(poses), 1)
        for pose in poses:
            mask, depth = object_coverage(truth, pose, film, 0), fast_depth(truth, pose, film)
            assert mask.mean() > 0.025
            assert np.isfinite(depth).all()
            assert depth.min() > 0.4  # nothing touches the camera
        azimuths.append(np.unwrap(np.arctan2(poses[:, 1, 3], poses[:, 0, 3])))
    assert 200 < np.degrees(np.ptp(azimuths[0])) < 280
    assert np.degrees(np.ptp(azimuths[2])) > 150  # test views are spread over the path


def test_the_thing_lies_in_the_grid_and_the_table_below_it(shapes: list[MeshShape]) -> None:
    thing = np.concatenate([shape.vertices for shape in shapes if not shape.surroundings])
    assert np.abs(thing).max() < 0.5
    assert np.ptp(thing, axis=0).min() > 0.6
    room = np.concatenate([shape.vertices for shape in shapes if shape.surroundings])
    assert (np.abs(room).max(1) > 0.5).all()
    assert np.ptp(room, axis=0).min() > 5
    for shape in thing_shapes():
        corners = shape.vertices[shape.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (corners[:, 0] * normals).sum() > 0  # 6 times the volume: faces point outwards


def test_files(rendered: Path) -> None:
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        folder = rendered / split / "still_life"
        record = json.loads((folder / "dataset.json").read_text())
        assert record["surroundings"] is True
        assert record["up"] == [0, 0, 1]
        assert (record["settings"]["image_height"], record["settings"]["exposure_jitter"]) == (24, 0.15)
        names = [f"{view:06d}" for view in range(count)]
        for kind, dtype in (("rgb", np.uint8), ("mask", np.uint8), ("depth", np.uint16)):
            assert sorted(path.stem for path in (folder / kind).iterdir()) == names
            image = cv2.imread(str(folder / kind / "000000.png"), cv2.IMREAD_UNCHANGED)
            assert (image.shape[:2], image.dtype) == ((24, 16), dtype)
        assert list(json.loads((folder / "exposure.json").read_text())) == names


def test_depth_files_and_calibration_place_points_on_the_thing(rendered: Path, truth: Any) -> None:
    """What depth and intrinsics of the files say is in the cube where the mask is full."""
    folder = rendered / "train" / "still_life"
    (focal, cx, cy, _), *_, (height, width) = (
        [float(number) for number in line.split()] for line in (folder / "intrinsics.txt").read_text().splitlines()
    )
    assert (width, height, cx, cy) == (16, 24, 8, 12)
    unit = json.loads((folder / "depth.json").read_text())["world_units_per_count"]
    for view, pose in enumerate(split_poses("train", TINY)):
        depth = unit * cv2.imread(str(folder / f"depth/{view:06d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(depth, fast_depth(truth, pose, TINY.film), atol=unit)
        rows, columns = np.nonzero(cv2.imread(str(folder / f"mask/{view:06d}.png"), cv2.IMREAD_UNCHANGED) == 255)
        z = depth[rows, columns]
        points = np.stack([(columns + 0.5 - cx) * z / focal, (rows + 0.5 - cy) * z / focal, z], axis=1)
        assert len(points) > 3
        assert np.abs(points @ pose[:3, :3].T + pose[:3, 3]).max() < 0.5


def test_a_known_point_is_where_it_projects_to_in_a_portrait(truth: Any) -> None:
    """A small white box appears in the mask at the projection of its centre."""
    film = replace(TINY, image_side=40, image_height=60).film
    pose = split_poses("train", TINY)[1]
    point = np.array([0.1, -0.15, 0.25])
    box = load_truth([box_mesh(point - 0.03, point + 0.03, np.zeros((1, 1, 3), np.uint8))])
    mask = object_coverage(box, pose, film, 0)
    rows, columns = np.indices(mask.shape)
    x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
    seen = np.array([(mask * columns).sum(), (mask * rows).sum()]) / mask.sum() + 0.5
    np.testing.assert_allclose(seen, [film.focal * x / z + 20, film.focal * y / z + 30], atol=0.15)


def test_readers_ignore_truth(rendered: Path) -> None:
    folder = rendered / "train" / "still_life"
    calibration = read_calibration(folder / "intrinsics.txt")
    camera = calibration.intrinsics
    assert (camera.height, camera.width, calibration.placement.near) == (24, 16, 0.1)
    assert read_views(folder, ImageReading(), "white").names == ["000000", "000001", "000002"]


def test_exposure_multiplies_linear_light(rendered: Path, tmp_path: Path) -> None:
    render_synthetic("still_life", tmp_path, replace(TINY, exposure_jitter=0.0))
    assert not list(tmp_path.rglob("exposure.json"))
    compared = 0
    for path in rendered.rglob("rgb/*.png"):
        stops = json.loads((path.parents[1] / "exposure.json").read_text())[path.stem]
        assert 0 < abs(stops) <= 0.25
        exposed, plain = (
            cv2.imread(str(p)).astype(np.float64) / 255 for p in (path, tmp_path / path.relative_to(rendered))
        )
        kept = (exposed < 1) & (plain < 1)
        low, high = (srgb_to_linear(plain + d / 480) * 2.0**stops for d in (-1, 1))  # about half a grey level
        lower, upper = (srgb_to_linear(exposed + d / 480) for d in (-1, 1))
        assert ((upper >= low - 1e-6) & (lower <= high + 1e-6))[kept].all()
        compared += kept.sum()
    assert compared > 4000


def test_exposures_have_the_deviation_that_is_asked_for() -> None:
    stops = exposure_stops(2000, 0.3, [0])
    assert stops.std() == pytest.approx(0.28, abs=0.02)  # a little less than 0.3: cut off
    assert np.abs(stops).max() == pytest.approx(0.5)
    assert (exposure_stops(5, 0.0, [0]) == 0).all()


def test_an_interrupted_rendering_makes_what_is_missing(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / ".still_life.partial"
    for split in render.SPLITS:
        shutil.copytree(rendered / split / "still_life", partial / split)
    (partial / "train/rgb/000001.png").unlink()
    (partial / "train/mask/000001.png").unlink()
    asked = []
    original = workers.render_views
    monkeypatch.setattr(render, "render_views", lambda views, *rest: (asked.extend(views), original(views, *rest)))
    render_synthetic("still_life", tmp_path, TINY)
    assert [view.path.name for view in asked] == ["000001.png"]
    for path in (path for path in rendered.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(rendered)).read_bytes()


def test_other_exposures_or_heights_are_refused(rendered: Path) -> None:
    for other, message in (
        ({"exposure_jitter": 0.0}, r"exposure_jitter = 0\.15 \(now None\)"),
        ({"image_height": None}, r"image_height = 24 \(now None\)"),
    ):
        with pytest.raises(UserError, match=message):
            render_synthetic("still_life", rendered, replace(TINY, **other))


@pytest.mark.parametrize("counts", [(60, 6, 10), (1, 1, 1), (2, 5, 7), (479, 100, 1000)])
def test_splits_share_one_path(counts: tuple[int, int, int]) -> None:
    split = split_path(*counts)
    assert tuple(len(split[name]) for name in ("train", "validation", "test")) == counts
    assert sorted(np.concatenate(list(split.values()))) == list(range(sum(counts)))


def source_group(**given: Any) -> Any:
    return OmegaConf.merge(OmegaConf.load(Path(__file__).parents[2] / "conf/source/synthetic.yaml"), given)


def test_presets_know_the_still_life() -> None:
    still, vase = settings_from(source_group(), "still_life"), settings_from(source_group(), "vase")
    assert (still.train_views, still.validation_views, still.test_views, still.exposure_jitter) == (60, 6, 10, 0.15)
    assert (vase.train_views, vase.exposure_jitter, vase.image_height) == (100, 0, None)
    given = settings_from(source_group(exposure_jitter=0.0, train_views=3, image_height=384), "still_life")
    assert (given.train_views, given.test_views, given.exposure_jitter, given.image_height) == (3, 10, 0, 384)


def test_rectangles_of_other_objects_show_all_of_them() -> None:
    focal, cx, cy = SyntheticSettings(image_side=48, image_height=32).intrinsics
    assert (focal, cx, cy) == (render.FOCAL_PER_SIDE * 32, 24, 16)
