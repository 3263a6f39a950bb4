import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from camera_files import mutated
from dv.errors import UserError
from dv.synthetic import render
from dv.synthetic.mesh import default_up, mesh_shapes, render_mesh
from dv.synthetic.mitsuba_scene import load_scene, render_rgba, square_film
from dv.synthetic.obj import obj_files
from dv.synthetic.render import SyntheticSettings
from dv.synthetic.shapes import MeshShape, linear_to_srgb, srgb_to_linear

trimesh = pytest.importorskip("trimesh")
mi = pytest.importorskip("mitsuba")
image_module = pytest.importorskip("PIL.Image")

SIDE = 32
RED, GREEN, BLUE, YELLOW, GREY = (220, 20, 20), (20, 200, 20), (20, 20, 220), (220, 220, 20), (128, 128, 128)


def boxes() -> Any:
    """Return a scene, z up: a wide box below and a small one above at +x, placed by the transform of its node."""
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((2.0, 1.0, 0.5)), node_name="low")
    high = trimesh.transformations.translation_matrix((0.75, 0.0, 0.5))
    scene.add_geometry(trimesh.creation.box((0.5, 0.5, 0.5)), node_name="high", transform=high)
    return scene


def column(colors: Any = None, visual: Any = None) -> Any:
    """Return a tall box with eight vertices."""
    return trimesh.Trimesh(
        trimesh.creation.box((0.5, 0.5, 1)).vertices,
        trimesh.creation.box((0.5, 0.5, 1)).faces,
        vertex_colors=colors,
        visual=visual,
        process=False,
    )


def rendered_hues(shapes: list[MeshShape], azimuth: float = 0.0) -> np.ndarray:
    """Return linear colours ``[SIDE, SIDE, 3]`` from the horizon, divided by their maximum; NaN is background."""
    mi.set_variant("scalar_rgb")
    pose = render.look_at_centre(2 * np.array([np.cos(azimuth), np.sin(azimuth), 0.02]))
    rgba = render_rgba(load_scene(shapes), pose, square_film(SIDE), 16, 0)
    largest = rgba[..., :3].max(2, keepdims=True)
    return np.where(rgba[..., 3:] > 0.99, rgba[..., :3] / np.where(largest > 0, largest, 1), np.nan)


def hue(color: tuple[int, int, int]) -> np.ndarray:
    linear = srgb_to_linear(np.array(color) / 255)
    return linear / linear.max()


def assert_hue(pixels: np.ndarray, color: tuple[int, int, int]) -> None:
    # The light is slightly warm, so hues match only roughly.
    np.testing.assert_allclose(np.nanmean(pixels.reshape(-1, 3), axis=0), hue(color), atol=0.12)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb"])
def test_mesh_is_centred_and_scaled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box.{suffix}"
    trimesh.creation.box((6.0, 3.0, 1.5)).apply_translation((50, -20, 7)).export(path)
    vertices = np.concatenate([shape.vertices for shape in mesh_shapes(path, "z")])
    np.testing.assert_allclose(vertices.max(0), [0.45, 0.225, 0.1125], atol=1e-6)
    np.testing.assert_allclose(vertices.min(0), [-0.45, -0.225, -0.1125], atol=1e-6)


def test_bulky_mesh_is_entirely_inside_every_view(tmp_path: Path) -> None:
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "box.ply")
    vertices = mesh_shapes(tmp_path / "box.ply")[0].vertices
    assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(0.53)
    focal, centre, _ = SyntheticSettings().intrinsics
    for pose in render.split_poses("train", SyntheticSettings()):
        x, y, z = ((vertices - pose[:3, 3]) @ pose[:3, :3]).T
        assert z.min() > render.NEAR_PLANE
        at = focal * np.stack([x, y]) / z + centre
        assert at.min() >= 0
        assert at.max() <= 128


