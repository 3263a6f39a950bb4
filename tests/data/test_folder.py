"""Reading the DeepVoxels folder format: valid folders and every fault."""

import math
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from conftest import write_object, write_views
from dv.data.calibration import read_calibration
from dv.data.folder import read_poses, read_views
from dv.data.object import ObjectSource
from dv.data.poses import read_pose
from dv.data.reading import ImageReading
from dv.errors import UserError


@pytest.fixture
def views_folder(tmp_path):
    folder = tmp_path / "train" / "ball"
    write_views(folder, 4, 32)
    return folder


def read(folder, side=32, background="white"):
    return read_views(folder, ImageReading(side), background)


def refused(folder, **kwargs) -> str:
    """Return the one-line message with which a folder is refused."""
    with pytest.raises(UserError) as error:
        read(folder, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_views_come_in_order_of_stem(views_folder):
    views = read(views_folder)
    assert views.names == [f"{i:06d}" for i in range(4)]
    assert views.images.dtype == torch.uint8
    assert views.images.shape == (4, 3, 32, 32)
    assert views.poses.shape == (4, 4, 4)


def test_both_pose_layouts(views_folder):
    path = views_folder / "pose" / "000001.txt"
    pose = read_pose(path)
    path.write_text("\n".join(" ".join(f"{x:.17g}" for x in row) for row in pose.tolist()))
    torch.testing.assert_close(read_pose(path), pose, rtol=0, atol=0)


def test_near_plane_zero_is_half_the_square_root_of_three(views_folder):
    path = views_folder / "intrinsics.txt"
    lines = path.read_text().split("\n")
    lines[2:4] = ["0.", "5.0"]
    path.write_text("\n".join(lines))
    assert read_calibration(path).placement.near == math.sqrt(3) / 2  # at any scale


def test_world_to_camera_flag(views_folder):
    camera_to_world = read(views_folder).poses
    for path in (views_folder / "pose").glob("*.txt"):
        inverse = np.linalg.inv(np.loadtxt(path).reshape(4, 4))
        path.write_text(" ".join(f"{x:.17g}" for x in inverse.reshape(-1)))
    with (views_folder / "intrinsics.txt").open("a") as file:
        file.write("1\n")
    torch.testing.assert_close(read(views_folder).poses, camera_to_world, rtol=0, atol=1e-6)


def test_square_crop_moves_the_principal_point(tmp_path):
    write_views(tmp_path / "wide", 2, 32, size=(32, 48))
    square = read_calibration(tmp_path / "wide" / "intrinsics.txt").central_square().intrinsics
    assert (square.cx, square.cy) == (15.5, 15.5)
    assert read(tmp_path / "wide").images.shape == (2, 3, 32, 32)
    wide = iio.imread(tmp_path / "wide" / "rgb" / "000000.png")
    torch.testing.assert_close(read(tmp_path / "wide").images[0], torch.from_numpy(wide[:, 8:40]).permute(2, 0, 1))


def test_intrinsics_scale_with_the_image(views_folder):
    k = read_calibration(views_folder / "intrinsics.txt").intrinsics
    assert k.at_side(16).fx == k.at_side(16).fy == k.fx / 2
    assert k.at_side(16).cx == k.cx / 2


@pytest.mark.parametrize(("background", "expected"), [("white", 255), ("black", 0), ([0.5, 0.5, 0.5], 128)])
def test_alpha_is_composited(views_folder, background, expected):
    path = views_folder / "rgb" / "000000.png"
    rgba = np.zeros((32, 32, 4), np.uint8)
    iio.imwrite(path, rgba)
    assert (read(views_folder, background=background).images[0] == expected).all()


def test_poses_alone_can_be_read(views_folder):
    shutil.rmtree(views_folder / "rgb")
    names, poses = read_poses(views_folder, read_calibration(views_folder / "intrinsics.txt"))
    assert len(names) == len(poses) == 4


def write_pose(folder, values, name="000002"):
    (folder / "pose" / f"{name}.txt").write_text(" ".join(map(str, values)))


def pose_values(folder, name="000002"):
    return np.loadtxt(folder / "pose" / f"{name}.txt").reshape(4, 4)


FAULTS = {
    "image without pose": (lambda f: (f / "pose/000002.txt").unlink(), "000002.png: no pose"),
    "pose without image": (lambda f: (f / "rgb/000002.png").unlink(), "000002.txt: no image"),
    "no images": (lambda f: [p.unlink() for p in (f / "rgb").glob("*")], "rgb: contains no images"),
    "no poses": (lambda f: [p.unlink() for p in (f / "pose").glob("*")], "pose: contains no poses"),
    "short pose": (lambda f: write_pose(f, range(12)), "000002.txt: a pose has 16 numbers"),
    "words in pose": (lambda f: write_pose(f, ["one"] * 16), "000002.txt: contains something that is not a number"),
    "not finite": (lambda f: write_pose(f, [math.nan] * 16), "000002.txt: has a value that is not finite"),
    "scaled rotation": (lambda f: write_pose(f, (pose_values(f) * 2).reshape(-1)), "not a rigid transform"),
    "mirrored": (
        lambda f: write_pose(f, (pose_values(f) @ np.diag([-1, 1, 1, 1])).reshape(-1)),
        "000002.txt: is not a rigid transform: its 3×3 part is a reflection",
    ),
    "truncated image": (
        lambda f: (f / "rgb/000002.png").write_bytes((f / "rgb/000002.png").read_bytes()[:60]),
        "000002.png: cannot be read as an image",
    ),
    "not an image": (lambda f: (f / "rgb/000002.png").write_text("hello"), "000002.png: cannot be read as an image"),
    "another size": (
        lambda f: iio.imwrite(f / "rgb/000002.png", np.zeros((40, 40, 3), np.uint8)),
        "images of different sizes: 3 of 32×32 px (such as 000000.png), 1 of 40×40 px (such as 000002.png)",
    ),
}


def look_away(folder, *names):
    for name in names:
        write_pose(folder, (pose_values(folder, name) @ np.diag([1, -1, -1, 1])).reshape(-1), name)


def test_cameras_that_do_not_see_the_grid(views_folder, caplog):
    """In images as they are a minority may only show surroundings; the squares of the paper's model need all."""
    look_away(views_folder, "000002")
    assert "000002.txt: this camera does not see the grid" in refused(views_folder)
    assert len(read(views_folder, side=None)) == 4
    assert "1 of 4 views only show surroundings of the grid, such as 000002" in caplog.text
    look_away(views_folder, "000001")
    message = refused(views_folder, side=None)
    assert "2 problems" in message
    assert "000001.txt: this camera does not see the grid" in message


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_folder(views_folder, fault):
    damage, expected = FAULTS[fault]
    damage(views_folder)
    assert expected in refused(views_folder)


def test_two_images_of_one_view_are_refused(views_folder):
    shutil.copy(views_folder / "rgb/000001.png", views_folder / "rgb/000001.jpg")
    assert "000001.jpg and 000001.png are images of one view; remove one" in refused(views_folder)


def test_all_faults_are_listed_at_once(views_folder):
    FAULTS["truncated image"][0](views_folder)
    (views_folder / "pose" / "000001.txt").unlink()
    message = refused(views_folder)
    assert "2 problems" in message
    assert "000001.png: no pose" in message
    assert "000002.png: cannot be read" in message


def test_faults_of_intrinsics_and_images_are_listed_together(views_folder):
    FAULTS["truncated image"][0](views_folder)
    (views_folder / "intrinsics.txt").write_text("1 2 3\n")
    message = refused(views_folder)
    assert "line 2 must hold grid origin" in message
    assert "000002.png: cannot be read" in message


def test_faults_of_train_and_validation_are_listed_together(tmp_path):
    root = write_object(tmp_path)
    (root / "train/ball/pose/000003.txt").unlink()
    (root / "validation/ball/rgb/000001.png").write_text("hello")
    with pytest.raises(UserError) as error:
        ObjectSource(root, "ball").views("train")
    assert "train/ball/rgb/000003.png: no pose" in str(error.value)
    assert "validation/ball/rgb/000001.png: cannot be read" in str(error.value)


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        (0, "many words here", "line 1 must hold f cx cy"),
        (1, "0 0", "line 2 must hold grid origin"),
        (3, "0", "scale must be positive"),
        (2, "-1", "near plane must not be negative"),
        (2, "nan", "line 3 must hold near plane"),
        (4, "", "line 5 must hold height width (2 numbers), but is: missing"),
    ],
)
def test_malformed_intrinsics(views_folder, line, text, expected):
    path = views_folder / "intrinsics.txt"
    lines = path.read_text().split("\n")
    lines[line] = text
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="intrinsics.txt") as error:
        read_calibration(path)
    assert expected in str(error.value)


