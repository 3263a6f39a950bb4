"""Procedural objects rendered with Mitsuba 3 into the DeepVoxels folder layout."""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dv.data.shapes import Array, MeshShape
from dv.data.vase import vase_shapes
from dv.errors import UserError

SCENES: dict[str, Callable[[], list[MeshShape]]] = {"vase": vase_shapes}

FORMAT_VERSION = 1  # raised whenever the same settings would give other images
GRID_SCALE = 1.0
CAMERA_DISTANCE = 2.0
NEAR_PLANE = CAMERA_DISTANCE - np.sqrt(3) / 2 * GRID_SCALE
FOCAL_PER_SIDE = 1.72
# In the order the finished folders appear: whoever finds train finds the others too.
SPLITS = ("test", "validation", "train")
SPIRAL_TURNS = 5
_OPENCV_TO_MITSUBA = np.diag([-1.0, -1.0, 1.0, 1.0])  # Mitsuba's camera has x left and y up


@dataclass(frozen=True)
class SyntheticSettings:
    """What to render. Raises UserError for a value out of range.

    Images are `image_side` x `image_side` px; `workers` is the number of processes, 0 for one per available CPU,
    and has no influence on the images.
    """

    image_side: int = 128
    train_views: int = 100
    validation_views: int = 10
    test_views: int = 40
    samples_per_pixel: int = 64
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        at_least = {"image_side": 8, "seed": 0, "workers": 0}
        for key, value in asdict(self).items():
            if value < at_least.get(key, 1):
                raise UserError(f"source.{key} must be at least {at_least.get(key, 1)}, not {value}")

    @property
    def intrinsics(self) -> tuple[float, float, float]:
        """Focal length and principal point (f, cx, cy) in px; pixel (column, row) has that very image coordinate."""
        centre = self.image_side / 2 - 0.5
        return FOCAL_PER_SIDE * self.image_side, centre, centre


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
    """Render object `name` into output_dir/{train,validation,test}/name; call it from the main thread.

    The three folders appear only when complete. An interrupted run is continued by calling again; a finished one is
    left as it is. Raises UserError when the object is unknown, Mitsuba is missing, or output_dir holds the object
    rendered with other settings.
    """
    if name not in SCENES:
        raise UserError(f"unknown synthetic object {name!r}; known: {', '.join(SCENES)}")
    partial = output_dir / f".{name}.partial"
    record = {"source": "synthetic", "object": name, "settings": _compared(settings), "format_version": FORMAT_VERSION}
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
        mitsuba = _mitsuba_module()
        for split in unfinished:
            _prepare(partial / split, partial, split, record | {"mitsuba_version": mitsuba.__version__}, settings)
        _render_missing(name, partial, unfinished, settings)
        for split in unfinished:
            (output_dir / split).mkdir(exist_ok=True)
            (partial / split).rename(output_dir / split / name)
        print(f"rendered {name} into {output_dir}")
    else:
        print(f"{name} in {output_dir} is already rendered with these settings: nothing to do")
    shutil.rmtree(partial, ignore_errors=True)


def _compared(settings: SyntheticSettings) -> dict[str, int]:
    return {key: value for key, value in asdict(settings).items() if key != "workers"}


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


def _render_missing(name: str, partial: Path, splits: Iterable[str], settings: SyntheticSettings) -> None:
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
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    # Children inherit the ignored signal: Ctrl-C reaches this process only, which then ends them.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures = [
            executor.submit(_render_image, name, settings.image_side, settings.samples_per_pixel, partial, *job)
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


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    mitsuba = _mitsuba_module()
    mitsuba.set_variant("scalar_rgb")
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    import drjit

    drjit.set_thread_count(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a killed parent cannot end its workers, and they would wait for work forever


def _render_image(
    name: str, side: int, samples_per_pixel: int, aside_dir: Path, image_path: Path, pose: Array, seed: int
) -> None:
    import mitsuba as mi

    rgba = render_rgba(load_scene(name), pose, side, samples_per_pixel, seed)
    over_white = rgba[..., :3] + (1 - rgba[..., 3:])
    bitmap = mi.Bitmap(over_white).convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.UInt8, srgb_gamma=True)
    aside = aside_dir / f"{os.getpid()}.png"
    bitmap.write(str(aside))
    os.replace(aside, image_path)


def _mitsuba_module() -> Any:
    try:
        import mitsuba
    except ImportError:
        raise UserError("rendering synthetic objects needs Mitsuba: pip install 'dv[synthetic]'") from None
    return mitsuba


def camera(pose: Array, side: int) -> dict[str, Any]:
    """Mitsuba sensor of a `side` x `side` px camera with camera-to-world `pose` (4, 4) in OpenCV axes.

    Its intrinsics are those of SyntheticSettings(image_side=side). Needs the variant to be set.
    """
    import mitsuba as mi

    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(0.5 / FOCAL_PER_SIDE))),
        "fov_axis": "x",
        "near_clip": 0.1,
        "to_world": mi.ScalarTransform4f((pose @ _OPENCV_TO_MITSUBA).tolist()),
        "film": {
            "type": "hdrfilm",
            "width": side,
            "height": side,
            "pixel_format": "rgba",
            "component_format": "float32",
            "rfilter": {"type": "box"},
        },
    }


def render_rgba(scene: Any, pose: Array, side: int, samples_per_pixel: int, seed: int) -> NDArray[np.float32]:
    """Linear RGBA image (side, side, 4) of a Mitsuba scene, colours premultiplied with alpha (the coverage)."""
    import mitsuba as mi

    sampler = {"type": "multijitter", "sample_count": samples_per_pixel}
    sensor = mi.load_dict(camera(pose, side) | {"sampler": sampler})
    return np.array(mi.render(scene, sensor=sensor, spp=samples_per_pixel, seed=seed), dtype=np.float32)


@functools.cache
def load_scene(name: str) -> Any:
    """Mitsuba scene of the object under a dim sky and a large window. Needs the variant to be set."""
    import mitsuba as mi

    scene: dict[str, Any] = {
        "type": "scene",
        # Direct light only: light between surfaces would hardly show and costs a fifth more time.
        "integrator": {"type": "path", "max_depth": 2, "hide_emitters": True},
        "sky": {"type": "constant", "radiance": {"type": "rgb", "value": [0.66, 0.68, 0.70]}},
        "window": {
            "type": "rectangle",
            "to_world": mi.ScalarTransform4f().look_at([2.6, 1.8, 3.8], [0, 0, 0], [0, 0, 1]).scale(2),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": [2.9, 2.65, 2.4]}},
        },
    }
    for number, shape in enumerate(SCENES[name]()):
        texels = mi.Bitmap(np.round(255 * shape.texture.clip(0, 1)).astype(np.uint8))
        texture = {"type": "bitmap", "bitmap": texels, "wrap_mode": "clamp"}
        properties = mi.Properties()
        properties["bsdf"] = mi.load_dict({"type": "diffuse", "reflectance": texture})
        mesh = mi.Mesh(f"{name}{number}", len(shape.vertices), len(shape.faces), properties, True, True)
        parameters = mi.traverse(mesh)
        parameters["vertex_positions"] = shape.vertices.ravel()
        parameters["vertex_normals"] = shape.normals.ravel()
        parameters["vertex_texcoords"] = shape.uv.ravel()
        parameters["faces"] = shape.faces.ravel()
        parameters.update()
        scene[f"shape{number}"] = mesh
    return mi.load_dict(scene)
