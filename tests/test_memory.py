"""The peak of memory is that of a run, not of the process."""

import sys

import numpy as np
import pytest

from dv.memory import forget_peak, keep_freed_memory, peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak counts from the process's start")
def test_the_peak_counts_from_when_it_was_forgotten():
    keep_freed_memory()  # what is freed stays in the process, as in a training
    forget_peak()
    before = peak_memory()
    np.ones(50_000_000)
    assert 0.39e9 < peak_memory() - before < 0.45e9
    forget_peak()
    assert abs(peak_memory() - before) < 0.05e9
    np.ones(25_000_000)
    assert 0.19e9 < peak_memory() - before < 0.25e9
