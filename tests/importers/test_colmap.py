"""Importing COLMAP models, which pycolmap writes here."""

import shutil
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import exact_rotation, pinhole_numbers, write_views
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.importers.colmap import lens_of, photographs_of, read_colmap
from dv.importers.folder import read_folder
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.writing import WriteSettings, write_object

pycolmap = pytest.importorskip("pycolmap")


def model_of(views, params, name="PINHOLE", tracks=((3, 120), (2, 30)), size=(40, 32)):
    """Return a reconstruction of views; ``tracks`` are (number of images that see a point, number of such points)."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=name, width=size[0], height=size[1], params=params, camera_id=1)
    model.add_camera_with_trivial_rig(camera)
    rng = np.random.default_rng(0)
    total = sum(count for _, count in tracks)
    for i, view in enumerate(views, 1):
        image = pycolmap.Image(name=view.path.name, keypoints=rng.random((total, 2)) * 30, camera_id=1, image_id=i)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.linalg.inv(view.pose)[:3]))
    point = 0
    for length, count in tracks:
        for _ in range(count):
            elements = [pycolmap.TrackElement(i, point) for i in range(1, length + 1)]
            model.add_point3D(rng.normal(size=3) * 0.2, pycolmap.Track(elements))
            point += 1
    return model


def params_of(lens):
    return [lens.fx, lens.fy, lens.cx, lens.cy]


@pytest.fixture
def scene(tmp_path):
    """A project folder with images and the model in sparse/0, its photographs, and the model."""
    write_views(tmp_path / "train" / "ball", 12, 32, size=(32, 40))
    views = [exact_rotation(view) for view in read_folder(tmp_path, "ball").splits["train"]]
    folder = tmp_path / "project"
    (folder / "sparse" / "0").mkdir(parents=True)
    shutil.copytree(tmp_path / "train" / "ball" / "rgb", folder / "images")
    model = model_of(views, params_of(views[0].lens))
    model.write_binary(folder / "sparse" / "0")
    return folder, views, model


def refused(folder, **options) -> str:
    with pytest.raises(UserError) as error:
        read_colmap(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same_cameras(found, views):
    assert [p.name for p in found] == [view.name for view in views]
    for one, other in zip(found, views, strict=True):
        np.testing.assert_allclose(one.pose, other.pose, rtol=0, atol=1e-9)
        assert pinhole_numbers(one.lens) == pytest.approx(pinhole_numbers(other.lens), abs=1e-9)


@pytest.mark.parametrize("form", ["binary", "text"])
def test_cameras_are_read_back(scene, form):
    folder, views, model = scene
    if form == "text":
        for file in (folder / "sparse" / "0").iterdir():
            file.unlink()
        model.write_text(folder / "sparse" / "0")
    found = read_colmap(folder)
    assert_same_cameras(found.splits["train"], views)
    assert found.points.shape == (120, 3)
    assert found.provenance["models"] == {"sparse/0": 12}
    for start in (folder / "sparse", folder / "sparse" / "0"):
        assert_same_cameras(read_colmap(start).splits["train"], views)


def test_written_images_equal_the_originals(scene, tmp_path):
    folder, views, _ = scene
    write_object(read_colmap(folder), tmp_path / "out", "ball", WriteSettings(), {})
    written = ObjectSource(tmp_path / "out", "ball", image_side=32).views("train")
    by_name = {view.name: iio.imread(view.path)[:, 4:36] for view in views}
    for name, image in zip(written.names, written.images, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), by_name[name])


def test_points_of_two_images_are_used_only_if_points_are_few(scene):
    folder, views, _ = scene
    few = model_of(views, params_of(views[0].lens), tracks=((3, 20), (2, 30)))
    assert photographs_of(few, NamedImages(folder, ["images"]))[1].shape == (50, 3)
    none = model_of(views, params_of(views[0].lens), tracks=())
    assert photographs_of(none, NamedImages(folder, ["images"]))[1].shape == (0, 3)


def test_the_largest_model_is_taken(scene):
    folder, views, _ = scene
    (folder / "sparse" / "1").mkdir()
    model_of(views[:5], params_of(views[0].lens)).write_binary(folder / "sparse" / "1")
    found = read_colmap(folder)
    assert len(found.photographs) == 12
    assert found.provenance["model"] == str(folder / "sparse" / "0")
    assert found.provenance["models"] == {"sparse/0": 12, "sparse/1": 5}


def test_the_lens_is_scaled_to_smaller_images(scene):
    folder, views, _ = scene
    (folder / "images_2").mkdir()
    for view in views:
        iio.imwrite(folder / "images_2" / view.path.name, iio.imread(view.path)[::2, ::2])
    full_size = views[0].lens
    for images in (Path("images_2"), folder / "images_2"):
        lens = read_colmap(folder, images).photographs[0].lens
        assert pinhole_numbers(lens) == pytest.approx(pinhole_numbers(full_size.at_size(20, 16)), abs=1e-9)
    assert "no such folder" in refused(folder, images=folder / "images_4")


def test_missing_images_are_left_out_unless_most_are_missing(scene):
    folder, views, _ = scene
    (folder / "images" / views[1].path.name).unlink()
    found = read_colmap(folder)
    assert len(found.photographs) == 11
    assert found.left_out == [f"{folder}/images/000001.png: no such file"]
    for view in views[2:9]:
        (folder / "images" / view.path.name).unlink()
    assert "8 of 12 images are missing" in refused(folder)
    shutil.rmtree(folder / "images")
    assert "give source.images=FOLDER" in refused(folder)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_PINHOLE", [50, 20, 16]),
        ("PINHOLE", [50, 51, 20, 16]),
        ("SIMPLE_RADIAL", [50, 20, 16, -0.1]),
        ("RADIAL", [50, 20, 16, -0.1, 0.05]),
        ("OPENCV", [50, 51, 20, 16, -0.1, 0.05, 0.01, -0.02]),
        ("FULL_OPENCV", [50, 51, 20, 16, -0.1, 0.05, 0.01, -0.02, 0.01, 0.02, 0.03, 0.01]),
        ("OPENCV_FISHEYE", [50, 51, 20, 16, -0.1, 0.05, 0.01, -0.02]),
        ("SIMPLE_RADIAL_FISHEYE", [50, 20, 16, -0.1]),
        ("RADIAL_FISHEYE", [50, 20, 16, -0.1, 0.05]),
    ],
)
def test_lenses_unproject_as_colmap_does(model, params):
    camera = pycolmap.Camera(model=model, width=40, height=32, params=params)
    pixels = np.array([[20.0, 16.0], [3.0, 5.0], [38.5, 2.0], [30.0, 31.0]])
    expected = camera.cam_from_img(pixels)
    np.testing.assert_allclose(lens_of(camera).unproject(pixels - 0.5), expected, atol=1e-6)


def test_lens_without_distortion_is_ideal():
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=40, height=32, params=[50, 20, 16, 0])
    assert lens_of(camera) == Lens(40, 32, 50, 50, 20, 16)


def test_unknown_lens(scene):
    folder, views, _ = scene
    model_of(views, [50, 51, 20, 16, 0.1], "FOV").write_binary(folder / "sparse" / "0")
    message = refused(folder)
    assert "000000.png, 000001.png, 000002.png and 9 more: camera model FOV is not supported" in message
    assert "colmap image_undistorter" in message


def test_faults(scene, tmp_path, monkeypatch):
    folder, _, _ = scene
    assert "no such folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no COLMAP model" in refused(tmp_path / "empty")
    (folder / "images" / "000002.png").write_text("hello")
    assert "000002.png: cannot be read as an image" in refused(folder)
    pycolmap.Reconstruction().write_binary(folder / "sparse" / "0")
    assert "without registered images" in refused(folder)
    (folder / "sparse" / "0" / "cameras.bin").write_bytes(b"hello")
    assert "cannot be read as a COLMAP model" in refused(folder)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pip install 'dv[capture]'" in refused(folder)
