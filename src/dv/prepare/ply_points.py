"""Points of PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData

from dv.errors import UserError
from dv.prepare.placement import Array


def read_ply_points(path: Path) -> Array:
    """Read the vertices ``[N, 3]`` of a PLY file; those that are not finite are left out.

    Raises:
        UserError: if the file is not PLY or has no vertices with x, y and z.
    """
    try:
        vertices = PlyData.read(path, mmap=False)["vertex"]
        points = np.stack([np.asarray(vertices[axis], np.float64) for axis in "xyz"], axis=1)
    except Exception as error:  # plyfile raises its own types, and those of NumPy for truncated files
        raise UserError(f"{path}: cannot be read as points in PLY ({error}); it may be truncated") from error
    return points[np.isfinite(points).all(1)]
