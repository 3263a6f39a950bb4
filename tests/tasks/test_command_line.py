"""Command lines as people, shells and W&B agents write them reach Hydra as what they mean."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dv.config import SCHEMAS
from dv.errors import did_you_mean
from dv.tasks.command import config_folder
from dv.tasks.command_line import hydra_arguments, quote, shell_override, text_keys
from dv.validation import leaves

CONF = config_folder()
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


def value(argument: str):
    return OverridesParser.create().parse_override(argument).value()


@given(NAMES)
def test_any_text_means_itself(name):
    """Except what Hydra has a meaning for: null, quotes, interpolations, lists and dictionaries."""
    if name == "null" or "${" in name or name[0] in "'\"[{":
        return
    (argument,) = hydra_arguments([f"object.name={name}"], "train", CONF)
    assert value(argument) == name
    (again,) = hydra_arguments(shlex.split(shell_override("object.name", name)), "train", CONF)
    assert value(again) == name


@pytest.mark.parametrize(
    "path",
    [
        "scan=3-step=2 (final)", "2024_01_05", "007", "1e3", "true", "~", "C:\\photos\\a", "it's", 'the "best"',
        "[old] scan", "a, b", "a:b", "über uns", " leading", "epoch=3-step=9.ckpt", "x{1}", "a\\", "-1", "@home", "50%",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("command", "key"),
    [("prepare", "source.path"), ("prepare", "output_dir"), ("train", "object.root"), ("train", "hydra.run.dir"),
     ("train", "init_from"), ("evaluate", "ckpt"), ("prepare", "mesh.path")],
)  # fmt: skip
def test_paths_with_characters_of_hydras_grammar(command, key, path):
    (argument,) = hydra_arguments([f"{key}={path}"], command, CONF)
    assert value(argument) == path
    (dashed,) = hydra_arguments([f"--{key}={path}"], command, CONF)
    assert dashed == argument


def test_what_hydra_means_is_kept():
    kept = ["object.name=null", "object.root='a b'", 'object.root="a b"', "object.root=${oc.env:HOME}", "seed=3",
            "trainer.max_steps=10", "--config-name=train", "--cfg=job", "object=vase", "+x=1", "~logger"]  # fmt: skip
    assert hydra_arguments(kept, "train", CONF) == kept
    assert hydra_arguments(["--seed=3", "--trainer.gpus=1"], "train", CONF) == ["seed=3", "trainer.gpus=1"]
    assert hydra_arguments(["ckpt=a", "seed=1", "-m"], "evaluate", CONF)[0] == "-m"


def test_values_of_a_sweep_over_text_are_quoted_one_by_one():
    arguments = hydra_arguments(["-m", "object.name=2024_01,b"], "train", CONF)
    override = OverridesParser.create().parse_override(arguments[1])
    assert list(override.sweep_string_iterator()) == ["'2024_01'", "b"]
    assert hydra_arguments(["-m", "object.name=choice(a,b)"], "train", CONF) == ["-m", "object.name=choice(a,b)"]


def test_text_keys_are_those_that_hold_nothing_else():
    assert {"object.name", "object.root", "resume"} <= text_keys("train")
    assert not {"seed", "trainer.max_steps", "trainer.gpus", "grid.side"} & text_keys("train")
    assert "runs" in text_keys("report")
    assert hydra_arguments(["runs=[a,b]"], "report", CONF) == ["runs=[a,b]"]
    (runs,) = hydra_arguments(["runs=seed=1 (a)"], "report", CONF)
    assert value(runs) == "seed=1 (a)"


def test_quoted_text_in_a_sweep_is_left_to_hydra():
    for argument in ("object.root='a, b'", "hydra.sweep.dir='sw, 3'"):
        assert hydra_arguments(["-m", argument], "train", CONF)[1] == argument
    (_, folder) = hydra_arguments(["-m", "hydra.sweep.dir=sw, 3"], "train", CONF)
    assert value(folder) == "sw, 3"


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hydra_arguments(["--source.path=~/scan"], "prepare", CONF) == [f"source.path={tmp_path}/scan"]


@pytest.mark.parametrize("text", ["plain/path.png", "a-b_c.d", "v1.2"])
def test_what_needs_no_quotes_gets_none(text):
    assert quote(text) == text


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("train", "trainr.max_steps=3", "trainr.max_steps is not a key of this configuration; did you mean trainer."),
        ("train", "max_steps=3", "max_steps is not a key of this configuration; did you mean trainer.max_steps?"),
        ("train", "modl=radiance_grid", "modl is not a key of this configuration; did you mean model?"),
        ("train", "model=radience_grid", "did you mean model=radiance_grid?"),
        ("prepare", "source=transform", "did you mean source=transforms?"),
        ("prepare", "sorce.path=x", "did you mean source.path?"),
        ("prepare", "source.crop=squar", "must be auto, full, common, square or object; did you mean square?"),
        ("prepare", "source=capture source.triangulate=false", "source.triangulate is a key of other choices"),
        ("train", "loss.l1_weight=[1", "quote it twice: 'loss.l1_weight=\"[1\"'"),
        ("train", "+trainer.max_step=3", "trainer.max_step is not a key of this configuration; did you mean trainer."),
    ],
)  # fmt: skip
def test_misspelt_keys_and_choices_get_the_nearest_right_one(name, argument, message, command):
    needed = {"train": ["object=vase"], "prepare": ["source=nsvf"]}[name] if "source=" not in argument else []
    result = command(name, *needed, *argument.split())
    assert result.code == 1
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_nothing_similar_is_not_suggested():
    assert did_you_mean("zzz", ["seed", "trainer.max_steps"]) == ""


def test_folders_by_overrides_leave_out_what_makes_no_other_run():
    config = OmegaConf.load(CONF / "train.yaml")
    excluded = set(config.hydra.job.config.override_dirname.exclude_keys)
    bookkeeping = {key for key, _, role in leaves(SCHEMAS["train"]) if role == "bookkeeping"}
    kept = {"output_dir", "object.how_to_get"}
    assert excluded == {key for key in bookkeeping if not key.startswith("trial.")} - kept - {"logger.name"} | {
        "logger"
    }


def test_source_auto(command, tmp_path, ball):
    """Recognises the folder, says so, and reads it."""
    out = tmp_path / "copy"
    result = command("prepare", f"source.path={ball}", f"output_dir={out}")
    assert result.code == 0, result.err
    assert "is source=folder (train/ball)" in result.out
    assert (out / "train" / "copy" / "intrinsics.txt").is_file()
    again = command("prepare", "source=auto", f"source.path={ball}", f"output_dir={out}")
    assert "nothing to do" in again.out
    nothing = command(
        "prepare", f"source.path={tmp_path / 'copy' / 'train' / 'copy' / 'pose'}", f"output_dir={tmp_path / 'x'}"
    )
    assert nothing.code == 1
    assert "neither photographs, a video or a mesh, nor a format of cameras that is known here" in nothing.err
    assert command("prepare", "source=auto").code == 1
