"""Helpers to start trainings in separate processes, which tests kill, and to inspect the files they leave."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dv.checkpoint import read_checkpoint


def start_training(run: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `train.py` in a separate process."""
    command = [sys.executable, "-m", "dv.tasks.train", *arguments, f"hydra.run.dir={run}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (process.stderr or process.stdout).read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved_steps(run: Path) -> int:
    path = run / "checkpoints" / "last.ckpt"
    return read_checkpoint(path).step if path.is_file() else 0


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def assert_equal_runs(a: Path, b: Path) -> None:
    """Assert that two runs have the same weights, bit for bit, and the same log except for times."""
    for name in ("last", "best"):
        ours, theirs = (read_weights(run / "checkpoints" / f"{name}.ckpt") for run in (a, b))
        assert ours.keys() == theirs.keys()
        assert not [key for key in ours if not torch.equal(ours[key], theirs[key])], name
    logs = []
    for run in (a, b):
        with (run / "metrics.csv").open() as file:
            logs.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)])
    assert logs[0] == logs[1]


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return True
