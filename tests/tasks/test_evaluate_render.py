"""Evaluation and rendering through the entry points, from checkpoints of dv and of the reference."""

import json
import shutil
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from conftest import write_object
from dv.data.object import ObjectSource
from dv.metrics import psnr

PARITY = Path(__file__).parents[1] / "parity"


def test_evaluate_writes_metrics_and_prints_a_table(command, ball, trained):
    result = command("evaluate", f"ckpt={trained}")
    assert result.code == 0, result.err
    assert "model, full frame" in result.out
    assert "nearest view, border cut" in result.out
    run = trained.parent.parent
    metrics = json.loads((run / "metrics.json").read_text())
    assert [v["name"] for v in metrics["views"]] == ["000000", "000001", "000002"]
    for key in ("mean", "mean_border", "baseline", "baseline_border"):
        assert metrics[key].keys() >= {"psnr", "ssim"}
    assert metrics["mean"]["psnr"] == pytest.approx(np.mean([v["psnr"] for v in metrics["views"]]))
    assert (run / "test_views.png").is_file()
    # the baseline, computed from its definition
    source = ObjectSource(ball, "ball", image_side=32)
    test, train = source.views("test"), source.views("train")
    nearest = (test.poses[:, :3, 2] @ train.poses[:, :3, 2].T).argmax(1)
    expected = psnr(train.images[nearest].double() / 255, test.images.double() / 255).mean().item()
    assert metrics["baseline"]["psnr"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("split", ["validation", "train"])
def test_other_splits_are_evaluated(command, trained, tmp_path, split):
    result = command("evaluate", f"ckpt={trained}", f"split={split}", f"output_dir={tmp_path / 'out'}")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["views"]) == {"validation": 2, "train": 8}[split]


