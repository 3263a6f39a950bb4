"""Procedural objects and meshes rendered with Mitsuba 3 into the DeepVoxels folder layout."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import dv
from dv.errors import UserError
from dv.synthetic.chair import chair_shapes
from dv.synthetic.cube import cube_shapes
from dv.synthetic.mitsuba_scene import FOCAL_PER_SIDE, PIXEL_CENTER, load_scene, mitsuba_module, render_rgba
from dv.synthetic.pedestal import pedestal_shapes
from dv.synthetic.shapes import Array, MeshShape
from dv.synthetic.vase import vase_shapes

SCENES: dict[str, Callable[[], list[MeshShape]]] = {
    "vase": vase_shapes,
    "cube": cube_shapes,
    "pedestal": pedestal_shapes,
    "chair": chair_shapes,
}
PUBLISHED_NAMES = {"greek": "pedestal", "armchair": "chair"}  # of the folders of the published data
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
    # 256 samples a pixel are what the area average of 1024² px with 64 samples each has.
    "paper": {
        "image_side": 512, "train_views": 479, "validation_views": 100, "test_views": 1000, "samples_per_pixel": 256,
    },
}  # fmt: skip

FORMAT_VERSION = 2  # raised whenever the same settings would give other images
GRID_SCALE = 1.0
CAMERA_DISTANCE = 2.0
NEAR_PLANE = CAMERA_DISTANCE - np.sqrt(3) / 2 * GRID_SCALE
# In the order the finished folders appear: whoever finds train finds the others too.
SPLITS = ("test", "validation", "train")
SPIRAL_TURNS = 5


@dataclass(frozen=True)
class SyntheticSettings:
    """What to render. Raises UserError for a value out of range.

    Images are `image_side` x `image_side` px; `variant` is "diffuse" or "specular"; `shape` is a key of SCENES, None
    for what the object's name says; `workers` is the number of processes, 0 for one per available CPU, and has no
    influence on the images.
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

    def __post_init__(self) -> None:
        at_least = {"image_side": 8, "seed": 0, "workers": 0}
        for key, value in asdict(self).items():
            least = at_least.get(key, 1)
            if key not in ("variant", "shape") and (not isinstance(value, int) or value < least):
                raise UserError(f"source.{key} must be at least {least} and whole, not {value}")
        if self.variant not in VARIANTS:
            raise UserError(f"source.variant={self.variant} must be one of {', '.join(VARIANTS)}")

    @property
    def intrinsics(self) -> tuple[float, float, float]:
        """Focal length and principal point (f, cx, cy) in px; pixel (column, row) is centred at (+0.5, +0.5)."""
        centre = self.image_side / 2
        return FOCAL_PER_SIDE * self.image_side, centre, centre


def settings_from(source: Mapping[str, Any]) -> SyntheticSettings:
    """Settings of a config `source`: what is null there comes from its `preset` ("small" if that is null too).

    Raises UserError for an unknown preset or a value out of range.
    """
    preset = source["preset"] or "small"
    if preset not in PRESETS:
        raise UserError(f"source.preset={preset} must be one of {', '.join(PRESETS)}")
    given = {f.name: source[f.name] for f in fields(SyntheticSettings) if source.get(f.name) is not None}
    return SyntheticSettings(**PRESETS[preset] | given)


