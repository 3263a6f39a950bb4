"""Exporting objects as transforms.json."""

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import write_object, write_views
from dv.data.object import SPLITS, ObjectSource
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.importers.transforms import read_transforms
from dv.prepare.export import export_transforms
from dv.prepare.writing import WriteSettings
from dv.prepare.writing import write_object as write_prepared


def wide(root: Path) -> Path:
    for split, count in (("train", 8), ("validation", 2), ("test", 3)):
        write_views(root / split / "ball", count, 32, size=(32, 40))
    return root


def export(source: ObjectSource, output: Path) -> Path:
    return export_transforms(source, read_folder(source.root, source.name, source.pixel_center), output)


@pytest.mark.parametrize("form", ["one file", "one file per split"])
def test_round_trip(tmp_path, form):
    root = wide(tmp_path / "object")
    output = export(ObjectSource(root, "ball"), tmp_path / "new" / "export")
    assert not list(output.parent.glob(".*"))
    original, found = read_folder(root, "ball"), read_transforms(output)
    if form == "one file":
        found = read_transforms(output / "transforms.json")
    assert found.placement == original.placement
    for split in SPLITS:
        for one, other in zip(found.splits[split], original.splits[split], strict=True):
            assert one.name == other.name
            assert one.lens == other.lens
            np.testing.assert_allclose(one.pose, other.pose, rtol=0, atol=1e-9)
            np.testing.assert_array_equal(iio.imread(one.path), iio.imread(other.path))
    write_prepared(found, tmp_path / "back", "ball", WriteSettings(), {})
    before, after = (ObjectSource(folder, "ball", image_side=32) for folder in (root, tmp_path / "back"))
    for split in SPLITS:
        assert (before.views(split).images == after.views(split).images).all()
    assert before.calibration().placement == after.calibration().placement


def test_the_export_has_what_other_programs_read(tmp_path):
    root = wide(tmp_path / "object")
    output = export(ObjectSource(root, "ball"), tmp_path / "export")
    meta = json.loads((output / "transforms.json").read_text())
    assert [len(meta[f"{word}_filenames"]) for word in ("train", "val", "test")] == [8, 2, 3]
    assert all((output / frame["file_path"]).is_file() for frame in meta["frames"])
    assert (meta["w"], meta["h"], meta["cx"], meta["cy"], meta["camera_model"]) == (40, 32, 20, 16, "PINHOLE")
    assert 2 * np.tan(meta["camera_angle_x"] / 2) * meta["fl_x"] == pytest.approx(40)
    assert meta["aabb_scale"] == 4  # cameras 1.6 away from a grid of side 1
    assert json.loads((output / "transforms_val.json").read_text())["frames"] == meta["frames"][8:10]
    # the camera looks along its negative z axis to the ball at the origin, y up
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"])
        np.testing.assert_allclose(pose[:3, 3], 1.6 * pose[:3, 2], atol=1e-6)
        assert pose[2, 1] > 0


def test_grid_in_the_unit_cube_of_instant_ngp(tmp_path):
    root = write_object(tmp_path / "object")
    for split in SPLITS:
        path = root / split / "ball" / "intrinsics.txt"
        lines = path.read_text().split("\n")
        lines[1], lines[3] = "0.1 -0.2 0.05", "1.25"
        path.write_text("\n".join(lines))
    meta = json.loads((export(ObjectSource(root, "ball"), tmp_path / "e") / "transforms.json").read_text())
    corners = np.array([[0.1, -0.2, 0.05]]) + 1.25 * np.array([[-0.5] * 3, [0.5] * 3])
    np.testing.assert_allclose(corners * meta["scale"] + meta["offset"], [[0] * 3, [1] * 3], atol=1e-12)


def test_missing_splits_are_held_out_as_in_training(tmp_path):
    root = write_object(tmp_path / "object", train=20)
    shutil.rmtree(root / "validation")
    source = ObjectSource(root, "ball", image_side=32)
    found = read_transforms(export(source, tmp_path / "export"))
    for split in SPLITS:
        assert [p.name for p in found.splits[split]] == source.views(split).names


def test_splits_may_have_different_lenses(tmp_path):
    root = write_object(tmp_path / "object")
    shutil.rmtree(root / "test" / "ball")
    write_views(root / "test" / "ball", 3, 64)
    source = ObjectSource(root, "ball", image_side=32)
    found = read_transforms(export(source, tmp_path / "export"))
    assert found.splits["test"][0].lens == read_folder(root, "ball").splits["test"][0].lens


def test_an_existing_folder_is_refused(ball, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        export(ObjectSource(ball, "ball"), tmp_path)


def test_faults_leave_no_files(tmp_path):
    root = write_object(tmp_path / "object")
    (root / "train/ball/rgb/000001.png").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as an image"):
        export(ObjectSource(root, "ball"), tmp_path / "out" / "export")
    assert not (tmp_path / "out").exists()
