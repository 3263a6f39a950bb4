"""Importer of images with ``*_par.txt``, the format of the Middlebury multi-view stereo datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dv.decoding import image_size
from dv.errors import UserError
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import Photograph, PhotographSet, Problems, uniquely_named
from dv.prepare.placement import Array
from dv.prepare.rigid import inverse_rigid, nearest_rigid
from dv.runtime.foreign_files import files_in, numbers_of, read_text

MIN_IMAGES = 4  # two for training, one for validation and one for testing


def read_middlebury(path: Path, par: Path | None = None, input_pixel_center: float = 0.0) -> PhotographSet:
    """Read the images of a folder that its ``*_par.txt`` lists.

    The file holds the number of images, then ``name K(9) R(9) t(3)`` per line, matrices by rows; R, t are
    world-to-camera in OpenCV axes. Listed images that are missing are left out, since parts of a dataset are common.

    Args:
        path: the folder.
        par: the file, if the folder has several.
        input_pixel_center: coordinate of the centre of pixel 0 in the file's convention, 0 or 0.5.

    Raises:
        UserError: one that lists every fault.
    """
    if input_pixel_center not in (0, 0.5):
        raise UserError(f"source.input_pixel_center={input_pixel_center} must be 0 or 0.5")
    file = _find_par_file(path, par)
    lines = _read_lines(file)
    problems, missing, images = Problems(), list[Path](), NamedImages(path, ["."])
    photographs: list[Photograph] = []
    images.expect(name for name, _ in lines)
    for name, numbers in lines:
        try:
            image = images.find(name)
            if image is None:
                missing.append(path / name)
                continue
            lens = _lens(numbers[:9].reshape(3, 3), input_pixel_center, *image_size(image))
            photographs.append(Photograph.of_file(name, image, _pose(numbers[9:]), lens))
        except UserError as error:
            problems.add(name, str(error).removeprefix(f"{path / name}: "))
    problems.raise_any(file)
    if len(photographs) < MIN_IMAGES:
        raise UserError(
            f"{file} lists {len(lines)} images, of which {len(photographs)} exist; at least {MIN_IMAGES} are needed"
            + (f", and {missing[0]} is missing, for example" if missing else "")
        )
    return PhotographSet(
        {"train": uniquely_named(photographs)},
        provenance={"par": str(file), "input_pixel_center": input_pixel_center},
        left_out=[f"{image}: no such file" for image in missing],
        files=[file],
    )


def _find_par_file(path: Path, par: Path | None) -> Path:
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder; give the one that holds the images and *_par.txt")
    if par is not None:
        given = next((file for file in (path / par, par) if file.is_file()), None)
        if given is None:
            raise UserError(f"source.par={par}: no such file in {path}")
        return given
    files = [file for file in files_in(path, {".txt"}) if file.name.lower().endswith("_par.txt")]
    if not files:
        raise UserError(f"{path}: contains no *_par.txt; give source.par=FILE")
    if len(files) > 1:
        raise UserError(f"{path}: give one of {', '.join(f'source.par={file.name}' for file in files)}")
    return files[0]


def _read_lines(file: Path) -> list[tuple[str, Array]]:
    """Return the name and the 21 numbers of every line but the first."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    try:
        count = int(lines[0])
    except (IndexError, ValueError):
        raise UserError(f"{file}: must begin with the number of its images") from None
    if len(lines) != count + 1:
        raise UserError(f"{file}: announces {count} images, but lists {len(lines) - 1}; it may be truncated")
    problems, read, seen = Problems(), list[tuple[str, Array]](), set[str]()
    for number, line in enumerate(lines[1:], 2):
        name, *tokens = line.rsplit(maxsplit=21)  # names may have spaces
        try:
            numbers = np.array(numbers_of(" ".join(tokens)))
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != 21 or not np.isfinite(numbers).all():
            problems.add(f"line {number}", "must hold a name and the 21 numbers of K, R and t")
        elif name in seen:
            problems.add(f"line {number}", "names an image for the second time")
        seen.add(name)
        read.append((name, numbers))
    problems.raise_any(file)
    return read


def _lens(k: Array, pixel_center: float, width: int, height: int) -> Lens:
    if abs(k[0, 1]) > 1e-6 * abs(k[0, 0]) or np.abs(k[[1, 2, 2], [0, 0, 1]]).max() > 0 or abs(k[2, 2] - 1) > 1e-9:
        raise UserError("K must be fx 0 cx / 0 fy cy / 0 0 1: skewed pixels are not supported")
    shift = 0.5 - pixel_center
    return Lens(width, height, k[0, 0].item(), k[1, 1].item(), k[0, 2].item() + shift, k[1, 2].item() + shift)


def _pose(numbers: Array) -> Array:
    """Invert R (9) and t (3) to a camera-to-world pose ``[4, 4]``; raise :class:`UserError` if R is not a rotation."""
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    try:
        return inverse_rigid(nearest_rigid(world_to_camera))
    except UserError as error:
        raise UserError(f"its R, t {error}") from None
