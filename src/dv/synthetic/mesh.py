"""Mesh files, read with trimesh, centred and scaled into the voxel grid's cube."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dv.errors import UserError
from dv.synthetic.obj import obj_files, read_obj
from dv.synthetic.render import SyntheticSettings, render_object
from dv.synthetic.shapes import Array, MeshShape, Texels, linear_to_srgb, srgb_to_linear, to_texels

LONGEST_SIDE = 0.9
MAX_RADIUS = 0.53  # about the grid's centre: entirely inside every image, and beyond the near plane
CREASE_ANGLE = 40.0  # degrees between a face's and its vertex's mean normal; larger angles are rendered as sharp edges
_GREY = np.full((1, 1, 3), 170, dtype=np.uint8)
_Y_UP = (".glb", ".gltf", ".obj")
_LINEAR_COLORS = (".glb", ".gltf")  # formats whose colour factors and vertex colours are linear RGB


def default_up(path: Path) -> str:
    """Return the up axis by file suffix: "y" for glTF (by its specification) and OBJ (by convention), else "z"."""
    return "y" if path.suffix.lower() in _Y_UP else "z"


def mesh_shapes(path: Path, up: str | None = None) -> list[MeshShape]:
    """Read the meshes of a file, turn them upright, and centre and scale them together into the grid's cube.

    The bounding box is centred at the origin. Its longest side becomes 0.9, or less where a vertex would be further
    than 0.53 from the origin.

    Args:
        path: The mesh file.
        up: The file's up axis, "y" or "z"; None decides by the suffix, see :func:`default_up`.

    Raises:
        UserError: ``up`` is invalid, or the file cannot be read or has nothing to render.
    """
    up = up or default_up(path)
    if up not in ("y", "z"):
        raise UserError(f"source.up={up} must be y or z")
    scene = _read(path)
    shapes = [
        _shape(path, scene.geometry[geometry], np.asarray(to_world, dtype=np.float64), up)
        for to_world, geometry in (scene.graph[node] for node in sorted(scene.graph.nodes_geometry))
        if len(getattr(scene.geometry[geometry], "faces", ())) > 0
    ]
    shapes = [shape for shape in shapes if len(shape.faces) > 0]
    if not shapes:
        found = "only points or lines" if scene.geometry else "nothing"
        raise UserError(f"{path}: contains {found}, no faces; export it as a surface mesh and pass mesh.path=FILE")
    low = np.min([shape.vertices.min(0) for shape in shapes], axis=0)
    high = np.max([shape.vertices.max(0) for shape in shapes], axis=0)
    centre = (low + high) / 2
    radius = max(np.linalg.norm(shape.vertices - centre, axis=1).max() for shape in shapes)
    if not radius > 0:
        raise UserError(f"{path}: all vertices are at one point; pass another mesh.path=FILE")
    scale = min(LONGEST_SIDE / (high - low).max(), MAX_RADIUS / radius)
    return [replace(shape, vertices=(shape.vertices - centre) * scale) for shape in shapes]


def render_mesh(path: Path, name: str | None, output_dir: Path, settings: SyntheticSettings, up: str | None) -> None:
    """Render a mesh file into ``output_dir/{train,validation,test}/name``.

    Args:
        path: The mesh file.
        name: Name of the object; None takes the file's stem.
        output_dir: Folder of the data set.
        settings: Resolution, number of views and samples.
        up: See :func:`mesh_shapes`.

    Raises:
        UserError: The file cannot be rendered, or see :func:`dv.synthetic.render.render_object`.
    """
    if settings.shape is not None:
        raise UserError(f"source.shape={settings.shape} applies to source=synthetic only; remove it to render a mesh")
    shapes = mesh_shapes(path, up)
    files = [path, *(obj_files(path) if path.suffix.lower() == ".obj" else [])]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    mesh = {"mesh": path.name, "mesh_sha256": digest, "up": up or default_up(path)}
    render_object(name or path.stem, output_dir, settings, "mesh", mesh, lambda: shapes)


def _read(path: Path) -> Any:
    """Return the file as a ``trimesh.Scene``."""
    try:
        import trimesh
    except ImportError:
        raise UserError("reading a mesh needs trimesh: pip install 'dv[synthetic]'") from None
    if not path.is_file():
        raise UserError(f"{path}: no such mesh file; pass one with mesh.path=FILE.obj (or .ply, .glb, .stl)")
    try:
        if path.suffix.lower() == ".obj":
            return read_obj(path)
        return trimesh.load_scene(path, process=False)
    except UserError:
        raise
    except Exception as error:  # each of trimesh's loaders raises its own exceptions
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: cannot be read as a mesh ({reason}); convert it to .obj, .ply or .glb") from error


def _shape(path: Path, mesh: Any, to_world: Array, up: str) -> MeshShape:
    """Convert one mesh of the file to world axes, not yet scaled; faces do not share vertices."""
    faces = np.asarray(mesh.faces)
    if np.shape(mesh.vertices)[1:] != (3,):
        raise UserError(f"{path}: vertices must have three coordinates; export the mesh again")
    if faces.min() < 0 or faces.max() >= len(mesh.vertices):
        raise UserError(f"{path}: a face refers to a missing vertex; export the mesh again")
    if up == "y":
        to_world = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ to_world
    linear = to_world[:3, :3]
    vertices = np.asarray(mesh.vertices, dtype=np.float64) @ linear.T + to_world[:3, 3]
    if not np.isfinite(vertices[faces]).all():
        raise UserError(f"{path}: some vertices are not finite (NaN or infinite); repair the mesh and export it again")
    corners = vertices[faces]
    flip = np.linalg.det(linear) < 0
    order = [0, 2, 1] if flip else [0, 1, 2]  # mirroring would turn the mesh inside out
    crosses = np.cross(corners[:, order[1]] - corners[:, 0], corners[:, order[2]] - corners[:, 0])
    areas = np.linalg.norm(crosses, axis=1)
    kept = areas > 0
    faces, corners, crosses, areas = faces[kept], corners[kept], crosses[kept], areas[kept]
    if "vertex_normals" in mesh._cache:  # the file's normals; the property would compute new ones
        normals = (np.asarray(mesh.vertex_normals) @ np.linalg.pinv(linear))[faces]
        lengths = np.linalg.norm(normals, axis=2, keepdims=True)
        normals = np.where(
            lengths > 0, normals / np.where(lengths > 0, lengths, 1), (crosses / areas[:, None])[:, None]
        )
    else:
        normals = _creased_normals(corners, crosses, areas)
    uv, texture, colors = _appearance(mesh, faces, kept, path.suffix.lower() in _LINEAR_COLORS)
    return MeshShape(
        corners[:, order].reshape(-1, 3),
        normals[:, order].reshape(-1, 3),
        uv[:, order].reshape(-1, 2),
        np.arange(3 * len(faces), dtype=np.uint32).reshape(-1, 3),
        texture,
        None if colors is None else colors[:, order].reshape(-1, 3),
        repeat=True,
    )


def _creased_normals(corners: Array, crosses: Array, areas: Array) -> Array:
    """Return normals ``[M, 3, 3]`` of corners ``[M, 3, 3]``, smooth where faces differ by less than CREASE_ANGLE."""
    _, vertex = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    vertex = vertex.ravel()
    flat = (crosses / areas[:, None])[:, None]
    # Weighting by the faces' angles at the vertex makes normals independent of how polygons are triangulated.
    to_next, to_previous = (np.roll(corners, shift, axis=1) - corners for shift in (-1, 1))
    angles = np.arctan2(areas[:, None], (to_next * to_previous).sum(2))[..., None]
    weighted = (angles * flat).reshape(-1, 3)
    smooth = np.stack([np.bincount(vertex, weighted[:, axis]) for axis in range(3)], axis=1)
    smooth = smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-300)
    corner_normals = smooth[vertex].reshape(-1, 3, 3)
    is_smooth = (corner_normals * flat).sum(2, keepdims=True) > np.cos(np.radians(CREASE_ANGLE))
    return np.where(is_smooth, corner_normals, flat)


def _appearance(
    mesh: Any, faces: NDArray[np.int64], kept: NDArray[np.bool_], linear: bool
) -> tuple[Array, Texels, Texels | None]:
    """Return uv per corner ``[M, 3, 2]``, the texture, and colours per corner ``[M, 3, 3]`` or None.

    ``linear`` says that the file's colour factors and vertex colours are linear RGB.
    """

    def to_srgb(color: Any) -> Texels:
        rgb = np.asarray(color, dtype=np.float64)[..., :3] / 255
        return to_texels(linear_to_srgb(rgb) if linear else rgb)

    visual = mesh.visual
    no_uv = np.zeros((len(faces), 3, 2))
    if visual.kind == "vertex":
        return no_uv, _GREY, to_srgb(visual.vertex_colors)[faces]
    if visual.kind == "face":
        return no_uv, _GREY, np.repeat(to_srgb(visual.face_colors)[kept][:, None], 3, axis=1)
    if visual.kind != "texture" or visual.material is None:
        return no_uv, _GREY, None
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", None)
    if image is not None and visual.uv is not None:
        texture = np.array(image.convert("RGB"))
        if factor is not None and (np.asarray(factor)[:3] < 255).any():
            tinted = srgb_to_linear(texture / 255.0) * (np.asarray(factor, dtype=np.float64)[:3] / 255)
            texture = to_texels(linear_to_srgb(tinted))
        uv = np.asarray(visual.uv, dtype=np.float64)[faces] * [1, -1] + [0, 1]  # trimesh's v axis points up
        return np.where(np.isfinite(uv), uv, 0), texture, None
    colors = visual.vertex_attributes.get("color")
    if colors is not None:
        return no_uv, _GREY, to_srgb(colors)[faces]
    color = factor if hasattr(material, "baseColorFactor") else getattr(material, "diffuse", None)
    return no_uv, _GREY if color is None else to_srgb(color)[None, None], None
