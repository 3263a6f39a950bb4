"""Pixel centres: all operators agree with the projection of known points at every image side length."""

import json

import numpy as np
import pytest
import torch

from conftest import write_object
from dv.data.calibration import read_calibration
from dv.data.folder import read_views
from dv.data.reading import ImageReading
from dv.errors import UserError
from dv.geometry.camera import Intrinsics, project
from dv.geometry.grid import GridPlacement
from dv.geometry.projection import lifting_matrix, resampling_matrix

SIDE = 64
RENDERED = Intrinsics.square(1.7 * SIDE, SIDE / 2, SIDE / 2, SIDE, pixel_center=0.5)  # the usual camera of a renderer


def image_of_spot(point: torch.Tensor, side: int) -> np.ndarray:
    """Return an area-averaged image ``[side, side]`` of a Gaussian spot at the projection of a camera point ``[3]``."""
    x, y = (RENDERED.fx * point[:2] / point[2] + RENDERED.cx).tolist()
    fine = (np.arange(SIDE * 4) + 0.5) / 4
    spot = np.exp(-((fine[None] - x) ** 2 + (fine[:, None] - y) ** 2) / (2 * 4.0**2))
    k = SIDE * 4 // side
    return spot.reshape(side, k, side, k).mean((1, 3))


def centroid(image: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(image.shape)
    return np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()


@pytest.mark.parametrize("side", [64, 32, 16, 8])
@pytest.mark.parametrize("seed", range(3))
def test_points_appear_where_they_are_projected(side, seed):
    rng = np.random.default_rng(seed)
    point = torch.tensor([*rng.uniform(-0.12, 0.12, 2), rng.uniform(1.5, 2.5)])
    observed = centroid(image_of_spot(point, side))
    at_half = project(point[None], RENDERED.at_side(side))[0].numpy()
    np.testing.assert_allclose(at_half, observed, atol=0.01)
    at_zero = project(point[None], Intrinsics.square(RENDERED.fx, 31.5, 31.5, SIDE).at_side(side))[0].numpy()
    shift = 0.5 - 0.5 * side / SIDE  # error of the reference's convention, in px of that side
    np.testing.assert_allclose(at_zero - observed, shift, atol=0.01)


@pytest.mark.parametrize("side", [64, 16, 8])
def test_a_lifted_ramp_holds_the_image_coordinate_of_every_voxel(side):
    placement = GridPlacement((0.0, 0.0, 2.0), 0.4, 1.5)
    pose = torch.eye(4, dtype=torch.float64)
    ramp = (torch.arange(side) + 0.5).double() * SIDE / side  # value of a pixel = coordinate of its centre
    lifted = lifting_matrix(pose, RENDERED, side, placement, 8) @ ramp.repeat(side, 1).reshape(-1, 1)
    points = placement.voxel_centers(8)
    expected = RENDERED.fx * points[:, 0] / points[:, 2] + RENDERED.cx
    torch.testing.assert_close(lifted[:, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", [64, 16])
def test_a_resampled_grid_of_coordinates_lies_on_the_rays_of_the_pixel_centres(side):
    placement = GridPlacement((0.0, 0.0, 2.0), 0.4, 1.8)
    pose = torch.eye(4, dtype=torch.float64)
    points = placement.voxel_centers(8)
    matrix = resampling_matrix(pose, RENDERED, side, placement, 8)
    ones = (matrix @ torch.ones(len(points), 1, dtype=torch.float64))[:, 0].reshape(16, side, side)
    x, z = ((matrix @ points)[:, i].reshape(16, side, side) for i in (0, 2))
    half = placement.scale / 2
    inner = (ones > 0) & (x.abs() < half - 0.06) & (z < 2 + half - 0.06)  # away from the clamped last layer
    columns = ((torch.arange(side) + 0.5) * SIDE / side).expand(16, side, side)[inner]
    torch.testing.assert_close(RENDERED.fx * (x / z)[inner] + RENDERED.cx, columns.double(), rtol=0, atol=1e-9)
    assert inner.sum() > 20


def test_the_dataset_sets_pixel_center_unless_it_is_overridden(tmp_path):
    folder = write_object(tmp_path) / "train" / "ball"
    assert read_calibration(folder / "intrinsics.txt").intrinsics.pixel_center == 0
    (folder / "dataset.json").write_text(json.dumps({"pixel_center": 0.5}))
    assert read_calibration(folder / "intrinsics.txt").intrinsics.pixel_center == 0.5
    assert read_calibration(folder / "intrinsics.txt", 0).intrinsics.pixel_center == 0
    (folder / "dataset.json").write_text(json.dumps({"pixel_center": 0.3}))
    with pytest.raises(UserError, match=r"dataset.json: pixel_center=0.3 must be 0 .* or 0.5"):
        read_calibration(folder / "intrinsics.txt")
    (folder / "dataset.json").write_text("[")
    with pytest.raises(UserError, match=r"dataset.json: not a JSON object"):
        read_views(folder, ImageReading(32), "white")


def test_training_and_rendering_use_pixel_center(command, ball_overrides, tmp_path):
    run = tmp_path / "run"
    assert command("train", *ball_overrides, "grid.features=8", "object.pixel_center=0.5", "loss=l1").code == 0
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["dv"]["intrinsics"]["pixel_center"] == 0.5
    frames = []
    for override in ([], ["object.pixel_center=0.5"], ["object.pixel_center=0"]):
        out = tmp_path / f"out{len(frames)}"
        arguments = [f"ckpt={run}/checkpoints/last.ckpt", "trajectory=test", "trainer.gpus=0", f"output_dir={out}"]
        assert command("render", *arguments, *override).code == 0
        frames.append((out / "rgb" / "000000.png").read_bytes())
    assert frames[0] == frames[1] != frames[2]
    result = command("train", *ball_overrides, "object.pixel_center=1")
    assert result.code == 1
    assert "object.pixel_center=1 must be 0" in result.err
