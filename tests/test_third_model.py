"""A model that is defined outside the package trains, evaluates, renders and resumes through the commands."""

import json

import pytest
import torch

from conftest import step_overrides
from faults import read_weights


@pytest.fixture
def toy_overrides(ball, tmp_path):
    """Return overrides that select the toy model, whose configuration lies in a separate folder."""
    group = tmp_path / "conf" / "model"
    group.mkdir(parents=True)
    (group / "toy.yaml").write_text("kind: toy_model:ToyModule\nrate: 0.1\n")
    (group / "unknown.yaml").write_text("kind: toy_model:Missing\nrate: 0.1\n")
    return [
        *(f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "object=custom", f"object.root={ball}", "object.name=ball"),
        *("model=toy", "loss=l2", "trainer=debug", "trainer.progress_bar=false"),
    ]


def test_an_external_model_trains_evaluates_renders_and_resumes(command, toy_overrides, tmp_path):
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    assert command("train", *toy_overrides, *step_overrides(6), f"hydra.run.dir={uninterrupted}").code == 0
    assert command("train", *toy_overrides, *step_overrides(3), f"hydra.run.dir={resumed}").code == 0
    result = command("train", *toy_overrides, *step_overrides(6), f"hydra.run.dir={resumed}", "resume=auto")
    assert result.code == 0, result.err
    ours, theirs = (read_weights(run / "checkpoints" / "last.ckpt")["model.image"] for run in (resumed, uninterrupted))
    assert torch.equal(ours, theirs)
    assert ours.any()

    ckpt = f"ckpt={resumed / 'checkpoints' / 'best.ckpt'}"
    result = command("evaluate", ckpt, "trainer.gpus=0")
    assert result.code == 0, result.err
    assert "renders no depth" in result.out
    assert json.loads((resumed / "metrics.json").read_text())["mean"]["psnr"] > 5
    result = command("render", ckpt, "trainer.gpus=0", "trajectory.frames=3", f"output_dir={tmp_path / 'rendered'}")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "rendered" / "rgb").glob("*.png"))) == 3
    assert (tmp_path / "rendered" / "video.mp4").is_file()

    result = command("train", *toy_overrides, *step_overrides(1), f"init_from={resumed / 'checkpoints' / 'best.ckpt'}")
    assert result.code == 0, result.err
    result = command("report", f"runs=[{uninterrupted},{resumed}]", f"output_dir={tmp_path / 'report'}")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.rate=-1", "model.rate=-1 must be a number of at least 0"),
        ("loss=l1_gan", "the toy model does not support loss.gan_weight"),
        ("model=unknown", "has no attribute 'Missing'"),
        ("+model.other=1", "model.other is not a key"),
    ],
)
def test_the_schema_and_rules_of_an_external_model_are_checked(command, toy_overrides, tmp_path, change, expected):
    base = [a for a in toy_overrides if a.split("=")[0] != change.split("=")[0]]
    result = command("train", *base, change)
    assert result.code == 1
    assert expected in result.err
    assert not (tmp_path / "run").exists()


def test_another_model_refuses_the_checkpoint_of_an_external_model(command, ball_overrides, toy_overrides, tmp_path):
    assert command("train", *toy_overrides, *step_overrides(1), f"hydra.run.dir={tmp_path / 'toy'}").code == 0
    result = command("train", *ball_overrides, "loss=l1", f"init_from={tmp_path / 'toy' / 'checkpoints' / 'best.ckpt'}")
    assert result.code == 1
    assert "holds a model of another kind; use model=toy_model:ToyModule" in result.err
