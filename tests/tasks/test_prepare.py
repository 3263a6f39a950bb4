"""`prepare.py`: the same object in every format, printed commands and refused input."""

import csv
import json
import shlex
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from conftest import TINY
from dv.data.object import SPLITS, ObjectSource
from dv.tasks.command import config_folder
from dv.tasks.command_line import hydra_arguments
from dv.tasks.prepare import next_command

pycolmap = pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def vase(tmp_path_factory):
    """Root of the synthetic vase with twelve training views and no other split."""
    pytest.importorskip("mitsuba")
    from dv.synthetic.render import SyntheticSettings, render_synthetic

    root = tmp_path_factory.mktemp("rendered")
    render_synthetic("vase", root, SyntheticSettings(32, 12, 1, 1, 4, workers=1))
    (root / "only").mkdir()
    (root / "train").rename(root / "only" / "train")
    return root / "only"


def views_of(vase: Path) -> list[tuple[Path, np.ndarray]]:
    folder = vase / "train" / "vase"
    paths = sorted((folder / "rgb").iterdir())
    return [(p, np.loadtxt(folder / "pose" / f"{p.stem}.txt").reshape(4, 4)) for p in paths]


F, CENTER, SIDE = 1.72 * 32, 16.0, 32


def as_transforms(vase: Path, folder: Path) -> list[str]:
    frames = []
    for path, pose in views_of(vase):
        opengl = (pose @ np.diag([1, -1, -1, 1])).tolist()
        frames.append({"file_path": str(path.with_suffix("")), "transform_matrix": opengl})
    camera = {"fl_x": F, "fl_y": F, "cx": CENTER, "cy": CENTER, "w": SIDE, "h": SIDE}
    folder.mkdir()
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames[::-1]}))
    return ["source=transforms", f"source.path={folder}", "grid.origin=[0,0,0]", "grid.scale=1"]


def as_nsvf(vase: Path, folder: Path) -> list[str]:
    for part in ("rgb", "pose"):
        (folder / part).mkdir(parents=True)
    for path, pose in views_of(vase):
        (folder / "rgb" / path.name).write_bytes(path.read_bytes())
        np.savetxt(folder / "pose" / f"{path.stem}.txt", pose)
    (folder / "intrinsics.txt").write_text(f"{F} {CENTER} {CENTER} 0.\n0. 0. 0.\n0.\n1.\n32 32\n")
    (folder / "bbox.txt").write_text("-0.5 -0.5 -0.5 0.5 0.5 0.5 0.01\n")
    return ["source=nsvf", f"source.path={folder}"]


def as_colmap(vase: Path, folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {SIDE} {SIDE} {F} {CENTER} {CENTER}\n")
    lines = []
    for i, (path, pose) in enumerate(views_of(vase)):
        world_to_camera = np.linalg.inv(pose)
        rotation = pycolmap.Rotation3d(world_to_camera[:3, :3])
        x, y, z, w = rotation.quat
        numbers = " ".join(f"{v:.17g}" for v in (w, x, y, z, *world_to_camera[:3, 3]))
        lines.append(f"{i + 1} {numbers} 1 {path.name}\n\n")
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text("")
    images = vase / "train" / "vase" / "rgb"
    grid = ["grid.origin=[0,0,0]", "grid.scale=1"]
    return ["source=colmap", f"source.path={folder}", f"source.images={images}", *grid]


def as_folder(vase: Path, folder: Path) -> list[str]:
    return ["source=folder", f"source.path={vase}", "source.object=vase"]


def test_every_format_gives_the_same_cameras_and_the_same_first_loss(command, vase, tmp_path):
    losses: list[float] = []
    for convert in (as_folder, as_transforms, as_nsvf, as_colmap):
        (tmp_path / convert.__name__).mkdir()
        out = tmp_path / convert.__name__ / "again"
        result = command("prepare", *convert(vase, tmp_path / convert.__name__ / "made"), f"output_dir={out}")
        assert result.code == 0, result.err
        source = ObjectSource(out, "again")
        truth = {path.stem: (pose, iio.imread(path)) for path, pose in views_of(vase)}
        names = []
        for split in SPLITS:
            views = source.views(split)
            names += views.names
            for name, pose, image in zip(views.names, views.poses.numpy(), views.images, strict=True):
                np.testing.assert_allclose(pose, truth[name][0], atol=1e-5)
                np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), truth[name][1])
        assert sorted(names) == sorted(truth)
        k = source.calibration().intrinsics
        np.testing.assert_allclose(k, [F, F, CENTER, CENTER, SIDE, SIDE, 0.5], rtol=1e-9)
        placement = source.calibration().placement
        np.testing.assert_allclose(
            [*placement.origin, placement.scale, placement.near], [0, 0, 0, 1, 2 - np.sqrt(3) / 2], atol=1e-9
        )
        # the printed command trains on it, with the same loss for every format
        assert f"next: python train.py experiment=radiance object=custom object.root={out}" in result.out
        _, _, *arguments = shlex.split(result.out.split("paper's model: ")[1].splitlines()[0])
        run = tmp_path / convert.__name__ / "run"
        trained = command("train", *arguments, *TINY, "loss=l1", "trainer.max_steps=1", f"hydra.run.dir={run}")
        assert trained.code == 0, trained.err
        rows = list(csv.DictReader((run / "metrics.csv").open()))
        losses.append(next(float(row["train/loss/l1"]) for row in rows if row["train/loss/l1"]))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_fewer_views_and_noisy_poses_of_a_prepared_object(command, vase, tmp_path):
    out = tmp_path / "hard"
    arguments = ["source=folder", f"source.path={vase}", "source.object=vase", f"output_dir={out}", "object.name=vase"]
    result = command("prepare", *arguments, "views.farthest=6", "noise.angle=3", "noise.distance=0.05")
    assert result.code == 0, result.err
    truth = {path.stem: pose for path, pose in views_of(vase)}
    train = ObjectSource(out, "vase").views("train")
    assert len(train) == 6
    for name, pose in zip(train.names, train.poses.numpy(), strict=True):
        assert np.linalg.norm(pose[:3, 3] - truth[name][:3, 3]) == pytest.approx(0.05)
        cosine = (np.trace(pose[:3, :3].T @ truth[name][:3, :3]) - 1) / 2
        assert np.degrees(np.arccos(cosine)) == pytest.approx(3, abs=1e-4)
    record = json.loads((out / "train" / "vase" / "dataset.json").read_text())
    assert record["settings"]["farthest"] == 6
    assert record["settings"]["noise_angle"] == 3


