"""``prepare.py``: make, import, check or export the images of an object, in the DeepVoxels folder format."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from dv.capture.frames import VIDEOS, find_photographs
from dv.capture.importer import read_capture, recorded_settings
from dv.capture.triangulation import triangulate
from dv.config.prepare import (
    CaptureSource,
    CheckSource,
    ExportSource,
    FolderSource,
    ImportSource,
    MeshSource,
    OfficialSource,
    PosedSource,
    PrepareConfig,
    SyntheticSource,
)
from dv.data.background import corners_of_files, is_plain
from dv.data.folder import image_files
from dv.data.object import ObjectSource
from dv.data.points import POINTS_FILE, write_points
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.importers.readers import own_keys, read_posed
from dv.prepare.check import check_object
from dv.prepare.export import export_transforms
from dv.prepare.photographs import Photograph, PhotographSet
from dv.prepare.placement import Array
from dv.prepare.split_folder import WriteSettings
from dv.prepare.writing import already_written, import_record, thin_and_perturb, with_all_splits, write_object
from dv.runtime.devices import count_gpus
from dv.synthetic.mesh import render_mesh
from dv.synthetic.official import install_official
from dv.synthetic.render import render_synthetic, scene_name, settings_from
from dv.tasks.command import run
from dv.tasks.command_line import shell_override
from dv.validation import show

DEFAULT_ROOT = Path("data/deepvoxels")  # where the object groups of train.py look
MAX_TRIANGULATED = 300  # training views: where more look, colours tell depths, and each view takes a second
GROUPS = {
    "vase": "vase",
    "cube": "cube",
    "greek": "pedestal",
    "armchair": "chair",
    "still_life": "still_life",
}  # object.name: choice of object


def prepare(config: PrepareConfig) -> None:
    """Make, import, check or export an object, as ``source`` says; print the command that uses the result."""
    count_gpus(config.trainer.gpus)
    source = config.source
    if isinstance(source, CaptureSource):
        _capture(config, source)
        return
    if isinstance(source, PosedSource):
        _import(config, source)
        return
    _refuse_unused(config)
    if isinstance(source, CheckSource):
        check_object(_object(config), Path(config.output_dir or HydraConfig.get().runtime.output_dir))
    elif isinstance(source, ExportSource):
        _export(config)
    elif isinstance(source, OfficialSource):
        root = Path(config.output_dir or config.object.root or DEFAULT_ROOT)
        for name in install_official(root, source):
            print(what_next(root, name))
    else:
        _render(config, source)


def what_next(root: Path, name: str) -> str:
    """Return two lines: the command for the best images within minutes, and that for the paper's model."""
    files = list(image_files(root / "train" / name / "rgb").values())
    experiment = "radiance" if is_plain(corners_of_files(files)) else "capture"
    command = next_command(root, name)
    best = command.replace("train.py", f"train.py experiment={experiment}", 1)
    return f"next: {best}\nwith the paper's model: {command}"


def next_command(root: Path, name: str) -> str:
    """Return the command line that trains on ``<root>/<split>/<name>``."""
    group = GROUPS.get(name)
    words = [f"object={group}"] if group else ["object=custom", shell_override("object.name", name)]
    if not group or root != DEFAULT_ROOT:
        words.insert(1, shell_override("object.root", str(root)))
    return " ".join(["python", "train.py", *words])


def _refuse_unused(config: PrepareConfig) -> None:
    """Refuse keys that only imports and captures use, rather than ignore them."""
    unused: dict[str, set[Any]] = {"grid": {None}, "views": {None, 0, 1}, "noise": {0}}
    given = [
        f"{group}.{key}={show(value)}"
        for group, defaults in unused.items()
        for key, value in asdict(getattr(config, group)).items()
        if isinstance(value, list) or value not in defaults
    ]
    if given:
        raise UserError(
            f"{given[0]} is for imports and captures, not for source={config.source.name}; apply it to a copy: "
            "python prepare.py source=folder source.path=ROOT source.object=NAME output_dir=NEW …"
        )


def _object(config: PrepareConfig) -> ObjectSource:
    return ObjectSource.from_config(config.object, background=config.data.background, skip=config.data.skip)


def _render(config: PrepareConfig, source: MeshSource | SyntheticSource) -> None:
    root = Path(config.output_dir or config.object.root or DEFAULT_ROOT)
    if isinstance(source, MeshSource):
        path = _path(source, "mesh.path")
        name = config.object.name or path.stem
        render_mesh(path, name, root, settings_from(source), source.up)
    else:
        name = config.object.name or source.shape or "vase"
        render_synthetic(name, root, settings_from(source, scene_name(name, source.shape)))
    train = root / "train" / name
    if not (train / POINTS_FILE).exists():
        points = _triangulated(read_folder(root, name).splits["train"], root, name)
        if points is not None:
            write_points(train, points)
    print(what_next(root, name))


def _export(config: PrepareConfig) -> None:
    source = _object(config)
    found = read_folder(source.root, source.name, source.pixel_center)
    written = export_transforms(source, found, Path(config.output_dir or f"outputs/export/{source.name}"))
    print(f"exported {source.name}; next, for instance: ns-train nerfacto --data {shlex.quote(str(written))}")


