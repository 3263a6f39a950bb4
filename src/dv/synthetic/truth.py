"""What is true of an object in its surroundings: which part of every pixel it covers, and depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dv.runtime.files import atomic_file
from dv.synthetic.mitsuba_scene import Film, camera
from dv.synthetic.shapes import Array, MeshShape

MAX_DEPTH = 16.0  # world units of the largest count of a 16-bit image; no room is longer
_MASK_SAMPLES = 64  # per pixel


def load_truth(shapes: Sequence[MeshShape]) -> Any:
    """Build a Mitsuba scene in which the object alone is white, whatever shines in its images."""
    import mitsuba as mi

    integrator = {"type": "aov", "aovs": "position:position,distance:depth", "seen": {"type": "path", "max_depth": 1}}
    scene: dict[str, Any] = {"type": "scene", "integrator": integrator}
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
    return _render(truth, pose, film, sampler, seed)[..., 0].clip(0, 1)


def fast_depth(truth: Any, pose: Array, film: Film) -> NDArray[np.float32]:
    """Return what :func:`dv.synthetic.mitsuba_scene.render_depth` does, of all shapes, without its loop."""
    rendered = _render(truth, pose, film, {"type": "stratified", "sample_count": 1, "jitter": False}, 0)
    depth = (rendered[..., 4:7] - pose[:3, 3]) @ pose[:3, 2]
    return np.where(rendered[..., 7] > 0, depth, np.inf).astype(np.float32)


def _render(truth: Any, pose: Array, film: Film, sampler: dict[str, Any], seed: int) -> NDArray[np.float32]:
    import mitsuba as mi

    sensor = mi.load_dict(camera(pose, film) | {"sampler": sampler})
    return np.array(mi.render(truth, sensor=sensor, spp=sampler["sample_count"], seed=seed))


def write_truth(truth: Any, image: Path, pose: Array, film: Film, seed: int) -> None:
    """Write ``mask/NAME.png`` (8 bits) and ``depth/NAME.png`` (16 bits, 0: nothing) for ``rgb/NAME.png``."""
    import mitsuba as mi

    depth = fast_depth(truth, pose, film)
    counts = np.where(np.isfinite(depth), depth * (65535 / MAX_DEPTH), 0).round().clip(0, 65535)
    mask = (255 * object_coverage(truth, pose, film, seed)).round()
    for folder, pixels in (("mask", mask.astype(np.uint8)), ("depth", counts.astype(np.uint16))):
        with atomic_file(image.parents[1] / folder / image.name) as temporary:
            mi.Bitmap(pixels).write(str(temporary))
