"""How lanes (:mod:`dv.ops.lanes_cpu`) get numbers from arrays and put them there.

Arrays are C-contiguous, of any shape, and are indexed as if they were flattened. Kernels for others do not compile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.errors import NumbaTypeError
from numba.extending import intrinsic

from dv.ops.lanes_cpu import FASTMATH, I32, LANES, Lanes, call_intrinsic, suffix


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


@intrinsic
def load(_: Any, array: Any, start: Any, mask: Any) -> Any:
    """Return elements ``start``, ``start + 1`` … of an array; 0 where ``mask`` is false."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        vector = _vector(context, array)
        address = _data(context, builder, array, arguments[0], arguments[1])
        given = [address, I32(array.dtype.bitwidth // 8), arguments[2], ir.Constant(vector, None)]
        return call_intrinsic(builder, f"llvm.masked.load.{suffix(vector)}.p0", vector, given)

    return Lanes(array.dtype)(array, types.int64, mask), generate


@intrinsic
def store(_: Any, array: Any, start: Any, lanes: Any, mask: Any) -> Any:
    """Set elements ``start``, ``start + 1`` … of an array to the lanes in which ``mask`` is true."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address = _data(context, builder, array, arguments[0], arguments[1])
        given = [arguments[2], address, I32(array.dtype.bitwidth // 8), arguments[3]]
        call_intrinsic(builder, f"llvm.masked.store.{suffix(arguments[2].type)}.p0", ir.VoidType(), given)
        return context.get_dummy_value()

    return types.none(array, types.int64, lanes, mask), generate


@intrinsic
def append(_: Any, array: Any, start: Any, lanes: Any, mask: Any) -> Any:
    """Set as many elements from ``start`` on as ``mask`` has true lanes to these lanes, one after the other."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address = _data(context, builder, array, arguments[0], arguments[1])
        given = [arguments[2], address, arguments[3]]
        call_intrinsic(builder, f"llvm.masked.compressstore.{suffix(arguments[2].type)}", ir.VoidType(), given)
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
    """Return the elements of an array at int32 ``places``; 0 where ``mask`` is false."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        vector = _vector(context, array)
        base = _base(context, builder, array, arguments[0])
        given = [_Addresses(builder, base, arguments[1], vector.element), I32(array.dtype.bitwidth // 8)]
        given += [arguments[2], ir.Constant(vector, None)]
        return call_intrinsic(builder, f"llvm.masked.gather.{suffix(vector)}.v{LANES}p0", vector, given)

    return Lanes(array.dtype)(array, places, mask), generate


@intrinsic
def scatter(_: Any, array: Any, places: Any, lanes: Any, mask: Any) -> Any:
    """Set the elements of an array at int32 ``places`` to the lanes in which ``mask`` is true."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        base = _base(context, builder, array, arguments[0])
        kind = arguments[2].type
        addresses = _Addresses(builder, base, arguments[1], kind.element)
        given = [arguments[2], addresses, I32(array.dtype.bitwidth // 8), arguments[3]]
        call_intrinsic(builder, f"llvm.masked.scatter.{suffix(kind)}.v{LANES}p0", ir.VoidType(), given)
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
        given = [_Addresses(builder, base, start, ir.IntType(8)), I32(1), arguments[2], ir.Constant(vector, None)]
        words = call_intrinsic(builder, f"llvm.masked.gather.v{LANES}i32.v{LANES}p0", vector, given)
        bits = builder.shl(builder.sub(arguments[1], start), three)  # little endian, as all CPUs of numba's
        return builder.and_(builder.lshr(words, bits), ir.Constant(vector, [255] * LANES))

    return Lanes(types.int32)(array, places, mask), generate


@njit(cache=True, fastmath=FASTMATH, inline="always")
def gather_three(array: Any, places: Any, mask: Any) -> Any:
    """Return three consecutive elements of an array from int32 ``places`` on, as :func:`gather` does."""
    return gather(array, places, mask), gather(array, places + 1, mask), gather(array, places + 2, mask)
