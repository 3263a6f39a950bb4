"""Posed photographs become an object on disk, which is complete and recorded, or nothing is written."""

import json
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from dv.data.calibration import read_calibration
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.geometry.trajectory import look_at
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph, PhotographSet
from dv.prepare.writing import WriteSettings, already_written, import_record, with_all_splits, write_object

LENS = Lens(32, 32, 45, 45, 16, 16)


@pytest.fixture
def photographs(tmp_path):
    """24 photographs of noise on a hemisphere."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    photographs = []
    for i in range(24):
        iio.imwrite(folder / f"p{i:02d}.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
        a, e = 2 * np.pi * i / 24, np.radians(rng.uniform(10, 60))
        eye = torch.tensor([2 * np.cos(a) * np.cos(e), 2 * np.sin(a) * np.cos(e), 2 * np.sin(e)])
        pose = look_at(eye, torch.zeros(3).double(), torch.tensor([0, 0, 1.0]).double()).numpy()
        photographs.append(Photograph(f"p{i:02d}", folder / f"p{i:02d}.png", pose, LENS))
    return photographs


def write(photographs, tmp_path, settings=None, **found):
    settings = settings or WriteSettings()
    record = import_record("test", tmp_path / "photos", settings, [p.path for p in photographs])
    lines = write_object(PhotographSet({"train": photographs}, **found), tmp_path / "out", "thing", settings, record)
    return lines, ObjectSource(tmp_path / "out", "thing")


def test_a_written_object_is_read_by_training(photographs, tmp_path):
    lines, source = write(photographs, tmp_path)
    views = {split: source.views(split) for split in ("train", "validation", "test")}
    assert {split: len(v) for split, v in views.items()} == {"train": 20, "validation": 2, "test": 2}
    assert lines[0] == f"thing: 20 train, 2 validation, 2 test views of 32×32 px in {tmp_path / 'out'}"
    by_name = {p.name: p for p in photographs}
    for split in views.values():
        for name, pose, image in zip(split.names, split.poses, split.images, strict=True):
            np.testing.assert_array_equal(pose.numpy(), by_name[name].pose)
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), iio.imread(by_name[name].path))
    calibration = source.calibration()
    k = calibration.intrinsics
    np.testing.assert_allclose(k, [45, 45, 16, 16, 32, 32, 0.5], rtol=1e-12)
    np.testing.assert_allclose(calibration.placement.origin, 0, atol=1e-9)
    record = json.loads((tmp_path / "out" / "train" / "thing" / "dataset.json").read_text())
    assert record["source"] == "test"
    assert record["pixel_center"] == 0.5
    assert record["grid"]["scale"] == calibration.placement.scale
    assert {"dv", "numpy", "python"} <= record["versions"].keys()
    assert iio.imread(tmp_path / "out" / "train" / "thing" / "scene.png").ndim == 3
    assert not list((tmp_path / "out").glob(".*"))


def test_given_splits_are_kept(photographs):
    splits = {"train": photographs[:20], "test": photographs[20:]}
    assert with_all_splits(splits) == splits
    assert with_all_splits({"train": photographs[:20], "validation": [], "test": photographs[20:]}) == splits


@pytest.mark.parametrize("count", [4, 5, 9, 10, 11, 15, 24])
def test_held_out_views_are_in_one_split_only(photographs, count):
    splits = with_all_splits({"train": photographs[:count]})
    names = [p.name for split in splits.values() for p in split]
    assert len(names) == len(set(names)) == count
    assert min(map(len, splits.values())) >= 1
    assert len(splits["train"]) >= 2


def test_too_few_views_are_refused(photographs):
    with pytest.raises(UserError, match="3 views are too few"):
        with_all_splits({"train": photographs[:3]})
    with pytest.raises(UserError, match="validation and test views, but none for training"):
        with_all_splits({"validation": photographs[:3], "test": photographs[3:8]})


def test_the_grid_comes_from_the_photographs_or_the_settings(photographs, tmp_path):
    _, source = write(photographs, tmp_path, placement=GridPlacement((0.1, 0.2, 0.3), 0.7, 1.1))
    assert source.calibration().placement == GridPlacement((0.1, 0.2, 0.3), 0.7, 1.1)
    settings = WriteSettings(origin=[0.0, 0.1, 0.0], scale=0.5, near=1.2)
    write_object(PhotographSet({"train": photographs}), tmp_path / "b", "thing", settings, {})
    placement = ObjectSource(tmp_path / "b", "thing").calibration().placement
    assert placement == GridPlacement((0.0, 0.1, 0.0), 0.5, 1.2)


def test_fewer_and_noisy_training_views(photographs, tmp_path):
    settings = WriteSettings(every=2, farthest=5, noise_angle=2.0, noise_distance=0.1, seed=3)
    _, source = write(photographs, tmp_path, settings)
    by_name = {p.name: p for p in photographs}
    train, test = source.views("train"), source.views("test")
    assert len(train) == 5
    for name, pose in zip(train.names, train.poses.numpy(), strict=True):
        np.testing.assert_allclose(np.linalg.norm(pose[:3, 3] - by_name[name].pose[:3, 3]), 0.1, rtol=1e-6)
    for name, pose in zip(test.names, test.poses.numpy(), strict=True):
        np.testing.assert_array_equal(pose, by_name[name].pose)


def test_training_views_of_uneven_exposure(photographs, tmp_path):
    _, source = write(photographs, tmp_path, WriteSettings(noise_exposure=0.4, seed=3))
    files = {p.name: p.path for p in photographs}
    train, test = source.views("train"), source.views("test")
    stops = np.random.default_rng(3).normal(0, 0.4, len(train))
    assert np.abs(stops).max() > 0.5
    for name, image, change in zip(train.names, train.images.numpy(), stops, strict=True):
        before, after = (linear(x / 255) for x in (np.moveaxis(iio.imread(files[name]), -1, 0), image))
        inside = (before * 2**change < 0.9) & (before > 0.05)
        assert np.median(after[inside] / before[inside]) == pytest.approx(2**change, rel=0.01)
    for name, image in zip(test.names, test.images, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), iio.imread(files[name]))


def linear(srgb: np.ndarray) -> np.ndarray:
    """Return linear intensities by IEC 61966-2-1, above its linear segment."""
    return ((srgb + 0.055) / 1.055) ** 2.4


def test_images_are_reduced_to_the_given_side(photographs, tmp_path):
    _, source = write(photographs, tmp_path, WriteSettings(crop="square", image_side=16))
    assert source.views("test").images.shape[-1] == 16
    np.testing.assert_allclose(source.calibration().intrinsics.fx, 22.5)
    settings = WriteSettings(crop="square", image_side=64)
    with pytest.raises(UserError, match="source.image_side=64 exceeds the 32 px"):
        write_object(PhotographSet({"train": photographs}), tmp_path / "b", "thing", settings, {})
    assert not (tmp_path / "b").exists()


def test_unreadable_photographs_are_all_listed_and_nothing_is_written(photographs, tmp_path):
    for i in (3, 7):
        photographs[i].path.write_text("hello")
    with pytest.raises(UserError, match=r"2 problems: .*p03.png: cannot be read.*p07.png: cannot be read"):
        write(photographs, tmp_path)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_masks_must_exist_if_required(photographs, tmp_path):
    with pytest.raises(UserError, match="24 of 24 photographs have no mask file, such as p00"):
        write(photographs, tmp_path, WriteSettings(mask="files"))
    mask = tmp_path / "mask.png"
    iio.imwrite(mask, np.zeros((32, 32), np.uint8))
    settings = WriteSettings(mask="files", background="black")
    _, source = write([replace(p, mask=mask) for p in photographs], tmp_path, settings)
    assert not source.views("train").images.any()


def test_a_repeated_import_does_nothing_and_another_is_refused(photographs, tmp_path):
    paths = [p.path for p in photographs]
    record = import_record("test", tmp_path / "photos", WriteSettings(), paths)
    assert not already_written(tmp_path / "out", "thing", record)
    write(photographs, tmp_path)
    assert already_written(tmp_path / "out", "thing", record)
    other = import_record("test", tmp_path / "photos", WriteSettings(background="black"), paths)
    with pytest.raises(UserError, match="exists already, .* choose another output_dir"):
        already_written(tmp_path / "out", "thing", other)
    iio.imwrite(photographs[0].path, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="with other settings or images"):
        already_written(tmp_path / "out", "thing", import_record("test", tmp_path / "photos", WriteSettings(), paths))


def test_settings_missing_in_an_old_record_count_as_defaults(photographs, tmp_path):
    record = import_record("test", tmp_path / "photos", WriteSettings(), [p.path for p in photographs])
    write(photographs, tmp_path)
    for path in (tmp_path / "out").glob("*/thing/dataset.json"):
        old = json.loads(path.read_text())
        del old["settings"]["noise_exposure"]
        path.write_text(json.dumps(old))
    assert already_written(tmp_path / "out", "thing", record)
    paths = [p.path for p in photographs]
    other = import_record("test", tmp_path / "photos", WriteSettings(noise_exposure=0.5), paths)
    with pytest.raises(UserError, match="with other settings or images"):
        already_written(tmp_path / "out", "thing", other)


def test_full_images_were_squares_in_records_without_a_format(photographs, tmp_path):
    write(photographs, tmp_path, WriteSettings(crop="square"))
    for path in (tmp_path / "out").glob("*/thing/dataset.json"):
        old = json.loads(path.read_text())
        del old["format"]
        old["settings"]["crop"] = "full"
        path.write_text(json.dumps(old))
    paths = [p.path for p in photographs]
    square, full = (
        import_record("test", tmp_path / "photos", WriteSettings(crop=crop), paths) for crop in ("square", "full")
    )
    assert already_written(tmp_path / "out", "thing", square)
    with pytest.raises(UserError, match="with other settings or images"):
        already_written(tmp_path / "out", "thing", full)


def test_an_object_without_its_last_folder_is_written_again(photographs, tmp_path):
    import shutil

    record = import_record("test", tmp_path / "photos", WriteSettings(), [p.path for p in photographs])
    write(photographs, tmp_path)
    shutil.rmtree(tmp_path / "out" / "train")
    assert not already_written(tmp_path / "out", "thing", record)
    _, source = write(photographs, tmp_path)
    assert len(source.views("train")) == 20


def test_calibration_of_the_written_file_is_exact(photographs, tmp_path):
    _, source = write(photographs, tmp_path, placement=GridPlacement((1 / 3, 0.1, 0.7), 2 / 3, 0.1234567890123))
    assert source.calibration().placement == GridPlacement((1 / 3, 0.1, 0.7), 2 / 3, 0.1234567890123)
    assert read_calibration(source.folder("test") / "intrinsics.txt") == source.calibration()
