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
from numpy.typing import NDArray
from tqdm import tqdm

import dv
from dv.data.chair import chair_shapes
from dv.data.cube import cube_shapes
from dv.data.pedestal import pedestal_shapes
from dv.data.shapes import Array, MeshShape, srgb_to_linear
from dv.data.vase import vase_shapes
from dv.errors import UserError

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
PIXEL_CENTER = 0.5  # image coordinates of the first pixel's centre
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
        record["versions"] = {"dv": dv.__version__, "mitsuba": _mitsuba_module().__version__}
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
    mitsuba = _mitsuba_module()
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

    image = np.zeros((side, side, 4), dtype=np.float32)
    top, bottom, left, right = _seen_part(scene, pose, side)
    if top < bottom and left < right:
        sensor = camera(pose, side) | {"sampler": {"type": "multijitter", "sample_count": samples_per_pixel}}
        sensor["film"] |= {"crop_offset_x": left, "crop_offset_y": top}
        sensor["film"] |= {"crop_width": right - left, "crop_height": bottom - top}
        rendered = mi.render(scene, sensor=mi.load_dict(sensor), spp=samples_per_pixel, seed=seed)
        image[top:bottom, left:right] = np.array(rendered)
    return image


def _seen_part(scene: Any, pose: Array, side: int) -> tuple[int, int, int, int]:
    """First and last + 1 row and column of what the scene's meshes can be seen in; all if it has other shapes."""
    shapes = [shape for shape in scene.shapes() if not shape.is_emitter()]
    if not shapes or not all(shape.is_mesh() for shape in shapes):
        return 0, side, 0, side
    vertices = np.concatenate([np.array(shape.vertex_positions_buffer()) for shape in shapes]).reshape(-1, 3)
    x, y, z = ((vertices - pose[:3, 3]) @ pose[:3, :3]).T
    if z.min() <= 0:
        return 0, side, 0, side
    corners = [(low, high) for low, high in ((p.min(), p.max()) for p in (y / z, x / z))]
    rows, columns = (FOCAL_PER_SIDE * side * np.array(corners) + side / 2 + [-0.5, 0.5]).clip(0, side)
    return int(rows[0]), int(np.ceil(rows[1])), int(columns[0]), int(np.ceil(columns[1]))


def render_depth(scene: Any, pose: Array, side: int) -> NDArray[np.float32]:
    """Depth (side, side) along the camera's axis at the pixels' centres, in world units; inf where nothing is."""
    import mitsuba as mi

    focal = FOCAL_PER_SIDE * side
    depth = np.full((side, side), np.inf, dtype=np.float32)
    top, bottom, left, right = _seen_part(scene, pose, side)
    for row, column in np.ndindex(bottom - top, right - left):
        x, y = ((at + PIXEL_CENTER - side / 2) / focal for at in (left + column, top + row))
        direction = pose[:3, :3] @ [x, y, 1.0]  # 1 along the camera's axis: the ray's parameter is the depth
        hit = scene.ray_intersect(mi.Ray3f(pose[:3, 3].tolist(), direction.tolist()))
        if hit.is_valid() and not hit.shape.is_emitter():
            depth[top + row, left + column] = hit.t
    return depth


def load_scene(shapes: Iterable[MeshShape], variant: str = "diffuse") -> Any:
    """Mitsuba scene of shapes under a dim sky and a large window, or glossy in a studio ("specular").

    Needs Mitsuba's variant to be set.
    """
    import mitsuba as mi

    scene = {"type": "scene"} | (_studio() if variant == "specular" else _window())
    for number, shape in enumerate(shapes):
        scene[f"shape{number}"] = _mesh(f"shape{number}", shape, variant)
    return mi.load_dict(scene)


# Light between surfaces would hardly show and costs a third more time.
_DIRECT = {"type": "direct", "hide_emitters": True}


def _window() -> dict[str, Any]:
    import mitsuba as mi

    return {
        "integrator": dict(_DIRECT),
        "sky": {"type": "constant", "radiance": {"type": "rgb", "value": [0.66, 0.68, 0.70]}},
        "window": {
            "type": "rectangle",
            "to_world": mi.ScalarTransform4f().look_at([2.6, 1.8, 3.8], [0, 0, 0], [0, 0, 1]).scale(2),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": [2.9, 2.65, 2.4]}},
        },
    }


# Lamps of the studio: azimuth and elevation of the middle, half width and half height (degrees), radiance.
_LAMPS = (
    ((35, 52), (12, 12), (22.0, 20.0, 17.5)),
    ((160, 35), (5, 26), (11.0, 12.0, 14.0)),
    ((255, 40), (24, 6), (13.0, 10.0, 7.5)),
    ((310, 22), (4, 14), (8.0, 11.0, 15.0)),
)


def _studio() -> dict[str, Any]:
    """Lights all around for glossy surfaces: a sky above a dark floor, and lamps that show as highlights."""
    import mitsuba as mi

    azimuth, elevation = np.meshgrid(90 - (np.arange(256) + 0.5) / 256 * 360, 90 - (np.arange(128) + 0.5) / 128 * 180)
    sky = np.clip(elevation[..., None] / 90, 0, 1) ** 0.5
    radiance = np.where(elevation[..., None] > 0, 0.36 + sky * [0.14, 0.17, 0.22], [0.24, 0.22, 0.20])
    for (lamp_azimuth, lamp_elevation), (width, height), color in _LAMPS:
        aside = np.abs((azimuth - lamp_azimuth + 180) % 360 - 180) * np.cos(np.radians(elevation))
        radiance[(aside < width) & (np.abs(elevation - lamp_elevation) < height)] = color
    return {
        "integrator": dict(_DIRECT),
        "lights": {
            "type": "envmap",
            "bitmap": mi.Bitmap((0.72 * radiance).astype(np.float32)),
            "to_world": mi.ScalarTransform4f().rotate([1, 0, 0], 90),
        },
    }


def _mesh(name: str, shape: MeshShape, variant: str) -> Any:
    import mitsuba as mi

    if shape.colors is None:
        wrap = "repeat" if shape.repeat else "clamp"
        color: dict[str, Any] = {"type": "bitmap", "bitmap": mi.Bitmap(shape.texture), "wrap_mode": wrap}
    else:
        color = {"type": "mesh_attribute", "name": "vertex_color"}
    if variant == "specular":
        surface = {
            "type": "roughplastic",
            "diffuse_reflectance": color,
            "int_ior": 1.8,
            "alpha": shape.roughness,
        }
    else:
        surface = {"type": "diffuse", "reflectance": color}
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict({"type": "twosided", "surface": surface})
    mesh = mi.Mesh(name, len(shape.vertices), len(shape.faces), properties, True, True)
    if shape.colors is not None:
        linear = srgb_to_linear(shape.colors / 255)
        mesh.add_attribute("vertex_color", 3, linear.ravel().tolist())
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = shape.vertices.ravel()
    parameters["vertex_normals"] = shape.normals.ravel()
    parameters["vertex_texcoords"] = shape.uv.ravel()
    parameters["faces"] = shape.faces.ravel()
    parameters.update()
    return mesh
