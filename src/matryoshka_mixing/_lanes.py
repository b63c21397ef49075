"""Eight or four numbers side by side, for compiled code: `Lanes` adds and multiplies them one by one.

A CPU does all at once, or four and four, or two by two; the numbers are the same, because each lane is rounded by
itself and sums over lanes are taken in one fixed order. That is why the trainer gives the same bits on every CPU: a
compiler may not reorder a sum, so a plain loop over a sum would be either slow, or different from CPU to CPU.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 8
"""How many numbers lie side by side; rows of arrays are padded to a multiple of it."""
HALF = LANES // 2


def padded(n: int) -> int:
    """The next multiple of `LANES`."""
    return -(-n // LANES) * LANES


class Lanes(types.Type):
    """The numba type of so many numbers of one floating-point type."""

    def __init__(self, dtype: types.Float, n: int = LANES):
        self.dtype, self.n = dtype, n
        super().__init__(name=f"Lanes({dtype}, {n})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        number = ir.DoubleType() if lanes.dtype.bitwidth == 64 else ir.FloatType()
        super().__init__(manager, lanes, ir.VectorType(number, lanes.n))


@intrinsic
def bare(typingctx, arrays):
    """`bare(arrays)`: a named tuple with plain pointers in place of its (contiguous) arrays.

    numba counts references to arrays wherever they are passed, which costs more than a step on a small SAE.
    """
    if any(isinstance(t, types.Array) and t.layout != "C" for t in arrays.types):
        raise TypingError(f"every array of {arrays} must be contiguous")
    kinds = [types.CPointer(t.dtype) if isinstance(t, types.Array) else t for t in arrays.types]

    def codegen(context, builder, signature, arguments):
        values = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(arrays.types, cgutils.unpack_tuple(builder, arguments[0]), strict=True)
        ]
        return context.make_tuple(builder, signature.return_type, values)

    return types.NamedTuple(kinds, arrays.instance_class)(arrays), codegen


@intrinsic
def at(typingctx, pointer, index):
    """`at(pointer, index)`: the pointer to that entry."""

    def codegen(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.intp), codegen


def _place(builder, pointer, index, n):
    """Pointer to n numbers side by side, from an index on."""
    place = builder.gep(pointer, [index])
    return builder.bitcast(place, ir.VectorType(place.type.pointee, n).as_pointer())


def _pick(builder, lanes, others, numbers):
    """Some of the numbers of two vectors, side by side."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))
    return builder.shuffle_vector(lanes, others or ir.Constant(lanes.type, ir.Undefined), mask)


def _loads(n: int):
    @intrinsic
    def load(typingctx, array, index):
        def codegen(context, builder, signature, arguments):
            place = _place(builder, *arguments, n)
            return builder.load(place, align=array.dtype.bitwidth // 8)

        return Lanes(array.dtype, n)(array, types.intp), codegen

    return load


def _splats(n: int):
    @intrinsic
    def splat(typingctx, array, number):
        def codegen(context, builder, signature, arguments):
            kind = context.get_value_type(signature.return_type)
            scalar = context.cast(builder, arguments[1], signature.args[1], array.dtype)
            first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
            return _pick(builder, first, None, [0] * n)

        return Lanes(array.dtype, n)(array, number), codegen

    return splat


load, load_four = _loads(LANES), _loads(HALF)
"""`load(array, index)`: eight numbers (or four) of a flat array (a pointer from `bare`), from `index` on."""
splat, splat_four = _splats(LANES), _splats(HALF)
"""`splat(array, number)`: the number in every one of eight lanes (or four), rounded to the type of the array."""


@intrinsic
def store(typingctx, array, index, lanes):
    """`store(array, index, lanes)`: write them there."""

    def codegen(context, builder, signature, arguments):
        place = _place(builder, *arguments[:2], lanes.n)
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


@intrinsic
def load_halves(typingctx, array, first, second):
    """`load_halves(array, first, second)`: four numbers from `first` on, and beside them four from `second` on."""

    def codegen(context, builder, signature, arguments):
        places = (_place(builder, arguments[0], index, HALF) for index in arguments[1:])
        halves = [builder.load(place, align=array.dtype.bitwidth // 8) for place in places]
        return _pick(builder, *halves, range(LANES))

    return Lanes(array.dtype)(array, types.intp, types.intp), codegen


@intrinsic
def store_halves(typingctx, array, first, second, lanes):
    """`store_halves(array, first, second, lanes)`: write them there."""

    def codegen(context, builder, signature, arguments):
        for begin, index in zip((0, HALF), arguments[1:3], strict=True):
            half = _pick(builder, arguments[3], None, range(begin, begin + HALF))
            builder.store(half, _place(builder, arguments[0], index, HALF), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), codegen


@intrinsic
def total(typingctx, lanes):
    """`total(lanes)`: their sum, ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))."""

    def codegen(context, builder, signature, arguments):
        half, (numbers,) = lanes.n, arguments
        while half > 1:
            half //= 2
            low, high = (_pick(builder, numbers, None, range(first, first + half)) for first in (0, half))
            numbers = builder.fadd(low, high)
        return builder.extract_element(numbers, ir.Constant(ir.IntType(32), 0))

    return lanes.dtype(lanes), codegen


def _elementwise(symbol, name: str) -> None:
    """Teach numba an operator of two `Lanes`."""

    @infer_global(symbol)
    class _Typed(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return signature(args[0], *args)

    @lower_builtin(symbol, Lanes, Lanes)
    def _lowered(context, builder, sig, args):
        return getattr(builder, name)(*args)


_elementwise(operator.add, "fadd")
_elementwise(operator.sub, "fsub")
_elementwise(operator.mul, "fmul")
_elementwise(operator.truediv, "fdiv")


@intrinsic
def root(typingctx, lanes):
    """`root(lanes)`: the square root of each."""

    def codegen(context, builder, signature, arguments):
        kind = arguments[0].type
        name = f"llvm.sqrt.v{lanes.n}f{lanes.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(function, arguments)

    return lanes(lanes), codegen


def _above(builder, lanes):
    """Of each lane whether it is above 0 (not: a number that is not one)."""
    return builder.fcmp_ordered(">", lanes, ir.Constant(lanes.type, [0.0] * lanes.type.count))


@intrinsic
def keep(typingctx, lanes, where):
    """`keep(lanes, where)`: the numbers where the other lanes are above 0, else 0."""

    def codegen(context, builder, signature, arguments):
        zeros = ir.Constant(arguments[0].type, [0.0] * lanes.n)
        return builder.select(_above(builder, arguments[1]), arguments[0], zeros)

    return lanes(lanes, where), codegen


@intrinsic
def any_above(typingctx, lanes):
    """`any_above(lanes)`: whether any of them is above 0."""

    def codegen(context, builder, signature, arguments):
        bits = builder.bitcast(_above(builder, arguments[0]), ir.IntType(lanes.n))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(lanes), codegen


@intrinsic
def lowest_bit(typingctx, number):
    """`lowest_bit(number)`: the place of the lowest bit of a whole number that is not 0."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen
