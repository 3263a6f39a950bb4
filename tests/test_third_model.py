"""A model that this package does not know trains, evaluates, renders and resumes through the commands."""

import json

import pytest
import torch

from conftest import training
from faults import weights


@pytest.fixture
def of_toy(ball, tmp_path):
    """The overrides that choose the toy model, whose group file lies in a folder of its own."""
    group = tmp_path / "conf" / "model"
    group.mkdir(parents=True)
    (group / "toy.yaml").write_text("kind: toy_model:ToyModule\nrate: 0.1\n")
    (group / "unknown.yaml").write_text("kind: toy_model:Missing\nrate: 0.1\n")
    return [
        *(f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "object=custom", f"object.root={ball}", "object.name=ball"),
        *("model=toy", "loss=l2", "trainer=debug", "trainer.progress_bar=false"),
    ]


def test_it_trains_evaluates_renders_and_resumes(command, of_toy, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("train", *of_toy, *training(6), f"hydra.run.dir={whole}").code == 0
    assert command("train", *of_toy, *training(3), f"hydra.run.dir={parts}").code == 0
    result = command("train", *of_toy, *training(6), f"hydra.run.dir={parts}", "resume=auto")
    assert result.code == 0, result.err
    ours, theirs = (weights(run / "checkpoints" / "last.ckpt")["model.image"] for run in (parts, whole))
    assert torch.equal(ours, theirs)
    assert ours.any()

    ckpt = f"ckpt={parts / 'checkpoints' / 'best.ckpt'}"
    result = command("evaluate", ckpt, "trainer.gpus=0")
    assert result.code == 0, result.err
    assert "renders no depth" in result.out
    assert json.loads((parts / "metrics.json").read_text())["mean"]["psnr"] > 5
    result = command("render", ckpt, "trainer.gpus=0", "trajectory.frames=3", f"output_dir={tmp_path / 'film'}")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "film" / "rgb").glob("*.png"))) == 3
    assert (tmp_path / "film" / "video.mp4").is_file()

    result = command("train", *of_toy, *training(1), f"init_from={parts / 'checkpoints' / 'best.ckpt'}")
    assert result.code == 0, result.err
    result = command("report", f"runs=[{whole},{parts}]", f"output_dir={tmp_path / 'report'}")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.rate=-1", "model.rate=-1 must be a number of at least 0"),
        ("loss=l1_gan", "the toy model has no use for loss.gan_weight"),
        ("model=unknown", "has no attribute 'Missing'"),
        ("+model.other=1", "model.other is not a key"),
    ],
)
def test_its_schema_and_rules_are_checked(command, of_toy, tmp_path, change, expected):
    base = [a for a in of_toy if a.split("=")[0] != change.split("=")[0]]
    result = command("train", *base, change)
    assert result.code == 1
    assert expected in result.err
    assert not (tmp_path / "run").exists()


def test_its_checkpoint_is_refused_by_another_model(command, of_ball, of_toy, tmp_path):
    assert command("train", *of_toy, *training(1), f"hydra.run.dir={tmp_path / 'toy'}").code == 0
    result = command("train", *of_ball, "loss=l1", f"init_from={tmp_path / 'toy' / 'checkpoints' / 'best.ckpt'}")
    assert result.code == 1
    assert "holds a model of another kind; use model=toy_model:ToyModule" in result.err
