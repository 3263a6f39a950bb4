"""The decoder's output is zero at initialisation, depends on the direction and is multiplied by the opacity."""

import pytest
import torch

from dv.geometry.grid import GridPlacement
from dv.nets.decoder import ViewDecoder
from dv.nets.radiance_sizes import RadianceSizes
from dv.ops.encoding import REFLECTED_SCALE
from dv.ops.harmonics import spherical_harmonics
from dv.radiance import RadianceGrid


def test_the_output_is_zero_at_initialisation():
    decoder = ViewDecoder(4, 3, 8)
    inputs = torch.randn(5, 7), torch.rand(5)
    assert not decoder(*inputs).any()
    decoder(*inputs).square().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_the_output_depends_on_direction_and_is_proportional_to_opacity():
    torch.manual_seed(0)
    decoder = ViewDecoder(4, 3, 8)
    torch.nn.init.normal_(decoder.layers[-1].weight)
    features, opacity = torch.randn(1, 4).expand(2, 4), torch.tensor([1.0, 0.5])
    direction, other_direction = torch.randn(2, 1, 3).expand(2, 2, 3)
    colors = decoder(torch.cat([features, direction], 1), opacity)
    torch.testing.assert_close(colors[1], colors[0] / 2)
    assert (colors - decoder(torch.cat([features, other_direction], 1), opacity)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("view_degree", "decoder_degree", "reflection_degree"), [(0, 1, 0), (0, 2, 0), (2, 1, 2), (1, 2, 4), (0, 0, 1)]
)
def test_only_the_decoder_makes_colours_view_dependent(view_degree, decoder_degree, reflection_degree):
    torch.manual_seed(0)
    degrees = {"decoder_degree": decoder_degree, "reflection_degree": reflection_degree}
    sizes = RadianceSizes(8, 8, view_degree, decoder_features=2, **degrees)
    grid = RadianceGrid(sizes, GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5))
    with torch.no_grad():
        grid.voxels.density.fill_(8.0)
        grid.voxels.features.fill_(0.3)
        grid.voxels.features[:, 3 : sizes.coefficients] = 0  # coefficients of the view-dependent harmonics
        grid.background.fill_(-0.5)
    grid.voxels.update_empty_space()
    origins = torch.tensor([[0.0, 0, -2], [-2.0, 0, 0], [0.0, 3, -2]])
    directions = torch.tensor([[0.0, 0, 1], [1.0, 0, 0], [0.0, 0, 1]])  # the last ray misses the grid
    before = grid(origins, directions, torch.full((3,), 0.5)).colors
    torch.testing.assert_close(before[0], before[1], rtol=0, atol=1e-3)
    assert grid.decoder is not None
    torch.nn.init.normal_(grid.decoder.layers[-1].weight)
    after = grid(origins, directions, torch.full((3,), 0.5)).colors
    assert (after[0] - after[1]).abs().max() > 0.01
    assert torch.equal(after[2], torch.full((3,), -0.5))


def test_the_decoder_receives_the_direction_reflected_at_the_surface():
    sizes = RadianceSizes(8, 8, decoder_features=1, reflection_degree=3)
    grid = RadianceGrid(sizes, GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5))
    with torch.no_grad():
        grid.voxels.density.fill_(8.0)
        grid.voxels.features[1:, -3:] = torch.tensor([0.0, 0.0, -2.0])
    grid.voxels.update_empty_space()
    encodings = []
    assert grid.decoder is not None
    grid.decoder.register_forward_pre_hook(lambda _, inputs: encodings.append(inputs[0][:, sizes.decoder_inputs :]))
    grid(torch.tensor([[0.0, -0.2, -1]]), torch.tensor([[0.0, 0.75, 1.0]]), torch.tensor([0.5]))
    direction, reflected = torch.tensor([[0.0, 0.6, 0.8]]), torch.tensor([[0.0, 0.6, -0.8]])
    cosine = torch.tensor([[-0.8]])
    expected = torch.cat([direction, cosine, REFLECTED_SCALE * spherical_harmonics(reflected, 3)[:, 1:]], 1)
    torch.testing.assert_close(encodings[0], expected, rtol=0, atol=1e-5)


def test_harmonics_are_orthogonal_and_normalised_from_degree_three():
    directions = torch.nn.functional.normalize(
        torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    basis = spherical_harmonics(directions.double(), 4)
    assert basis.shape[1] == 25
    products = basis.T @ basis / len(basis)
    assert (products - torch.diag(products.diag())).abs().max() < 0.01
    for degree in (3, 4):
        of_degree = basis[:, degree**2 : (degree + 1) ** 2]
        torch.testing.assert_close(
            of_degree.square().sum(1), torch.ones(len(basis), dtype=torch.float64), rtol=0, atol=1e-5
        )


def test_rays_that_hit_nothing_are_not_decoded_and_have_the_colour_of_the_background():
    sizes = RadianceSizes(8, 8, decoder_features=2, reflection_degree=2)
    grid = RadianceGrid(sizes, GridPlacement((0.0, 0.0, 0.0), 1.0, 0.5), background=torch.tensor([0.1, 0.2, 0.3]))
    assert grid.decoder is not None
    with torch.no_grad():
        grid.voxels.density.normal_(-3, 6)
        grid.voxels.features.normal_()
        torch.nn.init.normal_(grid.decoder.layers[-1].weight)
    grid.voxels.update_empty_space()
    decoded = []
    grid.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(len(inputs[0])))
    origins = torch.tensor([0.0, 0.0, -2.0]).expand(200, 3)
    directions = torch.cat([torch.randn(200, 2) * 0.4, torch.ones(200, 1)], 1)
    expected = grid(origins, directions, torch.full((200,), 0.5))
    with torch.no_grad():
        rendered = grid(origins, directions, torch.full((200,), 0.5))
    torch.testing.assert_close(rendered.colors, expected.colors.detach())
    missed = expected.transmittance == 1
    assert decoded == [200, int((~missed).sum())]
    assert 0 < missed.sum() < 200
    assert torch.equal(rendered.colors[missed], grid.background.detach().expand(int(missed.sum()), 3))
