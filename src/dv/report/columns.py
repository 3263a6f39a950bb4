"""Columns that distinguish runs: configuration keys that differ, or the group choices that explain them."""

from __future__ import annotations

from collections.abc import Sequence

from dv.config.train import TrainConfig
from dv.errors import UserError
from dv.report.runs import Run, Value
from dv.validation import role_of

ABSENT = ""  # value of a key that a run lacks
GLOBAL_GROUPS = ("experiment", "ablation")  # groups whose choices set keys of other groups
Columns = dict[str, list[Value]]  # name → one value per run


def differing_keys(runs: Sequence[Run]) -> Columns:
    """Return the leaf keys whose values differ between runs.

    Runs that lack a key, such as older ones, do not count for it. ``object.root`` is left out if ``object.name``
    determines it.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if role_of(TrainConfig, key) != "bookkeeping")
    columns = {
        key: [run.config.get(key, ABSENT) for run in runs]
        for key in keys
        if len({run.config[key] for run in runs if key in run.config}) > 1
    }
    names = [run.config.get("object.name") for run in runs]
    if "object.root" in columns and _determines(names, columns["object.root"]):
        del columns["object.root"]
    return columns


def with_group_choices(keys: Columns, runs: Sequence[Run]) -> Columns:
    """Replace keys by columns of the config groups whose choices explain them.

    A group's choice explains the keys that it determines, unless a command line sets them individually. A group gets a
    column only if the keys it explains determine its choice in turn.

    Args:
        keys: Leaf keys that differ, see :func:`differing_keys`.
        runs: The runs, in the order of the columns' values.
    """
    if not all(run.choices for run in runs):
        return keys
    groups = dict.fromkeys([*GLOBAL_GROUPS, *(group for run in runs for group in run.choices if "/" not in group)])
    chosen: Columns = {}
    for group in groups:
        choices: list[Value] = [run.choices.get(group) for run in runs]
        explained = {
            key: values
            for key, values in keys.items()
            if (group in GLOBAL_GROUPS or key.startswith(f"{group}."))
            and _determines(choices, values)
            and not any(_is_overridden(run, key, group) for run in runs)
        }
        if explained and _determines(list(zip(*explained.values(), strict=True)), choices):
            chosen[group] = choices
            keys = {key: values for key, values in keys.items() if key not in explained}
    return chosen | keys


def named_columns(option: str, names: Sequence[str], runs: Sequence[Run]) -> Columns:
    """Return the columns of leaf keys or config groups.

    Args:
        option: The option that lists the names, for the error message.
        names: Leaf keys or config groups.
        runs: The runs.

    Raises:
        UserError: No run has a key or group of that name.
    """
    columns: Columns = {}
    for name in names:
        if any(name in run.config for run in runs):
            columns[name] = [run.config.get(name, ABSENT) for run in runs]
        elif any(name in run.choices for run in runs):
            columns[name] = [run.choices.get(name, ABSENT) for run in runs]
        else:
            differ = ", ".join(with_group_choices(differing_keys(runs), runs)) or "none"
            raise UserError(f"{option}: no run has {name}; keys that differ: {differ}")
    return columns


def drop_columns(columns: Columns, names: Sequence[str]) -> Columns:
    """Return ``columns`` without the named keys and the keys below them."""
    prefixes = tuple(f"{name}." for name in names)
    return {key: values for key, values in columns.items() if key not in names and not key.startswith(prefixes)}


def _determines(causes: Sequence[object], values: Sequence[object]) -> bool:
    """Return whether equal ``causes`` always go with equal ``values``."""
    return len(set(zip(causes, values, strict=True))) == len(set(causes))


def _is_overridden(run: Run, key: str, group: str) -> bool:
    """Return whether the run's command line sets ``key`` other than by choosing ``group``."""
    return any(name != group and (key == name or key.startswith(f"{name}.")) for name in run.overridden)
