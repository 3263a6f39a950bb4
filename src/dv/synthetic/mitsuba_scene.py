"""Meshes as a Mitsuba 3 scene: camera, light, materials, pictures and depth."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dv.errors import UserError
from dv.synthetic.shapes import Array, MeshShape, srgb_to_linear

PIXEL_CENTER = 0.5  # image coordinates of the first pixel's centre
FOCAL_PER_SIDE = 1.72
_OPENCV_TO_MITSUBA = np.diag([-1.0, -1.0, 1.0, 1.0])  # Mitsuba's camera has x left and y up


def mitsuba_module() -> Any:
    """Mitsuba. Raises UserError where it is not installed."""
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