def _import(config: PrepareConfig, source: PosedSource) -> None:
    path = _path(source)
    settings = _write_settings(config, source)
    found = read_posed(path, source)
    inputs = [p for photograph in found.photographs for p in (photograph.path, photograph.mask) if p] + found.files
    own = {key: value for key, value in own_keys(source).items() if value is not None}
    if source.triangulate != "auto":
        own["triangulate"] = source.triangulate
    record = import_record(source.name, path, settings, inputs, **own)
    _write(config, settings, record, lambda: _with_points(config, source, settings, found))


def _with_points(
    config: PrepareConfig, source: PosedSource, settings: WriteSettings, found: PhotographSet
) -> PhotographSet:
    """Triangulate points from the training views if the input has none and they are wanted."""
    noisy = settings.noise_angle or settings.noise_distance
    if found.points is not None or noisy or not source.triangulate or (source.mask and source.triangulate == "auto"):
        return found
    root, name = _output(config)
    views = thin_and_perturb(with_all_splits(found.splits)["train"], settings)
    if source.triangulate == "auto" and len(views) > MAX_TRIANGULATED:
        return found
    return replace(found, points=_triangulated(views, root, name, always=source.triangulate is True))


def _triangulated(views: list[Photograph], root: Path, name: str, *, always: bool = False) -> Array | None:
    """Return points ``[N, 3]`` of views before surroundings, or ``always``; None if points are not wanted."""
    if not always:
        if is_plain(corners_of_files([view.path for view in views])):
            return None
        if find_spec("pycolmap") is None:
            print("no points of surfaces, which help where few views look: pip install 'dv[capture]' triangulates "
                  f"them; then delete {root}/{{train,validation,test}}/{name} and run this again")  # fmt: skip
            return None
    work = root / f".{name}.partial" / "triangulation"
    shutil.rmtree(work, ignore_errors=True)
    points = triangulate(views, work)
    shutil.rmtree(work)
    if not any(work.parent.iterdir()):
        work.parent.rmdir()
    print(f"triangulated {len(points)} points from {len(views)} training views")
    return points


def _capture(config: PrepareConfig, source: CaptureSource) -> None:
    path = _path(source)
    root, name = _output(config)
    video = path.is_file() and path.suffix.lower() in VIDEOS
    if source.matching == "auto":
        source = replace(source, matching="sequential" if video else "exhaustive")
    settings = _write_settings(config, source)
    inputs = [path] if video else find_photographs(path)
    record = import_record("capture", path, settings, inputs, **recorded_settings(source, config.grid.up))

    def read() -> PhotographSet:
        work, keep = root / f".{name}.partial", root / "reconstruction" / name
        return read_capture(path, work, keep, source, config.grid.up, settings)

    # read_capture has turned masks of every kind into files
    _write(config, replace(settings, mask=settings.mask and "files"), record, read)


def _write_settings(config: PrepareConfig, source: ImportSource) -> WriteSettings:
    return WriteSettings(
        background=source.background,
        crop=source.crop,
        image_side=source.image_side,
        longest_side=source.longest_side,
        mask=source.mask,
        origin=config.grid.origin,
        scale=config.grid.scale,
        near=config.grid.near,
        every=config.views.every,
        random=config.views.random,
        farthest=config.views.farthest,
        noise_angle=config.noise.angle,
        noise_distance=config.noise.distance,
        noise_exposure=config.noise.exposure,
        seed=config.views.seed,
    )


def _write(
    config: PrepareConfig, settings: WriteSettings, record: dict[str, Any], read: Callable[[], PhotographSet]
) -> None:
    """Write the photographs that ``read`` returns unless they are written already; print notes and a next command."""
    root, name = _output(config)
    if already_written(root, name, record):
        print(f"{name} in {root} is already prepared from this with these settings: nothing to do")
    else:
        print("\n".join(write_object(read(), root, name, settings, record)))
    print(what_next(root, name))


def _path(source: ImportSource | MeshSource, key: str = "source.path") -> Path:
    if not source.path:
        raise UserError(f"{key} is not set; give {key}=PATH")
    if not Path(source.path).exists():
        raise UserError(f"{key}={source.path}: no such file or folder")
    return Path(source.path)


def _output(config: PrepareConfig) -> tuple[Path, str]:
    """Return root and name of the object to write: ``output_dir``, and ``object.name`` or the last part of the root."""
    root = config.output_dir or config.object.root
    if not root:
        raise UserError("output_dir is not set; give output_dir=DIR, which gets DIR/{train,validation,test}/NAME")
    if Path(root).is_file():
        raise UserError(f"output_dir={root} is a file; give a folder")
    path = getattr(config.source, "path", None)
    if path and not isinstance(config.source, FolderSource) and Path(root).resolve() == Path(path).resolve():
        raise UserError(f"output_dir={root} is the folder of the input; give another")
    name = config.object.name or Path(root).resolve().name
    if not name or name.startswith(".") or set(name) & set("/\\"):
        raise UserError(f"object.name={name} must name a folder: without / or \\, and not starting with a dot")
    return Path(root), name


if __name__ == "__main__":
    run("prepare")
