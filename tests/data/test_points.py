"""Points of an object: kept by imports, refused if damaged, and where a radiance grid starts."""

import io

import numpy as np
import pytest
import torch

from conftest import TINY_RADIANCE, compose_config, write_object
from dv.data.object import ObjectSource
from dv.data.points import read_points, write_points
from dv.errors import UserError
from dv.importers.folder import read_folder
from dv.lightning.radiance_module import RadianceGridModule
from dv.nets.voxels import SparseVoxels
from dv.prepare.writing import WriteSettings
from dv.prepare.writing import write_object as write_prepared

FAR = 6.4e6  # metres from the origin of the world


def test_points_survive_a_copy_of_the_object(tmp_path):
    root = write_object(tmp_path / "first")
    points = FAR + np.random.default_rng(0).normal(size=(20, 3)) / 1000
    assert ObjectSource(root, "ball").calibration().points is None
    write_points(root / "train" / "ball", points)
    write_prepared(read_folder(root, "ball"), tmp_path / "second", "copy", WriteSettings(), {})
    np.testing.assert_array_equal(ObjectSource(tmp_path / "second", "copy").calibration().points, points)
    assert not (tmp_path / "second" / "test" / "copy" / "points.npy").exists()


def test_points_of_exact_cameras_are_not_for_noisy_ones(tmp_path):
    root = write_object(tmp_path / "first")
    write_points(root / "train" / "ball", np.zeros((9, 3)))
    assert ObjectSource(root, "ball", noise_angle=1.0).calibration().points is None
    settings = WriteSettings(noise_distance=0.01)
    write_prepared(read_folder(root, "ball"), tmp_path / "second", "copy", settings, {})
    assert ObjectSource(tmp_path / "second", "copy").calibration().points is None


def test_no_points_and_points_that_no_view_shows_are_no_points(tmp_path):
    root = write_object(tmp_path / "first")
    for number, points in enumerate((np.zeros((0, 3)), np.full((9, 3), 99.0))):
        write_points(root / "train" / "ball", points)
        write_prepared(read_folder(root, "ball"), tmp_path / "second", str(number), WriteSettings(scale=0.7), {})
    assert ObjectSource(tmp_path / "second", "0").calibration().points is None
    first, second = (ObjectSource(tmp_path / "second", name).calibration().placement for name in "01")
    assert first == second


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x y z\n1 2 3\n",
        saved(np.zeros((4, 3)))[:-5],
        saved(np.zeros((4, 2))),
        saved(np.zeros(3)),
        saved(np.full((4, 3), np.nan)),
        saved(np.array([["a", "b", "c"]])),
        saved(np.array([[{}, 1, 2]], dtype=object)),
    ],
    ids=["empty", "text", "truncated", "two columns", "one axis", "nan", "strings", "objects"],
)
def test_damaged_points_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "points.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"points\.npy .*delete it: it is optional") as error:
        read_points(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(4))
def test_density_is_raised_at_the_corners_of_the_cells_that_hold_points(seed):
    g = torch.Generator().manual_seed(seed)
    side, levels = int(torch.randint(8, 14, (1,), generator=g)), seed % 3 + 1
    voxels = SparseVoxels(side, 3, -5.0, levels)
    with torch.no_grad():
        voxels.density[1:] = 4 * torch.randn(len(voxels.density) - 1, generator=g) - 3
    before, middle = voxels.density.detach().clone(), (side - 1) / 2
    points = middle + 2**levels * side / 2 * torch.randn(30, 3, generator=g, dtype=torch.float64) / 1.5
    voxels.raise_density(points, -1.5)
    expected = before.clone()
    for point in points:
        for level in range(levels):
            at = (point - middle) / 2**level + middle
            if (at < 0).any() or (at >= side - 1).any():
                continue
            x, y, z = at.floor().int().tolist()
            for row in voxels.index[level, z : z + 2, y : y + 2, x : x + 2].flatten().tolist():
                if row:
                    expected[row] = max(float(before[row]), -1.5)
    torch.testing.assert_close(voxels.density.detach(), expected, rtol=0, atol=0)
    assert (expected != before).any()


def test_a_training_starts_with_density_at_the_points(tmp_path):
    root = write_object(tmp_path)
    source = ObjectSource(root, "ball", image_side=32)
    placement = source.calibration().placement
    points = np.array([[0.1, -0.2, 0.05], [9.0, 9.0, 9.0]]) * placement.scale + placement.origin
    write_points(root / "train" / "ball", points)

    def densest(*overrides):
        config = compose_config("train", *TINY_RADIANCE, "output_dir=x", *overrides)
        calibration = source.calibration()
        module = RadianceGridModule(config, source.views("train"), calibration, calibration.intrinsics)
        voxels = module.model.voxels
        rows = voxels.density[1:] > config.model.initial_density
        return (voxels.positions()[rows] / (voxels.side - 1) - 0.5) * placement.scale, voxels.side

    near, side = densest()
    assert len(near) == 8
    assert np.abs(near.mean(0).numpy() + placement.origin - points[0]).max() < placement.scale / (side - 1)
    assert len(densest("model.point_density=null")[0]) == 0
