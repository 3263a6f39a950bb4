"""Every key of every group refuses a wrong type, a value out of range and, where it is not allowed, null."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dv.config import SCHEMAS
from dv.config.train import TrainConfig
from dv.errors import UserError
from dv.validation import describe, flatten, is_same, leaves, parse, role_of, show

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
GROUPS = {
    "train": ("object", "grid", "loss", "model", "trainer", "logger"),
    "render": ("trajectory",),
    "prepare": ("source",),
}
CHOICES = [(command, "", "") for command in SCHEMAS] + [
    (command, group, path.stem)
    for command, groups in GROUPS.items()
    for group in groups
    for path in sorted((CONF / group).glob("*.yaml"))
]


@cache
def composed(command: str, group: str, value: str) -> dict[str, Any]:
    custom = ["object.root=x", "object.name=y"] if value == "custom" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command, [f"{group}='{value}'", *custom] if group else [])
    if command == "train":
        config.output_dir = "run"
    return OmegaConf.to_container(config, resolve=True)


def kinds(annotation: Any) -> tuple[list[Any], list[Any]]:
    """Return the types that a value may have and the limits of its numbers."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        found, limits = kinds(inner)
        return found, [*limits, *(m for m in metadata if isinstance(m, at.Ge | at.Gt | at.Le | at.Lt))]
    if get_origin(annotation) in (Union, type(int | None)):
        pairs = [kinds(member) for member in get_args(annotation)]
        return [k for found, _ in pairs for k in found], [m for _, limits in pairs for m in limits]
    return [annotation], []


def bad_values(annotation: Any) -> dict[str, Any]:
    """Return invalid values by fault: a wrong type, a number out of range and null, where they are invalid."""
    found, limits = kinds(annotation)
    words = any(kind is str or get_origin(kind) is Literal for kind in found)
    bad = {"type": [[True]] if words or any(get_origin(kind) is list for kind in found) else "nonsense"}
    if any(get_origin(kind) is dict for kind in found):
        bad["type"] = 1
    for limit in limits:
        if isinstance(limit, at.Ge | at.Gt):
            bad["range"] = limit.ge - 1 if isinstance(limit, at.Ge) else limit.gt
            break
    if any(get_origin(kind) is Literal for kind in found) and str not in found:
        bad["range"] = "elsewhere"
    if type(None) not in found:
        bad["null"] = None
    return bad


def keys_of(command: str, group: str, value: str) -> list[tuple[str, Any]]:
    """Return the keys that a choice configures and their annotations, except the key that names the choice."""
    present = flatten(composed(command, group, value))
    names = ("model.kind", "logger.name", "trajectory.name", "source.name")
    annotations = {key: annotation for key, annotation, _ in leaves(SCHEMAS[command], composed(command, group, value))}
    return [
        (key, annotations[key])
        for key in present
        if key in annotations and key not in names and (not group or key.startswith(f"{group}."))
    ]


@pytest.mark.parametrize(("command", "group", "value"), CHOICES)
def test_each_invalid_value_is_refused(command, group, value):
    plain = composed(command, group, value)
    parse(SCHEMAS[command], plain)
    for key, annotation in keys_of(command, group, value):
        for bad in bad_values(annotation).values():
            changed = copy.deepcopy(plain)
            *parents, name = key.split(".")
            node = changed
            for parent in parents:
                node = node[parent]
            node[name] = bad
            with pytest.raises(UserError) as raised:
                parse(SCHEMAS[command], changed)
            refusal = f"{key}={show(bad)} must be {describe(annotation)}"
            assert str(raised.value).partition("; did you mean")[0] == refusal