@pytest.mark.parametrize("name", ["test", "spiral", "interpolate", "poses"])
def test_render_trajectories(command, trained, tmp_path, name):
    out = tmp_path / "out"
    frames = [] if name in ("test", "poses") else ["trajectory.frames=4"]
    result = command("render", f"ckpt={trained}", f"trajectory={name}", *frames, f"output_dir={out}")
    assert result.code == 0, result.err
    count = 4 if frames else 3
    assert sorted(p.name for p in (out / "rgb").iterdir()) == [f"{i:06d}.png" for i in range(count)]
    assert len(list((out / "depth").iterdir())) == count
    color = cv2.imread(str(out / "rgb" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert color.dtype == np.uint16
    assert color.shape == (32, 32, 3)
    depth = cv2.imread(str(out / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED)
    units = json.loads((out / "depth.json").read_text())["world_units_per_count"]
    assert depth.dtype == np.uint16
    assert depth.shape == (16, 16)
    assert (depth * units >= 0.73).all()
    assert (depth * units <= 0.73 + 2).all()
    assert len(iio.imread(out / "video.mp4")) == count


def test_grid_is_inpainted_once(command, trained, tmp_path, monkeypatch):
    from dv.nets.inpainting import Inpainting

    calls = []
    original = Inpainting.forward
    monkeypatch.setattr(Inpainting, "forward", lambda self, grid: calls.append(1) or original(self, grid))
    assert command("render", f"ckpt={trained}", "trajectory=test", f"output_dir={tmp_path / 'out'}").code == 0
    assert len(calls) == 1


def reference_object(root: Path, case: str) -> tuple[Path, dict]:
    """Write the camera and the target poses of a recorded case as an object folder without images."""
    tensors = np.load(PARITY / case / "tensors.npz")
    folder = root / "test" / "recorded"
    (folder / "pose").mkdir(parents=True)
    for i, pose in enumerate(tensors["input.target_poses"]):
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(f"{x:.17g}" for x in pose.reshape(-1)))
    k = tensors["input.intrinsics_feature_resolution"] * 2  # recorded at P = 32, images have 64 px
    origin = " ".join(map(str, tensors["input.grid_origin"]))
    (folder / "intrinsics.txt").write_text(
        f"{k[0, 0]} {k[0, 2]} {k[1, 2]} 0.\n{origin}\n{tensors['input.near_plane']}\n{tensors['input.scale']}\n64 64\n"
    )
    return root, tensors


@pytest.mark.parametrize("case", ["occlusion", "no_occlusion"])
def test_a_reference_checkpoint_renders_its_recorded_image(command, tmp_path, case):
    root, tensors = reference_object(tmp_path / "object", case)
    out = tmp_path / "out"
    result = command(
        "render", f"ckpt={PARITY / case / 'checkpoint.pth'}", "object=custom", f"object.root={root}",
        "object.name=recorded", "trajectory=poses", f"output_dir={out}",
    )  # fmt: skip
    assert result.code == 0, result.err
    image = cv2.imread(str(out / "rgb" / "000000.png"), cv2.IMREAD_UNCHANGED)[..., ::-1] / 65535
    expected = tensors["test.image.0"][0].transpose(1, 2, 0) + 0.5
    assert np.abs(image - expected.clip(0, 1)).max() < 2e-4
    if case == "occlusion":
        units = json.loads((out / "depth.json").read_text())["world_units_per_count"]
        depth = cv2.imread(str(out / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED) * units
        span = 2 * float(tensors["input.scale"])
        world = float(tensors["input.near_plane"]) + (tensors["test.depth_map.0"][0, 0] + 0.5) * span
        assert np.abs(depth - world).max() < 1e-3
    else:
        assert "renders no depth" in result.out
        assert not (out / "depth").exists()
        assert not (out / "depth.json").exists()


def test_a_reference_checkpoint_is_evaluated_into_the_hydra_run_folder(command, tmp_path):
    root = write_object(tmp_path / "objects", side=64)
    result = command(
        "evaluate", f"ckpt={PARITY / 'no_occlusion' / 'checkpoint.pth'}", "object=custom", f"object.root={root}",
        "object.name=ball",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "renders no depth" in result.out
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_lpips_is_computed_or_its_package_is_named(command, trained):
    from importlib.util import find_spec

    result = command("evaluate", f"ckpt={trained}", "lpips=true")
    if find_spec("lpips") is None:
        assert result.code == 1
        assert "pip install 'dv[lpips]'" in result.err
    else:
        assert "LPIPS" in result.out


def damaged_checkpoint(tmp_path: Path, kind: str, trained: Path) -> str:
    path = tmp_path / "damaged.ckpt"
    if kind == "truncated":
        path.write_bytes(trained.read_bytes()[:5000])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "other":
        torch.save({"weights": torch.ones(3)}, path)
    elif kind == "incomplete":
        state = torch.load(PARITY / "occlusion" / "checkpoint.pth", weights_only=True)
        del state["model"]["rendering_net.net.5.net.1.bias"]
        torch.save(state, path)
    return f"ckpt={path}"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "no such file"),
        ("truncated", "loaded safely, or truncated"),
        ("text", "loaded safely, or truncated"),
        ("other", "neither a dv checkpoint nor one of the DeepVoxels reference"),
        ("incomplete", "lacks rendering_net.net.5.net.1.bias"),
    ],
)
@pytest.mark.parametrize("task", ["render", "evaluate"])
def test_bad_checkpoints(command, ball, trained, tmp_path, task, kind, expected):
    custom = ["object=custom", f"object.root={ball}", "object.name=ball"]
    result = command(task, damaged_checkpoint(tmp_path, kind, trained), *custom, f"output_dir={tmp_path / 'out'}")
    assert result.code == 1
    lines = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.err
    assert expected in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_reference_checkpoint_needs_an_object(command):
    result = command("render", f"ckpt={PARITY / 'occlusion' / 'checkpoint.pth'}")
    assert result.code == 1
    assert "give its object" in result.err


def test_rendering_without_poses_is_refused(command, trained, ball, tmp_path):
    root = tmp_path / "object"
    shutil.copytree(ball, root)
    shutil.rmtree(root / "test" / "ball" / "pose")
    result = command("render", f"ckpt={trained}", "object=custom", f"object.root={root}", "object.name=ball",
                     "trajectory=poses")  # fmt: skip
    assert result.code == 1
    assert "contains no poses (*.txt)" in result.err


def test_several_processes_give_the_same_scores_as_one(command, trained, tmp_path):
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        done = command("evaluate", f"ckpt={trained}", f"trainer.processes={processes}", f"output_dir={out}")
        assert done.code == 0, done.err
        assert "3 test views" in done.out
        names = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
        results.append((json.loads((out / "metrics.json").read_text()), names, (out / "test_views.png").read_bytes()))
    (one, *files), (two, *other_files) = results
    assert files == other_files
    assert [view["name"] for view in two["views"]] == [view["name"] for view in one["views"]]
    for key in ("mean", "mean_border", "baseline", "baseline_border"):
        assert two[key] == pytest.approx(one[key], rel=1e-6)
