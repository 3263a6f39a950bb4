"""Importing the layout of NSVF's datasets."""

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import pinhole_numbers, write_object
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.importers.nsvf import read_nsvf
from dv.prepare.near_plane import near_plane
from dv.prepare.writing import WriteSettings
from dv.prepare.writing import write_object as write_prepared

PREFIXES = {"train": "0_", "validation": "1_", "test": "2_"}


@pytest.fixture
def scene(tmp_path):
    """The ball in NSVF's layout, and the photographs it was made from."""
    photographs = read_folder(write_object(tmp_path / "object"), "ball").splits
    folder = tmp_path / "nsvf"
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    for split, views in photographs.items():
        for view in views:
            stem = PREFIXES[split] + view.name
            (folder / "rgb" / f"{stem}.png").write_bytes(view.path.read_bytes())
            np.savetxt(folder / "pose" / f"{stem}.txt", view.pose, fmt="%.17g")
    lens = photographs["train"][0].lens
    np.savetxt(folder / "intrinsics.txt", [[lens.fx, 0, lens.cx, 0], [0, lens.fy, lens.cy, 0], *np.eye(4)[2:].tolist()])
    (folder / "bbox.txt").write_text("-0.5 -0.4 -0.3 0.3 0.4 0.5 0.1\n")
    return folder, photographs


def refused(folder) -> str:
    with pytest.raises(UserError) as error:
        read_nsvf(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("form", ["matrix", "3×3", "line"])
def test_cameras_are_read_back(scene, form):
    folder, photographs = scene
    lens = photographs["train"][0].lens
    if form == "3×3":
        np.savetxt(folder / "intrinsics.txt", [[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    if form == "line":  # of SRN and DeepVoxels, for images of twice the size
        text = f"{2 * lens.fx} {2 * lens.cx} {2 * lens.cy} 0.\n7 8 9\n0.\n1.\n{2 * lens.height} {2 * lens.width}\n"
        (folder / "intrinsics.txt").write_text(text)
    found = read_nsvf(folder)
    for split, views in photographs.items():
        assert [p.name for p in found.splits[split]] == [PREFIXES[split] + view.name for view in views]
        for one, other in zip(found.splits[split], views, strict=True):
            np.testing.assert_allclose(one.pose, other.pose, rtol=0, atol=1e-9)
            assert pinhole_numbers(one.lens) == pytest.approx(pinhole_numbers(other.lens), abs=1e-9)
    assert found.placement.origin == pytest.approx((-0.1, 0, 0.1))
    assert found.placement.scale == pytest.approx(0.8)
    assert found.placement.near == near_plane(found.poses, np.array(found.placement.origin), found.placement.scale)


def test_written_images_equal_the_originals(scene, tmp_path):
    folder, photographs = scene
    write_prepared(read_nsvf(folder), tmp_path / "out", "ball", WriteSettings(), {})
    source = ObjectSource(tmp_path / "out", "ball", image_side=32)
    for split, views in photographs.items():
        images = source.views(split).images.permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(images, [iio.imread(view.path) for view in views])


def test_without_a_bounding_box_there_is_no_placement(scene):
    (scene[0] / "bbox.txt").unlink()
    assert read_nsvf(scene[0]).placement is None


def test_images_without_a_split_prefix_are_training_views(scene):
    folder, _ = scene
    for path in [*folder.glob("rgb/*"), *folder.glob("pose/*")]:
        path.rename(path.with_name(path.name.replace("2_", "frame_")))
    assert {split: len(views) for split, views in read_nsvf(folder).splits.items()} == {"train": 11, "validation": 2}


def test_missing_images_are_left_out_unless_most_are_missing(scene):
    folder, _ = scene
    (folder / "rgb" / "0_000001.png").unlink()
    (folder / "pose" / "0_000002.txt").unlink()
    found = read_nsvf(folder)
    assert len(found.splits["train"]) == 6
    assert [line.split("/")[-1] for line in found.left_out] == ["0_000001.png: no such file", "0_000002.png: no pose"]
    for path in folder.glob("rgb/0_*"):
        path.unlink()
    assert "7 of 12 images are missing" in refused(folder)


FAULTS = {
    "no poses": (lambda f: [p.unlink() for p in f.glob("pose/*")], "contains no poses (*.txt)"),
    "no folder": (lambda f: (f / "rgb").rename(f / "images"), "contains no rgb"),
    "no intrinsics": (lambda f: (f / "intrinsics.txt").unlink(), "intrinsics.txt: cannot be read"),
    "words": (lambda f: (f / "intrinsics.txt").write_text("f cx cy"), "contains something that is not a number"),
    "one number": (lambda f: (f / "intrinsics.txt").write_text("5"), "must hold a 4×4 camera matrix, or begin with f"),
    "skew": (lambda f: (f / "intrinsics.txt").write_text("9 1 5\n0 9 5\n0 0 1"), "not a camera matrix"),
    "negative": (lambda f: (f / "intrinsics.txt").write_text("-9 5 5 0"), "f must be positive"),
    "other size": (lambda f: (f / "intrinsics.txt").write_text("90 400 400 0"), "is 32×32 px, but the principal point"),
    "short pose": (lambda f: (f / "pose/0_000001.txt").write_text("1 2 3"), "0_000001: a pose has 16 numbers"),
    "mirror": (lambda f: np.savetxt(f / "pose/0_000001.txt", np.diag([-1, 1, 1, 1])), "0_000001: is not a rigid"),
    "broken image": (lambda f: (f / "rgb/0_000001.png").write_text("hello"), "0_000001: cannot be read as an image"),
    "short box": (lambda f: (f / "bbox.txt").write_text("1 2 3"), "bbox.txt: must hold xmin ymin zmin"),
    "flat box": (lambda f: (f / "bbox.txt").write_text("0 0 0 1 0 1 0.1"), "must be less than xmax ymax zmax"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(scene, fault):
    damage, expected = FAULTS[fault]
    damage(scene[0])
    assert expected in refused(scene[0])
