"""The state of a run's folder: whether it is in use, finished, and which checkpoint to resume from."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

from omegaconf import OmegaConf

from dv.checkpoint import Checkpoint, read_checkpoint
from dv.config.train import TrainConfig
from dv.errors import UserError
from dv.runtime.files import atomic_file
from dv.tasks.record import read_run
from dv.validation import Role, flatten, is_same, role_of

log = logging.getLogger(__name__)
LOCK_TIMEOUT = 60.0  # seconds to wait for an earlier process that may be about to release the folder


@contextmanager
def locked_run(run_dir: Path) -> Iterator[int]:
    """Lock the run's folder against other processes and yield the descriptor of the lock, which ranks inherit.

    The system releases the lock when the last process that holds it has ended, however it ended.

    Raises:
        UserError: if another process keeps the folder locked.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while not _lock(file):
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(
                    f"{run_dir} is in use by the training of process {file.read().strip()}; stop it or choose another "
                    "hydra.run.dir"
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def finished_psnr(run_dir: Path, config: TrainConfig) -> float | None:
    """Return the best validation PSNR, dB, if a run with this configuration has finished in the folder, else None."""
    record = read_run(run_dir)
    if record.get("state") != "finished" or not (run_dir / "config.yaml").is_file():
        return None
    changed = changed_keys(run_dir, config, {"result", "resumable"})
    return float(record["best"]["psnr"]) if not changed else None


def changed_keys(run_dir: Path, config: TrainConfig, roles: set[Role]) -> list[str]:
    """List as ``key=value`` what the run in a folder has where ``config`` differs, for keys with one of ``roles``."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return []
    before, now = (flatten(c) for c in (OmegaConf.to_container(OmegaConf.load(path)), asdict(config)))
    differing = [key for key in before if not is_same(before[key], now.get(key)) and role_of(TrainConfig, key) in roles]
    return [f"{key}={before.get(key)}" for key in differing]


def checkpoint_to_resume(resume: str | None, run_dir: Path) -> Checkpoint | None:
    """Return the checkpoint that ``resume=`` selects, None for a training from scratch.

    ``auto`` selects ``last.ckpt``. If it is missing or damaged, the newest other checkpoint of the folder takes its
    place.

    Raises:
        UserError: if the given checkpoint cannot be used, or checkpoints exist in the folder but none can be used.
    """
    if not resume:
        return None
    if resume != "auto":
        return _read(Path(resume))
    folder = run_dir / "checkpoints"
    paths = [folder / f"{name}.ckpt" for name in ("last", "previous", "best")]
    existing = [path for path in paths if path.is_file()]
    if not existing:
        log.info(
            "resume=auto: no %s, starting from scratch (give hydra.run.dir=DIR to resume the run in DIR)", paths[0]
        )
        return None
    good: list[Checkpoint] = []
    problems = []
    for path in existing:
        try:
            good.append(_read(path))
        except UserError as error:
            problems.append(str(error))
        if good and path.name == "last.ckpt":
            return good[0]
    if not good:
        raise UserError(
            f"resume=auto: no checkpoint can be used: {'; '.join(problems)}; start from scratch without resume"
        )
    newest = max(good, key=lambda checkpoint: checkpoint.step)
    why = "; ".join(problems) or f"{paths[0]} is missing"
    log.warning("resume=auto: %s; continuing from %s (step %d)", why, newest.path, newest.step)
    with atomic_file(paths[0]) as temporary:
        shutil.copyfile(newest.path, temporary)
    return replace(newest, path=paths[0])


def _read(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    if checkpoint.reference:
        raise UserError(f"resume={path} is a checkpoint of the reference implementation; use init_from={path}")
    return checkpoint
