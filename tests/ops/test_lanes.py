"""Vectors of numbers in numba's kernels compute what NumPy computes, in both types of number."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core.errors import NumbaTypeError

import dv.ops
from dv.ops.lanes_cpu import (
    FASTMATH,
    LANES,
    count,
    equal,
    exponential,
    lane_numbers,
    log_1_plus,
    maximum,
    minimum,
    no,
    select,
    spread,
    square_root,
    to_float,
    to_int,
    total,
)
from dv.ops.lanes_memory_cpu import (
    append,
    gather,
    gather_bytes,
    gather_three,
    load,
    prefetch_row,
    scatter,
    spread_from,
    store,
)

FOLDER = Path(dv.ops.__file__).parent
FLOATS = [np.float32, np.float64]


def random(dtype, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@njit(fastmath=FASTMATH)
def arithmetic(a, b, out):
    every = lane_numbers() < LANES
    x, y = load(a, 0, every), load(b, 0, every)
    store(out, 0, x + y, every)
    store(out, LANES, 2.0 * x - y / 3, every)
    store(out, 2 * LANES, minimum(x, y) * maximum(x, 0.0), every)
    is_chosen = (x < y) & no(x <= -1.0) | (y >= 1.5) | equal(x, y)
    store(out, 3 * LANES, select(is_chosen, x, -7.0), every)
    store(out, 4 * LANES, to_float(to_int(x * 10.0), a[0]), every)
    store(out, 5 * LANES, square_root(x * x) + spread(a[1]), every)
    return count(is_chosen), total(x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_arithmetic(dtype):
    a, b, out = random(dtype, LANES), random(dtype, LANES, seed=1), np.zeros((6, LANES), dtype)
    b[3] = a[3]
    chosen, sum_of_a = arithmetic(a, b, out)
    is_chosen = ((a < b) & ~(a <= -1)) | (b >= 1.5) | (a == b)
    expected = [a + b, 2 * a - b / 3, np.minimum(a, b) * np.maximum(a, 0), np.where(is_chosen, a, -7)]
    expected += [np.trunc(a * 10), np.abs(a) + a[1]]
    np.testing.assert_allclose(out, expected, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)
    assert chosen == is_chosen.sum()
    assert 0 < chosen < LANES
    np.testing.assert_allclose(sum_of_a, a.sum(dtype=np.float64), rtol=1e-4)


@njit(fastmath=FASTMATH)
def exponential_and_logarithm(x, exponentials, logarithms):
    for first in range(0, len(x), LANES):
        values = load(x, first, lane_numbers() < LANES)
        store(exponentials, first, exponential(values), lane_numbers() < LANES)
        store(logarithms, first, log_1_plus(exponential(values)), lane_numbers() < LANES)


@pytest.mark.parametrize("dtype", FLOATS)
def test_exponential_and_logarithm(dtype):
    x = np.concatenate([-np.geomspace(1e-8, 80, 4 * LANES - 1), [0]]).astype(dtype)
    exponentials, logarithms = np.zeros_like(x), np.zeros_like(x)
    exponential_and_logarithm(x, exponentials, logarithms)
    rtol = 3e-7 if dtype == np.float32 else 1e-14
    exact = x.astype(np.float64)
    np.testing.assert_allclose(exponentials, [exponential(value) for value in exact], rtol=rtol)
    # float64 takes the logarithm of the sum, whose rounding is absolute
    np.testing.assert_allclose(logarithms, [log_1_plus(np.exp(value)) for value in exact], rtol=rtol, atol=2e-16)
    far = np.array([-87.5, -1e4, -np.inf] + [0] * (LANES - 3), dtype)
    exponential_and_logarithm(far, exponentials, logarithms)
    assert exponentials[:3].max() <= 1e-37
    assert (exponentials[3:LANES] == 1).all()


@njit
def move(table, places, flags, numbers, out, columns, bytes_in, bytes_out):
    every, mask = lane_numbers() < LANES, load(flags, 0, lane_numbers() < LANES) > 0
    at = load(places, 0, every)
    store(out, 0, gather(table, at, mask), every)
    scatter(out, at + LANES, gather(table, at, every), mask)
    append(out, LANES + len(table), gather(table, at, every), mask)
    store(numbers, 0, spread_from(places, 1, mask), every)
    first, second, third = gather_three(table, select(at < len(table) - 2, at, 0), mask)
    store(columns, 0, first + 10.0 * second + 100.0 * third, every)
    store(bytes_out, 0, gather_bytes(bytes_in, at, mask), every)


@pytest.mark.parametrize("dtype", FLOATS)
def test_moving_numbers_from_and_to_arrays(dtype):
    generator = np.random.default_rng(2)
    table = random(dtype, 10, 4)
    places = np.concatenate([[0, 39, 1, 3], 4 + generator.permutation(35)]).astype(np.int32)  # both ends of the bytes
    flags = (generator.random(LANES) < 0.6).astype(dtype)
    flags[:2] = 1
    out, numbers, columns = np.zeros(3 * LANES + 40, dtype), np.zeros(LANES, np.int32), np.zeros(LANES, dtype)
    bytes_in, bytes_out = generator.integers(0, 256, 40).astype(np.uint8), np.zeros(LANES, np.int32)
    move(table.ravel(), places, flags, numbers, out, columns, bytes_in, bytes_out)
    flat, at, mask = table.ravel(), places[:LANES], flags > 0
    np.testing.assert_array_equal(out[:LANES], np.where(mask, flat[at], 0))
    scattered = np.zeros(40, dtype)
    scattered[at[mask]] = flat[at[mask]]
    np.testing.assert_array_equal(out[LANES : LANES + 40], scattered)
    np.testing.assert_array_equal(out[LANES + 40 :][: mask.sum()], flat[at[mask]])
    assert not out[LANES + 40 + mask.sum() + 1 :].any()  # one more is undefined
    expanded = np.zeros(LANES, np.int32)
    expanded[mask] = places[1 : 1 + mask.sum()]
    np.testing.assert_array_equal(numbers, expanded)
    start = np.where(at < 38, at, 0)
    three = flat[start] + 10 * flat[start + 1] + 100 * flat[start + 2]
    np.testing.assert_allclose(columns, np.where(mask, three, 0), rtol=1e-5)
    np.testing.assert_array_equal(bytes_out, np.where(mask, bytes_in[at], 0))


@njit
def first_number(array):
    return total(load(array, 0, lane_numbers() < 1))


def test_arrays_that_are_not_contiguous_are_refused():
    array = np.arange(20.0)
    assert first_number(array) == 0
    with pytest.raises(NumbaTypeError, match="not contiguous"):
        first_number(array[::2])


@njit
def fetch(table, rows):
    for row in rows:
        prefetch_row(table, row)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 1, 20])
def test_rows_are_fetched_and_none_is_too_far(dtype, channels):
    table = np.ones((3, channels), dtype)
    fetch(table, np.array([0, 2, 3, -1, 1 << 20]))
    assert (table == 1).all()
    assert all("call void @llvm.prefetch" in code for code in fetch.inspect_llvm().values())


@pytest.mark.parametrize(
    "kernels", ["marching_cpu.py", "compositing_gradients_cpu.py", "adam_cpu.py", "encoding_cpu.py"]
)
def test_kernels_are_compiled_again_when_lanes_change(kernels):
    """numba's cache notices changes only of the file that a kernel is in."""
    sources = b"".join((FOLDER / name).read_bytes() for name in ("lanes_cpu.py", "lanes_memory_cpu.py"))
    digest = hashlib.sha256(sources.replace(b"\r\n", b"\n")).hexdigest()[:8]
    written = re.search(r'^LANES_DIGEST = "(\w+)"', (FOLDER / kernels).read_text(), re.MULTILINE)
    assert written
    assert written[1] == digest, f'write LANES_DIGEST = "{digest}" in {kernels}'
