"""Each fault, made in a copy of a good object, is found; the good object has no findings."""

import shutil
import time

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from conftest import TINY, write_views
from dv.data.object import ObjectSource
from dv.data.points import write_points
from dv.errors import UserError
from dv.prepare.camera_checks import check_cameras
from dv.prepare.check import check_object


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good")
    for split, count, seed in (("train", 24, 0), ("validation", 3, 1), ("test", 4, 2)):
        write_views(root / split / "ball", count, 32, seed=seed)
    return root


@pytest.fixture
def copy(good, tmp_path):
    shutil.copytree(good, tmp_path / "copy")
    return tmp_path / "copy"


def findings(root, tmp_path):
    return [f.message for f in check_object(ObjectSource(root, "ball"), tmp_path / "report")]


def change_pose(folder, name, change):
    path = folder / "pose" / f"{name:06d}.txt"
    path.write_text(" ".join(map(str, np.asarray(change(np.loadtxt(path).reshape(4, 4))).reshape(-1))))


def change_poses(folder, change):
    for path in (folder / "pose").glob("*.txt"):
        change_pose(folder, int(path.stem), change)


def change_image(folder, name, change):
    path = folder / "rgb" / f"{name:06d}.png"
    iio.imwrite(path, change(iio.imread(path)))


def calibrate(root, **lines):
    number = {"camera": 0, "origin": 1, "near": 2, "scale": 3}
    for split in ("train", "validation", "test"):
        path = root / split / "ball" / "intrinsics.txt"
        text = path.read_text().split("\n")
        for key, value in lines.items():
            text[number[key]] = value
        path.write_text("\n".join(text))


def test_a_good_object_has_no_findings(good, tmp_path, capsys):
    assert findings(good, tmp_path) == []
    out = capsys.readouterr().out
    assert "24 train, 3 validation, 4 test views of 32×32 px" in out
    assert "nothing suspicious" in out
    assert iio.imread(tmp_path / "report" / "contact_sheet.png").shape[1] == 8 * 164
    assert iio.imread(tmp_path / "report" / "scene.png").ndim == 3


def train_folder(root):
    return root / "train" / "ball"


def dark_corner(image):
    """Return an image that shows nothing but a small dark square near a corner."""
    image = np.full_like(image, 255)
    image[4:9, 4:9] = 20
    return image


def blur(image):
    import cv2

    return cv2.GaussianBlur(image, (0, 0), 5)


FAULTS = {
    "the same pose": (
        lambda r: shutil.copy(train_folder(r) / "pose/000002.txt", train_folder(r) / "pose/000007.txt"),
        "the same pose twice: train/000002 and train/000007",
    ),
    "the same image": (
        lambda r: shutil.copy(train_folder(r) / "rgb/000002.png", r / "test/ball/rgb/000001.png"),
        "the same image twice: train/000002 and test/000001",
    ),
    "few views": (
        lambda r: [p.unlink() for p in train_folder(r).glob("*/0000[12]?.*")],
        "10 training views are few",
    ),
    "turned away": (
        lambda r: change_pose(train_folder(r), 4, lambda m: m @ turn_y(17)),
        "the border of the image cuts off part of the grid in 1 views, at most",
    ),
    "too near": (lambda r: calibrate(r, near="1.5"), "the near plane (1.5) cuts off part of the grid in 31 views"),
    "too deep": (
        lambda r: calibrate(r, near="0.05", scale="0.8"),
        "the far end of the frustum (near + 2·scale = 1.65) cuts off part of the grid",
    ),
    "origin": (lambda r: calibrate(r, origin="0.3 0.3 0.3"), "lies outside the grid"),
    "origin far off": (lambda r: calibrate(r, origin="0 0 0.62"), "the views converge at"),
    "small grid": (lambda r: calibrate(r, scale="0.1", near="1.4"), "the grid's side 0.1 does not fit"),
    "points elsewhere": (
        lambda r: write_points(train_folder(r), np.full((50, 3), 3.0)),
        "0 of 50 points of points.npy lie in the grid",
    ),
    "misses the object": (lambda r: calibrate(r, scale="0.5", near="1.2"), "it would fit into a side of"),
    "in the grid": (
        lambda r: change_pose(train_folder(r), 3, lambda m: closer(m, 0.2)),
        "train/000003: cameras inside the grid",
    ),
    "brighter": (
        lambda r: change_image(train_folder(r), 5, lambda x: (x / 3).astype(np.uint8)),
        "000005: much brighter or darker than the neighbouring views",
    ),
    "blurred": (
        lambda r: change_image(train_folder(r), 5, blur),
        "000005: blurred compared with the neighbouring views",
    ),
    "blank": (lambda r: change_image(train_folder(r), 5, lambda x: x * 0 + 200), "000005: of one colour"),
    "other images": (
        lambda r: [change_image(train_folder(r), i, dark_corner) for i in range(1, 24, 2)],
        "do not fit the images",
    ),
    "principal point": (lambda r: calibrate(r, camera="44.8 5 15.5 0"), "the principal point (5.0, 15.5) is far"),
    "field of view": (lambda r: calibrate(r, camera="3000 15.5 15.5 0"), "a field of view of 0.6° is unusual"),
    "far tests": (
        lambda r: change_poses(r / "test/ball", lambda m: np.diag([1, -1, -1, 1]) @ m),  # from below
        "test views look from more than 45° away from any training view, such as 00000",
    ),
}


