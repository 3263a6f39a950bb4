"""Procedural objects and meshes rendered with Mitsuba 3 into the DeepVoxels folder layout."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import dv
from dv.config.prepare import RenderSource
from dv.data.record import RECORD_FILE, read_record, write_record
from dv.errors import UserError
from dv.runtime.files import atomic_file, write_json
from dv.synthetic.chair import chair_shapes
from dv.synthetic.cube import cube_shapes
from dv.synthetic.handheld import exposure_stops, handheld_path, split_path, upright_pose
from dv.synthetic.mitsuba_scene import FOCAL_PER_SIDE, PIXEL_CENTER, Film, import_mitsuba
from dv.synthetic.pedestal import pedestal_shapes
from dv.synthetic.shapes import Array, MeshShape
from dv.synthetic.still_life import still_life_shapes
from dv.synthetic.truth import MAX_DEPTH
from dv.synthetic.vase import vase_shapes
from dv.synthetic.workers import View, render_views

SCENES: dict[str, Callable[[], list[MeshShape]]] = {
    "vase": vase_shapes,
    "cube": cube_shapes,
    "pedestal": pedestal_shapes,
    "chair": chair_shapes,
    "still_life": still_life_shapes,
}
IN_SURROUNDINGS = ("still_life",)  # photographed like a thing at home: handheld, with changing exposure
PUBLISHED_NAMES = {"greek": "pedestal", "armchair": "chair"}  # folder in the published data -> scene
VARIANTS = ("diffuse", "specular")
SMALL_PRESET = {
    "image_side": 128,
    "train_views": 100,
    "validation_views": 10,
    "test_views": 40,
    "samples_per_pixel": 64,
}
PRESETS = {
    "demo": SMALL_PRESET | {"image_side": 64},
    "small": SMALL_PRESET,
    # 256 samples per pixel are as many as in 1024² px images with 64 samples that are averaged to 512² px.
    "paper": {
        "image_side": 512, "train_views": 479, "validation_views": 100, "test_views": 1000, "samples_per_pixel": 256,
    },
}  # fmt: skip

SURROUNDINGS_PRESET = {"train_views": 60, "validation_views": 6, "test_views": 10, "exposure_jitter": 0.15}

FORMAT_VERSION = 2  # increased whenever the same settings give different images
GRID_SCALE = 1.0
CAMERA_DISTANCE = 2.0
NEAR_PLANE = CAMERA_DISTANCE - np.sqrt(3) / 2 * GRID_SCALE
WIDE_FOCAL_PER_SIDE = 1.2  # focal length / shorter side, and near plane, for objects in surroundings
WIDE_NEAR_PLANE = 0.1
# In the order in which finished folders appear: where train exists, the others do. Seeds depend on this order.
SPLITS = ("test", "validation", "train")
SPIRAL_TURNS = 5


@dataclass(frozen=True)
class SyntheticSettings:
    """What to render.

    Images are ``image_side`` px wide and ``image_height`` high, None for squares; ``exposure_jitter`` is the standard
    deviation of the views' exposures in stops; ``variant`` is "diffuse" or "specular"; ``shape`` is a key of SCENES,
    None for the one that the object's name says; ``workers`` is the number of processes, 0 for one per available CPU,
    and does not influence the images.
    """

    image_side: int = 128
    train_views: int = 100
    validation_views: int = 10
    test_views: int = 40
    samples_per_pixel: int = 64
    seed: int = 0
    variant: str = "diffuse"
    shape: str | None = None
    workers: int = 0
    image_height: int | None = None
    exposure_jitter: float = 0.0

    @property
    def surroundings(self) -> bool:
        """Whether the object is in surroundings."""
        return self.shape in IN_SURROUNDINGS

    @property
    def film(self) -> Film:
        """Size and focal length of the images."""
        width, height = self.image_side, self.image_height or self.image_side
        return Film(width, height, (WIDE_FOCAL_PER_SIDE if self.surroundings else FOCAL_PER_SIDE) * min(width, height))

    @property
    def intrinsics(self) -> tuple[float, float, float]:
        """Focal length and principal point (f, cx, cy) in px; pixel (column, row) is centred at (+0.5, +0.5)."""
        width, height, focal = self.film
        return focal, width / 2, height / 2


def scene_name(name: str, shape: str | None) -> str:
    """Return the key of SCENES that ``shape`` or else the object's name says; it may not exist."""
    return shape or PUBLISHED_NAMES.get(name, name)


