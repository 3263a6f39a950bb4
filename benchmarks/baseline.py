"""DeepVoxels as a straightforward PyTorch program, the baseline for the speed of ``dv``.

Eager fp32 PyTorch in default memory layouts. Resampling gathers neighbours by index, multiplies them by their weights
and adds them, one view at a time; coordinates are concatenated as channels; the frustum is multiplied by the visibility
and averaged; nothing is cached between steps, and the grid is inpainted for every frame. Layers, weights and results
are those of ``dv``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics, project, to_camera, to_world
from dv.geometry.grid import GridPlacement
from dv.model import DeepVoxels, ModelSizes
from dv.nets.blocks import Layers
from dv.ops.convolution.layers import Conv2d, Conv3d, ConvTranspose2d
from dv.ops.frustum import FrustumConv
from dv.ops.norm import ViewNorm2d, ViewNorm3d

PYTORCH_LAYERS = {
    Conv2d: nn.Conv2d,
    Conv3d: nn.Conv3d,
    ConvTranspose2d: nn.ConvTranspose2d,
    FrustumConv: nn.Conv3d,
    ViewNorm2d: nn.BatchNorm2d,
    ViewNorm3d: nn.BatchNorm3d,
}


def use_pytorch_layers(network: nn.Module) -> None:
    """Make every layer of a network compute by PyTorch's layer of the same kind, with contiguous weights."""
    for layer in network.modules():
        original = nn.Sequential if isinstance(layer, Layers) else PYTORCH_LAYERS.get(type(layer))
        if original is not None:
            # an attribute of the instance takes precedence over the method of the class
            layer.forward = lambda *x, of=original, to=layer: of.forward(to, torch.cat(x, 1) if len(x) > 1 else x[0])
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()


class Baseline(DeepVoxels):
    """The same model with a straightforward implementation; views are given by poses rather than by sparse matrices.

    Args:
        sizes: of the networks.
        intrinsics: of all views.
        placement: of the grid in the world.
    """

    def __init__(self, sizes: ModelSizes, intrinsics: Intrinsics, placement: GridPlacement) -> None:
        super().__init__(sizes)
        use_pytorch_layers(self)
        self.intrinsics, self.placement = intrinsics, placement

    def step(self, source_image: Tensor, source_pose: Tensor, target_poses: Tensor) -> tuple[Tensor, Tensor]:
        """Take a training step, rendering one target view after the other.

        Args:
            source_image: ``[1, 3, S, S]`` in [-0.5, 0.5].
            source_pose: ``[4, 4]``.
            target_poses: ``[N, 4, 4]``.

        Returns:
            Images ``[N, 3, S, S]`` of the target views, and the new grid ``[1, F, G, G, G]``.
        """
        lifted = self.lift_by_index(self.extractor(source_image), source_pose)
        grid = self.integrate_separately(lifted)
        inpainted = self.inpainting(grid)
        return torch.cat([self.view(inpainted, pose) for pose in target_poses]), grid

    def frame(self, pose: Tensor) -> Tensor:
        """Render the stored grid from a pose ``[4, 4]`` to an image ``[1, 3, S, S]``."""
        return self.view(self.inpainting(self.grid), pose)

    def lift_by_index(self, feature_map: Tensor, pose: Tensor) -> Tensor:
        """Sample a feature map ``[1, F, P, P]`` bilinearly where the voxels project, ``[1, F, G, G, G]``."""
        s = self.sizes
        points = to_camera(pose, self.placement.voxel_centers(s.grid_side).to(pose.device))
        pixels = project(points, self.intrinsics.at_side(s.feature_side))
        nearest = pixels.round()
        visible = (points[:, 2] > 0) & (nearest >= 0).all(1) & (nearest < s.feature_side).all(1)
        samples = _by_index(feature_map[0].flatten(1), pixels, s.feature_side) * visible
        return samples.reshape(self.grid.shape)

    def integrate_separately(self, lifted: Tensor) -> Tensor:
        """Return the new grid of the gated update, with six separate convolutions."""
        i = self.integration
        old, new = torch.cat([self.grid, i.coordinates], 1), torch.cat([lifted, i.coordinates], 1)
        reset = torch.sigmoid(i.reset_old(old) + i.reset_new(new))
        update = torch.sigmoid(i.update_old(old) + i.update_new(new))
        candidate = torch.relu(i.dropout(i.candidate_new(new)) + i.dropout(i.candidate_old(reset * old)))
        return (1 - update) * self.grid + update * candidate

    def view(self, inpainted: Tensor, pose: Tensor) -> Tensor:
        """Render an inpainted grid from a pose ``[4, 4]`` to an image ``[1, 3, S, S]``."""
        s = self.sizes
        shape = (1, s.grid_features, 2 * s.grid_side, s.feature_side, s.feature_side)
        frustum = self.frustum_by_index(inpainted, pose).reshape(shape)
        if not s.occlusion_net:
            return self.renderer(self.flatten([frustum]).features)
        net = self.flatten
        depth = net.depth[:, None, None].expand(1, 1, *shape[2:])
        prepared = net.prep(torch.cat([depth, frustum], 1))
        visibility = torch.softmax(net.visibility(torch.cat([prepared, net.unet(prepared), depth], 1)), 2)
        return self.renderer((visibility * frustum).mean(2))

    def frustum_by_index(self, inpainted: Tensor, pose: Tensor) -> Tensor:
        """Sample the grid trilinearly along the rays of a view, ``[F, D·P²]``."""
        s, g, v = self.sizes, self.sizes.grid_side, self.placement.voxel_side(self.sizes.grid_side)
        k = self.intrinsics.at_side(s.feature_side)
        pixel = torch.arange(s.feature_side, dtype=torch.float64, device=pose.device)
        z = self.placement.near + v * torch.arange(2 * g, dtype=torch.float64, device=pose.device)
        z, row, col = torch.meshgrid(z, pixel, pixel, indexing="ij")
        points = torch.stack([(col - k.cx) / k.fx * z, (row - k.cy) / k.fy * z, z], -1).reshape(-1, 3)
        origin = torch.tensor(self.placement.origin, dtype=torch.float64).to(pose.device)
        at = (to_world(pose, points) - origin) / v + g / 2
        return _by_index(inpainted[0].flatten(1), at, g) * ((at >= 0) & (at < g)).all(1)


def _by_index(values: Tensor, at: Tensor, side: int) -> Tensor:
    """Interpolate ``[C, side^d]`` (x fastest) multilinearly at ``[N, d]`` by 2^d gathers, ``[C, N]``."""
    low = at.floor()
    total = torch.zeros((), dtype=values.dtype, device=values.device)
    for corner in range(2 ** at.shape[1]):
        index = torch.zeros(len(at), dtype=torch.long, device=at.device)
        weight = torch.ones_like(at[:, 0])
        for axis in range(at.shape[1]):
            up = corner >> axis & 1
            fraction = at[:, axis] - low[:, axis]
            weight = weight * (fraction if up else 1 - fraction)
            index = index + (low[:, axis].long() + up).clamp(0, side - 1) * side**axis
        total = total + values[:, index] * weight.to(values.dtype)
    return total
