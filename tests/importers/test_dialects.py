"""Variants of the formats: other versions of the programs, and what a data set holds besides cameras."""

import gzip
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from camera_files import COUNT, FORMATS, GL, View, random_views, source_of, write_dataset, write_images, write_json
from dv.errors import UserError
from dv.importers.bundler import read_bundler
from dv.importers.co3d import read_co3d
from dv.importers.meshroom import read_meshroom
from dv.importers.metashape import read_metashape
from dv.importers.nerfpp import read_nerfpp
from dv.importers.neus import read_neus
from dv.importers.opensfm import read_opensfm
from dv.importers.polycam import read_polycam
from dv.importers.readers import read_posed
from dv.importers.record3d import read_record3d
from dv.importers.transforms import read_transforms
from dv.prepare.lens import Lens
from dv.tasks.recognition import recognise


def views_of(name: str) -> list[View]:
    return random_views(name, 42, 0.0, 1.0)


def edit(file: Path, change) -> None:
    """Apply ``change`` to the content of a JSON file."""
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_text(json.dumps(content if changed is None else changed))


def write_mask(path: Path, lens: Lens) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((lens.height, lens.width), 255, np.uint8))


def write_ply(path: Path, points: np.ndarray) -> None:
    rows = "\n".join(" ".join(map(repr, row)) for row in points.tolist())
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n" + "".join(f"property float {a}\n" for a in "xyz")
    path.write_text(f"{header}end_header\n{rows}\n")


# --- transforms.json --------------------------------------------------------------------------------------------------


def test_scannetpp(tmp_path):
    """Names without folders, fisheyes, test frames, frames that are bad, and masks elsewhere."""
    views = views_of("polycam")
    write_images(tmp_path / "dslr" / "resized_images", views)
    frames = []
    for view in views:
        write_mask(tmp_path / "dslr" / "resized_anon_masks" / view.name, view.lens)
        lens = view.lens
        frames.append(
            {"file_path": view.name, "mask_path": view.name, "transform_matrix": (view.pose @ GL).tolist(),
             "is_bad": False, "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy, "w": lens.width,
             "h": lens.height}
        )  # fmt: skip
    frames[1]["is_bad"] = True
    meta = {"camera_model": "OPENCV_FISHEYE", "k1": 0.01, "k2": 0.02, "k3": 0.0, "k4": 0.001}
    meta |= {"frames": frames[:3], "test_frames": frames[3:], "has_mask": True}
    write_json(tmp_path / "dslr" / "nerfstudio" / "transforms.json", meta)
    found = read_transforms(tmp_path / "dslr")
    assert {split: len(photographs) for split, photographs in found.splits.items()} == {"train": 2, "test": 2}
    assert found.left_out == [f"{views[1].name}: marked as is_bad"]
    photograph = found.splits["test"][0]
    assert photograph.mask == tmp_path / "dslr" / "resized_anon_masks" / views[3].name
    assert photograph.lens.fisheye
    assert photograph.lens.distortion == (0.01, 0.02, 0.0, 0.001)
    assert recognise(tmp_path / "dslr")[0].source == "transforms"


def test_nerfcapture(tmp_path):
    """Names without suffix beside depth images of the same stem, and intrinsics of every frame."""
    path = write_dataset("transforms", tmp_path, views_of("transforms"))
    for i, image in enumerate(sorted((path / "images").iterdir())):
        image.rename(path / "images" / f"{i}.png")
        shutil.copyfile(path / "images" / f"{i}.png", path / "images" / f"{i}.depth.png")

    def without_suffix(meta):
        for i, frame in enumerate(meta["frames"]):
            frame |= {"file_path": f"images/{i}", "depth_path": f"images/{i}.depth.png", "timestamp": 0.1 * i}

    edit(path / "transforms.json", without_suffix)
    assert [p.path.name for p in read_transforms(path).photographs] == [f"{i}.png" for i in range(COUNT)]


def test_field_of_view_in_degrees(tmp_path):
    path = write_dataset("transforms", tmp_path, views_of("transforms")[:1])

    def fov(meta):
        frame = meta["frames"][0]
        meta["frames"] = [{key: frame[key] for key in ("file_path", "transform_matrix")} | {"x_fov": 90.0}]

    edit(path / "transforms.json", fov)
    (photograph,) = read_transforms(path).photographs
    assert photograph.lens.fx == photograph.lens.fy == pytest.approx(photograph.lens.width / 2)


