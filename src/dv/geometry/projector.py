"""Lifting and resampling matrices of an object's cameras, built on demand and cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projection import lifting_matrix, resampling_matrix
from dv.geometry.sparse import InterpolationMatrix


class Projector:
    """Lifting and resampling matrices by pose, for fixed intrinsics, grid placement and sizes.

    Matrices are built on the device of the pose. The most recently used ones are cached, as training visits the same
    poses again and again.

    Args:
        intrinsics: shared by all views, of square images of any side.
        placement: of the grid in the world.
        feature_side: P, px.
        grid_side: G, voxels.
        rim: padding of the frustums in rays, see :func:`dv.geometry.projection.resampling_matrix`.
        cache_bytes: maximum memory of the cached matrices; 0 disables the cache.
    """

    def __init__(
        self,
        intrinsics: Intrinsics,
        placement: GridPlacement,
        feature_side: int,
        grid_side: int,
        *,
        rim: int,
        cache_bytes: int = 0,
    ) -> None:
        self.intrinsics = intrinsics
        self.placement = placement
        self.feature_side = feature_side
        self.grid_side = grid_side
        self.rim = rim
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[bool, bytes], InterpolationMatrix] = OrderedDict()

    def lifting(self, pose: Tensor) -> InterpolationMatrix:
        """Return the lifting matrix ``[G³, P²]`` of a source pose ``[4, 4]``."""
        return self._matrix(pose, lifting=True)

    def resampling(self, poses: Iterable[Tensor]) -> list[InterpolationMatrix]:
        """Return the resampling matrices ``[D·(P+2·rim)², G³]`` of target poses ``[4, 4]``."""
        return [self._matrix(pose, lifting=False) for pose in poses]

    def _matrix(self, pose: Tensor, lifting: bool) -> InterpolationMatrix:
        pose = pose.detach().double()
        key = (lifting, pose.cpu().numpy().tobytes())
        matrix = self._cache.pop(key, None)
        if matrix is None:
            view = pose, self.intrinsics, self.feature_side, self.placement, self.grid_side
            matrix = lifting_matrix(*view) if lifting else resampling_matrix(*view, rim=self.rim)
        if self.cache_bytes:
            self._cache[key] = matrix
            while sum(m.nbytes for m in self._cache.values()) > self.cache_bytes:
                self._cache.popitem(last=False)
        return matrix
