"""Importer of COLMAP models, written by COLMAP or by programs that export its files."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dv.errors import UserError
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages, named_images
from dv.prepare.photographs import Photograph, PhotographSet, Problems, existing, shorten, unique_names
from dv.prepare.placement import Array
from dv.runtime.foreign_files import files_in, is_left_by_system, read_text

# Camera models whose parameters are f or fx fy, then cx cy, then OpenCV's distortion; whether they are fisheyes.
MODELS = {
    "SIMPLE_PINHOLE": False,
    "PINHOLE": False,
    "SIMPLE_RADIAL": False,
    "RADIAL": False,
    "OPENCV": False,
    "FULL_OPENCV": False,
    "SIMPLE_RADIAL_FISHEYE": True,
    "RADIAL_FISHEYE": True,
    "OPENCV_FISHEYE": True,
}
ONE_FOCAL = {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
PARTS = ("cameras", "images", "points3D")
DECIMAL_COMMA = re.compile(r"(\d),(\d)")
ENOUGH_POINTS = 100
DEPTH = 3  # levels of folders in which models are looked for, as colmap/sparse/0


def colmap_module() -> Any:
    """Import pycolmap and silence its log.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import pycolmap
    except ImportError:
        raise UserError("this needs pycolmap: pip install 'dv[capture]'") from None
    pycolmap.logging.alsologtostderr = False
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    return pycolmap


def lens_of(camera: Any) -> Lens:
    """Convert a ``pycolmap.Camera``, whose pixels are centred at +0.5 too.

    Raises:
        UserError: for camera models that OpenCV does not have.
    """
    name = camera.model.name
    if name not in MODELS:
        raise UserError(
            f"camera model {name} is not supported ({', '.join(MODELS)} are); undistort the images first: "
            "colmap image_undistorter"
        )
    focal = 1 if name in ONE_FOCAL else 2
    params = camera.params.tolist()
    cx, cy, *distortion = params[focal:]
    return Lens(camera.width, camera.height, params[0], params[focal - 1], cx, cy, tuple(distortion), MODELS[name])


def photographs_of(
    reconstruction: Any, images: NamedImages, names: Mapping[int, str] | None = None
) -> tuple[list[Photograph | Path], Array]:
    """Convert a ``pycolmap.Reconstruction``.

    Args:
        reconstruction: the model.
        images: where its images are.
        names: of the images by their number; None for those in the model.

    Returns:
        Photographs sorted by name, or the path of a missing image; and points ``[N, 3]``, see :func:`reliable_points`.

    Raises:
        UserError: one that lists all lenses and images that cannot be read.
    """
    registered = {i: names[i] if names else reconstruction.image(i).name for i in reconstruction.reg_image_ids()}
    ordered = sorted(registered, key=lambda i: registered[i])
    problems = Problems()
    views: list[Photograph | Path] = []
    images.expect(registered.values())
    for i, name in zip(ordered, unique_names([Path(registered[i]) for i in ordered]), strict=True):
        image = reconstruction.image(i)
        try:
            path = images.find(registered[i])
            lens = lens_of(image.camera)
            views.append(Photograph.of_file(name, path, _pose(image), lens) if path else images.expected(registered[i]))
        except UserError as error:
            problems.add(registered[i], str(error).removeprefix(f"{images.root / registered[i]}: "))
    problems.raise_any(images.root)
    return views, reliable_points(reconstruction)


def reliable_points(reconstruction: Any) -> Array:
    """Return the points ``[N, 3]`` seen by at least three images, or by two if that leaves fewer than 100."""
    points = [(point.xyz, point.track.length()) for point in reconstruction.points3D.values()]
    reliable = [xyz for xyz, length in points if length >= 3]
    kept = reliable if len(reliable) >= ENOUGH_POINTS else [xyz for xyz, length in points if length >= 2]
    return np.array(kept, np.float64).reshape(-1, 3)