def test_given_grid_values_are_used(command, vase, tmp_path):
    arguments = [*as_nsvf(vase, tmp_path / "made"), f"output_dir={tmp_path / 'out'}", "object.name=x"]
    result = command("prepare", *arguments, "grid.origin=[0.1,0,0]", "grid.scale=0.8", "grid.near=1.3")
    assert result.code == 0, result.err
    placement = ObjectSource(tmp_path / "out", "x").calibration().placement
    assert (placement.origin, placement.scale, placement.near) == ((0.1, 0.0, 0.0), 0.8, 1.3)
    assert "as given: grid centre (0.1, 0, 0), side 0.8, near plane 1.3" in result.out


def test_a_repeated_command_does_nothing_and_other_settings_are_refused(command, vase, tmp_path):
    arguments = [*as_nsvf(vase, tmp_path / "made"), f"output_dir={tmp_path / 'out'}"]
    assert command("prepare", *arguments).code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    again = command("prepare", *arguments)
    assert again.code == 0
    assert "nothing to do" in again.out
    assert "next: python train.py experiment=radiance object=custom" in again.out
    other = command("prepare", *arguments, "grid.scale=2")
    assert other.code == 1
    assert "choose another output_dir" in other.err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source=nsvf"], "source.path is not set; give source.path=PATH"),
        (["source=nsvf", "source.path=nowhere"], "source.path=nowhere: no such file or folder"),
        (["source=nsvf", "source.background=pink"], "source.background=pink must be white, grey, black or"),
        (["source=nsvf", "views.random=4", "views.farthest=4"], "views.random or views.farthest, not both"),
        (["source=nsvf", "grid.near=inf"], "grid.near=inf must be"),
        (["source=nsvf", "grid.origin=[0,1]"], "grid.origin=[0,1] must be three numbers"),
        (["source=mesh"], "mesh.path is not set; give mesh.path=PATH"),
        (["source=check"], "object.root is not set"),
        (["source=export"], "object.root is not set"),
        (["source=synthetic", "object.name=teapot", "output_dir=x"], "teapot"),
        (
            ["source=synthetic", "object=vase", "source.preset=huge"],
            "source.preset=huge must be demo, small",
        ),
        (["source=synthetic", "object=vase", "views.farthest=9"], "views.farthest=9 is for imports and captures"),
        (["source=synthetic", "object=vase", "grid.origin=[0,0,1]"], "grid.origin=[0.0,0.0,1.0] is for imports"),
    ],
)
def test_bad_input_gets_one_clear_line(command, arguments, message):
    result = command("prepare", *arguments)
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert message in result.err


def test_output_dir_is_required(command, vase, tmp_path):
    made = as_nsvf(vase, tmp_path / "made")
    assert "output_dir is not set" in command("prepare", *made).err
    assert "must name a folder" in command("prepare", *made, "output_dir=x", "object.name=a/b").err


def test_next_commands_are_ready_to_paste():
    assert next_command(Path("data/deepvoxels"), "greek") == "python train.py object=pedestal"
    assert next_command(Path("/d"), "vase") == "python train.py object=vase object.root=/d"
    assert next_command(Path("out"), "007") == "python train.py object=custom object.root=out object.name=007"
    line = next_command(Path("/my things, old"), "it's")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(hydra_arguments(shlex.split(line)[2:], "train", config_folder()))
    assert {o.key_or_group: o.value() for o in parsed} == {
        "object": "custom", "object.root": "/my things, old", "object.name": "it's",
    }  # fmt: skip


def test_a_mesh_becomes_an_object(command, tmp_path):
    pytest.importorskip("mitsuba")
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box((1, 2, 3))
    box.visual.face_colors = [[255, 0, 0, 255]] * 12
    box.export(tmp_path / "brick.ply")
    small = ["source.image_side=16", "source.train_views=3", "source.validation_views=1", "source.test_views=1",
             "source.samples_per_pixel=4", "source.workers=1"]  # fmt: skip
    result = command("prepare", "source=mesh", f"mesh.path={tmp_path / 'brick.ply'}", f"output_dir={tmp_path}", *small)
    assert result.code == 0, result.err
    images = ObjectSource(tmp_path, "brick").views("train").images.float()
    middle = images[:, :, 6:10, 6:10].mean((0, 2, 3))
    assert middle[0] > 2 * middle[1]
    assert torch.equal(images[:, :, 0, 0], torch.full((3, 3), 255.0))
    assert (
        f"next: python train.py experiment=radiance object=custom object.root={tmp_path} object.name=brick"
        in result.out
    )
