"""Memory of the process: keep freed memory for reuse, and measure the peak."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Let the C library reuse large blocks instead of returning them to the kernel; return whether it can.

    By default glibc maps every tensor above 32 MB anew, and the kernel clears each page at the first write: copying
    140 MB then takes seven times as long. On other systems than Linux with glibc this does nothing.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def reset_peak_memory() -> None:
    """Restart :func:`peak_memory` from the present memory, since the runs of a sweep may share their process.

    Only Linux can reset the peak (proc(5), ``clear_refs``); elsewhere it counts from the start of the process.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)  # freed memory that is kept for reuse would count in every later peak
    with suppress(OSError):  # in a sandbox it may be read-only
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Return the peak main memory of this process in bytes, since :func:`reset_peak_memory`."""
    if sys.platform == "linux":  # getrusage starts from the peak of the parent process
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
