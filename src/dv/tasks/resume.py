"""What a run's folder says of an earlier attempt: whether it is in use, finished, and where to go on."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dv.errors import UserError
from dv.tasks.run_record import read_record

if TYPE_CHECKING:
    from dv.checkpoint import Checkpoint

log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds to wait for a process that is just stopping in the same folder
NOT_OF_THE_RESULT = (
    *("trial.", "resume", "output_dir", "logger.", "evaluate", "object.root", "object.how_to_get", "data.workers"),
    *("trainer.progress", "trainer.gpus", "trainer.processes", "trainer.nodes", "trainer.compile"),
    *("trainer.operator_memory_gb", "trainer.save_every_steps"),
)
MAY_CHANGE = (*NOT_OF_THE_RESULT, "trainer.")  # without making it another run


@contextmanager
def alone_in(run_dir: Path) -> Iterator[int]:
    """Hold the run's folder against other processes; gives the descriptor of the lock, to be passed on to ranks.

    The system lets go of it when the last process that has it is gone, however it ended. Raises :class:`UserError` if
    another process keeps the folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        deadline = time.monotonic() + PATIENCE
        while not _locked(file):
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(
                    f"{run_dir} is being trained in by process {file.read().strip()}; stop it or choose another "
                    "hydra.run.dir"
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def finished(run_dir: Path, config: dict[str, Any]) -> float | None:
    """Best validation PSNR in dB of a run that has been made with this configuration to its end, else None."""
    record = read_record(run_dir)
    if record.get("state") != "finished" or not (run_dir / "config.yaml").is_file():
        return None
    return float(record["best"]["psnr"]) if not changed(run_dir, config, NOT_OF_THE_RESULT) else None


def changed(run_dir: Path, config: dict[str, Any], may_change: tuple[str, ...] = MAY_CHANGE) -> list[str]:
    """``key=value`` of what the run in a folder was made with and ``config`` has otherwise."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return []
    before, now = (_flat(c) for c in (OmegaConf.to_container(OmegaConf.load(path)), config))
    keys = [key for key in before if before.get(key) != now.get(key) and not key.startswith(may_change)]
    return [f"{key}={before.get(key)}" for key in keys]


def checkpoint_to_resume(resume: str | None, run_dir: Path) -> Checkpoint | None:
    """The checkpoint that ``resume=`` means; of ``auto`` the newest good one of the folder, None if there is none.

    Raises :class:`UserError` if the one given cannot be used, or of several there is none that can.
    """
    if not resume:
        return None
    if resume != "auto":
        return _ours(Path(resume))
    folder = run_dir / "checkpoints"
    paths = [folder / f"{name}.ckpt" for name in ("last", "previous", "best")]
    there = [path for path in paths if path.is_file()]
    if not there:
        log.info("resume=auto: no %s, starting afresh (give hydra.run.dir=DIR to resume the run in DIR)", paths[0])
        return None
    good: list[Checkpoint] = []
    problems = []
    for path in there:
        try:
            good.append(_ours(path))
        except UserError as error:
            problems.append(str(error))
        if good and path.name == "last.ckpt":
            return good[0]
    if not good:
        raise UserError(f"resume=auto: no checkpoint can be used: {'; '.join(problems)}; start afresh without resume")
    newest = max(good, key=lambda checkpoint: checkpoint.step)
    why = "; ".join(problems) or f"there is no {paths[0]}"
    log.warning("resume=auto: %s; going on from %s (step %d)", why, newest.path, newest.step)
    aside = folder / ".last.ckpt.partial"
    shutil.copyfile(newest.path, aside)
    aside.replace(paths[0])
    return replace(newest, path=paths[0])


def _ours(path: Path) -> Checkpoint:
    from dv.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    if checkpoint.reference:
        raise UserError(f"resume={path} is a checkpoint of the reference implementation; use init_from={path}")
    return checkpoint


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested configuration as ``{"trainer.max_steps": …}``."""
    if not isinstance(config, dict):
        return {prefix.rstrip("."): config}
    return {k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
