"""The grid holds the whole thing and little else: point clouds with known truth, in any world."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.geometry.trajectory import look_at
from dv.prepare.field_of_view import Window, in_window
from dv.prepare.placement import PlacedGrid, place_grid

WINDOW = Window(-0.28, 0.28, -0.38, 0.38)
SEEDS = range(6)


@dataclass
class Scene:
    """Cameras ``[V, 4, 4]``, points ``[N, 3]``, of which the first ``count`` are the thing's."""

    poses: np.ndarray
    points: np.ndarray
    count: int

    @property
    def thing(self) -> np.ndarray:
        return self.points[: self.count]

    def moved(self, rotation: np.ndarray, scale: float, shift: np.ndarray) -> "Scene":
        poses = self.poses.copy()
        poses[:, :3, :3] = rotation @ poses[:, :3, :3]
        poses[:, :3, 3] = scale * poses[:, :3, 3] @ rotation.T + shift
        return Scene(poses, scale * self.points @ rotation.T + shift, self.count)

    def place(self) -> PlacedGrid:
        return place_grid(self.poses, WINDOW, self.points)


def aimed(eyes: np.ndarray, target: np.ndarray, up: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Return poses of a handheld camera at ``eyes``, aimed at ``target`` with an error."""
    targets = target + 0.03 * rng.normal(size=eyes.shape)
    return np.stack([look_at(*(torch.tensor(v) for v in (e, t, np.array(up, float)))).numpy()
                     for e, t in zip(eyes, targets, strict=True)])  # fmt: skip


def ring(rng: np.random.Generator, count: int = 40, distance: tuple[float, float] = (1.6, 2.2)) -> np.ndarray:
    """Return eyes all around the z axis, 15° to 60° above the origin."""
    a, e = np.linspace(0, 2 * np.pi, count, endpoint=False), np.radians(rng.uniform(15, 60, count))
    return rng.uniform(*distance, (count, 1)) * np.stack([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)], 1)


def ellipsoid(rng: np.random.Generator, center: np.ndarray, half: np.ndarray, count: int) -> np.ndarray:
    v = rng.normal(size=(count, 3))
    return center + half * v / np.linalg.norm(v, axis=1, keepdims=True)


def rod(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, radius: float, count: int) -> np.ndarray:
    return start + rng.random((count, 1)) * (end - start) + radius * rng.normal(size=(count, 3)) / 2


def figure(rng: np.random.Generator, count: int = 1500) -> np.ndarray:
    """Return points of a body, a head and an arm that stand on z = 0."""
    half = rng.uniform(0.1, 0.2, 3)
    body = ellipsoid(rng, np.array([0, 0, half[2]]), half, count // 2)
    head = ellipsoid(rng, np.array([0, 0, 2 * half[2] + 0.07]), np.full(3, 0.1), count // 3)
    direction = rng.normal(size=3) * (1, 1, 0.2)
    arm = rod(rng, np.array([0, 0, half[2]]), [0, 0, 1.3 * half[2]] + 0.4 * direction / np.linalg.norm(direction), 0.02,
              count // 6)  # fmt: skip
    points = np.concatenate([body, head, arm])
    return points[points[:, 2] > 0]


def on_wall(seed: int) -> Scene:
    """A board on a wall with a body and a long nose, which only the cameras before it show; a frame hangs beside it."""
    rng = np.random.default_rng(seed)
    board = np.stack([0.04 + 0 * rng.random(300), rng.uniform(-0.2, 0.2, 300), rng.uniform(-0.3, 0.3, 300)], 1)
    body = ellipsoid(rng, np.array([0.15, 0, 0]), np.array([0.15, 0.13, 0.2]), 900)
    nose = rod(rng, np.array([0.25, 0, 0.05]), np.array([rng.uniform(0.6, 0.7), 0.0, 0.08]), 0.03, 250)
    thing = np.concatenate([board, body[body[:, 0] > 0.03], nose])
    wall = np.stack([0.004 * rng.normal(size=5000), *rng.uniform(-1.5, 1.5, (2, 5000))], 1)
    wall = wall[(np.abs(wall[:, 1]) > 0.2) | (np.abs(wall[:, 2]) > 0.3)]
    frame = np.stack([rng.uniform(0.02, 0.04, 300), rng.uniform(0.6, 0.9, 300), rng.uniform(0.2, 0.8, 300)], 1)
    side = rng.choice([-1, 1], 40) * np.radians(rng.uniform(55, 72, 40))
    side[::5] = np.radians(rng.uniform(-12, 12, 8))  # a fifth is before it
    height = np.radians(rng.uniform(-20, 30, 40))
    eyes = 1.5 * np.stack([np.cos(side) * np.cos(height), np.sin(side) * np.cos(height), np.sin(height)], 1)
    poses = aimed(eyes, np.array([0.08, 0, 0]), (0, 0, 1), rng)
    return Scene(poses, np.concatenate([thing, wall, frame, floaters(rng, 60)]), len(thing))


def on_table(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    thing = figure(rng)
    table = np.stack([*rng.uniform(-0.9, 0.9, (2, 3000)), 0.004 * rng.normal(size=3000)], 1)
    floor = np.stack([*rng.uniform(-3, 3, (2, 800)), rng.uniform(-1.02, -0.98, 800)], 1)
    cup = ellipsoid(rng, np.array([0.6, 0.5, 0.06]), np.full(3, 0.06), 150)
    return Scene(aimed(ring(rng), np.array([0, 0, 0.2]), (0, 0, 1), rng),
                 np.concatenate([thing, table, floor, cup, floaters(rng, 60)]), len(thing))  # fmt: skip


def outdoors(seed: int) -> Scene:
    """A figure on uneven ground with trees and hills far away, and floaters everywhere."""
    rng = np.random.default_rng(seed)
    thing = figure(rng)
    x, y = rng.uniform(-1.5, 1.5, (2, 8000))
    ground = np.stack([x, y, 0.02 * np.sin(5 * x) + 0.02 * np.cos(4 * y) - 0.02 + 0.01 * rng.normal(size=8000)], 1)
    far = rng.normal(size=(3000, 3)) * (1, 1, 0.2)
    far *= rng.uniform(6, 40, (3000, 1)) / np.linalg.norm(far, axis=1, keepdims=True)
    return Scene(aimed(ring(rng), np.array([0, 0, 0.2]), (0, 0, 1), rng),
                 np.concatenate([thing, ground, far, floaters(rng, 200)]), len(thing))  # fmt: skip


def free(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    thing = figure(rng)
    far = rng.normal(size=(1000, 3))
    far *= rng.uniform(5, 20, (1000, 1)) / np.linalg.norm(far, axis=1, keepdims=True)
    return Scene(aimed(ring(rng), np.array([0, 0, 0.2]), (0, 0, 1), rng),
                 np.concatenate([thing, far, floaters(rng, 20)]), len(thing))  # fmt: skip


def few(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    thing = figure(rng, 120)
    return Scene(aimed(ring(rng, 8), np.array([0, 0, 0.2]), (0, 0, 1), rng), thing, len(thing))


def floaters(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(-1.2, 1.2, (count, 3)) + np.array([0, 0, 0.5])


def random_similarity(seed: int) -> tuple[np.ndarray, float, np.ndarray]:
    rng = np.random.default_rng(100 + seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation * np.sign(np.linalg.det(rotation)), float(np.exp(rng.uniform(-4, 4))), 5 * rng.normal(size=3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("build", [on_wall, on_table, outdoors, free, few])
def test_the_grid_holds_the_thing_and_little_else_in_any_world(build: Callable[[int], Scene], seed: int):
    for scene in (build(seed), build(seed).moved(*random_similarity(seed))):
        placed = scene.place()
        placement = placed.placement
        within = np.abs(scene.thing - placement.origin).max(1) < placement.scale / 2
        assert within.mean() >= 0.99, placed.reasons
        assert placement.scale <= 1.6 * np.ptp(scene.thing, axis=0).max(), placed.reasons
        support = {on_wall: "wall", on_table: "table", outdoors: "table"}.get(build)
        assert support is None or any(support in reason for reason in placed.reasons), placed.reasons


def test_the_nose_is_in_few_images():
    scene = on_wall(0)
    tip = scene.thing[scene.thing[:, 0].argmax()]
    assert 0.1 < in_window(to_camera(scene.poses, tip[None]), WINDOW).mean() < 0.4


@pytest.mark.parametrize("build", [on_wall, on_table, outdoors, free])
def test_a_moved_scaled_and_turned_world_moves_scales_and_turns_the_grid(build: Callable[[int], Scene]):
    turn = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])  # keeps the axes of the cube
    scene = build(0)
    expected, ours = scene.place().placement, scene.moved(turn, 7.3, np.array([40.0, -3, 5])).place().placement
    assert ours.scale == pytest.approx(7.3 * expected.scale, rel=1e-3)
    assert ours.near == pytest.approx(7.3 * expected.near, abs=0.01 * ours.scale)
    np.testing.assert_allclose(ours.origin, 7.3 * turn @ expected.origin + [40, -3, 5], atol=0.002 * ours.scale)


def test_views_of_the_surroundings_only_do_not_matter():
    scene = on_table(1)
    expected = scene.place().placement
    away = scene.poses[::4] @ np.diag([-1.0, 1, -1, 1])  # a quarter turned round
    placed = place_grid(np.concatenate([scene.poses, away]), WINDOW, scene.points)
    assert any("10 of 50 views do not show this point" in reason for reason in placed.reasons)
    np.testing.assert_allclose(placed.placement.origin, expected.origin, atol=0.05 * expected.scale)
    assert placed.placement.scale == pytest.approx(expected.scale, rel=0.05)
    assert placed.placement.near == pytest.approx(expected.near, rel=0.1)


def test_one_window_per_view():
    scene = on_table(2)
    same = place_grid(scene.poses, [WINDOW] * len(scene.poses), scene.points)
    assert same == scene.place()
    wide = [Window(-0.5, 0.5, -0.5, 0.5) if i % 2 else WINDOW for i in range(len(scene.poses))]
    assert place_grid(scene.poses, wide, scene.points).placement.scale == pytest.approx(same.placement.scale, rel=0.1)


def test_cameras_are_kept_out_of_the_margin_but_not_at_the_cost_of_the_thing():
    rng = np.random.default_rng(0)
    wide = Window(-1.2, 1.2, -1.2, 1.2)
    poses = aimed(ring(rng, distance=(0.9, 1.1)), np.zeros(3), (0, 0, 1), rng)
    placement = place_grid(poses, wide, None).placement
    assert np.abs(poses[:, :3, 3] - placement.origin).max(1).min() > placement.scale / 2
    room = rng.uniform(-1, 1, (3000, 3))  # the cameras are inside what they show
    placed = place_grid(poses, wide, room)
    assert any("cameras are inside the grid" in reason for reason in placed.reasons)
    assert placed.placement.near > 0


def test_two_views_work_and_one_is_refused():
    scene = on_table(0)
    thing = scene.thing
    pair = scene.poses[:15:7]
    placement = place_grid(pair[:2], WINDOW, thing).placement
    assert (np.abs(thing - placement.origin).max(1) < placement.scale / 2).mean() >= 0.99
    with pytest.raises(UserError, match=r"grid.origin=\[x,y,z\]"):
        place_grid(scene.poses[:1], WINDOW, thing)
