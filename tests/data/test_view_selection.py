import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dv.data.view_selection import every, farthest_views, perturb, random_views
from dv.geometry.camera import rigid_defect
from dv.geometry.trajectory import look_at


def circle(count: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    eyes = torch.tensor(np.stack([2 * np.cos(angles), 2 * np.sin(angles), 1 + 0 * angles], 1))
    up = torch.tensor([0.0, 0, 1]).double()
    return torch.stack([look_at(eye, torch.zeros(3).double(), up) for eye in eyes]).numpy()


def test_every_kth():
    assert every(10, 3) == [0, 3, 6, 9]
    assert every(4, 1) == [0, 1, 2, 3]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_random_views_are_distinct_ordered_and_repeatable(count, n, seed):
    chosen = random_views(count, n, seed)
    assert chosen == sorted(set(chosen)) == random_views(count, n, seed)
    assert len(chosen) == min(n, count)
    assert set(chosen) <= set(range(count))


def test_farthest_views_of_a_circle_are_spread_evenly():
    assert farthest_views(circle(16), 4) == [0, 4, 8, 12]


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 9), st.integers(2, 5), st.integers(0, 2**31))
def test_farthest_views_are_within_twice_the_best_spread(count, n, seed):
    """Against all subsets: Gonzalez' bound for the smallest distance between chosen views."""
    from itertools import combinations

    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = np.random.default_rng(seed).normal(size=(count, 3))

    def spread(chosen):
        return min(np.linalg.norm(poses[a, :3, 3] - poses[b, :3, 3]) for a, b in combinations(chosen, 2))

    n = min(n, count)
    best = max(spread(chosen) for chosen in combinations(range(count), n))
    assert spread(farthest_views(poses, n)) >= best / 2


@pytest.mark.parametrize(("angle", "distance"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.1), (5.0, 0.3)])
def test_noise_has_the_given_size_and_leaves_poses_rigid(angle, distance):
    poses = circle(50)
    noisy = perturb(poses, angle, distance, seed=1)
    assert all(rigid_defect(torch.tensor(pose)) is None for pose in noisy)
    turned = noisy[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)
    angles = np.degrees(np.arccos(((np.trace(turned, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))
    np.testing.assert_allclose(angles, angle, atol=1e-5)
    shifts = noisy[:, :3, 3] - poses[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(shifts, axis=1), distance, atol=1e-12)
    if distance:  # in all directions, not one
        assert np.linalg.norm(shifts.mean(0)) < 0.5 * distance
    np.testing.assert_array_equal(noisy, perturb(poses, angle, distance, seed=1))