def settings_from(source: RenderSource, scene: str | None = None) -> SyntheticSettings:
    """Return the settings of a ``source`` group: what is null comes from its ``preset``, by default "small".

    Args:
        source: The group.
        scene: What is rendered, a key of SCENES; None for a mesh file.
    """
    own = {field.name: getattr(source, field.name) for field in fields(SyntheticSettings)}
    preset: dict[str, Any] = dict(PRESETS[source.preset or "small"])
    if scene in IN_SURROUNDINGS:
        preset |= SURROUNDINGS_PRESET
    return SyntheticSettings(**preset | {key: value for key, value in own.items() if value is not None})


def look_at_centre(position: Array) -> Array:
    """Return the pose ``[4, 4]`` (OpenCV axes) of an upright camera at ``position`` that faces the grid's centre."""
    return upright_pose(position, np.zeros(3))


def split_poses(split: str, settings: SyntheticSettings) -> Array:
    """Return the poses ``[views, 4, 4]`` of a split.

    Objects in surroundings are seen from :func:`~dv.synthetic.handheld.handheld_path`, all others from CAMERA_DISTANCE
    of the grid's centre: test views on an Archimedean spiral from near the pole to near the equator, training and
    validation views on a jittered golden-angle spiral that covers the northern hemisphere evenly.

    Args:
        split: "train", "validation" or "test".
        settings: Number of views, seed and shape.
    """
    if settings.surroundings:
        counts = settings.train_views, settings.validation_views, settings.test_views
        chosen = split_path(*counts)[split]
        return np.asarray(handheld_path(sum(counts), settings.seed)[chosen])
    count: int = getattr(settings, f"{split}_views")
    rng = np.random.default_rng([settings.seed, SPLITS.index(split)])
    lowest, highest = np.sin(np.radians([3.0, 85.0]))
    if split == "test":
        height = highest + (lowest - highest) * (np.arange(count) + 0.5) / count
        azimuth = SPIRAL_TURNS * 2 * np.pi * np.arccos(height) / (np.pi / 2)
    else:
        height = lowest + (highest - lowest) * (np.arange(count) + rng.random(count)) / count
        jitter = rng.uniform(-0.25, 0.25, count) * np.sqrt(2 * np.pi / count)
        azimuth = rng.uniform(0, 2 * np.pi) + np.arange(count) * np.pi * (3 - np.sqrt(5)) + jitter
    ring = np.sqrt(1 - height**2)
    positions = CAMERA_DISTANCE * np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), height], axis=1)
    return np.stack([look_at_centre(position) for position in positions])


def render_synthetic(name: str, output_dir: Path, settings: SyntheticSettings) -> None:
    """Render a procedural object into ``output_dir/{train,validation,test}/name``.

    Args:
        name: Name of the object.
        output_dir: Folder of the data set.
        settings: What to render; where ``settings.shape`` is None, ``name`` selects the shape.

    Raises:
        UserError: The shape is unknown, or see :func:`render_object`.
    """
    shape = scene_name(name, settings.shape)
    if shape not in SCENES:
        known = ", ".join(SCENES)
        raise UserError(
            f"unknown synthetic object {shape!r}; known: {known}; under another name, set source.shape, such as "
            "source.shape=vase"
        )
    settings = replace(settings, shape=shape)
    render_object(name, output_dir, settings, "synthetic", {"shape": shape}, SCENES[shape])


