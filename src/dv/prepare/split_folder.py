"""The files of one split in the DeepVoxels folder layout: calibration, images and poses."""

from __future__ import annotations

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from dv.data.calibration import write_cameras
from dv.decoding import check_pixels, is_plain_file
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.images import background_color
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph
from dv.prepare.rectify import full_camera, rectify


@dataclass(frozen=True)
class WriteSettings:
    """How to write an object: the ``source``, ``grid``, ``views`` and ``noise`` configuration that all imports share.

    ``image_side`` (of squares) and ``longest_side`` (of whole images) None keep the resolution; ``mask`` is None,
    alpha, uniform, or files for those that the photographs name. Existing ``dataset.json`` files record these fields by
    name.
    """

    background: str | list[float] = "white"
    crop: str = "auto"
    image_side: int | None = None
    longest_side: int | None = None
    mask: str | None = None
    origin: list[float] | None = None
    scale: float | None = None
    near: float | None = None
    every: int = 1
    random: int | None = None
    farthest: int | None = None
    noise_angle: float = 0.0
    noise_distance: float = 0.0
    noise_exposure: float = 0.0
    seed: int = 0


def write_calibration(
    folder: Path, cameras: dict[str, Intrinsics], distinct: set[Intrinsics], placement: GridPlacement
) -> None:
    """Create the folder of a split with its ``intrinsics.txt`` and, if that does not suffice, ``cameras.json``.

    Args:
        folder: to create.
        cameras: of the views of the split, by name.
        distinct: all cameras of the object.
        placement: of the grid.
    """
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    k = next(iter(cameras.values()))
    square_pixels = abs(k.fx - k.fy) <= 1e-9 * k.fx
    origin = " ".join(f"{float(x)!r}" for x in placement.origin)
    f = k.fx if square_pixels else math.sqrt(k.fx * k.fy)
    lens = " ".join(f"{float(x)!r}" for x in (f, k.cx, k.cy))
    calibration = f"{lens} 0.\n{origin}\n{float(placement.near)!r}\n{float(placement.scale)!r}\n"
    (folder / "intrinsics.txt").write_text(f"{calibration}{k.height} {k.width}\n")
    if len(distinct) > 1 or not square_pixels:
        write_cameras(folder, cameras)


def write_views(
    folder: Path,
    photographs: list[Photograph],
    cameras: dict[Lens, Intrinsics],
    written: dict[Lens, Intrinsics],
    settings: WriteSettings,
) -> list[str]:
    """Write images and poses.

    Args:
        folder: of the split.
        photographs: of the split.
        cameras: of the images at the resolution of the photographs, by their lens.
        written: these cameras at the size of the images.
        settings: of the writing.

    Returns:
        What is wrong with photographs that cannot be read.
    """
    background = background_color(settings.background)

    def write(photograph: Photograph) -> str | None:
        pose = " ".join(f"{number:.17g}" for number in photograph.pose.ravel())
        (folder / "pose" / f"{photograph.name}.txt").write_text(pose + "\n")
        camera, k = cameras[photograph.lens], written[photograph.lens]
        try:
            if settings.mask is None and is_unchanged(photograph, camera, k):
                check_pixels(photograph.path)  # a truncated file is found now
                target = folder / "rgb" / f"{photograph.name}{photograph.path.suffix.lower()}"
                shutil.copyfile(photograph.path, target)
                return None
            image = rectify(photograph, camera, (k.width, k.height), background, mask=settings.mask)
        except UserError as error:
            return str(error)
        encoded = cv2.imencode(".png", image.permute(1, 2, 0).numpy()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
        (folder / "rgb" / f"{photograph.name}.png").write_bytes(encoded.tobytes())
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # each holds a photograph in memory
        done = tqdm(pool.map(write, photographs), f"writing {folder.name}", len(photographs), leave=False, unit="view")
        return [problem for problem in done if problem]


def is_unchanged(photograph: Photograph, camera: Intrinsics, written: Intrinsics) -> bool:
    """Return whether the file of a photograph is the image to write: copying it keeps its quality and size.

    Args:
        photograph: the input.
        camera: of the image at the resolution of the photograph.
        written: of the image at the size to write.
    """
    lens = photograph.lens
    return (
        camera == written == full_camera(lens)
        and not (lens.distortion or lens.fisheye or photograph.stops or photograph.upright)
        and is_plain_file(photograph.path)
    )
