"""A triangle mesh of the surfaces of a radiance grid, by fusion of rendered depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from kornia.color import rgb_to_linear_rgb
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor
from tqdm import tqdm

from dv.errors import UserError
from dv.export.surface import Surface, along_normals, with_pixels_per_vertex
from dv.geometry.camera import Intrinsics, project, to_camera
from dv.geometry.depth_maps import depth_normals
from dv.radiance import RadianceGrid

if TYPE_CHECKING:
    import trimesh

TRUNCATION = 3.0  # voxels, from a surface to the end of its signed distances
BEHIND = -1.0  # relative to it: farther behind a surface, points are hidden from a view
MIN_VIEWS = 0.01  # fraction of the views that must see a voxel, each weighted by the cosine
SEEN_WITHIN = 2.0  # voxels, of the depth of a view that sees a vertex; with 1, surfaces seen at an angle get holes
MIN_PIECE = 0.01  # area of the smallest piece, of that of the largest one
PIXELS_PER_VOXEL = 3.5  # of depth maps at the box's centre: depth is lost on what is thinner than about 4 px
MAX_SIDE = 768  # px, of depth maps
MAX_PIXELS = 1 << 27  # of the depth maps of all views, 8 bytes each
MIN_COSINE = 0.1  # between a normal and a ray, for depth to count


def extract_mesh(
    surface: Surface, poses: Tensor, cameras: Sequence[Intrinsics], faces: int | None, pieces: int | None = 1
) -> trimesh.Trimesh:
    """Return the surface in the box as a mesh with vertex colours (sRGB, seen along the normals).

    The depth of every view is fused into signed distances to the surface, truncated and averaged, on a cubic grid with
    the spacing of the model's vertices (Curless and Levoy 1996); marching cubes finds where they are zero.

    Args:
        surface: the visible surface of a grid on the CPU, near which distances are needed.
        poses: camera-to-world ``[V, 4, 4]``.
        cameras: of the views.
        faces: triangles that are left after decimation; None: all.
        pieces: number of connected pieces that are kept, the largest ones; None: all that are not far smaller.

    Raises:
        UserError: if the optional packages are missing, or no surface is in the box.
    """
    try:
        import trimesh
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise UserError(f"format=mesh needs {error.name}: pip install 'dv[mesh]'") from error
    model, side = surface.model, surface.model.voxels.side
    spacing = model.placement.scale / (side - 1)
    corner = torch.tensor(model.placement.origin) - model.placement.scale / 2
    near = _voxels_near(surface, corner, spacing, side)
    views = depth_views(model, poses, cameras)
    distances = fuse_depth(views, corner + near.flip(1) * spacing, TRUNCATION * spacing)
    volume = torch.full((side,) * 3, torch.nan)
    volume[near.unbind(1)] = distances.float()
    known = ~volume.isnan()
    inner = volume[known]
    if not len(inner) or not (inner.min() < 0 < inner.max()):
        raise UserError("no surface is in the box")
    cubes = -F.max_pool3d(-F.pad(known[None].float(), (0, 1) * 3), 2, 1)[0] > 0  # all corners of which are known
    filled = torch.where(known, volume, 1.0).numpy()
    vertices, triangles, *_ = marching_cubes(filled, 0.0, mask=cubes.numpy(), allow_degenerate=False)
    mesh = trimesh.Trimesh(vertices[:, ::-1] * spacing + corner.numpy(), triangles[:, ::-1], process=True)
    mesh = largest_pieces(mesh, pieces)  # first: what no view sees may connect what views see
    mesh = without_unseen(mesh, views, SEEN_WITHIN * spacing)
    if faces is not None and len(mesh.faces) > faces:
        mesh = mesh.simplify_quadric_decimation(face_count=faces)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=_colors(model, mesh, spacing))
    return mesh


class DepthView(NamedTuple):
    """A rendered view: its pose ``[4, 4]`` and camera, and depth and cosines of rays and normals ``[2, H, W]``."""

    pose: Tensor
    camera: Intrinsics
    maps: Tensor

    def sample(self, in_camera: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate the maps ``[2, N]`` where points ``[N, 3]`` in camera axes lie; and whether they are in view."""
        pixels = project(in_camera, self.camera)
        size = torch.tensor([self.camera.width, self.camera.height])
        inside = (in_camera[:, 2] > 0) & (pixels > 0).all(1) & (pixels < size - 1).all(1)
        at = ((2 * pixels + 1) / size - 1)[None, None].clamp(-2, 2)
        return F.grid_sample(self.maps[None].double(), at, align_corners=False)[0, :, 0], inside


