"""What editors, systems and other programs do to data sets: every format reads them as if they had not."""

import json
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camera_files import FORMATS, View, random_views, source_of, write_dataset
from dv.errors import UserError
from dv.importers.llff import read_llff
from dv.importers.nsvf import read_nsvf
from dv.importers.readers import read_posed
from dv.importers.transforms import read_transforms
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.tasks.recognition import recognise

TEXT = {".txt", ".json", ".csv", ".xml", ".out", ".sfm"}
NAMING = (
    "transforms",
    "metashape",
    "realitycapture",
    "opensfm",
    "openmvg",
    "meshroom",
    "bundler",
    "middlebury",
    "colmap",
)


def texts(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix in TEXT and path.is_file()]


def rewrite(folder: Path, change: Callable[[str], bytes]) -> None:
    for path in texts(folder):
        path.write_bytes(change(path.read_text()))


EDITORS: dict[str, Callable[[str], bytes]] = {
    "mark and CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "old Mac line ends": lambda text: text.replace("\n", "\r").encode(),
}


def assert_same(found, views: list[View]) -> None:
    by_name = {p.path.stem: p for p in found.photographs}
    assert by_name.keys() == {Path(view.name).stem for view in views}
    for view in views:
        photograph = by_name[Path(view.name).stem]
        np.testing.assert_allclose(photograph.pose, view.pose, atol=1e-6)
        assert photograph.lens.fx == pytest.approx(view.lens.fx)


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("name", FORMATS)
def test_encodings_and_line_ends_do_not_matter(name, editor, tmp_path):
    views = random_views(name, 1, 0.0, 1.0)
    path = write_dataset(name, tmp_path, views)
    rewrite(tmp_path, EDITORS[editor])
    assert_same(read_posed(path, source_of(name, path)), views)
    assert recognise(path)[0].source == source_of(name, path).name


@pytest.mark.parametrize("name", ["nsvf", "srn", "nerfpp", "middlebury", "bundler", "colmap", "metashape"])
def test_decimal_commas_are_understood(name, tmp_path):
    views = random_views(name, 2, 0.0, 1.0)
    path = write_dataset(name, tmp_path, views)
    keep = {"# Bundle file v0.3": "# Bundle file v0.3", ".png": "\0png", 'version="1.5.0"': "\1"}

    def localised(text: str) -> bytes:
        for plain, hidden in keep.items():
            text = text.replace(plain, hidden)
        head, text = (text[:18], text[18:]) if text.startswith("# Bundle") else ("", text)
        text = head + text.replace(".", ",")
        for plain, hidden in keep.items():
            text = text.replace(hidden, plain)
        return text.encode()

    rewrite(tmp_path, localised)
    assert_same(read_posed(path, source_of(name, path)), views)


def test_a_table_of_a_german_spreadsheet(tmp_path):
    """Semicolons between columns, decimal commas."""
    views = random_views("realitycapture", 3, 0.0, 1.0)
    path = write_dataset("realitycapture", tmp_path, views)
    rewrite(tmp_path, lambda text: text.replace(",", ";").replace(".", ",").replace(",png", ".png").encode())
    assert_same(read_posed(path, source_of("realitycapture", path)), views)


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_systems_are_no_data(name, tmp_path):
    views = random_views(name, 4, 0.0, 1.0)
    path = write_dataset(name, tmp_path, views)
    for file in [p for p in tmp_path.rglob("*") if p.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    for folder in [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]:
        for junk in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / junk).write_bytes(b"\0")
    found = read_posed(path, source_of(name, path))
    assert_same(found, views)
    assert not [line for line in found.left_out if "._" in line or "Thumbs" in line]


RENAMED: dict[str, Callable[[str], str]] = {
    "upper-case suffix": lambda name: name.replace(".png", ".PNG"),
    "letter case": str.upper,
    "accents of macOS": lambda name: unicodedata.normalize("NFD", name),
}


@pytest.mark.parametrize("change", RENAMED)
@pytest.mark.parametrize("name", NAMING)
def test_images_are_found_under_the_names_of_other_systems(name, change, tmp_path):
    views = [
        View(f"Bärenkopf {i} (v=2) [a].png", view.pose, view.lens)
        for i, view in enumerate(random_views(name, 5, 0.0, 1.0))
    ]
    path = write_dataset(name, tmp_path, views)
    folder = tmp_path / FORMATS[name].images
    for view in views:
        (folder / view.name).rename(folder / RENAMED[change](view.name))
    found = read_posed(path, source_of(name, path))
    assert len(found.photographs) == len(views)
    assert not found.left_out or name in ("metashape", "bundler")  # which list one more


