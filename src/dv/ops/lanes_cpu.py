"""Vectors of numbers in numba's kernels, one number per lane, each lane a ray: SIMD across rays.

LLVM compiles their operations to the widest vector instructions of the CPU. Arithmetic and comparisons are Python's
operators, also between lanes and a scalar, which is converted to the lanes' type; ``&`` and ``|`` join masks.

numba's cache notices changes only of the file that a kernel is in. Files with kernels therefore hold a digest of this
file and of :mod:`dv.ops.lanes_memory_cpu`, which a test compares.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

HAS_MASKS = bool(binding.get_host_cpu_features().get("avx512f"))  # for gathers, scatters and compressing stores
LANES = 16 if HAS_MASKS else 8  # float32 of one register, of NEON's two
FAST = ("contract", "nsz", "arcp", "reassoc", "afn")  # all but nnan and ninf: NaN and infinity keep their meaning
FASTMATH = set(FAST)  # of kernels, as numba wants it
I32 = ir.IntType(32)
ONE = np.float32(1)
LOG2_E = 1.4426950408889634
LN_2_HIGH, LN_2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; products of the first with integers are exact


class Lanes(types.Type):
    """The numba type of :data:`LANES` numbers of a type, or of a mask if that is boolean."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = manager.lookup(lanes.element).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(element, LANES))


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, LANES), None)
    )


def _broadcast(context: Any, builder: Any, element: Any, kinds: Any, values: Any) -> list[Any]:
    """Return values as lanes of an element type: lanes of it stay, scalars are converted and repeated."""
    return [
        value if isinstance(kind, Lanes) else _splat(builder, context.cast(builder, value, kind, element))
        for kind, value in zip(kinds, values, strict=True)
    ]


def call_intrinsic(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Build the call of an intrinsic of LLVM with a result of type ``result``."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in arguments]), name
    )
    return builder.call(function, arguments, fastmath=FAST) if _is_float(result) else builder.call(function, arguments)


def _is_float(kind: Any) -> bool:
    return isinstance(getattr(kind, "element", kind), (ir.FloatType, ir.DoubleType))


def suffix(kind: Any) -> str:
    """Return the part of an intrinsic's name that stands for a vector type."""
    names = {ir.FloatType: "f32", ir.DoubleType: "f64"}
    element = kind.element
    return f"v{LANES}{names.get(type(element)) or f'i{element.width}'}"


def _operation(build: Callable[[Any, bool, list[Any]], Any], result: Any = None) -> Any:
    """Make a function of lanes and scalars: ``build(builder, is_float, vectors)``; ``result`` is its element type."""

    @intrinsic
    def operation(_: Any, a: Any, b: Any) -> Any:
        element = next(x.element for x in (a, b) if isinstance(x, Lanes))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vectors = _broadcast(context, builder, element, signature.args, arguments)
            return build(builder, isinstance(element, types.Float), vectors)

        return Lanes(result or element)(a, b), generate

    return operation


def _overload(function: Any, operation: Any) -> None:
    def apply(a: Any, b: Any) -> Any:
        return operation(a, b)

    @overload(function)
    def choose(a: Any, b: Any) -> Any:
        return apply if isinstance(a, Lanes) or isinstance(b, Lanes) else None


def _arithmetic(for_floats: str, for_ints: str) -> Any:
    return _operation(
        lambda builder, is_float, ab: (
            getattr(builder, for_floats)(*ab, flags=FAST) if is_float else getattr(builder, for_ints)(*ab)
        )
    )


def _comparison(symbol: str) -> Any:
    return _operation(
        lambda builder, is_float, ab: (
            builder.fcmp_ordered(symbol, *ab) if is_float else builder.icmp_signed(symbol, *ab)
        ),
        types.boolean,
    )


_overload(operator.add, _arithmetic("fadd", "add"))
_overload(operator.sub, _arithmetic("fsub", "sub"))
_overload(operator.mul, _arithmetic("fmul", "mul"))
_overload(operator.truediv, _arithmetic("fdiv", "sdiv"))
_overload(operator.and_, _operation(lambda builder, _, ab: builder.and_(*ab)))
_overload(operator.or_, _operation(lambda builder, _, ab: builder.or_(*ab)))
for _symbol, _function in {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}.items():
    _overload(_function, _comparison(_symbol))
equal = _comparison("==")


def _extremum(symbol: str) -> Any:
    def build(builder: Any, is_float: bool, ab: list[Any]) -> Any:
        compare = builder.fcmp_ordered if is_float else builder.icmp_signed
        return builder.select(compare(symbol, *ab), *ab)

    return _operation(build)


minimum, maximum = _extremum("<"), _extremum(">")


@intrinsic
def spread(_: Any, value: Any) -> Any:
    """Return lanes that all hold ``value``."""
    return Lanes(value)(value), lambda _, builder, __, arguments: _splat(builder, arguments[0])


