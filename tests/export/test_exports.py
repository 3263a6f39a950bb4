"""Points, splats and arrays say what the grid says, read by programs that know nothing of dv."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from plyfile import PlyData

from dv.errors import UserError
from dv.export.mesh import depth_views, extract_mesh, largest_pieces, without_unseen, write_mesh
from dv.export.splats import write_splats
from dv.export.surface import visible_surface
from dv.geometry.trajectory import look_at
from dv.metrics import to_unit
from radiance_balls import CAMERA, RADIUS, ball_grid

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"


def around(count: int, origin=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """Poses all around a place."""
    rng, center = np.random.default_rng(0), torch.tensor(origin)
    places = torch.tensor(rng.normal(size=(count, 3)), dtype=torch.float32)
    up = torch.tensor([0.0, 0.0, 1.0])
    return torch.stack([look_at(center + 1.6 * p / p.norm(), center, up) for p in places])


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (100.0, -50.0, 7.0)])
def test_points_lie_on_the_surface(origin):
    grid = ball_grid(grid_side=32, origin=origin)
    surface = visible_surface(grid, around(20, origin), [CAMERA] * 20)
    offsets = surface.positions - torch.tensor(origin)
    distances = offsets.norm(dim=1)
    assert len(distances) > 1000
    np.testing.assert_allclose(distances, RADIUS, atol=1 / 31)
    assert abs(float(distances.mean()) - RADIUS) < 0.2 / 31
    cosines = (surface.normals.double() * offsets).sum(1) / distances
    assert cosines.mean() > 0.95
    assert (cosines > 0.5).float().mean() > 0.99
    expected = grid.shade(surface.features, torch.zeros(len(distances)), -surface.normals) + 0.5
    torch.testing.assert_close(surface.frontal_colors(), expected.clamp(0, 1).detach())


def test_meshes_lie_on_the_surface(tmp_path):
    """Of a ball with a smaller one beside it, only the ball is kept."""
    origin = (3.0, -2.0, 1.0)
    grid = ball_grid(grid_side=32, origin=origin, view_degree=1)
    voxels = grid.voxels
    corner = voxels.positions()
    small = ((corner - 2).norm(dim=1) < 1.8).nonzero()[:, 0] + 1
    voxels.density.data[small] = 10.0
    voxels.update_empty_space()
    poses, cameras = around(40, origin), [CAMERA.at_side(128)] * 40
    surface = visible_surface(grid, poses, cameras)
    mesh = extract_mesh(surface, poses, cameras, None)
    distances = np.linalg.norm(mesh.vertices - origin, axis=1)
    assert abs(distances - RADIUS).mean() < 0.016  # half of the distance between vertices
    assert abs(distances - RADIUS).max() < 0.04
    assert mesh.area == pytest.approx(4 * np.pi * RADIUS**2, rel=0.1)
    outwards = (mesh.face_normals * (mesh.triangles_center - origin)).sum(1)
    assert (outwards > 0).mean() > 0.99
    fewer = extract_mesh(surface, poses, cameras, 500)
    assert 400 < len(fewer.faces) <= 500
    assert abs(np.linalg.norm(fewer.vertices - origin, axis=1) - RADIUS).mean() < 0.02
    write_mesh(fewer, tmp_path / "ball", torch.tensor([0.0, 0.0, 1.0]))
    ply = trimesh.load(tmp_path / "ball.ply", process=False)
    np.testing.assert_allclose(ply.vertices, fewer.vertices, atol=1e-5)
    np.testing.assert_array_equal(ply.visual.vertex_colors, fewer.visual.vertex_colors)
    glb = trimesh.load(tmp_path / "ball.glb", force="mesh", process=False)
    x, y, z = fewer.vertices.T
    np.testing.assert_allclose(glb.vertices, np.stack([x, z, -y], 1), atol=1e-5)
    content = (tmp_path / "ball.glb").read_bytes()
    header = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    attributes = header["meshes"][0]["primitives"][0]["attributes"]
    assert set(attributes) == {"POSITION", "NORMAL", "COLOR_0"}
    assert header["accessors"][attributes["COLOR_0"]]["type"] == "VEC3"
    assert "KHR_materials_unlit" in header["extensionsUsed"]


def rendered_splats(path: Path, pose: np.ndarray, camera) -> np.ndarray:
    """Render a splat PLY before white, splat by splat, as Kerbl et al. 2023 describe it; ``[H, W, 3]``."""
    vertex = PlyData.read(path)["vertex"]
    columns = {p.name: np.asarray(vertex[p.name], np.float64) for p in vertex.properties}
    xyz = np.stack([columns[c] for c in "xyz"], 1)
    toward = (xyz - pose[:3, 3]) @ pose[:3, :3]
    w, x, y, z = np.stack([columns[f"rot_{i}"] for i in range(4)])
    turn = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]).transpose(2, 0, 1)  # fmt: skip
    axes = turn * np.exp(np.stack([columns[f"scale_{i}"] for i in range(3)], 1))[:, None]
    in_camera = pose[:3, :3].T @ axes
    depth = toward[:, 2]
    jacobian = np.zeros((len(xyz), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 1, 1] = camera.fx / depth, camera.fy / depth
    jacobian[:, :, 2] = -toward[:, :2] * [camera.fx, camera.fy] / depth[:, None] ** 2
    flat = jacobian @ in_camera
    inverse = np.linalg.inv(flat @ flat.transpose(0, 2, 1) + 0.3 * np.eye(2))
    center = toward[:, :2] / depth[:, None] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    dx, dy, dz = ((xyz - pose[:3, 3]) / np.linalg.norm(xyz - pose[:3, 3], axis=1)[:, None]).T
    basis = np.stack([
        np.full_like(dx, 0.2820948), -0.4886025 * dy, 0.4886025 * dz, -0.4886025 * dx, 1.0925484 * dx * dy,
        -1.0925484 * dy * dz, 0.3153916 * (2 * dz * dz - dx * dx - dy * dy), -1.0925484 * dx * dz,
        0.5462742 * (dx * dx - dy * dy),
    ], 1)  # fmt: skip
    rgb = np.stack([
        basis[:, 0] * columns[f"f_dc_{c}"] + sum(basis[:, k + 1] * columns[f"f_rest_{8 * c + k}"] for k in range(8))
        for c in range(3)
    ], 1) + 0.5  # fmt: skip
    alpha = 1 / (1 + np.exp(-columns["opacity"]))
    v, u = np.mgrid[: camera.height, : camera.width]
    image, passing = np.zeros((camera.height, camera.width, 3)), np.ones((camera.height, camera.width))
    for i in np.argsort(depth):
        a, b = u - center[i, 0], v - center[i, 1]
        power = inverse[i, 0, 0] * a * a + 2 * inverse[i, 0, 1] * a * b + inverse[i, 1, 1] * b * b
        covered = np.minimum(0.99, alpha[i] * np.exp(-power / 2))
        covered[covered < 1 / 255] = 0
        image += (passing * covered)[..., None] * rgb[i].clip(0)
        passing *= 1 - covered
    return image + passing[..., None]


@pytest.mark.parametrize("sizes", [{}, {"view_degree": 1}, {"decoder_features": 5, "reflection_degree": 2}])
def test_splats_look_like_the_grid(sizes, tmp_path):
    grid = ball_grid(seed=1, grid_side=16, **sizes)
    grid.voxels.features.data[:, : grid.sizes.coefficients] *= 0.7  # colours within what can be shown
    surface = visible_surface(grid, around(30), [CAMERA] * 30)
    count = write_splats(surface, tmp_path / "ball.ply")
    assert count == len(surface.positions)
    for pose in around(40)[30:32]:
        found = rendered_splats(tmp_path / "ball.ply", pose.numpy().astype(float), CAMERA).clip(0, 1)
        expected = to_unit(grid.render(pose, CAMERA).image).permute(1, 2, 0).numpy()
        assert -10 * np.log10(np.square(found - expected).mean()) > 22


@pytest.mark.parametrize("format", ["html", "mesh", "points", "splats", "grid"])
def test_every_format_is_written_with_what_it_says(format, command, ball_checkpoint, tmp_path):
    out = tmp_path / "out"
    done = command("export", f"ckpt={ball_checkpoint}", f"format={format}", f"output_dir={out}")
    assert done.code == 0, done.err
    about = json.loads((out / "export.json").read_text())
    assert about["format"] == format
    assert about["step"] == 7
    assert sorted(p.name for p in out.iterdir()) == sorted([*about["files"], "export.json"])
    assert len(about["files"]) == (2 if format == "mesh" else 1)
    if format != "html":
        assert about.get("points") or about.get("splats") or about.get("vertices")


def test_max_points(command, ball_checkpoint, tmp_path):
    done = command("export", f"ckpt={ball_checkpoint}", "format=points", "max_points=50", f"output_dir={tmp_path}")
    assert done.code == 0, done.err
    assert len(PlyData.read(tmp_path / "ball.ply")["vertex"]) == 50


def test_deepvoxels_has_points_only(command, trained, tmp_path):
    done = command("export", f"ckpt={trained}", "format=points", f"output_dir={tmp_path}")
    assert done.code == 0, done.err
    assert 0 < len(PlyData.read(tmp_path / "ball.ply")["vertex"]) <= 8**3
    out = tmp_path / "new"
    for words, message in (
        (["format=html"], "format=html needs a radiance grid, and"),
        (["format=points", "surroundings=false"], "this model has no opacity"),
        ([], "format is not set; give format=html|mesh|points|splats|grid"),
    ):
        done = command("export", f"ckpt={trained}", *words, f"output_dir={out}")
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert len(done.err.splitlines()) == 1
        assert message in done.err
        assert not list(out.rglob("*"))


def test_an_output_that_cannot_be_written(command, ball_checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    done = command("export", f"ckpt={ball_checkpoint}", "format=grid", f"output_dir={tmp_path / 'file' / 'out'}")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1


def test_the_reader_in_the_documentation_reads_grids(command, ball_checkpoint, tmp_path):
    """It computes the colours and the opacity of a vertex as the model does."""
    done = command("export", f"ckpt={ball_checkpoint}", "format=grid", f"output_dir={tmp_path}")
    assert done.code == 0, done.err
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "np.load" in c)
    assert len(code.splitlines()) <= 30
    assert "dv" not in re.findall(r"import (\w+)", code)
    scope = {}
    exec(code.replace("vase.npz", str(tmp_path / "ball.npz")), scope)
    opaque = scope["opacity"] > 0.9
    distance = np.linalg.norm(scope["positions"], axis=1)
    assert opaque.sum() > 500
    assert distance[opaque].max() < RADIUS + 1 / 31
    grid = ball_grid(grid_side=32, decoder_features=5, reflection_degree=2, supersampling=2, linear_share=1.0)
    np.testing.assert_allclose(scope["colors"], grid.voxels.features[1:, :3].detach().numpy() + 0.5, atol=1e-6)


def test_key_frames_are_rendered(command, ball, ball_checkpoint, tmp_path):
    files = sorted((ball / "train" / "ball" / "pose").iterdir())
    poses = [np.loadtxt(file).reshape(4, 4) for file in files]
    file = tmp_path / "my path.json"
    keys = [{"pose": pose.tolist()} for pose in poses[:3]]
    file.write_text(json.dumps({"key_frames": keys, "seconds_per_key_frame": 0.1}))
    done = command("render", f"ckpt={ball_checkpoint}", f"trajectory={file}", f"output_dir={tmp_path / 'out'}")
    assert done.code == 0, done.err
    frames = json.loads((tmp_path / "out" / "frames.json").read_text())["poses"]
    assert len(frames) == round(0.2 * 24) + 1
    np.testing.assert_allclose(frames[-1], poses[2], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not a file of key frames: the file: Invalid JSON"),
        ('{"key_frames": []}', "key_frames: List should have at least 2 items"),
        (json.dumps({"key_frames": [{"pose": [[1, 0], [0, 1]]}] * 2}), "must have 4 rows of 4 numbers"),
        (json.dumps({"key_frames": [{"pose": np.diag([2, 2, 2, 1]).tolist()}] * 2}), "rotation scaled by 2"),
        (
            json.dumps({"key_frames": [{"pose": np.eye(4).tolist()}] * 2, "seconds_per_key_frame": 1e9}),
            "frames at trajectory.fps=24 are more than 100000",
        ),
    ],
)
def test_faulty_key_frames_end_in_one_line(content, message, command, ball_checkpoint, tmp_path):
    file = tmp_path / "path.json"
    if content is not None:
        file.write_text(content)
    done = command("render", f"ckpt={ball_checkpoint}", f"trajectory={file}", f"output_dir={tmp_path / 'out'}")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_unit_and_up_are_those_of_the_object(command, ball, ball_checkpoint, tmp_path):
    root = tmp_path / "object"
    shutil.copytree(ball, root)
    (root / "train" / "ball" / "dataset.json").write_text(json.dumps({"unit": "metre", "up": [0.0, 0.0, 1.0]}))
    arguments = ["format=grid", f"object.root={root}", f"output_dir={tmp_path / 'out'}"]
    result = command("export", f"ckpt={ball_checkpoint}", *arguments)
    assert result.code == 0, result.err
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (about["unit"], about["up"]) == ("metre", [0.0, 0.0, 1.0])


def test_meshes_have_what_is_two_pixels_wide():
    grid = ball_grid(grid_side=64)
    voxels = grid.voxels
    x, y, z = (voxels.positions() / 63 - 0.5).T
    rod = (1000 * (0.02 - torch.hypot(x, y))).clamp(-12, 12)  # 2.5 voxels wide, 2.2 px of the images
    voxels.density.data[1:] = torch.where(z.abs() < 0.3, rod, -12.0)
    voxels.update_empty_space()
    poses, cameras = around(40), [CAMERA.at_side(64)] * 40
    mesh = extract_mesh(visible_surface(grid, poses, cameras), poses, cameras, None)
    assert mesh.extents[2] > 0.55
    radii = np.linalg.norm(mesh.vertices[abs(mesh.vertices[:, 2]) < 0.25][:, :2], axis=1)
    assert abs(radii - 0.02).mean() < 0.005


def test_pieces_are_kept_by_area():
    spheres = [trimesh.creation.icosphere(2, radius) for radius in (1.0, 0.5, 0.3, 0.05)]
    for i, sphere in enumerate(spheres):
        sphere.apply_translation([3.0 * i, 0.0, 0.0])
    mesh = trimesh.util.concatenate(spheres[::-1])
    for count, kept in ((1, 1), (2, 2), (None, 3)):  # the last one is a speck
        area = sum(sphere.area for sphere in spheres[:kept])
        assert largest_pieces(mesh, count).area == pytest.approx(area)


def test_what_no_view_sees_is_left_out():
    """Of a ball that is seen from one side, the other side; and all of what is not where the depth is."""
    grid = ball_grid(grid_side=32)
    pose = look_at(torch.tensor([1.6, 0.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    sphere = trimesh.creation.icosphere(5, RADIUS)
    seen = without_unseen(sphere, depth_views(grid, pose[None], [CAMERA]), 2 / 31)
    assert 0.25 < seen.area / sphere.area < 0.5  # from 1.6 a cap of 0.36 of the ball is in view
    assert seen.vertices[:, 0].min() > 0
    sphere.apply_scale(0.5)
    with pytest.raises(UserError, match="no view sees a surface in the box"):
        without_unseen(sphere, depth_views(grid, pose[None], [CAMERA]), 2 / 31)
