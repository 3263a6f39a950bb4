"""Importer of objects in the DeepVoxels folder layout."""

from __future__ import annotations

from pathlib import Path

from dv.data.folder import image_files, raise_problems, read_poses
from dv.data.object import SPLITS, ObjectSource
from dv.decoding import image_size
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph, PhotographSet


def read_folder(root: Path, name: str, pixel_center: float | None = None) -> PhotographSet:
    """Read ``root/{train,validation,test}/name`` with the placement of the grid; images keep their size on disk.

    Args:
        root: of the object.
        name: of the object.
        pixel_center: see :func:`~dv.data.calibration.read_calibration`.

    Raises:
        UserError: one that lists every fault.
    """
    source = ObjectSource(root, name, "give its root as source.path", pixel_center=pixel_center)
    calibration = source.calibration()
    problems: list[str] = []
    splits: dict[str, list[Photograph]] = {}
    for split in SPLITS:
        if source.folder(split).is_dir():
            try:
                splits[split] = _read_split(source, split)
            except UserError as error:
                problems.append(str(error))
    raise_problems(root, problems)
    points = None if calibration.points is None else calibration.points.numpy()
    up = source.up()
    return PhotographSet(splits, points, calibration.placement, up=None if up is None else tuple(up.tolist()))


def _read_split(source: ObjectSource, split: str) -> list[Photograph]:
    folder = source.folder(split)
    calibration = source.calibration(split)
    names, poses = read_poses(folder, calibration)
    images = image_files(folder / "rgb")
    missing = [name for name in names if name not in images]
    raise_problems(folder, [f"{folder}/pose/{name}.txt: no image, expected rgb/{name}.png" for name in missing])
    return [
        Photograph(name, images[name], pose, _lens(calibration.camera(name), *image_size(images[name])))
        for name, pose in zip(names, poses.numpy(), strict=True)
    ]


def _lens(camera: Intrinsics, width: int, height: int) -> Lens:
    """Return the lens of a whole image, which is stored at ``width × height`` px."""
    k = camera.resized(width, height)
    shift = 0.5 - k.pixel_center
    return Lens(width, height, k.fx, k.fy, k.cx + shift, k.cy + shift)
