"""Decoding photographs or a video into upright images for structure from motion."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tqdm import tqdm

from dv.data.folder import raise_problems
from dv.decoding import IMAGE_SUFFIXES, RAW_SUFFIXES, read_image
from dv.errors import UserError
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph, unique_names
from dv.prepare.placement import Array
from dv.prepare.rectify import object_mask
from dv.runtime.files import atomic_file
from dv.runtime.foreign_files import files_in, is_left_by_system

VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".m4v", ".webm", ".gif"}
SHARPNESS_SIDE = 480  # longer side in px at which the sharpness of frames is compared
FULL_FRAME = 36.0  # width of 35 mm film, mm


@dataclass(frozen=True)
class Frame:
    """An upright RGB image in the work folder.

    Args:
        path: of the image.
        device: equal for images of the same camera and size.
        focal: focal length in px according to the EXIF data.
        size: width and height, px.
        mask: image that is white where the object is.
    """

    path: Path
    device: str
    focal: float | None
    size: tuple[int, int]
    mask: Path | None = None


def find_photographs(path: Path) -> list[Path]:
    """Return the image files of a folder or, if it has none, of the first subfolder with any.

    Raises:
        UserError: if there are none.
    """
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder or video; give a folder of photographs or a video file")
    folders = (f for f in sorted(path.iterdir()) if f.is_dir() and not is_left_by_system(f))
    for folder in (path, *folders):
        if found := files_in(folder, IMAGE_SUFFIXES):
            return found
    raise UserError(f"source.path={path}: contains no photographs ({', '.join(sorted(IMAGE_SUFFIXES))})")


def decode_photographs(
    paths: list[Path], folder: Path, *, largest_side: int, background: Array, mask: str | None
) -> list[Frame]:
    """Write photographs upright to ``folder/pictures``; files that exist there are kept.

    Args:
        paths: the photographs.
        folder: the work folder.
        largest_side: maximum side in px; larger photographs are reduced.
        background: RGB in [0, 1] behind transparent pixels.
        mask: None, ``alpha``, ``uniform`` or a folder of files with the same stems; written to ``folder/masks``.

    Raises:
        UserError: one that lists all files that cannot be read.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    masks = _mask_files(paths, mask)
    problems: list[str] = []

    def decode(path: Path, name: str) -> Frame | None:
        target, mask_target = folder / "pictures" / f"{name}.png", folder / "masks" / f"{name}.png"
        try:
            device, focal = _read_exif(path)
            if not target.is_file():
                image = read_image(path, background, upright=True)
                if mask:
                    lens = Lens(image.shape[1], image.shape[0], 1, 1, 0, 0)
                    photograph = Photograph(name, path, np.eye(4), lens, masks.get(path), upright=True)
                    _write(mask_target, _reduce(object_mask(photograph, image, mask), largest_side))
                _write(target, _reduce(image, largest_side))
        except UserError as error:
            problems.append(str(error))
            return None
        with Image.open(target) as written:
            size = written.size
        focal = focal and focal * max(size)
        return Frame(target, f"{device} {size[0]}×{size[1]}", focal, size, mask_target if mask else None)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # no more threads: each may need half a gigabyte
        # COLMAP's lists of pairs have spaces between names
        names = unique_names([Path(re.sub(r"\s+", "_", path.name)) for path in paths])
        decoded = pool.map(decode, paths, names)
        frames = list(tqdm(decoded, "reading photographs", len(paths), leave=False, unit="image"))
    raise_problems(paths[0].parent, problems)
    return [frame for frame in frames if frame]


