"""The DeepVoxels folder format: ``rgb/``, ``pose/`` and ``intrinsics.txt``, read whole or refused with all its faults.

Published layout: ``<root>/{train,validation,test}/<name>/``. Images and poses pair by file stem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import imageio.v3 as iio
import numpy as np
import torch
from kornia.geometry.linalg import inverse_transformation
from kornia.geometry.transform import resize
from torch import Tensor
from tqdm import tqdm

from dv.errors import UserError
from dv.geometry.camera import Intrinsics, project, rigid_defect, square_crop
from dv.geometry.grid import GridPlacement, default_near, to_camera

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
LARGEST_AUTO_SIDE = 512
SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Calibration:
    """What ``intrinsics.txt`` says: the camera of the central square, its image size, and where the grid sits."""

    intrinsics: Intrinsics
    height: int
    width: int
    placement: GridPlacement
    world_to_camera: bool


@dataclass(frozen=True)
class Views:
    """Posed pictures: V names, poses ``[V, 4, 4]`` camera-to-world, images uint8 ``[V, 3, S, S]``."""

    names: list[str]
    poses: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: list[int]) -> Views:
        """The views at ``indices``."""
        return Views([self.names[i] for i in indices], self.poses[indices], self.images[indices])

    def compact(self, indices: list[int]) -> Views:
        """The views at ascending ``indices``, whose images are moved to the front of the memory of these."""
        for to, i in enumerate(indices):
            if to != i:
                self.images[to] = self.images[i]
        return Views([self.names[i] for i in indices], self.poses[indices], self.images[: len(indices)])


def background_color(background: str | list[float]) -> np.ndarray:
    """RGB in [0, 1] of ``white``, ``black``, ``grey`` or three numbers. Raises :class:`UserError`."""
    named = {"white": 1.0, "grey": 0.5, "gray": 0.5, "black": 0.0}
    if isinstance(background, str):
        if background not in named:
            raise UserError(f"data.background={background} must be one of {', '.join(named)} or [r,g,b] in 0..1")
        return np.full(3, named[background])
    color = np.asarray(background, float)
    if color.shape != (3,) or not ((color >= 0) & (color <= 1)).all():
        raise UserError(f"data.background={list(background)} must be three numbers in 0..1")
    return color


def read_calibration(path: Path, pixel_center: float | None = None) -> Calibration:
    """Read ``intrinsics.txt``: ``f cx cy`` px / grid origin / near / grid side ``scale`` / ``height width`` / [1].

    ``pixel_center``, unless given, is that of the ``dataset.json`` beside it, and 0 where there is none.
    Raises :class:`UserError` naming the line that is missing or malformed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it must hold f cx cy / origin / near plane / scale / height width")
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    meanings = (("f cx cy", 3), ("grid origin x y z", 3), ("near plane", 1), ("scale", 1), ("height width", 2))
    values: list[list[float]] = []
    for number, (meaning, count) in enumerate(meanings):
        try:
            row = [float(token) for token in lines[number][:count]]
        except (IndexError, ValueError):
            row = []
        if len(row) < count or not all(map(math.isfinite, row)):
            found = " ".join(lines[number]) if number < len(lines) else "missing"
            raise UserError(f"{path}: line {number + 1} must hold {meaning} ({count} numbers), but is: {found}")
        values.append(row)
    (f, cx, cy), (x, y, z), (near,), (scale,), (height, width) = values
    for meaning, value in (("f", f), ("scale", scale), ("height", height), ("width", width)):
        if value <= 0:
            raise UserError(f"{path}: {meaning} must be positive, not {value:g}")
    if near < 0:
        raise UserError(f"{path}: the near plane must not be negative, but is {near:g}")
    return Calibration(
        square_crop(f, cx, cy, round(height), round(width), check_pixel_center(path.parent, pixel_center)),
        round(height),
        round(width),
        GridPlacement((x, y, z), scale, default_near(near)),
        len(lines) > 5 and lines[5][0] in ("1", "1.0", "True"),
    )


