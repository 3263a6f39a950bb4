"""Importing transforms.json of NeRF, nerfstudio and instant-ngp: valid files and every fault."""

import json
import math
from dataclasses import asdict, replace

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_views
from dv.data.calibration import read_calibration
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.importers.transforms import read_transforms
from dv.prepare.lens import Lens
from dv.prepare.rigid import flip_axes
from dv.prepare.writing import WriteSettings, write_object

FRAMES = 6


@pytest.fixture(scope="session")
def views(tmp_path_factory):
    """Photographs of the ball, 40 × 32 px, with the lens with which conftest rendered them."""
    root = tmp_path_factory.mktemp("views")
    write_views(root / "train" / "ball", FRAMES, 32, size=(32, 40))
    return read_folder(root, "ball").splits["train"]


@pytest.fixture
def scene(tmp_path, views):
    """A folder in the style of instant-ngp, and the contents of its transforms.json."""
    (tmp_path / "images").mkdir()
    for view in views:
        (tmp_path / "images" / view.path.name).write_bytes(view.path.read_bytes())
    lens = views[0].lens
    meta = {
        "fl_x": lens.fx,
        "fl_y": lens.fy,
        "cx": lens.cx,
        "cy": lens.cy,
        "w": lens.width,
        "h": lens.height,
        "frames": [
            {"file_path": f"images/{view.path.name}", "transform_matrix": flip_axes(view.pose).tolist()}
            for view in views
        ],
    }
    write_json(tmp_path, meta)
    return tmp_path, meta


def write_json(folder, meta, name="transforms.json"):
    (folder / name).write_text(json.dumps(meta))


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        read_transforms(path)
    message = str(error.value)
    assert "\n" not in message
    return message


def assert_same_photographs(found, expected):
    assert [p.name for p in found] == [p.name for p in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.pose, other.pose, rtol=0, atol=1e-9)
        one_lens, other_lens = asdict(one.lens), asdict(other.lens)
        assert one_lens.pop("distortion") == other_lens.pop("distortion")
        assert one_lens == pytest.approx(other_lens, abs=1e-9)
        np.testing.assert_array_equal(iio.imread(one.path), iio.imread(other.path))


def test_cameras_are_read_back(scene, views):
    found = read_transforms(scene[0])
    assert_same_photographs(found.splits["train"], views)
    assert found.placement is None
    assert not found.left_out
    assert_same_photographs(read_transforms(scene[0] / "transforms.json").splits["train"], views)


def test_splits_and_angle_of_the_blender_style(scene, views):
    folder, meta = scene
    (folder / "transforms.json").unlink()
    angle = 2 * math.atan(meta["w"] / 2 / meta["fl_x"])
    for word, part in (("train", slice(0, 3)), ("val", slice(3, 4)), ("test", slice(4, 6))):
        frames = [f | {"file_path": "./" + f["file_path"].removesuffix(".png")} for f in meta["frames"][part]]
        write_json(folder, {"camera_angle_x": angle, "frames": frames}, f"transforms_{word}.json")
    found = read_transforms(folder)
    assert_same_photographs(found.splits["train"], views[:3])
    assert_same_photographs(found.splits["validation"], views[3:4])
    assert_same_photographs(found.splits["test"], views[4:])


def test_lists_of_nerfstudio(scene, views):
    folder, meta = scene
    names = [frame["file_path"] for frame in meta["frames"]]
    lists = {"train_filenames": names[:3], "val_filenames": ["./" + names[3]], "test_filenames": names[3:5]}
    write_json(folder, meta | lists | {"applied_transform": [[1, 0, 0, 0]]})
    found = read_transforms(folder)
    assert {split: len(photographs) for split, photographs in found.splits.items()} == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }
    assert len(found.left_out) == 1
    assert found.provenance["applied_transform"] == [[1, 0, 0, 0]]
    write_json(folder, meta | {"train_filenames": ["nowhere.png"]})
    assert "nowhere.png: is in train_filenames, but is not the file_path of any frame" in refused(folder)


def test_absolute_paths_and_three_rows(scene, views):
    folder, meta = scene
    for frame in meta["frames"]:
        frame["file_path"] = str(folder / frame["file_path"])
        frame["transform_matrix"] = frame["transform_matrix"][:3]
    (folder / "elsewhere").mkdir()
    write_json(folder / "elsewhere", meta)
    assert_same_photographs(read_transforms(folder / "elsewhere").splits["train"], views)


