"""Command lines as people and programs write them, in the form that Hydra's grammar takes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from dv.config import SCHEMAS
from dv.errors import did_you_mean
from dv.validation import leaves

MULTIRUN = ("-m", "--multirun")
# Options of Hydra itself; every other --key=value is an override, as agents of W&B write it
HYDRA_OPTIONS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
SWEEPS = re.compile(r"(choice|range|glob|interval|shuffle|sort|tag|int|float|str|bool|json_str)\(.*\)")


def hydra_arguments(arguments: list[str], command: str, conf: Path) -> list[str]:
    """Return the arguments of a command as Hydra takes them, ``-m`` first.

    ``--key=value`` loses its dashes, and ``trajectory=FILE.json`` becomes a choice with a path. Text is quoted where
    Hydra's grammar would read something else, or nothing:
    ``source.path=scan=3 (final)`` and ``object.name=2024_01`` mean what they say.

    Args:
        arguments: as given.
        command: name of the command, whose schema tells which keys hold text.
        conf: folder of the configuration.
    """
    sweep = any(argument in MULTIRUN for argument in arguments)
    arguments = [_without_dashes(argument) for argument in arguments]
    if command == "render":
        arguments = [part for argument in arguments for part in _file_of_key_frames(argument)]
    arguments = quote_group_numbers(sorted(arguments, key=lambda a: a not in MULTIRUN), conf)
    return [_quoted(argument, command, sweep) for argument in arguments]


def _file_of_key_frames(argument: str) -> list[str]:
    """Turn ``trajectory=FILE.json`` into the choice ``trajectory=file`` and its path."""
    key, _, value = argument.partition("=")
    if key == "trajectory" and value.strip("'\"").lower().endswith(".json"):
        return ["trajectory=file", f"trajectory.path={value}"]
    return [argument]


def _without_dashes(argument: str) -> str:
    key = argument.partition("=")[0]
    if argument.startswith("--") and "=" in argument and key not in HYDRA_OPTIONS:
        return argument.removeprefix("--")
    return argument


def quote_group_numbers(arguments: list[str], conf: Path) -> list[str]:
    """Turn ``grid=16,32`` into ``grid='16','32'``: Hydra parses bare numbers as int and accepts only text as choice."""
    quoted = []
    for argument in arguments:
        group, equals, choice = argument.partition("=")
        values = choice.split(",")
        if equals and (conf / group).is_dir() and all(value.isdigit() for value in values):
            argument = f"{group}=" + ",".join(f"'{value}'" for value in values)
        quoted.append(argument)
    return quoted


def _quoted(argument: str, command: str, sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in text_keys(command) or SWEEPS.fullmatch(value) or "${" in value:
        return argument
    several = sweep and key not in FOLDERS
    if several and ("'" in value or '"' in value):
        return argument  # quoted by hand: only Hydra's grammar tells which commas separate values
    return f"{key}=" + ",".join(quote(_in_home(part)) for part in (value.split(",") if several else [value]))


def _in_home(value: str) -> str:
    """Return a path with the home folder for a leading ``~/``, which shells expand only after ``key=``."""
    return os.path.expanduser(value) if value.startswith("~/") else value


def quote(value: str) -> str:
    """Return text as Hydra's grammar must be given it: in quotes if it would be read as something else.

    >>> quote("data/mug"), quote("scan=3 (final)"), quote("2024_01"), quote("null")
    ('data/mug', "'scan=3 (final)'", "'2024_01'", 'null')
    """
    if value in ("", "null") or (value[0] in "'\"" and value[0] == value[-1] and len(value) > 1):
        return value
    try:
        read = OverridesParser.create().parse_override(f"key={value}").value()
        if read == value or isinstance(read, list | dict):
            return value
    except HydraException:
        pass  # the grammar has no such value
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def override_of(arguments: list[str], key: str) -> Override | None:
    """Return the last override of ``key`` among arguments of Hydra, if there is one."""
    found = [argument for argument in arguments if argument.partition("=")[0] == key]
    return OverridesParser.create().parse_override(found[-1]) if found else None


def shell_override(key: str, value: str) -> str:
    """Return ``key=value`` for a shell; :func:`hydra_arguments` quotes it for Hydra."""
    return shlex.quote(f"{key}={value}")


@cache
def text_keys(command: str) -> frozenset[str]:
    """Return the keys of a command that hold text, such as names and paths, or lists, and nothing else."""
    found: dict[str, list[bool]] = {}
    for key, annotation, _ in leaves(SCHEMAS[command]):
        found.setdefault(key, []).append(_is_text(annotation))
    return frozenset(key for key, is_text in found.items() if all(is_text)) | {*FOLDERS}


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return any(map(_is_text, members)) and all(_is_text(m) or get_origin(m) is list for m in members)
    return annotation is str


def resume_sweep(arguments: list[str], command: str, sweeps: Path = Path("outputs/sweep")) -> list[str]:
    """Add to a command with ``resume=auto`` the folder of the newest sweep that the same command has started.

    Nothing is added if ``hydra.sweep.dir`` is given or there is no such sweep.
    """
    if "resume=auto" not in arguments or any(a.startswith("hydra.sweep.dir=") for a in arguments):
        return arguments
    wanted = sorted("hydra.mode=MULTIRUN" if a in MULTIRUN else a for a in arguments if a != "resume=auto")
    for record in sorted(sweeps.glob("*/multirun.yaml"), key=lambda path: path.stat().st_mtime, reverse=True):
        overrides = OmegaConf.load(record).hydra.overrides
        started = [
            _quoted(o, command, sweep=True)
            for o in (*overrides.task, *overrides.hydra)
            if not o.startswith(("resume=auto", "hydra.sweep.dir="))
        ]
        if sorted(started) == wanted:
            return [*arguments, f"hydra.sweep.dir={record.parent}"]
    return arguments


def explain(error: Exception, arguments: list[str], command: str, conf: Path) -> str:
    """Return a sentence on an error of Hydra: which argument it is about, and what to type instead.

    Args:
        error: that Hydra has raised.
        arguments: given to Hydra.
        command: name of the command.
        conf: folder of the configuration.
    """
    cause = f" {error.__cause__}" if error.__cause__ else ""
    message = " ".join(f"{error}{cause}".split())
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    for argument in overrides:
        try:
            OverridesParser.create().parse_override(argument)
        except HydraException:
            key, _, value = argument.partition("=")
            right = shell_override(key, f'"{value}"')
            return f"{argument}: Hydra's grammar has no such value; if it is text, quote it twice: {right}"
    for argument in overrides:
        key, _, value = argument.partition("=")
        plain = key.lstrip("+~")
        if (conf / plain).is_dir() and f"Could not find '{plain}/" in message:
            choices = sorted(path.stem for path in (conf / plain).glob("*.yaml"))
            return f"{argument}: {plain} must be one of {', '.join(choices)}{did_you_mean(value, choices, f'{plain}=')}"
        if any(f"{start}'{plain}'" in message for start in ("Could not override ", "An item is already at ")):
            known = sorted({*_keys(command, conf)})
            if plain not in known:
                return f"{plain} is not a key of this configuration{did_you_mean(plain, known)}"
            chosen = override_of(overrides, plain.partition(".")[0])
            if chosen is not None:
                return f"{plain} is a key of other choices of {chosen.key_or_group}, not of {chosen.input_line}"
    return message


def _keys(command: str, conf: Path) -> Iterator[str]:
    """Yield every key and group of a command."""
    yield from (key for key, _, _ in leaves(SCHEMAS[command]))
    yield from (path.name for path in conf.iterdir() if path.is_dir())
