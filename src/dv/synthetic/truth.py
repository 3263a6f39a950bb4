"""What is true of an object in its surroundings: which part of every pixel it covers, and depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dv.runtime.files import atomic_file
from dv.synthetic.mitsuba_scene import NEAR_CLIP, PIXEL_CENTER, Film, camera
from dv.synthetic.shapes import Array, MeshShape

MAX_DEPTH = 16.0  # world units of the largest count of a 16-bit image; no room is longer
_MASK_SAMPLES = 64  # per pixel


def load_truth(shapes: Sequence[MeshShape]) -> Any:
    """Build a Mitsuba scene in which the object alone is white, whatever shines in its images."""
    import mitsuba as mi

    scene: dict[str, Any] = {"type": "scene"}
    for number, shape in enumerate(shapes):
        properties = mi.Properties()
        if not shape.surroundings:
            properties["emitter"] = mi.load_dict({"type": "area", "radiance": {"type": "rgb", "value": 1.0}})
        # Without normals at vertices, which turn away from the camera at silhouettes, where nothing would be emitted.
        mesh = mi.Mesh(f"shape{number}", len(shape.vertices), len(shape.faces), properties)
        parameters = mi.traverse(mesh)
        parameters["vertex_positions"] = shape.vertices.ravel()
        parameters["faces"] = shape.faces.ravel()
        parameters.update()
        scene[f"shape{number}"] = mesh
    return mi.load_dict(scene)


def object_coverage(truth: Any, pose: Array, film: Film, seed: int) -> NDArray[np.float32]:
    """Return the visible part of the object in every pixel ``[height, width]``, 0 to 1."""
    sampler = {"type": "multijitter", "sample_count": _MASK_SAMPLES}
    return _render(truth, {"type": "path", "max_depth": 1}, pose, film, sampler, seed)[..., 0].clip(0, 1)


def fast_depth(truth: Any, pose: Array, film: Film) -> NDArray[np.float32]:
    """Return what :func:`dv.synthetic.mitsuba_scene.render_depth` does, of all shapes, without its loop."""
    sampler = {"type": "stratified", "sample_count": 1, "jitter": False}
    along_ray = _render(truth, {"type": "depth"}, pose, film, sampler, 0)[..., 0]
    x = (np.arange(film.width) + PIXEL_CENTER - film.width / 2) / film.focal
    y = (np.arange(film.height) + PIXEL_CENTER - film.height / 2) / film.focal
    depth = NEAR_CLIP + along_ray / np.sqrt(1 + x**2 + y[:, None] ** 2)  # Mitsuba's rays start on that plane
    return np.where(along_ray > 0, depth, np.inf).astype(np.float32)


def _render(
    truth: Any, integrator: dict[str, Any], pose: Array, film: Film, sampler: dict[str, Any], seed: int
) -> NDArray[np.float32]:
    import mitsuba as mi

    sensor = mi.load_dict(camera(pose, film) | {"sampler": sampler})
    integrated = mi.load_dict(integrator)
    return np.array(mi.render(truth, integrator=integrated, sensor=sensor, spp=sampler["sample_count"], seed=seed))


def write_truth(truth: Any, image: Path, pose: Array, film: Film, seed: int) -> None:
    """Write ``mask/NAME.png`` (8 bits) and ``depth/NAME.png`` (16 bits, 0: nothing) for ``rgb/NAME.png``."""
    import mitsuba as mi

    depth = fast_depth(truth, pose, film)
    counts = np.where(np.isfinite(depth), depth * (65535 / MAX_DEPTH), 0).round().clip(0, 65535)
    mask = (255 * object_coverage(truth, pose, film, seed)).round()
    for folder, pixels in (("mask", mask.astype(np.uint8)), ("depth", counts.astype(np.uint16))):
        with atomic_file(image.parents[1] / folder / image.name) as temporary:
            mi.Bitmap(pixels).write(str(temporary))
