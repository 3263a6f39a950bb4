"""Importer of the cameras that Agisoft Metashape exports as XML."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dv.errors import UserError
from dv.importers.listed_views import only_file, photographs_of_files
from dv.prepare.lens import Lens
from dv.prepare.named_images import named_images
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import RigidPoses
from dv.runtime.foreign_files import numbers_of, read_text

Element = ElementTree.Element
FISHEYES = {"fisheye", "equidistant_fisheye"}
SUFFIX, WORDS = ".xml", ("<chunk", "<sensors")  # by which the file is recognised


def read_metashape(path: Path, images: Path | None = None) -> PhotographSet:
    """Read the XML of File > Export > Export Cameras.

    A camera's ``transform`` is camera-to-chunk by rows in OpenCV axes; that of its component or chunk (rotation, scale,
    translation) takes it to the world, in metres if the chunk is georeferenced. ``f cx cy b1 b2`` are px, the principal
    point relative to the middle of the image, and the centre of the first pixel is (0.5, 0.5). ``k1 k2 k3`` are
    OpenCV's; its p1 and p2 are Metashape's P2 and P1. Cameras without a transform were not aligned and are left out.
    Labels that several cameras have are those of images in the folders that their groups are called after.
    Source: Metashape manual, appendix "Camera models".

    Args:
        path: the XML file, or a folder with one.
        images: folder of the images; None: see :func:`~dv.prepare.named_images.named_images`.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = only_file(path, SUFFIX, WORDS, "XML files of Metashape")
    chunk = _read_chunk(file)
    sensors = {sensor.get("id", ""): sensor for sensor in chunk.iter("sensor")}
    worlds = {
        component.get("id", ""): _World.of(component.find("transform"), file) for component in chunk.iter("component")
    }
    world = _World.of(chunk.find("transform"), file)
    poses, left_out = RigidPoses(), list[str]()

    def camera(element: Element, _size: tuple[int, int]) -> tuple[Array, Lens]:
        matrix = _numbers(element.findtext("transform"), 16, "transform").reshape(4, 4)
        sensor = sensors.get(element.get("sensor_id", ""))
        if sensor is None:
            raise UserError(f"names sensor {element.get('sensor_id')}, which the file does not list")
        pose = poses.rigid(matrix)
        return worlds.get(element.get("component_id", ""), world).place(pose), _lens(sensor)

    groups = {camera: group.get("label", "") for group in chunk.iter("group") for camera in group.iter("camera")}
    labels = Counter(element.get("label", "") for element in chunk.iter("camera"))
    cameras = {}
    for element in chunk.iter("camera"):
        label = element.get("label", "")
        if labels[label] > 1 and groups.get(element):
            label = f"{groups[element]}/{label}"
        if element.find("transform") is None:
            left_out.append(f"{label}: not aligned")
        elif label in cameras:
            raise UserError(
                f"{file}: two cameras have the label {label}; put them into groups "
                "named after the folders of their images, and export again"
            )
        else:
            cameras[label] = partial(camera, element)
    if not cameras:
        raise UserError(f"{file}: no camera is aligned; align the photographs and export again")
    found = photographs_of_files(file, {"train": cameras}, named_images(path, images))
    return found.with_more(notes=poses.notes(), left_out=left_out, files=[file])


def _read_chunk(file: Path) -> Element:
    try:
        root = ElementTree.fromstring(read_text(file))
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not XML ({error}); it may be truncated") from error
    chunk = root if root.tag == "chunk" else root.find("chunk")
    if chunk is None:
        raise UserError(f"{file}: has no chunk: not a camera file of Metashape")
    return chunk


@dataclass(frozen=True)
class _World:
    """Similarity from a chunk to the world: rotation ``[3, 3]``, scale and translation ``[3]``."""

    rotation: Array
    scale: float
    translation: Array

    @classmethod
    def of(cls, transform: Element | None, file: Path) -> _World:
        if transform is None:
            return cls(np.eye(3), 1.0, np.zeros(3))
        try:
            rotation = _numbers(transform.findtext("rotation", "1 0 0 0 1 0 0 0 1"), 9, "rotation").reshape(3, 3)
            translation = _numbers(transform.findtext("translation", "0 0 0"), 3, "translation")
            scale = _numbers(transform.findtext("scale", "1"), 1, "scale").item()
        except UserError as error:
            raise UserError(f"{file}: the transform of the chunk: {error}") from None
        if not scale > 0 or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3:
            raise UserError(f"{file}: the transform of the chunk is not a rotation, a positive scale and a translation")
        return cls(rotation, scale, translation)

    def place(self, pose: Array) -> Array:
        placed = pose.copy()
        placed[:3, :3] = self.rotation @ pose[:3, :3]
        placed[:3, 3] = self.scale * self.rotation @ pose[:3, 3] + self.translation
        return placed


def _numbers(text: str | None, count: int, what: str) -> Array:
    try:
        numbers = np.array(numbers_of((text or "").replace("\n", " ")))
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UserError(f"{what} must hold {count} numbers, but is: {(text or 'missing').strip()[:60]}")
    return numbers


def _lens(sensor: Element) -> Lens:
    found = {item.get("class", "adjusted"): item for item in sensor.findall("calibration")}
    calibration = found.get("adjusted", found.get("initial"))
    if calibration is None:
        raise UserError(f"its sensor {sensor.get('label', '')} of type {sensor.get('type')} has no calibration, "
                        "which is not supported")  # fmt: skip
    kind = calibration.get("type") or sensor.get("type") or "frame"
    if kind not in FISHEYES | {"frame"}:
        raise UserError(f"its sensor is of type {kind}, which is not supported; export undistorted photographs")
    resolution = calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    if resolution is None:
        raise UserError("its sensor has no resolution")
    width, height = (_numbers(resolution.get(key), 1, f"the {key} of its sensor").item() for key in ("width", "height"))
    width, height = round(width), round(height)
    keys = ("fx", "fy", "f", "cx", "cy", "b1", "b2", "skew", "k1", "k2", "k3", "k4", "p1", "p2", "p3", "p4")
    p = {key: _numbers(calibration.findtext(key, "0"), 1, key).item() for key in keys}
    old = calibration.find("fx") is not None  # of PhotoScan: the principal point is relative to the corner
    fx, fy = (p["fx"], p["fy"]) if old else (p["f"] + p["b1"], p["f"])
    cx, cy = (p["cx"], p["cy"]) if old else (width / 2 + p["cx"], height / 2 + p["cy"])
    skew = p["b2"] + p["skew"]
    if abs(skew) * height > 2 * abs(fy):  # at the upper edge the skew moves pixels by more than one
        raise UserError(f"its pixels are skewed (b2 is {skew:g} px); fit no b2, or export undistorted photographs")
    if p["p3"] or p["p4"] or (kind == "frame" and p["k4"]):
        raise UserError("k4, p3 and p4 are not supported; fit none of them, or export undistorted photographs")
    if kind == "frame":
        p1, p2 = (p["p1"], p["p2"]) if old else (p["p2"], p["p1"])
        return Lens(width, height, fx, fy, cx, cy, (p["k1"], p["k2"], p1, p2, p["k3"]))
    if p["p1"] or p["p2"]:
        raise UserError("a fisheye with p1 and p2 is not supported; fit none, or export undistorted photographs")
    return Lens(width, height, fx, fy, cx, cy, (p["k1"], p["k2"], p["k3"], p["k4"]), fisheye=True)
