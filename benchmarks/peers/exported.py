"""Reading what ``prepare.py source=export`` writes, which all peers train on, and writing the images that are scored.

Coordinates are those of the box around the object: its centre is 0, its side 2. Needs NumPy and imageio alone, so that
programs in other environments can use it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Rays:
    """N rays through the centres of pixels, image after image and row after row.

    Attributes:
        origins: ``[N, 3]``, in the box's coordinates.
        directions: ``[N, 3]`` of length 1.
        near: distances ``[N]`` at which rays enter the box; 0 for origins inside.
        far: distances ``[N]`` at which they leave it; equal to ``near`` for rays that miss it.
    """

    origins: Array
    directions: Array
    near: Array
    far: Array


@dataclass(frozen=True)
class Views:
    """The V views of a split.

    Attributes:
        images: ``[V, H, W, 3]`` in [0, 1].
        poses: camera-to-world ``[V, 4, 4]`` with OpenCV axes; the world is the box's coordinates.
        camera: fx, fy, cx and cy in px, with pixel centres at +0.5.
    """

    images: Array
    poses: NDArray[np.float64]
    camera: tuple[float, float, float, float]

    def rays(self) -> Rays:
        """Return a ray for every pixel."""
        height, width = self.images.shape[1:3]
        fx, fy, cx, cy = self.camera
        row, column = np.mgrid[:height, :width] + 0.5
        in_camera = np.stack([(column - cx) / fx, (row - cy) / fy, np.ones((height, width))], -1).reshape(-1, 3)
        directions = in_camera @ self.poses[:, :3, :3].transpose(0, 2, 1)
        directions = (directions / np.linalg.norm(directions, axis=-1, keepdims=True)).reshape(-1, 3)
        origins = self.poses[:, :3, 3].repeat(height * width, 0)
        with np.errstate(divide="ignore"):
            faces = np.stack([(-1 - origins) / directions, (1 - origins) / directions])
        near = np.maximum(faces.min(0).max(1), 0)
        far = np.maximum(faces.max(0).min(1), near)
        return Rays(*(a.astype(np.float32) for a in (origins, directions, near, far)))

    def corner_color(self) -> Array:
        """Return the median colour ``[3]`` of the images' corners, which is that of a plain background."""
        corners: Array = np.median(self.images[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, 3), axis=0)
        return corners


def read_views(folder: Path, split: str) -> Views:
    """Read the views of a split of an exported object.

    Args:
        folder: contains ``transforms_{train,val,test}.json``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        SystemExit: if the views have several cameras.
    """
    content = json.loads((folder / f"transforms_{split}.json").read_text())
    frames: list[dict[str, Any]] = content["frames"]
    if any("fl_x" in frame for frame in frames):
        raise SystemExit(f"{folder}: several cameras; the peers read objects of one camera")
    images = np.stack([iio.imread(folder / frame["file_path"])[..., :3] for frame in frames])
    poses = np.array([frame["transform_matrix"] for frame in frames]) * [1, -1, -1, 1]  # OpenGL axes to OpenCV
    box = content["dv_grid"]
    poses[:, :3, 3] = (poses[:, :3, 3] - box["origin"]) / (box["scale"] / 2)
    camera = tuple(content[key] for key in ("fl_x", "fl_y", "cx", "cy"))
    return Views(images.astype(np.float32) / np.float32(255), poses, camera)


def write_result(folder: Path, images: Array, seconds: float, steps: int, every: int = 1) -> None:
    """Write rendered test views, named by their number, and how long was trained.

    Args:
        folder: is created.
        images: ``[V, H, W, 3]``; values outside [0, 1] are clamped.
        seconds: of training.
        steps: of the optimiser.
        every: n if they are every n-th test view.
    """
    (folder / "rgb").mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        iio.imwrite(folder / "rgb" / f"{i * every:06d}.png", (image.clip(0, 1) * 255).round().astype(np.uint8))
    (folder / "training.json").write_text(json.dumps({"seconds": round(seconds, 1), "steps": steps}) + "\n")