def test_points_of_nerfstudio(tmp_path):
    path = write_dataset("transforms", tmp_path, views_of("transforms"))
    points = np.random.default_rng(0).normal(size=(20, 3))
    write_ply(path / "sparse_pc.ply", points)
    edit(path / "transforms.json", lambda meta: meta.update(ply_file_path="sparse_pc.ply"))
    found = read_transforms(path)
    np.testing.assert_allclose(found.points, points, atol=1e-6)
    (path / "sparse_pc.ply").write_text("ply\nformat ascii 1.0\nelement vertex 9\n")
    with pytest.raises(UserError, match=r"sparse_pc.ply: cannot be read as points in PLY"):
        read_transforms(path)


# --- photogrammetry ---------------------------------------------------------------------------------------------------


def change_xml(file: Path, change) -> None:
    root = ElementTree.fromstring(file.read_bytes())
    change(root)
    file.write_bytes(ElementTree.tostring(root))


def test_metashape_fisheye(tmp_path):
    """Metashape's equidistant fisheye is OpenCV's, with k1 … k4."""
    path = write_dataset("metashape", tmp_path, views_of("metashape"))

    def fisheye(root):
        for calibration in root.iter("calibration"):
            calibration.set("type", "fisheye")
            for key in ("p1", "p2"):
                calibration.find(key).text = "0"
            ElementTree.SubElement(calibration, "k4").text = "0.004"

    change_xml(path, fisheye)
    lens = read_metashape(path).photographs[0].lens
    assert lens.fisheye
    assert lens.distortion[3] == 0.004


def test_photoscan_has_absolute_principal_points(tmp_path):
    views = views_of("metashape")
    path = write_dataset("metashape", tmp_path, views)

    def old(root):
        for calibration in root.iter("calibration"):
            width, height = (int(calibration.find("resolution").get(key)) for key in ("width", "height"))
            f, b1 = float(calibration.find("f").text), float(calibration.find("b1").text)
            for key, side in (("cx", width), ("cy", height)):
                calibration.find(key).text = repr(float(calibration.find(key).text) + side / 2)
            for key, value in (("fx", f + b1), ("fy", f)):
                ElementTree.SubElement(calibration, key).text = repr(value)
            for key in ("f", "b1"):
                calibration.remove(calibration.find(key))

    change_xml(path, old)
    found = {p.path.name: p.lens for p in read_metashape(path).photographs}
    for view in views:
        one, other = found[view.name], view.lens
        assert (one.fx, one.fy, one.cx, one.cy) == pytest.approx((other.fx, other.fy, other.cx, other.cy))


def test_metashape_labels_of_several_folders(tmp_path):
    """Cameras of rigs have equal labels in groups that are called after the folders of their images."""
    views = views_of("metashape")
    path = write_dataset("metashape", tmp_path, views)
    for folder, view in zip(("left", "right"), views, strict=False):
        write_images(tmp_path / "images" / folder, [View("same.png", view.pose, view.lens)])

    def in_groups(root):
        cameras = root.find("chunk/cameras")
        (group,) = cameras.findall("group")
        first, second, *_ = group.findall("camera")
        for folder, camera in (("left", first), ("right", second)):
            group.remove(camera)
            camera.set("label", "same")
            ElementTree.SubElement(cameras, "group", label=folder).append(camera)

    change_xml(path, in_groups)
    found = {p.path: p for p in read_metashape(path).photographs}
    for folder, view in zip(("left", "right"), views, strict=False):
        np.testing.assert_allclose(found[tmp_path / "images" / folder / "same.png"].pose, view.pose, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.__setattr__("text", "50"), "skewed"),
        (lambda c: c.__setattr__("tag", "p3"), "p3 and p4 are not supported"),
    ],
)
def test_metashape_lenses_that_opencv_does_not_have(change, message, tmp_path):
    path = write_dataset("metashape", tmp_path, views_of("metashape"))

    def damage(root):
        for calibration in root.iter("calibration"):
            b2 = ElementTree.SubElement(calibration, "b2")
            b2.text = "0.1"
            change(b2)

    change_xml(path, damage)
    with pytest.raises(UserError, match=message):
        read_metashape(path)


