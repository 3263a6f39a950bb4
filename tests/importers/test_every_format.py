"""Every format: random cameras come back, ``source=auto`` recognises it, and damaged files end in one line."""

import random
import shutil
import tempfile
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camera_files import COUNT, FORMATS, OWN, SOURCES, View, mutated, names_of, random_views, source_of, write_dataset
from dv.errors import UserError
from dv.importers.readers import read_posed
from dv.prepare.lens import Lens
from dv.prepare.split_folder import WriteSettings
from dv.prepare.writing import import_record, write_object
from dv.synthetic.handheld import upright_pose
from dv.tasks.recognition import recognise

SETTINGS = WriteSettings()
WRITTEN = 5  # of so many damaged data sets that can be read, one is written


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    far=st.sampled_from([0.0, 1.0, 1e3, 6.4e6]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_random_cameras_come_back(name, seed, far, scale):
    views = random_views(name, seed, far, scale)
    with tempfile.TemporaryDirectory() as folder:
        path = write_dataset(name, Path(folder), views)
        found = read_posed(path, source_of(name, path)).photographs
    assert len(found) == COUNT
    for photograph, view in zip(sorted(found, key=lambda p: p.path.name), views, strict=True):
        assert photograph.path.name == view.name
        np.testing.assert_allclose(photograph.pose[:3, :3], view.pose[:3, :3], atol=1e-6)
        np.testing.assert_allclose(
            photograph.pose[:3, 3], view.pose[:3, 3], atol=1e-5 * scale + 1e-13 * far, rtol=1e-12
        )
        one, other = photograph.lens, view.lens
        assert astuple(one)[:6] == pytest.approx(astuple(other)[:6], rel=1e-7)
        pad = [0.0] * 8
        np.testing.assert_allclose([*one.distortion, *pad][:8], [*other.distortion, *pad][:8], rtol=1e-9, atol=1e-12)
        assert not one.fisheye


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised(name, tmp_path):
    folder = tmp_path / "unpacked" / "dataset"
    path = write_dataset(name, folder, random_views(name, 0, 0.0, 1.0))
    assert recognise(path)[0].source == SOURCES.get(name, name)
    if path == folder:  # an archive that was unpacked into a folder of its own
        assert recognise(folder.parent)[0].path == folder


def ring_of_views(name: str) -> list[View]:
    """Cameras on a circle that look at the origin, all with one lens."""
    views = []
    for i, image in enumerate(names_of(name, COUNT)):
        angle = 2 * np.pi * i / COUNT
        position = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.0])
        views.append(View(image, upright_pose(position, np.zeros(3)), Lens(20, 16, 30.0, 30.0, 10.0, 8.0)))
    return views


def check_damaged(name: str, folder: Path, seeds: range) -> None:
    """Read damaged copies of a dataset and write some of them: that works, or ends in one line and leaves nothing."""
    path = write_dataset(name, folder / "in", ring_of_views(name))
    files = sorted(p for p in (folder / "in").rglob("*") if p.is_file())
    cameras = [p for p in files if p.suffix != ".png"]
    whole = {p: p.read_bytes() for p in files}
    source = source_of(name, path)
    read = 0
    for seed in seeds:
        rng = random.Random(seed)
        file = rng.choice(cameras if rng.random() < 0.9 else files)
        if rng.random() < 0.05:
            file.unlink()
        else:
            file.write_bytes(mutated(whole[file], rng))
        out, left = folder / "out", list[Path]()
        try:
            found = read_posed(path, source)
            read += 1
            if read % WRITTEN == 0:
                write_object(found, out, "thing", SETTINGS, import_record(name, path, SETTINGS, found.files))
                shutil.rmtree(out)
        except UserError:
            left = list(out.rglob("*"))
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, {file.name}") from error
        assert not left, (seed, left)
        file.write_bytes(whole[file])
    assert 0 < read < len(seeds)


@pytest.mark.parametrize("name", [*FORMATS, *OWN])
def test_damaged_files_end_in_one_line(name, tmp_path):
    check_damaged(name, tmp_path, range(25))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMATS, *OWN])
def test_a_thousand_damaged_files_end_in_one_line(name, tmp_path):
    check_damaged(name, tmp_path, range(1000))
