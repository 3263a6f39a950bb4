"""The files of one split in the DeepVoxels folder layout: calibration, images and poses."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
from tqdm import tqdm

from dv.data.calibration import write_cameras
from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.images import background_color
from dv.prepare.photographs import Lens, Photograph
from dv.prepare.rectify import rectify


@dataclass(frozen=True)
class WriteSettings:
    """How to write an object: the ``source``, ``grid``, ``views`` and ``noise`` configuration that all imports share.

    ``image_side`` (of squares) and ``longest_side`` (of whole images) None keep the resolution; ``mask`` is None,
    alpha, uniform, or files for those that the photographs name. Existing ``dataset.json`` files record these fields by
    name.
    """

    background: str | list[float] = "white"
    crop: str = "full"
    image_side: int | None = None
    longest_side: int | None = None
    mask: str | None = None
    upright: bool = False
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
        try:
            camera, k = cameras[photograph.lens], written[photograph.lens]
            size = k.width, k.height
            image = rectify(photograph, camera, size, background, mask=settings.mask, upright=settings.upright)
        except UserError as error:
            return str(error)
        iio.imwrite(folder / "rgb" / f"{photograph.name}.png", image.permute(1, 2, 0).numpy())
        return None

    with ThreadPoolExecutor() as pool:
        done = tqdm(pool.map(write, photographs), f"writing {folder.name}", len(photographs), leave=False, unit="view")
        return [problem for problem in done if problem]
