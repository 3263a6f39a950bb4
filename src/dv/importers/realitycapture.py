"""Importer of the CSV of camera parameters that RealityCapture and RealityScan export."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np

from dv.errors import UserError
from dv.importers.listed_views import only_file, photographs_of_files, pose_of
from dv.prepare.lens import Lens
from dv.prepare.named_images import named_images
from dv.prepare.photographs import PhotographSet
from dv.prepare.placement import Array
from dv.runtime.foreign_files import numbers_of, read_text

COLUMNS = ("x", "y", "alt", "heading", "pitch", "roll", "f", "px", "py", "k1", "k2", "k3", "k4", "t1", "t2")
OTHER_NAMES = {"yaw": "heading", "f_35mm": "f", "px_norm": "px", "py_norm": "py"}  # of RealityScan 2
OPTIONAL = {"k1", "k2", "k3", "k4", "t1", "t2"}
FILM_WIDTH = 36.0  # mm, of the focal length
SUFFIX, WORDS = ".csv", ("name", "alt", "pitch", "roll")  # by which the file is recognised


def read_realitycapture(path: Path, images: Path | None = None) -> PhotographSet:
    """Read the CSV "Internal/External camera parameters": ``#name,x,y,alt,heading,pitch,roll,f,px,py,k1,…,t2``.

    ``x y alt`` are the camera's place, z up. Its rotation is ``Rz(-heading) Rx(pitch) Ry(roll)``, camera-to-world in
    OpenGL axes, in degrees: at 0, 0, 0 it looks down and the top of the image is north. ``f`` is the focal length of a
    36 mm wide film, ``px`` and ``py`` the principal point relative to the middle of the image, both in units of the
    longer side. ``k1 k2 k3`` are OpenCV's; its p1 and p2 are t2 and t1. Source: Epic Games, "On the Coordinate Systems
    Employed in RealityScan".

    Args:
        path: the CSV file, or a folder with one.
        images: folder of the images; None: see :func:`~dv.prepare.named_images.named_images`.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    file = only_file(path, SUFFIX, WORDS, "CSV files of RealityCapture")
    cameras = {name: partial(_camera, values) for name, values in _read_rows(file).items()}
    found = photographs_of_files(file, {"train": cameras}, named_images(path, images))
    return found.with_more(files=[file], up=(0.0, 0.0, 1.0))


def _header(text: str) -> tuple[int, str, list[str]] | None:
    """Return the number of the line with the names of the columns, what separates them, and the names."""
    for number, line in enumerate(text.splitlines()[:3]):
        separator = ";" if line.count(";") > line.count(",") else "\t" if "\t" in line else ","
        names = [name.strip().lstrip("#").strip().lower() for name in line.split(separator)]
        names = [OTHER_NAMES.get(name, name) for name in names]
        if {"name", "x", "y", "alt", "heading", "pitch", "roll", "f"} <= set(names):
            return number, separator, names
    return None


def _read_rows(file: Path) -> dict[str, dict[str, float]]:
    text = read_text(file)
    header = _header(text)
    if header is None:
        raise UserError(f"{file}: has no line #name,x,y,alt,heading,pitch,roll,f,px,py,…; export "
                        "\"Internal/External camera parameters\"")  # fmt: skip
    number, separator, names = header
    absent = [name for name in COLUMNS if name not in names and name not in OPTIONAL]
    if absent:
        raise UserError(f"{file}: has no column {', '.join(absent)}")
    rows: dict[str, dict[str, float]] = {}
    lines = text.splitlines()[number + 1 :]
    for line, fields in enumerate(csv.reader(lines, delimiter=separator), number + 2):
        if not any(field.strip() for field in fields):
            continue
        row = dict(zip(names, fields, strict=False))
        if len(fields) < len(names) or not row["name"].strip():
            raise UserError(f"{file}: line {line} has {len(fields)} of {len(names)} columns; it may be truncated")
        if row["name"] in rows:
            raise UserError(f"{file}: line {line} names {row['name']} for the second time")
        try:
            rows[row["name"]] = {key: _number(row[key]) for key in COLUMNS if key in row}
        except ValueError:
            raise UserError(f"{file}: line {line} has something that is not a number") from None
    if not rows:
        raise UserError(f"{file}: lists no cameras")
    return rows


def _number(text: str) -> float:
    (number,) = numbers_of(text)
    if not np.isfinite(number):
        raise ValueError
    return number


def _camera(row: dict[str, float], size: tuple[int, int]) -> tuple[Array, Lens]:
    width, height = size
    longest = max(size)
    if row.get("k4"):
        raise UserError("k4 is not 0, which is not supported; align with Brown3 or export undistorted images")
    f = row["f"] * longest / FILM_WIDTH
    cx, cy = row["px"] * longest + width / 2, row["py"] * longest + height / 2
    k1, k2, k3, t1, t2 = (row.get(key, 0.0) for key in ("k1", "k2", "k3", "t1", "t2"))
    yaw, pitch, roll = np.radians([-row["heading"], row["pitch"], row["roll"]])
    to_world = _rotation(2, yaw) @ _rotation(0, pitch) @ _rotation(1, roll)
    pose = pose_of(to_world * [1, -1, -1], np.array([row["x"], row["y"], row["alt"]]))
    return pose, Lens(width, height, f, f, cx, cy, (k1, k2, t2, t1, k3))


def _rotation(axis: int, angle: float) -> Array:
    """Return the matrix ``[3, 3]`` of a right-handed rotation about an axis, angle in radians."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[b, a], matrix[a, b] = np.sin(angle), -np.sin(angle)
    return matrix
