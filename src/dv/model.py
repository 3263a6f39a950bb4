"""DeepVoxels (Sitzmann et al., CVPR 2019): the forward pass, top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projector import Projector
from dv.geometry.sparse import InterpolationMatrix
from dv.nets.extractor import FeatureExtractor
from dv.nets.inpainting import Inpainting
from dv.nets.integration import Integration, IntegrationOutput
from dv.nets.occlusion import DepthCollapse, OcclusionNet
from dv.nets.renderer import Renderer
from dv.object_model import ObjectModel, RenderedView
from dv.ops.point_cloud import strongest_voxels


@dataclass(frozen=True)
class ModelSizes:
    """Everything that determines the shapes of the DeepVoxels networks, with the paper's symbols.

    Raises:
        ValueError: if the networks cannot have these sizes.

    >>> ModelSizes(image_side=64, feature_side=16, grid_side=12, grid_features=4, base_channels=8)
    Traceback (most recent call last):
    ValueError: grid_side=12 must be a power of two, at least 4
    """

    image_side: int  # S, px
    feature_side: int  # P, px
    grid_side: int  # G, voxels
    grid_features: int  # F
    base_channels: int  # n
    occlusion_net: bool = True

    def __post_init__(self) -> None:
        for name, minimum in (("image_side", 2), ("feature_side", 2), ("grid_side", 4)):
            side = getattr(self, name)
            if side < minimum or side & (side - 1):  # the U-Nets halve it down to 1
                raise ValueError(f"{name}={side} must be a power of two, at least {minimum}")
        for name, minimum in (("grid_features", 1), ("base_channels", 2)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {minimum}")
        if self.image_side < self.feature_side:
            raise ValueError(f"image_side={self.image_side} must not be smaller than feature_side={self.feature_side}")

    @property
    def rim(self) -> int:
        """Width in rays of a frustum's replicated rim, the padding of the occlusion network's first convolution."""
        return int(self.occlusion_net)


def channels_last(module: nn.Module) -> None:
    """Store convolution weights channels-last, and with them all activations: 1.5 times as fast on CPUs."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        elif parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


@dataclass
class Rendering:
    """N rendered target views.

    ``image`` ``[N, 3, S, S]`` in [-0.5, 0.5]; ``depth_map`` ``[N, 1, P, P]`` in [-1/2, 1/2) and ``visibility``
    ``[N, 1, D, P, P]``, both None without the occlusion network.
    """

    image: Tensor
    depth_map: Tensor | None
    visibility: Tensor | None


