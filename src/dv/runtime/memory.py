"""Memory of the process: freed memory is kept, the most that it held is measured."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Have the C library reuse large blocks rather than return them to the kernel; whether it could be told so.

    By default glibc maps every tensor above 32 MB anew, and the kernel clears its pages one by one as they are
    first written: copying 140 MB then takes seven times as long. Only glibc is asked; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, without what was freed before: a sweep's runs can share their process.

    Only Linux can be told so (proc(5), ``clear_refs``); elsewhere it goes on counting from the process's start.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)  # freed memory that is kept would be part of every later peak
    with suppress(OSError):  # a sandbox may have it read-only
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most bytes of main memory that this process had at a time since `reset_peak_memory`."""
    if sys.platform == "linux":  # getrusage's is there at least that of the process that started this one
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
