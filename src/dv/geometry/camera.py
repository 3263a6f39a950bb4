"""Pinhole cameras: intrinsics, checks of poses, projection and rays through pixels."""

from __future__ import annotations

import math
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from kornia.geometry.conversions import denormalize_points_with_intrinsics
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, NDArray[np.float64])


class Intrinsics(NamedTuple):
    """Intrinsics of a pinhole camera. A named tuple, which Lightning moves to devices together with a view.

    The centre of pixel (col, row) has the image coordinate (col + pixel_center, row + pixel_center) at every image
    size. With ``pixel_center`` 0 (the convention of the reference implementation), resized images are shifted against
    each other by a fraction of a pixel; with 0.5 they are aligned.

    Args:
        fx: horizontal focal length, px.
        fy: vertical focal length, px.
        cx: column of the principal point, px.
        cy: row of the principal point, px.
        width: of the image, px.
        height: of the image, px.
        pixel_center: image coordinate of the centre of the first pixel, px.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    pixel_center: float = 0.0

    @classmethod
    def square(cls, f: float, cx: float, cy: float, side: int, pixel_center: float = 0.0) -> Self:
        """Return the intrinsics of a camera with square pixels and square images of ``side`` px."""
        return cls(f, f, cx, cy, side, side, pixel_center)

    def resized(self, width: int, height: int) -> Intrinsics:
        """Return the same camera for images resized to ``width × height`` px; fx and cx, fy and cy scale with them.

        >>> Intrinsics(200.0, 210.0, 64.0, 60.0, 128, 120).resized(64, 30)
        Intrinsics(fx=100.0, fy=52.5, cx=32.0, cy=15.0, width=64, height=30, pixel_center=0.0)
        """
        x, y = width / self.width, height / self.height
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y, width, height, self.pixel_center)

    @property
    def vertical_fov(self) -> float:
        """Vertical field of view, rad, of a camera whose principal point lies in the middle of the image."""
        return 2 * math.atan(self.height / 2 / self.fy)

    def fitted(self, width: int, height: int) -> Intrinsics:
        """Return a camera of ``width × height`` px that sees all that this one sees, and more along one side.

        >>> Intrinsics(100.0, 100.0, 32.0, 32.0, width=64, height=64).fitted(192, 128)
        Intrinsics(fx=200.0, fy=200.0, cx=96.0, cy=64.0, width=192, height=128, pixel_center=0.0)
        """
        k = min(width / self.width, height / self.height)
        cx, cy = self.cx * k + (width - k * self.width) / 2, self.cy * k + (height - k * self.height) / 2
        return Intrinsics(self.fx * k, self.fy * k, cx, cy, width, height, self.pixel_center)

    def at_side(self, side: int) -> Intrinsics:
        """Return the same camera, whose images are square, for images resized to ``side`` pixels.

        Raises:
            ValueError: if the images are not square.
        """
        if self.width != self.height:
            raise ValueError(f"images of {self.width}×{self.height} px are not square")
        return self.resized(side, side)

    def central_square(self) -> Intrinsics:
        """Return the intrinsics of the central square of the image; the crop shifts cx and cy.

        >>> Intrinsics(500.0, 500.0, 320.0, 240.0, width=640, height=480).central_square()
        Intrinsics(fx=500.0, fy=500.0, cx=240.0, cy=240.0, width=480, height=480, pixel_center=0.0)
        """
        side = min(self.width, self.height)
        left, top = (self.width - side) // 2, (self.height - side) // 2
        return Intrinsics(self.fx, self.fy, self.cx - left, self.cy - top, side, side, self.pixel_center)

    def numbers(self) -> tuple[float, float, float, float]:
        """Return fx, fy and the pixel indices (col, row) of the principal point."""
        return self.fx, self.fy, self.cx - self.pixel_center, self.cy - self.pixel_center

    def matrix(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """Return the camera matrix K ``[1, 3, 3]``, which maps camera axes to pixel indices (col, row)."""
        fx, fy, cx, cy = self.numbers()
        return torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]], dtype=dtype, device=device)


def rigid_defect(pose: Tensor, tolerance: float = 1e-3) -> str | None:
    """Say why ``pose`` is not a rigid camera-to-world transform.

    Args:
        pose: matrix, ``[4, 4]`` if it is valid.
        tolerance: maximum absolute error of the last row and of the orthonormality.

    Returns:
        The predicate of a sentence about the pose, or None if the pose is rigid.

    >>> rigid_defect(torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    'is not a rigid transform: its 3×3 part is a rotation scaled by 2'
    >>> rigid_defect(torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
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
        scale = torch.linalg.det(rotation).abs() ** (1 / 3)
        if (rotation @ rotation.T / scale**2 - torch.eye(3, dtype=pose.dtype)).abs().max() <= tolerance:
            return f"is not a rigid transform: its 3×3 part is a rotation scaled by {scale:.4g}"
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
        intrinsics: of the camera, at the size of the image.

    Returns:
        Pixel indices ``[..., N, 2]`` (col, row), where whole numbers are pixel centres; not finite where z is 0.

    >>> camera = Intrinsics.square(100.0, 32.0, 32.0, 64, pixel_center=0.5)
    >>> project(torch.tensor([[0.0, 0.0, 2.0], [0.2, 0.0, 2.0]]), camera)
    tensor([[31.5000, 31.5000],
            [41.5000, 31.5000]])
    """
    matrix = intrinsics.matrix(points.dtype, points.device)
    pixels: Tensor = denormalize_points_with_intrinsics(points[..., :2] / points[..., 2:], matrix)
    return pixels


def pixel_rays(poses: Tensor, pixels: Tensor, intrinsics: Intrinsics | Tensor) -> tuple[Tensor, Tensor]:
    """Return world rays through pixels, the inverse of :func:`project`.

    Args:
        poses: camera-to-world ``[R, 4, 4]``, one per ray.
        pixels: pixel indices ``[R, 2]`` (col, row); whole numbers are pixel centres.
        intrinsics: shared by all rays, or those of each ray, ``[R, 4]`` as in :meth:`Intrinsics.numbers`.

    Returns:
        Origins and directions ``[R, 3]``. Directions have a camera z of 1, so ``origin + t * direction`` has depth t.

    >>> camera = Intrinsics.square(2.0, 1.0, 1.0, 2, pixel_center=0.5)
    >>> origins, directions = pixel_rays(torch.eye(4).expand(4, 4, 4), pixel_grid(2), camera)
    >>> directions
    tensor([[-0.2500, -0.2500,  1.0000],
            [ 0.2500, -0.2500,  1.0000],
            [-0.2500,  0.2500,  1.0000],
            [ 0.2500,  0.2500,  1.0000]])
    """
    column, row = pixels.to(poses.dtype).unbind(1)
    fx, fy, cx, cy = (
        intrinsics.numbers() if isinstance(intrinsics, Intrinsics) else intrinsics.to(poses.dtype).unbind(1)
    )
    x, y = (column - cx) / fx, (row - cy) / fy
    axes = poses[:, :3, :3]
    return poses[:, :3, 3], axes[:, :, 0] * x[:, None] + axes[:, :, 1] * y[:, None] + axes[:, :, 2]


def subpixel_rays(
    poses: Tensor, pixels: Tensor, intrinsics: Intrinsics | Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return several world rays through each pixel; those of a pixel follow each other.

    Args:
        poses: camera-to-world ``[P, 4, 4]``, of each pixel's view.
        pixels: pixel indices ``[P, 2]`` (col, row).
        intrinsics: shared by all pixels, or those of each pixel, ``[P, 4]``.
        offsets: places of S rays in a pixel ``[S, 2]`` (col, row), px from its centre, or in each pixel ``[P, S, 2]``.

    Returns:
        Origins and directions ``[P·S, 3]``, as of :func:`pixel_rays`.
    """
    count, points = offsets.shape[-2], (pixels[:, None] + offsets).view(-1, 2)
    if isinstance(intrinsics, Tensor):
        intrinsics = intrinsics.repeat_interleave(count, 0)
    return pixel_rays(poses.repeat_interleave(count, 0), points, intrinsics)


def pixel_grid(width: int, height: int | None = None, device: torch.device | str = "cpu") -> Tensor:
    """Return the indices ``[width · height, 2]`` (col, row) of all pixels of an image, row by row; square by default.

    >>> pixel_grid(3, 2).tolist()
    [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    """
    rows, columns = torch.arange(height or width, device=device), torch.arange(width, device=device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([column, row], -1).view(-1, 2)


def subpixel_offsets(count: int) -> Tensor:
    """Return sampling positions ``[count², 2]`` (col, row) for supersampling, in px from the centre of a pixel.

    They are the centres of the ``count × count`` squares that make up the pixel.

    >>> subpixel_offsets(2).tolist()
    [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]
    """
    return (pixel_grid(count) + 0.5) / count - 0.5


def rotated_offsets(count: int) -> Tensor:
    """Return two patterns ``[2, count², 2]`` (col, row) for supersampling, in px from the centre of a pixel.

    Each ray has a column and a row of its own among count², so that edges along columns or rows cover as many
    different fractions of a pixel (rotated grid supersampling). The second pattern is the mirror image of the first.

    >>> rotated_offsets(2)[0].tolist()
    [[-0.375, -0.125], [-0.125, 0.375], [0.125, -0.375], [0.375, 0.125]]
    """
    rank = torch.arange(count**2)
    column, row = rank, (rank % count + 1) * count - 1 - rank // count
    points = (torch.stack([column, row], 1) + 0.5) / count**2 - 0.5
    return torch.stack([points, points * points.new_tensor([-1.0, 1.0])])
