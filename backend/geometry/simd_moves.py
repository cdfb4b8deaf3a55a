"""Moves of SIMD lanes: between memory and registers, across registers, between lanes (types: `simd`).

array = aligned(count)       new float32 array that begins at a cache line
v = load(array, i)           16 neighbours of a contiguous float32 array; i counts as in its ravel()
store(array, i, v)
x, y, z = load_triples(array, i)  columns of sixteen rows of three; store_triples(array, i, x, y, z);
                             load_quads and store_quads for rows of four
transpose(array, i, n, out, j, m)  sixteen rows of sixteen, n apart, become columns, m apart
v = load_rows(array, i, n)   four runs of four, n apart; store_rows(array, i, n, v)
store_whole(array, i, v)     truncated, into int32
prefetch(array, i)           start fetching the cache line of array.ravel()[i]
rows_of_columns(array, i, r) 4 bits for each of 8 columns: which of rows r .. r + 3 lie in its span
totals(v0, ... v15)          sums over the lanes of sixteen values at once: lane i is the sum of v_i
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from backend.geometry.jit import kernel
from backend.geometry.simd import LANES, lanes

_QUARTER = LANES // 4


def _pointer(context, builder, signature, arguments):
    """Address of array[index] as a pointer to lanes; no wrap-around, no bounds."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return _at(builder, array.data, arguments[1], ir.FloatType(), LANES)


def _at(builder, data, index, kind, count):
    """data + index as a pointer to `count` of a kind."""
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(kind, count).as_pointer())


def _is_flat(array) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.float32 and array.layout == "C"


@kernel
def aligned(count):
    """New array (count,) float32 that begins at a cache line: a register of it then never straddles two."""
    raw = np.empty(count + LANES, dtype=np.float32)
    start = -(raw.ctypes.data >> 2) & (LANES - 1)
    return raw[start : start + count]


@intrinsic
def load(context, array, index):
    """array.ravel()[index:index + 16] as lanes."""
    if not _is_flat(array):
        return None

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature, arguments), align=4)

    return lanes(array, types.uint64), generate


@intrinsic
def store(context, array, index, value):
    """array.ravel()[index:index + 16] = value."""
    if not _is_flat(array) or value != lanes:
        return None

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, lanes), generate


def _shuffled(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order)))