def look_at_centre(position: Array) -> Array:
    """Camera-to-world matrix (4, 4), OpenCV axes, of an upright camera at `position` (3,) facing the grid's centre."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose


def split_poses(split: str, settings: SyntheticSettings) -> Array:
    """Camera-to-world matrices (views, 4, 4) of "train", "validation" or "test", all at CAMERA_DISTANCE.

    Test views follow an Archimedean spiral from near the pole to near the equator; the others are a jittered
    golden-angle spiral that covers the northern hemisphere evenly.
    """
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
    """Render the procedural object of `settings.shape` (None: of `name`) into output_dir/{train,validation,test}/name.

    Raises UserError when the shape is unknown, and what render_object raises.
    """
    shape = settings.shape or PUBLISHED_NAMES.get(name, name)
    if shape not in SCENES:
        known = ", ".join(SCENES)
        raise UserError(f"unknown synthetic object {shape!r}; known: {known}; with another name: source.shape=vase")
    render_object(name, output_dir, settings, "synthetic", {"shape": shape}, SCENES[shape])


def render_object(
    name: str,
    output_dir: Path,
    settings: SyntheticSettings,
    source: str,
    identity: dict[str, str],
    make_shapes: Callable[[], list[MeshShape]],
) -> None:
    """Render shapes into output_dir/{train,validation,test}/name; call it from the main thread.

    The three folders appear only when complete. An interrupted run is continued by calling again; a finished one is
    left as it is. `identity` says in dataset.json, beside the settings, which shapes these are. Raises UserError when
    Mitsuba is missing, or output_dir holds the object rendered with other settings or of other shapes.
    """
    partial = output_dir / f".{name}.partial"
    compared = {key: value for key, value in asdict(settings).items() if key not in ("workers", "shape")} | identity
    record = {"source": source, "object": name, "settings": compared, "format_version": FORMAT_VERSION}
    unfinished = []
    for split in SPLITS:
        finished = output_dir / split / name
        if finished.exists():
            _check_settings(finished, record, f"{output_dir}/{{{','.join(SPLITS)}}}/{name}")
        else:
            unfinished.append(split)
            if (partial / split / "dataset.json").exists():
                _check_settings(partial / split, record, str(partial))
    if unfinished:
        record["pixel_center"] = PIXEL_CENTER
        record["versions"] = {"dv": dv.__version__, "mitsuba": mitsuba_module().__version__}
        for split in unfinished:
            _prepare(partial / split, partial, split, record, settings)
        _render_missing(name, partial, unfinished, settings, make_shapes)
        for split in unfinished:
            (output_dir / split).mkdir(exist_ok=True)
            (partial / split).rename(output_dir / split / name)
        print(f"rendered {name} into {output_dir}")
    else:
        print(f"{name} in {output_dir} is already rendered with these settings: nothing to do")
    shutil.rmtree(partial, ignore_errors=True)


def _check_settings(folder: Path, record: dict[str, Any], to_delete: str) -> None:
    try:
        found = json.loads((folder / "dataset.json").read_text())
        found_settings = dict(found["settings"], format_version=found["format_version"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} was not rendered by this program; choose another output_dir") from None
    wanted = dict(record["settings"], format_version=record["format_version"])
    differing = [
        f"{key} = {found_settings.get(key)} (now {value})"
        for key, value in wanted.items()
        if found_settings.get(key) != value
    ]
    if differing:
        found_with = ", ".join(differing)
        raise UserError(f"{folder} was rendered with {found_with}; choose another output_dir or delete {to_delete}")


def _prepare(folder: Path, aside_dir: Path, split: str, record: dict[str, Any], settings: SyntheticSettings) -> None:
    """Write everything of one split but its images."""
    (folder / "rgb").mkdir(parents=True, exist_ok=True)
    (folder / "pose").mkdir(exist_ok=True)
    focal, cx, cy = settings.intrinsics
    side = settings.image_side
    # The record comes first, so that no image ever lies there without the settings it was rendered with.
    texts = {
        "dataset.json": json.dumps(record, indent=2),
        "intrinsics.txt": f"{focal!r} {cx!r} {cy!r} 0.\n0. 0. 0.\n{float(NEAR_PLANE)!r}\n{GRID_SCALE!r}\n{side} {side}",
    }
    for view, pose in enumerate(split_poses(split, settings)):
        texts[f"pose/{view:06d}.txt"] = " ".join(f"{number:.12g}" for number in pose.ravel())
    for path, text in texts.items():
        aside = aside_dir / "text.aside"
        aside.write_text(text + "\n")
        os.replace(aside, folder / path)


def _render_missing(
    name: str,
    partial: Path,
    splits: Iterable[str],
    settings: SyntheticSettings,
    make_shapes: Callable[[], list[MeshShape]],
) -> None:
    jobs: list[tuple[Path, Array, int]] = []
    total = 0
    for split in splits:
        for view, pose in enumerate(split_poses(split, settings)):
            image_path = partial / split / "rgb" / f"{view:06d}.png"
            total += 1
            if not image_path.exists():
                seed = np.random.SeedSequence([settings.seed, SPLITS.index(split), view]).generate_state(1)
                jobs.append((image_path, pose, int(seed[0])))
    if not jobs:
        return
    workers = min(settings.workers or len(os.sched_getaffinity(0)), len(jobs))
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _start_worker, (make_shapes(), settings.variant))
    # Children inherit the ignored signal: Ctrl-C reaches this process only, which then ends them.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures = [
            executor.submit(_render_image, settings.image_side, settings.samples_per_pixel, partial, *job)
            for job in jobs
        ]
    finally:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        with tqdm(total=total, initial=total - len(jobs), desc=f"rendering {name}", unit="view") as progress:
            for future in as_completed(futures):
                future.result()
                progress.update()
    except BrokenProcessPool:
        raise UserError("a rendering process was killed (out of memory?); run again to continue") from None
    finally:
        # After a failure or Ctrl-C the views under way are not worth waiting for.
        if not all(future.done() for future in futures):
            for process in set(multiprocessing.active_children()) - set(others):
                process.terminate()
        executor.shutdown(cancel_futures=True)


_worker_scene: Any = None


def _start_worker(shapes: list[MeshShape], variant: str) -> None:
    global _worker_scene
    threading.Thread(target=_end_with_parent, daemon=True).start()
    mitsuba = mitsuba_module()
    mitsuba.set_variant("scalar_rgb")
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    import drjit

    drjit.set_thread_count(1)
    _worker_scene = load_scene(shapes, variant)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a killed parent cannot end its workers, and they would wait for work forever


def _render_image(side: int, samples_per_pixel: int, aside_dir: Path, image_path: Path, pose: Array, seed: int) -> None:
    import mitsuba as mi

    rgba = render_rgba(_worker_scene, pose, side, samples_per_pixel, seed)
    over_white = rgba[..., :3] + (1 - rgba[..., 3:])
    bitmap = mi.Bitmap(over_white).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True)
    aside = aside_dir / f"{os.getpid()}.png"
    bitmap.write(str(aside))
    os.replace(aside, image_path)
