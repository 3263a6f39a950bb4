"""Run folders: finding them, and what they say of a run's settings, scores and course."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dv.errors import UserError

log = logging.getLogger(__name__)
Value = str | int | float | bool | None  # of a configuration key
NO_RUNS_IN = {"checkpoints", "pictures", "render", "tensorboard", "wandb"}


@dataclass(frozen=True)
class Validation:
    """Scores after ``steps`` steps and ``seconds`` of training; None where nothing was logged."""

    steps: int
    seconds: float | None
    psnr: float  # dB
    ssim: float | None


@dataclass(frozen=True, eq=False)
class Run:
    """One training. ``config`` has leaf keys with dots; ``choices`` and ``overridden`` are empty without ``.hydra``.

    ``measures`` are test/psnr, test/ssim, …, val/psnr, val/ssim (best validation), steps, seconds and memory_gb, as far
    as they are known. ``views`` are those of the evaluated ``split``, each with name and scores.
    """

    path: Path
    name: str
    state: str  # finished, failed, unfinished
    config: dict[str, Value]
    choices: dict[str, str | None]
    overridden: list[str]
    measures: dict[str, float]
    course: list[Validation]
    seconds_estimated: bool  # from the seconds of single steps
    record: dict[str, Any]  # run.json
    split: str
    views: list[dict[str, Any]]
    image_side: int | None


def natural(text: str) -> list[tuple[bool, int | str]]:
    """Sorting key that puts 2 before 10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", text) if part]


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run at any depth below ``folders``, once each, in natural order of their names.

    Raises :class:`UserError` if there is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"runs={folder} is no folder; give one with runs of train.py, such as runs=outputs")
    found = dict.fromkeys(path for folder in folders for path in _run_folders(folder))
    top = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    named = [(path, path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name) for path in found]
    runs = [read_run(path, name if name != "." else path.name) for path, name in named]
    if not runs:
        where = ", ".join(map(str, folders))
        raise UserError(f"no runs below {where}; make some with python train.py, or give their folder: runs=DIR")
    return sorted(runs, key=lambda run: natural(run.name))


def _run_folders(folder: Path) -> Iterator[Path]:
    """Resolved paths of run folders, through links too, but no folder twice."""
    seen: set[Path] = set()
    for here, below, files in os.walk(folder, followlinks=True):
        path = Path(here).resolve()
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in NO_RUNS_IN)
        if path in seen:
            below.clear()
        elif {"metrics.csv", "run.json"} & {*files} and _config_file(path).is_file():
            yield path
        seen.add(path)


def _config_file(path: Path) -> Path:
    """The resolved configuration; of a run that failed before it was written, the one it was started with."""
    files = path / "config.yaml", path / ".hydra" / "config.yaml"
    return files[0] if files[0].is_file() or not (path / "run.json").is_file() else files[1]


def read_run(path: Path, name: str) -> Run:
    """What is known of the run in ``path``; what cannot be read counts as absent, with a warning."""
    record, metrics = _json(path / "run.json"), _json(path / "metrics.json")
    rows = _rows(path / "metrics.csv")
    timed, estimated = _seconds(rows)
    logged = max((int(row["step"]) + 1 for row in rows), default=0)
    steps = int(record.get("steps", logged))
    course = {}
    for row in rows:
        if "val/psnr" in row:
            before = [seconds for step, seconds in timed if step <= row["step"]]
            at = min(int(row["step"]) + 1, steps)
            course[at] = Validation(at, before[-1] if before else None, row["val/psnr"], row.get("val/ssim"))
    if final := _numbers(record.get("final")):
        course[steps] = Validation(steps, record.get("seconds"), final["psnr"], final.get("ssim"))
    best = max(course.values(), key=lambda validation: validation.psnr, default=None)
    scored = {"psnr": best.psnr, "ssim": best.ssim} if best else {}
    measures = {f"val/{key}": score for key, score in _numbers(record.get("best") or scored).items() if key != "step"}
    seconds = record.get("seconds", timed[-1][1] if timed else None)
    measures |= _numbers({"steps": steps, "seconds": seconds, "memory_gb": record.get("memory_gb")})
    split = str(metrics.get("split", "test"))
    if split == "test":
        measures |= {f"test/{key}": score for key, score in _numbers(metrics.get("mean")).items()}
    config = _yaml(_config_file(path))
    hydra = _yaml(path / ".hydra" / "hydra.yaml").get("hydra", {})
    side = metrics.get("image_side", config.get("data", {}).get("image_side"))
    return Run(
        path,
        name,
        str(record.get("state", "unfinished")),
        flat(config),
        {str(group): choice for group, choice in hydra.get("runtime", {}).get("choices", {}).items()},
        [str(o).partition("=")[0].lstrip("+~") for o in hydra.get("overrides", {}).get("task", [])],
        measures,
        sorted(course.values(), key=lambda validation: validation.steps),
        estimated,
        record,
        split,
        [view for view in metrics.get("views", []) if "psnr" in _numbers(view)],
        side if isinstance(side, int) else None,
    )


def flat(config: dict[str, Any], above: str = "") -> dict[str, Value]:
    """``{"grid": {"side": 16}}`` as ``{"grid.side": 16}``; lists become text."""
    leaves: dict[str, Value] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value if isinstance(value, Value) else str(value)
    return leaves


def _rows(path: Path) -> list[dict[str, float]]:
    """The finite numbers of every row that has a step, less a last line that was not written to its end."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = []
    for row in csv.DictReader(lines):
        numbers = {key: _number(value) for key, value in row.items() if key}
        known = {key: number for key, number in numbers.items() if number is not None}
        if "step" in known:
            rows.append(known)
    return rows


def _seconds(rows: list[dict[str, float]]) -> tuple[list[tuple[float, float]], bool]:
    """Steps with seconds of training so far, and whether these are estimated from the seconds of single steps."""
    timed = [(row["step"], row["time/elapsed"]) for row in rows if "time/elapsed" in row]
    if timed:
        return timed, False
    done, seconds = -1.0, 0.0
    for row in rows:
        if "time/step" in row:
            seconds += row["time/step"] * (row["step"] - done)
            done = row["step"]
            timed.append((done, seconds))
    return timed, bool(timed)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _numbers(values: Any) -> dict[str, float]:
    """The entries that are finite numbers."""
    entries = values.items() if isinstance(values, dict) else ()
    return {key: number for key, value in entries if (number := _number(value)) is not None}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        log.warning("%s cannot be read and is left out: %s", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path.is_file() else {}
    except Exception as error:  # of YAML and of OmegaConf, which have nothing in common
        log.warning("%s cannot be read and is left out: %s", path, " ".join(str(error).split()))
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
