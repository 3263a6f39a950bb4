"""DeepVoxels: the forward pass, top to bottom, as the paper tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from dv.errors import UserError
from dv.geometry.sparse import InterpolationMatrix
from dv.nets.extractor import FeatureExtractor
from dv.nets.inpainting import Inpainting
from dv.nets.integration import Integrated, Integration
from dv.nets.occlusion import DepthCollapse, OcclusionNet
from dv.nets.renderer import Renderer


@dataclass(frozen=True)
class ModelSizes:
    """All that determines the shape of a DeepVoxels network (symbols of the paper in brackets)."""

    image_side: int = field(metadata={"key": "data.image_side"})  # S, px
    feature_side: int = field(metadata={"key": "grid.feature_side"})  # P, px
    grid_side: int = field(metadata={"key": "grid.side"})  # G, voxels
    grid_features: int = field(metadata={"key": "grid.features"})  # F
    base_channels: int = field(metadata={"key": "model.base_channels"})  # n
    occlusion_net: bool = field(default=True, metadata={"key": "model"})

    @property
    def rim(self) -> int:
        """Rays repeated around a frustum: the padding of the occlusion network's first convolution."""
        return int(self.occlusion_net)

    def check(self) -> None:
        """Raise :class:`UserError` naming the configuration key if the sizes cannot form a network."""
        for name, key, least in (
            ("image_side", "data.image_side", 2),
            ("feature_side", "grid.feature_side", 2),
            ("grid_side", "grid.side", 4),
        ):
            value = getattr(self, name)
            if value < least or value & (value - 1):
                raise UserError(f"{key}={value} must be a power of two, at least {least}")
        if self.image_side < self.feature_side:
            raise UserError(
                f"data.image_side={self.image_side} must not be smaller than grid.feature_side={self.feature_side}"
            )
        if self.grid_features < 1:
            raise UserError(f"grid.features={self.grid_features} must be at least 1")
        if self.base_channels < 2:
            raise UserError(f"model.base_channels={self.base_channels} must be at least 2")

    def as_dict(self) -> dict[str, Any]:
        """The sizes as plain data."""
        return asdict(self)


def channels_last(module: nn.Module) -> None:
    """Lay convolution weights out channels-last, and with them all they compute: half again as fast on CPUs."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        elif parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


@dataclass
class Rendering:
    """What DeepVoxels makes of N target views.

    image ``[N, 3, S, S]`` in [-0.5, 0.5]; depth_map ``[N, 1, P, P]`` in [-1/2, 1/2) and visibility
    ``[N, 1, D, P, P]``, both None without the occlusion network.
    """

    image: Tensor
    depth_map: Tensor | None
    visibility: Tensor | None


class DeepVoxels(nn.Module):
    """A persistent voxel grid of one object with the networks that fill it and render from it.

    The grid ``[1, F, G, G, G]`` is a saved buffer, not a parameter: :meth:`integrate` returns the next one, the caller
    stores it with :meth:`remember`. Images are in [-0.5, 0.5].
    """

    grid: Tensor

    def __init__(self, sizes: ModelSizes, *, integration_dropout: float = 0.2, renderer_dropout: float = 0.1) -> None:
        sizes.check()
        super().__init__()
        self.sizes = s = sizes
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

    def compile_networks(self, **options: Any) -> None:
        """Have torch.compile (with its options) make kernels for the networks when they first run.

        The sparse operators stay as they are: the compiler cannot trace them.
        """
        self.compiled = True
        for network in (self.extractor, self.integration, self.inpainting, self.flatten, self.renderer):
            network.compile(**options)

    def forward(
        self, source_image: Tensor, lifting: InterpolationMatrix, resampling: Sequence[InterpolationMatrix]
    ) -> tuple[Rendering, Integrated]:
        """One training pass: take a source view into the grid, render the targets from the result.

        Args:
            source_image: ``[1, 3, S, S]``.
            lifting: ``[G³, P²]``, see :func:`dv.geometry.projection.lifting_matrix`.
            resampling: one ``[D·(P+2·rim)², G³]`` per target, see :func:`dv.geometry.projection.resampling_matrix`.
        """
        integrated = self.integrate(self.lift(self.extractor(source_image), lifting))
        return self.render(self.inpaint(integrated.grid), resampling), integrated

    def lift(self, feature_map: Tensor, lifting: InterpolationMatrix) -> Tensor:
        """Feature map ``[1, F, P, P]`` to grid ``[1, F, G, G, G]``."""
        s = self.sizes
        voxels = lifting @ feature_map[0].movedim(0, -1).flatten(0, 1)
        return voxels.view(1, *(s.grid_side,) * 3, s.grid_features).movedim(-1, 1)

    def integrate(self, lifted: Tensor) -> Integrated:
        """The state after taking in a lifted view; the gradient stops at the old state."""
        return cast(Integrated, self.integration(self.grid, lifted))

    def remember(self, grid: Tensor) -> None:
        """Make ``grid`` the state from which the next step starts."""
        self.grid.copy_(grid.detach())

    def inpaint(self, grid: Tensor | None = None) -> Tensor:
        """Inpainted grid, of the state unless another is given."""
        return cast(Tensor, self.inpainting(self.grid if grid is None else grid))

    def resample(self, grid: Tensor, resampling: Iterable[InterpolationMatrix]) -> Iterator[Tensor]:
        """Canonical frustum ``[1, F, D, P+2·rim, P+2·rim]`` of view after view from a grid ``[1, F, G, G, G]``."""
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