def test_images_smaller_than_required(views_folder):
    assert "use data.image_side=32" in refused(views_folder, side=64)


def test_automatic_side(views_folder):
    assert read(views_folder, side="auto").images.shape[-1] == 32


def test_missing_object_names_the_command_that_makes_it(tmp_path):
    source = ObjectSource(tmp_path, "vase", "make it with: python prepare.py source=synthetic object=vase")
    with pytest.raises(UserError, match=r"train/vase; make it with: python prepare\.py source=synthetic object=vase"):
        source.views("train")


def test_missing_splits_hold_out_every_tenth_view(tmp_path, caplog):
    root = write_object(tmp_path, train=20)
    shutil.rmtree(root / "validation")
    shutil.rmtree(root / "test")
    source = ObjectSource(root, "ball", image_side=32)
    names = {split: source.views(split).names for split in ("train", "validation", "test")}
    assert len(names["validation"]) == len(names["test"]) == 2
    assert len(names["train"]) == 16
    assert len(set(names["train"] + names["validation"] + names["test"])) == 20
    assert "held out 2 training views" in caplog.text


def test_calibration_of_a_split_without_a_folder_is_that_of_train(tmp_path):
    root = write_object(tmp_path)
    shutil.rmtree(root / "validation")
    shutil.rmtree(root / "test")
    write_views(root / "validation" / "ball", 2, 64)
    source = ObjectSource(root, "ball")
    assert source.calibration_of("validation") == source.calibration("validation") != source.calibration()
    assert source.calibration_of("test") == source.calibration()


def test_skip_keeps_every_third_view(ball):
    source = ObjectSource(ball, "ball", image_side=32, skip=2)
    assert source.views("train").names == ["000000", "000003", "000006"]


def test_an_object_needs_little_more_memory_than_its_images(tmp_path):
    write_views(tmp_path / "train" / "ball", 40, 32)
    source = ObjectSource(tmp_path, "ball", image_side=32)
    splits = [source.views(split).images for split in ("train", "validation", "test")]
    assert [len(images) for images in splits] == [32, 4, 4]
    held = {images.untyped_storage().data_ptr(): images.untyped_storage().nbytes() for images in splits}
    assert sum(held.values()) <= 1.2 * sum(images.nbytes for images in splits)