def depth_views(model: RadianceGrid, poses: Tensor, cameras: Sequence[Intrinsics]) -> list[DepthView]:
    """Render the depth of views with :data:`PIXELS_PER_VOXEL` at the centre of the box, as far as the limits allow.

    Args:
        model: the grid.
        poses: camera-to-world ``[V, 4, 4]``.
        cameras: of the views.
    """
    views, max_side = [], min(MAX_SIDE, math.sqrt(MAX_PIXELS / len(poses)))
    for pose, camera in tqdm(zip(poses, cameras, strict=True), "rendering depth", len(poses), unit="view", leave=False):
        camera = with_pixels_per_vertex(model, pose, camera, PIXELS_PER_VOXEL, max_side)
        depth = model.render(pose, camera).depth
        assert depth is not None
        camera = model.corrected(camera)
        normals, rays = depth_normals(depth[0], camera)
        cosines = (normals * rays).sum(0, keepdim=True).abs()  # almost 0 at edges
        views.append(DepthView(pose.double(), camera, torch.cat([depth, cosines])))
    return views


def fuse_depth(views: Sequence[DepthView], points: Tensor, truncation: float) -> Tensor:
    """Average the signed distances of points to the surfaces that views see in front of them.

    Args:
        views: with the depth of the surfaces.
        points: ``[N, 3]``, world units.
        truncation: largest distance, world units.

    Returns:
        Distances ``[N]`` relative to the truncation, positive outside; NaN where fewer than :data:`MIN_VIEWS` of the
        views count.
    """
    sums, weights = torch.zeros(2, len(points), dtype=torch.float64)
    for view in tqdm(views, "fusing depth", unit="view", leave=False):
        in_camera = to_camera(view.pose, points)
        z = in_camera[:, 2]
        (seen, cosine), inside = view.sample(in_camera)
        # the distance to the plane through the surface, not along the ray
        distance = (seen - z) * in_camera.norm(dim=1) / z.clamp_min(1e-9) * cosine / truncation
        counts = inside & (distance > BEHIND) & (cosine > MIN_COSINE)
        weight = torch.where(counts, cosine, 0.0)
        sums += weight * distance.clamp_max(1)
        weights += weight
    return torch.where(weights >= MIN_VIEWS * len(views), sums / weights, torch.nan)


def without_unseen(mesh: trimesh.Trimesh, views: Sequence[DepthView], tolerance: float) -> trimesh.Trimesh:
    """Return the faces whose vertices all lie, facing a view, within a ``tolerance`` of its depth, world units.

    What no view sees, such as the underside, is only where fused distances happen to change their sign.

    Raises:
        UserError: if no faces are left.
    """
    vertices = torch.from_numpy(np.array(mesh.vertices, np.float64))
    normals = torch.from_numpy(np.array(mesh.vertex_normals, np.float64))
    seen = torch.zeros(len(vertices), dtype=torch.bool)
    for view in tqdm(views, "finding what views see", unit="view", leave=False):
        in_camera = to_camera(view.pose, vertices)
        (depth, _), inside = view.sample(in_camera)
        faces_camera = ((view.pose[:3, 3] - vertices) * normals).sum(1) > 0
        seen |= inside & faces_camera & ((depth - in_camera[:, 2]).abs() < tolerance)
    kept = seen.numpy()[mesh.faces].all(1)
    if not kept.any():
        raise UserError("no view sees a surface in the box")
    rest: trimesh.Trimesh = mesh.submesh([kept.nonzero()[0]], append=True)
    return rest