@pytest.mark.parametrize(
    ("suffix", "up", "axis"), [("obj", None, 1), ("glb", None, 1), ("ply", None, 2), ("ply", "y", 1), ("obj", "z", 2)]
)
def test_up_axis(tmp_path: Path, suffix: str, up: str | None, axis: int) -> None:
    """The tip of a cone along the file's up axis ends up at +z, and nothing is mirrored."""
    cone = trimesh.creation.cone(0.2, 1.0)
    if axis == 1:
        cone.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0)))
    cone.export(tmp_path / f"cone.{suffix}")
    (shape,) = mesh_shapes(tmp_path / f"cone.{suffix}", up)
    tip = shape.vertices[shape.vertices[:, 2] > 0.44]
    np.testing.assert_allclose(tip, np.tile([0, 0, 0.45], (len(tip), 1)), atol=1e-6)
    corners = shape.vertices[shape.faces]
    assert np.linalg.det(corners).sum() > 0


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_vertex_colors(tmp_path: Path, suffix: str) -> None:
    colors = np.where(column().vertices[:, 2:] > 0, RED, BLUE).astype(np.uint8)
    column(colors).export(tmp_path / f"box.{suffix}")
    image = rendered_hues(mesh_shapes(tmp_path / f"box.{suffix}", "z"))
    top, bottom = image[5:8], image[-8:-5]
    assert (np.nanmean(top, axis=(0, 1))[[0, 2]] > [0.99, -1]).all()
    assert np.nanmean(top[..., 2]) < 0.35
    assert np.nanmean(bottom[..., 0]) < 0.35
    assert np.nanmean(bottom[..., 2]) > 0.99


def test_intermediate_colors_keep_their_transfer_curve(tmp_path: Path) -> None:
    """128 is an sRGB value in PLY, but a linear one in glTF."""
    for suffix, expected in (("ply", 128), ("glb", 188)):
        column(np.full((8, 3), 128, np.uint8)).export(tmp_path / f"box.{suffix}")
        (shape,) = mesh_shapes(tmp_path / f"box.{suffix}")
        assert shape.colors is not None
        assert set(shape.colors.ravel().tolist()) == {expected}


def test_face_colors(tmp_path: Path) -> None:
    box = trimesh.creation.box((0.5, 0.5, 1))
    colors = np.array(
        [(*(RED if normal[0] > 0.5 else GREEN if normal[1] > 0.5 else BLUE), 255) for normal in box.face_normals]
    )
    box.visual.face_colors = colors.astype(np.uint8)
    box.export(tmp_path / "box.ply")
    shapes = mesh_shapes(tmp_path / "box.ply")
    for azimuth, color in ((0.0, RED), (np.pi / 2, GREEN), (np.pi, BLUE)):
        assert_hue(rendered_hues(shapes, azimuth), color)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_texture(tmp_path: Path, suffix: str) -> None:
    """A quad seen from +x shows its texture upright and unmirrored."""
    vertices = [(0, -1, -1), (0, 1, -1), (0, 1, 1), (0, -1, 1)]
    texels = np.array([[RED, GREEN], [BLUE, YELLOW]], dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    image = image_module.fromarray(texels)
    if suffix == "glb":
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    else:
        material = trimesh.visual.material.SimpleMaterial(image=image)
    uv = [(0, 0), (1, 0), (1, 1), (0, 1)]
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    quad = trimesh.Trimesh(vertices, [(0, 1, 2), (0, 2, 3)], visual=visual, process=False)
    quad.export(tmp_path / f"quad.{suffix}")
    shapes = mesh_shapes(tmp_path / f"quad.{suffix}", "z")
    for azimuth in (0.0, np.pi):  # also from behind, mirrored
        image = rendered_hues(shapes, azimuth)[:, :: 1 if azimuth == 0 else -1]
        assert_hue(image[6:12, 6:12], RED)
        assert_hue(image[6:12, -12:-6], GREEN)
        assert_hue(image[-12:-6, 6:12], BLUE)
        assert_hue(image[-12:-6, -12:-6], YELLOW)


def test_texture_repeats_beyond_its_border_and_is_tinted(tmp_path: Path) -> None:
    image = image_module.fromarray(np.full((4, 4, 3), 255, np.uint8))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, baseColorFactor=[255, 0, 128, 255])
    visual = trimesh.visual.TextureVisuals(uv=[(0, 0), (3, 0), (3, 3)], material=material)
    trimesh.Trimesh(np.eye(3), [(0, 1, 2)], visual=visual, process=False).export(tmp_path / "a.glb")
    (shape,) = mesh_shapes(tmp_path / "a.glb")
    assert shape.repeat
    np.testing.assert_allclose(np.ptp(shape.uv, axis=0), 3, rtol=1e-6)
    assert shape.texture[0, 0].tolist() == [255, 0, 188]


