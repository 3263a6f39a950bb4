"""The two operators between images and grid, as sparse matrices: lifting and frustum resampling.

Both are linear in what they sample and fixed once camera, sides and grid placement are known, so each is built once
as a table of neighbours and weights and then applied as a product. Index arithmetic is done in float64: a voxel that
projects onto a pixel border must fall on the same side whatever the precision of the features.
"""

from __future__ import annotations

import torch
from kornia.geometry.depth import depth_to_3d_v2
from torch import Tensor

from dv.geometry.camera import Intrinsics, project
from dv.geometry.grid import GridPlacement, to_camera, to_world
from dv.geometry.sparse import InterpolationMatrix


def lifting_matrix(
    pose: Tensor, intrinsics: Intrinsics, feature_side: int, placement: GridPlacement, grid_side: int
) -> InterpolationMatrix:
    """Matrix ``[G³, P²]`` that samples a feature map bilinearly at the projection of every voxel.

    Voxels whose pixel, rounded half to even, lies outside the map, or that are not in front of the camera, get 0.
    Neighbours beyond the border are clamped to it while the weights are kept.

    Args:
        pose: camera-to-world ``[4, 4]``.
        intrinsics: of the source view, at any side.
        feature_side: P, px.
        placement: of the grid in the world.
        grid_side: G, voxels.
    """
    pose = pose.double()
    points = to_camera(pose, placement.voxel_centers(grid_side).to(pose.device))
    pixels = project(points, intrinsics.at_side(feature_side))
    nearest = pixels.round()
    seen = (points[:, 2] > 0) & (nearest >= 0).all(1) & (nearest < feature_side).all(1)
    voxels = seen.nonzero().squeeze(1)
    low = pixels[voxels].floor()
    columns, weights = _neighbours(low.long(), pixels[voxels] - low, feature_side)
    return InterpolationMatrix(voxels, columns, weights, (grid_side**3, feature_side**2))


def resampling_matrix(
    pose: Tensor,
    intrinsics: Intrinsics,
    feature_side: int,
    placement: GridPlacement,
    grid_side: int,
    rim: int = 0,
) -> InterpolationMatrix:
    """Matrix ``[D·(P+2·rim)², G³]`` that samples the grid trilinearly along the rays of a target view.

    Frustum sample (k, row, col) lies on the ray of pixel (col, row) at camera depth ``near + k·v``. Samples outside
    ``[0, G)`` in grid coordinates get 0; an upper neighbour beyond the grid is clamped to ``G - 1``.
    Arguments as for :func:`lifting_matrix`; every outermost ray is repeated ``rim`` times outwards, as replication
    padding of the frustum would.
    """
    v, pose = placement.voxel_side(grid_side), pose.double()
    depth = placement.near + v * torch.arange(placement.frustum_depth(grid_side)).to(pose)
    plane = depth_to_3d_v2(
        torch.ones(1, feature_side, feature_side, dtype=torch.float64), intrinsics.at_side(feature_side).matrix()
    )[0].to(pose.device)
    rays = torch.arange(-rim, feature_side + rim).clamp(0, feature_side - 1)
    plane = plane[rays][:, rays].reshape(-1, 3)
    origin = torch.tensor(placement.origin, dtype=torch.float64).to(pose.device)
    depths, at = _near_the_grid(depth, plane, pose, origin, placement.scale / 2 + v)
    samples = to_world(pose, depth[depths, None] * plane[at])
    grid_coordinates = (samples - origin) / v + grid_side / 2
    inside = ((grid_coordinates >= 0) & (grid_coordinates < grid_side)).all(1).nonzero().squeeze(1)
    grid_coordinates = grid_coordinates[inside]
    low = grid_coordinates.floor()
    columns, weights = _neighbours(low.long(), grid_coordinates - low, grid_side)
    rows = (depths * len(plane) + at)[inside]
    return InterpolationMatrix(rows, columns, weights, (len(depth) * len(plane), grid_side**3))


def _near_the_grid(depth: Tensor, plane: Tensor, pose: Tensor, origin: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Indices (depth, ray) of the samples ``depth·plane`` that can lie within ``half`` of ``origin`` along each axis.

    Two thirds of a frustum usually do not. Rays are cut with the slabs of the three axes in fp32, which is why
    ``half`` wants a margin and an exact test must follow.
    """
    direction = (plane @ pose[:3, :3].T).float()
    start = (pose[:3, 3] - origin).float()
    ends = torch.stack([(-half - start) / direction, (half - start) / direction])
    enter, leave = ends.amin(0).nan_to_num(-torch.inf).amax(1), ends.amax(0).nan_to_num(torch.inf).amin(1)
    candidates = (depth.float()[:, None] >= enter) & (depth.float()[:, None] <= leave)
    depths, rays = candidates.nonzero().unbind(1)
    return depths, rays


def _neighbours(low: Tensor, fraction: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Flat indices and weights ``[N, 2^d]`` of the corners around N points; the first axis (x) is the fastest."""
    columns, weights = low.new_zeros(len(low), 1), fraction.new_ones(len(low), 1)
    for axis in range(low.shape[1]):
        corners = torch.stack([low[:, axis], low[:, axis] + 1], 1).clamp(0, side - 1) * side**axis
        weight = torch.stack([1 - fraction[:, axis], fraction[:, axis]], 1)
        columns = (columns[:, :, None] + corners[:, None]).flatten(1)
        weights = (weights[:, :, None] * weight[:, None]).flatten(1)
    return columns, weights