def decode_video(path: Path, folder: Path, *, count: int, largest_side: int) -> list[Frame]:
    """Write the sharpest frame of each of ``count`` equal parts of a video to ``folder/pictures``.

    Sharpness is the variance of the Laplacian at a fixed size (Pech-Pacheco et al. 2000).

    Args:
        path: the video.
        folder: the work folder; a finished extraction there is kept.
        count: maximum number of frames.
        largest_side: maximum side in px; larger frames are reduced.

    Raises:
        UserError: if the video cannot be read.
    """
    images = folder / "pictures"
    done = folder / "video.done"
    if not done.is_file():
        images.mkdir(parents=True, exist_ok=True)
        total = _frame_count(path)
        sharpest: dict[int, tuple[float, NDArray[np.uint8]]] = {}
        progress = tqdm(_video_frames(path), f"reading {path.name}", total, leave=False, unit="frame")
        for i, frame in enumerate(progress):
            part = min(i * count // max(total, 1), count - 1)
            sharpness = _sharpness(frame)
            if part not in sharpest:
                for finished in [p for p in sharpest if p < part]:
                    _write(images / f"{finished:06d}.png", _reduce(sharpest.pop(finished)[1] / 255, largest_side))
            if part not in sharpest or sharpness > sharpest[part][0]:
                sharpest[part] = sharpness, frame
        for part, (_, frame) in sharpest.items():
            _write(images / f"{part:06d}.png", _reduce(frame / 255, largest_side))
        done.touch()
    paths = sorted(images.glob("*.png"))
    if not paths:
        raise UserError(f"{path}: this video has no frames")
    with Image.open(paths[0]) as first:
        size = first.size
    return [Frame(p, "video", None, size) for p in paths]


def with_masks(frames: list[Frame], folder: Path, mask: str) -> list[Frame]:
    """Write masks of the frames of a video to ``folder/masks``; only ``mask=uniform`` is supported.

    Raises:
        UserError: for other masks, or one that lists all frames without a uniform background.
    """
    if mask != "uniform":
        raise UserError(f"source.mask={mask}: a video can only be masked with source.mask=uniform")
    masked, problems = [], []
    (folder / "masks").mkdir(exist_ok=True)
    for frame in frames:
        image = read_image(frame.path, np.ones(3))
        lens = Lens(*frame.size, 1, 1, 0, 0)
        try:
            coverage = object_mask(Photograph(frame.path.stem, frame.path, np.eye(4), lens), image, mask)
            _write(folder / "masks" / frame.path.name, coverage)
        except UserError as error:
            problems.append(str(error))
        masked.append(replace(frame, mask=folder / "masks" / frame.path.name))
    raise_problems(folder, problems)
    return masked


def _mask_files(paths: list[Path], mask: str | None) -> dict[Path, Path]:
    """Return the mask file of every photograph if ``mask`` is a folder."""
    if mask in (None, "alpha", "uniform"):
        return {}
    folder = Path(str(mask))
    if not folder.is_dir():
        raise UserError(f"source.mask={mask} must be alpha, uniform or a folder of masks")
    by_stem = {p.stem: p for p in files_in(folder, IMAGE_SUFFIXES)}
    by_stem |= {Path(stem).stem: p for stem, p in by_stem.items()}  # COLMAP names the mask of a.jpg a.jpg.png
    missing = [path.stem for path in paths if path.stem not in by_stem]
    if missing:
        raise UserError(f"source.mask={mask} has no mask for {len(missing)} photographs, such as {missing[0]}.png")
    return {path: by_stem[path.stem] for path in paths}


def _read_exif(path: Path) -> tuple[str, float | None]:
    """Return a name of the camera, and the focal length relative to the longer side if the EXIF data contain it."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
    except OSError as error:
        if path.suffix.lower() in RAW_SUFFIXES:  # Pillow opens only those that are TIFF files
            return "", None
        raise UserError(f"{path}: cannot be read as an image, it may be truncated") from error
    details = exif.get_ifd(ExifTags.IFD.Exif)
    device = f"{exif.get(ExifTags.Base.Make, '')} {exif.get(ExifTags.Base.Model, '')}".strip()
    equivalent = details.get(ExifTags.Base.FocalLengthIn35mmFilm)
    millimetres = details.get(ExifTags.Base.FocalLength)
    focal = float(equivalent) / FULL_FRAME if equivalent else None
    return f"{device} {float(millimetres):g} mm".strip() if millimetres else device, focal


def _reduce(image: NDArray[np.floating], largest_side: int) -> NDArray[np.floating]:
    """Resize ``image`` so that no side exceeds ``largest_side`` px."""
    k = largest_side / max(image.shape[:2])
    if k >= 1:
        return image
    size = (max(1, round(image.shape[1] * k)), max(1, round(image.shape[0] * k)))
    return np.asarray(cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA))


def _write(path: Path, image: NDArray[np.floating]) -> None:
    with atomic_file(path) as temporary:
        iio.imwrite(temporary, (image * 255).round().clip(0, 255).astype(np.uint8), compress_level=1)


def _sharpness(frame: NDArray[np.uint8]) -> float:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    k = SHARPNESS_SIDE / max(grey.shape)
    return float(cv2.Laplacian(cv2.resize(grey, None, fx=k, fy=k, interpolation=cv2.INTER_AREA), cv2.CV_64F).var())


def _frame_count(path: Path) -> int:
    try:
        frames: int = imageio_ffmpeg.count_frames_and_secs(path)[0]
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be read as a video") from error
    return frames


def _video_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        yield from iio.imiter(path, plugin="FFMPEG")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read to its end, it may be truncated ({error})") from error
