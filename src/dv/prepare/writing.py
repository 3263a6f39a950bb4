"""Writing posed photographs as an object in the DeepVoxels folder layout, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from tqdm import tqdm

from dv.data.folder import background_color, refuse
from dv.data.view_selection import every, farthest_views, perturb, random_views
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.prepare.camera_plot import scene_picture
from dv.prepare.photographs import Photograph, PhotographSet, few
from dv.prepare.placement import Placed, overridden, place_grid
from dv.prepare.rectify import SquareCamera, common_window, rectified, square_camera

SPLITS = ("test", "validation", "train")  # in the order the finished folders appear
PIXEL_CENTER = 0.5


@dataclass(frozen=True)
class WriteSettings:
    """How to write an object: the ``source``, ``grid``, ``views`` and ``noise`` configuration that all imports share.

    ``image_side`` None keeps the pictures' resolution; ``mask`` is null, alpha, uniform, or files for those
    that the photographs name.
    """

    background: str | list[float] = "white"
    crop: str = "full"
    image_side: int | None = None
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

    def __post_init__(self) -> None:
        background_color(self.background)
        for key, value, least in (
            ("source.image_side", self.image_side, 2),
            ("views.every", self.every, 1),
            ("views.random", self.random, 2),
            ("views.farthest", self.farthest, 2),
            ("views.seed", self.seed, 0),
        ):
            if value is not None and (not isinstance(value, int) or value < least):
                raise UserError(f"{key}={value} must be a whole number of at least {least}")
        if self.random and self.farthest:
            raise UserError("give views.random or views.farthest, not both")
        for noise in ("angle", "distance", "exposure"):
            number = getattr(self, f"noise_{noise}")
            if not isinstance(number, int | float) or not 0 <= number < np.inf:
                raise UserError(f"noise.{noise}={number} must be a number that is not negative")
        for key, size in (("grid.scale", self.scale), ("grid.near", self.near)):
            if size is not None and (not isinstance(size, int | float) or not 0 < size < np.inf):
                raise UserError(f"{key}={size} must be a positive number")
        if self.origin is not None and (len(self.origin) != 3 or not np.isfinite(self.origin).all()):
            raise UserError(f"grid.origin={self.origin} must be three numbers, [x,y,z]")


def versions(*packages: str) -> dict[str, str]:
    """Versions of dv, Python and of ``packages``."""
    from dv import __version__

    return {"dv": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def fingerprint(paths: list[Path]) -> str:
    """Digest of the names, sizes and times of files: changes when one of them does."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(set(paths)) if path.is_file()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def record_of(source: str, path: Path, settings: WriteSettings, inputs: list[Path], **more: Any) -> dict[str, Any]:
    """What decides the result of an import; equal records mean that there is nothing left to do."""
    asked = {**_asked(settings), **more}
    return {"source": source, "path": str(path.resolve()), "settings": asked, "inputs": fingerprint(inputs)}


def _asked(settings: WriteSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if value is not None}


def already_written(output_dir: Path, name: str, record: dict[str, Any]) -> bool:
    """Whether the object is there whole with an equal record. Raises :class:`UserError` if another one is there.

    Settings that there were not yet when it was written are at their defaults in it.
    """
    found = [split for split in SPLITS if (output_dir / split / name).exists()]
    for split in found:
        folder = output_dir / split / name
        try:
            there = json.loads((folder / "dataset.json").read_text())
            there["settings"] = {**_asked(WriteSettings()), **there.get("settings", {})}
            same = all(there.get(key) == json.loads(json.dumps(value)) for key, value in record.items())
        except (OSError, ValueError, AttributeError, TypeError):
            same = False
        if not same:
            raise UserError(
                f"{folder} is there already, from another source or with other settings or pictures; choose another "
                f"output_dir or object.name, or delete {output_dir}/{{train,validation,test}}/{name}"
            )
    return "train" in found


def write_object(
    found: PhotographSet, output_dir: Path, name: str, settings: WriteSettings, record: dict[str, Any]
) -> list[str]:
    """Write all splits of ``found`` to ``output_dir/<split>/<name>``; returns what was done, in sentences.

    Poses keep the world of ``found``. A source with training views only gets the other splits by holding out every
    tenth view. ``train/<name>/scene.png`` shows cameras, points and grid. Folders get their names once all are
    complete. Raises one :class:`UserError` with every fault.
    """
    _check_masks(found.photographs, settings.mask)
    splits = with_held_out(found.splits)
    placed = _placed(found, settings)
    camera = square_camera(found.photographs, placed.placement, settings.crop)
    side = settings.image_side or camera.side
    if side > camera.side:
        raise UserError(f"source.image_side={side} is more than the {camera.side} px that the pictures hold; use less")
    splits["train"] = _varied(splits["train"], settings)
    aside = output_dir / f".{name}.partial" / "object"
    shutil.rmtree(aside, ignore_errors=True)
    about = record | {
        "object": name,
        "pixel_center": PIXEL_CENTER,
        "grid": asdict(placed.placement),
        "reasons": placed.reasons,
        "up": found.up,
        "left_out": found.left_out,
        "provenance": found.provenance,
        "versions": versions("numpy", "opencv-python-headless", "imageio"),
    }
    problems: list[str] = []
    for split, photographs in splits.items():
        _write_split(aside / split, photographs, camera, side, settings, placed.placement, about, problems)
    if problems:
        shutil.rmtree(aside)
        refuse(output_dir / name, problems)
    poses = {split: np.stack([p.pose for p in photographs]) for split, photographs in splits.items()}
    scene_picture(aside / "train" / "scene.png", poses, placed.placement, camera.intrinsics, found.points)
    for split in [split for split in SPLITS if split in splits]:
        folder = output_dir / split / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run of this very import
        (aside / split).rename(folder)
    shutil.rmtree(aside.parent)
    return _summary(found, splits, side, output_dir / "train" / name, placed)


