"""Every configuration composes, and each value of every training group trains for one step on a CPU."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import TINY
from dv.tasks.command import config_folder
from dv.tasks.command_line import quote_group_numbers

CONF = Path(__file__).parents[1] / "conf"
TASKS = ("train", "evaluate", "render", "prepare", "report")
TRAIN_GROUPS = ("object", "grid", "model", "loss", "trainer", "logger", "experiment", "launcher", "sweep", "ablation")
SHARED = {"imports"}  # files of keys that other files include
VALUES = sorted((p.parent.name, p.stem) for p in CONF.glob("*/*.yaml") if p.parent.name not in SHARED)


def test_a_clone_uses_its_own_conf():
    assert config_folder() == CONF


@pytest.mark.parametrize("task", TASKS)
def test_command_composes(task):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(task)


def test_all_groups_are_covered():
    assert {group for group, _ in VALUES} == {*TRAIN_GROUPS, "trajectory", "source"}


@pytest.mark.parametrize(("group", "value"), VALUES)
def test_value_composes(group, value):
    task = {"trajectory": "render", "source": "prepare"}.get(group, "train")
    custom = ["object.root=x", "object.name=y"] if (group, value) == ("object", "custom") else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(task, [f"{group}='{value}'", *custom], return_hydra_config=True)
    plain = OmegaConf.to_container(config, resolve=False)
    assert plain.get("object" if group in ("experiment", "launcher", "sweep", "ablation") else group) is not None
    if group == "launcher":
        assert value.replace("slurm", "submitit") in plain["hydra"]["launcher"]["_target_"]


@pytest.mark.parametrize("value", [value for group, value in VALUES if value.startswith("study_")])
def test_study_is_a_sweep_with_scores(command, ball_overrides, tmp_path, value):
    """Each study runs with two of its values; overrides of keys that it sweeps are left out."""
    key = {"study_grid": "grid", "study_occlusion": "model", "study_views": "data.training_views"}.get(value)
    two_values = {"grid": "grid=16,32", "data.training_views": "data.training_views=2,4"}.get(key, "seed=0")
    two_values = "data.noise_angle=0,5" if value == "study_noise" else two_values
    two_values = "ablation=recipe,diffuse" if value == "study_radiance" else two_values
    swept = {"study_grid": "grid.side", "study_radiance": "model."}.get(value, "none")
    base = [a for a in ball_overrides if not a.startswith(swept)]
    result = command(
        "train",
        *base,
        f"experiment={value}",
        two_values,
        "loss=l1",
        "trainer.max_steps=1",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert result.code == 0, result.err
    scores = [(tmp_path / str(job) / "metrics.json").read_text() for job in range(2)]
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("group", "value"),
    [v for v in VALUES if v[0] in TRAIN_GROUPS and not v[1].startswith("study_") and v != ("sweep", "optuna")],
)
def test_value_trains_one_step(command, ball, tmp_path, group, value, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    small = [a for a in TINY if not a.startswith(("grid.side", "trainer="))]
    if value.startswith("radiance") or value in ("demo", "capture") or group == "ablation":  # without base_channels
        small = [a for a in small if not a.startswith("model.")]
    small += ["trainer.gpus=0", "trainer.max_steps=1", "trainer.validation_views=1", "trainer.picture_every_steps=1"]
    side = ["grid.side=8"] if (group, value) != ("grid", value) else []
    if group == "grid" and value == "128":
        small = [a for a in small if not a.startswith("grid.f")] + ["grid.features=2", "grid.feature_side=4"]
    source = ["loss=l1"] if group not in ("loss", "experiment") else []
    if group == "object":  # the published folder names, filled with the tiny object
        name = {"pedestal": "greek", "chair": "armchair"}.get(value, value)
        for split in ("train", "validation", "test"):
            (tmp_path / "objects" / split).mkdir(parents=True)
            (tmp_path / "objects" / split / name).symlink_to(ball / split / "ball")
        source += [f"object.root={tmp_path / 'objects'}"] + (["object.name=custom"] if value == "custom" else [])
    else:
        source += ["object=custom"] if group != "experiment" else []
        source += ["model=radiance_grid"] if group == "ablation" else []
        source += [f"object.root={ball}", "object.name=ball"]
    result = command("train", *source, f"{group}={value}", *small, *side, "data.image_side=32")
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_numbers_that_name_a_group_value_are_quoted():
    given = ["grid=16,32", "grid.side=8", "-m", "loss=l1", "seed=3"]
    assert quote_group_numbers(given, CONF) == ["grid='16','32'", "grid.side=8", "-m", "loss=l1", "seed=3"]
