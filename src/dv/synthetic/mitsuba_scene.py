"""Mitsuba 3 scenes of meshes: camera, lights, materials, and rendering of images and depth."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dv.errors import UserError
from dv.synthetic.shapes import Array, MeshShape, srgb_to_linear

PIXEL_CENTER = 0.5  # coordinates of the first pixel's centre in pixels
FOCAL_PER_SIDE = 1.72  # focal length / image side
NEAR_CLIP = 0.1  # distance of the plane before which nothing is rendered
_OPENCV_TO_MITSUBA = np.diag([-1.0, -1.0, 1.0, 1.0])  # Mitsuba's camera axes: x left, y up, z forward


def import_mitsuba() -> Any:
    """Return the module ``mitsuba``. Raises :class:`UserError` if it is not installed."""
    try:
        import mitsuba
    except ImportError:
        raise UserError("rendering synthetic objects needs Mitsuba: pip install 'dv[synthetic]'") from None
    return mitsuba


class Film(NamedTuple):
    """Size and focal length of images in px; the principal point is the image's centre."""

    width: int
    height: int
    focal: float


def square_film(side: int) -> Film:
    """Return the film of square images of objects before a plain background."""
    return Film(side, side, FOCAL_PER_SIDE * side)


def camera(pose: Array, film: Film) -> dict[str, Any]:
    """Return a Mitsuba sensor. Mitsuba's variant must be set before the call.

    Args:
        pose: Camera-to-world matrix ``[4, 4]`` in OpenCV axes.
        film: Size of the image and focal length.
    """
    import mitsuba as mi

    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(film.width / 2 / film.focal))),
        "fov_axis": "x",
        "near_clip": NEAR_CLIP,
        "to_world": mi.ScalarTransform4f((pose @ _OPENCV_TO_MITSUBA).tolist()),
        "film": {
            "type": "hdrfilm",
            "width": film.width,
            "height": film.height,
            "pixel_format": "rgba",
            "component_format": "float32",
            "rfilter": {"type": "box"},
        },
    }


def render_rgba(scene: Any, pose: Array, film: Film, samples_per_pixel: int, seed: int) -> NDArray[np.float32]:
    """Render a linear RGBA image ``[height, width, 4]``; colours are premultiplied with alpha, the pixel's coverage.

    Only the part of the image that the meshes project to is rendered; see :func:`camera` for ``pose`` and ``film``.
    """
    import mitsuba as mi

    image = np.zeros((film.height, film.width, 4), dtype=np.float32)
    top, bottom, left, right = _visible_region(scene, pose, film)
    if top < bottom and left < right:
        sensor = camera(pose, film) | {"sampler": {"type": "multijitter", "sample_count": samples_per_pixel}}
        sensor["film"] |= {"crop_offset_x": left, "crop_offset_y": top}
        sensor["film"] |= {"crop_width": right - left, "crop_height": bottom - top}
        rendered = mi.render(scene, sensor=mi.load_dict(sensor), spp=samples_per_pixel, seed=seed)
        image[top:bottom, left:right] = np.array(rendered)
    return image


