"""DeepVoxels as one would first write it down: the yardstick for what the framework's speed is worth.

Plain eager fp32 PyTorch with its default layouts. Resampling gathers neighbours by index, weighs and adds them, one
view at a time; coordinates are concatenated, the frustum is weighted and averaged; nothing is kept between steps and
the grid is inpainted anew for every frame. The mathematics, the layers and their weights are those of ``dv``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dv.geometry.camera import Intrinsics, project
from dv.geometry.grid import GridPlacement, to_camera, to_world
from dv.model import DeepVoxels, ModelSizes
from dv.nets.blocks import Layers
from dv.ops.convolution import Conv2d, Conv3d, Doubling2d
from dv.ops.frustum import FrustumConv
from dv.ops.norm import ViewNorm2d, ViewNorm3d

PLAIN = {
    Conv2d: nn.Conv2d,
    Conv3d: nn.Conv3d,
    Doubling2d: nn.ConvTranspose2d,
    FrustumConv: nn.Conv3d,
    ViewNorm2d: nn.BatchNorm2d,
    ViewNorm3d: nn.BatchNorm3d,
}


def plain(network: nn.Module) -> None:
    """Have every layer of a network compute as PyTorch's layer of that kind, on contiguous weights."""
    for layer in network.modules():
        original = nn.Sequential if isinstance(layer, Layers) else PLAIN.get(type(layer))
        if original is not None:
            # looked up on the instance first, so this replaces the method of the class
            layer.forward = lambda *x, of=original, to=layer: of.forward(to, torch.cat(x, 1) if len(x) > 1 else x[0])
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()


class Baseline(DeepVoxels):
    """The same model, straightforward. Views are given by poses ``[4, 4]`` rather than by operators."""

    def __init__(self, sizes: ModelSizes, intrinsics: Intrinsics, placement: GridPlacement) -> None:
        super().__init__(sizes)
        plain(self)
        self.intrinsics, self.placement = intrinsics, placement

    def step(self, source_image: Tensor, source_pose: Tensor, target_poses: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[N, 3, S, S]`` of the targets and the new grid, one target after the other."""
        lifted = self.lift_by_index(self.extractor(source_image), source_pose)
        grid = self.integrate_plainly(lifted)
        inpainted = self.inpainting(grid)
        return torch.cat([self.view(inpainted, pose) for pose in target_poses]), grid

    def frame(self, pose: Tensor) -> Tensor:
        """Image ``[1, 3, S, S]`` of a view of the saved grid."""
        return self.view(self.inpainting(self.grid), pose)

    def lift_by_index(self, feature_map: Tensor, pose: Tensor) -> Tensor:
        """Bilinear samples of ``[1, F, P, P]`` where the voxels project."""
        s = self.sizes
        points = to_camera(pose, self.placement.voxel_centers(s.grid_side).to(pose.device))
        pixels = project(points, self.intrinsics.at_side(s.feature_side))
        nearest = pixels.round()
        seen = (points[:, 2] > 0) & (nearest >= 0).all(1) & (nearest < s.feature_side).all(1)
        samples = _by_index(feature_map[0].flatten(1), pixels, s.feature_side) * seen
        return samples.reshape(self.grid.shape)

    def integrate_plainly(self, lifted: Tensor) -> Tensor:
        """The gated update with each of its six convolutions by itself."""
        i = self.integration
        old, new = torch.cat([self.grid, i.coordinates], 1), torch.cat([lifted, i.coordinates], 1)
        reset = torch.sigmoid(i.reset_old(old) + i.reset_new(new))
        update = torch.sigmoid(i.update_old(old) + i.update_new(new))
        candidate = torch.relu(i.dropout(i.candidate_new(new)) + i.dropout(i.candidate_old(reset * old)))
        return (1 - update) * self.grid + update * candidate

    def view(self, inpainted: Tensor, pose: Tensor) -> Tensor:
        """Image of one view of an inpainted grid."""
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
        """Trilinear samples ``[F, D·P²]`` of the grid along the rays of a view."""
        s, g, v = self.sizes, self.sizes.grid_side, self.placement.voxel_side(self.sizes.grid_side)
        k = self.intrinsics.at_side(s.feature_side)
        pixel = torch.arange(s.feature_side, dtype=torch.float64, device=pose.device)
        z = self.placement.near + v * torch.arange(2 * g, dtype=torch.float64, device=pose.device)
        z, row, col = torch.meshgrid(z, pixel, pixel, indexing="ij")
        points = torch.stack([(col - k.cx) / k.f * z, (row - k.cy) / k.f * z, z], -1).reshape(-1, 3)
        origin = torch.tensor(self.placement.origin, dtype=torch.float64).to(pose.device)
        at = (to_world(pose, points) - origin) / v + g / 2
        return _by_index(inpainted[0].flatten(1), at, g) * ((at >= 0) & (at < g)).all(1)


def _by_index(values: Tensor, at: Tensor, side: int) -> Tensor:
    """Multilinear interpolation of ``[C, side^d]`` at ``[N, d]``, x the fastest: 2^d gathers, weighted and added."""
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
