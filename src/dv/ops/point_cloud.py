"""A voxel grid of features as a coloured point cloud."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_FRACTION = 0.1  # of the voxels


def strongest_voxels(grid: Tensor, positions: Tensor, max_points: int) -> tuple[Tensor, Tensor]:
    """Return the voxels of the largest feature norm as a point cloud.

    Red, green and blue are the first three principal components of the features, each scaled from its 2nd to its 98th
    percentile.

    Args:
        grid: ``[1, F, G, G, G]``.
        positions: of the voxels ``[G³, 3]``, in tensor order.
        max_points: the number of points is at most this and a tenth of the voxels; voxels of zeros are left out.

    Returns:
        Positions and colors in [0, 1], ``[N, 3]`` each, float32 on the CPU.

    >>> grid = torch.zeros(1, 2, 4, 4, 4)
    >>> grid[0, :, 1, 2, 3] = 1.0
    >>> strongest_voxels(grid, torch.arange(64.0)[:, None].expand(-1, 3), 10)[0]
    tensor([[27., 27., 27.]])
    """
    voxels = grid.detach()[0].flatten(1)
    norms = voxels.float().norm(dim=0)
    count = min(max_points, max(1, int(MAX_FRACTION * len(norms))), int(norms.count_nonzero()))
    chosen = norms.topk(count).indices
    points = positions[chosen.cpu()].float()
    colors = torch.full((count, 3), 0.5)
    if count < 3:
        return points, colors
    features = voxels[:, chosen].T.double().cpu()
    centered = features - features.mean(0)
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors.flip(1)[:, :3]  # largest variance first
    axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)  # eigenvectors have no sign: keep colors from flickering
    components = centered @ axes
    low, high = components.quantile(torch.tensor([0.02, 0.98], dtype=components.dtype), dim=0)
    colors[:, : components.shape[1]] = ((components - low) / (high - low).clamp_min(1e-9)).clamp(0, 1).float()
    return points, colors
