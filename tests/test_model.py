"""The forward pass equals a slow version written from the specification, at sizes without recorded tensors."""

import pytest
import torch

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projection import lifting_matrix, resampling_matrix
from dv.geometry.trajectory import look_at
from dv.model import DeepVoxels, ModelSizes
from slow_reference import SlowDeepVoxels, lift, resample


def with_random_buffers(model: DeepVoxels) -> DeepVoxels:
    """Give a model random norm statistics and a random grid, float64 and eval mode, and return it."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean") or name == "grid":
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.double().eval()


@pytest.mark.parametrize("occlusion_net", [True, False])
@pytest.mark.parametrize(
    ("image_side", "feature_side", "grid_side", "size", "principal"),
    [
        (8, 8, 4, (8, 8), (3.5, 3.5)),  # S = P
        (16, 8, 8, (16, 16), (9.1, 6.3)),  # principal point off centre
        (16, 4, 4, (24, 40), (18.0, 13.0)),  # non-square source, S/P = 4
        (32, 2, 4, (32, 32), (15.5, 15.5)),  # S/P = 16: more than the widest U-Net
    ],
)
def test_forward_equals_slow_version(image_side, feature_side, grid_side, size, principal, occlusion_net):
    torch.manual_seed(0)
    sizes = ModelSizes(image_side, feature_side, grid_side, 3, 4, occlusion_net)
    model = with_random_buffers(DeepVoxels(sizes))
    slow = SlowDeepVoxels(model.state_dict(), sizes)
    height, width = size
    f = 1.3 * min(size)
    intrinsics = Intrinsics(f, f, *principal, width, height).central_square()
    assert intrinsics.cx == principal[0] - (width - min(size)) / 2
    placement = GridPlacement((0.1, -0.05, 0.02), 1.1, 0.6)
    origin = torch.tensor(placement.origin, dtype=torch.float64)
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
    source, target = (
        look_at(torch.tensor(eye, dtype=torch.float64), origin, up) for eye in ((1.2, 0.5, 0.7), (-0.8, 1.1, 0.4))
    )
    image = torch.rand(1, 3, image_side, image_side, dtype=torch.float64) - 0.5
    camera = (intrinsics, feature_side, placement, grid_side)
    k = intrinsics.at_side(feature_side)
    with torch.no_grad():
        resampling = [resampling_matrix(target, *camera, rim=sizes.rim)]
        rendering, integrated = model(image, lifting_matrix(source, *camera), resampling)
        (resampled,) = model.resample(model.inpaint(integrated.grid), resampling)
        features = slow.extract(image)
        grid = lift(features[0], source, (k.fx, k.cx, k.cy), origin, placement.scale, grid_side)[None]
        state = slow.integrate(model.grid, grid)
        inpainted = slow.inpaint(state)
        frustum = resample(
            inpainted[0], target, (k.fx, k.cx, k.cy), feature_side, origin, placement.scale, placement.near
        )[None]
        expected, depth_map = slow.render(frustum)
    tolerance = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(integrated.grid, state, **tolerance)
    inner = slice(sizes.rim, sizes.rim + feature_side)
    torch.testing.assert_close(resampled[..., inner, inner], frustum, **tolerance)
    torch.testing.assert_close(rendering.image, expected, **tolerance)
    assert rendering.image.shape == (1, 3, image_side, image_side)
    if occlusion_net:
        torch.testing.assert_close(rendering.depth_map, depth_map, **tolerance)
    else:
        assert rendering.depth_map is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((48, 16, 8, 4, 4), "image_side=48"),
        ((32, 12, 8, 4, 4), "feature_side=12"),
        ((32, 16, 2, 4, 4), "grid_side=2"),
        ((16, 32, 8, 4, 4), "image_side=16"),
        ((32, 16, 8, 0, 4), "grid_features=0"),
        ((32, 16, 8, 4, 1), "base_channels=1"),
    ],
)
def test_invalid_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        DeepVoxels(ModelSizes(*sizes))


def test_the_stored_grid_is_detached():
    sizes = ModelSizes(16, 8, 4, 3, 4)
    model = DeepVoxels(sizes)
    integrated = model.integrate(torch.rand(1, 3, 4, 4, 4))
    model.remember(integrated.grid)
    assert not model.grid.requires_grad
    torch.testing.assert_close(model.grid, integrated.grid.detach())