def _picked(builder, vectors, places):
    """Lane i is number `places[i]` of all the vectors' lanes in a row."""
    order = [p if p < 2 * LANES else 0 for p in places]
    result = _shuffled(builder, vectors[0], vectors[1], order)
    for k, vector in enumerate(vectors[2:], start=2):
        order = [LANES + p % LANES if p // LANES == k else i for i, p in enumerate(places)]
        result = _shuffled(builder, result, vector, order)
    return result


def _loader(width: int):
    def choose(context, array, first):
        if not _is_flat(array):
            return None

        def generate(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            vectors = [
                builder.load(
                    _at(
                        builder,
                        data,
                        builder.add(arguments[1], ir.IntType(64)(LANES * k)),
                        ir.FloatType(),
                        LANES,
                    ),
                    align=4,
                )
                for k in range(width)
            ]
            columns = [_picked(builder, vectors, [width * i + j for i in range(LANES)]) for j in range(width)]
            return context.make_tuple(builder, signature.return_type, columns)

        return types.UniTuple(lanes, width)(array, types.uint64), generate

    return choose


def _storer(context, array, first, columns):
    """For an intrinsic that interleaves columns."""
    if not _is_flat(array) or any(column != lanes for column in columns):
        return None
    width = len(columns)

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        for k in range(width):
            flat = range(LANES * k, LANES * (k + 1))
            vector = _picked(builder, arguments[2:], [n % width * LANES + n // width for n in flat])
            index = builder.add(arguments[1], ir.IntType(64)(LANES * k))
            builder.store(vector, _at(builder, data, index, ir.FloatType(), LANES), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, *columns), generate


@intrinsic
def load_triples(context, array, first):
    """Three columns of sixteen rows of array.ravel(), from `first`: a tuple of lanes."""
    return _loader(3)(context, array, first)


@intrinsic
def load_quads(context, array, first):
    """Four columns of sixteen rows of array.ravel(), from `first`: a tuple of lanes."""
    return _loader(4)(context, array, first)


@intrinsic
def store_triples(context, array, first, x, y, z):
    """Three columns into sixteen rows of array.ravel(), from `first`."""
    return _storer(context, array, first, (x, y, z))


@intrinsic
def store_quads(context, array, first, w, x, y, z):
    """Four columns into sixteen rows of array.ravel(), from `first`."""
    return _storer(context, array, first, (w, x, y, z))


@intrinsic
def transpose(context, array, first, stride, out, place, step):
    """out.ravel()[place + step i + j] = array.ravel()[first + stride j + i] for i, j < 16."""
    if not (_is_flat(array) and _is_flat(out)):
        return None

    def generate(context, builder, signature, arguments):
        source, target = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 3)
        )
        rows, index = [], arguments[1]
        for _ in range(LANES):
            rows.append(builder.load(_at(builder, source, index, ir.FloatType(), LANES), align=4))
            index = builder.add(index, arguments[2])
        step = LANES // 2
        while step:
            # Swap the off-diagonal quarters of each square of 2 step rows and columns.
            low = [i if not i & step else LANES + i - step for i in range(LANES)]
            high = [i + step if not i & step else LANES + i for i in range(LANES)]
            for i in (i for i in range(LANES) if not i & step):
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = _shuffled(builder, a, b, low), _shuffled(builder, a, b, high)
            step //= 2
        index = arguments[4]
        for row in rows:
            builder.store(row, _at(builder, target, index, ir.FloatType(), LANES), align=4)
            index = builder.add(index, arguments[5])
        return context.get_dummy_value()

    places = [types.uint64] * 2
    return types.void(array, *places, out, *places), generate


@intrinsic
def totals(context, v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15):
    """Sixteen lanes -> lanes: lane i is the sum over the lanes of v_i, always in the same order."""

    def generate(context, builder, signature, arguments):
        rows, step = list(arguments), LANES // 2
        # Halve the lanes of pairs until one is left: 8, 4, 2 and 1 pairs.
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

    return lanes(*[lanes] * 16), generate


@intrinsic
def load_rows(context, array, first, stride):
    """Four runs of four floats of array.ravel(), from `first`, `stride` apart, as lanes."""
    if not _is_flat(array):
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        index, parts = arguments[1], []
        for _ in range(4):
            parts.append(builder.load(_at(builder, data, index, ir.FloatType(), _QUARTER), align=4))
            index = builder.add(index, arguments[2])
        halves = [_shuffled(builder, a, b, range(2 * _QUARTER)) for a, b in (parts[:2], parts[2:])]
        return _shuffled(builder, *halves, range(LANES))

    return lanes(array, types.uint64, types.uint64), generate


@intrinsic
def store_rows(context, array, first, stride, value):
    """Lanes into four runs of four floats of array.ravel(), from `first`, `stride` apart."""
    if not _is_flat(array) or value != lanes:
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        index, value = arguments[1], arguments[3]
        for row in range(4):
            part = _shuffled(builder, value, value, range(row * _QUARTER, (row + 1) * _QUARTER))
            builder.store(part, _at(builder, data, index, ir.FloatType(), _QUARTER), align=4)
            index = builder.add(index, arguments[2])
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64, lanes), generate


@intrinsic
def store_whole(context, array, index, value):
    """Lanes, truncated, into an int32 array; they must fit."""
    if array != types.Array(types.int32, 1, "C") or value != lanes:
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        whole = builder.fptosi(arguments[2], ir.VectorType(ir.IntType(32), LANES))
        builder.store(whole, _at(builder, data, arguments[1], ir.IntType(32), LANES), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, lanes), generate


@intrinsic
def prefetch(context, array, index):
    """Start fetching the cache line of array.ravel()[index]; it need not exist."""
    if not _is_flat(array):
        return None

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number, module = ir.IntType(32), builder.module
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        function = module.globals.get("llvm.prefetch.p0") or ir.Function(module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate


@intrinsic
def rows_of_columns(context, array, index, row):
    """Bit 4 i + j, int64: does row + j lie in the span of column i?

    array int32, from `index`: last rows of eight columns, then their first rows.
    """
    if array != types.Array(types.int32, 1, "C"):
        return None

    def generate(context, builder, signature, arguments):
        number, data = ir.IntType(32), context.make_array(array)(context, builder, arguments[0]).data
        kind = ir.VectorType(number, LANES)
        empty = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(empty, builder.trunc(arguments[2], number), number(0))
        first = builder.shuffle_vector(first, empty, ir.Constant(kind, [0] * LANES))
        spans = builder.sub(builder.load(_at(builder, data, arguments[1], number, LANES), align=4), first)

        def held(value, low, high):
            low, high = (ir.Constant(kind, [bound] * LANES) for bound in (low, high))
            value = builder.select(builder.icmp_signed("<", value, low), low, value)
            return builder.select(builder.icmp_signed(">", value, high), high, value)

        half = ir.VectorType(number, LANES // 2)
        lasts = builder.shuffle_vector(held(spans, -1, 3), empty, ir.Constant(half, list(range(8))))
        begins = builder.shuffle_vector(held(spans, 0, 4), empty, ir.Constant(half, list(range(8, 16))))
        ones = ir.Constant(half, [15] * 8)
        last_bits = builder.lshr(ones, builder.sub(ir.Constant(half, [3] * 8), lasts))
        bits = builder.and_(builder.shl(ones, begins), last_bits)
        bits = builder.shl(bits, ir.Constant(half, [4 * i for i in range(8)]))
        for step in (4, 2, 1):
            order = ir.Constant(half, [i ^ step for i in range(8)])
            bits = builder.or_(bits, builder.shuffle_vector(bits, ir.Constant(half, ir.Undefined), order))
        return builder.zext(builder.extract_element(bits, number(0)), ir.IntType(64))

    return types.int64(array, types.uint64, types.int64), generate
