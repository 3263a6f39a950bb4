"""The projection operators of one object's cameras, made when needed and kept within a memory bound.

They are made on the device of the pose.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projection import lifting_matrix, resampling_matrix
from dv.geometry.sparse import InterpolationMatrix


class Projector:
    """Lifting and resampling matrices by pose, for one camera, grid placement and pair of sides.

    Args:
        intrinsics: of all views, at any side.
        placement: of the grid.
        feature_side: P, px.
        grid_side: G, voxels.
        rim: of the frustums, see :func:`dv.geometry.projection.resampling_matrix`.
        keep_bytes: matrices used last are kept up to this size; training meets the same poses again and again.
    """

    def __init__(
        self,
        intrinsics: Intrinsics,
        placement: GridPlacement,
        feature_side: int,
        grid_side: int,
        *,
        rim: int,
        keep_bytes: int = 0,
    ) -> None:
        self.intrinsics = intrinsics
        self.placement = placement
        self.feature_side = feature_side
        self.grid_side = grid_side
        self.rim = rim
        self.keep_bytes = keep_bytes
        self._kept: OrderedDict[tuple[bool, bytes], InterpolationMatrix] = OrderedDict()

    def lifting(self, pose: Tensor) -> InterpolationMatrix:
        """Matrix ``[G³, P²]`` of a source pose ``[4, 4]``."""
        return self._matrix(pose, lifting=True)

    def resampling(self, poses: Iterable[Tensor]) -> list[InterpolationMatrix]:
        """Matrices ``[D·(P+2·rim)², G³]`` of target poses ``[4, 4]``."""
        return [self._matrix(pose, lifting=False) for pose in poses]

    def _matrix(self, pose: Tensor, lifting: bool) -> InterpolationMatrix:
        pose = pose.detach().double()
        key = (lifting, pose.cpu().numpy().tobytes())
        matrix = self._kept.pop(key, None)
        if matrix is None:
            camera = pose, self.intrinsics, self.feature_side, self.placement, self.grid_side
            matrix = lifting_matrix(*camera) if lifting else resampling_matrix(*camera, rim=self.rim)
        if self.keep_bytes:
            self._kept[key] = matrix
            while sum(m.nbytes for m in self._kept.values()) > self.keep_bytes:
                self._kept.popitem(last=False)
        return matrix
