"""Detection of a dead parent process: the supervisor of a rank, or the sweep of a joblib worker."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

PARENT_VARIABLE = "DV_PARENT"  # process id of the supervisor, in the environment of the ranks that it started
POLL_SECONDS = 1.0
_job_running = threading.Lock()


def is_orphaned() -> bool:
    """Return whether the process that started this one, and would collect its results, has died."""
    if PARENT_VARIABLE in os.environ:
        return os.getppid() != int(os.environ[PARENT_VARIABLE])
    return _is_joblib_worker() and os.getppid() == 1


@contextmanager
def running_job() -> Iterator[None]:
    """Mark that a job is running. A joblib worker whose sweep has died exits after its job, or at once if it is idle.

    Otherwise it would wait five minutes for another job, and keep the sweep's output open.
    """
    if _is_joblib_worker():
        _exit_with_sweep()
    with _job_running:
        yield


@cache
def _exit_with_sweep() -> None:
    def watch() -> None:
        while not is_orphaned():  # a joblib worker has no handle of its parent to wait for
            time.sleep(POLL_SECONDS)
        with _job_running:  # a training notices by itself, and saves a checkpoint first
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_joblib_worker() -> bool:
    return multiprocessing.current_process().name != "MainProcess"
