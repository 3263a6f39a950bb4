"""A radiance grid as Gaussian splats, in the PLY layout of 3D Gaussian Splatting."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from kornia.geometry.conversions import rotation_matrix_to_quaternion
from torch import Tensor
from tqdm import tqdm

from dv.export.surface import Surface

C0 = 0.28209479177387814  # the first spherical harmonic
DEGREE = 2  # of the view-dependent colour
DIRECTIONS = 48  # from which colours are fitted
ACROSS, ALONG = 0.35, 0.05  # standard deviations of a splat in its surface and along the normal, in vertices
RIDGE = 0.05  # keeps the harmonics of directions that are never seen small


def write_splats(surface: Surface, path: Path) -> int:
    """Write one flat splat per vertex of a surface; returns their number.

    Positions and logarithms of standard deviations are in world units, rotations quaternions w x y z from the splat's
    axes to the world, opacities logits, and colours coefficients of real spherical harmonics of the direction from the
    camera to the splat, minus 0.5: first the constants of r, g, b, then the others of r, of g and of b. Source: Kerbl
    et al. 2023, "3D Gaussian Splatting", and its files.
    """
    coefficients = _fit_colors(surface)  # [N, (DEGREE + 1)², 3]
    deviations = torch.tensor([ACROSS, ACROSS, ALONG]) * surface.spacing[:, None]
    quaternions = rotation_matrix_to_quaternion(_frames(surface.normals))
    opacity = surface.opacity.clamp(0.01, 0.995)
    columns = torch.cat(
        [
            surface.positions.float(), surface.normals, coefficients[:, 0],
            coefficients[:, 1:].transpose(1, 2).flatten(1), torch.logit(opacity)[:, None], deviations.log(),
            quaternions,
        ],
        1,
    )  # fmt: skip
    rest = [f"f_rest_{i}" for i in range(3 * ((DEGREE + 1) ** 2 - 1))]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    path.write_bytes("\n".join(header).encode() + columns.numpy().astype("<f4").tobytes())
    return len(columns)


def _frames(normals: Tensor) -> Tensor:
    """Return rotations ``[N, 3, 3]`` whose third columns are the normals."""
    least = F.one_hot(normals.abs().argmin(1), 3).to(normals.dtype)
    x = F.normalize(torch.linalg.cross(least, normals), dim=1)
    return torch.stack([x, torch.linalg.cross(normals, x), normals], 2)


def _fit_colors(surface: Surface) -> Tensor:
    """Fit harmonics ``[N, K, 3]`` to the colours of vertices from the directions that see their outer side.

    Weighted least squares, with weights that grow with the cosine to the normal.
    """
    basis = _harmonics(_evenly(DIRECTIONS))  # [D, K]
    normal_equations = torch.zeros(len(surface.positions), basis.shape[1], basis.shape[1])
    right = torch.zeros(len(surface.positions), basis.shape[1], 3)
    for direction, y in tqdm(zip(_evenly(DIRECTIONS), basis, strict=True), "colours", DIRECTIONS, leave=False):
        weight = (-(surface.normals @ direction)).clamp_min(0)
        normal_equations += weight[:, None, None] * (y[:, None] * y)
        right += weight[:, None, None] * y[:, None] * (surface.colors(direction) - 0.5)[:, None]
    ridge = torch.full((basis.shape[1],), RIDGE * DIRECTIONS)
    ridge[0] = 1e-3
    fitted: Tensor = torch.linalg.solve(normal_equations + ridge.diag(), right)
    return fitted


def _evenly(count: int) -> Tensor:
    """Return unit directions ``[count, 3]``, evenly spread over the sphere along a spiral."""
    i = torch.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, math.pi * (1 + math.sqrt(5)) * i
    r = (1 - z * z).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin(), z], 1)


def _harmonics(directions: Tensor) -> Tensor:
    """Evaluate the real spherical harmonics ``[D, 9]`` of degree 2 as 3D Gaussian Splatting has them."""
    x, y, z = directions.unbind(1)
    c1, a, b, c = 0.4886025119029199, 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
    rows = [torch.full_like(x, C0), -c1 * y, c1 * z, -c1 * x, a * x * y, -a * y * z, b * (2 * z * z - x * x - y * y),
            -a * x * z, c * (x * x - y * y)]  # fmt: skip
    return torch.stack(rows, 1)
