"""``export.py``: a trained model as a page, a point cloud, Gaussian splats or arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dv.config import ExportConfig
from dv.data.folder import read_poses
from dv.errors import UserError
from dv.export.grid import LAYOUT, write_grid
from dv.export.page import page
from dv.export.splats import write_splats
from dv.export.surface import Surface, visible_surface
from dv.geometry.camera import Intrinsics
from dv.geometry.trajectory import up_direction
from dv.images import write_ply
from dv.radiance import RadianceGrid
from dv.runtime.files import atomic_file, write_json
from dv.tasks.command import run
from dv.tasks.restore import Restored, restore

SUFFIXES = {"html": ".html", "points": ".ply", "splats": "_splats.ply", "grid": ".npz"}


class Cameras(NamedTuple):
    """Poses ``[V, 4, 4]`` and intrinsics of the training views, and the world's up direction ``[3]``."""

    poses: Tensor
    intrinsics: list[Intrinsics]
    up: Tensor


def export(config: ExportConfig) -> Path:
    """Write ``NAME.html``, ``NAME.ply``, ``NAME_splats.ply`` or ``NAME.npz``, and ``export.json`` about it.

    Returns:
        The file.

    Raises:
        UserError: if the model has nothing of which the format could be made.
    """
    if config.format is None:
        raise UserError(f"format is not set; give format={'|'.join(SUFFIXES)}")
    restored = restore(config)
    model, source = restored.model, restored.source
    model.use_mean_exposure()
    if not config.surroundings:
        try:
            model.isolate()
        except ValueError as error:
            raise UserError(f"surroundings=false with {restored.checkpoint.path}: {error}") from error
    writers: dict[str, Callable[[ExportConfig, Restored, Path], dict[str, Any]]] = {
        "html": _page, "points": _points, "splats": _splats, "grid": _grid
    }  # fmt: skip
    folder = Path(config.output_dir or restored.run_dir / "export" / config.format)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{source.name}{SUFFIXES[config.format]}"
    with atomic_file(file) as temporary:
        about = writers[config.format](config, restored, temporary)
    up = source.up()
    write_json(
        folder / "export.json",
        {
            "format": config.format,
            "file": file.name,
            "object": source.name,
            "checkpoint": str(restored.checkpoint.path),
            "step": restored.checkpoint.step,
            "axes": "right-handed, those of the poses of the object",
            "unit": "that of the poses of the object",
            "up": None if up is None else up.tolist(),
            "box": {"origin": list(restored.placement.origin), "scale": restored.placement.scale},
            "surroundings": config.surroundings,
            **about,
        },
    )
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return file


def _page(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    grid, cameras = _radiance_grid(config, restored), _cameras(restored)
    center = torch.tensor(restored.placement.origin, dtype=cameras.poses.dtype)
    offsets = center - cameras.poses[:, :3, 3]
    beside = torch.linalg.cross(offsets, cameras.poses[:, :3, 2]).norm(dim=1)  # distance of the axis from the centre
    first = int(beside.argmin())
    try:
        text = page(grid, cameras.poses[first], cameras.intrinsics[first], cameras.up, restored.source.name)
    except ValueError as error:
        raise UserError(f"format=html with {restored.checkpoint.path}: {error}") from error
    path.write_text(text, encoding="utf-8")
    return {"needs": "a browser with WebGL2; no network"}


def _points(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    if isinstance(restored.model, RadianceGrid):
        surface = _surface(config, restored)
        chosen = torch.randperm(len(surface.positions), generator=torch.Generator().manual_seed(0))[: config.max_points]
        write_ply(path, surface.positions[chosen], surface.frontal_colors()[chosen], surface.normals[chosen])
        return {"points": len(chosen), "colors": "sRGB, seen along the normals"}
    points, colors = restored.model.point_cloud(config.max_points)
    write_ply(path, points, colors)
    return {"points": len(points)}


def _splats(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    count = write_splats(_surface(config, restored), path)
    return {"splats": count, "left_out": "what lies beyond the last level"}


def _grid(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    grid = _radiance_grid(config, restored)
    count = write_grid(grid, _cameras(restored).intrinsics[0], path)
    return {"vertices": count, "layout": LAYOUT}


def _radiance_grid(config: ExportConfig, restored: Restored) -> RadianceGrid:
    if not isinstance(restored.model, RadianceGrid):
        raise UserError(
            f"format={config.format} needs a radiance grid, and {restored.checkpoint.path} is a model of kind "
            f"{restored.checkpoint.kind}; use format=points, or train with experiment=radiance"
        )
    return restored.model


def _surface(config: ExportConfig, restored: Restored) -> Surface:
    grid, cameras = _radiance_grid(config, restored), _cameras(restored)
    surface = visible_surface(grid, cameras.poses, cameras.intrinsics)
    if not len(surface.positions):
        raise UserError(f"{restored.checkpoint.path} shows no surface to its training views; train for longer")
    return surface


def _cameras(restored: Restored) -> Cameras:
    source = restored.source
    names, poses = read_poses(source.folder("train"), source.calibration())
    up = source.up()
    return Cameras(poses.float(), source.cameras("train", names), (up_direction(poses) if up is None else up).float())


if __name__ == "__main__":
    run("export")