def render_object(
    name: str,
    output_dir: Path,
    settings: SyntheticSettings,
    source: str,
    identity: dict[str, str],
    make_shapes: Callable[[], list[MeshShape]],
) -> None:
    """Render meshes into ``output_dir/{train,validation,test}/name``; call this from the main thread.

    The three folders appear only when they are complete. Another call continues an interrupted run and leaves a
    finished one unchanged.

    Args:
        name: Name of the object.
        output_dir: Folder of the data set.
        settings: Resolution, number of views, samples and material.
        source: "synthetic" or "mesh", for ``dataset.json``.
        identity: Identifies the shapes; stored in ``dataset.json`` with the settings.
        make_shapes: Returns the meshes; called only if images are missing.

    Raises:
        UserError: Mitsuba is missing, a rendering process was killed, or ``output_dir`` has the object rendered with
            other settings or of other shapes.
    """
    partial = output_dir / f".{name}.partial"
    compared = {key: value for key, value in asdict(settings).items() if key not in ("workers", "shape")} | identity
    for key in ("image_height", "exposure_jitter"):  # which older records do not have
        if not compared[key]:
            del compared[key]
    record = {"source": source, "object": name, "settings": compared, "format_version": FORMAT_VERSION}
    if settings.surroundings:
        record |= {"surroundings": True, "up": [0.0, 0.0, 1.0]}
    unfinished = []
    for split in SPLITS:
        finished = output_dir / split / name
        if finished.exists():
            _check_settings(finished, record, f"{output_dir}/{{{','.join(SPLITS)}}}/{name}")
        else:
            unfinished.append(split)
            if (partial / split / RECORD_FILE).exists():
                _check_settings(partial / split, record, str(partial))
    if unfinished:
        record["pixel_center"] = PIXEL_CENTER
        record["versions"] = {"dv": dv.__version__, "mitsuba": import_mitsuba().__version__}
        views = [view for split in unfinished for view in _prepare_split(partial / split, split, record, settings)]
        missing = [view for view in views if not view.path.exists()]
        if missing:
            done = len(views) - len(missing)
            with tqdm(total=len(views), initial=done, desc=f"rendering {name}", unit="view") as bar:
                film, samples = settings.film, settings.samples_per_pixel
                render_views(missing, make_shapes(), settings.variant, film, samples, settings.workers, bar)
        for split in unfinished:
            (output_dir / split).mkdir(exist_ok=True)
            (partial / split).rename(output_dir / split / name)
        print(f"rendered {name} into {output_dir}")
    else:
        print(f"{name} in {output_dir} is already rendered with these settings: nothing to do")
    shutil.rmtree(partial, ignore_errors=True)


def _check_settings(folder: Path, record: dict[str, Any], to_delete: str) -> None:
    """Raise :class:`UserError` unless the folder was rendered with the settings of ``record``."""
    found = read_record(folder, strict=False)
    try:
        found_settings = dict(found["settings"], format_version=found["format_version"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder} was not rendered by this program; choose another output_dir") from None
    wanted = dict(record["settings"], format_version=record["format_version"])
    differing = ", ".join(
        f"{key} = {found_settings.get(key)} (now {wanted.get(key)})"
        for key in wanted | found_settings
        if found_settings.get(key) != wanted.get(key)
    )
    if differing:
        raise UserError(f"{folder} was rendered with {differing}; choose another output_dir or delete {to_delete}")


def _prepare_split(folder: Path, split: str, record: dict[str, Any], settings: SyntheticSettings) -> list[View]:
    """Write all files of a split except its images; return the views to render."""
    for name in ("rgb", "pose", *(("mask", "depth") if settings.surroundings else ())):
        (folder / name).mkdir(parents=True, exist_ok=True)
    focal, cx, cy = settings.intrinsics
    width, height, _ = settings.film
    near = float(WIDE_NEAR_PLANE if settings.surroundings else NEAR_PLANE)
    write_record(folder, record)  # first, so that images never exist without the settings they were rendered with
    texts = {
        "intrinsics.txt": f"{focal!r} {cx!r} {cy!r} 0.\n0. 0. 0.\n{near!r}\n{GRID_SCALE!r}\n{height} {width}",
    }
    views = []
    poses = split_poses(split, settings)
    stops = exposure_stops(len(poses), settings.exposure_jitter, [settings.seed, SPLITS.index(split), 4])
    for i, pose in enumerate(poses):
        texts[f"pose/{i:06d}.txt"] = " ".join(f"{number:.12g}" for number in pose.ravel())
        seed = np.random.SeedSequence([settings.seed, SPLITS.index(split), i]).generate_state(1)
        views.append(View(folder / "rgb" / f"{i:06d}.png", pose, int(seed[0]), float(stops[i])))
    if settings.exposure_jitter:
        write_json(folder / "exposure.json", {view.path.stem: view.stops for view in views})
    if settings.surroundings:
        write_json(folder / "depth.json", {"world_units_per_count": MAX_DEPTH / 65535})
    for path, text in texts.items():
        with atomic_file(folder / path) as temporary:
            temporary.write_text(text + "\n")
    return views
