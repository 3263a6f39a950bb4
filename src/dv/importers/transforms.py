"""Importer of ``transforms.json`` as NeRF, nerfstudio and instant-ngp write it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.importers.transforms_lens import Json, lens_of, number
from dv.prepare.depth_points import DepthImage, points_of_depth
from dv.prepare.named_images import NamedImages, named_images
from dv.prepare.photographs import SPLIT_WORDS, Photograph, PhotographSet, Problems, existing, uniquely_named
from dv.prepare.placement import Array
from dv.prepare.ply_points import read_ply_points
from dv.prepare.rigid import RigidPoses, flip_axes
from dv.runtime.foreign_files import read_json

# ScanNet++ names files without their folders, which are beside that of the JSON file
IMAGE_FOLDERS = (".", "images", "../resized_images", "../resized_undistorted_images", "../undistorted_images")
MASK_FOLDERS = (".", "masks", "../resized_anon_masks", "../resized_undistorted_masks", "../undistorted_anon_masks")
OF_ALL_SPLITS = (  # the first that exists is read
    "transforms.json", "transforms_undistorted.json", "nerfstudio/transforms_undistorted.json",
    "nerfstudio/transforms.json",
)  # fmt: skip
MILLIMETRE = 1e-3  # of depth images, as nerfstudio takes them by default
View = Photograph | Path  # a path: where the missing image was expected


def read_transforms(path: Path, given_images: Path | None = None) -> PhotographSet:
    """Read the frames of ``transforms.json`` or of ``transforms_{train,val,test}.json``.

    The format of NeRF (Blender), nerfstudio, instant-ngp, KIRI Engine, NeRFCapture and ScanNet++. Poses are
    camera-to-world in OpenGL axes (x right, y up, z backwards); lens keys of a frame override those of the file; pixel
    (col, row) has its centre at (col + 0.5, row + 0.5). Frames whose image is missing and those that are marked
    ``is_bad`` are left out. The points of ``ply_file_path`` are in the world of the poses; ``applied_transform`` and
    ``applied_scale`` say what has been applied to both already. Without it, points come from ``depth_file_path``
    (camera z in millimetres), if the depths of several views agree. Sources: nerfstudio, "Data conventions";
    instant-ngp, ``nerf_loader.cu``.

    Args:
        path: folder of the files, or one such file.
        given_images: folder of the images; None for the paths in the files.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    files = _find_files(path)
    problems, left_out, poses = Problems(), list[str](), RigidPoses()
    splits: dict[str, list[View]] = {}
    provenance: dict[str, Any] = {"files": [str(file) for file in files.values()]}
    placement, points = None, None
    depths, depth_notes = list[DepthImage](), list[str]()
    contents = {file: _load(file) for file in files.values()}
    root = next(iter(contents)).parent
    images = named_images(path, given_images) if given_images else NamedImages(root, IMAGE_FOLDERS)
    images.expect(name for meta in contents.values() for name in _names(meta, "file_path"))
    masks = NamedImages(root, MASK_FOLDERS, not_in=images.places())
    masks.expect(name for meta in contents.values() for name in _names(meta, "mask_path"))
    for split, file in files.items():
        meta = contents[file]
        placement = placement or _placement(file, meta)
        points = _points(file, meta) if points is None else points
        provenance |= {key: meta[key] for key in ("applied_transform", "applied_scale") if key in meta}
        found = _views(file, meta, images, masks, problems, left_out, poses)
        depths += _depth_images(file, meta, found)
        splits |= _split_by_lists(file, meta, found, problems, left_out) or {split: list(found.values())}
    problems.raise_any(path)
    training = {view.path for view in splits.get("train", []) if isinstance(view, Photograph)}
    depths = [depth for depth in depths if depth.photograph.path in training]
    if points is None and depths:
        points = points_of_depth(depths)
        what = "agree on" if points is not None else "contradict each other: they are not used"
        depth_notes = [f"{len(depths)} depth images {what}" + (f" {len(points)} points" if points is not None else "")]
    photographs, missing, notes = existing(splits, "file_path must be relative to the .json, or absolute")
    return PhotographSet(
        {split: uniquely_named(views) for split, views in photographs.items()},
        points=points,
        placement=placement,
        provenance=provenance,
        left_out=missing + left_out,
        notes=poses.notes() + depth_notes + notes,
        files=list(files.values()),
    )


def transforms_files(path: Path) -> dict[str, Path]:
    """Return the files of a folder by split: ``transforms_train.json`` …, or one of all; none if there are none."""
    of_splits = {split: path / f"transforms_{word}.json" for split, word in SPLIT_WORDS.items()}
    if of_splits["train"].is_file():
        return {split: file for split, file in of_splits.items() if file.is_file()}
    one = next((path / name for name in OF_ALL_SPLITS if (path / name).is_file()), None)
    return {"train": one} if one else {}


def _find_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such file or folder; give that of transforms.json")
    if files := transforms_files(path):
        return files
    others = ", ".join(sorted(file.name for file in path.glob("*.json")))
    raise UserError(
        f"source.path={path}: contains neither transforms_train.json nor transforms.json; "
        + (f"give one of its files ({others}) as source.path" if others else "give the folder that holds one")
    )


def _load(file: Path) -> Json:
    meta = read_json(file)
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(frames, list) or not frames:
        raise UserError(f'{file}: must be a JSON object with a non-empty list "frames"')
    if isinstance(test := meta.get("test_frames"), list) and "test_filenames" not in meta:  # ScanNet++
        names = {key: [f.get("file_path") for f in part if isinstance(f, dict)]
                 for key, part in (("train_filenames", frames), ("test_filenames", test))}  # fmt: skip
        held_out = set(map(str, names["test_filenames"]))
        names["train_filenames"] = [name for name in names["train_filenames"] if name not in held_out]
        kept = [f for f in frames if not isinstance(f, dict) or f.get("file_path") not in held_out]
        return {**meta, "frames": kept + test, **names}
    return meta


