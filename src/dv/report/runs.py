"""Finding run folders, and reading a run's configuration, scores and history from them."""

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
from dv.validation import flatten

log = logging.getLogger(__name__)
Value = str | int | float | bool | None  # of a leaf configuration key
SKIPPED_FOLDERS = {"checkpoints", "pictures", "render", "tensorboard", "wandb"}


@dataclass(frozen=True)
class Validation:
    """Scores after ``steps`` training steps and ``seconds`` of training; None where nothing was logged."""

    steps: int
    seconds: float | None
    psnr: float  # dB
    ssim: float | None


@dataclass(frozen=True, eq=False)
class Run:
    """A training run."""

    path: Path
    name: str
    state: str  # finished, failed, unfinished
    config: dict[str, Value]  # leaf keys, joined with dots
    choices: dict[str, str | None]  # config group → choice; empty without .hydra
    overridden: list[str]  # keys and groups on the command line; empty without .hydra
    measures: dict[str, float]  # test/psnr, ..., val/psnr (best validation), steps, seconds and memory_gb if known
    history: list[Validation]  # in order of steps
    seconds_estimated: bool  # whether times are sums of the times of single steps
    record: dict[str, Any]  # content of run.json
    split: str  # the evaluated split
    views: list[dict[str, Any]]  # name and scores of every evaluated view
    image_side: int | None


def natural_key(text: str) -> list[tuple[bool, int | str]]:
    """Return a sort key that puts 2 before 10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", text) if part]


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Return every run at any depth below ``folders`` once, in natural order of their names.

    Raises:
        UserError: There is no such folder, or no run in them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"runs={folder} is not a folder; pass one with runs of train.py, such as runs=outputs")
    found = dict.fromkeys(path for folder in folders for path in _run_folders(folder))
    top = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    named = [(path, path.relative_to(top).as_posix() if path.is_relative_to(top) else path.name) for path in found]
    runs = [read_run(path, name if name != "." else path.name) for path, name in named]
    if not runs:
        where = ", ".join(map(str, folders))
        raise UserError(f"no runs below {where}; train with python train.py, or pass the folder of your runs: runs=DIR")
    return sorted(runs, key=lambda run: natural_key(run.name))


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yield resolved paths of run folders, each once; symbolic links are followed."""
    visited: set[Path] = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        path = Path(parent).resolve()
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        if path in visited:
            subfolders.clear()
        elif {"metrics.csv", "run.json"} & {*files} and _config_file(path).is_file():
            yield path
        visited.add(path)


def _config_file(path: Path) -> Path:
    """Return the path of the resolved configuration, or if the run failed before writing it, of Hydra's."""
    files = path / "config.yaml", path / ".hydra" / "config.yaml"
    return files[0] if files[0].is_file() or not (path / "run.json").is_file() else files[1]


def read_run(path: Path, name: str) -> Run:
    """Read the run in ``path``. Files that cannot be read count as missing, with a warning."""
    record, metrics = _json(path / "run.json"), _json(path / "metrics.json")
    rows = _rows(path / "metrics.csv")
    elapsed, estimated = _elapsed_seconds(rows)
    logged_steps = max((int(row["step"]) + 1 for row in rows), default=0)
    steps = int(record.get("steps", logged_steps))
    history = {}
    for row in rows:
        if "val/psnr" in row:
            earlier = [seconds for step, seconds in elapsed if step <= row["step"]]
            done = min(int(row["step"]) + 1, steps)
            history[done] = Validation(done, earlier[-1] if earlier else None, row["val/psnr"], row.get("val/ssim"))
    if final := _finite_numbers(record.get("final")):
        history[steps] = Validation(steps, record.get("seconds"), final["psnr"], final.get("ssim"))
    best = max(history.values(), key=lambda validation: validation.psnr, default=None)
    best_logged = {"psnr": best.psnr, "ssim": best.ssim} if best else {}
    measures = {
        f"val/{key}": score
        for key, score in _finite_numbers(record.get("best") or best_logged).items()
        if key != "step"
    }
    seconds = record.get("seconds", elapsed[-1][1] if elapsed else None)
    measures |= _finite_numbers({"steps": steps, "seconds": seconds, "memory_gb": record.get("memory_gb")})
    split = str(metrics.get("split", "test"))
    if split == "test":
        measures |= {f"test/{key}": score for key, score in _finite_numbers(metrics.get("mean")).items()}
    config = _yaml(_config_file(path))
    hydra = _yaml(path / ".hydra" / "hydra.yaml").get("hydra", {})
    size = metrics.get("image_size", [])  # width and height; older versions wrote the side of squares
    side = metrics.get("image_side", config.get("data", {}).get("image_side"))
    side = size[0] if len(set(size)) == 1 else None if size else side
    return Run(
        path,
        name,
        str(record.get("state", "unfinished")),
        {key: value if isinstance(value, Value) else str(value) for key, value in flatten(config).items()},
        {str(group): choice for group, choice in hydra.get("runtime", {}).get("choices", {}).items()},
        [str(o).partition("=")[0].lstrip("+~") for o in hydra.get("overrides", {}).get("task", [])],
        measures,
        sorted(history.values(), key=lambda validation: validation.steps),
        estimated,
        record,
        split,
        [view for view in metrics.get("views", []) if "psnr" in _finite_numbers(view)],
        side if isinstance(side, int) else None,
    )


def _rows(path: Path) -> list[dict[str, float]]:
    """Return the finite numbers of every row that has a step; an incomplete last line is ignored."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = []
    for row in csv.DictReader(lines):
        numbers = {key: _number(value) for key, value in row.items() if key}
        finite = {key: number for key, number in numbers.items() if number is not None}
        if "step" in finite:
            rows.append(finite)
    return rows


def _elapsed_seconds(rows: list[dict[str, float]]) -> tuple[list[tuple[float, float]], bool]:
    """Return (step, elapsed seconds of training), and whether these are estimated from the times of single steps."""
    elapsed = [(row["step"], row["time/elapsed"]) for row in rows if "time/elapsed" in row]
    if elapsed:
        return elapsed, False
    last_step, seconds = -1.0, 0.0
    for row in rows:
        if "time/step" in row:
            seconds += row["time/step"] * (row["step"] - last_step)
            last_step = row["step"]
            elapsed.append((last_step, seconds))
    return elapsed, bool(elapsed)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _finite_numbers(values: Any) -> dict[str, float]:
    """Return the entries that are finite numbers."""
    entries = values.items() if isinstance(values, dict) else ()
    return {key: number for key, value in entries if (number := _number(value)) is not None}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        log.warning("cannot read %s, so the report leaves it out: %s", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path.is_file() else {}
    except Exception as error:  # YAML's and OmegaConf's exceptions have no common base class
        log.warning("cannot read %s, so the report leaves it out: %s", path, " ".join(str(error).split()))
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