@intrinsic
def lane_numbers(_: Any) -> Any:
    """Return the numbers of the lanes, int32 from 0."""
    numbers = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))
    return Lanes(types.int32)(), lambda *_: numbers


@intrinsic
def no(_: Any, mask: Any) -> Any:
    """Return where ``mask`` is false."""
    return mask(mask), lambda _, builder, __, arguments: builder.not_(arguments[0])


@intrinsic
def select(_: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return ``a`` where ``mask`` is true and ``b`` elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _broadcast(context, builder, lanes.element, signature.args[1:], arguments[1:])
        return builder.select(arguments[0], *vectors)

    lanes = a if isinstance(a, Lanes) else b
    return lanes(mask, a, b), generate


@intrinsic
def count(_: Any, mask: Any) -> Any:
    """Return the number of lanes in which ``mask`` is true."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.IntType(LANES))
        return builder.zext(call_intrinsic(builder, f"llvm.ctpop.i{LANES}", bits.type, [bits]), ir.IntType(64))

    return types.int64(mask), generate


@intrinsic
def to_int(_: Any, lanes: Any) -> Any:
    """Truncate floating-point lanes to int32."""
    return Lanes(types.int32)(lanes), lambda _, builder, __, arguments: builder.fptosi(
        arguments[0], ir.VectorType(I32, LANES)
    )


@intrinsic
def to_float(_: Any, lanes: Any, like: Any) -> Any:
    """Convert int32 lanes to the floating-point type of ``like``, a scalar."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.sitofp(arguments[0], ir.VectorType(context.get_value_type(like), LANES))

    return Lanes(like)(lanes, like), generate


@intrinsic
def total(_: Any, lanes: Any) -> Any:
    """Return the sum of floating-point lanes."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        vector = arguments[0]
        zero, name = vector.type.element(0.0), f"llvm.vector.reduce.fadd.{suffix(vector.type)}"
        return call_intrinsic(builder, name, vector.type.element, [zero, vector])

    return lanes.element(lanes), generate


def _of_llvm(name: str) -> Any:
    """Make a function of floating-point lanes from an intrinsic of LLVM."""

    @intrinsic
    def function(_: Any, lanes: Any) -> Any:
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            vector = arguments[0].type
            return call_intrinsic(builder, f"llvm.{name}.{suffix(vector)}", vector, [arguments[0]])

        return lanes(lanes), generate

    return function


square_root = _of_llvm("sqrt")
_exp, _log = _of_llvm("exp"), _of_llvm("log")  # the C library's, one lane after the other


@intrinsic
def _power_of_two(_: Any, exponents: Any) -> Any:
    """Return 2 to the power of int32 ``exponents``, at least -126, as float32: the bits of its exponent."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        def constant(value: int) -> Any:
            return ir.Constant(arguments[0].type, [value] * LANES)

        bits = builder.shl(builder.add(arguments[0], constant(127)), constant(23))
        return builder.bitcast(bits, ir.VectorType(ir.FloatType(), LANES))

    return Lanes(types.float32)(exponents), generate


def exponential(x: Any) -> Any:
    """Return exp(x) of lanes, or a number, that are 0 or less; lanes of float32 are 0 below -87."""
    return math.exp(x)


@overload(exponential)
def _exponential(x: Any) -> Any:
    def single(x: Any) -> Any:
        bounded = maximum(x, -87.0)
        n = to_int(bounded * LOG2_E - 0.5)  # truncation is towards 0
        r = bounded - to_float(n, ONE) * LN_2_HIGH - to_float(n, ONE) * LN_2_LOW
        series = r * (1 / 5040) + 1 / 720  # Taylor's, of |r| up to ln 2 / 2
        series = series * r + 1 / 120
        series = series * r + 1 / 24
        series = series * r + 1 / 6
        series = series * r + 1 / 2
        series = (series * r + 1.0) * r + 1.0
        return select(x < -87.0, 0.0, series * _power_of_two(n))

    def double(x: Any) -> Any:
        return _exp(x)

    return single if x.element == types.float32 else double


def log_1_plus(x: Any) -> Any:
    """Return log(1 + x) of lanes, or a number, in [0, 1]."""
    return math.log1p(x)


@overload(log_1_plus)
def _log_1_plus(x: Any) -> Any:
    def single(x: Any) -> Any:
        s = x / (x + 2.0)  # log(1 + x) = 2 artanh(s), s up to 1/3
        square = s * s
        series = square * (1 / 15) + 1 / 13
        series = series * square + 1 / 11
        series = series * square + 1 / 9
        series = series * square + 1 / 7
        series = series * square + 1 / 5
        series = series * square + 1 / 3
        return (series * square + 1.0) * s * 2.0

    def double(x: Any) -> Any:
        return _log(x + 1.0)

    return single if x.element == types.float32 else double
