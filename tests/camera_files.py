"""Writers of every format of cameras that dv reads, from known cameras: each as the format's documentation says."""

import csv
import gzip
import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from dv.config.prepare import Co3dSource, FolderSource, LayoutSource, MiddleburySource, NamedImagesSource
from dv.importers.readers import LAYOUTS, NAMED_IMAGES
from dv.prepare.lens import Lens

GL = np.diag([1.0, -1, -1, 1])  # from OpenCV's axes of a camera to those of OpenGL, and back


@dataclass(frozen=True)
class View:
    """A camera: name of its image, pose (camera-to-world, OpenCV axes) and lens."""

    name: str
    pose: np.ndarray
    lens: Lens


@dataclass(frozen=True)
class Format:
    """How a format is written, and which cameras it can hold."""

    write: Callable[[Path, list[View]], Path]  # into an empty folder; returns what to give as source.path
    images: str  # folder of the images
    square_pixels: bool = False
    central: bool = False
    coefficients: int = 0  # of distortion, k1 k2 p1 p2 k3


def write_images(folder: Path, views: list[View]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, view in enumerate(views):
        image = np.full((view.lens.height, view.lens.width, 3), 40 + 10 * (i % 20), np.uint8)
        (folder / view.name).write_bytes(cv2.imencode(Path(view.name).suffix, image)[1].tobytes())


def world_to_camera(view: View) -> np.ndarray:
    inverse = np.eye(4)
    inverse[:3, :3] = view.pose[:3, :3].T
    inverse[:3, 3] = -view.pose[:3, :3].T @ view.pose[:3, 3]
    return inverse


def matrix(lens: Lens, center: float = 0.5) -> np.ndarray:
    """K for pixels whose first centre is at ``center``."""
    shift = center - 0.5
    return np.array([[lens.fx, 0, lens.cx + shift], [0, lens.fy, lens.cy + shift], [0, 0, 1]])


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_rows(path: Path, rows: np.ndarray) -> None:
    path.write_text("".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist()))


def coefficients(lens: Lens) -> list[float]:
    return [*lens.distortion, *[0.0] * (5 - len(lens.distortion))]


def transforms(folder: Path, views: list[View]) -> Path:
    frames = []
    for view in views:
        k1, k2, p1, p2, k3 = coefficients(view.lens)
        frames.append(
            {
                "file_path": f"images/{view.name}", "transform_matrix": (view.pose @ GL).tolist(),
                "fl_x": view.lens.fx, "fl_y": view.lens.fy, "cx": view.lens.cx, "cy": view.lens.cy,
                "w": view.lens.width, "h": view.lens.height, "k1": k1, "k2": k2, "k3": k3, "p1": p1, "p2": p2,
            }
        )  # fmt: skip
    write_json(folder / "transforms.json", {"camera_model": "OPENCV", "frames": frames})
    return folder


def nsvf(folder: Path, views: list[View]) -> Path:
    k = np.eye(4)
    k[:3, :3] = matrix(views[0].lens)
    write_rows(folder / "intrinsics.txt", k)
    (folder / "pose").mkdir()
    for view in views:
        write_rows(folder / "pose" / f"{Path(view.name).stem}.txt", view.pose)
    return folder


def srn(folder: Path, views: list[View]) -> Path:
    lens = views[0].lens
    text = f"{lens.fx!r} {lens.cx!r} {lens.cy!r} 0.\n0. 0. 0.\n1.\n{lens.height} {lens.width}\n"
    (folder / "intrinsics.txt").write_text(text)
    (folder / "pose").mkdir()
    for view in views:
        numbers = " ".join(repr(x) for x in view.pose.ravel().tolist())
        (folder / "pose" / f"{Path(view.name).stem}.txt").write_text(numbers + "\n")
    return folder


def nerfpp(folder: Path, views: list[View]) -> Path:
    for name in ("pose", "intrinsics"):
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
    for view in views:
        k = np.eye(4)
        k[:3, :3] = matrix(view.lens)
        for name, content in (("pose", view.pose), ("intrinsics", k)):
            numbers = " ".join(repr(x) for x in content.ravel().tolist())
            (folder / "train" / name / f"{Path(view.name).stem}.txt").write_text(numbers)
    return folder