def test_transforms_and_colors_of_a_scene(tmp_path: Path) -> None:
    scene = boxes()
    for geometry, color in zip(scene.geometry.values(), (GREEN, RED), strict=True):
        geometry.visual = trimesh.visual.ColorVisuals(geometry, vertex_colors=np.tile((*color, 255), (8, 1)))
    scene.export(tmp_path / "boxes.glb")
    shapes = mesh_shapes(tmp_path / "boxes.glb", "z")
    image = rendered_hues(shapes, -np.pi / 2)  # from -y: +x is on the right
    rows, columns = np.nonzero(np.isfinite(image[..., 0]))
    assert_hue(image[rows.max() - 3 : rows.max(), columns.min() : columns.max()], GREEN)
    high = image[rows.min() : rows.min() + 3]
    assert_hue(high[:, 20:], RED)
    assert np.isnan(high[:, :16]).all()


def test_mirrored_node_still_faces_outwards(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.icosphere(2), transform=np.diag([-1.0, 1, 1, 1]))
    scene.export(tmp_path / "ball.glb")
    (shape,) = mesh_shapes(tmp_path / "ball.glb")
    corners = shape.vertices[shape.faces]
    assert (np.linalg.det(corners) > 0).all()
    assert ((shape.normals * shape.vertices).sum(1) > 0).all()


def test_missing_normals_are_smooth_except_at_edges(tmp_path: Path) -> None:
    ball, box = trimesh.creation.icosphere(3), trimesh.creation.box()
    for name, model in (("ball", ball), ("box", box)):
        (tmp_path / f"{name}.obj").write_text(trimesh.exchange.obj.export_obj(model, include_normals=False))
    (shape,) = mesh_shapes(tmp_path / "ball.obj")
    radial = shape.vertices / np.linalg.norm(shape.vertices, axis=1, keepdims=True)
    np.testing.assert_allclose(shape.normals, radial, atol=0.02)
    (shape,) = mesh_shapes(tmp_path / "box.obj")
    np.testing.assert_allclose(np.sort(np.abs(shape.normals), axis=1), np.tile([0, 0, 1], (36, 1)), atol=1e-9)


def test_normals_in_the_file_are_kept(tmp_path: Path) -> None:
    lines = ["v 0 0 0", "v 1 0 0", "v 0 1 0", "vn 0.6 0 0.8", "f 1//1 2//1 3//1"]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    (shape,) = mesh_shapes(tmp_path / "a.obj", "z")
    np.testing.assert_allclose(shape.normals, np.tile([0.6, 0, 0.8], (3, 1)), atol=1e-6)


def test_untextured_mesh_is_grey(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "box.stl")
    assert_hue(rendered_hues(mesh_shapes(tmp_path / "box.stl")), GREY)


