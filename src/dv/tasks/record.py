"""``run.json``: how a run ended, and its time and memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dv.errors import Interrupted
from dv.runtime.files import write_json
from dv.runtime.memory import peak_memory
from dv.runtime.revision import revision


def read_run(run_dir: Path) -> dict[str, Any]:
    """Return ``run.json`` of a run's folder; empty without one."""
    path = run_dir / "run.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return record


def record_finished(
    run_dir: Path, steps: int, seconds: float, scores: Mapping[str, float], device: torch.device, ranks: int
) -> None:
    """Record a finished training.

    Args:
        run_dir: the run's folder.
        steps: number of training steps.
        seconds: wall-clock time of the training.
        scores: of the final validation, ``val/psnr`` and ``val/ssim``.
        device: the device that computed; its peak memory is recorded if it is a GPU, else that of this process.
        ranks: number of processes.
    """
    final = {"psnr": scores["val/psnr"], "ssim": scores["val/ssim"], "step": steps}
    with (run_dir / "metrics.csv").open(newline="") as file:
        validations = [
            {"psnr": float(row["val/psnr"]), "ssim": float(row["val/ssim"]), "step": min(int(row["step"]) + 1, steps)}
            for row in csv.DictReader(file)
            if row.get("val/psnr")
        ]
    on_gpu = device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else peak_memory()
    write_json(
        run_dir / "run.json",
        {
            "state": "finished",
            "steps": steps,
            "seconds": seconds,
            "memory_gb": memory / 1e9,
            "ranks": ranks,
            "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
            "revision": revision(),
            "best": max([*validations, final], key=lambda score: (score["psnr"], score["step"])),
            "final": final,
        },
    )


@contextmanager
def recording_failure(run_dir: Path) -> Iterator[None]:
    """Record why a training fails, unless it was interrupted."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        if read_run(run_dir).get("state") == "finished":
            raise  # refused before anything was changed
        with suppress(OSError):  # a full disk may be the failure itself, which is raised below
            write_json(run_dir / "run.json", {"state": "failed", "error": " ".join(str(error).split())})
        raise
