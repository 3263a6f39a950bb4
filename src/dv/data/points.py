"""The file ``points.npy`` of an object: points of its surface and surroundings, an extension of the folder format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dv.errors import UserError
from dv.runtime.files import atomic_file

POINTS_FILE = "points.npy"


def read_points(folder: Path) -> Tensor | None:
    """Read the points of the folder of a split.

    Returns:
        ``[N, 3]`` (x, y, z), world units, float64; None if there is no such file or no point in it.

    Raises:
        UserError: if the file holds anything else.
    """
    path = folder / POINTS_FILE
    if not path.is_file():
        return None
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is no NumPy file ({error}); write it again, or delete it: it is optional") from error
    good = isinstance(points, np.ndarray) and points.dtype.kind in "fiu" and points.ndim == 2 and points.shape[1] == 3
    if not good or not np.isfinite(points).all():
        found = f"{points.dtype} {list(points.shape)}" if isinstance(points, np.ndarray) else "several arrays"
        raise UserError(
            f"{path} must hold points [N, 3] (x, y, z), finite numbers, but holds {found}; "
            "write it again, or delete it: it is optional"
        )
    return torch.from_numpy(points.astype(np.float64)) if len(points) else None


def write_points(folder: Path, points: NDArray[np.float64]) -> None:
    """Write points ``[N, 3]`` (x, y, z), world units, into the folder of a split."""
    with atomic_file(folder / POINTS_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, points.astype(np.float64), allow_pickle=False)
