"""What a process does that has lost who started it: a rank its supervisor, a worker of joblib its sweep."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

OUR_PARENT = "DV_PARENT"  # in a rank started here: the process that started it
LOOK_EVERY = 1.0  # seconds
_working = threading.Lock()


def orphaned() -> bool:
    """Whether who started this process, and would collect its results, is gone."""
    if OUR_PARENT in os.environ:
        return os.getppid() != int(os.environ[OUR_PARENT])
    return _is_worker() and os.getppid() == 1


@contextmanager
def at_work() -> Iterator[None]:
    """Around a job of this process. A worker of joblib whose sweep is gone ends with its job, or at once without one.

    Left alone it would wait five minutes for another, and hold the sweep's output open.
    """
    if _is_worker():
        _end_with_sweep()
    with _working:
        yield


@cache
def _end_with_sweep() -> None:
    def watch() -> None:
        while not orphaned():  # joblib's workers have nothing of their parent that could be waited for
            time.sleep(LOOK_EVERY)
        with _working:  # a training looks itself, and keeps a checkpoint
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_worker() -> bool:
    """Of joblib's."""
    return multiprocessing.current_process().name != "MainProcess"
