import imageio.v3 as iio
import numpy as np

from conftest import write_object
from dv.data.object import ObjectSource
from dv.geometry.grid import GridPlacement
from dv.prepare.camera_plot import COLORS, box_edges, plot_scene


def test_edges_of_the_grid():
    edges = np.stack(box_edges(GridPlacement((1.0, 2.0, 3.0), 0.5, 1.0)))
    assert edges.shape == (12, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1), 0.5)
    np.testing.assert_allclose(edges.reshape(-1, 3).mean(0), (1, 2, 3))


def test_cameras_of_every_split_grid_and_points_are_drawn(tmp_path):
    source = ObjectSource(write_object(tmp_path), "ball")
    poses = {split: source.views(split).poses.numpy() for split in ("train", "validation", "test")}
    calibration = source.calibration()
    points = np.random.default_rng(0).normal(size=(500, 3)) * 0.1
    points[0] = 1e6  # a point far away must not change the limits of the plot
    plot_scene(tmp_path / "a.png", poses, calibration.placement, calibration.intrinsics, points)
    image = iio.imread(tmp_path / "a.png")[..., :3].astype(int)
    assert image.shape[0] > 400
    for color in COLORS.values():
        expected = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image - expected).max(2) < 60).sum() > 50
    without = tmp_path / "b.png"
    plot_scene(without, poses, calibration.placement, calibration.intrinsics)
    with_points, without_points = (
        np.ptp(np.argwhere((iio.imread(p)[..., :3] < 60).all(2)), axis=0) for p in (tmp_path / "a.png", without)
    )
    np.testing.assert_allclose(with_points, without_points, rtol=0.2)