def test_mesh_renders_into_the_folder_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output_dir = tmp_path / "tower.ply", tmp_path / "out"
    column(np.tile(RED, (8, 1)).astype(np.uint8)).export(path)
    settings = SyntheticSettings(16, 2, 1, 1, 4, workers=1)
    render_mesh(path, None, output_dir, settings, None)
    record = json.loads((output_dir / "test" / "tower" / "dataset.json").read_text())
    assert (record["source"], record["object"], record["pixel_center"]) == ("mesh", "tower", 0.5)
    assert record["settings"]["mesh"] == "tower.ply"
    assert record["settings"]["mesh_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["settings"]["up"] == "z"
    assert record["settings"]["variant"] == "diffuse"
    image = np.array(mi.Bitmap(str(output_dir / "train" / "tower" / "rgb" / "000001.png")))
    assert image.shape == (16, 16, 3)
    assert image[8, 8, 0] > 2 * image[8, 8, 1]
    render_mesh(path, "tower", output_dir, settings, "z")
    assert "nothing to do" in capsys.readouterr().out
    column(np.tile(BLUE, (8, 1)).astype(np.uint8)).export(path)
    with pytest.raises(UserError, match=r"mesh_sha256 = \w+ \(now \w+\)"):
        render_mesh(path, "tower", output_dir, settings, None)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.obj: no such mesh file; pass one with mesh\.path="):
        render_mesh(tmp_path / "none.obj", None, tmp_path / "out", SyntheticSettings(), None)
    assert not (tmp_path / "out").exists()


BAD = {
    "a.obj": ("v 1 2 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "b.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read|a missing vertex"),
    "c.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
    "d.obj": ("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "no faces"),
    "e.obj": ("", "cannot be read|no faces"),
    "f.glb": ("nonsense", "cannot be read as a mesh"),
    "g.ply": (
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
        "0 0 0\n1 1 1\n",
        "only points or lines, no faces",
    ),
    "h.txt": ("hello", "cannot be read as a mesh"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        mesh_shapes(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_options(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "box.ply")
    with pytest.raises(UserError, match="source.up=x must be y or z"):
        mesh_shapes(tmp_path / "box.ply", "x")
    with pytest.raises(UserError, match="source.shape=vase applies to source=synthetic only"):
        render_mesh(tmp_path / "box.ply", None, tmp_path, SyntheticSettings(shape="vase"), None)


def test_missing_trimesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match=r"pip install 'dv\[synthetic\]'"):
        mesh_shapes(tmp_path / "box.ply")


def test_transfer_curves_are_inverse() -> None:
    values = np.linspace(0, 1, 99)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)
    assert default_up(Path("A.GLB")) == "y"


MATERIALS = {
    "plain": "map_Kd red.png",
    "options": "map_Kd -s 1 1 1 -o 0.5 0 -bm 1 red.png",
    "backslashes": "map_Kd tex tures\\\\red.png",
    "another machine": "map_Kd C:\\\\Users\\\\me\\\\red.png",
    "letter case": "map_Kd RED.PNG",
}


@pytest.mark.parametrize("kind", MATERIALS)
def test_textures_of_obj_files_are_found(kind, tmp_path):
    """A texture of one colour shows on the face, however the MTL file names it."""
    folder = tmp_path / "tex tures" if kind == "backslashes" else tmp_path
    folder.mkdir(exist_ok=True)
    image_module.fromarray(np.full((4, 4, 3), (200, 10, 10), np.uint8)).save(folder / "red.png")
    (tmp_path / "a b.mtl").write_text(f"newmtl m\nKd 1 1 1\n{MATERIALS[kind]}\n")
    obj = "mtllib A B.MTL\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf -3/-3 -2/-2 -1/-1\n"
    (tmp_path / "quad.obj").write_text(obj)
    (shape,) = mesh_shapes(tmp_path / "quad.obj")
    assert shape.texture.reshape(-1, 3).mean(0).tolist() == [200, 10, 10]
    assert {file.name for file in obj_files(tmp_path / "quad.obj")} == {"a b.mtl", "red.png"}
    (folder / "red.png").unlink()
    with pytest.raises(UserError, match="is not found; put it beside the mesh"):
        obj_files(tmp_path / "quad.obj")


def test_damaged_obj_files_end_in_one_line(tmp_path):
    """Two hundred damaged copies of a mesh with negative indices, materials and a texture."""
    image_module.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(tmp_path / "t.png")
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 1 0.5 0\nmap_Kd t.png\n")
    whole = (
        b"mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\n"
        b"f -4/-3 -3/-2 -2/-1\nf 1/1 2/2 4/3\nf -4/1 -1/2 -2/3\n"
    )
    read = 0
    for seed in range(200):
        (tmp_path / "a.obj").write_bytes(mutated(whole, random.Random(seed)))
        try:
            assert mesh_shapes(tmp_path / "a.obj")
            read += 1
        except UserError:
            pass
    assert 0 < read < 200