def _voxels_near(surface: Surface, corner: Tensor, spacing: float, side: int) -> Tensor:
    """Return the indices ``[N, 3]`` (z, y, x) of the voxels within the truncation of a surface in the box."""
    reach = math.ceil(TRUNCATION) + 1
    cells = ((surface.positions - corner) / spacing).round().long()
    cells = cells[((cells >= 0) & (cells < side)).all(1)].flip(1)
    near = torch.zeros(1, 1, side, side, side)
    near[0, 0, cells[:, 0], cells[:, 1], cells[:, 2]] = 1
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * reach + 1, reach
        near = F.max_pool3d(near, kernel, 1, padding)
    return near[0, 0].nonzero()


def largest_pieces(mesh: trimesh.Trimesh, count: int | None) -> trimesh.Trimesh:
    """Return the connected pieces with the largest areas; without a count those above :data:`MIN_PIECE`."""
    from trimesh.graph import connected_component_labels

    labels = connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    areas = np.bincount(labels, weights=mesh.area_faces)
    kept = areas.argsort()[::-1][:count] if count else (areas >= MIN_PIECE * areas.max()).nonzero()[0]
    rest: trimesh.Trimesh = mesh.submesh([np.isin(labels, kept).nonzero()[0]], append=True)
    return rest


def _colors(model: RadianceGrid, mesh: trimesh.Trimesh, spacing: float) -> Any:
    """Return RGBA uint8 ``[N, 4]`` of the vertices."""
    positions = torch.from_numpy(np.array(mesh.vertices, np.float64))
    normals = F.normalize(torch.from_numpy(np.array(mesh.vertex_normals, np.float32)), dim=1)
    surface, _ = along_normals(model, positions, normals, torch.full((len(positions),), spacing))
    return (F.pad(surface.frontal_colors(), (0, 1), value=1.0) * 255).round().byte().numpy()


def write_mesh(mesh: trimesh.Trimesh, path: Path, up: Tensor) -> None:
    """Write ``<path>.ply`` in world axes with sRGB colours, and ``<path>.glb``.

    glTF has y up and linear colours: the second file is turned such that ``up`` ``[3]`` becomes y, and is unlit, since
    the colours hold the light that fell on the object.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb

    mesh.export(path.with_name(f"{path.name}.ply"))
    turned = mesh.copy()
    turned.apply_transform(_to_y(up))
    colors = torch.from_numpy(np.array(mesh.visual.vertex_colors[:, :3], np.float32) / 255)
    linear = rgb_to_linear_rgb(colors.T[None, :, :, None])[0, :, :, 0].T.contiguous().numpy()
    plain = trimesh.Trimesh(turned.vertices, turned.faces, vertex_normals=turned.vertex_normals, process=False)
    plain.vertex_attributes["COLOR_0"] = linear

    def unlit(tree: dict[str, Any]) -> None:
        tree["extensionsUsed"] = ["KHR_materials_unlit"]
        tree["materials"] = [{"extensions": {"KHR_materials_unlit": {}}, "doubleSided": True}]
        for primitive in (p for m in tree["meshes"] for p in m["primitives"]):
            primitive["material"] = 0
            primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_COLOR_0")

    glb = export_glb(plain, include_normals=True, tree_postprocessor=unlit)
    path.with_name(f"{path.name}.glb").write_bytes(glb)


def _to_y(up: Tensor) -> Any:
    """Return the smallest rotation ``[4, 4]`` that turns a direction to +y; z to +y leaves x as it is."""
    up = F.normalize(up.double(), dim=0)
    y = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    axis = torch.linalg.cross(up, y)
    if axis.norm() < 1e-9:  # up is y or -y
        axis = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    angle = torch.atan2(torch.linalg.cross(up, y).norm(), up @ y)
    matrix = np.eye(4)
    matrix[:3, :3] = axis_angle_to_rotation_matrix((angle * F.normalize(axis, dim=0))[None])[0].numpy()
    return matrix
