"""Importing images with *_par.txt, the format of the Middlebury multi-view stereo datasets."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import exact_rotation, pinhole_numbers, write_views
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.importers.middlebury import read_middlebury
from dv.prepare.writing import WriteSettings, write_object


def numbers_of(view, pixel_center=0.0):
    lens, world_to_camera = view.lens, np.linalg.inv(view.pose)
    shift = 0.5 - pixel_center
    k = [lens.fx, 0, lens.cx - shift, 0, lens.fy, lens.cy - shift, 0, 0, 1]
    return [*k, *world_to_camera[:3, :3].ravel(), *world_to_camera[:3, 3]]


def write_par(file, lines):
    text = [f"{name} {' '.join(f'{x:.17g}' for x in numbers)}" for name, numbers in lines]
    file.write_text("\n".join([str(len(text)), *text]) + "\n")


@pytest.fixture
def scene(tmp_path):
    """A folder with ball_par.txt, its photographs, and the lines of the file."""
    write_views(tmp_path / "train" / "ball", 12, 32, size=(32, 40))
    views = [exact_rotation(view) for view in read_folder(tmp_path, "ball").splits["train"]]
    folder = tmp_path / "middlebury"
    folder.mkdir()
    for view in views:
        (folder / view.path.name).write_bytes(view.path.read_bytes())
    lines = [(view.path.name, numbers_of(view)) for view in views]
    write_par(folder / "ball_par.txt", lines)
    return folder, views, lines


def refused(folder, **options) -> str:
    with pytest.raises(UserError) as error:
        read_middlebury(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("pixel_center", [0, 0.5])
def test_cameras_are_read_back(scene, pixel_center):
    folder, views, _ = scene
    write_par(folder / "ball_par.txt", [(view.path.name, numbers_of(view, pixel_center)) for view in views])
    found = read_middlebury(folder, input_pixel_center=pixel_center).splits["train"]
    assert [p.name for p in found] == [view.name for view in views]
    for one, other in zip(found, views, strict=True):
        np.testing.assert_allclose(one.pose, other.pose, rtol=0, atol=1e-9)
        assert pinhole_numbers(one.lens) == pytest.approx(pinhole_numbers(other.lens), abs=1e-9)


def test_written_images_equal_the_originals(scene, tmp_path):
    folder, views, _ = scene
    write_object(read_middlebury(folder), tmp_path / "out", "ball", WriteSettings(), {})
    source = ObjectSource(tmp_path / "out", "ball", image_side=32)
    by_name = {view.name: iio.imread(view.path)[:, 4:36] for view in views}
    written = source.views("train")
    assert len(written) == 10
    for name, image in zip(written.names, written.images, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), by_name[name])


def test_missing_images_are_left_out(scene):
    folder, views, _ = scene
    for view in views[4:]:
        (folder / view.path.name).unlink()
    found = read_middlebury(folder)
    assert len(found.splits["train"]) == 4
    assert len(found.left_out) == 8
    (folder / views[0].path.name).unlink()
    assert "lists 12 images, of which 3 exist; at least 4 are needed" in refused(folder)


def test_several_files(scene):
    folder, _, lines = scene
    write_par(folder / "other_par.txt", lines[:5])
    assert "give one of source.par=ball_par.txt, source.par=other_par.txt" in refused(folder)
    assert len(read_middlebury(folder, Path("other_par.txt")).splits["train"]) == 5
    assert "no such file" in refused(folder, par=Path("third_par.txt"))


def change(index, number):
    def damage(folder, lines):
        lines[2][1][index] = number
        write_par(folder / "ball_par.txt", lines)

    return damage


def rewrite(edit):
    def damage(folder, _):
        file = folder / "ball_par.txt"
        file.write_text(edit(file.read_text()))

    return damage


FAULTS = {
    "no file": (lambda f, _: (f / "ball_par.txt").unlink(), "contains no *_par.txt; give source.par=FILE"),
    "empty": (rewrite(lambda _: ""), "must begin with the number of its images"),
    "no count": (rewrite(lambda text: text.split("\n", 1)[1]), "must begin with the number of its images"),
    "truncated": (rewrite(lambda text: text.rsplit("\n", 2)[0]), "announces 12 images, but lists 11"),
    "short line": (rewrite(lambda text: text.rsplit(" ", 1)[0]), "line 13: must hold a name and the 21 numbers"),
    "word": (rewrite(lambda text: text.replace(" 0 ", " zero ")), "and 9 more: must hold a name and the 21 numbers"),
    "twice": (rewrite(lambda text: text.replace("000003.png", "000001.png")), "line 5: names an image for the second"),
    "skew": (change(1, 0.5), "000002.png: K must be fx 0 cx"),
    "negative focal length": (change(0, -5), "000002.png: a camera of 40×32 px with fx=-5"),
    "no rotation": (change(9, 2.0), "000002.png: its R, t is not a rigid transform"),
    "not finite": (change(19, np.inf), "must hold a name and the 21 numbers"),
    "broken image": (lambda f, _: (f / "000002.png").write_text("hello"), "000002.png: cannot be read as an image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(scene, fault):
    folder, _, lines = scene
    damage, expected = FAULTS[fault]
    damage(folder, lines)
    message = refused(folder)
    assert expected in message
    assert str(folder) in message


def test_invalid_options(scene, tmp_path):
    assert "source.input_pixel_center=1 must be 0 or 0.5" in refused(scene[0], input_pixel_center=1)
    assert "no such folder" in refused(tmp_path / "nowhere")
