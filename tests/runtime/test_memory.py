"""Peak memory is measured per run, not per process."""

import sys

import numpy as np
import pytest

from dv.runtime.memory import keep_freed_memory, peak_memory, reset_peak_memory


@pytest.mark.skipif(
    sys.platform != "linux", reason="resetting the peak needs clear_refs of proc(5), which only Linux has"
)
def test_the_peak_is_measured_since_the_last_reset():
    keep_freed_memory()  # freed memory stays in the process, as in a training
    reset_peak_memory()
    before = peak_memory()
    np.ones(50_000_000)
    assert 0.39e9 < peak_memory() - before < 0.45e9
    reset_peak_memory()
    assert abs(peak_memory() - before) < 0.05e9
    np.ones(25_000_000)
    assert 0.19e9 < peak_memory() - before < 0.25e9


def test_the_peak_is_in_bytes_on_other_systems_too(monkeypatch):
    np.ones(25_000_000)
    peak = peak_memory()
    if sys.platform == "linux":
        monkeypatch.setattr(sys, "platform", "freebsd14")  # its getrusage counts units of 1024 bytes, as Linux's does
    assert 0.2e9 < peak <= 1.001 * peak_memory() < 1e12
