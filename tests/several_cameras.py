"""An object in the folder format with images of two rectangular cameras, one with pixels that are not square."""

import json
import shutil
from pathlib import Path

import cv2
import imageio.v3 as iio

from conftest import write_views

WIDE, TALL = (24, 40), (36, 20)  # height and width


def write_two_cameras(root: Path, train: int = 8, name: str = "ball") -> Path:
    """Write an object whose views alternate between two cameras, and return its root."""
    for split, count, seed in (("train", train, 0), ("validation", 3, 1), ("test", 3, 2)):
        folder, other = root / split / name, root / f"{split}-other"
        write_views(folder, count, 0, seed=seed, size=WIDE)
        write_views(other, count, 0, seed=seed, size=(TALL[0], 2 * TALL[1]))  # will be narrowed to half its width
        stems = sorted(path.stem for path in (folder / "pose").glob("*.txt"))
        cameras = [camera_of(WIDE), camera_of(TALL, narrowed=True)]
        for stem in stems[1::2]:
            shutil.copyfile(other / "pose" / f"{stem}.txt", folder / "pose" / f"{stem}.txt")
            image = cv2.resize(iio.imread(other / "rgb" / f"{stem}.png"), TALL[::-1], interpolation=cv2.INTER_AREA)
            iio.imwrite(folder / "rgb" / f"{stem}.png", image)
        write_cameras_json(folder, cameras, {stem: i % 2 for i, stem in enumerate(stems)})
        shutil.rmtree(other)
    return root


def camera_of(size: tuple[int, int], narrowed: bool = False) -> dict[str, float]:
    """Return the camera of conftest.write_views, in its convention of pixel centres at 0."""
    height, width = size
    full = 2 * width if narrowed else width
    f = 1.4 * min(height, full)
    return {
        "fx": f * width / full,
        "fy": f,
        "cx": (width - 1) / 2,
        "cy": (height - 1) / 2,
        "width": width,
        "height": height,
    }


def write_cameras_json(folder: Path, cameras: list[dict[str, float]], views: dict[str, int]) -> None:
    (folder / "cameras.json").write_text(json.dumps({"cameras": cameras, "views": views}))
