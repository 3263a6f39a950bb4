"""Objects in the DeepVoxels layout as posed photographs, and as ``transforms.json`` for other programs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dv.data.folder import IMAGE_SUFFIXES, Calibration, read_poses, refuse
from dv.data.object import SPLITS, ObjectSource
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.importers.transforms import SPLIT_WORDS, flip_axes
from dv.prepare.photographs import Lens, Photograph, PhotographSet, picture_size
from dv.prepare.placement import Array

LARGEST_AABB = 128  # of instant-ngp


def read_folder(root: Path, name: str, pixel_center: float | None = None) -> PhotographSet:
    """Photographs of ``root/{train,validation,test}/name``, as they are on disk, with the placement of the grid.

    ``pixel_center`` is as in :class:`~dv.data.object.ObjectSource`. Raises one :class:`UserError` for all faults.
    """
    source = ObjectSource(root, name, "give its root as source.path", pixel_center=pixel_center)
    placement = source.calibration().placement
    problems: list[str] = []
    splits: dict[str, list[Photograph]] = {}
    for split in SPLITS:
        if source.folder(split).is_dir():
            try:
                splits[split] = _read_split(source, split)
            except UserError as error:
                problems.append(str(error))
    refuse(root, problems)
    return PhotographSet(splits, placement=placement)


def _read_split(source: ObjectSource, split: str) -> list[Photograph]:
    folder = source.folder(split)
    calibration = source.calibration(split)
    names, poses = read_poses(folder, calibration)
    pictures = {p.stem: p for p in sorted((folder / "rgb").glob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    absent = [name for name in names if name not in pictures]
    refuse(folder, [f"{folder}/pose/{name}.txt: no image, expected rgb/{name}.png" for name in absent])
    return [
        Photograph(name, pictures[name], pose, _lens(calibration, *picture_size(pictures[name])))
        for name, pose in zip(names, poses.numpy(), strict=True)
    ]


def _lens(calibration: Calibration, width: int, height: int) -> Lens:
    """The lens of a whole picture of ``width × height`` px, of which the calibration has the central square."""
    side = min(width, height)
    k = calibration.intrinsics.at_side(side)
    left, top = (width - side) // 2 + 0.5 - k.pixel_center, (height - side) // 2 + 0.5 - k.pixel_center
    return Lens(width, height, k.f, k.f, k.cx + left, k.cy + top)


def export_transforms(source: ObjectSource, output: Path) -> Path:
    """Write an object to the new folder ``output`` for nerfstudio and instant-ngp; returns it.

    ``transforms.json`` has all frames, and lists of the splits (for nerfstudio); ``transforms_{train,val,test}.json``
    have those of one (instant-ngp is to be given the first of these: of a folder it reads every file). Poses are
    camera-to-world in OpenGL axes, principal points of pixels centred at +0.5, pictures copies of the whole files.
    The splits are those that training has, so also views held out for a split that is not there, and those skipped.
    ``scale`` and ``offset`` put the grid into instant-ngp's unit cube; ``dv_grid`` brings it back to dv.

    Raises :class:`UserError` for every fault of the object, and if ``output`` is there.
    """
    if output.exists():
        raise UserError(f"{output} is there already; give another folder, or delete it")
    read = read_folder(source.root, source.name, source.pixel_center)
    by_name = {split: {p.name: p for p in photographs} for split, photographs in read.splits.items()}
    splits = {split: [by_name.get(split, by_name["train"])[n] for n in source.views(split).names] for split in SPLITS}
    placement = source.calibration().placement
    everyone = [photograph for photographs in splits.values() for photograph in photographs]
    head = _lens_keys(everyone[0].lens) | _world_keys(placement, np.stack([p.pose for p in everyone]))
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    whole: list[dict[str, Any]] = []
    lists: dict[str, list[str]] = {}
    for split, photographs in splits.items():
        (aside / "images" / split).mkdir(parents=True)
        for photograph in photographs:
            shutil.copyfile(photograph.path, aside / "images" / split / photograph.path.name)
        frames = [_frame(photograph, split, everyone[0].lens) for photograph in photographs]
        lists[f"{SPLIT_WORDS[split]}_filenames"] = [frame["file_path"] for frame in frames]
        _write(aside / f"transforms_{SPLIT_WORDS[split]}.json", head | {"frames": frames})
        whole += frames
    _write(aside / "transforms.json", head | lists | {"frames": whole})
    aside.rename(output)
    return output


def _frame(photograph: Photograph, split: str, usual: Lens) -> dict[str, Any]:
    return {
        "file_path": f"images/{split}/{photograph.path.name}",
        "transform_matrix": flip_axes(photograph.pose).tolist(),
        **(_lens_keys(photograph.lens) if photograph.lens != usual else {}),
    }


def _lens_keys(lens: Lens) -> dict[str, Any]:
    return {
        "camera_model": "PINHOLE",
        "camera_angle_x": 2 * math.atan(lens.width / 2 / lens.fx),
        "fl_x": lens.fx,
        "fl_y": lens.fy,
        "cx": lens.cx,
        "cy": lens.cy,
        "w": lens.width,
        "h": lens.height,
    }


def _world_keys(placement: GridPlacement, poses: Array) -> dict[str, Any]:
    """instant-ngp's position is ``scale · x + offset``, its scene a cube of ``aabb_scale`` around the unit cube; one
    that holds the cameras holds what they see before and beside the grid.
    """
    reach = 2 * np.abs(poses[:, :3, 3] - placement.origin).max() / placement.scale
    return {
        "aabb_scale": min(2 ** max(0, math.ceil(math.log2(reach))), LARGEST_AABB) if reach > 0 else 1,
        "scale": 1 / placement.scale,
        "offset": [0.5 - x / placement.scale for x in placement.origin],
        "dv_grid": {"origin": list(placement.origin), "scale": placement.scale, "near": placement.near},
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")
