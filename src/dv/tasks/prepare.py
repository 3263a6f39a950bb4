"""``prepare.py``: make, import, check or export the pictures of an object, in the DeepVoxels folder format."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from dv.errors import UserError
from dv.tasks.command import run
from dv.tasks.fields import filled

if TYPE_CHECKING:
    from dv.prepare.photographs import PhotographSet
    from dv.prepare.writing import WriteSettings

DEFAULT_ROOT = Path("data/deepvoxels")  # where the object groups of train.py look
PUBLISHED = {"vase": "vase", "cube": "cube", "greek": "pedestal", "armchair": "chair"}


def prepare(config: DictConfig) -> None:
    """Do what ``source`` says; sources that write an object end with the command that trains on it."""
    from dv.tasks.settings import check_devices

    check_devices(config.trainer.gpus)
    source = str(config.source.name)
    tasks: dict[str, Callable[[DictConfig], None]] = {
        "synthetic": _synthetic,
        "mesh": _mesh,
        "capture": _capture,
        "official": _official,
        "check": _check,
        "export": _export,
        **dict.fromkeys(("transforms", "nsvf", "colmap", "middlebury", "folder"), _import),
    }
    if source not in tasks:
        raise UserError(f"source={source} must be one of {', '.join(tasks)}")
    if tasks[source] not in (_import, _capture):
        _refuse_ignored(config)
    tasks[source](config)


def next_command(root: Path, name: str) -> str:
    """The command line that trains on ``<root>/<split>/<name>``."""
    group = PUBLISHED.get(name)
    words = [f"object={group}"] if group else ["object=custom", _override("object.name", name)]
    if not group or root != DEFAULT_ROOT:
        words.insert(1, _override("object.root", str(root)))
    return " ".join(["python", "train.py", *words])


def _refuse_ignored(config: DictConfig) -> None:
    """Rather than ignore what only imports and captures follow."""
    defaults: dict[str, set[Any]] = {"grid": {None}, "views": {None, 0, 1}, "noise": {0}}
    given = [f"{group}.{key}={value}" for group, usual in defaults.items() for key, value in config[group].items()
             if isinstance(value, ListConfig) or value not in usual]  # fmt: skip
    if given:
        raise UserError(
            f"{given[0]} is for imports and captures, not for source={config.source.name}; apply it to a copy: "
            "python prepare.py source=folder source.path=ROOT source.object=NAME output_dir=NEW …"
        )


def _override(key: str, value: str) -> str:
    """``key=value`` for a shell, with Hydra's own quotes around what its grammar would trip over."""
    if not re.fullmatch(r"[A-Za-z/.~][\w./~-]*", value) or value.lower() in ("true", "false", "null", "nan", "inf"):
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return shlex.quote(f"{key}={value}")


def _write_settings(config: DictConfig) -> WriteSettings:
    from dv.prepare.writing import WriteSettings

    grid, views, noise = config.grid, config.views, config.noise
    return filled(
        WriteSettings,
        config.source,
        origin=None if grid.origin is None else list(grid.origin),
        scale=grid.scale,
        near=grid.near,
        every=views.every,
        random=views.random,
        farthest=views.farthest,
        noise_angle=noise.angle,
        noise_distance=noise.distance,
        noise_exposure=noise.exposure,
        seed=views.seed,
    )


def _synthetic(config: DictConfig) -> None:
    from dv.synthetic.render import render_synthetic, settings_from

    name = str(config.object.name or config.source.shape or "vase")
    root = Path(config.output_dir or config.object.root or DEFAULT_ROOT)
    render_synthetic(name, root, settings_from(config.source))
    print(f"next: {next_command(root, name)}")


def _mesh(config: DictConfig) -> None:
    from dv.synthetic.mesh import render_mesh
    from dv.synthetic.render import settings_from

    path = _path(config, "mesh.path")
    name = str(config.object.name or path.stem)
    root = Path(config.output_dir or config.object.root or DEFAULT_ROOT)
    render_mesh(path, name, root, settings_from(config.source), config.source.up)
    print(f"next: {next_command(root, name)}")


def _official(config: DictConfig) -> None:
    from dv.importers.official import OfficialSettings, install_official

    root = Path(config.output_dir or config.object.root or DEFAULT_ROOT)
    for name in install_official(root, filled(OfficialSettings, config.source)):
        print(f"next: {next_command(root, name)}")