def _points(file: Path, meta: Json) -> Array | None:
    """Return the points ``[N, 3]`` of the file that ``ply_file_path`` names, in the world of the poses."""
    relative = meta.get("ply_file_path")
    if relative is None:
        return None
    if not isinstance(relative, str):
        raise UserError(f"{file}: ply_file_path must be a string, not {relative!r}")
    path = Path(_resolve(file, relative))
    return read_ply_points(path) if os.path.isfile(path) else None


def _depth_images(file: Path, meta: Json, views: Mapping[str, View]) -> list[DepthImage]:
    """Return the depth images of views: millimetres, or counts of ``integer_depth_scale`` metres."""
    found = []
    for frame in (frame for frame in meta["frames"] if isinstance(frame, dict)):
        both = {**meta, **frame}
        relative = frame.get("depth_file_path", frame.get("depth_path") if "integer_depth_scale" in both else None)
        photograph = views.get(_resolve(file, str(frame.get("file_path"))))
        if isinstance(relative, str) and isinstance(photograph, Photograph):
            path = Path(_resolve(file, relative))
            unit = number(both, "integer_depth_scale") or number(both, "depth_unit_scale_factor") or MILLIMETRE
            found += [DepthImage(photograph, path, unit)] * os.path.isfile(path)
    return found


def _names(meta: Json, key: str) -> list[str]:
    named = (frame.get(key) for frame in meta["frames"] if isinstance(frame, dict))
    return [name for name in named if isinstance(name, str)]


def _views(
    file: Path,
    meta: Json,
    images: NamedImages,
    masks: NamedImages,
    problems: Problems,
    left_out: list[str],
    poses: RigidPoses,
) -> dict[str, View]:
    """Return photographs by what ``file_path`` names; their names are relative paths."""
    found: dict[str, View] = {}
    for i, frame in enumerate(meta["frames"]):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            problems.add(f"frame {i}", 'must be an object with a string "file_path"')
            continue
        file_path = frame["file_path"]
        key = _resolve(file, file_path)
        if _is_bad(frame):
            left_out.append(f"{file_path}: marked as is_bad")
            continue
        if key in found:
            problems.add(file_path, "occurs twice as file_path; give every frame its own image")
            continue
        try:
            pose = flip_axes(poses.rigid(_matrix(frame)))
            image = images.find(file_path)
            if image is None:
                found[key] = Path(key)
                continue
            lens = lens_of(meta, frame, image)
            mask = _mask(file, frame, masks)
            found[key] = Photograph.of_file(os.path.relpath(image, file.parent), image, pose, lens, mask)
        except UserError as error:
            problems.add(file_path, str(error).removeprefix(f"{key}: "))
    return found


def _is_bad(frame: Any) -> bool:
    """Return whether ScanNet++ marks a frame as unusable."""
    return isinstance(frame, dict) and frame.get("is_bad") is True


def _mask(file: Path, frame: Json, masks: NamedImages) -> Path | None:
    relative = frame.get("mask_path")
    if not isinstance(relative, str | None):
        raise UserError(f"mask_path must be a string, not {relative!r}")
    return (masks.find(relative) or Path(_resolve(file, relative))) if relative else None


def _resolve(file: Path, relative: str) -> str:
    """Return the path that a JSON file names relative to its folder."""
    return os.path.normpath(file.parent / relative.replace("\\", "/"))


def _matrix(frame: Json) -> Array:
    try:
        matrix = np.array(frame["transform_matrix"], np.float64)
    except KeyError:
        raise UserError("has no transform_matrix") from None
    except (TypeError, ValueError, OverflowError):
        raise UserError("transform_matrix must be four rows of four numbers") from None
    if matrix.shape == (16,):
        matrix = matrix.reshape(4, 4)
    if matrix.shape == (3, 4):
        return np.concatenate([matrix, [[0, 0, 0, 1]]])
    return matrix


def _placement(file: Path, meta: Json) -> GridPlacement | None:
    grid = meta.get("dv_grid")
    if grid is None:
        return None
    try:
        (x, y, z), scale, near = (np.array(grid[key], np.float64).tolist() for key in ("origin", "scale", "near"))
        if np.isfinite([x, y, z]).all() and 0 < scale < math.inf and 0 < near < math.inf:
            return GridPlacement((x, y, z), scale, near)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # said below
    raise UserError(f'{file}: dv_grid must be {{"origin": [x, y, z], "scale": side, "near": near}}; fix or delete it')


def _split_by_lists(
    file: Path, meta: Json, found: dict[str, View], problems: Problems, left_out: list[str]
) -> dict[str, list[View]]:
    """Return the splits of nerfstudio's lists ``train_filenames`` …; none if there are no lists."""
    keys = {split: f"{word}_filenames" for split, word in SPLIT_WORDS.items() if f"{word}_filenames" in meta}
    splits: dict[str, list[View]] = {}
    listed = set[str]()
    bad = {_resolve(file, str(frame.get("file_path"))) for frame in meta["frames"] if _is_bad(frame)}
    for split, key in keys.items():
        names = meta[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problems.add(key, "must be a list of strings")
            continue
        paths = {_resolve(file, name): name for name in names}
        for path, name in paths.items():
            if path not in found and path not in bad:
                problems.add(name, f"is in {key}, but is not the file_path of any frame")
        splits[split] = [found[path] for path in found if path in paths]
        listed |= paths.keys()
    left_out += [f"{path}: in none of {', '.join(keys)}" for path in found if keys and path not in listed]
    return splits
