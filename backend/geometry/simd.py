"""Explicit SIMD lanes in Numba kernels: eight float32 that LLVM keeps in one vector register.

LLVM turns `<8 x float>` into the best the processor has: one AVX register, two of SSE or NEON. Numba knows
such a value as type `f32x8`, and comparisons of two as mask `m8`. Inside a kernel:

    v = load(array, i)           array[i:i + 8] of a flat contiguous float32 array
    store(array, i, v)
    v = splat(x)                 the same float32 in all lanes
    a + b, a - b, a * b, a / b   lane by lane; the other side may be a float32. a * b + c becomes one FMA
    a < b, a <= b, ...           masks; m & n, m | n
    where(mask, a, b)            lane by lane
    smaller(a, b), larger(a, b)
    some(mask)                   is any lane set?
    total(v), totals(v0, ... v7) sum over the lanes, float32; eight sums at once as lanes

Only the documented `numba.extending` interface is used.
"""

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 8


class _LanesType(types.Type):
    """`count` float32 in a register."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"f32x{count}")


class _MaskType(types.Type):
    """One truth value a lane."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"m{count}")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.FloatType(), kind.count))


@register_model(_MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), kind.count))


lanes, mask = _LanesType(LANES), _MaskType(LANES)


def _vector(builder, value, kind):
    """A float32 in all lanes; lanes as they are."""
    if isinstance(kind, _LanesType):
        return value
    wide = ir.VectorType(ir.FloatType(), LANES)
    one = builder.insert_element(ir.Constant(wide, ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(wide, ir.Undefined), zeros)


_PAIRS = ((lanes, lanes), (lanes, types.float32), (types.float32, lanes))


def _arithmetic(function, opcode: str) -> None:
    @type_callable(function)
    def typer(context):
        def choose(a, b):
            return lanes if (a, b) in _PAIRS else None

        return choose

    def lower(context, builder, signature, arguments):
        a, b = (_vector(builder, v, k) for v, k in zip(arguments, signature.args, strict=True))
        return getattr(builder, opcode)(a, b)

    for pair in _PAIRS:
        lower_builtin(function, *pair)(lower)


def _comparison(function, symbol: str) -> None:
    @type_callable(function)
    def typer(context):
        def choose(a, b):
            return mask if (a, b) in _PAIRS else None

        return choose

    def lower(context, builder, signature, arguments):
        a, b = (_vector(builder, v, k) for v, k in zip(arguments, signature.args, strict=True))
        return builder.fcmp_ordered(symbol, a, b)

    for pair in _PAIRS:
        lower_builtin(function, *pair)(lower)


def _logic(function, opcode: str) -> None:
    @type_callable(function)
    def typer(context):
        def choose(a, b):
            return mask if (a, b) == (mask, mask) else None

        return choose

    @lower_builtin(function, mask, mask)
    def lower(context, builder, signature, arguments):
        return getattr(builder, opcode)(*arguments)


for _function, _opcode in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_function, _opcode)
    _arithmetic(getattr(operator, "i" + _function.__name__), _opcode)
for _function, _symbol in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")):
    _comparison(_function, _symbol)
_logic(operator.and_, "and_")
_logic(operator.or_, "or_")


def _pointer(context, builder, signature, arguments):
    """Address of array[index] as a pointer to lanes; no wrap-around, no bounds."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    element = builder.gep(array.data, [arguments[1]])
    return builder.bitcast(element, ir.VectorType(ir.FloatType(), LANES).as_pointer())


_FLAT = types.Array(types.float32, 1, "C")


@intrinsic
def load(context, array, index):
    """array[index:index + 8] as lanes."""
    if array != _FLAT:
        return None

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature, arguments), align=4)

    return lanes(_FLAT, types.uint64), generate


@intrinsic
def store(context, array, index, value):
    """array[index:index + 8] = value."""
    if array != _FLAT or value != lanes:
        return None

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(_FLAT, types.uint64, lanes), generate


@intrinsic
def splat(context, value):
    """The float32 in all lanes."""

    def generate(context, builder, signature, arguments):
        return _vector(builder, arguments[0], types.float32)

    return lanes(types.float32), generate


@intrinsic
def where(context, chosen, a, b):
    """Lane by lane: a where the mask is set, b elsewhere; a float32 stands for itself in all lanes."""
    if chosen != mask or (a, b) not in _PAIRS:
        return None

    def generate(context, builder, signature, arguments):
        a, b = (_vector(builder, v, k) for v, k in zip(arguments[1:], signature.args[1:], strict=True))
        return builder.select(arguments[0], a, b)

    return lanes(mask, a, b), generate


def _chosen_by(symbol: str):
    def choose(context, a, b):
        if (a, b) not in _PAIRS:
            return None

        def generate(context, builder, signature, arguments):
            a, b = (_vector(builder, v, k) for v, k in zip(arguments, signature.args, strict=True))
            return builder.select(builder.fcmp_ordered(symbol, a, b), a, b)

        return lanes(a, b), generate

    return choose


@intrinsic
def smaller(context, a, b):
    """The smaller one, lane by lane; b where a is NaN."""
    return _chosen_by("<")(context, a, b)


@intrinsic
def larger(context, a, b):
    """The larger one, lane by lane; b where a is NaN."""
    return _chosen_by(">")(context, a, b)


@intrinsic
def some(context, chosen):
    """Is any lane set?"""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), generate


def _shuffled(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order)))


@intrinsic
def totals(context, v0, v1, v2, v3, v4, v5, v6, v7):
    """Eight lanes -> lanes: lane i is the sum over the lanes of the i-th argument."""

    def generate(context, builder, signature, arguments):
        rows = list(arguments)
        # Halve the lanes of pairs until one vector is left: 3 rounds of 4, 2 and 1 pairs.
        step = LANES // 2
        while step:
            half = len(rows) // 2
            # Row i takes the lower half of each run of 2 step lanes, row i + half the upper.
            low = [i if i // step % 2 == 0 else LANES + i - step for i in range(LANES)]
            high = [i + step if i // step % 2 == 0 else LANES + i for i in range(LANES)]
            rows = [
                builder.fadd(
                    _shuffled(builder, rows[i], rows[i + half], low),
                    _shuffled(builder, rows[i], rows[i + half], high),
                )
                for i in range(half)
            ]
            step //= 2
        return rows[0]

    return lanes(*[lanes] * 8), generate


@intrinsic
def total(context, value):
    """Sum over the lanes, always in the same order."""

    def generate(context, builder, signature, arguments):
        value, step = arguments[0], LANES // 2
        while step:
            value = builder.fadd(value, _shuffled(builder, value, value, [i ^ step for i in range(LANES)]))
            step //= 2
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.float32(lanes), generate