def turn_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])


def closer(matrix, distance):
    matrix[:3, 3] *= distance / np.linalg.norm(matrix[:3, 3])
    return matrix


def test_views_of_surroundings_and_far_cameras_of_whole_images_are_no_findings(tmp_path):
    for split, count, seed in (("train", 24, 0), ("validation", 3, 1), ("test", 4, 2)):
        write_views(tmp_path / split / "ball", count, 32, seed=seed, size=(32, 40))
    change_pose(train_folder(tmp_path), 3, lambda m: m @ turn_y(100))
    calibrate(tmp_path, near="0.05", scale="0.8")
    splits = {split: ObjectSource(tmp_path, "ball").views(split) for split in ("train", "validation")}
    found = check_cameras(splits, ObjectSource(tmp_path, "ball").calibration())
    assert not [message for message in found if "cuts off" in message], found


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(copy, tmp_path, fault):
    damage, expected = FAULTS[fault]
    damage(copy)
    messages = findings(copy, tmp_path)
    assert any(expected in message for message in messages), messages


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda m: m @ np.diag([1, -1, -1, 1]), "in OpenGL axes"),
        (np.linalg.inv, "world-to-camera (write 1"),
        (lambda m: np.linalg.inv(m @ np.diag([1, -1, -1, 1])), "world-to-camera in OpenGL axes"),
    ],
)
def test_other_axes_are_recognised(copy, tmp_path, capsys, change, kind):
    change_poses(train_folder(copy), change)
    with pytest.raises(UserError, match="1 faults that training refuses"):
        findings(copy, tmp_path)
    assert f"24 poses hardly see the grid; they would if they were {kind}" in capsys.readouterr().out


def test_all_faults_of_all_splits_are_listed_together(copy, tmp_path, capsys):
    (train_folder(copy) / "pose/000003.txt").write_text("1 2 3")
    (copy / "test/ball/rgb/000001.png").write_text("hello")
    with pytest.raises(UserError, match="2 faults that training refuses"):
        findings(copy, tmp_path)
    out = capsys.readouterr().out
    assert "train/ball/pose/000003.txt: a pose has 16 numbers" in out
    assert "test/ball/rgb/000001.png: cannot be read" in out


def test_command(command, copy, tmp_path):
    arguments = ["source=check", "object=custom", f"object.root={copy}", "object.name=ball"]
    result = command("prepare", *arguments, f"output_dir={tmp_path / 'report'}")
    assert result.code == 0, result.err
    assert "nothing suspicious" in result.out
    (train_folder(copy) / "pose/000003.txt").write_text("1 2 3")
    result = command("prepare", *arguments, f"output_dir={tmp_path / 'report'}")
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("error: ball in")


def test_training_warns_about_findings_of_the_fast_checks(command, copy, caplog):
    shutil.copy(train_folder(copy) / "pose/000002.txt", train_folder(copy) / "pose/000007.txt")
    arguments = ["object=custom", f"object.root={copy}", "object.name=ball", *TINY, "loss=l1", "trainer.max_steps=1"]
    result = command("train", *arguments)
    assert result.code == 0, result.err
    assert "the same pose twice: train/000002 and train/000007" in caplog.text + result.out + result.err


def test_the_fast_checks_are_fast(good):
    """A generous limit: training must not wait for the checks."""
    source = ObjectSource(good, "ball")
    views = {split: source.views(split) for split in ("train", "validation")}
    many = views["train"].select([i % 24 for i in range(500)])
    many.poses[:, :3, 3] += 0.01 * torch.rand(500, 3)
    start = time.process_time()
    check_cameras({"train": many, "validation": views["validation"]}, source.calibration())
    assert time.process_time() - start < 10
