"""Importing objects in the DeepVoxels folder layout."""

from pathlib import Path

import numpy as np
import pytest

from conftest import write_object, write_views
from dv.data.object import SPLITS, ObjectSource
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.prepare.lens import Lens
from dv.prepare.writing import WriteSettings
from dv.prepare.writing import write_object as write_prepared


def wide(root: Path) -> Path:
    for split, count in (("train", 8), ("validation", 2), ("test", 3)):
        write_views(root / split / "ball", count, 32, size=(32, 40))
    return root


def test_a_folder_is_read_as_photographs(ball):
    found = read_folder(ball, "ball")
    assert {split: len(views) for split, views in found.splits.items()} == {"train": 8, "validation": 2, "test": 3}
    source = ObjectSource(ball, "ball")
    for split in SPLITS:
        np.testing.assert_array_equal([p.pose for p in found.splits[split]], source.views(split).poses)
    assert {p.lens for p in found.photographs} == {Lens(32, 32, 1.4 * 32, 1.4 * 32, 16, 16)}
    assert found.placement == source.calibration().placement


def test_pixel_center_of_the_folder(tmp_path):
    root = wide(tmp_path)
    assert read_folder(root, "ball").photographs[0].lens.cx == 20
    assert read_folder(root, "ball", pixel_center=0.5).photographs[0].lens.cx == 19.5
    for split in SPLITS:
        (root / split / "ball" / "dataset.json").write_text('{"pixel_center": 0.5}')
    assert read_folder(root, "ball").photographs[0].lens.cx == 19.5


def test_world_to_camera_folder(tmp_path):
    root = write_object(tmp_path)
    poses = read_folder(root, "ball").poses
    for split in SPLITS:
        for path in (root / split / "ball" / "pose").glob("*.txt"):
            path.write_text(" ".join(f"{x:.17g}" for x in np.linalg.inv(np.loadtxt(path).reshape(4, 4)).ravel()))
        with (root / split / "ball" / "intrinsics.txt").open("a") as file:
            file.write("1\n")
    np.testing.assert_allclose(read_folder(root, "ball").poses, poses, atol=1e-8)


def test_a_written_copy_equals_the_folder(ball, tmp_path):
    write_prepared(read_folder(ball, "ball"), tmp_path, "copy", WriteSettings(), {})
    original, copy = ObjectSource(ball, "ball"), ObjectSource(tmp_path, "copy")
    for split in SPLITS:
        assert (original.views(split).images == copy.views(split).images).all()
        np.testing.assert_array_equal(original.views(split).poses, copy.views(split).poses)
    np.testing.assert_allclose(original.calibration().intrinsics.matrix(), copy.calibration().intrinsics.matrix())
    assert original.calibration().placement == copy.calibration().placement


def test_faults_of_all_splits_are_listed_together(tmp_path):
    root = write_object(tmp_path)
    (root / "train/ball/rgb/000001.png").unlink()
    (root / "test/ball/pose/000002.txt").write_text("1 2 3")
    with pytest.raises(UserError) as error:
        read_folder(root, "ball")
    assert "pose/000001.txt: no image, expected rgb/000001.png" in str(error.value)
    assert "a pose has 16 numbers" in str(error.value)
    with pytest.raises(UserError, match="no object at"):
        read_folder(root, "cup")
