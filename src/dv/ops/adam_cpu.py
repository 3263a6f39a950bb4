"""Adam on CPUs for the rows of a table that have a gradient."""

# numba compiles these functions for the types of their arguments, float32 or float64, and caches the result.
from __future__ import annotations

from typing import Any

from numba import njit, prange

from dv.ops.lanes_cpu import FASTMATH, LANES, count, lane_numbers, square_root
from dv.ops.lanes_memory_cpu import load, prefetch_row, store

LANES_DIGEST = "1560e30e"  # of the sources of lanes: numba compiles again when it changes
AHEAD = 16  # rows between fetching a row and changing it


@njit(cache=True, fastmath=FASTMATH)
def _change(
    place: Any, mask: Any, table: Any, gradient: Any, mean: Any, mean_square: Any,
    beta1: Any, beta2: Any, eps: Any, rate: Any, correction: Any,
) -> None:  # fmt: skip
    """Change the elements from ``place`` on in which ``mask`` is true."""
    one, g = type(beta1)(1), load(gradient, place, mask)
    m = load(mean, place, mask) * beta1 + g * (one - beta1)
    v = load(mean_square, place, mask) * beta2 + g * g * (one - beta2)
    store(mean, place, m, mask)
    store(mean_square, place, v, mask)
    store(table, place, load(table, place, mask) - m * rate / (square_root(v) * correction + eps), mask)


@njit(parallel=True, cache=True, fastmath=FASTMATH)
def adam_rows_kernel(
    table: Any, gradient: Any, mean: Any, mean_square: Any, beta1: Any, beta2: Any, eps: Any, rate: Any, correction: Any
) -> None:
    """Change the rows of ``table`` ``[N, F]`` and of its moments whose gradient is not zero.

    Args:
        table: parameters.
        gradient: of them.
        mean: running mean of their gradients.
        mean_square: running mean of the squares of their gradients.
        beta1: share of the mean that is kept.
        beta2: likewise of the mean of squares.
        eps: is added to the root of the mean of squares.
        rate: learning rate, corrected for the bias of ``mean``.
        correction: factor that corrects the root of ``mean_square`` for its bias.
    """
    rows, channels = table.shape
    if channels == 1:  # a vector holds a row in each lane
        for part in prange(-(-rows // LANES)):
            place = part * LANES
            g = load(gradient, place, lane_numbers() < rows - place)
            has_gradient = (g > 0.0) | (g < 0.0)
            if count(has_gradient):
                _change(place, has_gradient, table, gradient, mean, mean_square, beta1, beta2, eps, rate, correction)
        return
    for row in prange(rows):
        later = row + AHEAD
        if later < rows and gradient[later, 0] != 0:  # in most rows with a gradient
            for values in (mean, mean_square, table):
                prefetch_row(values, later)
        found = 0
        for first in range(0, channels, LANES):
            g = load(gradient, row * channels + first, lane_numbers() < channels - first)
            found += count((g > 0.0) | (g < 0.0))
        if found:
            for first in range(0, channels, LANES):
                mask = lane_numbers() < channels - first
                place = row * channels + first
                _change(place, mask, table, gradient, mean, mean_square, beta1, beta2, eps, rate, correction)
