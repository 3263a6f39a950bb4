"""What tells runs apart: the keys of their configurations that differ, or the choices of groups that explain these."""

from __future__ import annotations

from collections.abc import Sequence

from dv.errors import UserError
from dv.report.runs import Run, Value

NOT_TELLING = (
    "output_dir",
    "resume",
    "evaluate",
    "trial",
    "object.how_to_get",
    "logger.",
    "trainer.progress_bar",
    "trainer.progress_every_steps",
)
ABSENT = ""  # the value of a key that a run does not have
EVERYTHING = ("experiment", "ablation")  # groups whose choices reach into all others
Columns = dict[str, list[Value]]  # name → value of each run


def differing_keys(runs: Sequence[Run]) -> Columns:
    """The leaf keys that differ; a key that older runs do not have differs if it does among the others.

    ``object.root`` counts only where ``object.name`` is the same.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if not key.startswith(NOT_TELLING))
    columns = {
        key: [run.config.get(key, ABSENT) for run in runs]
        for key in keys
        if len({run.config[key] for run in runs if key in run.config}) > 1
    }
    names = [run.config.get("object.name") for run in runs]
    if "object.root" in columns and _determines(names, columns["object.root"]):
        del columns["object.root"]
    return columns


def with_choices(keys: Columns, runs: Sequence[Run]) -> Columns:
    """``keys`` with a column of a group's choices instead of the keys that these explain.

    A choice explains what it determines and no command line says by itself. A group whose choices that does not tell
    apart gets no column.
    """
    if not all(run.choices for run in runs):
        return keys
    groups = dict.fromkeys([*EVERYTHING, *(group for run in runs for group in run.choices if "/" not in group)])
    chosen: Columns = {}
    for group in groups:
        choices: list[Value] = [run.choices.get(group) for run in runs]
        explained = {
            key: values
            for key, values in keys.items()
            if (group in EVERYTHING or key.startswith(f"{group}."))
            and _determines(choices, values)
            and not any(_says(run, key, group) for run in runs)
        }
        if explained and _determines(list(zip(*explained.values(), strict=True)), choices):
            chosen[group] = choices
            keys = {key: values for key, values in keys.items() if key not in explained}
    return chosen | keys


def named_columns(option: str, names: Sequence[str], runs: Sequence[Run]) -> Columns:
    """The columns of leaf keys or groups. Raises :class:`UserError` of ``option`` for a name that is neither."""
    columns: Columns = {}
    for name in names:
        if any(name in run.config for run in runs):
            columns[name] = [run.config.get(name, ABSENT) for run in runs]
        elif any(name in run.choices for run in runs):
            columns[name] = [run.choices.get(name, ABSENT) for run in runs]
        else:
            differ = ", ".join(with_choices(differing_keys(runs), runs)) or "none"
            raise UserError(f"{option}: no run has {name}; keys that differ: {differ}")
    return columns


def without(columns: Columns, names: Sequence[str]) -> Columns:
    """``columns`` less those named and those below them."""
    below = tuple(f"{name}." for name in names)
    return {key: values for key, values in columns.items() if key not in names and not key.startswith(below)}


def _determines(given: Sequence[object], values: Sequence[object]) -> bool:
    """Whether equal ``given`` go with equal ``values``."""
    return len(set(zip(given, values, strict=True))) == len(set(given))


def _says(run: Run, key: str, group: str) -> bool:
    """Whether the command line sets ``key`` other than by choosing ``group``."""
    return any(said != group and (key == said or key.startswith(f"{said}.")) for said in run.overridden)
