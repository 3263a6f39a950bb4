"""The DeepVoxels folder format: ``rgb/``, ``pose/`` and ``intrinsics.txt``; a faulty folder is refused with all faults.

Published layout: ``<root>/{train,validation,test}/<name>/``. Images and poses pair by file stem.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import torch
from kornia.geometry.linalg import inverse_transformation
from torch import Tensor
from tqdm import tqdm

from dv.data.calibration import Calibration, read_calibration
from dv.errors import UserError
from dv.geometry.camera import project, rigid_defect, to_camera
from dv.images import background_color, largest_power_of_two, read_image, square_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
MAX_AUTO_SIDE = 512
MAX_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Views:
    """V images with their poses: ``names``, ``poses`` ``[V, 4, 4]`` float64, ``images`` uint8 ``[V, 3, S, S]``."""

    names: list[str]
    poses: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: list[int]) -> Views:
        """Return copies of the views at ``indices``."""
        return Views([self.names[i] for i in indices], self.poses[indices], self.images[indices])

    def compact(self, indices: list[int]) -> Views:
        """Return the views at ascending ``indices`` without copying: their images overwrite the front of this memory.

        These views must not be used afterwards.
        """
        for to, i in enumerate(indices):
            if to != i:
                self.images[to] = self.images[i]
        return Views([self.names[i] for i in indices], self.poses[indices], self.images[: len(indices)])


def read_pose(path: Path, world_to_camera: bool = False) -> Tensor:
    """Read a camera-to-world pose from 16 numbers, on one line or four.

    Args:
        path: the file.
        world_to_camera: whether the file holds the inverse of the pose.

    Returns:
        The pose ``[4, 4]`` float64.

    Raises:
        UserError: if the file is not a rigid transform.
    """
    try:
        numbers = [float(token) for token in path.read_text().split()]
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: contains something that is not a number") from error
    if len(numbers) != 16:
        raise UserError(f"{path}: a pose has 16 numbers (4×4), this file has {len(numbers)}")
    pose = torch.tensor(numbers, dtype=torch.float64).reshape(4, 4)
    defect = rigid_defect(pose)
    if defect:
        raise UserError(f"{path}: {defect}")
    return inverse_transformation(pose[None])[0] if world_to_camera else pose


def sees_grid(pose: Tensor, calibration: Calibration) -> bool:
    """Return whether any of 12³ points of the grid is inside the image and the depth range of the frustum."""
    placement, intrinsics = calibration.placement, calibration.intrinsics
    points = to_camera(pose, placement.voxel_centers(12))
    pixels = project(points, intrinsics)
    inside = (pixels >= -0.5).all(1) & (pixels < intrinsics.side - 0.5).all(1)
    beyond_near = points[:, 2] >= placement.near
    return bool((inside & beyond_near & (points[:, 2] < placement.near + 2 * placement.scale)).any())


def read_poses(folder: Path, calibration: Calibration) -> tuple[list[str], Tensor]:
    """Read ``folder/pose``; the images may be missing.

    Returns:
        File stems, and poses ``[V, 4, 4]`` float64 camera-to-world.

    Raises:
        UserError: one that lists every fault.
    """
    paths = sorted((folder / "pose").glob("*.txt"))
    if not paths:
        raise UserError(f"{folder / 'pose'}: contains no poses (*.txt)")
    problems: list[str] = []
    poses = _read_in_threads(paths, lambda path: _read_checked_pose(path, calibration), problems)
    raise_problems(folder, problems)
    return [path.stem for path in paths], torch.stack(poses)


def image_files(folder: Path) -> dict[str, Path]:
    """Return the image files of ``folder`` by stem, sorted by name."""
    return {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}


def read_views(
    folder: Path, image_side: int | None, background: str | list[float], pixel_center: float | None = None
) -> Views:
    """Read all views of a folder.

    Args:
        folder: ``<root>/<split>/<name>``.
        image_side: side of the images in px; None for the largest power of two that the files allow, at most 512.
        background: see :func:`~dv.images.background_color`.
        pixel_center: see :func:`~dv.data.calibration.read_calibration`.

    Raises:
        UserError: one that lists every fault of the folder.
    """
    images = image_files(folder / "rgb")
    poses = {p.stem: p for p in sorted((folder / "pose").glob("*.txt"))}
    problems: list[str] = []
    calibration: Calibration | None = None
    try:
        calibration = read_calibration(folder / "intrinsics.txt", pixel_center)
    except UserError as error:  # continue: the images and poses may have faults too
        problems.append(str(error))
    problems += [f"{folder / 'rgb'}: contains no images (png, jpg)"] if not images else []
    problems += [f"{folder / 'pose'}: contains no poses (*.txt)"] if not poses else []
    if images and poses:
        problems += [f"{images[s]}: no pose, expected pose/{s}.txt" for s in images if s not in poses]
        problems += [f"{poses[s]}: no image, expected rgb/{s}.png" for s in poses if s not in images]
    names = sorted(images.keys() & poses.keys())
    pose_list = _read_in_threads(sorted(poses.values()), lambda path: _read_checked_pose(path, calibration), problems)
    pixels, sizes = _read_images(sorted(images.values()), image_side, background, problems, f"reading {folder}")
    problems += _size_problems(folder, sizes, calibration)
    raise_problems(folder, problems)
    assert pixels is not None
    return Views(names, torch.stack(pose_list), pixels)


def _read_images(
    paths: list[Path], image_side: int | None, background: str | list[float], problems: list[str], label: str
) -> tuple[Tensor | None, dict[str, tuple[int, int]]]:
    """Read images into one tensor ``[V, 3, S, S]``; also return the height and width of each file by its name."""
    color = background_color(background)
    sizes: dict[str, tuple[int, int]] = {}
    positions = {path: i for i, path in enumerate(paths)}
    allocated: list[Tensor] = []  # one tensor, made with the first image: stacking a list would double the memory
    lock = Lock()

    def load(path: Path) -> None:
        image = read_image(path, color)
        sizes[path.name] = image.shape[:2]
        smallest = min(image.shape[:2])
        side = image_side or min(MAX_AUTO_SIDE, largest_power_of_two(smallest))
        if side > smallest:
            raise UserError(
                f"{path}: {image.shape[0]}×{image.shape[1]} px is smaller than data.image_side={side}; "
                f"use data.image_side={largest_power_of_two(smallest)}"
            )
        square = square_image(image, side)
        with lock:
            if not allocated:
                allocated.append(square.new_empty(len(paths), *square.shape))
        if square.shape == allocated[0].shape[1:]:  # _size_problems reports images of other sizes
            allocated[0][positions[path]] = square

    _read_in_threads(paths, load, problems, label)
    return (allocated[0] if allocated else None), sizes


def _size_problems(folder: Path, sizes: dict[str, tuple[int, int]], calibration: Calibration | None) -> list[str]:
    """Report images of different sizes, or of another aspect ratio than the calibration."""
    if len(set(sizes.values())) > 1:
        by_size: dict[tuple[int, int], list[str]] = {}
        for name, size in sorted(sizes.items()):
            by_size.setdefault(size, []).append(name)
        listed = ", ".join(f"{len(n)} of {h}×{w} px (such as {n[0]})" for (h, w), n in by_size.items())
        return [f"{folder / 'rgb'}: images of different sizes: {listed}"]
    if sizes and calibration:
        height, width = next(iter(sizes.values()))
        if height * calibration.width != width * calibration.height:
            return [
                f"{folder / 'rgb'}: images of {height}×{width} px do not have the aspect ratio of the "
                f"{calibration.height}×{calibration.width} px in intrinsics.txt"
            ]
    return []


def _read_checked_pose(path: Path, calibration: Calibration | None) -> Tensor:
    pose = read_pose(path, calibration is not None and calibration.world_to_camera)
    if calibration is not None and not sees_grid(pose, calibration):
        raise UserError(
            f"{path}: this camera does not see the grid; check origin, near plane and scale in intrinsics.txt, "
            "and whether poses are camera-to-world (OpenCV axes)"
        )
    return pose


Result = TypeVar("Result")


def _read_in_threads(
    paths: list[Path], read: Callable[[Path], Result], problems: list[str], label: str | None = None
) -> list[Result]:
    """Apply ``read`` to all paths in threads; messages of a UserError are appended to ``problems``."""

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


def raise_problems(folder: Path, problems: list[str]) -> None:
    """Raise one :class:`UserError` that lists ``problems``, if there are any."""
    if problems:
        shown = "; ".join(problems[:MAX_SHOWN_PROBLEMS])
        hidden = len(problems) - MAX_SHOWN_PROBLEMS
        more = f"; and {hidden} more" if hidden > 0 else ""
        head = f"{folder} has {len(problems)} problems: " if len(problems) > 1 else ""
        raise UserError(f"{head}{shown}{more}")
