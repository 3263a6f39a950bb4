"""Lifting of image features into the grid and resampling of the grid into view frustums, as sparse matrices.

Both operators are linear in the features and depend only on camera, sizes and grid placement, so each is built once
from the neighbours and weights of its samples and then applied as a matrix product. Positions are computed in float64,
so that a voxel that projects onto a pixel border falls on the same side whatever the precision of the features.
"""

from __future__ import annotations

import torch
from kornia.geometry.depth import depth_to_3d_v2
from torch import Tensor

from dv.geometry.camera import Intrinsics, project, to_camera, to_world
from dv.geometry.grid import GridPlacement
from dv.geometry.sparse import InterpolationMatrix


def lifting_matrix(
    pose: Tensor, intrinsics: Intrinsics, feature_side: int, placement: GridPlacement, grid_side: int
) -> InterpolationMatrix:
    """Build the matrix that samples a feature map bilinearly at the projection of every voxel.

    A voxel gets 0 if it is not in front of the camera or if its pixel, rounded half to even, lies outside the map.
    Neighbours beyond the border of the map are clamped to it and keep their weights.

    Args:
        pose: camera-to-world ``[4, 4]`` of the source view.
        intrinsics: of the source view, of square images of any side.
        feature_side: P, px.
        placement: of the grid in the world.
        grid_side: G, voxels.

    Returns:
        Matrix ``[G³, P²]``, applied to features ``[P², C]`` in row-major pixel order.

    >>> from dv.geometry.camera import pixel_grid
    >>> camera = Intrinsics.square(8.0, 4.0, 4.0, 8)
    >>> placement = GridPlacement((0.0, 0.0, 2.0), scale=1.0, near=1.0)
    >>> matrix = lifting_matrix(torch.eye(4), camera, 8, placement, grid_side=4)
    >>> matrix.shape
    (64, 64)
    >>> (matrix @ pixel_grid(8).double())[40:42]  # pixels (col, row) of the voxels at (-0.5, 0, 2) and (-0.25, 0, 2)
    tensor([[2., 4.],
            [3., 4.]], dtype=torch.float64)
    """
    pose = pose.double()
    points = to_camera(pose, placement.voxel_centers(grid_side).to(pose.device))
    pixels = project(points, intrinsics.at_side(feature_side))
    nearest = pixels.round()
    visible = (points[:, 2] > 0) & (nearest >= 0).all(1) & (nearest < feature_side).all(1)
    voxels = visible.nonzero().squeeze(1)
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
    """Build the matrix that samples the grid trilinearly along the rays of a target view.

    Frustum sample (k, row, col) lies on the ray of pixel (col, row) at depth ``near + k·v``. It gets 0 if its grid
    coordinates are outside ``[0, G)``; an upper neighbour beyond the grid is clamped to ``G - 1``.

    Args:
        pose: camera-to-world ``[4, 4]`` of the target view.
        intrinsics: of the target view, of square images of any side.
        feature_side: P, px.
        placement: of the grid in the world.
        grid_side: G, voxels.
        rim: number of times that the outermost rays are repeated outwards, as replication padding of the frustum would.

    Returns:
        Matrix ``[D·(P+2·rim)², G³]``, applied to features ``[G³, C]`` in the order of a grid tensor.

    >>> camera = Intrinsics.square(8.0, 4.0, 4.0, 8)
    >>> placement = GridPlacement((0.0, 0.0, 2.0), scale=1.0, near=1.0)
    >>> matrix = resampling_matrix(torch.eye(4), camera, 8, placement, grid_side=4)
    >>> matrix.shape
    (512, 64)
    >>> frustum = (matrix @ placement.voxel_centers(4)).view(8, 8, 8, 3)
    >>> frustum[3, 4, 2]  # the position on the ray of column 2 and row 4 at depth 1 + 3 · 0.25
    tensor([-0.4375,  0.0000,  1.7500], dtype=torch.float64)
    """
    v, pose = placement.voxel_side(grid_side), pose.double()
    depths = placement.near + v * torch.arange(placement.frustum_depth(grid_side)).to(pose)
    rays = depth_to_3d_v2(  # [P, P, 3], in camera axes with z = 1
        torch.ones(1, feature_side, feature_side, dtype=torch.float64), intrinsics.at_side(feature_side).matrix()
    )[0].to(pose.device)
    padded = torch.arange(-rim, feature_side + rim).clamp(0, feature_side - 1)
    rays = rays[padded][:, padded].reshape(-1, 3)
    origin = torch.tensor(placement.origin, dtype=torch.float64).to(pose.device)
    plane_index, ray_index = _samples_near_grid(depths, rays, pose, origin, placement.scale / 2 + v)
    samples = to_world(pose, depths[plane_index, None] * rays[ray_index])
    grid_coordinates = (samples - origin) / v + grid_side / 2
    inside = ((grid_coordinates >= 0) & (grid_coordinates < grid_side)).all(1).nonzero().squeeze(1)
    grid_coordinates = grid_coordinates[inside]
    low = grid_coordinates.floor()
    columns, weights = _neighbours(low.long(), grid_coordinates - low, grid_side)
    rows = (plane_index * len(rays) + ray_index)[inside]
    return InterpolationMatrix(rows, columns, weights, (len(depths) * len(rays), grid_side**3))


def _samples_near_grid(
    depths: Tensor, rays: Tensor, pose: Tensor, origin: Tensor, half_side: float
) -> tuple[Tensor, Tensor]:
    """Return depth and ray indices of the samples that can lie in the cube of ``half_side`` around ``origin``.

    This skips about two thirds of a frustum cheaply. The slab test (rays against the planes that bound the cube along
    each axis) is done in fp32, so ``half_side`` needs a margin and an exact test must follow.
    """
    direction = (rays @ pose[:3, :3].T).float()
    start = (pose[:3, 3] - origin).float()
    ends = torch.stack([(-half_side - start) / direction, (half_side - start) / direction])
    enter, leave = ends.amin(0).nan_to_num(-torch.inf).amax(1), ends.amax(0).nan_to_num(torch.inf).amin(1)
    candidates = (depths.float()[:, None] >= enter) & (depths.float()[:, None] <= leave)
    plane_index, ray_index = candidates.nonzero().unbind(1)
    return plane_index, ray_index


def _neighbours(low: Tensor, fraction: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return flat indices and weights ``[N, 2^d]`` of the lattice points around N points; the first axis is fastest."""
    columns, weights = low.new_zeros(len(low), 1), fraction.new_ones(len(low), 1)
    for axis in range(low.shape[1]):
        corners = torch.stack([low[:, axis], low[:, axis] + 1], 1).clamp(0, side - 1) * side**axis
        weight = torch.stack([1 - fraction[:, axis], fraction[:, axis]], 1)
        columns = (columns[:, :, None] + corners[:, None]).flatten(1)
        weights = (weights[:, :, None] * weight[:, None]).flatten(1)
    return columns, weights
