"""Importer of ``transforms.json`` as NeRF, nerfstudio and instant-ngp write it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.images import image_size
from dv.prepare.photographs import (
    SPLIT_WORDS,
    Lens,
    Photograph,
    PhotographSet,
    Problems,
    check_missing,
    flip_axes,
    nearest_rigid,
    unique_names,
)
from dv.prepare.placement import Array

SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # tried in this order: file_path may have none
FISHEYES = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
PERSPECTIVES = {"PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"}
Json = Mapping[str, Any]


def read_transforms(path: Path) -> PhotographSet:
    """Read the frames of ``transforms.json`` or of ``transforms_{train,val,test}.json``.

    Poses in these files are camera-to-world in OpenGL axes; lens keys of a frame override those of the file. Frames
    whose image is missing are left out.

    Args:
        path: folder of the files, or one such file.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    files = _find_files(path)
    problems, missing, left_out = Problems(), list[Path](), list[str]()
    splits: dict[str, list[Photograph | None]] = {}
    provenance: dict[str, Any] = {"files": [str(file) for file in files.values()]}
    total, placement = 0, None
    for split, file in files.items():
        meta = _load(file)
        total += len(meta["frames"])
        placement = placement or _placement(file, meta)
        provenance |= {key: meta[key] for key in ("applied_transform", "applied_scale") if key in meta}
        found = _photographs(file, meta, problems, missing)
        splits |= _split_by_lists(file, meta, found, problems, left_out) or {split: list(found.values())}
    problems.raise_any(path)
    check_missing(missing, total, "file_path must be relative to the .json, or absolute")
    return PhotographSet(
        {split: _named(photographs) for split, photographs in splits.items() if any(photographs)},
        placement=placement,
        provenance=provenance,
        left_out=[f"{image}: no such file" for image in missing] + left_out,
    )


def _find_files(path: Path) -> dict[str, Path]:
    if path.suffix == ".json":
        return {"train": path}
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder; give one that holds transforms.json, or such a file")
    of_splits = {split: path / f"transforms_{word}.json" for split, word in SPLIT_WORDS.items()}
    if of_splits["train"].is_file():
        return {split: file for split, file in of_splits.items() if file.is_file()}
    if (path / "transforms.json").is_file():
        return {"train": path / "transforms.json"}
    others = ", ".join(sorted(file.name for file in path.glob("*.json")))
    raise UserError(
        f"source.path={path}: contains neither transforms_train.json nor transforms.json; "
        + (f"give one of its files ({others}) as source.path" if others else "give the folder that holds one")
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
        raise UserError(f'{file}: must be a JSON object with a non-empty list "frames"')
    return meta


def _photographs(file: Path, meta: Json, problems: Problems, missing: list[Path]) -> dict[str, Photograph | None]:
    """Return photographs by what ``file_path`` names, None for missing images; their names are relative paths."""
    found: dict[str, Photograph | None] = {}
    for i, frame in enumerate(meta["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            problems.add(f"frame {i}", 'must be an object with a string "file_path"')
            continue
        file_path = frame["file_path"]
        key = _resolve(file, file_path)
        if key in found:
            problems.add(file_path, "occurs twice as file_path; give every frame its own image")
            continue
        image = next((p for p in (Path(key + suffix) for suffix in SUFFIXES) if p.is_file()), None)
        found[key] = None
        try:
            pose = flip_axes(nearest_rigid(_matrix(frame)))
            if image is None:
                missing.append(Path(key))
                continue
            mask = frame.get("mask_path")
            if not isinstance(mask, str | None):
                raise UserError(f"mask_path must be a string, not {mask!r}")
            found[key] = Photograph(
                os.path.relpath(image, file.parent),
                image,
                pose,
                _lens(meta, frame, *image_size(image)),
                Path(_resolve(file, mask)) if mask else None,
            )
        except UserError as error:
            problems.add(file_path, str(error).removeprefix(f"{image}: "))
    return found


def _resolve(file: Path, relative: str) -> str:
    """Return the path that a JSON file names relative to its folder."""
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
    """Return the lens of a frame's image of ``width × height`` px, even if the file states another size."""
    both = {**meta, **frame}
    w, h = (round(_number(both, key) or size) for key, size in (("w", width), ("h", height)))
    fx, fy = _focal(meta, frame, "x", w), _focal(meta, frame, "y", h)
    f = fx or fy
    if f is None:
        raise UserError("neither fl_x nor camera_angle_x is given, for the file or for the frame")
    model = str(both.get("camera_model", "OPENCV"))
    if model not in FISHEYES | PERSPECTIVES:
        raise UserError(f"camera_model {model} is not supported; convert the images to PINHOLE")
    fisheye = model in FISHEYES or both.get("is_fisheye") is True
    k1, k2, k3, k4, p1, p2 = (_number(both, key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if fisheye and (p1 or p2):
        raise UserError("p1 and p2 are given, which a fisheye lens does not have")
    if not fisheye and k4:
        raise UserError("k4 is given, which only a fisheye lens has; convert the images to PINHOLE or OPENCV")
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


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a JSON value is a finite number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(level: Json, key: str) -> float | None:
    value = level.get(key)
    if value is None:
        return None
    if not _is_number(value):
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
    raise UserError(f'{file}: dv_grid must be {{"origin": [x, y, z], "scale": side, "near": near}}; fix or delete it')


def _split_by_lists(
    file: Path, meta: Json, found: dict[str, Photograph | None], problems: Problems, left_out: list[str]
) -> dict[str, list[Photograph | None]]:
    """Return the splits of nerfstudio's lists ``train_filenames`` …; none if there are no lists."""
    keys = {split: f"{word}_filenames" for split, word in SPLIT_WORDS.items() if f"{word}_filenames" in meta}
    splits: dict[str, list[Photograph | None]] = {}
    listed = set[str]()
    for split, key in keys.items():
        names = meta[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problems.add(key, "must be a list of strings")
            continue
        paths = {_resolve(file, name): name for name in names}
        for path, name in paths.items():
            if path not in found:
                problems.add(name, f"is in {key}, but is not the file_path of any frame")
        splits[split] = [found[path] for path in found if path in paths]
        listed |= paths.keys()
    left_out += [f"{path}: in none of {', '.join(keys)}" for path in found if keys and path not in listed]
    return splits


def _named(photographs: list[Photograph | None]) -> list[Photograph]:
    """Leave out missing photographs and name the others uniquely."""
    existing = [photograph for photograph in photographs if photograph is not None]
    names = unique_names([Path(photograph.name) for photograph in existing])
    return [replace(photograph, name=name) for photograph, name in zip(existing, names, strict=True)]