class DeepVoxels(ObjectModel):
    """A persistent voxel grid of one object with the networks that fill it and render from it.

    The grid ``[1, F, G, G, G]`` is a saved buffer, not a parameter: :meth:`integrate` returns the next one and the
    caller stores it with :meth:`remember`. Images are in [-0.5, 0.5].

    Args:
        sizes: sizes of grid, images and networks.
        placement: placement of the grid in the world, which rendering views and point clouds requires.
        integration_dropout: probability of channel-wise dropout in the integration network.
        renderer_dropout: likewise in the rendering network.

    >>> model = DeepVoxels(ModelSizes(8, 4, 4, 2, 2), GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5)).eval()
    >>> pose = torch.eye(4)
    >>> pose[2, 3] = -1.5  # looks along +z at the grid
    >>> view = next(model.render_views(pose[None], Intrinsics.square(8.0, 4.0, 4.0, 8), batch_size=1))
    >>> view.image.shape, view.depth.shape
    (torch.Size([3, 8, 8]), torch.Size([1, 4, 4]))
    """

    sizes_class: ClassVar = ModelSizes
    squares_only: ClassVar = True
    sizes: ModelSizes
    grid: Tensor

    def __init__(
        self,
        sizes: ModelSizes,
        placement: GridPlacement | None = None,
        *,
        integration_dropout: float = 0.2,
        renderer_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.sizes = s = sizes
        self.placement = placement
        self.compiled = False
        depth = 2 * s.grid_side
        self.extractor = FeatureExtractor(s.image_side, s.feature_side, s.grid_features, s.base_channels)
        self.integration = Integration(s.grid_side, s.grid_features, integration_dropout)
        self.inpainting = Inpainting(s.grid_side, s.grid_features)
        self.flatten: OcclusionNet | DepthCollapse = (
            OcclusionNet(s.feature_side, depth, s.grid_features)
            if s.occlusion_net
            else DepthCollapse(depth, s.grid_features, s.grid_side, s.base_channels)
        )
        self.renderer = Renderer(s.image_side, s.feature_side, s.grid_features, s.base_channels, renderer_dropout)
        self.register_buffer("grid", torch.zeros(1, s.grid_features, *(s.grid_side,) * 3))
        channels_last(self)

    @property
    def has_depth(self) -> bool:
        """Whether rendered views have depth, which the occlusion network computes."""
        return self.sizes.occlusion_net

    def compile_networks(self, **options: Any) -> None:
        """Compile the networks with torch.compile (and its options) when they first run.

        The sparse matrix products are not compiled, since the compiler cannot trace them.
        """
        self.compiled = True
        for network in (self.extractor, self.integration, self.inpainting, self.flatten, self.renderer):
            network.compile(**options)

    def forward(
        self, source_image: Tensor, lifting: InterpolationMatrix, resampling: Sequence[InterpolationMatrix]
    ) -> tuple[Rendering, IntegrationOutput]:
        """Integrate a source view into the grid and render the target views from the result: one training pass.

        Args:
            source_image: ``[1, 3, S, S]``.
            lifting: ``[G³, P²]``, see :func:`dv.geometry.projection.lifting_matrix`.
            resampling: one ``[D·(P+2·rim)², G³]`` per target view, see
                :func:`dv.geometry.projection.resampling_matrix`.
        """
        integrated = self.integrate(self.lift(self.extractor(source_image), lifting))
        return self.render(self.inpaint(integrated.grid), resampling), integrated

    def lift(self, feature_map: Tensor, lifting: InterpolationMatrix) -> Tensor:
        """Lift a feature map ``[1, F, P, P]`` to a grid ``[1, F, G, G, G]``."""
        s = self.sizes
        voxels = lifting @ feature_map[0].movedim(0, -1).flatten(0, 1)
        return voxels.view(1, *(s.grid_side,) * 3, s.grid_features).movedim(-1, 1)

    def integrate(self, lifted: Tensor) -> IntegrationOutput:
        """Update the grid with a lifted view; the gradient stops at the old grid."""
        return cast(IntegrationOutput, self.integration(self.grid, lifted))

    def remember(self, grid: Tensor) -> None:
        """Store ``grid`` as the state from which the next step starts."""
        self.grid.copy_(grid.detach())

    def inpaint(self, grid: Tensor | None = None) -> Tensor:
        """Inpaint ``grid``, by default the stored one."""
        return cast(Tensor, self.inpainting(self.grid if grid is None else grid))

    def resample(self, grid: Tensor, resampling: Iterable[InterpolationMatrix]) -> Iterator[Tensor]:
        """Resample a grid ``[1, F, G, G, G]`` to the canonical frustum ``[1, F, D, P+2·rim, P+2·rim]`` of each view."""
        s = self.sizes
        side = s.feature_side + 2 * s.rim
        values = grid[0].movedim(0, -1).flatten(0, 2)
        for operator in resampling:
            yield (operator @ values).view(1, 2 * s.grid_side, side, side, s.grid_features).movedim(-1, 1)

    def render(self, inpainted: Tensor, resampling: Sequence[InterpolationMatrix]) -> Rendering:
        """Render N target views from an inpainted grid."""
        frustums: Iterable[Tensor] = self.resample(inpainted, resampling)
        flattened = self.flatten(list(frustums) if self.compiled else frustums)
        return Rendering(self.renderer(flattened.features), flattened.depth_map, flattened.visibility)

    @torch.no_grad()
    def render_views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[RenderedView]:
        """Render views from the stored grid, which is inpainted once.

        ``batch_size`` views are rendered together while a thread builds the resampling matrices of the next ones.
        """
        s, placement = self.sizes, self.placement
        assert placement is not None
        inpainted = self.inpaint()
        projector = Projector(intrinsics, placement, s.feature_side, s.grid_side, rim=s.rim)
        batches = torch.split(poses, batch_size)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(projector.resampling, batches[0])
            for i in range(len(batches)):
                resampling = following.result()
                if i + 1 < len(batches):
                    following = pool.submit(projector.resampling, batches[i + 1])
                rendering = self.render(inpainted, resampling)
                depths: Iterable[Tensor | None] = [None] * len(resampling)
                if rendering.depth_map is not None:
                    depths = placement.to_world_depth(rendering.depth_map.float(), s.grid_side)
                yield from map(RenderedView, rendering.image, depths)

    def max_depth(self, poses: Tensor) -> float:  # noqa: ARG002  # frustums of all poses are equally deep
        """Camera z at which every frustum ends, world units."""
        assert self.placement is not None
        return self.placement.near + 2 * self.placement.scale

    def point_cloud(self, max_points: int) -> tuple[Tensor, Tensor]:
        """Return the voxels with the largest feature norm, see :func:`dv.ops.point_cloud.strongest_voxels`."""
        assert self.placement is not None
        return strongest_voxels(self.grid, self.placement.voxel_centers(self.sizes.grid_side), max_points)
