"""Pictures with ``*_par.txt``, as the Middlebury multi-view stereo datasets come, as posed photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dv.errors import UserError
from dv.prepare.photographs import (
    Array,
    Faults,
    Lens,
    Photograph,
    PhotographSet,
    picture_size,
    rigid,
    unique_names,
)

LEAST_PICTURES = 4  # two to train on, one to validate and one to test


def read_middlebury(path: Path, par: Path | None = None, input_pixel_center: float = 0.0) -> PhotographSet:
    """Photographs of a folder by its ``*_par.txt``: a count, then ``name K(9) R(9) t(3)`` a line, matrices by rows.

    R, t take world to camera (OpenCV axes); a pixel's coordinate is its index plus ``input_pixel_center``. ``par``
    chooses one of several files. Pictures that are listed but absent are left out: parts of a dataset are common.
    Raises :class:`UserError` for every fault.
    """
    if input_pixel_center not in (0, 0.5):
        raise UserError(f"source.input_pixel_center={input_pixel_center} must be 0 or 0.5")
    file = _par_file(path, par)
    lines = _lines(file)
    faults, absent = Faults(), list[Path]()
    photographs: list[Photograph] = []
    for name, numbers in lines:
        picture = path / name
        if not picture.is_file():
            absent.append(picture)
            continue
        try:
            lens = _lens(numbers[:9].reshape(3, 3), input_pixel_center, *picture_size(picture))
            photographs.append(Photograph(name, picture, _pose(numbers[9:]), lens))
        except UserError as error:
            faults.add(name, str(error).removeprefix(f"{picture}: "))
    faults.refuse(file)
    if len(photographs) < LEAST_PICTURES:
        raise UserError(
            f"{file} lists {len(lines)} pictures, of which {len(photographs)} are there, and {LEAST_PICTURES} are "
            "needed" + (f"; {absent[0]} is not there, for one" if absent else "")
        )
    names = unique_names([Path(p.name) for p in photographs])
    named = [Photograph(n, p.path, p.pose, p.lens) for n, p in zip(names, photographs, strict=True)]
    return PhotographSet(
        {"train": named},
        provenance={"par": str(file), "input_pixel_center": input_pixel_center},
        left_out=[f"{picture}: no such file" for picture in absent],
    )


def _par_file(path: Path, par: Path | None) -> Path:
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder; give the one that holds the pictures and *_par.txt")
    if par is not None:
        given = next((file for file in (path / par, par) if file.is_file()), None)
        if given is None:
            raise UserError(f"source.par={par}: no such file in {path}")
        return given
    files = sorted(path.glob("*_par.txt"))
    if len(files) != 1:
        there = ", ".join(f"source.par={file.name}" for file in files)
        raise UserError(f"{path}: " + (f"give one of {there}" if there else "no *_par.txt there; give source.par=FILE"))
    return files[0]


def _lines(file: Path) -> list[tuple[str, Array]]:
    lines = [line.split() for line in file.read_text(errors="replace").splitlines() if line.strip()]
    try:
        (count,) = map(int, lines[0])
    except (IndexError, ValueError):
        raise UserError(f"{file}: must begin with the number of its pictures") from None
    if len(lines) != count + 1:
        raise UserError(f"{file}: says that it has {count} pictures, but lists {len(lines) - 1}; it may be truncated")
    faults, read, seen = Faults(), list[tuple[str, Array]](), set[str]()
    for number, (name, *tokens) in enumerate(lines[1:], 2):
        try:
            numbers = np.array(tokens, np.float64)
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != 21 or not np.isfinite(numbers).all():
            faults.add(f"line {number}", "must hold a name and the 21 numbers of K, R and t")
        elif name in seen:
            faults.add(f"line {number}", "names a picture for the second time")
        seen.add(name)
        read.append((name, numbers))
    faults.refuse(file)
    return read


def _lens(k: Array, pixel_center: float, width: int, height: int) -> Lens:
    if abs(k[0, 1]) > 1e-6 * abs(k[0, 0]) or np.abs(k[[1, 2, 2], [0, 0, 1]]).max() > 0 or abs(k[2, 2] - 1) > 1e-9:
        raise UserError("K must be fx 0 cx / 0 fy cy / 0 0 1: pixels that are not rectangular cannot be had")
    shift = 0.5 - pixel_center
    return Lens(width, height, k[0, 0].item(), k[1, 1].item(), k[0, 2].item() + shift, k[1, 2].item() + shift)


def _pose(numbers: Array) -> Array:
    """Camera-to-world pose of R (9) and t (3), world to camera. Raises :class:`UserError` if R is no rotation."""
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    try:
        rotation, shift = np.split(rigid(world_to_camera)[:3], [3], axis=1)
    except UserError as error:
        raise UserError(f"its R, t {error}") from None
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3:] = rotation.T, -rotation.T @ shift
    return pose
