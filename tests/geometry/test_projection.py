"""Lifting and resampling compared with slow loops over voxels and samples, for random cameras and grids."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projection import lifting_matrix, resampling_matrix
from dv.geometry.trajectory import look_at
from slow_reference import lift, resample

FEATURES = 2


@st.composite
def scenes(draw):
    """Draw a camera that looks roughly at a grid at any position and scale.

    All values are jittered, because two correct roundings of an exact tie may differ; ties have their own tests.
    """
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def jitter():
        return torch.empty(3, dtype=torch.float64).uniform_(0.01, 0.05, generator=noise)

    unit = st.floats(-1, 1)
    scale = 10 ** draw(st.floats(-2, 2))
    side = draw(st.sampled_from([2, 4, 8]))
    grid_side = draw(st.sampled_from([2, 4, 6]))
    origin = torch.tensor([draw(unit) for _ in range(3)], dtype=torch.float64) * 3 * scale
    direction = torch.tensor([draw(unit) for _ in range(3)], dtype=torch.float64)
    if direction.norm() < 0.1:
        direction = torch.tensor([1.0, 0.3, 0.2], dtype=torch.float64)
    direction = direction + jitter()
    distance = draw(st.floats(0.2, 3)) * scale  # from inside the grid to well outside it
    target = origin + torch.tensor([draw(unit) for _ in range(3)], dtype=torch.float64) * 0.3 * scale + jitter() * scale
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    pose = look_at(origin + direction / direction.norm() * distance, target, up)
    f, cx, cy = (draw(st.floats(low, high)) for low, high in ((0.5, 3), (0.2, 0.8), (0.2, 0.8)))
    k = tuple(((torch.tensor([f, cx, cy]).double() + jitter()) * side).tolist())
    placement = GridPlacement(tuple(origin.tolist()), scale, (draw(st.floats(0.05, 2)) + jitter()[0].item()) * scale)
    return pose, k, side, grid_side, placement


def compare_gradients(ours, slow, weights, values):
    (gradient,) = torch.autograd.grad((ours * weights).sum(), values)
    if slow.requires_grad:
        (expected,) = torch.autograd.grad((slow * weights).sum(), values)
    else:  # no value is in view, so the slow version reads none
        expected = torch.zeros_like(values)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-8)


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(scenes(), st.integers(0, 2**31))
def test_lifting_equals_a_loop_over_voxels(scene, seed):
    pose, k, side, grid_side, placement = scene
    features = torch.randn(FEATURES, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    features.requires_grad_()
    matrix = lifting_matrix(pose, Intrinsics.square(*k, side), side, placement, grid_side)
    ours = (matrix @ features.flatten(1).T).T.reshape(FEATURES, *(grid_side,) * 3)
    slow = lift(features, pose, k, torch.tensor(placement.origin, dtype=torch.float64), placement.scale, grid_side)
    torch.testing.assert_close(ours, slow, rtol=0, atol=1e-8)
    weights = torch.randn(ours.shape, dtype=torch.float64)
    compare_gradients(ours, slow, weights, features)


@relaxed
@given(scenes(), st.integers(0, 2**31))
def test_resampling_equals_a_loop_over_samples(scene, seed):
    pose, k, side, grid_side, placement = scene
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randn(FEATURES, *(grid_side,) * 3, dtype=torch.float64, generator=generator, requires_grad=True)
    matrix = resampling_matrix(pose, Intrinsics.square(*k, side), side, placement, grid_side)
    ours = (matrix @ grid.flatten(1).T).T.reshape(FEATURES, 2 * grid_side, side, side)
    origin = torch.tensor(placement.origin, dtype=torch.float64)
    slow = resample(grid, pose, k, side, origin, placement.scale, placement.near)
    torch.testing.assert_close(ours, slow, rtol=0, atol=1e-8)
    weights = torch.randn(ours.shape, dtype=torch.float64)
    compare_gradients(ours, slow, weights, grid)


def facing(distance: float = 2.0) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = -distance
    return pose


@pytest.mark.parametrize(("cx", "first_column_lifted"), [(-0.5, True), (-0.51, False)])
def test_a_pixel_on_the_left_border_rounds_half_to_even(cx, first_column_lifted):
    # the voxel at the origin projects to column cx: -0.5 rounds to 0, inside the feature map; -0.51 to -1, outside
    placement = GridPlacement((0.0, 0.0, 0.0), 1.0, 1.0)
    matrix = lifting_matrix(facing(), Intrinsics.square(4.0, cx, 2.0, 4), 4, placement, 2)
    lifted = (matrix @ torch.ones(16, 1, dtype=torch.float64)).reshape(2, 2, 2)
    assert bool(lifted[1, 1, 1]) is first_column_lifted


def test_nothing_behind_the_camera_is_lifted():
    placement = GridPlacement((0.0, 0.0, -5.0), 1.0, 1.0)
    matrix = lifting_matrix(facing(), Intrinsics.square(4.0, 2.0, 2.0, 4), 4, placement, 4)
    assert not (matrix @ torch.ones(16, 1)).any()


def test_weights_sum_to_one_inside_the_grid():
    placement = GridPlacement((0.0, 0.0, 0.0), 1.0, 1.2)
    matrix = resampling_matrix(facing(), Intrinsics.square(8.0, 4.0, 4.0, 8), 8, placement, 8)
    sums = matrix @ torch.ones(8**3, 1, dtype=torch.float64)
    assert torch.all((sums == 0) | ((sums - 1).abs() < 1e-12))
    assert sums.any()


def test_sixteen_bit_values_are_summed_in_fp32():
    placement = GridPlacement((0.0, 0.0, 0.0), 1.0, 1.2)
    matrix = resampling_matrix(facing(), Intrinsics.square(8.0, 4.0, 4.0, 8), 8, placement, 8)
    values = torch.randn(8**3, 4)
    exact = matrix @ values
    half = matrix @ values.bfloat16()
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).square().mean().sqrt() < 1e-2 * exact.square().mean().sqrt()


def test_world_depth_of_the_depth_map():
    placement = GridPlacement((0.0, 0.0, 0.0), 2.0, 1.5)
    # sample k lies at near + k·v, and d_k = (k - D/2)/D
    depth, voxel = placement.frustum_depth(8), placement.voxel_side(8)
    k = torch.arange(depth)
    torch.testing.assert_close(placement.to_world_depth((k - depth / 2) / depth, 8), 1.5 + k * voxel)
    assert math.isclose(voxel, 0.25)
