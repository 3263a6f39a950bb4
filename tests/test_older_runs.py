"""Runs of version 0.1.0 evaluate to the same scores and resume to the same weights.

``tests/data/before/<model>`` is a run of 4 steps on the object ``ball`` at 16 px. ``metrics.json`` is its evaluation,
``resumed.json`` holds the validation scores and the mean of every tensor after 8 steps; those of the radiance grid were
recorded when rays became rotated grids and :class:`~dv.lightning.row_adam.RowAdam` its optimiser.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

OLDER_RUNS = Path(__file__).parent / "data" / "before"
TINY = ["grid.side=4", "grid.feature_side=4", "grid.features=2", "model.base_channels=2", "loss.border=0", "loss=l1"]
# Added to all samples of a ray before a softmax, it changes nothing: Adam follows the rounding noise of its gradient.
WITHOUT_GRADIENT = "model.flatten.visibility.bias"
RADIANCE = ["model=radiance_grid", "grid.side=8", "model.rays=256", "model.error_sampling=0", "model.view_degree=0"]
OVERRIDES = {"deepvoxels": TINY, "radiance_grid": RADIANCE}


@pytest.fixture(params=list(OVERRIDES))
def older_run(request, tmp_path, ball):
    """Folder of an older run and the overrides of its training."""
    run = tmp_path / request.param
    shutil.copytree(OLDER_RUNS / request.param, run)
    common = ["object=custom", f"object.root={ball}", "object.name=ball", "data.image_side=16", "trainer=debug"]
    options = ["trainer.progress_bar=false", "trainer.gpus=0", "trainer.picture_every_steps=0", f"hydra.run.dir={run}"]
    return run, [*common, *OVERRIDES[request.param], *options]


def test_an_older_run_evaluates_to_the_same_scores(command, older_run, tmp_path, ball):
    run, _ = older_run
    expected = json.loads((run / "metrics.json").read_text())
    ckpt = f"ckpt={run / 'checkpoints' / 'last.ckpt'}"
    result = command("evaluate", ckpt, f"object.root={ball}", f"output_dir={tmp_path / 'out'}", "trainer.gpus=0")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for key in ("mean", "baseline"):
        assert found[key]["psnr"] == pytest.approx(expected[key]["psnr"], abs=1e-4)
    for ours, theirs in zip(found["views"], expected["views"], strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["psnr"] == pytest.approx(theirs["psnr"], abs=1e-4)


@pytest.fixture
def one_thread():
    """The number of threads changes the order of sums, and the recorded run had one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_an_older_run_resumes_to_the_same_weights(command, older_run):
    run, overrides = older_run
    expected = json.loads((run / "resumed.json").read_text())
    result = command("train", *overrides, "trainer.max_steps=8", "resume=auto")
    assert result.code == 0, result.err
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == expected["step"]
    state = checkpoint["state_dict"]
    assert float(state.pop("model.focal_scale", 1.0)) == 1.0  # did not exist then
    assert state.keys() == expected["means"].keys()
    state.pop(WITHOUT_GRADIENT, None)
    for name, value in state.items():  # processors round differently, and Adam moves a weight by 4e-4 either way
        assert value.double().mean().item() == pytest.approx(expected["means"][name], rel=1e-3, abs=5e-4), name
    assert json.loads((run / "run.json").read_text())["final"]["psnr"] == pytest.approx(
        expected["val"]["psnr"], abs=1e-2
    )


def test_a_finished_older_run_is_not_repeated(command, older_run, ball):
    run, overrides = older_run
    config = OmegaConf.load(run / "config.yaml")
    config.object.root = str(ball)
    OmegaConf.save(config, run / "config.yaml")
    modified = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    result = command("train", *overrides, "resume=auto")
    assert result.code == 0, result.err
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == modified