def _check(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from dv.prepare.check import check_object
    from dv.tasks.settings import object_source

    check_object(object_source(config, None), Path(config.output_dir or HydraConfig.get().runtime.output_dir))


def _export(config: DictConfig) -> None:
    from dv.prepare.export import export_transforms
    from dv.tasks.settings import object_source

    source = object_source(config, None)
    written = export_transforms(source, Path(config.output_dir or f"outputs/export/{source.name}"))
    print(f"exported {source.name}; next, for instance: ns-train nerfacto --data {shlex.quote(str(written))}")


def _import(config: DictConfig) -> None:
    source, path = config.source, _path(config)
    if source.name == "transforms":
        from dv.importers.transforms import read_transforms

        found = read_transforms(path)
    elif source.name == "nsvf":
        from dv.importers.nsvf import read_nsvf

        found = read_nsvf(path)
    elif source.name == "colmap":
        from dv.importers.colmap import read_colmap

        found = read_colmap(path, source.images and Path(source.images))
    elif source.name == "middlebury":
        from dv.importers.middlebury import read_middlebury

        found = read_middlebury(path, source.par and Path(source.par), source.input_pixel_center)
    else:
        from dv.prepare.export import read_folder

        found = read_folder(path, str(source.object or path.resolve().name))
    from dv.prepare.writing import record_of

    settings = _write_settings(config)
    inputs = [p for photograph in found.photographs for p in (photograph.path, photograph.mask) if p]
    inputs += [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    own = {key: source.get(key) for key in ("images", "par", "input_pixel_center", "object")}
    _write(config, settings, record_of(str(source.name), path, settings, inputs, **own), lambda: found)


def _capture(config: DictConfig) -> None:
    from dv.importers.capture import CaptureSettings, read_capture
    from dv.importers.frames import VIDEOS, find_photographs
    from dv.importers.structure_from_motion import StructureSettings
    from dv.prepare.writing import record_of

    path = _path(config)
    root, name = _where(config)
    video = path.is_file() and path.suffix.lower() in VIDEOS
    matching = str(config.source.matching)
    if matching == "auto":
        matching = "sequential" if video else "exhaustive"
    capture = filled(CaptureSettings, config.source, up=config.grid.up and list(config.grid.up))
    structure = filled(StructureSettings, config.source, matching=matching)
    settings = _write_settings(config)
    inputs = [path] if video else find_photographs(path)
    record = record_of("capture", path, settings, inputs, **asdict(capture), **asdict(structure))

    def read() -> PhotographSet:
        return read_capture(
            path, root / f".{name}.partial", root / "reconstruction" / name, capture, structure, settings
        )

    # by the time of writing, masks have become files
    _write(config, replace(settings, mask=settings.mask and "files"), record, read)


def _write(
    config: DictConfig, settings: WriteSettings, record: dict[str, Any], read: Callable[[], PhotographSet]
) -> None:
    """Write what ``read`` finds, unless it is there already, and say what was found and what to type next."""
    from dv.prepare.writing import already_written, write_object

    root, name = _where(config)
    if already_written(root, name, record):
        print(f"{name} in {root} is already prepared from this with these settings: nothing to do")
    else:
        print("\n".join(write_object(read(), root, name, settings, record)))
    print(f"next: {next_command(root, name)}")


def _path(config: DictConfig, key: str = "source.path") -> Path:
    path = config.source.path
    if not path:
        raise UserError(f"{key} is not set; give {key}=PATH")
    if not Path(path).exists():
        raise UserError(f"{key}={path}: no such file or folder")
    return Path(path)


def _where(config: DictConfig) -> tuple[Path, str]:
    """Root and name of the object to write: ``output_dir``, whose last part names it unless ``object.name`` does."""
    root = config.output_dir or config.object.root
    if not root:
        raise UserError("output_dir is not set; give output_dir=DIR, which gets DIR/{train,validation,test}/NAME")
    name = str(config.object.name or Path(root).resolve().name)
    if not name or name.startswith(".") or set(name) & set("/\\"):
        raise UserError(f"object.name={name} cannot name a folder")
    return Path(root), name


def main() -> None:
    """Command line."""
    run("prepare", prepare)


if __name__ == "__main__":
    main()
