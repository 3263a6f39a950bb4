import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_object
from dv.data.object import ObjectSource
from dv.data.training_cameras import read_training_cameras
from dv.data.view_selection import farthest_views, hold_out, perturb, random_views, thin
from dv.geometry.camera import rigid_defect
from dv.geometry.trajectory import look_at


def circle(count: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    eyes = torch.tensor(np.stack([2 * np.cos(angles), 2 * np.sin(angles), 1 + 0 * angles], 1))
    up = torch.tensor([0.0, 0, 1]).double()
    return torch.stack([look_at(eye, torch.zeros(3).double(), up) for eye in eyes]).numpy()


def test_every_tenth_view_is_held_out():
    assert hold_out(21, ["validation", "test"]) == {
        "train": [i for i in range(21) if i not in (4, 9, 14, 19)], "validation": [4, 14], "test": [9, 19],
    }  # fmt: skip
    assert hold_out(6, ["test"]) == {"train": [0, 1, 2, 3, 5], "test": [4]}
    assert hold_out(3, []) == {"train": [0, 1, 2]}
    assert hold_out(4, ["validation", "test"]) == {"train": [0, 1, 2, 3], "validation": [], "test": []}


@pytest.mark.parametrize("count", [4, 5, 9, 10, 11, 15, 24])
def test_at_least_one_view_is_held_out_when_required(count):
    splits = hold_out(count, ["validation", "test"], at_least_one=True)
    assert sorted(i for indices in splits.values() for i in indices) == list(range(count))
    assert min(map(len, splits.values())) >= 1
    assert len(splits["train"]) >= 2


def test_thinning_keeps_every_kth_view_then_the_farthest():
    assert thin(circle(10), every=3) == [0, 3, 6, 9]
    assert thin(circle(4)) == [0, 1, 2, 3]
    assert thin(circle(32), every=2, farthest=4) == [0, 8, 16, 24]
    assert thin(circle(32), every=2, random=3, seed=5) == [2 * i for i in random_views(16, 3, 5)]


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
    """Compare with all subsets: Gonzalez' bound for the smallest distance between chosen views."""
    from itertools import combinations

    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = np.random.default_rng(seed).normal(size=(count, 3))

    def spread(chosen):
        return min(np.linalg.norm(poses[a, :3, 3] - poses[b, :3, 3]) for a, b in combinations(chosen, 2))

    n = min(n, count)
    best = max(spread(chosen) for chosen in combinations(range(count), n))
    assert spread(farthest_views(poses, n)) >= best / 2


@pytest.mark.parametrize(("angle", "distance"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.1), (5.0, 0.3)])
def test_noise_has_the_given_size_and_poses_stay_rigid(angle, distance):
    poses = circle(50)
    noisy = perturb(poses, angle, distance, seed=1)
    assert all(rigid_defect(torch.tensor(pose)) is None for pose in noisy)
    turned = noisy[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1)
    angles = np.degrees(np.arccos(((np.trace(turned, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))
    np.testing.assert_allclose(angles, angle, atol=1e-5)
    shifts = noisy[:, :3, 3] - poses[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(shifts, axis=1), distance, atol=1e-12)
    if distance:  # directions differ between cameras
        assert np.linalg.norm(shifts.mean(0)) < 0.5 * distance
    np.testing.assert_array_equal(noisy, perturb(poses, angle, distance, seed=1))


@pytest.mark.parametrize("held_out", [(), ("test",), ("validation", "test")])
@pytest.mark.parametrize("selection", [{}, {"skip": 2}, {"training_views": 5}, {"skip": 1, "training_views": 4}])
def test_training_cameras_are_those_of_the_views_that_are_trained_on(held_out, selection, tmp_path):
    root = write_object(tmp_path, train=24)
    for split in held_out:
        shutil.rmtree(root / split)
    source = ObjectSource(root, "ball", **selection)
    cameras, views = read_training_cameras(source), source.views("train")
    assert cameras.names == views.names
    assert torch.equal(cameras.poses, views.poses)
    assert cameras.intrinsics == views.cameras
