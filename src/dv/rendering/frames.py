"""Folders of rendered frames, which are continued where an earlier rendering stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from dv.images import over_background, read_png16, write_png16
from dv.metrics import to_unit
from dv.object_model import RenderedView
from dv.rendering.restore import Restored
from dv.rendering.trajectories import Shots
from dv.runtime.files import atomic_file, write_json

KINDS = ("rgb", "depth", "opacity")


@dataclass(frozen=True)
class Frames:
    """Frames in ``folder``: 16-bit ``rgb/``, and as far as the model has them ``depth/`` and ``opacity/``.

    Args:
        folder: of the frames.
        count: of the frames.
        depth_unit: world units of one count of ``depth/``; None without depth.
    """

    folder: Path
    count: int
    depth_unit: float | None

    def rgb(self, i: int) -> Tensor:
        """Return frame ``i``, RGB ``[3, H, W]`` in [0, 1]; transparent ones over white."""
        image = read_png16(self._path("rgb", i))
        return image if len(image) == 3 else image[:3] * image[3:] + 1 - image[3:]

    def depth(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Return camera z in world units, and the opacity if there is one, ``[1, H, W]`` each."""
        assert self.depth_unit is not None
        opacity = self._path("opacity", i)
        depth = read_png16(self._path("depth", i)) * 65535 * self.depth_unit
        return depth, read_png16(opacity) if opacity.is_file() else None

    def _path(self, kind: str, i: int) -> Path:
        return self.folder / kind / f"{i:06d}.png"


def render_frames(
    restored: Restored, shots: Shots, folder: Path, background: str | list[float] | None, batch_size: int, label: str
) -> Frames:
    """Render views into ``rgb/``, ``depth/``, ``opacity/``, ``depth.json`` and ``frames.json`` of a folder.

    Frames that are there already, of the same checkpoint, cameras and settings, are kept. Each file appears when it is
    complete, colours last.

    Args:
        restored: the model.
        shots: the views.
        folder: created if missing.
        background: that images are composited over, see :func:`dv.images.over_background`; None: as the camera sees it.
        batch_size: see :meth:`Restored.render_views`.
        label: of the progress bar.
    """
    model = restored.model
    max_depth = model.max_depth(shots.poses) if model.has_depth else None
    about = _about(restored, shots, background)
    if _read(folder / "frames.json") != about:
        for kind in KINDS:
            for old in (folder / kind).glob("*.png"):
                old.unlink()
        for old in folder.glob("video.*"):
            old.unlink()
        for other in ("right", "beside"):
            shutil.rmtree(folder / other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "frames.json", about)
    if max_depth is not None:
        write_json(folder / "depth.json", {"world_units_per_count": max_depth / 65535})
    kinds = [kind for kind in KINDS if kind == "rgb" or (folder / kind).is_dir()]
    kinds += ["depth"] if max_depth is not None and "depth" not in kinds else []
    missing = [i for i in range(len(shots.names)) if not all(_is_complete(folder / k / f"{i:06d}.png") for k in kinds)]
    if 0 < len(missing) < len(shots.names):
        print(f"{len(shots.names) - len(missing)} of {len(shots.names)} frames are there already: {folder}")
    views = restored.render_views(shots.poses[missing], [shots.cameras[i] for i in missing], batch_size)
    for i, view in zip(missing, tqdm(views, label, len(missing), unit="frame", disable=not missing), strict=True):
        for kind, image in _images(view, background, max_depth):
            path = folder / kind / f"{i:06d}.png"
            path.parent.mkdir(exist_ok=True)
            with atomic_file(path) as temporary:
                write_png16(temporary, image)
    return Frames(folder, len(shots.names), None if max_depth is None else max_depth / 65535)


def _images(view: RenderedView, background: str | list[float] | None, max_depth: float | None) -> Iterator[Any]:
    """Yield the files of one frame, colours last."""
    image = to_unit(view.image)
    if view.depth is not None and max_depth is not None:
        yield "depth", view.depth / max_depth
    if view.opacity is not None:
        yield "opacity", view.opacity
        if background is not None:
            image = over_background(image, view.opacity, background)
    yield "rgb", image


def _about(restored: Restored, shots: Shots, background: str | list[float] | None) -> dict[str, Any]:
    """Everything that the frames depend on."""
    with restored.checkpoint.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "names": shots.names,
        "poses": shots.poses.tolist(),
        "cameras": [list(k) for k in shots.cameras],
        "checkpoint_sha256": digest,
        "precision": restored.precision,
        "background": background,
        "mean_exposure": restored.mean_exposure,
        "supersampling": restored.supersampling,
    }


def _is_complete(path: Path) -> bool:
    """Return whether a PNG file ends as PNG files do."""
    try:
        with path.open("rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read()[4:8] == b"IEND"
    except OSError:  # missing, or too short
        return False


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # none, or damaged: rendered anew
        return None
