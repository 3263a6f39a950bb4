"""Points from photographs with known cameras lie on the surfaces."""

import json
import sys

import numpy as np
import pytest

from conftest import write_views
from dv.capture.triangulation import NEIGHBOURS, neighbours, triangulate
from dv.data.object import ObjectSource
from dv.errors import UserError
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph
from photo_scene import HALF, TABLE, poses_around, render_scene, write_jpeg

pytest.importorskip("pycolmap")
LENSES = Lens(300, 240, 300, 310, 140, 130), Lens(240, 300, 310, 310, 120, 150, (-0.15, 0.03, 0, 0))
FAR = np.array([400.0, -300.0, 50.0])  # of the world's origin


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Photographs of a box on a table by two cameras, one of them with distortion, far from the world's origin."""
    folder, views = tmp_path_factory.mktemp("scene"), []
    for i, pose in enumerate(poses_around(16)):
        lens, path = LENSES[i % 2], folder / f"{i:02d} ä=.jpg"
        write_jpeg(path, render_scene(pose, lens))
        moved = pose.copy()
        moved[:3, 3] += FAR
        views.append(Photograph(f"{i:02d}", path, moved, lens))
    return folder, views


def distance_to_surface(points):
    """Distance [N] of points to the nearer of the box and the table."""
    outside = np.abs(points - (0, 0, HALF[2])) - HALF
    box = np.linalg.norm(np.maximum(outside, 0), axis=1) + np.minimum(outside.max(1), 0)
    table = np.where(np.abs(points[:, :2]).max(1) < TABLE / 2, np.abs(points[:, 2]), np.inf)
    return np.minimum(np.abs(box), table)


def test_points_lie_on_box_and_table(scene, tmp_path):
    _, views = scene
    points = triangulate(views, tmp_path / "work") - FAR
    assert len(points) > 300
    distance = distance_to_surface(points)
    assert np.median(distance) < 0.002
    assert (distance < 0.02).mean() > 0.95
    assert (points[:, 2] > 0.05).sum() > 50, "some are on the box"


def test_an_import_without_points_gets_some(scene, tmp_path, command):
    folder, views = scene
    frames = []
    for view in views:
        k, flip = view.lens, np.diag([1, -1, -1, 1])
        k1, k2, p1, p2 = k.distortion or (0, 0, 0, 0)
        frame = {"file_path": view.path.name, "w": k.width, "h": k.height, "fl_x": k.fx, "fl_y": k.fy}
        frame |= {"cx": k.cx, "cy": k.cy, "k1": k1, "k2": k2, "p1": p1, "p2": p2}
        frames.append({**frame, "transform_matrix": (view.pose @ flip).tolist()})
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    arguments = ["source=transforms", f"source.path={folder}", "object.name=box", f"output_dir={tmp_path / 'out'}"]
    result = command("prepare", *arguments)
    assert result.code == 0, result.err
    assert "points from 13 training views" in result.out
    calibration = ObjectSource(tmp_path / "out", "box").calibration()
    placement = calibration.placement
    inside = np.abs(np.array([[0, 0, 0], [0, 0, 2 * HALF[2]]]) + FAR - placement.origin) < placement.scale / 2
    assert inside.all(), placement
    assert placement.scale < 2, "the box holds the thing, not the table"
    assert np.median(distance_to_surface(calibration.points.numpy() - FAR)) < 0.005
    assert not list((tmp_path / "out").glob(".*")), "nothing is left of the work"
    assert "nothing to do" in command("prepare", *arguments).out


def test_plain_backgrounds_and_triangulate_false_need_no_points(tmp_path, scene, command, monkeypatch):
    for split, count in (("train", 8), ("validation", 1), ("test", 1)):
        write_views(tmp_path / split / "ball", count, 32)
    given = ["source=folder", f"source.path={tmp_path}", "source.object=ball"]
    assert command("prepare", *given, f"output_dir={tmp_path / 'a'}").code == 0
    assert not (tmp_path / "a/train/a/points.npy").exists()
    result = command("prepare", *given, "source.triangulate=true", f"output_dir={tmp_path / 'b'}")
    assert result.code == 0, result.err
    assert "triangulated" in result.out
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    result = command("prepare", *given, "source.triangulate=true", f"output_dir={tmp_path / 'c'}")
    assert "this needs pycolmap: pip install 'dv[capture]'" in result.err


@pytest.mark.parametrize("step", ["extract_features", "match_image_pairs", "triangulate_points"])
def test_an_error_of_colmap_says_how_to_do_without_points(scene, tmp_path, monkeypatch, step):
    def fail(*_arguments, **_options):
        raise RuntimeError("out of order")

    monkeypatch.setattr(f"pycolmap.{step}", fail)
    with pytest.raises(UserError, match="out of order; source.triangulate=false does without points"):
        triangulate(scene[1][:3], tmp_path / "work")


@pytest.mark.parametrize("count", [2, 9, 40])
def test_every_camera_has_its_neighbours(count):
    rng = np.random.default_rng(count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    poses[:, :3, 3] = rng.normal(size=(count, 3)) + 1e6
    pairs = neighbours(poses)
    assert all(i < j for i, j in pairs)
    assert len(set(pairs)) == len(pairs)
    centers = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    spread = np.mean([np.linalg.norm(c) for c in centers])
    for i in range(count):

        def distance(j, i=i):
            apart = np.sum((centers[i] - centers[j]) ** 2) / spread**2
            return apart + np.sum((poses[i, :3, 2] - poses[j, :3, 2]) ** 2)

        nearest = sorted((j for j in range(count) if j != i), key=distance)[:NEIGHBOURS]
        assert all((min(i, j), max(i, j)) in pairs for j in nearest)
