"""The baseline of the benchmark computes the same as dv, and the benchmark writes its results."""

import json
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import speed
import torch
from baseline import Baseline

from dv.geometry.projector import Projector
from dv.model import DeepVoxels

ROOT = Path(__file__).parents[1]
SIZES = "64,16,8,4,4"


def models():
    torch.manual_seed(0)
    sizes, camera = speed.sizes_of(SIZES), speed.camera(64)
    model = DeepVoxels(sizes, integration_dropout=0, renderer_dropout=0).double()
    baseline = Baseline(sizes, camera, speed.PLACEMENT).double()
    baseline.integration.dropout.p = 0
    for layer in baseline.renderer.modules():
        if isinstance(layer, torch.nn.Dropout2d):
            layer.p = 0
    baseline.load_state_dict(model.state_dict())
    projector = Projector(camera, speed.PLACEMENT, sizes.feature_side, sizes.grid_side, rim=sizes.rim)
    return model, baseline, projector


def test_baseline_equals_dv_forwards_and_backwards():
    model, baseline, projector = models()
    source, targets = torch.rand(1, 3, 64, 64, dtype=torch.float64) - 0.5, speed.views(2)
    pose = targets[0]
    rendering, integrated = model(source, projector.lifting(pose), projector.resampling(targets))
    images, grid = baseline.step(source, pose, targets)
    torch.testing.assert_close(rendering.image, images, rtol=0, atol=1e-9)
    torch.testing.assert_close(integrated.grid, grid, rtol=0, atol=1e-9)
    for image in (rendering.image, images):
        image.square().sum().backward()
    plain = dict(baseline.named_parameters())
    for name, parameter in model.named_parameters():
        expected = plain[name].grad
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-8 * max(1.0, expected.abs().max().item()))


def test_frames_of_the_baseline_equal_those_of_dv():
    model, baseline, projector = models()
    pose = speed.views(1)
    with torch.inference_mode():
        for network in (model, baseline):
            network.eval()
            network.grid.normal_(generator=torch.Generator().manual_seed(1))
        ours = model.render(model.inpaint(), projector.resampling(pose)).image
        torch.testing.assert_close(ours, baseline.frame(pose[0]), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_results_are_written(tmp_path):
    output = tmp_path / "bench.json"
    command = [sys.executable, ROOT / "benchmarks" / "speed.py", "--sizes", SIZES, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = json.loads(output.read_text())
    measured = {(r["implementation"], r["phase"]) for r in results}
    assert measured == {
        ("baseline", "train"),
        ("dv", "train"),
        ("baseline", "frame"),
        ("dv", "frame"),
        ("dv", "loader"),
    }
    for result in results:
        assert result["seconds"] > 0
        assert result["yardsticks"] > 0
        assert result["peak_memory_mb"] > 50
        assert (result["gflop"] > 0) == (result["phase"] != "loader")
        assert result["config"]["image_side"] == 64
    assert output.with_suffix(".png").stat().st_size > 1000
    assert SIZES in done.stdout


@pytest.mark.slow
def test_compiled_networks_equal_eager_ones():
    """The backend traces the networks but does not compile kernels, which would take minutes."""
    model, _, projector = models()
    compiled, _, _ = models()
    compiled.compile_networks(backend="aot_eager", fullgraph=True)  # raises an error unless each network is one graph
    source, poses = torch.rand(1, 3, 64, 64, dtype=torch.float64) - 0.5, speed.views(3)
    results = []
    for network in (model, compiled):
        image = network(source, projector.lifting(poses[0]), projector.resampling(poses[1:]))[0].image
        image.square().sum().backward()
        results.append([image.detach(), *(p.grad for p in network.parameters())])
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-9, atol=1e-9)


def test_what_fails_or_is_out_of_time_does_not_end_the_other_measurements(tmp_path):
    runner = gpu.Runner(tmp_path / "gpu.json", 60)
    runner.run("fails", "-c", "print(1); print(2, end='\\r'); 1 / 0", limit=30)
    runner.run("slow", "-c", "import time; print('starts', flush=True); time.sleep(60)", limit=3)
    path = tmp_path / "figures.json"
    write = f"open({str(path)!r}, 'w').write('{{\"psnr\": 30}}')"
    runner.run("works", "-c", write, limit=30, figures=path)
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [result["code"] for result in results.values()] == [1, None, 0]
    assert "ZeroDivisionError: division by zero" in results["fails"]["output"][-1]
    assert results["works"]["figures"] == {"psnr": 30}
    assert results["slow"]["output"] == ["starts"]