def test_frames_override_the_camera_of_the_file(scene):
    folder, meta = scene
    meta["frames"][1] |= {"fl_x": 50, "fl_y": 51, "cx": 19, "cy": 17}
    meta["frames"][2] |= {"k1": 0.1, "p2": 0.01}
    meta["frames"][3] |= {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.01}
    meta["frames"][4] |= {"w": 80, "h": 64}
    write_json(folder, meta)
    lenses = [p.lens for p in read_transforms(folder).splits["train"]]
    default = lenses[0]
    assert lenses[1] == Lens(40, 32, 50, 51, 19, 17)
    assert lenses[2] == replace(default, distortion=(0.1, 0.0, 0.0, 0.01, 0.0))
    assert lenses[3] == replace(default, distortion=(0.1, 0.0, 0.0, 0.01), fisheye=True)
    assert lenses[4] == replace(default, fx=default.fx / 2, fy=default.fy / 2, cx=default.cx / 2, cy=default.cy / 2)


def test_rounded_rotations_are_orthonormalised(scene, views):
    folder, meta = scene
    for frame in meta["frames"]:
        frame["transform_matrix"] = np.round(frame["transform_matrix"], 4).tolist()
    write_json(folder, meta)
    for found, view in zip(read_transforms(folder).splits["train"], views, strict=True):
        np.testing.assert_allclose(found.pose[:3, :3] @ found.pose[:3, :3].T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(found.pose, view.pose, atol=2e-4)


def test_the_grid_of_dv_exports_is_read(scene):
    folder, meta = scene
    write_json(folder, meta | {"dv_grid": {"origin": [1, 2, 3], "scale": 2.5, "near": 0.5}})
    placement = read_transforms(folder).placement
    assert (placement.origin, placement.scale, placement.near) == ((1.0, 2.0, 3.0), 2.5, 0.5)
    for grid in ({"origin": [1, 2], "scale": 1, "near": 1}, {"origin": [1, 2, 3]}, 5, {"scale": -1}):
        write_json(folder, meta | {"dv_grid": grid})
        assert "dv_grid must be" in refused(folder)


def test_missing_images_are_left_out_unless_most_are_missing(scene):
    folder, meta = scene
    for i in (1, 4):
        (folder / meta["frames"][i]["file_path"]).unlink()
    found = read_transforms(folder)
    assert len(found.splits["train"]) == 4
    assert [line.split("/")[-1] for line in found.left_out] == ["000001.png: no such file", "000004.png: no such file"]
    for i in (0, 2):
        (folder / meta["frames"][i]["file_path"]).unlink()
    message = refused(folder)
    assert f"4 of 6 images are missing, such as {folder}/images/000000.png" in message


def test_masks_must_exist_only_if_required(scene):
    folder, meta = scene
    meta["frames"][0]["mask_path"] = "masks/a.png"
    write_json(folder, meta)
    found = read_transforms(folder)
    assert found.splits["train"][0].mask == folder / "masks" / "a.png"
    with pytest.raises(UserError, match=r"source\.mask=files, but 6 of 6 .* have no mask"):
        write_object(found, folder / "out", "ball", WriteSettings(mask="files"), {})
    write_object(found, folder / "out", "plain", WriteSettings(), {})
    (folder / "masks").mkdir()
    for i, frame in enumerate(meta["frames"]):
        frame["mask_path"] = f"masks/{i}.png"
        iio.imwrite(folder / "masks" / f"{i}.png", np.zeros((32, 40), np.uint8))
    write_json(folder, meta)
    masked = read_transforms(folder)
    write_object(masked, folder / "out", "ball", WriteSettings(mask="files", background="black"), {})
    assert not iio.imread(folder / "out/train/ball/rgb/000000.png").any()


@pytest.mark.parametrize(("background", "expected"), [("white", 255), ("black", 0), ([0.0, 1.0, 0.0], [0, 255, 0])])
def test_alpha_is_composited_over_the_chosen_background(scene, background, expected):
    folder, meta = scene
    for frame in meta["frames"]:
        rgb = iio.imread(folder / frame["file_path"])
        alpha = np.full((32, 40, 1), 255, np.uint8)
        alpha[:5] = 0
        iio.imwrite(folder / frame["file_path"], np.concatenate([rgb, alpha], 2))
    write_object(read_transforms(folder), folder / "out", "ball", WriteSettings(background=background), {})
    written = iio.imread(folder / "out/train/ball/rgb/000000.png")
    assert (written[:5] == expected).all()
    np.testing.assert_array_equal(written[5:], iio.imread(folder / "images/000000.png")[5:, :, :3])


@pytest.mark.parametrize("fisheye", [False, True])
def test_distortion_is_removed(tmp_path, views, fisheye):
    """Dots drawn where a distorted lens sees world points end up where the pinhole camera sees them."""
    size, f = 480, 500.0
    distortion = (-0.2, 0.05, 0.01, -0.02) if fisheye else (-0.2, 0.05, 2e-3, -3e-3)
    lens = Lens(size, size, f, f + 7, 243.0, 236.5, distortion, fisheye)
    points = np.stack(np.meshgrid([-0.2, 0, 0.2], [-0.2, 0, 0.2], [0.0]), -1).reshape(-1, 3)
    frames = []
    for i, view in enumerate(views):
        seen = (points - view.pose[:3, 3]) @ view.pose[:3, :3]
        frames.append({"file_path": f"{i}.png", "transform_matrix": flip_axes(view.pose).tolist()})
        iio.imwrite(tmp_path / f"{i}.png", dots(distorted(seen, lens), size))
    k = dict(zip(("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2"), lens.distortion, strict=True))
    camera = {"fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy, "is_fisheye": fisheye, **k}
    write_json(tmp_path, camera | {"frames": frames})
    write_object(read_transforms(tmp_path), tmp_path / "out", "dots", WriteSettings(), {})
    source = ObjectSource(tmp_path / "out", "dots")
    k = read_calibration(source.folder("train") / "intrinsics.txt").intrinsics
    for name, view in zip(("0", "1"), views, strict=False):
        seen = (points - view.pose[:3, 3]) @ view.pose[:3, :3]
        expected = np.array([k.fx, k.fy]) * seen[:, :2] / seen[:, 2:] + [k.cx - k.pixel_center, k.cy - k.pixel_center]
        image = 255.0 - iio.imread(source.folder("train") / "rgb" / f"{name}.png").mean(2)
        found = np.array([centroid(image, at) for at in expected])
        assert np.abs(found - expected).max() < 0.3
        assert np.abs(distorted(seen, lens) - expected).max() > 3  # without undistortion the test would fail


def distorted(points, lens):
    zero, distortion = np.zeros(3), np.array(lens.distortion)
    points = points.reshape(-1, 1, 3)
    if lens.fisheye:
        return cv2.fisheye.projectPoints(points, zero, zero, lens.matrix(), distortion)[0].reshape(-1, 2)
    return cv2.projectPoints(points, zero, zero, lens.matrix(), distortion)[0].reshape(-1, 2)


def dots(at, size):
    v, u = np.mgrid[:size, :size]
    dark = np.exp(-((u - at[:, 0, None, None]) ** 2 + (v - at[:, 1, None, None]) ** 2) / 8).sum(0).clip(0, 1)
    return np.repeat((255 * (1 - dark))[..., None], 3, 2).round().astype(np.uint8)


def centroid(image, at, reach=7):
    left, top = np.round(at).astype(int) - reach
    patch = image[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    v, u = np.mgrid[: len(patch), : len(patch)]
    return np.array([(u * patch).sum(), (v * patch).sum()]) / patch.sum() + [left, top]


def damage_frame(**changes):
    def damage(folder, meta):
        meta["frames"][2] |= changes
        write_json(folder, meta)

    return damage


def damage_file(**changes):
    return lambda folder, meta: write_json(folder, meta | changes)


def scaled(factor):
    def damage(folder, meta):
        matrix = np.array(meta["frames"][2]["transform_matrix"])
        matrix[:3, :3] *= factor
        damage_frame(transform_matrix=matrix.tolist())(folder, meta)

    return damage


def sheared(folder, meta):
    matrix = np.array(meta["frames"][2]["transform_matrix"])
    matrix[:3, 1] += 0.1 * matrix[:3, 0]
    damage_frame(transform_matrix=matrix.tolist())(folder, meta)


def without(*keys):
    return lambda folder, meta: write_json(folder, {key: value for key, value in meta.items() if key not in keys})


FAULTS = {
    "not JSON": (lambda f, _: (f / "transforms.json").write_text('{"frames": ['), "transforms.json: not JSON"),
    "a list": (lambda f, _: write_json(f, [1]), 'must be a JSON object with a non-empty list "frames"'),
    "no frames": (without("frames"), 'must be a JSON object with a non-empty list "frames"'),
    "empty frames": (damage_file(frames=[]), "a non-empty list"),
    "no file": (
        lambda f, _: (f / "transforms.json").unlink(),
        "contains neither transforms_train.json nor transforms.json",
    ),
    "no focal length": (without("fl_x", "fl_y"), "neither fl_x nor camera_angle_x"),
    "wide angle": (
        lambda f, m: (m.pop("fl_x"), write_json(f, m | {"camera_angle_x": 4})),
        "camera_angle_x=4 must be an angle",
    ),
    "negative focal length": (damage_file(fl_x=-5), "must be positive"),
    "word for a number": (damage_file(cx="middle"), "cx must be a number, not 'middle'"),
    "not a number": (damage_file(k1=math.nan), "k1 must be a number, not nan"),
    "panorama": (damage_file(camera_model="EQUIRECTANGULAR"), "camera_model EQUIRECTANGULAR is not supported"),
    "list for a model": (damage_file(camera_model=["OPENCV"]), "is not supported"),
    "k4 without fisheye": (damage_file(k4=0.1), "k4 is given"),
    "fisheye with p1": (damage_file(p1=0.1, is_fisheye=True), "p1 and p2 are given"),
    "other aspect": (damage_file(w=100, h=30), "the image is 40×32 px, its camera 100×30"),
    "no pose": (lambda f, m: (m["frames"][2].pop("transform_matrix"), write_json(f, m)), "has no transform_matrix"),
    "words in pose": (damage_frame(transform_matrix=[["a"] * 4] * 4), "four rows of four numbers"),
    "flat pose": (damage_frame(transform_matrix=[1] * 12), "is 12, not 4×4"),
    "pose not finite": (damage_frame(transform_matrix=[[math.nan] * 4] * 4), "a value that is not finite"),
    "sheared rotation": (sheared, "is not a rigid transform"),
    "mirror": (scaled([-1, 1, 1]), "is a reflection"),
    "no path": (
        lambda f, m: (m["frames"][2].pop("file_path"), write_json(f, m)),
        "frame 2: must be an object",
    ),
    "path twice": (damage_frame(file_path="./images/000000.png"), "./images/000000.png: occurs twice as file_path"),
    "mask of a number": (damage_frame(mask_path=5), "mask_path must be a string, not 5"),
    "broken image": (lambda f, _: (f / "images/000002.png").write_text("hello"), "000002.png: cannot be read as an"),
    "list of numbers": (damage_file(train_filenames=[1]), "train_filenames: must be a list of strings"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(scene, fault):
    damage, expected = FAULTS[fault]
    damage(*scene)
    message = refused(scene[0])
    assert expected in message
    assert str(scene[0]) in message


def test_faults_of_one_kind_are_grouped(scene):
    folder, meta = scene
    for frame in meta["frames"]:
        del frame["transform_matrix"]
    meta["frames"][0]["file_path"] = 3
    write_json(folder, meta)
    message = refused(folder)
    assert "2 problems" in message
    assert "images/000001.png, images/000002.png, images/000003.png and 2 more: has no transform_matrix" in message


@pytest.mark.parametrize("factor", [0.2517, [0.5, 0.6, 2.0]])
def test_scaled_rotations_are_divided_and_told(scene, views, factor):
    """Scaled camera objects of modelling programs, by one factor or by one along each of their axes."""
    folder, meta = scene
    for frame in meta["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [*np.broadcast_to(factor, 3), 1]).tolist()
    write_json(folder, meta)
    found = read_transforms(folder)
    assert_same_photographs(found.splits["train"], views)
    by = "0.2517" if isinstance(factor, float) else "0.5 to 2"
    (note,) = found.notes
    assert f"the rotations of 6 poses are scaled by {by}, which is divided out" in note


def test_a_multiple_of_a_pose_in_homogeneous_coordinates_is_the_pose(scene, views):
    folder, meta = scene
    for frame in meta["frames"]:
        frame["transform_matrix"] = (4 * np.array(frame["transform_matrix"])).tolist()
    write_json(folder, meta)
    assert_same_photographs(read_transforms(folder).splits["train"], views)


def test_no_such_folder(tmp_path):
    assert "no such file or folder" in refused(tmp_path / "nowhere")
    assert "no such file or folder" in refused(tmp_path / "nowhere.json")


def test_the_lens_of_a_resized_image_with_rounded_sides():
    """An eighth of 4946 × 3286 px, as in published data sets."""
    lens = Lens(4946, 3286, 4000, 4000, 2473, 1643).at_size(618, 411 - 1)
    assert lens.fx == pytest.approx(4000 * 618 / 4946)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_opengl_and_opencv_axes_are_the_same_camera(numbers):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.array(numbers[:3]))[0], numbers[3:]
    other = flip_axes(pose)
    np.testing.assert_array_equal(flip_axes(other), pose)
    assert np.linalg.det(other[:3, :3]) == pytest.approx(1)
    in_opencv = np.array([0.3, -0.2, 2.0])  # right of, above and in front of the camera
    in_opengl = np.array([0.3, 0.2, -2.0])
    np.testing.assert_allclose(pose[:3, :3] @ in_opencv, other[:3, :3] @ in_opengl, atol=1e-12)
    np.testing.assert_array_equal(pose[:3, 3], other[:3, 3])