@pytest.mark.parametrize("version", [(1, 1, 0), (1, 2, 0), (1, 2, 1), (1, 2, 4), (1, 2, 6), (1, 2, 11)])
def test_versions_of_meshroom(version, tmp_path):
    """Focal lengths in px, then mm; principal points from the corner, then the middle; pixelRatio three ways."""
    views = views_of("meshroom")
    path = write_dataset("meshroom", tmp_path, views)

    def convert(content):
        content["version"] = [str(number) for number in version]
        for item, view in zip(content["intrinsics"], views, strict=True):
            lens = view.lens
            if version < (1, 2, 1):
                item["principalPoint"] = [repr(lens.cx), repr(lens.cy)]
            if version < (1, 2, 2):
                item.pop("focalLength")
                item["pxFocalLength"] = [repr(lens.fx), repr(lens.fy)]
            elif version < (1, 2, 10):
                item["focalLength"] = repr(lens.fx / lens.width * 36)
                item["pixelRatio"] = repr(lens.fx / lens.fy if version < (1, 2, 5) else lens.fy / lens.fx)

    edit(path, convert)
    found = {p.path.name: p.lens for p in read_meshroom(path).photographs}
    for view in views:
        one, other = found[view.name], view.lens
        assert (one.fx, one.fy, one.cx, one.cy) == pytest.approx((other.fx, other.fy, other.cx, other.cy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "equidistant", "distortionType": "fisheye"}, "equidistant fisheye, which is not supported"),
        ({"undistortionType": "3deanamorphic4"}, "undistortion of its own"),
        ({"type": "radial3", "distortionParams": ["0.1"]}, "radialk3 with 1 distortionParams"),
    ],
)
def test_meshroom_lenses_that_opencv_does_not_have(change, message, tmp_path):
    path = write_dataset("meshroom", tmp_path, views_of("meshroom"))
    edit(path, lambda content: [item.update(change) for item in content["intrinsics"]] and None)
    with pytest.raises(UserError, match=message):
        read_meshroom(path)


def test_opensfm_fisheye_and_several_reconstructions(tmp_path):
    views = views_of("opensfm")
    path = write_dataset("opensfm", tmp_path, views)
    file = path / "opensfm" / "reconstruction.json"

    def fisheye(parts):
        for camera in parts[0]["cameras"].values():
            focal = camera.pop("focal_x")
            for key in ("focal_y", "c_x", "c_y", "p1", "p2", "k3"):
                camera.pop(key)
            camera |= {"projection_type": "fisheye", "focal": focal, "k1": 0.1, "k2": -0.02}
        return [{"cameras": {}, "shots": {}}, *parts]

    edit(file, fisheye)
    found = read_opensfm(path)
    lens = found.photographs[0].lens
    assert lens.fisheye
    assert lens.distortion == (0.1, -0.02, 0.0, 0.0)
    assert found.points.shape == (1, 3)


def test_bundler_lists_what_was_not_registered(tmp_path):
    path = write_dataset("bundler", tmp_path, views_of("bundler"))
    assert "images/unseen.png: not registered" in read_bundler(path).left_out
    listing = (path / "list.txt").read_text().splitlines()
    (path / "list.txt").write_text("\n".join(listing[:-1]) + "\n")
    with pytest.raises(UserError, match=r"names 5 images, but bundle.out has 6 cameras"):
        read_bundler(path)


# --- data sets --------------------------------------------------------------------------------------------------------


def test_neus_masks_and_sphere(tmp_path):
    views = views_of("neus")
    path = write_dataset("neus", tmp_path, views)
    for view in views:
        write_mask(path / "mask" / view.name, view.lens)
    matrices = dict(np.load(path / "cameras_sphere.npz"))
    matrices["scale_mat_0"][:3, 3] = [0.1, 0.2, 0.3]
    np.savez(path / "cameras_sphere.npz", **matrices)
    found = read_neus(path)
    assert [p.mask.name for p in found.photographs] == [view.name for view in views]
    assert found.placement.origin == (0.1, 0.2, 0.3)
    assert found.placement.scale == pytest.approx(4)  # the cube around a sphere of radius 2
    (path / "mask" / views[0].name).unlink()
    assert "has 4 masks for 5 images: they are not used" in read_neus(path).notes[0]


def test_cameras_of_dvr_are_refused(tmp_path):
    """They have the same names, but hold poses without focal lengths."""
    path = write_dataset("neus", tmp_path, views_of("neus"))
    np.savez(path / "cameras.npz", **{f"world_mat_{i}": np.eye(4) for i in range(COUNT)})
    (path / "cameras_sphere.npz").unlink()
    with pytest.raises(UserError, match="has no focal length"):
        read_neus(path)


