"""Images of several sizes with cameras of their own: reading, memory, faults."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from conftest import write_views
from dv.data import reading as reading_module
from dv.data.calibration import read_calibration
from dv.data.folder import read_poses, read_views
from dv.data.object import ObjectSource
from dv.data.reading import ImageReading
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from several_cameras import TALL, WIDE, camera_of, write_two_cameras


@pytest.fixture
def two_cameras(tmp_path):
    return write_two_cameras(tmp_path)


def test_images_keep_their_shape_and_camera(two_cameras):
    folder = two_cameras / "train" / "ball"
    views = read_views(folder, ImageReading(), "white")
    expected = [camera_of(WIDE), camera_of(TALL, narrowed=True)]
    for i, name in enumerate(views.names):
        np.testing.assert_array_equal(
            views.image(i).permute(1, 2, 0).numpy(), iio.imread(folder / "rgb" / f"{name}.png")
        )
        assert views.cameras[i] == Intrinsics(**expected[i % 2], pixel_center=0.0)
    with pytest.raises(UserError, match="images of one size are needed, and these have 40×24, 20×36 px"):
        _ = views.images


def test_stems_of_which_one_begins_with_another_keep_image_pose_and_camera(two_cameras):
    """As file names they are sorted otherwise: "-" and " " come before ".", and "0" after it."""
    folder = two_cameras / "train" / "ball"
    source = ObjectSource(two_cameras, "ball")
    before = source.views("train")
    renamed = dict(
        zip(before.names, ["IMG_1", "IMG_1-2", "IMG_1 (3)", "IMG_10", "IMG", "IMG+", "a", "IMG_1,b"], strict=True)
    )
    for path in (*folder.glob("rgb/*"), *folder.glob("pose/*")):
        path.rename(path.with_stem(renamed[path.stem]))
    content = json.loads((folder / "cameras.json").read_text())
    content["views"] = {renamed[stem]: index for stem, index in content["views"].items()}
    (folder / "cameras.json").write_text(json.dumps(content))
    after = ObjectSource(two_cameras, "ball").views("train")
    assert sorted(after.names) == sorted(renamed.values())
    for i, old in enumerate(before.names):
        j = after.names.index(renamed[old])
        assert (after.image(j) == before.image(i)).all()
        assert (after.poses[j] == before.poses[i]).all()
        assert after.cameras[j] == before.cameras[i]
    names, poses = read_poses(folder, ObjectSource(two_cameras, "ball").calibration())
    assert names == after.names
    assert (poses == after.poses).all()


def test_the_longest_side_reduces_each_image(two_cameras):
    source = ObjectSource(two_cameras, "ball", longest_side=18)
    views = source.views("train")
    assert [(k.height, k.width) for k in views.cameras[:2]] == [(11, 18), (18, 10)]
    wide = views.cameras[0]
    assert (wide.fx, wide.fy) == pytest.approx((1.4 * 24 * 18 / 40, 1.4 * 24 * 11 / 24))
    assert views.image(1).shape == (3, 18, 10)


def test_all_images_are_reduced_by_one_factor_beyond_the_limit(two_cameras, monkeypatch, caplog):
    monkeypatch.setattr(reading_module, "MAX_PIXELS", 8 * 840 // 4)
    source = ObjectSource(two_cameras, "ball")
    with caplog.at_level("INFO"):
        sizes = {(k.height, k.width) for split in ("train", "test") for k in source.views(split).cameras}
    assert sizes == {(12, 20), (18, 10)}
    assert caplog.text.count("all images are reduced by 0.500") == 1


def test_selected_and_compacted_views_equal_copies(two_cameras):
    views = read_views(two_cameras / "train" / "ball", ImageReading(), "white")
    images = [views.image(i) for i in range(len(views))]
    kept = [1, 2, 5, 6, 7]
    selected = views.select(kept)
    compacted = views.compact(kept)
    assert compacted.pixels.data_ptr() == views.pixels.data_ptr()
    for found in (selected, compacted):
        assert found.names == [views.names[i] for i in kept]
        assert found.cameras == [views.cameras[i] for i in kept]
        for i, to in enumerate(kept):
            assert torch.equal(found.image(i), images[to])


def test_square_models_refuse_several_cameras_and_accept_one(two_cameras, tmp_path):
    calibration = read_calibration(two_cameras / "train" / "ball" / "intrinsics.txt")
    with pytest.raises(UserError, match=r"squares of one camera.*source\.crop=square"):
        calibration.central_square()
    write_views(tmp_path / "wide", 2, 0, size=WIDE)
    square = read_calibration(tmp_path / "wide" / "intrinsics.txt").central_square().intrinsics
    assert (square.width, square.height) == (24, 24)


def change(folder, edit):
    path = folder / "cameras.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


FAULTS = {
    "no object": (lambda f: (f / "cameras.json").write_text("[]"), 'must be a JSON object with a list "cameras"'),
    "truncated": (lambda f: (f / "cameras.json").write_text("{"), "cameras.json: not JSON"),
    "missing view": (
        lambda f: change(f, lambda c: c["views"].pop("000002")),
        'rgb/000002.png: cameras.json: "views" has',
    ),
    "index": (
        lambda f: change(f, lambda c: c["views"].update({"000002": 2})),
        "maps 000002 to 2, which is not the index",
    ),
    "no number": (
        lambda f: change(f, lambda c: c["cameras"][1].update(fx="a")),
        "fx of camera 1 must be a finite number",
    ),
    "not finite": (
        lambda f: change(f, lambda c: c["cameras"][0].update(cx=float("nan"))),
        "cx of camera 0 must be a finite number, not nan",
    ),
    "negative": (lambda f: change(f, lambda c: c["cameras"][0].update(fy=-1)), "fy of camera 0 must be positive"),
    "another size": (
        lambda f: change(f, lambda c: c["cameras"][0].update(width=80)),
        "images of 40×24 px do not have the aspect ratio of the 80×24 px in cameras.json, such as 000000.png",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_cameras(two_cameras, fault):
    folder = two_cameras / "train" / "ball"
    damage, expected = FAULTS[fault]
    damage(folder)
    with pytest.raises(UserError) as error:
        read_views(folder, ImageReading(), "white")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
