"""Exposures of new views, predicted from those of the training views."""

import pytest
import torch

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.trajectory import look_at
from dv.nets.exposure import MIN_GAIN, NOISES, WIDTHS, ViewExposures, expose
from dv.nets.radiance_sizes import RadianceSizes
from dv.radiance import RadianceGrid

UNIT = 3.0


def cameras_on_a_path(angles):
    """Return poses [V, 4, 4] on a circle of radius 4 that look at its centre."""
    center, up = torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    positions = torch.stack([4 * angles.cos(), 4 * angles.sin(), torch.ones_like(angles)], 1)
    return torch.stack([look_at(p, center, up) for p in positions]).float()


def with_gains(poses, gains):
    exposures = ViewExposures(len(poses))
    exposures.set_cameras(poses, UNIT)
    with torch.no_grad():
        exposures.log_gain.copy_(gains)
    exposures.center()
    return exposures


def predict_slowly(exposures, pose):
    """Leave out one view after the other, for each kernel, by solving a system for each."""
    x, y = exposures.cameras.double(), exposures.log_gain.detach().double()
    new = torch.cat([pose[:3, 3] / UNIT, pose[:3, 2]]).double()

    def predict(known, gains, at, width, noise):
        def kernel(a, b):
            return torch.exp(-((a - b) ** 2).sum(-1) / (2 * width**2))

        matrix = kernel(known[:, None], known[None]) + noise * torch.eye(len(known), dtype=torch.float64)
        return kernel(at, known) @ torch.linalg.solve(matrix, gains)

    least, best = (1 - MIN_GAIN) * (y**2).mean(), torch.zeros(3, dtype=torch.float64)
    for width in WIDTHS:
        for noise in NOISES:
            errors = []
            for i in range(len(x)):
                others = [j for j in range(len(x)) if j != i]
                errors.append(predict(x[others], y[others], x[i], width, noise) - y[i])
            error = torch.stack(errors).square().mean()
            if error < least:
                least, best = error, predict(x, y, new, width, noise)
    return best.float()


@pytest.mark.parametrize("seed", range(4))
def test_prediction_equals_leaving_out_each_view_in_turn(seed):
    g = torch.Generator().manual_seed(seed)
    angles = 6.28 * torch.rand(12, generator=g, dtype=torch.float64)
    gains = torch.stack([(angles + i).sin() for i in range(3)], 1) / 5 + torch.randn(12, 3, generator=g) / 30
    exposures = with_gains(cameras_on_a_path(angles), gains)
    pose = cameras_on_a_path(6.28 * torch.rand(1, generator=g, dtype=torch.float64))[0]
    torch.testing.assert_close(exposures.predict(pose, UNIT), predict_slowly(exposures, pose), rtol=1e-4, atol=1e-5)


def test_automatic_exposure_is_predicted_and_random_exposure_is_not():
    angles = torch.linspace(0, 6, 30, dtype=torch.float64)
    true = torch.stack([(angles + i).sin() for i in range(3)], 1) / 5
    new = torch.tensor([1.7], dtype=torch.float64)
    pose = cameras_on_a_path(new)[0]
    smooth = with_gains(cameras_on_a_path(angles), true)
    expected = torch.stack([(new[0] + i).sin() for i in range(3)]) / 5 - true.mean(0)
    torch.testing.assert_close(smooth.predict(pose, UNIT), expected.float(), rtol=0.1, atol=0.01)
    shuffled = with_gains(cameras_on_a_path(angles), true[torch.randperm(30, generator=torch.Generator())])
    assert shuffled.predict(pose, UNIT).tolist() == [0, 0, 0]


def test_of_many_views_some_suffice():
    angles = torch.linspace(0, 6, 1700, dtype=torch.float64)
    true = torch.stack([(angles + i).sin() for i in range(3)], 1) / 5
    new = torch.tensor([1.7], dtype=torch.float64)
    many = with_gains(cameras_on_a_path(angles), true)
    expected = torch.stack([(new[0] + i).sin() for i in range(3)]) / 5 - true.mean(0)
    torch.testing.assert_close(many.predict(cameras_on_a_path(new)[0], UNIT), expected.float(), rtol=0.1, atol=0.01)


def test_views_near_a_bright_one_are_bright_and_the_thing_alone_is_not():
    sizes = RadianceSizes(None, 8, initial_density=3.0, levels=2, environment=4, exposures=30)
    grid = RadianceGrid(sizes, GridPlacement((0.0, 0.0, 0.0), UNIT, 0.1), torch.full((3,), -0.2))
    angles = torch.linspace(0, 6, 30, dtype=torch.float64)
    poses, camera = cameras_on_a_path(angles), Intrinsics.square(20.0, 5.0, 5.0, 10)
    grid.exposures.set_cameras(poses, UNIT)
    with torch.no_grad():
        grid.exposures.log_gain.copy_((angles.sin() / 3)[:, None].expand(30, 3))
    bright = grid.render(poses[8], camera).image + 0.5
    grid.use_mean_exposure()
    mean = grid.render(poses[8], camera).image + 0.5
    torch.testing.assert_close(
        bright / mean, torch.full_like(mean, float((angles[8].sin() / 3).exp())), rtol=0.02, atol=0
    )
    restored = RadianceGrid.from_state(vars(sizes), grid.placement, grid.state_dict())
    torch.testing.assert_close(restored.render(poses[8], camera).image + 0.5, bright)
    restored.isolate()
    alone = restored.render(poses[8], camera)
    assert (alone.image + 0.5 <= mean + 1e-6).all()


def test_a_background_that_no_camera_took_keeps_its_colour():
    colors, background = torch.tensor([[0.1, 0.1, 0.1], [0.5, 0.5, 0.5]]), torch.tensor([0.5, 0.5, 0.5])
    seen = expose(colors, torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.0, 1.0]), background)
    torch.testing.assert_close(seen, torch.tensor([[-0.2, -0.2, -0.2], [0.5, 0.5, 0.5]]))
