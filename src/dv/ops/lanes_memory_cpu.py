"""How lanes (:mod:`dv.ops.lanes_cpu`) get numbers from arrays and put them there.

Arrays are C-contiguous, of any shape, and are indexed as if they were flattened. Kernels for others do not compile.
Kernels that know places before they need them bring these into the caches with :func:`prefetch`.

Where a CPU has no masked instruction, LLVM branches for every lane, and AMD's AVX2 stores few elements slowly. Without
AVX-512 a gather therefore reads all lanes, those outside the mask from place 0; ``append`` writes all lanes, each over
the last one that the mask leaves out; and full vectors, as most are, are loaded, stored and scattered without a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.errors import NumbaTypeError
from numba.extending import intrinsic

from dv.ops.lanes_cpu import FASTMATH, HAS_MASKS, I32, LANES, Lanes, call_intrinsic, suffix

CACHE_LINE = 64  # bytes
EVERY_LANE = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES)


def _base(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the address of an array's first element."""
    if kind.layout != "C":
        raise NumbaTypeError(f"{kind} is not contiguous")
    return context.make_array(kind)(context, builder, array).data


def _data(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Return the address of element ``start``."""
    return builder.gep(_base(context, builder, kind, array), [start])


def _vector(context: Any, kind: Any) -> Any:
    return ir.VectorType(context.get_value_type(kind.dtype), LANES)


def _masked(builder: Any, mask: Any, access: Callable[[Any], Any]) -> Any:
    """Build ``access(mask)``, and a branch without a mask for full vectors on CPUs whose masks are slow."""
    if HAS_MASKS:
        return access(mask)
    bits = builder.bitcast(mask, ir.IntType(LANES))
    with builder.if_else(builder.icmp_unsigned("==", bits, ir.Constant(bits.type, -1))) as (is_full, is_not):
        with is_full:
            of_all, full = access(EVERY_LANE), builder.block
        with is_not:
            of_some, partial = access(mask), builder.block
    if isinstance(of_all.type, ir.VoidType):
        return of_all
    result = builder.phi(of_all.type)
    result.add_incoming(of_all, full)
    result.add_incoming(of_some, partial)
    return result


def _gather(builder: Any, base: Any, places: Any, mask: Any, vector: Any, element: Any, align: int) -> Any:
    """Build a gather of ``vector`` from int32 places, counted in ``element``, of an array that is not empty."""
    zeros = ir.Constant(vector, None)
    if not HAS_MASKS:
        places = builder.select(mask, places, ir.Constant(places.type, None))
    given = [_Addresses(builder, base, places, element), I32(align), mask if HAS_MASKS else EVERY_LANE, zeros]
    gathered = call_intrinsic(builder, f"llvm.masked.gather.{suffix(vector)}.v{LANES}p0", vector, given)
    return gathered if HAS_MASKS else builder.select(mask, gathered, zeros)


@intrinsic
def load(_: Any, array: Any, start: Any, mask: Any) -> Any:
    """Return elements ``start``, ``start + 1`` … of an array; 0 where ``mask`` is false."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        vector = _vector(context, array)
        address = _data(context, builder, array, arguments[0], arguments[1])
        name, align, zeros = f"llvm.masked.load.{suffix(vector)}.p0", I32(array.dtype.bitwidth // 8), vector(None)

        def read(mask: Any) -> Any:
            return call_intrinsic(builder, name, vector, [address, align, mask, zeros])

        return _masked(builder, arguments[2], read)

    return Lanes(array.dtype)(array, types.int64, mask), generate


@intrinsic
def store(_: Any, array: Any, start: Any, lanes: Any, mask: Any) -> Any:
    """Set elements ``start``, ``start + 1`` … of an array to the lanes in which ``mask`` is true."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address = _data(context, builder, array, arguments[0], arguments[1])
        name, align = f"llvm.masked.store.{suffix(arguments[2].type)}.p0", I32(array.dtype.bitwidth // 8)

        def write(mask: Any) -> Any:
            return call_intrinsic(builder, name, ir.VoidType(), [arguments[2], address, align, mask])

        _masked(builder, arguments[3], write)
        return context.get_dummy_value()

    return types.none(array, types.int64, lanes, mask), generate


@intrinsic
def append(_: Any, array: Any, start: Any, lanes: Any, mask: Any) -> Any:
    """Set as many elements from ``start`` on as ``mask`` has true lanes to these lanes, one after the other.

    If there are fewer than :data:`~dv.ops.lanes_cpu.LANES`, the element that follows them is undefined.
    """

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address = _data(context, builder, array, arguments[0], arguments[1])
        lanes, mask = arguments[2:]
        if HAS_MASKS:
            name = f"llvm.masked.compressstore.{suffix(lanes.type)}"
            call_intrinsic(builder, name, ir.VoidType(), [lanes, address, mask])
            return context.get_dummy_value()
        place, align = I32(0), array.dtype.bitwidth // 8
        for lane in map(I32, range(LANES)):
            builder.store(builder.extract_element(lanes, lane), builder.gep(address, [place]), align)
            place = builder.add(place, builder.zext(builder.extract_element(mask, lane), I32))
        return context.get_dummy_value()

    return types.none(array, types.int64, lanes, mask), generate


@intrinsic
def spread_from(_: Any, array: Any, start: Any, mask: Any) -> Any:
    """Return elements ``start``, ``start + 1`` … one after the other in the lanes in which ``mask`` is true; else 0."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        vector = _vector(context, array)
        address = _data(context, builder, array, arguments[0], arguments[1])
        given = [address, arguments[2], ir.Constant(vector, None)]
        return call_intrinsic(builder, f"llvm.masked.expandload.{suffix(vector)}", vector, given)

    return Lanes(array.dtype)(array, types.int64, mask), generate


@intrinsic
def prefetch(_: Any, array: Any, place: Any) -> Any:
    """Bring the cache line of element ``place`` of an array into the caches; places beyond its ends have no effect."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address = builder.bitcast(_data(context, builder, array, *arguments), ir.IntType(8).as_pointer())
        to_read, to_keep, of_data = I32(0), I32(3), I32(1)
        call_intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), [address, to_read, to_keep, of_data])
        return context.get_dummy_value()

    return types.none(array, types.int64), generate


@njit(cache=True, inline="always")
def prefetch_row(table: Any, row: Any) -> None:
    """Bring the cache lines of a row of a table ``[N, F]`` into the caches, as :func:`prefetch` does."""
    channels, line = table.shape[1], CACHE_LINE // table.itemsize
    start = np.int64(row) * channels
    for first in range(0, channels, line):
        prefetch(table, start + first)
    prefetch(table, start + channels - 1)  # rows begin anywhere in a line


class _Addresses(ir.Instruction):
    """``getelementptr`` of a base and lanes of places, which llvmlite's own instruction does not allow."""

    def __init__(self, builder: Any, base: Any, places: Any, element: Any) -> None:
        self.element = element
        super().__init__(builder.block, ir.VectorType(ir.PointerType(), LANES), "getelementptr", [base, places])
        builder._insert(self)

    def descr(self, buffer: list[str]) -> None:
        operands = ", ".join(f"{o.type} {o.get_reference()}" for o in self.operands)
        buffer.append(f"getelementptr {self.element}, {operands}\n")


@intrinsic
def gather(_: Any, array: Any, places: Any, mask: Any) -> Any:
    """Return the elements of an array that is not empty at int32 ``places``; 0 where ``mask`` is false."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        vector, align = _vector(context, array), array.dtype.bitwidth // 8
        base = _base(context, builder, array, arguments[0])
        return _gather(builder, base, arguments[1], arguments[2], vector, vector.element, align)

    return Lanes(array.dtype)(array, places, mask), generate


@intrinsic
def scatter(_: Any, array: Any, places: Any, lanes: Any, mask: Any) -> Any:
    """Set the elements of an array at int32 ``places`` to the lanes in which ``mask`` is true."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        base = _base(context, builder, array, arguments[0])
        kind = arguments[2].type
        addresses = _Addresses(builder, base, arguments[1], kind.element)
        name, align = f"llvm.masked.scatter.{suffix(kind)}.v{LANES}p0", I32(array.dtype.bitwidth // 8)

        def write(mask: Any) -> Any:
            return call_intrinsic(builder, name, ir.VoidType(), [arguments[2], addresses, align, mask])

        _masked(builder, arguments[3], write)
        return context.get_dummy_value()

    return types.none(array, places, lanes, mask), generate


@intrinsic
def gather_bytes(_: Any, array: Any, places: Any, mask: Any) -> Any:
    """Return the bytes of a uint8 array of at least four at int32 ``places``; 0 where ``mask`` is false.

    CPUs gather 32 bits at least: these are the byte and the three before it.
    """

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        base, vector = _base(context, builder, array, arguments[0]), ir.VectorType(I32, LANES)
        three = ir.Constant(vector, [3] * LANES)
        is_later = builder.icmp_signed(">", arguments[1], three)
        start = builder.select(is_later, builder.sub(arguments[1], three), ir.Constant(vector, None))
        words = _gather(builder, base, start, arguments[2], vector, ir.IntType(8), 1)
        bits = builder.shl(builder.sub(arguments[1], start), three)  # little endian, as all CPUs of numba's
        return builder.and_(builder.lshr(words, bits), ir.Constant(vector, [255] * LANES))

    return Lanes(types.int32)(array, places, mask), generate


@njit(cache=True, fastmath=FASTMATH, inline="always")
def gather_three(array: Any, places: Any, mask: Any) -> Any:
    """Return three consecutive elements of an array from int32 ``places`` on, as :func:`gather` does."""
    return gather(array, places, mask), gather(array, places + 1, mask), gather(array, places + 2, mask)