@pytest.mark.parametrize(("command_name", "group", "value"), CHOICES)
def test_all_invalid_keys_are_listed_in_one_line(command, command_name, group, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = [f"{group}='{value}'"] if group else []
    chosen += ["object.root=x", "object.name=y"] if value == "custom" else []
    # the name of the run folder is composed from output_dir and object.name
    keys = {key: bad_values(a) for key, a in keys_of(command_name, group, value)}
    keys = {key: values for key, values in keys.items() if key not in ("output_dir", "object.name")}
    for fault in ("type", "range", "null"):
        bad = {key: show(values[fault]) for key, values in keys.items() if fault in values}
        if bad:
            result = command(command_name, *chosen, *(f"{key}={text}" for key, text in bad.items()))
            assert result.code == 1, result.err
            assert result.err.startswith("error: ")
            assert result.err.count("\n") == 1, result.err
            assert [key for key in bad if f"{key}=" not in result.err] == []
            assert not list(tmp_path.iterdir())


def test_a_misspelt_key_is_refused_in_one_line(command, tmp_path):
    for override in ("grid.sides=8", "+grid.sides=8"):
        result = command("train", override)
        assert result.code == 1
        assert "grid.sides" in result.err
        assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_broken_rules_between_keys_are_listed_together():
    plain = copy.deepcopy(composed("train", "model", "radiance_grid"))
    plain["trainer"] |= {"max_epochs": None, "precision": "bf16-true"}
    plain["optimizer"]["final_fraction"] = 0
    plain["loss"]["gan_weight"] = 1
    plain["model"]["rays"] = 3
    with pytest.raises(UserError) as raised:
        parse(TrainConfig, plain)
    for words in ("nothing ends the training", "final_fraction=0", "model.rays=3", "use loss=l2", "use bf16-mixed"):
        assert words in str(raised.value)


def test_roles_of_keys():
    roles = {key: role for key, _, role in leaves(TrainConfig)}
    assert roles["trainer.gpus"] == roles["object.root"] == roles["trainer.save_every_steps"] == "execution"
    assert roles["trainer.max_steps"] == roles["trainer.precision"] == "resumable"
    assert roles["trial.number"] == roles["logger.mode"] == roles["object.how_to_get"] == "bookkeeping"
    assert roles["seed"] == roles["model.refine_at"] == roles["object.name"] == "result"
    assert all(role_of(TrainConfig, key) == role for key, role in roles.items())
    assert role_of(TrainConfig, "logger.of_another_version") == "bookkeeping"
    assert role_of(TrainConfig, "model.of_another_version") == "result"


def test_the_reference_page_is_current():
    namespace: dict[str, Any] = {"__name__": "generator", "__file__": str(ROOT / "docs" / "generate_configuration.py")}
    exec((ROOT / "docs" / "generate_configuration.py").read_text(), namespace)
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert page == namespace["page"](), "run make docs"
    for schema in SCHEMAS.values():
        for key, _, _ in leaves(schema):
            tag = key in namespace["TAGS"] or key.startswith("trial.")
            assert tag or f"`{key}`" in page, key


def test_up_is_refused_where_the_world_stays_as_it_is(command, tmp_path):
    result = command("prepare", "source=nsvf", "source.path=x", "output_dir=y", "grid.up=[0,0,1]")
    assert result.code == 1
    assert "grid.up is for source=capture, not for source=nsvf" in result.err


def test_a_group_cannot_be_null(command, tmp_path):
    for override, values in (
        ("model=null", "deepvoxels, no_occlusion, radiance_grid"),
        ("loss=null", "l1, l1_gan, l2"),
    ):
        result = command("train", override)
        assert result.code == 1
        assert result.err == f"error: {override} must be one of {values}\n"
    assert not list(tmp_path.iterdir())


def test_faults_that_all_jobs_of_a_sweep_share_end_it_before_it_starts(command, tmp_path):
    result = command("train", "-m", "grid=16,32", "loss.border=-1", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.code == 1
    assert result.err == "error: loss.border=-1 must be a whole number of at least 0\n"
    assert not list(tmp_path.iterdir())


def test_rules_are_not_applied_to_defaults_of_swept_keys(command, ball_overrides, tmp_path):
    """The default of the swept ``max_steps``, null, would leave a training without an end."""
    overrides = [a for a in ball_overrides if a != "trainer=debug"] + ["trainer.gpus=0", "trainer.validation_views=1"]
    overrides += ["trainer.max_epochs=null", "trainer.max_steps=1,2", "loss=l1"]
    sweep = tmp_path / "sweep"
    result = command("train", "-m", *overrides, f"hydra.sweep.dir={sweep}")
    assert result.code == 0, result.err
    assert (sweep / "1" / "run.json").is_file()


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [(7, "7", True), (1, 1.0, True), ([0.1], [0.1], True), (None, "auto", False), (0, 1, False)],
)
def test_values_that_mean_the_same(value, other, same):
    assert is_same(value, other) == same
