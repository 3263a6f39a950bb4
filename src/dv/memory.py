"""Keeping freed memory in the process."""

from __future__ import annotations

import ctypes
import sys

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
