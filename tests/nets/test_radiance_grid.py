"""A pixel of a radiance grid is the mean of the rays through it, of sRGB values or of linear intensities."""

import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb

from dv.geometry.camera import Intrinsics, pixel_grid, pixel_rays
from dv.geometry.grid import GridPlacement
from dv.geometry.trajectory import look_at
from dv.nets.radiance_sizes import RadianceSizes
from dv.radiance import RadianceGrid

SIDE = 6


@pytest.fixture(params=[0.0, 1.0], ids=["srgb", "linear"])
def grid(request):
    torch.manual_seed(0)
    sizes = RadianceSizes(SIDE, 8, decoder_features=2, supersampling=2, linear_share=request.param)
    grid = RadianceGrid(sizes, GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5), torch.rand(3) - 0.5)
    with torch.no_grad():
        for parameter in (*grid.voxels.parameters(), *grid.decoder.parameters()):
            parameter.normal_()
        grid.voxels.density += 2
        grid.voxels.density[0] = -10
    grid.voxels.update_empty_space()
    return grid


POSE = look_at(torch.tensor([0.0, -2, 1]), torch.zeros(3), torch.tensor([0.0, 0, 1]))


def test_a_pixel_is_the_mean_of_four_pixels_of_an_image_of_twice_the_side(grid):
    """With pixel centres at 0.5, the pixels of a camera of twice the side are the four subpixels of each pixel."""
    camera = Intrinsics.square(8.0, 3.2, 2.9, SIDE, 0.5)
    output = grid.render_pixels(POSE.expand(SIDE**2, 4, 4), pixel_grid(SIDE), camera)
    fine = pixel_grid(2 * SIDE)
    rays = pixel_rays(POSE.expand(len(fine), 4, 4), fine, camera.at_side(2 * SIDE))
    single = grid(*rays, torch.full((len(fine),), 0.5))

    def blocks(values):
        return values.view(SIDE, 2, SIDE, 2, -1).transpose(1, 2).reshape(SIDE**2, 4, -1)

    mean = blocks(single.colors).mean(1)
    if grid.linear_share:
        intensities = rgb_to_linear_rgb(single.colors.T[..., None] + 0.5)[..., 0].T
        linear = linear_rgb_to_rgb(blocks(intensities).mean(1).T[..., None])[..., 0].T - 0.5
        assert (linear - mean).abs().max() > 0.01
        mean = linear
    torch.testing.assert_close(output.colors, mean, rtol=0, atol=1e-5)
    assert single.colors.min() < -0.6, "some colours are below zero, where a power has no gradient"
    output.colors.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in grid.parameters())
    torch.testing.assert_close(output.transmittance, blocks(single.transmittance).mean(1)[:, 0], rtol=0, atol=1e-5)
    depths = blocks(single.depth)[..., 0]
    assert depths.isfinite().any()
    torch.testing.assert_close(output.depth, depths.sort(1).values[:, 1], rtol=0, atol=1e-5)
    image = grid.render(POSE, camera).image
    torch.testing.assert_close(image, output.colors.T.view(3, SIDE, SIDE).clamp(-0.5, 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_linear_share_is_learned_from_images(grid, share):
    """A grid learns the linear share of an otherwise identical grid from its pixels."""
    pixels = POSE.expand(SIDE**2, 4, 4), pixel_grid(SIDE), Intrinsics.square(8.0, 3.2, 2.9, SIDE, 0.5)
    with torch.no_grad():
        initial, _ = grid.linear_share.clone(), grid.linear_share.fill_(share)
        truth = grid.render_pixels(*pixels).colors
        grid.linear_share.copy_(initial)
    optimizer = torch.optim.Adam([grid.linear_share], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (grid.render_pixels(*pixels).colors - truth).square().mean().backward()
        optimizer.step()
    assert abs(grid.linear_share.item() - share) < 0.02


def test_a_rendered_view_has_the_opacity_of_its_rays(grid):
    camera = Intrinsics.square(SIDE * 0.4, SIDE / 2, SIDE / 2, SIDE, 0.5)  # wide: the corners miss the grid
    view = next(grid.render_views(POSE[None], camera, 1))
    assert view.opacity.shape == view.depth.shape == (1, SIDE, SIDE)
    assert view.opacity[0, 0, 0] == 0
    assert view.opacity[0, SIDE // 2, SIDE // 2] > 0.2
    torch.testing.assert_close(view.image[:, 0, 0], grid.background)
