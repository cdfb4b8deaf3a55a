"""Explicit SIMD lanes in Numba kernels: sixteen float32 that LLVM keeps in vector registers.

LLVM turns `<16 x float>` into the best the processor has: one register of AVX-512, two of AVX2, four of SSE
or NEON; several registers a value also keep a processor busy that waits for the last operation. Numba knows
such a value as type `f32x16`, and comparisons of two as mask `m16`. Inside a kernel, beside what moves lanes
(`simd_moves`):

    v = splat(x)                 the same float32 in all lanes
    RAMP = constant(values)      RAMP() in a kernel: sixteen numbers fixed at compile time
    a + b, a - b, a * b, a / b, -a  lane by lane; the other side may be a float32. a * b + c becomes one FMA
    a < b, a <= b, ...           masks; m & n, m | n
    where(mask, a, b)            lane by lane
    smaller(a, b), larger(a, b), root(a)
    power_of_two(v)              2^v for -126 < v <= 0, to 3e-6 of it
    logarithm(v)                 log2 v for normal positive numbers
    some(mask)                   is any lane set?
    lowest_bit(n)                place of the lowest set bit of a uint64 that is not 0

Only the documented `numba.extending` interface is used.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16


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


@type_callable(operator.neg)
def _negative(context):
    return lambda a: lanes if a == lanes else None


@lower_builtin(operator.neg, lanes)
def _negate(context, builder, signature, arguments):
    return builder.fneg(arguments[0])


_logic(operator.and_, "and_")
_logic(operator.or_, "or_")


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


def constant(values):
    """A function of no arguments that gives these sixteen float32 as lanes."""

    @intrinsic
    def numbers(context):
        def generate(context, builder, signature, arguments):
            return ir.Constant(ir.VectorType(ir.FloatType(), LANES), [float(v) for v in values])

        return lanes(), generate

    return numbers


@intrinsic
def root(context, value):
    """Square root, lane by lane."""

    def generate(context, builder, signature, arguments):
        kind = ir.VectorType(ir.FloatType(), LANES)
        name, module = f"llvm.sqrt.v{LANES}f32", builder.module
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind]), name)
        return builder.call(function, arguments)

    return lanes(lanes), generate


_POWER = (
    0.9999973773956299,
    0.6930301785469055,
    0.23934108018875122,
    0.05307406559586525,
    0.006767083890736103,
)
"""2^f for -1 < f <= 0, ascending; the relative error is at most 3e-6."""


_ARTANH = tuple(float(np.float32(2 / np.log(2) / n)) for n in (1, 3, 5, 7, 9))
"""2 artanh(r) / ln 2 = r (a_0 + a_1 r^2 + ...), ascending."""


@intrinsic
def power_of_two(context, value):
    """2^value, lane by lane, for -126 < value <= 0; anything outside (not an error, not infinite)."""

    def generate(context, builder, signature, arguments):
        floats, integers = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), ir.IntType(32)))
        value = arguments[0]
        whole = builder.fptosi(value, integers)
        part = builder.fsub(value, builder.sitofp(whole, floats))
        result = ir.Constant(floats, [_POWER[-1]] * LANES)
        for coefficient in reversed(_POWER[:-1]):
            result = builder.fadd(builder.fmul(result, part), ir.Constant(floats, [coefficient] * LANES))
        exponent = builder.shl(whole, ir.Constant(integers, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(result, integers), exponent), floats)

    return lanes(lanes), generate


@intrinsic
def logarithm(context, value):
    """log2, lane by lane, to 2e-7, of normal positive numbers; anything outside (not an error)."""

    def generate(context, builder, signature, arguments):
        floats, integers = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), ir.IntType(32)))

        def number(kind, x):
            return ir.Constant(kind, [x] * LANES)

        # value = 2^whole part, part between sqrt 1/2 and sqrt 2; ln part = 2 artanh((part - 1) / (part + 1)).
        bits = builder.bitcast(arguments[0], integers)
        whole = builder.ashr(builder.sub(bits, number(integers, 0x3F3504F3)), number(integers, 23))
        part = builder.bitcast(builder.sub(bits, builder.shl(whole, number(integers, 23))), floats)
        one = number(floats, 1.0)
        ratio = builder.fdiv(builder.fsub(part, one), builder.fadd(part, one))
        square = builder.fmul(ratio, ratio)
        result = number(floats, _ARTANH[-1])
        for coefficient in reversed(_ARTANH[:-1]):
            result = builder.fadd(builder.fmul(result, square), number(floats, coefficient))
        return builder.fadd(builder.fmul(result, ratio), builder.sitofp(whole, floats))

    return lanes(lanes), generate


@intrinsic
def lowest_bit(context, number):
    """Place of the lowest set bit; number is a uint64 and not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate
