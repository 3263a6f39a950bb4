"""``transforms.json`` as NeRF, nerfstudio and instant-ngp write it, as posed photographs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.number import is_number
from dv.prepare.photographs import (
    Array,
    Faults,
    Lens,
    Photograph,
    PhotographSet,
    check_absent,
    picture_size,
    rigid,
    unique_names,
)

SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # tried where file_path has none
SPLIT_WORDS = {"train": "train", "validation": "val", "test": "test"}
FISHEYES = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
PERSPECTIVES = {"PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"}
Json = Mapping[str, Any]


def flip_axes(pose: Array) -> Array:
    """OpenGL camera axes (x right, y up, z backwards) of poses ``[..., 4, 4]`` as OpenCV's, and the other way."""
    return np.asarray(pose * np.array([1.0, -1.0, -1.0, 1.0]))


def read_transforms(path: Path) -> PhotographSet:
    """Photographs of a folder with ``transforms_{train,val,test}.json`` or ``transforms.json``, or of one such file.

    Poses are camera-to-world in OpenGL axes there; what a frame says of the lens goes before what the file says.
    Frames without a picture are left out. Raises :class:`UserError` for every fault, and if most pictures are absent.
    """
    files = _files(path)
    faults, absent, left_out = Faults(), list[Path](), list[str]()
    splits: dict[str, list[Photograph | None]] = {}
    provenance: dict[str, Any] = {"files": [str(file) for file in files.values()]}
    total, placement = 0, None
    for split, file in files.items():
        meta = _load(file)
        total += len(meta["frames"])
        placement = placement or _placement(file, meta)
        provenance |= {key: meta[key] for key in ("applied_transform", "applied_scale") if key in meta}
        found = _photographs(file, meta, faults, absent)
        splits |= _by_lists(file, meta, found, faults, left_out) or {split: list(found.values())}
    faults.refuse(path)
    check_absent(absent, total, "file_path must be relative to the .json, or absolute")
    return PhotographSet(
        {split: _named(photographs) for split, photographs in splits.items() if any(photographs)},
        placement=placement,
        provenance=provenance,
        left_out=[f"{picture}: no such file" for picture in absent] + left_out,
    )


def _files(path: Path) -> dict[str, Path]:
    if path.suffix == ".json":
        return {"train": path}
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder; give one that holds transforms.json, or such a file")
    of_splits = {split: path / f"transforms_{word}.json" for split, word in SPLIT_WORDS.items()}
    if of_splits["train"].is_file():
        return {split: file for split, file in of_splits.items() if file.is_file()}
    if (path / "transforms.json").is_file():
        return {"train": path / "transforms.json"}
    there = ", ".join(sorted(file.name for file in path.glob("*.json")))
    raise UserError(
        f"source.path={path}: neither transforms_train.json nor transforms.json there; "
        + (f"give one of its files ({there}) as source.path" if there else "give the folder that holds one")
    )


def _load(file: Path) -> Json:
    try:
        meta = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); it may be truncated") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(frames, list) or not frames:
        raise UserError(f'{file}: must be a JSON object with a list "frames" that is not empty')
    return meta


def _photographs(file: Path, meta: Json, faults: Faults, absent: list[Path]) -> dict[str, Photograph | None]:
    """Photographs by the file that ``file_path`` names, None where it is absent; named by their path so far."""
    found: dict[str, Photograph | None] = {}
    for i, frame in enumerate(meta["frames"]):
        where = f"frame {i}"
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            faults.add(where, 'must be an object with a string "file_path"')
            continue
        where = frame["file_path"]
        named = _beside(file, where)
        if named in found:
            faults.add(where, "file_path is there twice; give every frame a picture of its own")
            continue
        picture = next((p for p in (Path(named + suffix) for suffix in SUFFIXES) if p.is_file()), None)
        found[named] = None
        try:
            pose = flip_axes(rigid(_matrix(frame)))
            if picture is None:
                absent.append(Path(named))
                continue
            mask = frame.get("mask_path")
            if not isinstance(mask, str | None):
                raise UserError(f"mask_path must be a string, not {mask!r}")
            found[named] = Photograph(
                os.path.relpath(picture, file.parent),
                picture,
                pose,
                _lens(meta, frame, *picture_size(picture)),
                Path(_beside(file, mask)) if mask else None,
            )
        except UserError as error:
            faults.add(where, str(error).removeprefix(f"{picture}: "))
    return found


def _beside(file: Path, relative: str) -> str:
    return os.path.normpath(file.parent / relative.replace("\\", "/"))


def _matrix(frame: Json) -> Array:
    try:
        matrix = np.array(frame["transform_matrix"], np.float64)
    except KeyError:
        raise UserError("has no transform_matrix") from None
    except (TypeError, ValueError):
        raise UserError("transform_matrix must be four rows of four numbers") from None
    if matrix.shape == (3, 4):
        return np.concatenate([matrix, [[0, 0, 0, 1]]])
    return matrix


def _lens(meta: Json, frame: Json, width: int, height: int) -> Lens:
    """The lens of a frame's picture of ``width × height`` px, whatever size the file states."""
    both = {**meta, **frame}
    w, h = (round(_number(both, key) or size) for key, size in (("w", width), ("h", height)))
    fx, fy = _focal(meta, frame, "x", w), _focal(meta, frame, "y", h)
    f = fx or fy
    if f is None:
        raise UserError("neither fl_x nor camera_angle_x is given, for the file or for the frame")
    model = str(both.get("camera_model", "OPENCV"))
    if model not in FISHEYES | PERSPECTIVES:
        raise UserError(f"camera_model {model} is no lens that can be undistorted; convert the pictures to PINHOLE")
    fisheye = model in FISHEYES or both.get("is_fisheye") is True
    k1, k2, k3, k4, p1, p2 = (_number(both, key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if fisheye and (p1 or p2):
        raise UserError("p1 and p2 are given, which a fisheye does not have")
    if not fisheye and k4:
        raise UserError("k4 is given, which only a fisheye has; convert the pictures to PINHOLE or OPENCV")
    cx, cy = _number(both, "cx"), _number(both, "cy")
    lens = Lens(
        w,
        h,
        fx or f,
        fy or f,
        w / 2 if cx is None else cx,
        h / 2 if cy is None else cy,
        (k1, k2, k3, k4) if fisheye else (k1, k2, p1, p2, k3),
        fisheye,
    )
    return lens if (w, h) == (width, height) else lens.at_size(width, height)


def _focal(meta: Json, frame: Json, axis: str, size: int) -> float | None:
    for level in (frame, meta):
        f, angle = _number(level, f"fl_{axis}"), _number(level, f"camera_angle_{axis}")
        if f is not None:
            return f
        if angle is not None:
            if not 0 < angle < math.pi:
                raise UserError(f"camera_angle_{axis}={angle:g} must be an angle between 0 and π")
            return size / 2 / math.tan(angle / 2)
    return None


def _number(level: Json, key: str) -> float | None:
    value = level.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise UserError(f"{key} must be a number, not {value!r}")
    return float(value)


def _placement(file: Path, meta: Json) -> GridPlacement | None:
    grid = meta.get("dv_grid")
    if grid is None:
        return None
    try:
        (x, y, z), scale, near = (np.array(grid[key], np.float64).tolist() for key in ("origin", "scale", "near"))
        if np.isfinite([x, y, z]).all() and 0 < scale < math.inf and 0 < near < math.inf:
            return GridPlacement((x, y, z), scale, near)
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f'{file}: dv_grid must be {{"origin": [x, y, z], "scale": side, "near": distance}}; or delete it')


def _by_lists(
    file: Path, meta: Json, found: dict[str, Photograph | None], faults: Faults, left_out: list[str]
) -> dict[str, list[Photograph | None]]:
    """Splits as nerfstudio's lists ``train_filenames`` … have them; none where there are no lists."""
    lists = {split: meta[f"{word}_filenames"] for split, word in SPLIT_WORDS.items() if f"{word}_filenames" in meta}
    splits: dict[str, list[Photograph | None]] = {}
    listed = set[str]()
    for split, names in lists.items():
        key = f"{SPLIT_WORDS[split]}_filenames"
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            faults.add(key, "must be a list of strings")
            continue
        paths = {_beside(file, name): name for name in names}
        for path, name in paths.items():
            if path not in found:
                faults.add(name, f"is in {key}, but is the file_path of no frame")
        splits[split] = [found[path] for path in found if path in paths]
        listed |= paths.keys()
    left_out += [f"{path}: in none of {', '.join(lists)}" for path in found if lists and path not in listed]
    return splits


def _named(photographs: list[Photograph | None]) -> list[Photograph]:
    there = [photograph for photograph in photographs if photograph is not None]
    names = unique_names([Path(photograph.name) for photograph in there])
    return [replace(photograph, name=name) for photograph, name in zip(there, names, strict=True)]
