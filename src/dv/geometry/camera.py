"""Pinhole cameras of square images: intrinsics, checks of poses, projection and rays through pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from kornia.geometry.conversions import denormalize_points_with_intrinsics
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, NDArray[np.float64])


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of a pinhole camera with square images.

    The centre of pixel (col, row) has the image coordinate (col + pixel_center, row + pixel_center) at every image
    side. With ``pixel_center`` 0 (the convention of the reference implementation), resized images are shifted against
    each other by a fraction of a pixel; with 0.5 they are aligned.

    Args:
        f: focal length, px.
        cx: column of the principal point, px.
        cy: row of the principal point, px.
        side: side of the image, px.
        pixel_center: image coordinate of the centre of the first pixel, px.
    """

    f: float
    cx: float
    cy: float
    side: float
    pixel_center: float = 0.0

    def at_side(self, side: int) -> Intrinsics:
        """Return the same camera for images resized to ``side`` pixels; f, cx and cy scale with the image.

        >>> Intrinsics(f=200.0, cx=64.0, cy=60.0, side=128).at_side(64)
        Intrinsics(f=100.0, cx=32.0, cy=30.0, side=64, pixel_center=0.0)
        """
        k = side / self.side
        return Intrinsics(self.f * k, self.cx * k, self.cy * k, side, self.pixel_center)

    def matrix(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """Return the camera matrix K ``[1, 3, 3]``, which maps camera axes to pixel indices (col, row)."""
        cx, cy = self.cx - self.pixel_center, self.cy - self.pixel_center
        return torch.tensor([[[self.f, 0, cx], [0, self.f, cy], [0, 0, 1]]], dtype=dtype, device=device)


def square_crop(f: float, cx: float, cy: float, height: int, width: int, pixel_center: float = 0.0) -> Intrinsics:
    """Return the intrinsics of the central square of an image of ``height × width`` px; the crop shifts cx and cy.

    >>> square_crop(f=500.0, cx=320.0, cy=240.0, height=480, width=640)
    Intrinsics(f=500.0, cx=240.0, cy=240.0, side=480, pixel_center=0.0)
    """
    side = min(height, width)
    return Intrinsics(f, cx - (width - side) // 2, cy - (height - side) // 2, side, pixel_center)


def rigid_defect(pose: Tensor, tolerance: float = 1e-3) -> str | None:
    """Say why ``pose`` is not a rigid camera-to-world transform.

    Args:
        pose: matrix, ``[4, 4]`` if it is valid.
        tolerance: maximum absolute error of the last row and of the orthonormality.

    Returns:
        The predicate of a sentence about the pose, or None if the pose is rigid.

    >>> rigid_defect(torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])))
    'is not a rigid transform: its 3×3 part is not a rotation (columns not orthonormal)'
    """
    if tuple(pose.shape) != (4, 4):
        return f"is {'×'.join(map(str, pose.shape))}, not 4×4"
    if not torch.isfinite(pose).all():
        return "has a value that is not finite"
    if (pose[3] - pose.new_tensor([0, 0, 0, 1])).abs().max() > tolerance:
        return "is not a rigid transform: its last row is not 0 0 0 1"
    rotation = pose[:3, :3]
    if (rotation @ rotation.T - torch.eye(3, dtype=pose.dtype)).abs().max() > tolerance:
        return "is not a rigid transform: its 3×3 part is not a rotation (columns not orthonormal)"
    if torch.linalg.det(rotation) < 0:
        return "is not a rigid transform: its 3×3 part is a reflection (determinant -1)"
    return None


def axis_cosines(poses: Tensor, others: Tensor) -> Tensor:
    """Return the cosines ``[N, M]`` between the optical axes of poses ``[N, 4, 4]`` and ``[M, 4, 4]``.

    >>> front, back = torch.eye(4), torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    >>> axis_cosines(front[None], torch.stack([front, back]))
    tensor([[ 1., -1.]])
    """
    return poses[:, :3, 2] @ others[:, :3, 2].T


def to_camera(poses: Array, points: Array) -> Array:
    """Transform world points into the axes of one or several cameras; tensors and NumPy arrays alike.

    Args:
        poses: camera-to-world ``[4, 4]`` or ``[V, 4, 4]``.
        points: world points ``[..., N, 3]``.

    Returns:
        Camera points ``[..., N, 3]``, or ``[V, N, 3]`` for several poses.

    >>> pose = torch.eye(4)
    >>> pose[2, 3] = -2.0  # the camera is at z = -2
    >>> to_camera(pose, torch.tensor([[0.0, 0.0, 1.0]]))
    tensor([[0., 0., 3.]])
    """
    # kornia's transform_points divides by homogeneous coordinates plus an ε, which shows at small scales
    return (points - poses[..., None, :3, 3]) @ poses[..., :3, :3]


def to_world(pose: Array, points: Array) -> Array:
    """Transform camera points ``[N, 3]`` into world axes, given the camera-to-world ``pose`` ``[4, 4]``.

    >>> pose = torch.eye(4)
    >>> pose[2, 3] = -2.0
    >>> to_world(pose, torch.tensor([[0.0, 0.0, 3.0]]))
    tensor([[0., 0., 1.]])
    """
    return points @ pose[:3, :3].T + pose[:3, 3]


def project(points: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Project camera points into the image.

    Args:
        points: camera points ``[..., N, 3]``.
        intrinsics: of the camera, at the side of the image.

    Returns:
        Pixel indices ``[..., N, 2]`` (col, row), where whole numbers are pixel centres; not finite where z is 0.

    >>> camera = Intrinsics(f=100.0, cx=32.0, cy=32.0, side=64, pixel_center=0.5)
    >>> project(torch.tensor([[0.0, 0.0, 2.0], [0.2, 0.0, 2.0]]), camera)
    tensor([[31.5000, 31.5000],
            [41.5000, 31.5000]])
    """
    matrix = intrinsics.matrix(points.dtype, points.device)
    pixels: Tensor = denormalize_points_with_intrinsics(points[..., :2] / points[..., 2:], matrix)
    return pixels


def pixel_rays(poses: Tensor, pixels: Tensor, intrinsics: Intrinsics) -> tuple[Tensor, Tensor]:
    """Return world rays through pixels, the inverse of :func:`project`.

    Args:
        poses: camera-to-world ``[R, 4, 4]``, one per ray.
        pixels: pixel indices ``[R, 2]`` (col, row) in an image of ``intrinsics.side`` px; whole numbers are pixel
            centres.
        intrinsics: shared by all poses.

    Returns:
        Origins and directions ``[R, 3]``. Directions have a camera z of 1, so ``origin + t * direction`` has depth t.

    >>> camera = Intrinsics(f=2.0, cx=1.0, cy=1.0, side=2, pixel_center=0.5)
    >>> origins, directions = pixel_rays(torch.eye(4).expand(4, 4, 4), pixel_grid(2), camera)
    >>> directions
    tensor([[-0.2500, -0.2500,  1.0000],
            [ 0.2500, -0.2500,  1.0000],
            [-0.2500,  0.2500,  1.0000],
            [ 0.2500,  0.2500,  1.0000]])
    """
    k = intrinsics
    column, row = pixels.to(poses.dtype).unbind(1)
    x, y = (column - (k.cx - k.pixel_center)) / k.f, (row - (k.cy - k.pixel_center)) / k.f
    axes = poses[:, :3, :3]
    return poses[:, :3, 3], axes[:, :, 0] * x[:, None] + axes[:, :, 1] * y[:, None] + axes[:, :, 2]


def pixel_grid(side: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the indices ``[side², 2]`` (col, row) of all pixels of a square image, row by row.

    >>> pixel_grid(2).tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    row, column = torch.meshgrid(torch.arange(side, device=device), torch.arange(side, device=device), indexing="ij")
    return torch.stack([column, row], -1).view(-1, 2)


def subpixel_offsets(count: int) -> Tensor:
    """Return sampling positions ``[count², 2]`` (col, row) for supersampling, in px from the centre of a pixel.

    They are the centres of the ``count × count`` squares that make up the pixel.

    >>> subpixel_offsets(2).tolist()
    [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]
    """
    return (pixel_grid(count) + 0.5) / count - 0.5