def test_nerfpp_where_validation_is_test(tmp_path):
    path = write_dataset("nerfpp", tmp_path, views_of("nerfpp"))
    for split in ("test", "validation"):
        for kind in ("rgb", "pose", "intrinsics"):
            (path / split / kind).mkdir(parents=True)
            for file in sorted((path / "train" / kind).iterdir())[:2]:
                shutil.copyfile(file, path / split / kind / file.name)
    for pose in (path / "test" / "pose", path / "validation" / "pose"):
        for file in pose.iterdir():
            file.write_text(file.read_text() + "\n")  # other cameras than those of training
    found = read_nerfpp(path)
    assert {split: len(views) for split, views in found.splits.items()} == {"train": COUNT, "test": 2}


def test_co3d_version_1_with_masks_and_points(tmp_path):
    """Units of half of either side, several sequences, masks and the point cloud."""
    views = views_of("co3d")
    path = write_dataset("co3d", tmp_path, views)
    file = tmp_path / "cup" / "frame_annotations.jgz"
    frames = json.loads(gzip.decompress(file.read_bytes()))
    for frame, view in zip(frames, views, strict=True):
        lens, viewpoint = view.lens, frame["viewpoint"]
        viewpoint.pop("intrinsics_format")  # the default of version 1
        viewpoint["focal_length"] = [2 * lens.fx / lens.width, 2 * lens.fy / lens.height]
        viewpoint["principal_point"] = [1 - 2 * lens.cx / lens.width, 1 - 2 * lens.cy / lens.height]
        frame["mask"] = {"path": f"cup/one/masks/{view.name}", "mass": 1.0}
        write_mask(path / "masks" / view.name, lens)
    other = {**frames[0], "sequence_name": "two"}
    without = {**frames[0], "viewpoint": None, "image": {**frames[0]["image"], "path": "cup/one/images/none.png"}}
    file.write_bytes(gzip.compress(json.dumps([*frames, other, without]).encode()))
    points = np.random.default_rng(1).normal(size=(9, 3))
    write_ply(path / "pointcloud.ply", points)
    found = read_co3d(path)
    for photograph, view in zip(found.photographs, views, strict=True):
        assert photograph.mask == path / "masks" / view.name
        assert (photograph.lens.fx, photograph.lens.cy) == pytest.approx((view.lens.fx, view.lens.cy))
    np.testing.assert_allclose(found.points, points, atol=1e-6)
    assert "cup/one/images/none.png: has no viewpoint" in found.left_out
    assert len(read_co3d(tmp_path / "cup", "one").photographs) == COUNT
    with pytest.raises(UserError, match=r"give source.sequence=NAME, one of its 2 sequences: one, two"):
        read_co3d(tmp_path / "cup")


def test_record3d_without_intrinsics_of_frames(tmp_path):
    views = views_of("record3d")
    path = write_dataset("record3d", tmp_path, views)
    edit(path / "metadata.json", lambda content: content.pop("perFrameIntrinsicCoeffs") and None)
    (path / "metadata.json").rename(path / "metadata")  # as in an unpacked .r3d
    (path / "rgb").rename(path / "rgbd")
    assert read_record3d(path).in_metres
    lens = read_record3d(path).photographs[0].lens
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == pytest.approx(
        (views[0].lens.fx, views[0].lens.fy, views[0].lens.cx, views[0].lens.cy)
    )
    assert recognise(path)[0].source == "record3d"
    edit(path / "metadata", lambda content: content.update(poses=[content["poses"][0]] * COUNT))
    with pytest.raises(UserError, match="recordings of the front camera have none"):
        read_record3d(path)


def test_polycam_without_corrected_cameras(tmp_path):
    path = write_dataset("polycam", tmp_path, views_of("polycam"))
    (path / "keyframes" / "corrected_cameras").rename(path / "keyframes" / "cameras")
    (path / "keyframes" / "corrected_images").rename(path / "keyframes" / "images")
    found = read_polycam(path)
    assert len(found.photographs) == COUNT
    assert "Polycam has not corrected these cameras" in found.notes[0]
    assert found.up == (0.0, 1.0, 0.0)
    assert found.in_metres


@pytest.mark.parametrize("name", ["colmap", "metashape", "llff"])
def test_images_elsewhere(name, tmp_path):
    path = write_dataset(name, tmp_path / "in", views_of(name))
    elsewhere = tmp_path / "photographs"
    (tmp_path / "in" / FORMATS[name].images).rename(elsewhere)
    source = source_of(name, path)
    object.__setattr__(source, "images", str(elsewhere))
    assert len(read_posed(path, source).photographs) == COUNT
    object.__setattr__(source, "images", "nowhere")
    with pytest.raises(UserError, match="nowhere|give source.images"):
        read_posed(path, source)
