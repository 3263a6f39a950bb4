"""``prepare.py source=export``: write an object as ``transforms.json`` for nerfstudio and instant-ngp."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dv.data.object import SPLITS, ObjectSource
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.prepare.lens import Lens
from dv.prepare.photographs import SPLIT_WORDS, Photograph, PhotographSet
from dv.prepare.placement import Array
from dv.prepare.rigid import flip_axes
from dv.runtime.files import atomic_folder

MAX_AABB_SCALE = 128  # of instant-ngp


def export_transforms(source: ObjectSource, found: PhotographSet, output: Path) -> Path:
    """Write an object to the new folder ``output``.

    ``transforms.json`` contains all frames and a list of the frames of each split (for nerfstudio);
    ``transforms_{train,val,test}.json`` contain one split each (instant-ngp reads every file of a folder, so give it
    one of these). Poses are camera-to-world in OpenGL axes, principal points refer to pixels centred at +0.5, and
    images are copies of the object's files. Splits are those of training: views held out for a missing split are in
    that split, and skipped views are left out. ``scale`` and ``offset`` map the grid to instant-ngp's unit cube;
    ``dv_grid`` is its placement for an import by dv.

    Args:
        source: the object.
        found: its image files, as :func:`dv.importers.folder.read_folder` returns them.
        output: the folder to write.

    Returns:
        ``output``.

    Raises:
        UserError: with every fault of the object, or if ``output`` exists.
    """
    if output.exists():
        raise UserError(f"{output} exists already; give another folder, or delete it")
    by_name = {split: {p.name: p for p in photographs} for split, photographs in found.splits.items()}
    splits = {split: [by_name.get(split, by_name["train"])[n] for n in source.views(split).names] for split in SPLITS}
    photographs = [photograph for split in splits.values() for photograph in split]
    common_lens = photographs[0].lens
    world = _world_keys(source.calibration().placement, np.stack([p.pose for p in photographs]))
    header = _lens_keys(common_lens) | world
    with atomic_folder(output) as temporary:
        all_frames: list[dict[str, Any]] = []
        lists: dict[str, list[str]] = {}
        for split, views in splits.items():
            (temporary / "images" / split).mkdir(parents=True)
            for view in views:
                shutil.copyfile(view.path, temporary / "images" / split / view.path.name)
            frames = [_frame(view, split, common_lens) for view in views]
            lists[f"{SPLIT_WORDS[split]}_filenames"] = [frame["file_path"] for frame in frames]
            _write(temporary / f"transforms_{SPLIT_WORDS[split]}.json", header | {"frames": frames})
            all_frames += frames
        _write(temporary / "transforms.json", header | lists | {"frames": all_frames})
    return output


def _frame(photograph: Photograph, split: str, common_lens: Lens) -> dict[str, Any]:
    return {
        "file_path": f"images/{split}/{photograph.path.name}",
        "transform_matrix": flip_axes(photograph.pose).tolist(),
        **(_lens_keys(photograph.lens) if photograph.lens != common_lens else {}),
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
    """Return the keys that map world to scene coordinates of instant-ngp: ``scale · x + offset``.

    Its scene is a cube of side ``aabb_scale`` around the unit cube; here it contains all cameras, and with them what
    they see in front of and beside the grid.
    """
    reach = 2 * np.abs(poses[:, :3, 3] - placement.origin).max() / placement.scale
    return {
        "aabb_scale": min(2 ** max(0, math.ceil(math.log2(reach))), MAX_AABB_SCALE) if reach > 0 else 1,
        "scale": 1 / placement.scale,
        "offset": [0.5 - x / placement.scale for x in placement.origin],
        "dv_grid": {"origin": list(placement.origin), "scale": placement.scale, "near": placement.near},
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")
