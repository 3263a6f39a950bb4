"""Refinement of inexact cameras together with what they see."""

from __future__ import annotations

import torch
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch import Tensor, nn


class CameraRefinement(nn.Module):
    """Corrections of poses, and of one focal length for all views, which start at none.

    A pose is corrected by a rotation vector in world axes, rad, about the centre of its camera, and by a shift of that
    centre, in ``unit``. Corrections that move all cameras by one rotation, shift and scaling change nothing visible:
    :meth:`keep_world` removes them, since the cameras of other splits do not move along.

    Args:
        poses: camera-to-world ``[V, 4, 4]``.
        unit: length in world units that is comparable with 1 rad, such as the side of the box.
        focal_length: whether the focal length is corrected too.

    >>> refinement = CameraRefinement(torch.eye(4).repeat(3, 1, 1), unit=2.0)
    >>> refinement.shift.data[0, 0] = 0.1
    >>> refinement(torch.eye(4)[None], torch.tensor([0]))[0, :3, 3]
    tensor([0.2000, 0.0000, 0.0000], grad_fn=<SelectBackward0>)
    """

    generators: Tensor

    def __init__(self, poses: Tensor, unit: float, focal_length: bool = False) -> None:
        super().__init__()
        self.unit = unit
        self.rotation = nn.Parameter(torch.zeros(len(poses), 3))
        self.shift = nn.Parameter(torch.zeros(len(poses), 3))
        self.log_focal = nn.Parameter(torch.zeros(())) if focal_length else None
        self.register_buffer("generators", _similarities(poses, unit), persistent=False)

    def forward(self, poses: Tensor, view: Tensor) -> Tensor:
        """Correct poses ``[P, 4, 4]`` of the views ``[P]``."""
        rotation: Tensor = axis_angle_to_rotation_matrix(self.rotation)[view].to(poses.dtype)
        centers = poses[:, :3, 3:] + self.unit * self.shift[view, :, None].to(poses.dtype)
        return torch.cat([torch.cat([rotation @ poses[:, :3, :3], centers], 2), poses[:, 3:]], 1)

    @torch.no_grad()
    def keep_world(self) -> None:
        """Remove the part of the corrections that moves the whole world."""
        flat = torch.cat([self.rotation, self.shift], 1).flatten().double()
        flat -= self.generators @ (self.generators.T @ flat)
        left: Tensor = flat.view(-1, 6).to(self.rotation.dtype)
        self.rotation.copy_(left[:, :3])
        self.shift.copy_(left[:, 3:])

    @property
    def angles(self) -> Tensor:
        """Angles of the rotations ``[V]``, degrees."""
        angles: Tensor = torch.linalg.vector_norm(self.rotation.detach(), dim=1)
        return angles.rad2deg()


def _similarities(poses: Tensor, unit: float) -> Tensor:
    """Orthonormal basis ``[6 · V, D]`` of the corrections that a rotation, a shift and a scaling of the world make."""
    centers = (poses[:, :3, 3] - poses[:, :3, 3].mean(0)).double() / unit
    moves = []
    for axis in torch.eye(3, dtype=torch.float64, device=poses.device):
        turned = axis.expand_as(centers)
        moves.append(torch.cat([turned, torch.linalg.cross(turned, centers)], 1))
        moves.append(torch.cat([torch.zeros_like(centers), turned], 1))
    moves.append(torch.cat([torch.zeros_like(centers), centers], 1))
    basis, sizes, _ = torch.linalg.svd(torch.stack([move.flatten() for move in moves], 1), full_matrices=False)
    independent: Tensor = basis[:, sizes > 1e-6 * sizes[0]]
    return independent