def read_record(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` says of a folder; nothing where there is none. Raises :class:`UserError`."""
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not a JSON object; mend or delete it") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a JSON object; mend or delete it")
    return record


def check_pixel_center(folder: Path, given: float | None) -> float:
    """Where in a pixel of ``folder``'s images its coordinate lies: 0 or 0.5, as given or as its ``dataset.json`` says.

    Raises :class:`UserError` for anything else.
    """
    said = "object.pixel_center"
    if given is None:
        given, said = read_record(folder).get("pixel_center"), f"{folder / 'dataset.json'}: pixel_center"
    if given not in (None, 0, 0.5):
        raise UserError(f"{said}={given} must be 0 (the reference's convention) or 0.5 (pixels are centred there)")
    return float(given or 0)


def read_pose(path: Path, world_to_camera: bool = False) -> Tensor:
    """Camera-to-world pose ``[4, 4]`` from 16 numbers on one line or four lines of four. Raises :class:`UserError`."""
    try:
        numbers = [float(token) for token in path.read_text().split()]
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: holds something that is not a number") from error
    if len(numbers) != 16:
        raise UserError(f"{path}: a pose has 16 numbers (4×4), this file has {len(numbers)}")
    pose = torch.tensor(numbers, dtype=torch.float64).reshape(4, 4)
    defect = rigid_defect(pose)
    if defect:
        raise UserError(f"{path}: {defect}")
    return inverse_transformation(pose[None])[0] if world_to_camera else pose


def read_image(path: Path, background: np.ndarray, upright: bool = False) -> np.ndarray:
    """RGB image ``[H, W, 3]`` in [0, 1]; alpha is composited over ``background``. Raises :class:`UserError`.

    ``upright`` turns it as its EXIF orientation says.
    """
    try:
        raw = iio.imread(path, plugin="pillow", rotate=upright)
    except Exception as error:  # imageio's backends each raise kinds of their own
        raise UserError(f"{path}: cannot be read as an image, it may be truncated") from error
    if raw.ndim == 2:
        raw = raw[..., None]
    if raw.ndim != 3 or raw.dtype.kind not in "uf" or 0 in raw.shape:
        raise UserError(f"{path}: not a picture in grey, RGB or RGBA")
    image = raw.astype(np.float32) / (np.iinfo(raw.dtype).max if raw.dtype.kind == "u" else 1)
    channels = image.shape[2]
    if channels in (2, 4):
        color, alpha = image[..., :-1], image[..., -1:]
        image = color * alpha + background.astype(np.float32) * (1 - alpha)
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3]


def square_image(image: np.ndarray, side: int) -> Tensor:
    """Central square of ``image`` ``[H, W, 3]``, resized by area averaging, as uint8 ``[3, side, side]``."""
    height, width = image.shape[:2]
    crop = min(height, width)
    top, left = (height - crop) // 2, (width - crop) // 2
    square = torch.from_numpy(image[top : top + crop, left : left + crop]).permute(2, 0, 1)[None]
    if crop != side:
        square = resize(square, (side, side), interpolation="area")
    return (square[0] * 255).round().clamp(0, 255).byte()


def largest_power_of_two(side: int) -> int:
    """The largest power of two not above ``side``."""
    return 1 << (side.bit_length() - 1)


def sees_grid(pose: Tensor, calibration: Calibration) -> bool:
    """Whether some of a coarse sampling of the grid falls inside the picture and behind the near plane."""
    placement, intrinsics = calibration.placement, calibration.intrinsics
    points = to_camera(pose, placement.voxel_centers(12))
    pixels = project(points, intrinsics)
    inside = (pixels >= -0.5).all(1) & (pixels < intrinsics.side - 0.5).all(1)
    beyond_near = points[:, 2] >= placement.near
    return bool((inside & beyond_near & (points[:, 2] < placement.near + 2 * placement.scale)).any())


def read_poses(folder: Path, calibration: Calibration) -> tuple[list[str], Tensor]:
    """Names and poses ``[V, 4, 4]`` of ``folder/pose``; the images need not be there. Raises :class:`UserError`."""
    paths = sorted((folder / "pose").glob("*.txt"))
    if not paths:
        raise UserError(f"{folder / 'pose'}: no poses (*.txt) there")
    problems: list[str] = []
    poses = _collect(paths, lambda path: _checked_pose(path, calibration), problems)
    refuse(folder, problems)
    return [path.stem for path in paths], torch.stack(poses)


def read_views(
    folder: Path, image_side: int | None, background: str | list[float], pixel_center: float | None = None
) -> Views:
    """All views of a folder at ``image_side`` px (None: the largest power of two the pictures hold, at most 512).

    Raises one :class:`UserError` that lists every fault of the folder.
    """
    images = {p.stem: p for p in sorted((folder / "rgb").glob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    poses = {p.stem: p for p in sorted((folder / "pose").glob("*.txt"))}
    problems: list[str] = []
    calibration: Calibration | None = None
    try:
        calibration = read_calibration(folder / "intrinsics.txt", pixel_center)
    except UserError as error:  # go on: the images and poses may have faults too
        problems.append(str(error))
    problems += [f"{folder / 'rgb'}: no images (png, jpg) there"] if not images else []
    problems += [f"{folder / 'pose'}: no poses (*.txt) there"] if not poses else []
    if images and poses:
        problems += [f"{images[s]}: no pose, expected pose/{s}.txt" for s in images if s not in poses]
        problems += [f"{poses[s]}: no image, expected rgb/{s}.png" for s in poses if s not in images]
    names = sorted(images.keys() & poses.keys())
    pose_list = _collect(sorted(poses.values()), lambda path: _checked_pose(path, calibration), problems)
    color = background_color(background)
    side = image_side
    sizes: dict[str, tuple[int, int]] = {}

    place = {path: i for i, path in enumerate(sorted(images.values()))}
    pictures: list[Tensor] = []  # all in one tensor, made with the first: a list to be stacked would take it twice
    first = Lock()

    def load(path: Path) -> None:
        image = read_image(path, color)
        sizes[path.name] = image.shape[:2]
        smallest = min(image.shape[:2])
        target = side or min(LARGEST_AUTO_SIDE, largest_power_of_two(smallest))
        if target > smallest:
            raise UserError(
                f"{path}: {image.shape[0]}×{image.shape[1]} px is smaller than data.image_side={target}; "
                f"use data.image_side={largest_power_of_two(smallest)}"
            )
        picture = square_image(image, target)
        with first:
            if not pictures:
                pictures.append(picture.new_empty(len(place), *picture.shape))
        if picture.shape == pictures[0].shape[1:]:  # other sizes are refused below
            pictures[0][place[path]] = picture

    _collect(list(place), load, problems, f"reading {folder}")
    if len(set(sizes.values())) > 1:
        by_size: dict[tuple[int, int], list[str]] = {}
        for name, size in sorted(sizes.items()):
            by_size.setdefault(size, []).append(name)
        listed = ", ".join(f"{len(n)} of {h}×{w} px (such as {n[0]})" for (h, w), n in by_size.items())
        problems.append(f"{folder / 'rgb'}: images of different sizes: {listed}")
    elif sizes and calibration:
        height, width = next(iter(sizes.values()))
        if height * calibration.width != width * calibration.height:
            problems.append(
                f"{folder / 'rgb'}: images are {height}×{width} px, which has not the aspect of the "
                f"{calibration.height}×{calibration.width} px in intrinsics.txt"
            )
    refuse(folder, problems)
    return Views(names, torch.stack(pose_list), pictures[0])


def _checked_pose(path: Path, calibration: Calibration | None) -> Tensor:
    pose = read_pose(path, calibration is not None and calibration.world_to_camera)
    if calibration is not None and not sees_grid(pose, calibration):
        raise UserError(
            f"{path}: this camera sees nothing of the grid; check origin, near plane and scale in intrinsics.txt, "
            "and whether poses are camera-to-world (OpenCV axes)"
        )
    return pose


Result = TypeVar("Result")


def _collect(
    paths: list[Path], read: Callable[[Path], Result], problems: list[str], label: str | None = None
) -> list[Result]:
    """Apply ``read`` to all paths in threads; what raises goes to ``problems`` instead of into the result."""

    def attempt(path: Path) -> Result | UserError:
        try:
            return read(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor() as pool:
        progress = tqdm(pool.map(attempt, paths), label, len(paths), disable=label is None, leave=False, unit="image")
        results = list(progress)
    problems += [str(r) for r in results if isinstance(r, UserError)]
    return [r for r in results if not isinstance(r, UserError)]


def refuse(folder: Path, problems: list[str]) -> None:
    """Raise one :class:`UserError` that lists ``problems``, if there are any."""
    if problems:
        shown = "; ".join(problems[:SHOWN_PROBLEMS])
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        head = f"{folder} has {len(problems)} problems: " if len(problems) > 1 else ""
        raise UserError(f"{head}{shown}{more}")
