"""Writing posed photographs as an object in the DeepVoxels folder layout; folders appear only when complete."""

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

from dv.data.folder import raise_problems
from dv.data.record import read_record, write_record
from dv.data.view_selection import hold_out, perturb, thin
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.images import background_color
from dv.prepare.camera_plot import plot_scene
from dv.prepare.photographs import Photograph, PhotographSet, shorten, windows_of
from dv.prepare.placement import PlacedGrid, override_placement, place_grid
from dv.prepare.rectify import SquareCamera, rectify, square_camera

SPLITS = ("test", "validation", "train")  # in the order in which the finished folders appear
PIXEL_CENTER = 0.5


@dataclass(frozen=True)
class WriteSettings:
    """How to write an object: the ``source``, ``grid``, ``views`` and ``noise`` configuration that all imports share.

    ``image_side`` None keeps the resolution of the images; ``mask`` is None, alpha, uniform, or files for those that
    the photographs name. Existing ``dataset.json`` files record these fields by name.
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


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of dv, Python and ``packages``."""
    from dv import __version__

    return {"dv": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def fingerprint(paths: list[Path]) -> str:
    """Return a digest of the names, sizes and modification times of files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(set(paths)) if path.is_file()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def import_record(source: str, path: Path, settings: WriteSettings, inputs: list[Path], **more: Any) -> dict[str, Any]:
    """Return everything that determines the result of an import; equal records need no new import.

    Args:
        source: name of the importer.
        path: what it reads.
        settings: of the writing.
        inputs: all files that are read.
        more: settings of the importer.
    """
    given = {**_given(settings), **more}
    return {"source": source, "path": str(path.resolve()), "settings": given, "inputs": fingerprint(inputs)}


def _given(settings: WriteSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if value is not None}


def already_written(output_dir: Path, name: str, record: dict[str, Any]) -> bool:
    """Return whether the complete object exists with an equal record.

    Settings that did not exist yet when it was written count as having their defaults.

    Raises:
        UserError: if an object with another record exists.
    """
    folders = [output_dir / split / name for split in SPLITS if (output_dir / split / name).exists()]
    for folder in folders:
        found = read_record(folder, strict=False)
        settings = found.get("settings", {})
        found["settings"] = {**_given(WriteSettings()), **settings} if isinstance(settings, dict) else settings
        if not all(found.get(key) == json.loads(json.dumps(value)) for key, value in record.items()):
            raise UserError(
                f"{folder} exists already, from another source or with other settings or images; choose another "
                f"output_dir or object.name, or delete {output_dir}/{{train,validation,test}}/{name}"
            )
    return output_dir / "train" / name in folders


def write_object(
    found: PhotographSet, output_dir: Path, name: str, settings: WriteSettings, record: dict[str, Any]
) -> list[str]:
    """Write all splits to ``output_dir/<split>/<name>``.

    Poses keep the world of the photographs. If there are only training views, every tenth is held out for each of the
    other splits. ``train/<name>/scene.png`` shows cameras, points and grid. Folders are renamed once all are complete.

    Args:
        found: the photographs.
        output_dir: root of the object.
        name: of the object.
        settings: of the writing.
        record: see :func:`import_record`; the beginning of ``dataset.json``.

    Returns:
        Sentences that say what was done.

    Raises:
        UserError: one that lists every fault.
    """
    _check_masks(found.photographs, settings.mask)
    splits = with_all_splits(found.splits)
    placed = _place(found, settings)
    camera = square_camera(found.photographs, placed.placement, settings.crop)
    side = settings.image_side or camera.side
    if side > camera.side:
        raise UserError(f"source.image_side={side} exceeds the {camera.side} px of the photographs; use less")
    splits["train"] = _thin_and_perturb(splits["train"], settings)
    partial = output_dir / f".{name}.partial" / "object"
    shutil.rmtree(partial, ignore_errors=True)
    full_record = record | {
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
        folder = partial / split
        _write_calibration(folder, camera, side, placed.placement)
        write_record(folder, full_record)
        _write_views(folder, photographs, camera, side, settings, problems)
    if problems:
        shutil.rmtree(partial)
        raise_problems(output_dir / name, problems)
    poses = {split: np.stack([p.pose for p in photographs]) for split, photographs in splits.items()}
    plot_scene(partial / "train" / "scene.png", poses, placed.placement, camera.intrinsics, found.points)
    for split in [split for split in SPLITS if split in splits]:
        folder = output_dir / split / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run of the same import
        (partial / split).rename(folder)
    shutil.rmtree(partial.parent)
    return _summary(found, splits, side, output_dir / "train" / name, placed)


def _summary(
    found: PhotographSet, splits: dict[str, list[Photograph]], side: int, folder: Path, placed: PlacedGrid
) -> list[str]:
    counts = ", ".join(f"{len(photographs)} {split}" for split, photographs in splits.items())
    lines = [f"{folder.name}: {counts} views of {side}×{side} px in {folder.parent.parent}"]
    if found.left_out:
        lines.append(f"left out {len(found.left_out)}: {shorten(found.left_out)} (all are listed in dataset.json)")
    return [*lines, *placed.reasons, f"cameras, grid and points, if there are any: {folder / 'scene.png'}"]


def _check_masks(photographs: list[Photograph], mask: str | None) -> None:
    """Raise :class:`UserError` if mask files are required but missing."""
    if mask in (None, "alpha", "uniform"):
        return
    missing = [p.name for p in photographs if p.mask is None or not p.mask.is_file()]
    if missing:
        raise UserError(
            f"source.mask={mask}, but {len(missing)} of {len(photographs)} photographs have no mask file, such as "
            f"{missing[0]}; use source.mask=null, alpha or uniform"
        )


def with_all_splits(splits: dict[str, list[Photograph]]) -> dict[str, list[Photograph]]:
    """Hold out validation and test views if there is only one split.

    Every tenth view is held out for each, at least one.

    Raises:
        UserError: if there are fewer than four views, or none for training.
    """
    given = {split: photographs for split, photographs in splits.items() if photographs}
    if len(given) > 1 and "train" in given:
        return given
    if len(given) != 1:
        raise UserError(f"there are {' and '.join(given) or 'no'} views, but none for training")
    (views,) = given.values()
    views = sorted(views, key=lambda view: view.name)  # so that every importer holds out the same views
    if len(views) < 4:
        raise UserError(f"{len(views)} views are too few: two for training, one for validation and one for testing are "
                        "needed")  # fmt: skip
    held_out = hold_out(len(views), ("validation", "test"), at_least_one=True)
    return {split: [views[i] for i in indices] for split, indices in held_out.items()}


def _place(found: PhotographSet, settings: WriteSettings) -> PlacedGrid:
    given = settings.origin, settings.scale, settings.near
    if found.placement is not None:
        placed = PlacedGrid(found.placement, found.reasons or ["the grid is placed as the input says"])
    elif settings.origin is not None and settings.scale is not None:
        x, y, z = settings.origin
        placed = PlacedGrid(GridPlacement((x, y, z), settings.scale, 1.0), [])
    else:
        placed = place_grid(found.poses, windows_of(found.photographs), found.points)
    return override_placement(placed, found.poses, *given)


def _thin_and_perturb(views: list[Photograph], settings: WriteSettings) -> list[Photograph]:
    """Select the training views and add noise to them, as the settings say."""
    poses = np.stack([view.pose for view in views])
    kept = thin(poses, every=settings.every, random=settings.random, farthest=settings.farthest, seed=settings.seed)
    noisy = perturb(poses[kept], settings.noise_angle, settings.noise_distance, settings.seed)
    views = [replace(views[i], pose=pose) for i, pose in zip(kept, noisy, strict=True)]
    if settings.noise_exposure:
        stops = np.random.default_rng(settings.seed).normal(0, settings.noise_exposure, len(views))
        views = [replace(view, stops=float(change)) for view, change in zip(views, stops, strict=True)]
    return views


def _write_calibration(folder: Path, camera: SquareCamera, side: int, placement: GridPlacement) -> None:
    """Create the folder of a split with its ``intrinsics.txt``."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    k = camera.intrinsics.at_side(side)
    origin = " ".join(f"{float(x)!r}" for x in placement.origin)
    lens = " ".join(f"{float(x)!r}" for x in (k.f, k.cx, k.cy))
    calibration = f"{lens} 0.\n{origin}\n{float(placement.near)!r}\n{float(placement.scale)!r}\n"
    (folder / "intrinsics.txt").write_text(f"{calibration}{side} {side}\n")


def _write_views(
    folder: Path,
    photographs: list[Photograph],
    camera: SquareCamera,
    side: int,
    settings: WriteSettings,
    problems: list[str],
) -> None:
    """Write images and poses; photographs that cannot be read are appended to ``problems``."""
    background = background_color(settings.background)

    def write(photograph: Photograph) -> str | None:
        pose = " ".join(f"{number:.17g}" for number in photograph.pose.ravel())
        (folder / "pose" / f"{photograph.name}.txt").write_text(pose + "\n")
        try:
            image = rectify(photograph, camera, side, background, mask=settings.mask, upright=settings.upright)
        except UserError as error:
            return str(error)
        iio.imwrite(folder / "rgb" / f"{photograph.name}.png", image.permute(1, 2, 0).numpy())
        return None

    with ThreadPoolExecutor() as pool:
        done = tqdm(pool.map(write, photographs), f"writing {folder.name}", len(photographs), leave=False, unit="view")
        problems += [problem for problem in done if problem]