def read_colmap(path: Path, images: Path | None = None) -> PhotographSet:
    """Read the COLMAP model (cameras, images, points3D as .bin or .txt) with the most images.

    Poses keep COLMAP's world, whose scale is arbitrary. Images may be smaller copies of the reconstructed ones.

    Args:
        path: folder of the model, or up to three levels above it, as ``colmap/sparse/0`` is below a project.
        images: folder of the images; None: see :func:`~dv.prepare.named_images.named_images`.

    Raises:
        UserError: one that lists every fault, or if most images are missing.
    """
    colmap = colmap_module()
    folders = _find_models(path)
    models = {folder: _read_model(colmap, folder) for folder in folders}
    folder = max(models, key=lambda f: models[f][0].num_reg_images())
    model, names = models[folder]
    if not model.num_reg_images():
        raise UserError(f"{folder}: a model without registered images; reconstruct again, with more overlap")
    files = named_images(path, images)
    views, points = photographs_of(model, files, names)
    splits, left_out, _ = existing({"train": views}, "give source.images=FOLDER")
    others = files.others(photograph.path for photograph in splits["train"])
    return PhotographSet(
        splits,
        points=points if len(points) else None,
        provenance={
            "model": str(folder),
            "models": {str(f.relative_to(path)): m.num_reg_images() for f, (m, _) in models.items()},
            "images": str(files.root),
            "points": len(points),
        },
        left_out=left_out + [f"{image}: not in the model" for image in others],
        notes=[f"{len(models)} models: that with the most images is read, {folder}"] if len(models) > 1 else [],
        files=[file for f in folders for file in files_in(f, {".bin", ".txt"})],
    )


def _pose(image: Any) -> Array:
    """Return the camera-to-world pose of a ``pycolmap.Image``."""
    pose = np.eye(4)
    pose[:3] = image.cam_from_world().inverse().matrix()
    return pose


def model_folders(path: Path) -> list[Path]:
    """Return the folders with cameras and images of a COLMAP model: ``path``, or all up to three levels below it.

    A model may lack points.
    """
    if _holds_model(path):
        return [path]
    level, found = [path], list[Path]()
    for _ in range(DEPTH):
        level = [f for folder in level for f in sorted(folder.iterdir()) if f.is_dir() and not is_left_by_system(f)]
        found += [folder for folder in level if _holds_model(folder)]
    return found


def _holds_model(folder: Path) -> bool:
    return any(all((folder / f"{part}{end}").is_file() for part in PARTS[:2]) for end in (".bin", ".txt"))


def _find_models(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"source.path={path}: no such folder; give one that holds a COLMAP model")
    if found := model_folders(path):
        return found
    raise UserError(
        f"source.path={path}: no COLMAP model ({shorten([f'{part}.bin' for part in PARTS])}, or .txt) in this "
        "folder, in sparse/0 or in another folder up to three levels below"
    )


def _read_model(colmap: Any, folder: Path) -> tuple[Any, dict[int, str] | None]:
    """Return a model, and the names of its images if they are not those in the model."""
    try:
        if (folder / "images.bin").is_file() and (folder / "points3D.bin").is_file():
            return colmap.Reconstruction(folder), None
        with TemporaryDirectory() as copy:
            if (folder / "images.bin").is_file():
                for file in files_in(folder, {".bin"}):
                    (Path(copy) / file.name).symlink_to(file.resolve())
                (Path(copy) / "points3D.bin").write_bytes(bytes(8))  # their number: none
                return colmap.Reconstruction(copy), None
            names = _plain_copy(folder, Path(copy))
            return colmap.Reconstruction(copy), names
    except UserError:
        raise
    except Exception as error:  # pybind11 does not export the exception types
        raise UserError(f"{folder}: cannot be read as a COLMAP model, a file may be truncated") from error


def _plain_copy(folder: Path, copy: Path) -> dict[int, str]:
    """Copy a model in text to where COLMAP can read it: names without spaces, no byte order marks or decimal commas.

    Every image has two lines: ``ID QW QX QY QZ TX TY TZ CAMERA_ID NAME``, and its points, which may be empty.

    Returns:
        The names by the number of the image.
    """
    for file in files_in(folder, {".txt"}):
        if file.name != "images.txt":
            (copy / file.name).write_text(_with_decimal_points(read_text(file)))
    (copy / "points3D.txt").touch()
    names: dict[int, str] = {}
    lines = deque(read_text(folder / "images.txt").splitlines())
    with (copy / "images.txt").open("w") as written:
        while lines:
            line = lines.popleft()
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split(maxsplit=9)
            if len(fields) < 10 or not fields[0].isdecimal():
                raise UserError(f"{folder / 'images.txt'}: an image is ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, "
                                f"but a line is: {line[:60]}")  # fmt: skip
            names[int(fields[0])] = fields[9].strip()
            points = lines.popleft() if lines and not _names_an_image(lines[0]) else ""
            written.write(_with_decimal_points(f"{' '.join(fields[:9])} {fields[0]}\n{points}\n"))
    return names


def _names_an_image(line: str) -> bool:
    """Return whether a line is that of an image, not of points: some programs leave out lines without points."""
    fields = line.split(maxsplit=9)
    return len(fields) == 10 and not re.fullmatch(r"[-+.,\deE\s]+", fields[9])


def _with_decimal_points(text: str) -> str:
    """Return text with decimal points for decimal commas."""
    return DECIMAL_COMMA.sub(r"\1.\2", text)
