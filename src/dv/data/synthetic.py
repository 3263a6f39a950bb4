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

from dv.errors import UserError

Array = NDArray[np.float64]

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


@dataclass(frozen=True)
class MeshShape:
    """A textured triangle mesh in world coordinates, z up, inside the grid's cube.

    vertices and normals: (n, 3), normals of unit length pointing out of the material; uv: (n, 2) in [0, 1], v = 0 in
    the texture's first row; faces: (m, 3) counter-clockwise from outside; texture: (height, width, 3) in sRGB, [0, 1].
    """

    vertices: Array
    normals: Array
    uv: Array
    faces: NDArray[np.uint32]
    texture: NDArray[np.float32]


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


def _spline(points: Array, samples: int) -> tuple[Array, Array]:
    """Smooth curve (samples, 2) through points (n, 2), and where on it the points lie, rising from 0 to 1."""
    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    slopes = np.gradient(points, at, axis=0)
    sample = np.linspace(0, at[-1], samples)
    piece = np.searchsorted(at, sample, side="right").clip(1, len(at) - 1) - 1
    length = (at[piece + 1] - at[piece])[:, None]
    x = (sample - at[piece])[:, None] / length
    curve = (
        points[piece] * (1 + 2 * x) * (1 - x) ** 2
        + points[piece + 1] * (3 - 2 * x) * x**2
        + length * (slopes[piece] * x * (1 - x) ** 2 - slopes[piece + 1] * x**2 * (1 - x))
    )
    return curve, at / at[-1]


def _tube_mesh(grid: Array, texture: NDArray[np.float32]) -> MeshShape:
    """Mesh of a bent tube: grid (rows along it, columns counter-clockwise around it, 3), last column = first."""
    along = np.gradient(grid, axis=0)
    wrapped = np.concatenate([grid[:, -2:-1], grid, grid[:, 1:2]], axis=1)
    normals = np.cross(wrapped[:, 2:] - wrapped[:, :-2], along)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    rows, columns, _ = grid.shape
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    index = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    here, right, up, across = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack([here, right, across], -1), np.stack([here, across, up], -1)])
    return MeshShape(
        grid.reshape(-1, 3), normals.reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), faces.reshape(-1, 3), texture
    )


# Radius and height, from the middle of the underside up the outer wall, over the lip and down the inner wall.
_PROFILE = np.array([
    (0.0005, -0.435), (0.15, -0.445), (0.215, -0.46), (0.235, -0.445), (0.215, -0.405), (0.15, -0.355),
    (0.14, -0.325), (0.20, -0.26), (0.29, -0.16), (0.345, -0.04), (0.355, 0.05), (0.335, 0.12), (0.27, 0.19),
    (0.19, 0.235), (0.16, 0.28), (0.165, 0.35), (0.205, 0.42), (0.25, 0.455), (0.255, 0.468), (0.235, 0.465),
    (0.185, 0.42), (0.14, 0.35), (0.135, 0.28), (0.17, 0.22), (0.25, 0.165), (0.31, 0.10), (0.325, 0.04),
    (0.315, -0.04), (0.26, -0.15), (0.16, -0.24), (0.0005, -0.27),
])  # fmt: skip
# First and last profile point of each band of relief and decoration.
_FOOT, _WAIST, _FLUTES, _BELLY, _SHOULDER, _NECK, _LIP, _INSIDE = (
    (2, 4), (4, 7), (7, 9), (9, 11), (11, 13), (13, 16), (16, 19), (19, 30),
)  # fmt: skip
_FLUTE_COUNT, _PANEL_COUNT = 16, 8
_NIGHT, _PLUM, _LEAF, _CRIMSON, _CREAM, _GOLD, _SKY, _ORANGE, _TEAL = _PALETTE = np.array([
    (0.03, 0.05, 0.22), (0.27, 0.03, 0.26), (0.04, 0.25, 0.10), (0.62, 0.04, 0.08), (1.00, 0.96, 0.85),
    (0.98, 0.75, 0.16), (0.66, 0.92, 0.93), (0.95, 0.40, 0.06), (0.02, 0.45, 0.48),
], dtype=np.float32)  # fmt: skip


def vase_shapes() -> list[MeshShape]:
    """A hollow amphora: fluted and embossed body, two handles, and a glaze that differs at every azimuth."""
    rows, columns = 400, 252
    profile, stations = _spline(_PROFILE, rows)
    at, turn = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns + 1)[None]
    flute, flute_strength = _flutes(turn, at, stations)
    _, distance, _, boss_window = _panels(turn, at, stations)
    fluting = 0.016 * flute_strength * np.abs(np.sin(np.pi * flute))
    bosses = 0.012 * boss_window * np.exp(-((distance / 0.06) ** 6))
    radius = profile[:, :1] + fluting + bosses
    azimuth = 2 * np.pi * turn
    height = np.broadcast_to(profile[:, 1:], radius.shape)
    body = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=2)
    return [
        _tube_mesh(body, _vase_glaze(stations)),
        _tube_mesh(_handle(0.3), _handle_glaze(_CREAM, _CRIMSON, 7)),
        _tube_mesh(_handle(0.3 + np.pi), _handle_glaze(_NIGHT, _GOLD, 5)),
    ]


