"""``export.py``: a trained model as a page, a mesh, a point cloud, Gaussian splats or arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dv.config.render import ExportConfig
from dv.data.training_cameras import TrainingCameras, read_training_cameras
from dv.errors import UserError
from dv.export.archive import USAGE, write_archive
from dv.export.grid import LAYOUT, write_grid
from dv.export.page import page
from dv.export.splats import write_splats
from dv.export.surface import Surface, visible_surface
from dv.images import write_ply
from dv.radiance import RadianceGrid
from dv.rendering.restore import Restored, restore
from dv.runtime.files import write_json
from dv.tasks.command import run

Writer = Callable[[ExportConfig, Restored, Path], dict[str, Any]]  # path without suffix -> what it is about


def export(config: ExportConfig) -> Path:
    """Write ``NAME`` with the suffix of the format, and ``export.json``, which says what it holds.

    Returns:
        The folder.

    Raises:
        UserError: if the model has nothing of which the format could be made.
    """
    if config.format is None:
        raise UserError(f"format is not set; give format={'|'.join(WRITERS)}")
    restored = restore(config)
    model, source = restored.model.cpu(), restored.source
    model.use_mean_exposure()
    if not config.surroundings:
        try:
            model.isolate()
        except ValueError as error:
            raise UserError(f"surroundings=false with {restored.checkpoint.path}: {error}") from error
    folder = Path(config.output_dir or restored.run_dir / "export" / config.format)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
        about = WRITERS[config.format](config, restored, Path(temporary) / source.name)
        written = [file.replace(folder / file.name) for file in sorted(Path(temporary).iterdir())]
    up = source.up()
    write_json(
        folder / "export.json",
        {
            "format": config.format,
            "files": [file.name for file in written],
            "object": source.name,
            "checkpoint": str(restored.checkpoint.path),
            "step": restored.checkpoint.step,
            "axes": "right-handed, those of the poses of the object",
            "unit": source.unit() or "that of the poses of the object",
            "up": None if up is None else up.tolist(),
            "box": {"origin": list(restored.placement.origin), "scale": restored.placement.scale},
            "surroundings": config.surroundings,
            **about,
        },
    )
    for file in written:
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    return folder


def _page(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    grid, cameras = _radiance_grid(config, restored), _cameras(restored)
    first = cameras.typical(restored.placement)
    try:
        text = page(grid, cameras.poses[first], cameras.intrinsics[first], cameras.up, restored.source.name)
    except ValueError as error:
        raise UserError(f"format=html with {restored.checkpoint.path}: {error}") from error
    path.with_name(f"{path.name}.html").write_text(text, encoding="utf-8")
    return {"needs": "a browser with WebGL2; no network"}


def _mesh(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    from dv.export.mesh import extract_mesh, write_mesh  # here, because its libraries are an optional extra

    surface, cameras = _surface(config, restored), _cameras(restored)
    mesh = extract_mesh(surface, cameras.poses, cameras.intrinsics, config.faces, config.pieces)
    write_mesh(mesh, path, cameras.up)
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "colors": "sRGB, seen along the normals; linear in the GLB, whose y is up",
    }


def _points(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    if isinstance(restored.model, RadianceGrid):
        surface = _surface(config, restored)
        order = torch.randperm(len(surface.positions), generator=torch.Generator().manual_seed(0))
        surface = surface[order[: config.max_points]]
        write_ply(path.with_name(f"{path.name}.ply"), surface.positions, surface.frontal_colors(), surface.normals)
        return {"points": len(surface.positions), "colors": "sRGB, seen along the normals"}
    points, colors = restored.model.point_cloud(config.max_points)
    write_ply(path.with_name(f"{path.name}.ply"), points, colors)
    return {"points": len(points)}


def _splats(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    count = write_splats(_surface(config, restored), path.with_name(f"{path.name}_splats.ply"))
    return {"splats": count, "left_out": "what lies beyond the last level"}


def _grid(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    grid = _radiance_grid(config, restored)
    count = write_grid(grid, _cameras(restored).intrinsics[0], path.with_name(f"{path.name}.npz"))
    return {"vertices": count, "layout": LAYOUT}


def _archive(config: ExportConfig, restored: Restored, path: Path) -> dict[str, Any]:
    grid, cameras = _radiance_grid(config, restored), _cameras(restored)
    k = cameras.intrinsics[0]
    about = {"camera": list(k.numbers()), "width": k.width, "height": k.height, "usage": USAGE}
    write_archive(grid, about, path.with_name(f"{path.name}.pt2"))
    return about


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


def _cameras(restored: Restored) -> TrainingCameras:
    cameras = read_training_cameras(restored.source)
    return cameras._replace(poses=cameras.poses.float(), up=cameras.up.float())


WRITERS: dict[str, Writer] = {
    "html": _page, "mesh": _mesh, "points": _points, "splats": _splats, "grid": _grid,
    "archive": _archive,
}  # fmt: skip


if __name__ == "__main__":
    run("export")