def _visible_region(scene: Any, pose: Array, film: Film) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the pixels that meshes project to; all pixels if other shapes exist."""
    shapes = [shape for shape in scene.shapes() if not shape.is_emitter()]
    if not shapes or not all(shape.is_mesh() for shape in shapes):
        return 0, film.height, 0, film.width
    vertices = np.concatenate([np.array(shape.vertex_positions_buffer()) for shape in shapes]).reshape(-1, 3)
    x, y, z = ((vertices - pose[:3, 3]) @ pose[:3, :3]).T
    if z.min() <= 0:
        return 0, film.height, 0, film.width
    corners = [(low, high) for low, high in ((p.min(), p.max()) for p in (y / z, x / z))]
    size = np.array([[film.height], [film.width]])
    rows, columns = (film.focal * np.array(corners) + size / 2 + [-0.5, 0.5]).clip(0, size)
    return int(rows[0]), int(np.ceil(rows[1])), int(columns[0]), int(np.ceil(columns[1]))


def render_depth(scene: Any, pose: Array, film: Film) -> NDArray[np.float32]:
    """Return depth ``[height, width]`` along the optical axis at pixel centres, world units; inf on the background."""
    import mitsuba as mi

    depth = np.full((film.height, film.width), np.inf, dtype=np.float32)
    top, bottom, left, right = _visible_region(scene, pose, film)
    for row, column in np.ndindex(bottom - top, right - left):
        x = (left + column + PIXEL_CENTER - film.width / 2) / film.focal
        y = (top + row + PIXEL_CENTER - film.height / 2) / film.focal
        direction = pose[:3, :3] @ [x, y, 1.0]  # z is 1 in camera axes, so the ray's parameter is the depth
        hit = scene.ray_intersect(mi.Ray3f(pose[:3, 3].tolist(), direction.tolist()))
        if hit.is_valid() and not hit.shape.is_emitter():
            depth[top + row, left + column] = hit.t
    return depth


def load_scene(shapes: Sequence[MeshShape], variant: str = "diffuse") -> Any:
    """Build a Mitsuba scene. Mitsuba's variant (such as ``scalar_rgb``) must be set before the call.

    Args:
        shapes: The meshes.
        variant: "diffuse" for matte surfaces under a dim sky and a large window, "specular" for glossy surfaces in a
            studio. Shapes in surroundings are lit by those of them that shine, in both variants.
    """
    import mitsuba as mi

    room = any(shape.surroundings for shape in shapes)
    lights = _room() if room else _studio() if variant == "specular" else _window()
    scene = {"type": "scene"} | lights
    for number, shape in enumerate(shapes):
        scene[f"shape{number}"] = _mesh(f"shape{number}", shape, variant, room)
    return mi.load_dict(scene)


# Without interreflections: they are hardly visible and take a third more time.
_DIRECT = {"type": "direct", "hide_emitters": True}


def _window() -> dict[str, Any]:
    """Return a dim sky and a large window as a light."""
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


# Light in a room that surfaces reflect to each other. Emitted by all of them but never sampled, it is free of noise.
_AMBIENT = 0.18


def _room() -> dict[str, Any]:
    """Return the integrator for shapes that are lit by those of them that shine."""
    return {"integrator": {"type": "direct", "emitter_samples": 2, "bsdf_samples": 1}}


# Lamps of the studio: azimuth and elevation of the centre, half width and half height (degrees), radiance (RGB).
_LAMPS = (
    ((35, 52), (12, 12), (22.0, 20.0, 17.5)),
    ((160, 35), (5, 26), (11.0, 12.0, 14.0)),
    ((255, 40), (24, 6), (13.0, 10.0, 7.5)),
    ((310, 22), (4, 14), (8.0, 11.0, 15.0)),
)


def _studio() -> dict[str, Any]:
    """Return an environment map for glossy surfaces: a sky above a dark floor, and lamps that appear as highlights."""
    import mitsuba as mi

    azimuth, elevation = np.meshgrid(90 - (np.arange(256) + 0.5) / 256 * 360, 90 - (np.arange(128) + 0.5) / 128 * 180)
    sky = np.clip(elevation[..., None] / 90, 0, 1) ** 0.5
    radiance = np.where(elevation[..., None] > 0, 0.36 + sky * [0.14, 0.17, 0.22], [0.24, 0.22, 0.20])
    for (lamp_azimuth, lamp_elevation), (width, height), color in _LAMPS:
        offset = np.abs((azimuth - lamp_azimuth + 180) % 360 - 180) * np.cos(np.radians(elevation))
        radiance[(offset < width) & (np.abs(elevation - lamp_elevation) < height)] = color
    return {
        "integrator": dict(_DIRECT),
        "lights": {
            "type": "envmap",
            "bitmap": mi.Bitmap((0.72 * radiance).astype(np.float32)),
            "to_world": mi.ScalarTransform4f().rotate([1, 0, 0], 90),
        },
    }


def _glow(shape: MeshShape) -> dict[str, Any]:
    """Return the emitter of a shape in a room; those that shine are sampled as much as they light the grid's centre."""
    import mitsuba as mi

    radiance = ((shape.radiance or _AMBIENT) * srgb_to_linear(shape.texture / 255)).astype(np.float32)
    corners = shape.vertices[shape.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    irradiance = area * radiance.mean() / (shape.vertices.mean(0) ** 2).sum()
    return {
        "type": "area",
        "radiance": {"type": "bitmap", "bitmap": mi.Bitmap(radiance), "raw": True, "wrap_mode": "clamp"},
        "sampling_weight": float(irradiance) if shape.radiance else 0.0,
    }


def _mesh(name: str, shape: MeshShape, variant: str, in_room: bool) -> Any:
    """Return a Mitsuba mesh with its material."""
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
    if shape.radiance or in_room:
        properties["emitter"] = mi.load_dict(_glow(shape))
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