def _band(at: Array, stations: Array, band: tuple[int, int]) -> Array:
    """Position along the profile (0 to 1 over all of it) as 0 to 1 over one band."""
    first, last = stations[list(band)]
    return np.asarray((at - first) / (last - first))


def _flutes(turn: Array, at: Array, stations: Array) -> tuple[Array, Array]:
    """Twisted flutes: number of flutes passed (fraction = across), and the strength of the relief, 0 to 1."""
    along = _band(at, stations, _FLUTES)
    strength = np.sin(np.pi * along.clip(0, 1)) ** 0.5
    return _FLUTE_COUNT * (turn + 0.10 * along), strength


def _panels(turn: Array, at: Array, stations: Array) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """Belly panels: number, distance from the panel's middle (world), angle about it, 1 within the belly else 0."""
    along = _band(at, stations, _BELLY)
    panel = np.floor(_PANEL_COUNT * turn)
    belly_radius = _PROFILE[_BELLY[0] : _BELLY[1] + 1, 0].mean()
    belly_length = np.linalg.norm(np.diff(_PROFILE[_BELLY[0] : _BELLY[1] + 1], axis=0), axis=1).sum()
    x = (turn - (panel + 0.5) / _PANEL_COUNT) * 2 * np.pi * belly_radius
    y = (along - 0.5) * belly_length
    inside = ((along >= 0) & (along <= 1)).astype(np.float64)
    return panel.astype(np.int64) % _PANEL_COUNT, np.hypot(x, y), np.arctan2(y, x), inside


