"""Real spherical harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Evaluate real spherical harmonics.

    Up to the second degree they have no constant factors, above it those of Schmidt's semi-normalisation.

    Args:
        directions: unit vectors ``[R, 3]``.
        degree: 0 to 4.

    Returns:
        ``[R, (degree + 1)²]``.

    >>> spherical_harmonics(torch.tensor([[0.0, 0.0, 1.0]]), 2)
    tensor([[1., 0., 0., 1., 0., 0., 0., 0., 2.]])
    """
    x, y, z = directions.unbind(1)
    basis = [torch.ones_like(x)]
    if degree > 0:
        basis += [x, y, z]
    if degree > 1:
        xx, yy, zz, xy = x * x, y * y, z * z, x * y
        basis += [xy, y * z, x * z, xx - yy, 3 * zz - 1]
    if degree > 2:
        a, b, c = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15)
        basis += [a * y * (3 * xx - yy), c * xy * z, b * y * (5 * zz - 1), z * (5 * zz - 3) / 2]
        basis += [b * x * (5 * zz - 1), c / 2 * z * (xx - yy), a * x * (xx - 3 * yy)]
    if degree > 3:
        a, b, c, d = math.sqrt(35) / 2, math.sqrt(35 / 8), math.sqrt(5) / 2, math.sqrt(5 / 8)
        basis += [a * xy * (xx - yy), b * y * z * (3 * xx - yy), c * xy * (7 * zz - 1), d * y * z * (7 * zz - 3)]
        basis += [(zz * (35 * zz - 30) + 3) / 8, d * x * z * (7 * zz - 3), c / 2 * (xx - yy) * (7 * zz - 1)]
        basis += [b * x * z * (xx - 3 * yy), a / 4 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))]
    return torch.stack(basis, 1)