def _summary(
    found: PhotographSet, splits: dict[str, list[Photograph]], side: int, folder: Path, placed: Placed
) -> list[str]:
    counts = ", ".join(f"{len(photographs)} {split}" for split, photographs in splits.items())
    lines = [f"{folder.name}: {counts} views of {side}×{side} px in {folder.parent.parent}"]
    if found.left_out:
        lines.append(f"left out {len(found.left_out)}: {few(found.left_out)} (all are listed in dataset.json)")
    return [*lines, *placed.reasons, f"cameras, grid and points, if there are any: {folder / 'scene.png'}"]


def _check_masks(photographs: list[Photograph], mask: str | None) -> None:
    """Refuse to go on without the masks that are asked for."""
    if mask in (None, "alpha", "uniform"):
        return
    absent = [p.name for p in photographs if p.mask is None or not p.mask.is_file()]
    if absent:
        raise UserError(
            f"source.mask={mask}, but {len(absent)} of {len(photographs)} pictures have no mask file, {absent[0]} for "
            "one; use source.mask=null, alpha or uniform"
        )


def with_held_out(splits: dict[str, list[Photograph]]) -> dict[str, list[Photograph]]:
    """All three splits: where training views are all there is, every tenth is held out for each of the others.

    Fewer than ten views give one to each. Raises :class:`UserError` for fewer than four.
    """
    given = {split: photographs for split, photographs in splits.items() if photographs}
    if len(given) > 1 and "train" in given:
        return dict(given)
    if len(given) != 1:
        raise UserError(f"there are {' and '.join(given) or 'no'} views, but none to train on")
    (views,) = given.values()
    views = sorted(views, key=lambda view: view.name)  # whatever the source, the same views are held out
    if len(views) < 4:
        raise UserError(f"{len(views)} views are too few: two to train on, one to validate and one to test are needed")
    held = {"validation": list(range(4, len(views), 10)), "test": list(range(9, len(views), 10))}
    if len(views) < 10:
        held = {"validation": [len(views) // 2], "test": [len(views) - 1]}
    out = {i for indices in held.values() for i in indices}
    return {
        "train": [view for i, view in enumerate(views) if i not in out],
        **{split: [views[i] for i in indices] for split, indices in held.items()},
    }


def _placed(found: PhotographSet, settings: WriteSettings) -> Placed:
    given = settings.origin, settings.scale, settings.near
    if found.placement is not None:
        placed = Placed(found.placement, found.reasons or ["the grid is where the data says"])
    elif settings.origin is not None and settings.scale is not None:
        x, y, z = settings.origin
        placed = Placed(GridPlacement((x, y, z), settings.scale, 1.0), [])
    else:
        placed = place_grid(found.poses, common_window(found.photographs), found.points)
    return overridden(placed, found.poses, *given)


def _varied(views: list[Photograph], settings: WriteSettings) -> list[Photograph]:
    """The training views that are asked for, with the noise that is asked for."""
    views = [views[i] for i in every(len(views), settings.every)]
    if settings.random:
        views = [views[i] for i in random_views(len(views), settings.random, settings.seed)]
    if settings.farthest:
        views = [views[i] for i in farthest_views(np.stack([v.pose for v in views]), settings.farthest)]
    if settings.noise_angle or settings.noise_distance:
        poses = np.stack([view.pose for view in views])
        noisy = perturb(poses, settings.noise_angle, settings.noise_distance, settings.seed)
        views = [replace(view, pose=pose) for view, pose in zip(views, noisy, strict=True)]
    if settings.noise_exposure:
        stops = np.random.default_rng(settings.seed).normal(0, settings.noise_exposure, len(views))
        views = [replace(view, stops=float(more)) for view, more in zip(views, stops, strict=True)]
    return views


def _write_split(
    folder: Path,
    photographs: list[Photograph],
    camera: SquareCamera,
    side: int,
    settings: WriteSettings,
    placement: GridPlacement,
    about: dict[str, Any],
    problems: list[str],
) -> None:
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    k = camera.intrinsics.at_side(side)
    origin = " ".join(f"{float(x)!r}" for x in placement.origin)
    lens = " ".join(f"{float(x)!r}" for x in (k.f, k.cx, k.cy))
    calibration = f"{lens} 0.\n{origin}\n{float(placement.near)!r}\n{float(placement.scale)!r}\n"
    (folder / "intrinsics.txt").write_text(f"{calibration}{side} {side}\n")
    (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
    background = background_color(settings.background)

    def write(photograph: Photograph) -> str | None:
        pose = " ".join(f"{number:.17g}" for number in photograph.pose.ravel())
        (folder / "pose" / f"{photograph.name}.txt").write_text(pose + "\n")
        try:
            picture = rectified(photograph, camera, side, background, mask=settings.mask, upright=settings.upright)
        except UserError as error:
            return str(error)
        iio.imwrite(folder / "rgb" / f"{photograph.name}.png", picture.permute(1, 2, 0).numpy())
        return None

    with ThreadPoolExecutor() as pool:
        done = tqdm(pool.map(write, photographs), f"writing {folder.name}", len(photographs), leave=False, unit="view")
        problems += [problem for problem in done if problem]