@pytest.mark.parametrize("name", ["transforms", "openmvg", "meshroom", "bundler"])
def test_names_are_paths_of_a_machine_with_backslashes(name, tmp_path):
    views = random_views(name, 6, 0.0, 1.0)
    path = write_dataset(name, tmp_path, views)
    here, there = ('"images/', '"D:\\\\\\\\shots\\\\\\\\') if name == "transforms" else ("images/", "D:\\\\shots\\\\")
    if name == "openmvg":
        here, there = '"filename": "', '"filename": "D:\\\\\\\\shots\\\\\\\\'
    rewrite(tmp_path, lambda text: text.replace(here, there).encode())
    assert_same(read_posed(path, source_of(name, path)), views)


def test_equal_stems_in_folders_of_several_cameras(tmp_path):
    """The images of one folder are never taken for those of another, even if they are missing there."""
    for camera in ("left cam", "right cam"):
        (tmp_path / "images" / camera).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "images" / camera / f"IMG ({i}).jpg").write_bytes(b"x")
    (tmp_path / "images" / "left cam" / "IMG (1).jpg").unlink()
    images = NamedImages(tmp_path)
    images.expect(f"{camera}/IMG ({i}).jpg" for camera in ("left cam", "right cam") for i in range(3))
    assert images.find("left cam/IMG (0).jpg") == tmp_path / "images" / "left cam" / "IMG (0).jpg"
    assert images.find("left cam/IMG (1).jpg") is None
    with pytest.raises(UserError, match="could be in"):
        NamedImages(tmp_path).find("C:\\elsewhere\\IMG (0).jpg")


def dataset_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


