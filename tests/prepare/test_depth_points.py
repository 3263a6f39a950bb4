"""Points of depth images: on the surface if the images agree, none if they contradict the cameras."""

import json

import cv2
import numpy as np
import pytest

from camera_files import View, transforms, write_json
from dv.errors import UserError
from dv.geometry.camera import to_camera
from dv.importers.transforms import read_transforms
from dv.prepare.depth_points import DepthImage, points_of_depth
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph
from dv.synthetic.handheld import upright_pose

RADIUS = 0.7


def sphere_depth(pose: np.ndarray, lens: Lens, height: int, width: int) -> np.ndarray:
    """Camera z of a sphere around 0 at the centres of ``height × width`` pixels; 0 beside it."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    x = (columns * lens.width / width - lens.cx) / lens.fx
    y = (rows * lens.height / height - lens.cy) / lens.fy
    rays = np.stack([x, y, np.ones_like(x)], -1)
    center = to_camera(pose, np.zeros((1, 3)))[0]
    a, b, c = (rays**2).sum(-1), rays @ center, center @ center - RADIUS**2
    root = b * b - a * c
    return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0.0)


@pytest.fixture
def images(tmp_path):
    """Twelve views of the sphere, with depth images of half their size in thousandths."""
    found = []
    for i in range(12):
        angle = 2 * np.pi * i / 12
        pose = upright_pose(np.array([3 * np.cos(angle), 3 * np.sin(angle), 0.8]), np.zeros(3))
        lens = Lens(64, 48, 70.0, 72.0, 30.0, 25.0)
        path = tmp_path / f"{i}.png"
        depth = sphere_depth(pose, lens, 24, 32)
        cv2.imwrite(str(path), (depth * 1000).round().astype(np.uint16))
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((48, 64, 3), 100, np.uint8))
        found.append(DepthImage(Photograph(str(i), tmp_path / f"{i}.jpg", pose, lens), path, 1e-3))
    return found


def test_points_lie_on_the_surface(images):
    points = points_of_depth(images)
    assert len(points) > 500
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, atol=2e-3)


def test_numpy_files_and_other_units(images, tmp_path):
    for image in images:
        np.save(image.path.with_suffix(".npy"), cv2.imread(str(image.path), cv2.IMREAD_UNCHANGED) / 250)
    points = points_of_depth([DepthImage(i.photograph, i.path.with_suffix(".npy"), 0.25) for i in images])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, atol=2e-3)


def test_depth_in_another_unit_than_the_cameras_is_not_used(images):
    assert points_of_depth([DepthImage(i.photograph, i.path, 0.5e-3) for i in images]) is None
    assert points_of_depth(images[:1]) is None


def test_faults(images):
    images[3].path.write_text("hello")
    with pytest.raises(UserError, match=r"3.png: cannot be read"):
        points_of_depth(images)
    cv2.imwrite(str(images[3].path), np.zeros((24, 32), np.uint8))
    with pytest.raises(UserError, match="must have 16 bits"):
        points_of_depth(images)
    cv2.imwrite(str(images[3].path), np.zeros((32, 24), np.uint16))
    with pytest.raises(UserError, match=r"depth of 24×32 px for an image of 64×48 px"):
        points_of_depth(images)


@pytest.mark.parametrize(("scale", "told"), [(1.0, "agree on"), (3.0, "contradict each other")])
def test_transforms_json_with_depth(images, tmp_path, scale, told):
    views = [View(f"{i}.jpg", image.photograph.pose, image.photograph.lens) for i, image in enumerate(images)]
    for view in views:
        view.pose[:3, 3] *= scale
    transforms(tmp_path, views)
    content = json.loads((tmp_path / "transforms.json").read_text())
    for i, frame in enumerate(content["frames"]):
        frame |= {"file_path": f"{i}.jpg", "depth_file_path": f"{i}.png"}
    write_json(tmp_path / "transforms.json", content)
    found = read_transforms(tmp_path)
    assert told in found.notes[0]
    assert (found.points is not None) == (scale == 1)