def _handle(turn: float) -> Array:
    """Grid (rows, columns, 3) of a tapering tube from the belly out and up to the neck, at azimuth `turn` radians."""
    middle, _ = _spline(
        np.array([(0.32, 0.10), (0.385, 0.13), (0.425, 0.20), (0.405, 0.28), (0.33, 0.33), (0.24, 0.33), (0.15, 0.31)]),
        120,
    )
    tangent = np.gradient(middle, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    around = np.linspace(0, 2 * np.pi, 33)[None]
    thickness = np.linspace(0.036, 0.026, len(middle))[:, None]
    in_plane = thickness * np.cos(around)
    radial = middle[:, :1] + in_plane * tangent[:, 1:]
    height = middle[:, 1:] - in_plane * tangent[:, :1]
    sideways = thickness * np.sin(around)
    x, y = np.cos(turn), np.sin(turn)
    return np.stack([radial * x - sideways * y, radial * y + sideways * x, height], axis=2)


def _handle_glaze(ground: NDArray[np.float32], stripe: NDArray[np.float32], turns: int) -> NDArray[np.float32]:
    along, around = (np.arange(512)[:, None] + 0.5) / 512, (np.arange(128)[None] + 0.5) / 128
    striped = ((turns * along + around) % 1 < 0.38)[..., None]
    return np.where(striped, stripe, ground).astype(np.float32)


def _cloud(rng: np.random.Generator, rows: int, columns: int, cells: int) -> NDArray[np.float32]:
    """Smooth noise (rows, columns) in [0, 1] that closes around the columns, with about `cells` cells each way."""
    knots = rng.random((cells + 1, cells), dtype=np.float32)
    knots = np.concatenate([knots, knots[:, :1]], axis=1)
    for axis, length in ((0, rows), (1, columns)):
        position = np.linspace(0, cells, length, dtype=np.float32)
        cell = position.astype(np.int64).clip(0, cells - 1)
        x = position - cell
        weight = np.expand_dims(x * x * (3 - 2 * x), 1 - axis)
        knots = knots.take(cell, axis) * (1 - weight) + knots.take(cell + 1, axis) * weight
    return knots


def _vase_glaze(stations: Array) -> NDArray[np.float32]:
    """Texture (rows along the profile, columns of azimuth, 3) in sRGB."""
    rows, columns = 1536, 2048
    at, turn = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)[None]
    glaze = np.empty((rows, columns, 3), dtype=np.float32)
    glaze[:] = _NIGHT

    def part(band: tuple[int, int]) -> tuple[NDArray[np.float32], Array, Array]:
        """The band's part of the glaze, its rows of `at`, and 0 to 1 along it."""
        chosen = slice(*np.searchsorted(at[:, 0], stations[list(band)]))
        return glaze[chosen], at[chosen], _band(at[chosen], stations, band)

    def paint(area: NDArray[np.float32], where: NDArray[np.bool_], colour: NDArray[np.float32]) -> None:
        np.copyto(area, colour, where=where[..., None])

    # Every band has a dark and a light half, shifted from band to band: a view's mean says little about the next.
    def halves(start: float, dark: list[int], light: list[int]) -> NDArray[np.float32]:
        """Colours (1, columns, 3): those of the palette in sectors, first the dark ones from `start` turns on."""
        cycle = _PALETTE[dark + light]
        return np.asarray(cycle[np.floor(len(cycle) * (turn - start)).astype(int) % len(cycle)])

    foot, _, _ = part(_FOOT)
    foot[:] = halves(0.4, [0], [5])
    paint(foot, (20 * turn) % 1 < 0.3, halves(0.4, [5], [0]))

    waist, _, along = part(_WAIST)
    waist[:] = halves(0.1, [3, 0], [4, 5])
    paint(waist, np.hypot((18 * turn) % 1 - 0.5, 2.2 * (along - 0.55)) < 0.33, halves(0.1, [5, 4], [2, 4]))

    fluted, here, along = part(_FLUTES)
    flute, _ = _flutes(turn, here, stations)
    number = np.floor(flute).astype(int) % _FLUTE_COUNT
    fluted[:] = _PALETTE[[0, 1, 0, 2, 0, 3, 0, 1, 4, 5, 4, 6, 4, 7, 4, 5]][number]
    vein = np.abs(flute % 1 - 0.5) < 0.06 + 0.04 * np.sin(40 * along)
    paint(fluted, vein, _PALETTE[[5, 4, 7, 4, 5, 4, 6, 4, 3, 0, 2, 0, 8, 0, 1, 0]][number])

    belly, here, _ = part(_BELLY)
    panel, distance, angle, _ = _panels(turn, here, stations)
    belly[:] = _PALETTE[[4, 5, 4, 6, 0, 1, 0, 2]][panel]
    paint(belly, distance < 0.089, _PALETTE[[5, 4, 6, 4, 3, 0, 8, 0]][panel])
    petals = distance < 0.083 * (0.62 + 0.38 * np.cos((5 + panel % 4) * angle))
    paint(belly, petals, _PALETTE[[3, 2, 0, 7, 5, 6, 4, 7]][panel])
    paint(belly, distance < 0.026, _PALETTE[[4, 5, 5, 4, 0, 3, 1, 4]][panel])
    paint(belly, np.abs((_PANEL_COUNT * turn + 0.5) % 1 - 0.5) < 0.03, _GOLD)

    shoulder, _, along = part(_SHOULDER)
    tongue = np.abs((16 * turn) % 1 - 0.5)
    shoulder[:] = halves(0.25, [0, 2], [4, 4])
    paint(shoulder, tongue < 0.36 * np.sqrt(1 - along), halves(0.25, [3, 1], [6, 5]))
    paint(shoulder, tongue < 0.16 * np.sqrt((0.8 - along).clip(0)), halves(0.25, [5, 4], [0, 1]))

    neck, _, along = part(_NECK)
    across, up = (20 * turn + 2 * along) % 1, (4 * along) % 1
    neck[:] = halves(0.75, [0], [4])
    paint(neck, np.abs(across - 0.5) + np.abs(up - 0.5) < 0.36, halves(0.75, [4, 6], [2, 0]))
    paint(neck, (2 * turn - along) % 1 < 0.2, _CRIMSON)

    lip, _, _ = part(_LIP)
    lip[:] = halves(0.5, [0], [5])
    paint(lip, (36 * turn) % 1 < 0.35, _CRIMSON)

    inside, _, along = part(_INSIDE)
    inside[:] = halves(0.0, [8, 0], [4, 6])
    paint(inside, (12 * turn + 3 * along) % 1 < 0.3, halves(0.0, [4, 6], [8, 7]))
    paint(inside, (7 * along) % 1 < 0.12, _NIGHT)

    for station in stations[[_WAIST[0], _FLUTES[0], _BELLY[0], _SHOULDER[0], _NECK[0], _LIP[0]]]:
        paint(glaze, np.abs(at - station) < 0.0042, _GOLD)
        paint(glaze, np.abs(at - station) < 0.0014, _NIGHT)
    # Uneven glaze and specks: detail at every scale, alike nowhere.
    rng = np.random.default_rng(0)
    glaze *= 0.78
    for weight, cells in ((0.2, 7), (0.12, 31), (0.08, 127)):
        glaze *= 1 + weight * _cloud(rng, rows, columns, cells)[..., None]
    glaze[_cloud(rng, rows, columns, 170) > 0.93] *= 0.45
    return glaze.clip(0, 1)


SCENES: dict[str, Callable[[], list[MeshShape]]] = {"vase": vase_shapes}