def llff(folder: Path, views: list[View]) -> Path:
    rows = []
    for view in views:
        c = view.pose[:3]
        hwf = np.array([view.lens.height, view.lens.width, view.lens.fx])
        rows.append([*np.stack([c[:, 1], c[:, 0], -c[:, 2], c[:, 3], hwf], 1).ravel(), 1.0, 9.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


def neus(folder: Path, views: list[View]) -> Path:
    arrays = {}
    for i, view in enumerate(views):
        world = np.eye(4)
        world[:3] = 3.0 * matrix(view.lens, center=0.0) @ world_to_camera(view)[:3]
        arrays |= {f"world_mat_{i}": world, f"scale_mat_{i}": np.diag([2.0, 2, 2, 1])}
    np.savez(folder / "cameras_sphere.npz", **arrays)
    return folder


def metashape(folder: Path, views: list[View]) -> Path:
    """With the transform of a chunk: poses in the file are in another world, turned and twice as small."""
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    shift, scale = views[0].pose[:3, 3], 2.0
    document = ElementTree.Element("document", version="1.5.0")
    chunk = ElementTree.SubElement(document, "chunk")
    sensors, components = ElementTree.SubElement(chunk, "sensors"), ElementTree.SubElement(chunk, "components")
    transform = ElementTree.SubElement(ElementTree.SubElement(components, "component", id="0"), "transform")
    for tag, numbers in (("rotation", turn.ravel()), ("translation", shift), ("scale", [scale])):
        ElementTree.SubElement(transform, tag).text = " ".join(repr(float(x)) for x in numbers)
    cameras = ElementTree.SubElement(ElementTree.SubElement(chunk, "cameras"), "group", label="all")
    for i, view in enumerate(views):
        lens = view.lens
        k1, k2, p1, p2, k3 = coefficients(lens)
        size = {"width": str(lens.width), "height": str(lens.height)}
        sensor = ElementTree.SubElement(sensors, "sensor", id=str(i), type="frame")
        for kind, f in (("initial", 1.0), ("adjusted", lens.fy)):
            calibration = ElementTree.SubElement(sensor, "calibration", {"type": "frame", "class": kind})
            ElementTree.SubElement(calibration, "resolution", size)
            values = {"f": f, "cx": lens.cx - lens.width / 2, "cy": lens.cy - lens.height / 2, "b1": lens.fx - lens.fy,
                      "k1": k1, "k2": k2, "k3": k3, "p1": p2, "p2": p1}  # fmt: skip
            for key, value in values.items():
                ElementTree.SubElement(calibration, key).text = repr(float(value))
        local = view.pose.copy()
        local[:3, :3] = turn.T @ view.pose[:3, :3]
        local[:3, 3] = turn.T @ (view.pose[:3, 3] - shift) / scale
        label = {"id": str(i), "sensor_id": str(i), "component_id": "0", "label": Path(view.name).stem}
        camera = ElementTree.SubElement(cameras, "camera", label)
        ElementTree.SubElement(camera, "transform").text = " ".join(repr(float(x)) for x in local.ravel())
    ElementTree.SubElement(cameras, "camera", id="99", sensor_id="0", label="unaligned")
    (folder / "cameras.xml").write_bytes(ElementTree.tostring(document))
    return folder / "cameras.xml"


def realitycapture(folder: Path, views: list[View]) -> Path:
    """Angles from the rotation Rz(-heading) Rx(pitch) Ry(roll) of OpenGL's axes."""
    with (folder / "cameras.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["#name", "x", "y", "alt", "heading", "pitch", "roll", "f", "px", "py", "k1", "k2", "k3", "k4", "t1", "t2"]
        )
        for view in views:
            r = view.pose[:3, :3] * [1, -1, -1]
            heading, pitch = np.arctan2(r[0, 1], r[1, 1]), np.arcsin(np.clip(r[2, 1], -1, 1))
            angles = np.degrees([heading, pitch, np.arctan2(-r[2, 0], r[2, 2])])
            lens, longest = view.lens, max(view.lens.width, view.lens.height)
            k1, k2, p1, p2, k3 = coefficients(lens)
            center = [(lens.cx - lens.width / 2) / longest, (lens.cy - lens.height / 2) / longest]
            numbers = [*view.pose[:3, 3], *angles, lens.fx / longest * 36, *center, k1, k2, k3, 0.0, p2, p1]
            writer.writerow([view.name, *(repr(float(x)) for x in numbers)])
    return folder / "cameras.csv"


def polycam(folder: Path, views: list[View]) -> Path:
    for view in views:
        pose, lens = view.pose @ GL, view.lens
        content = {f"t_{i}{j}": pose[i, j] for i in range(3) for j in range(4)}
        content |= {"fx": lens.fx, "fy": lens.fy, "cx": lens.cx, "cy": lens.cy, "width": lens.width,
                    "height": lens.height, "blur_score": 100.0}  # fmt: skip
        write_json(folder / "keyframes" / "corrected_cameras" / f"{Path(view.name).stem}.json", content)
    return folder


def record3d(folder: Path, views: list[View]) -> Path:
    poses, intrinsics = [], []
    for view in views:
        pose, lens = view.pose @ GL, view.lens
        axis, angle = _axis_angle(pose[:3, :3])
        poses.append([*(np.sin(angle / 2) * axis), np.cos(angle / 2), *pose[:3, 3]])
        intrinsics.append([lens.fx, lens.fy, lens.cx, lens.cy])
    content = {
        "poses": poses,
        "K": matrix(views[0].lens).T.ravel().tolist(),
        "w": views[0].lens.width,
        "h": views[0].lens.height,
        "fps": 60,
        "perFrameIntrinsicCoeffs": intrinsics,
    }
    write_json(folder / "metadata.json", content)
    return folder


def _axis_angle(rotation: np.ndarray) -> tuple[np.ndarray, float]:
    vector = cv2.Rodrigues(rotation)[0][:, 0]
    angle = float(np.linalg.norm(vector))
    return (vector / angle if angle else np.array([1.0, 0, 0])), angle


def opensfm(folder: Path, views: list[View]) -> Path:
    cameras, shots = {}, {}
    for view in views:
        lens, longest = view.lens, max(view.lens.width, view.lens.height)
        k1, k2, p1, p2, k3 = coefficients(lens)
        cameras[f"v2 {view.name}"] = {
            "projection_type": "brown", "width": lens.width, "height": lens.height,
            "focal_x": lens.fx / longest, "focal_y": lens.fy / longest,
            "c_x": (lens.cx - lens.width / 2) / longest, "c_y": (lens.cy - lens.height / 2) / longest,
            "k1": k1, "k2": k2, "p1": p1, "p2": p2, "k3": k3,
        }  # fmt: skip
        to_camera = world_to_camera(view)
        rotation = cv2.Rodrigues(to_camera[:3, :3])[0][:, 0].tolist()
        shots[view.name] = {"camera": f"v2 {view.name}", "rotation": rotation, "translation": to_camera[:3, 3].tolist()}
    points = {"1": {"coordinates": [0.0, 0.0, 0.0], "color": [1, 2, 3]}}
    write_json(folder / "opensfm" / "reconstruction.json", [{"cameras": cameras, "shots": shots, "points": points}])
    return folder


def openmvg(folder: Path, views: list[View]) -> Path:
    first = 0x80000000
    listed, intrinsics, extrinsics = [], [], []
    for i, view in enumerate(views):
        k1, k2, p1, p2, k3 = coefficients(view.lens)
        data = {"local_path": "", "filename": view.name, "width": view.lens.width, "height": view.lens.height,
                "id_view": i, "id_intrinsic": i, "id_pose": i}  # fmt: skip
        listed.append({"key": i, "value": {"polymorphic_id": 1 << 30, "ptr_wrapper": {"id": first + i, "data": data}}})
        data = {"width": view.lens.width, "height": view.lens.height, "focal_length": view.lens.fx,
                "principal_point": [view.lens.cx, view.lens.cy], "disto_t2": [k1, k2, k3, p1, p2]}  # fmt: skip
        kind = (
            {"polymorphic_id": first + 1, "polymorphic_name": "pinhole_brown_t2"} if i == 0 else {"polymorphic_id": 1}
        )
        intrinsics.append({"key": i, "value": {**kind, "ptr_wrapper": {"id": first + 100 + i, "data": data}}})
        to_camera = world_to_camera(view)[:3, :3].tolist()
        extrinsics.append({"key": i, "value": {"rotation": to_camera, "center": view.pose[:3, 3].tolist()}})
    content = {"sfm_data_version": "0.3", "root_path": "/somewhere/else", "views": listed, "intrinsics": intrinsics,
               "extrinsics": extrinsics, "structure": [], "control_points": []}  # fmt: skip
    return write_json(folder / "sfm_data.json", content)


def meshroom(folder: Path, views: list[View]) -> Path:
    listed, intrinsics, poses = [], [], []
    for i, view in enumerate(views):
        lens, number = view.lens, str(1000 + i)
        k1, k2, p1, p2, k3 = coefficients(lens)
        listed.append({"viewId": number, "poseId": number, "intrinsicId": number, "path": f"C:\\photos\\{view.name}"})
        intrinsics.append(
            {
                "intrinsicId": number, "width": str(lens.width), "height": str(lens.height), "sensorWidth": "36",
                "sensorHeight": "24", "type": "brown", "pixelRatio": repr(lens.fy / lens.fx),
                "focalLength": repr(lens.fy / lens.width * 36),
                "principalPoint": [repr(lens.cx - lens.width / 2), repr(lens.cy - lens.height / 2)],
                "distortionParams": [repr(x) for x in (k1, k2, k3, p1, p2)],
            }
        )  # fmt: skip
        by_columns = world_to_camera(view)[:3, :3].T.ravel()
        transform = {"rotation": [repr(float(x)) for x in by_columns],
                     "center": [repr(float(x)) for x in view.pose[:3, 3]]}  # fmt: skip
        poses.append({"poseId": number, "pose": {"transform": transform, "locked": "0"}})
    content = {"version": ["1", "2", "11"], "featuresFolders": "", "views": listed, "intrinsics": intrinsics,
               "poses": poses}  # fmt: skip
    return write_json(folder / "cameras.sfm", content)


def bundler(folder: Path, views: list[View]) -> Path:
    lines = ["# Bundle file v0.3", f"{len(views) + 1} 1"]
    for view in views:
        k1, k2, *_ = coefficients(view.lens)
        to_camera = np.diag([1.0, -1, -1]) @ world_to_camera(view)[:3]
        lines.append(f"{view.lens.fx!r} {k1!r} {k2!r}")
        lines += [" ".join(repr(float(x)) for x in row) for row in (*to_camera[:, :3], to_camera[:, 3])]
    lines += ["0 0 0"] * 5  # a camera that was not registered
    lines += ["0.5 0.5 0.5", "10 20 30", "3 0 1 0.5 0.5 1 2 0.5 0.5 2 3 0.5 0.5"]
    (folder / "bundle.out").write_text("\n".join(lines) + "\n")
    (folder / "list.txt").write_text("".join(f"images/{view.name} 0 500.0\n" for view in views) + "images/unseen.png\n")
    return folder


def co3d(folder: Path, views: list[View]) -> Path:
    frames = []
    for i, view in enumerate(views):
        lens = view.lens
        half = min(lens.width, lens.height) / 2
        flip = np.diag([-1.0, -1, 1])
        to_camera = world_to_camera(view)
        viewpoint = {
            "R": (flip @ to_camera[:3, :3]).T.tolist(), "T": (flip @ to_camera[:3, 3]).tolist(),
            "focal_length": [lens.fx / half, lens.fy / half],
            "principal_point": [(lens.width / 2 - lens.cx) / half, (lens.height / 2 - lens.cy) / half],
            "intrinsics_format": "ndc_isotropic",
        }  # fmt: skip
        image = {"path": f"cup/one/images/{view.name}", "size": [lens.height, lens.width]}
        frames.append({"sequence_name": "one", "frame_number": i, "image": image, "viewpoint": viewpoint})
    (folder / "cup").mkdir(exist_ok=True)
    with gzip.open(folder / "cup" / "frame_annotations.jgz", "wt") as file:
        json.dump(frames, file)
    return folder / "cup" / "one"


def middlebury(folder: Path, views: list[View]) -> Path:
    lines = [str(len(views))]
    for view in views:
        to_camera = world_to_camera(view)
        numbers = [*matrix(view.lens, center=0.0).ravel(), *to_camera[:3, :3].ravel(), *to_camera[:3, 3]]
        lines.append(f"{view.name} {' '.join(repr(float(x)) for x in numbers)}")
    (folder / "cup_par.txt").write_text("\n".join(lines) + "\n")
    return folder


def colmap(folder: Path, views: list[View]) -> Path:
    model = folder / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    cameras, images = [], []
    for i, view in enumerate(views, 1):
        lens, to_camera = view.lens, world_to_camera(view)
        k1, k2, p1, p2, k3 = coefficients(lens)
        numbers = [lens.fx, lens.fy, lens.cx, lens.cy, k1, k2, p1, p2, k3, 0, 0, 0]
        cameras.append(f"{i} FULL_OPENCV {lens.width} {lens.height} {' '.join(repr(float(x)) for x in numbers)}")
        axis, angle = _axis_angle(to_camera[:3, :3])
        placed = [np.cos(angle / 2), *(np.sin(angle / 2) * axis), *to_camera[:3, 3]]
        images += [f"{i} {' '.join(repr(float(x)) for x in placed)} {i} {view.name}", ""]
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", [])):
        (model / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def folder(root: Path, views: list[View]) -> Path:
    """dv's own layout, with a camera for every view."""
    split = root / "train" / "cup"
    cameras = []
    (split / "pose").mkdir(parents=True, exist_ok=True)
    for view in views:
        write_rows(split / "pose" / f"{Path(view.name).stem}.txt", view.pose)
        k = view.lens
        cameras.append({"fx": k.fx, "fy": k.fy, "cx": k.cx, "cy": k.cy, "width": k.width, "height": k.height})
    numbers = {Path(view.name).stem: i for i, view in enumerate(views)}
    write_json(split / "cameras.json", {"cameras": cameras, "views": numbers})
    write_json(split / "dataset.json", {"pixel_center": 0.5})
    k = views[0].lens
    (split / "intrinsics.txt").write_text(f"{k.fx} {k.cx} {k.cy} 0.\n0. 0. 0.\n1.\n2.\n{k.height} {k.width}\n")
    return root


FORMATS: dict[str, Format] = {
    "transforms": Format(transforms, "images", coefficients=5),
    "nsvf": Format(nsvf, "rgb"),
    "srn": Format(srn, "rgb", square_pixels=True),
    "nerfpp": Format(nerfpp, "train/rgb"),
    "llff": Format(llff, "images", square_pixels=True, central=True),
    "neus": Format(neus, "image"),
    "metashape": Format(metashape, "images", coefficients=5),
    "realitycapture": Format(realitycapture, "images", square_pixels=True, coefficients=5),
    "polycam": Format(polycam, "keyframes/corrected_images"),
    "record3d": Format(record3d, "rgb"),
    "opensfm": Format(opensfm, "images", coefficients=5),
    "openmvg": Format(openmvg, "images", square_pixels=True, coefficients=5),
    "meshroom": Format(meshroom, "images", coefficients=5),
    "bundler": Format(bundler, "images", square_pixels=True, central=True, coefficients=2),
    "co3d": Format(co3d, "cup/one/images"),
    "middlebury": Format(middlebury, "."),
    "colmap": Format(colmap, "images", coefficients=5),
}
OWN = {"folder": Format(folder, "train/cup/rgb")}  # whose cameras must see the grid
ONE_LENS = ("nsvf", "srn", "record3d")  # record3d: one size
COUNT = 5  # views of a data set
SHARED = {
    "background": "white",
    "crop": "auto",
    "image_side": None,
    "longest_side": None,
    "mask": None,
    "triangulate": False,
}
SOURCES = {"srn": "nsvf"}  # of formats that have no source of their own


def names_of(name: str, count: int) -> list[str]:
    """Names of images as the format needs them."""
    return [f"{i}.png" if name == "record3d" else f"view {i:03d}.png" for i in range(count)]


def write_dataset(name: str, folder: Path, views: list[View]) -> Path:
    """Write images and cameras into an empty folder; return what to give as ``source.path``."""
    kind = {**FORMATS, **OWN}[name]
    write_images(folder / kind.images, views)  # creates the folder, too
    return kind.write(folder, views)


def source_of(name: str, path: Path):
    """The typed configuration that reads a dataset."""
    name = SOURCES.get(name, name)
    if name in LAYOUTS:
        return LayoutSource(name=name, path=str(path), **SHARED)
    if name in NAMED_IMAGES:
        return NamedImagesSource(name=name, path=str(path), images=None, **SHARED)
    if name == "co3d":
        return Co3dSource(name=name, path=str(path), sequence=None, **SHARED)
    if name == "folder":
        return FolderSource(name=name, path=str(path), object="cup", **SHARED)
    return MiddleburySource(name=name, path=str(path), par=None, input_pixel_center=0, **SHARED)


def random_rotation(rng) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.array([1, 1, np.linalg.det(q)])


def random_views(name: str, seed: int, far: float, scale: float) -> list[View]:
    """Cameras with any rotation around a place that is ``far`` from the origin."""
    rng, kind = np.random.default_rng(seed), FORMATS[name]
    place = far * rng.normal(size=3)
    views: list[View] = []
    for image in names_of(name, COUNT):
        width, height = (int(x) for x in rng.integers(6, 40, 2))
        fx = float(rng.uniform(0.5, 3) * width)
        fy = fx if kind.square_pixels else fx * float(rng.uniform(0.8, 1.25))
        cx, cy = (float(side * (0.5 if kind.central else rng.uniform(0.3, 0.7))) for side in (width, height))
        distortion = rng.uniform(-0.05, 0.05, kind.coefficients) * [1, 0.3, 0.1, 0.1, 0.1][: kind.coefficients]
        lens = Lens(width, height, fx, fy, cx, cy, tuple(distortion.tolist()))
        if name in ONE_LENS and views:
            lens = views[0].lens
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = random_rotation(rng), place + scale * rng.normal(size=3)
        views.append(View(image, pose, lens))
    return views


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage the content of a file as disks, editors and other programs do; archives also inside."""
    if rng.random() < 0.7:
        if data.startswith(b"PK"):
            return mutated_arrays(data, rng)
        if data.startswith(b"\x1f\x8b"):
            return gzip.compress(mutated(gzip.decompress(data), rng), mtime=0)
    return mutated_bytes(data, rng)


def mutated_arrays(data: bytes, rng: random.Random) -> bytes:
    """Replace or remove one array of a NumPy archive."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    name = rng.choice(sorted(arrays))
    array = arrays.pop(name)
    number = tuple(rng.randrange(side) for side in array.shape)
    changed = array.copy()
    changed[number] = rng.choice([np.nan, np.inf, 0.0, -1.0, 1e300, 1e-300])
    others = [None, changed, np.zeros_like(array), -array, array[:2], array[:3], array.ravel(), array.astype(str),
              array.astype(complex), array.astype(int), array > 0, np.full_like(array, 1e200), array[..., None],
              np.empty((0, 4)), np.float64(3), array.astype(">f8"), array.astype("datetime64[D]")]  # fmt: skip
    other = rng.choice(others)
    if other is not None:
        arrays[name] = other
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("latin-1")
    numbers = list(re.finditer(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text))
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data) + 1)]
    if kind == 1:
        return b""
    if kind == 2 and data:
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 3:
        start = rng.randrange(len(data) + 1)
        return data[:start] + data[start + rng.randrange(40) :]
    if kind == 4:
        lines = data.split(b"\n")
        rng.shuffle(lines) if rng.random() < 0.5 else lines.pop(rng.randrange(len(lines)))
        return b"\n".join(lines)
    if kind == 5:
        start = rng.randrange(len(data) + 1)
        return data[:start] + data[start : start + rng.randrange(60)] + data[start:]
    if numbers:
        values = [
            "nan",
            "1e999",
            "-1",
            "0",
            "99999999999999999999",
            "9" * 400,
            "null",
            '"x"',
            "[]",
            "{}",
            "true",
            "",
            "1e300",
            "-1e-300",
        ]
        number = rng.choice(numbers)
        return (text[: number.start()] + rng.choice(values) + text[number.end() :]).encode("latin-1")
    return data + bytes(rng.randrange(256) for _ in range(20))