MISSING = {  # files that are there, names in the camera file, and what each of them means
    "mask of the same name": (["images/1.png", "masks/1.png", "masks/2.png"], {"1.png": "images/1.png", "2.png": None}),
    "depth of the same name": (
        ["train/r_1.png", "train/depth/r_1.png", "train/depth/r_2.png"],
        {"./train/r_1": "train/r_1.png", "./train/r_2": None},
    ),
    "only masks are there": (["masks/1.png", "masks/2.png"], {"images/1.png": None, "images/2.png": None}),
    "a folder of another name": (
        ["images/left/1.png", "images/left_small/1.png"],
        {"left/1.png": "images/left/1.png", "right/1.png": None},
    ),
    "a folder in another letter case": (
        ["images/left/1.png", "images/Right/1.png"],
        {"left/1.png": "images/left/1.png", "right/1.png": "images/Right/1.png"},
    ),
    "a smaller copy with another suffix": (["images_2/1.png", "images_2/2.png"], {"1.JPG": "images_2/1.png"}),
    "another folder": (["shots/1.JPG"], {"D:\\raw\\1.jpg": "shots/1.JPG"}),
    "in folders below": (["images/a/1.jpg", "images/b/2.jpg"], {"1": "images/a/1.jpg", "2": "images/b/2.jpg"}),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_image_is_never_replaced_by_another(case, tmp_path):
    files, meanings = MISSING[case]
    images = NamedImages(dataset_of(tmp_path, *files))
    images.expect(meanings)
    found = {name: images.find(name) for name in meanings}
    assert found == {name: path and tmp_path / path for name, path in meanings.items()}


@pytest.mark.parametrize("names", [("left/1.png", "right/1.png"), ("./train/1", "./test/1")])
def test_folders_that_became_one_are_refused(names, tmp_path):
    images = NamedImages(dataset_of(tmp_path, "images/1.png", "images/2.png"))
    images.expect(names)
    for name in names:
        with pytest.raises(UserError, match="images could hold the images of .*: put them into such folders"):
            images.find(name)


def test_two_names_of_one_image_are_refused(tmp_path):
    images = NamedImages(dataset_of(tmp_path, "images/a.JPG"))
    images.expect(["a.jpg", "A.png"])
    assert images.find("a.jpg") == tmp_path / "images" / "a.JPG"
    with pytest.raises(UserError, match="would be the same image as a.jpg"):
        images.find("A.png")


SCALED = ("transforms", "nsvf", "srn", "nerfpp", "llff", "polycam")


@pytest.mark.parametrize("name", SCALED)
def test_scaled_rotations_are_divided_and_told(name, tmp_path):
    views = random_views(name, 7, 0.0, 1.0)
    scaled = [View(v.name, v.pose * np.array([0.37, 0.37, 0.37, 1.0]), v.lens) for v in views]
    path = write_dataset(name, tmp_path, scaled)
    found = read_posed(path, source_of(name, path))
    assert_same(found, views)
    assert "scaled by 0.37" in " ".join(found.notes)


def test_held_out_views_without_any_image_are_no_split(tmp_path):
    """Of nsvf as of transforms: the training views are a whole data set."""
    views = [View(f"{i % 3}_{i:03d}.png", v.pose, v.lens) for i, v in enumerate(random_views("nsvf", 8, 0.0, 1.0))]
    path = write_dataset("nsvf", tmp_path, views)
    for image in (tmp_path / "rgb").glob("2_*"):
        image.unlink()
    found = read_nsvf(path)
    assert found.splits.keys() == {"train", "validation"}
    assert "none of the 1 test views has an image" in found.notes[0]


def test_a_listed_split_without_any_image(tmp_path):
    path = write_dataset("transforms", tmp_path, random_views("transforms", 9, 0.0, 1.0))
    file = path / "transforms.json"
    content = json.loads(file.read_text())
    names = [f"images/view 00{i}.png" for i in range(5)]
    file.write_text(json.dumps({**content, "train_filenames": names[:3], "test_filenames": names[3:]}))
    for name in ("view 003.png", "view 004.png"):
        (path / "images" / name).unlink()
    found = read_transforms(path)
    assert list(found.splits) == ["train"]
    assert "none of the 2 test views has an image" in found.notes[0]


def test_as_many_images_as_cameras(tmp_path):
    path = write_dataset("llff", tmp_path, random_views("llff", 10, 0.0, 1.0))
    shutil.copyfile(path / "images" / "view 000.png", path / "images" / "zzz.png")
    with pytest.raises(UserError, match=r"poses_bounds.npy has 5 cameras, but .*images 6 images"):
        read_llff(path)


@pytest.mark.parametrize("change", ["no empty lines", "no points", "no points, binary"])
def test_colmap_models_of_other_programs(change, tmp_path):
    """Images without the lines of their points, and models without points."""
    views = random_views("colmap", 11, 0.0, 1.0)
    path = write_dataset("colmap", tmp_path, views)
    model = path / "sparse" / "0"
    if change == "no empty lines":
        lines = (model / "images.txt").read_text().splitlines()
        (model / "images.txt").write_text("\n".join(line for line in lines if line) + "\n")
    elif change == "no points":
        (model / "points3D.txt").unlink()
    else:
        pycolmap = pytest.importorskip("pycolmap")
        renamed = (model / "images.txt").read_text().replace("view ", "view_")
        (model / "images.txt").write_text(renamed)
        views = [View(v.name.replace("view ", "view_"), v.pose, v.lens) for v in views]
        for view in views:
            image = path / "images" / view.name
            image.with_name(view.name.replace("view_", "view ")).rename(image)
        pycolmap.Reconstruction(model).write_binary(model)
        for file in (*model.glob("*.txt"), model / "points3D.bin"):
            file.unlink()
    assert recognise(path)[0].source == "colmap"
    assert_same(read_posed(path, source_of("colmap", path)), views)


@pytest.mark.parametrize(("w", "h"), [(None, None), (40, 30)])
def test_numbers_of_images_of_another_size(w, h, tmp_path):
    """They are scaled if the file says the size, and refused if only the principal point shows it."""
    view = View("a.png", np.eye(4), Lens(20, 15, 30.0, 30.0, 10.0, 7.5))
    path = write_dataset("transforms", tmp_path, [view])
    content = json.loads((path / "transforms.json").read_text())
    frame = content["frames"][0] | {"fl_x": 60.0, "fl_y": 60.0, "cx": 20.0, "cy": 15.0, "w": w, "h": h}
    (path / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    if w:
        (photograph,) = read_transforms(path).photographs
        assert photograph.lens == view.lens
    else:
        with pytest.raises(UserError, match="the principal point 20 15 belongs to images of another size"):
            read_transforms(path)


@pytest.mark.parametrize("size", ["stated upright", "stated as stored", "not stated"])
def test_the_exif_orientation_against_the_sizes_in_the_file(size, tmp_path):
    """A photograph of 20×12 px that is shown as 12×20: the camera file tells which of them it is about."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(tmp_path / "images" / "a.jpg", exif=exif)
    upright = size != "stated as stored"
    width, height = (12, 20) if upright else (20, 12)
    frame = {"file_path": "images/a.jpg", "transform_matrix": np.eye(4).tolist(), "fl_x": 30.0, "cx": width / 2 + 1,
             "cy": height / 2}  # fmt: skip
    if size != "not stated":
        frame |= {"w": width, "h": height}
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    (photograph,) = read_transforms(tmp_path).photographs
    assert photograph.upright == upright
    assert (photograph.lens.width, photograph.lens.height, photograph.lens.cx) == (width, height, width / 2 + 1)


def test_what_is_not_read_says_what_to_do(tmp_path):
    (tmp_path / "a.r3d").write_bytes(b"PK")
    with pytest.raises(UserError, match="unpack it, it is a zip archive"):
        recognise(tmp_path / "a.r3d")
    (tmp_path / "sfm_data.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="openMVG_main_ConvertSfM_DataFormat"):
        recognise(tmp_path)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("scan/transforms.json", "{}")
    with pytest.raises(UserError, match="unpack it and give the folder"):
        recognise(tmp_path / "scan.zip")
