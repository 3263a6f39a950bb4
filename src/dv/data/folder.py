"""The DeepVoxels folder format: ``rgb/``, ``pose/`` and ``intrinsics.txt``; a faulty folder is refused with all faults.

Published layout: ``<root>/{train,validation,test}/<name>/``. Images and poses pair by file stem.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dv.data.calibration import CAMERAS_FILE, Calibration, read_calibration
from dv.data.poses import check_grid_in_view, read_pose
from dv.data.reading import ImageReading
from dv.decoding import IMAGE_SUFFIXES, image_size, read_image
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.images import background_color, reduced_image, square_image
from dv.runtime.foreign_files import files_in

MAX_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Views:
    """V images, of one or of several sizes, with their poses and cameras.

    Args:
        names: file stems.
        poses: camera-to-world ``[V, 4, 4]`` float64.
        pixels: uint8 ``[N, 3]``, the rows of the images, one image after the other.
        cameras: intrinsics of each image at the size that it has here.
    """

    names: list[str]
    poses: Tensor
    pixels: Tensor
    cameras: list[Intrinsics]

    @classmethod
    def of_one_camera(cls, names: list[str], poses: Tensor, images: Tensor, camera: Intrinsics) -> Self:
        """Make views of images uint8 ``[V, 3, H, W]``."""
        return cls(names, poses, images.permute(0, 2, 3, 1).reshape(-1, 3), [camera] * len(names))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def starts(self) -> list[int]:
        """Row of ``pixels`` at which each image starts, and at the end their number."""
        return list(accumulate((k.width * k.height for k in self.cameras), initial=0))

    @property
    def largest(self) -> Intrinsics:
        """Camera of the largest image."""
        return max(self.cameras, key=lambda k: k.width * k.height)

    def image(self, i: int) -> Tensor:
        """Return a copy of image ``i``, ``[3, H, W]``."""
        k = self.cameras[i]
        pixels = self.pixels[self.starts[i] : self.starts[i + 1]]
        return pixels.view(k.height, k.width, 3).permute(2, 0, 1).contiguous()

    @property
    def images(self) -> Tensor:
        """All images ``[V, 3, H, W]``, without copying.

        Raises:
            UserError: if they have several sizes.
        """
        sizes = {(k.height, k.width) for k in self.cameras}
        if len(sizes) > 1:
            listed = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
            raise UserError(f"images of one size are needed, and these have {listed} px")
        return self.pixels.view(len(self), *sizes.pop(), 3).permute(0, 3, 1, 2)

    def select(self, indices: list[int]) -> Views:
        """Return copies of the views at ``indices``."""
        pixels = [self.pixels[self.starts[i] : self.starts[i + 1]] for i in indices]
        return self._at(indices, torch.cat(pixels) if pixels else self.pixels[:0])

    def compact(self, indices: list[int]) -> Views:
        """Return the views at ascending ``indices`` without copying: their images overwrite the front of this memory.

        These views must not be used afterwards.
        """
        end = 0
        for i in indices:
            image, start = self.pixels[self.starts[i] : self.starts[i + 1]], end
            end += len(image)
            if start != self.starts[i]:
                self.pixels[start:end] = image.clone()  # the two may overlap
        return self._at(indices, self.pixels[:end])

    def _at(self, indices: list[int], pixels: Tensor) -> Views:
        return Views([self.names[i] for i in indices], self.poses[indices], pixels, [self.cameras[i] for i in indices])


def read_poses(folder: Path, calibration: Calibration) -> tuple[list[str], Tensor]:
    """Read ``folder/pose``; the images may be missing.

    Returns:
        File stems, and poses ``[V, 4, 4]`` float64 camera-to-world.

    Raises:
        UserError: one that lists every fault.
    """
    paths = list(_pose_files(folder).values())
    if not paths:
        raise UserError(f"{folder / 'pose'}: contains no poses (*.txt)")
    problems: list[str] = []
    poses = _read_in_threads(paths, lambda path: read_pose(path, calibration.world_to_camera), problems)
    if not problems:
        by_path = dict(zip(paths, poses, strict=True))
        problems += check_grid_in_view(by_path, calibration, calibration.cameras, ImageReading())
    raise_problems(folder, problems)
    return [path.stem for path in paths], torch.stack(poses)


def image_files(folder: Path) -> dict[str, Path]:
    """Return the image files of ``folder`` by stem, sorted by stem.

    Raises:
        UserError: if two files have the same stem.
    """
    files: dict[str, Path] = {}
    for path in sorted(files_in(folder, IMAGE_SUFFIXES), key=lambda path: (path.stem, path.name)):
        if files.setdefault(path.stem, path) != path:
            raise UserError(f"{folder}: {files[path.stem].name} and {path.name} are images of one view; remove one")
    return files


def _pose_files(folder: Path) -> dict[str, Path]:
    """Return the pose files of the folder of a split by stem, sorted by stem, as the images are."""
    return {path.stem: path for path in sorted(files_in(folder / "pose", {".txt"}), key=lambda path: path.stem)}


def read_views(
    folder: Path, reading: ImageReading, background: str | list[float], pixel_center: float | None = None
) -> Views:
    """Read all views of a folder.

    Args:
        folder: ``<root>/<split>/<name>``.
        reading: size of the images.
        background: see :func:`~dv.images.background_color`.
        pixel_center: see :func:`~dv.data.calibration.read_calibration`.

    Raises:
        UserError: one that lists every fault of the folder.
    """
    files = image_files(folder / "rgb")
    poses = _pose_files(folder)
    problems: list[str] = []
    calibration: Calibration | None = None
    try:
        calibration = read_calibration(folder / "intrinsics.txt", pixel_center)
    except UserError as error:  # continue: the images and poses may have faults too
        problems.append(str(error))
    problems += [f"{folder / 'rgb'}: contains no images (png, jpg, …)"] if not files else []
    problems += [f"{folder / 'pose'}: contains no poses (*.txt)"] if not poses else []
    if files and poses:
        problems += [f"{files[s]}: no pose, expected pose/{s}.txt" for s in files if s not in poses]
        problems += [f"{poses[s]}: no image, expected rgb/{s}.png" for s in poses if s not in files]
    names = sorted(files.keys() & poses.keys())
    sizes = read_sizes(files, problems)
    cameras: dict[str, Intrinsics] = {}  # of the images as they are read
    for stem, size in sizes.items():
        try:
            whole = calibration.camera(stem) if calibration else Intrinsics(1.0, 1.0, 0.0, 0.0, *size)
            cameras[stem] = reading.camera(whole, size)
        except UserError as error:
            problems.append(f"{files[stem]}: {error}")
    problems += _size_problems(folder, {files[s].name: size for s, size in sizes.items()}, calibration)
    inverted = calibration is not None and calibration.world_to_camera
    known = len(problems)
    pose_list = _read_in_threads(list(poses.values()), lambda path: read_pose(path, inverted), problems)
    if calibration and len(problems) == known:
        by_path = dict(zip(poses.values(), pose_list, strict=True))
        problems += check_grid_in_view(by_path, calibration, cameras, reading)
    pixels = _read_pixels({files[s]: k for s, k in cameras.items()}, reading, background, problems, f"reading {folder}")
    raise_problems(folder, problems)
    return Views(names, torch.stack(pose_list), pixels, [cameras[name] for name in names])


def read_sizes(files: dict[str, Path], problems: list[str]) -> dict[str, tuple[int, int]]:
    """Return width and height in px of image files by stem; files that are no images are appended to ``problems``."""
    found = _read_in_threads(list(files.values()), lambda path: (path.stem, image_size(path)), problems)
    return dict(found)


def read_view_image(path: Path, camera: Intrinsics, reading: ImageReading, color: np.ndarray) -> Tensor:
    """Read one image, uint8 ``[3, H, W]``, at the size of its ``camera``, alpha composited over ``color``."""
    image = read_image(path, color)
    if reading.image_side is not None:
        return square_image(image, camera.width)
    return reduced_image(image, camera.width, camera.height)


def _read_pixels(
    cameras: dict[Path, Intrinsics],
    reading: ImageReading,
    background: str | list[float],
    problems: list[str],
    label: str,
) -> Tensor:
    """Read images into one tensor ``[N, 3]``, which stacking a list would hold twice, at the sizes of ``cameras``."""
    color = background_color(background)
    starts = dict(zip(cameras, accumulate((k.width * k.height for k in cameras.values()), initial=0), strict=False))
    pixels = torch.empty(sum(k.width * k.height for k in cameras.values()), 3, dtype=torch.uint8)

    def load(path: Path) -> None:
        k = cameras[path]
        read = read_view_image(path, k, reading, color)
        pixels[starts[path] : starts[path] + k.width * k.height] = read.permute(1, 2, 0).reshape(-1, 3)

    _read_in_threads(list(cameras), load, problems, label)
    return pixels


def _size_problems(folder: Path, sizes: dict[str, tuple[int, int]], calibration: Calibration | None) -> list[str]:
    """Report images (width and height by file name) of different sizes, or of another aspect ratio than their camera.

    Sides of resized images are rounded: one pixel is tolerated.
    """
    if len(set(sizes.values())) > 1 and not (calibration and calibration.cameras):
        by_size: dict[tuple[int, int], list[str]] = {}
        for name, size in sorted(sizes.items()):
            by_size.setdefault(size, []).append(name)
        listed = ", ".join(f"{len(n)} of {h}×{w} px (such as {n[0]})" for (w, h), n in by_size.items())
        return [f"{folder / 'rgb'}: images of different sizes: {listed}"]
    problems: dict[str, str] = {}
    for name, (width, height) in sizes.items():
        k = (calibration.cameras.get(Path(name).stem) or calibration.intrinsics) if calibration else None
        if k and abs(height * k.width - width * k.height) > max(width, height, k.width, k.height):
            where = "intrinsics.txt" if calibration and not calibration.cameras else f"{CAMERAS_FILE}, such as {name}"
            problem = f"images of {width}×{height} px do not have the aspect ratio of the {k.width}×{k.height} px in "
            problems.setdefault(problem, f"{folder / 'rgb'}: {problem}{where}")
    return list(problems.values())


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
