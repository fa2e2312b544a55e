"""The row operations of the machine as TIR functions, equal to `isa.numerics` bit for bit: what LLVM runs of a transformer.

Rows are s32 [m, n]. `places` is int64 [2]: the position of the first row, and how many rows are no padding. `numbers` is int64
and holds the fields of the instruction, so that one function serves all layers. As in `ax_ops`, all products are 64-bit and
shifts stay in 0..63.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import te, tirx
from tvm.script import tirx as T

from axlora.compiler.passes.ax_ops import Expr, clamp, finish, i64, rounding_shift, widened
from axlora.isa.numerics import SAT32
from axlora.isa.opcodes import Map, Reduce, Row

LOWEST = -(1 << 31)
"""MAX of no elements."""


def _sat32(value: Expr) -> Expr:
    return clamp(value, -SAT32, SAT32)


def _valid(places: Expr, causal: bool, i: Expr, j: Expr) -> Expr:
    """Whether row i sees key j: keys up to its own if causal, else all that are no padding."""
    return widened(j) < (places[0] + i + 1 if causal else places[1])


def _reduced(reduce: Reduce, y: Expr, m: int, n: int, valid: Callable[[Expr, Expr], Expr] | None) -> Expr:
    """int64 [m]: the reduction of the valid elements of each row."""
    axis = te.reduce_axis((0, n), "j")

    def element(i: Expr, none: int, value: Expr) -> Expr:
        return value if valid is None else tirx.Select(valid(i, axis), value, i64(none))

    if reduce is Reduce.SUM:
        return te.compute((m,), lambda i: te.sum(element(i, 0, widened(y[i, axis])), axis), "reduced")
    if reduce is Reduce.MAX:
        most = te.compute((m,), lambda i: te.max(element(i, LOWEST, widened(y[i, axis])), axis), "most")
        return te.compute((m,), lambda i: te.max(most[i], i64(LOWEST)), "reduced")
    return te.compute((m,), lambda i: te.max(element(i, 0, te.abs(widened(y[i, axis]))), axis), "reduced")


def ax_map(
    function: Map,
    m: int,
    n: int,
    reduce: Reduce,
    scaled: bool,
    less: bool,
    keys: bool | None,
    entries: int,
    two: bool,
    out: bool,
) -> Expr:
    """VMAP (`numerics.map_rows`, `reduce_rows`).

    Arguments in order: numbers (ca, cb, shift, low, step); a [m, n]; b [m, n] if `two`; factor and shift int64 [m] if `scaled`;
    less int64 [m] if `less`; places if `keys` is not None (its value: causal); table s32 [entries, 2] if there are entries.
    Results: y [m, n] if `out`; the reduction, int64 [m], if there is one.
    """
    numbers, a = te.placeholder((5,), "int64", "numbers"), te.placeholder((m, n), "int32", "a")
    ca, cb, shift, low, step = (numbers[k] for k in range(5))
    args = [numbers, a]
    b = a
    if two:
        b = te.placeholder((m, n), "int32", "b")
        args.append(b)
    if scaled:
        factor, by = te.placeholder((m,), "int64", "factor"), te.placeholder((m,), "int64", "shift")
        args += [factor, by]
    if less:
        off = te.placeholder((m,), "int64", "less")
        args.append(off)
    valid: Callable[[Expr, Expr], Expr] | None = None
    if keys is not None:
        places = te.placeholder((2,), "int64", "places")
        args.append(places)
        valid = partial(_valid, places, keys)
    if entries:
        table = te.placeholder((entries, 2), "int32", "table")
        args.append(table)

    def x(i: Expr, j: Expr) -> Expr:
        return _sat32(widened(a[i, j]) - off[i]) if less else _sat32(widened(a[i, j]))

    if function is Map.TABLE:
        distance = te.compute((m, n), lambda i, j: x(i, j) - low, "distance")
        index = te.compute((m, n), lambda i, j: clamp(distance[i, j] >> step, 0, entries - 1), "index")
        product = te.compute(
            (m, n),
            lambda i, j: widened(table[index[i, j], 1]) * _sat32(distance[i, j] - (index[i, j] << step)),
            "product",
        )
    elif function is Map.MAC:
        product = te.compute((m, n), lambda i, j: x(i, j) * ca + widened(b[i, j]) * cb, "product")
    elif function is Map.MUL:
        product = te.compute((m, n), lambda i, j: x(i, j) * widened(b[i, j]), "product")
    else:
        product = te.compute((m, n), lambda i, j: x(i, j) * factor[i], "product")

    def raw(i: Expr, j: Expr) -> Expr:
        rounded = rounding_shift(product[i, j], by[i] if scaled else shift)
        return rounded + widened(table[index[i, j], 0]) if function is Map.TABLE else rounded

    y = te.compute((m, n), lambda i, j: _sat32(raw(i, j)).astype("int32"), "y")
    results = []
    if reduce is not Reduce.NONE:
        results.append(_reduced(reduce, y, m, n, valid))
    if out and valid is not None:
        seen = valid
        results.insert(0, te.compute((m, n), lambda i, j: tirx.Select(seen(i, j), y[i, j], tirx.const(0, "int32")), "kept"))
    elif out:
        results.insert(0, y)
    return finish([*args, *results], "ax_map")


def _bit_length(value: Expr, m: int) -> Expr:
    """int64 [m]: bits of positive int64 [m]."""
    bit = te.reduce_axis((0, 63), "bit")
    return te.compute(
        (m,), lambda i: te.sum(tirx.Select(value[i] >= (i64(1) << widened(bit)), i64(1), i64(0)), bit), "length"
    )  # fmt: skip


def _root(value: Expr) -> Expr:
    """The integer square root of a uint64 below 2**64, as int64: double precision is off by one at most."""
    near = te.min(te.floor(te.sqrt(value.astype("float64"))), tirx.const(float((1 << 32) - 1), "float64")).astype("uint64")
    one = tirx.const(1, "uint64")
    down = tirx.Select(near * near > value, near - one, near)
    top = tirx.const((1 << 32) - 1, "uint64")
    up = tirx.And(down < top, (down + one) * (down + one) <= value)
    return tirx.Select(up, down + one, down).astype("int64")


def ax_scalar(function: Row, m: int) -> Expr:
    """VROW (`numerics.row_scalar`): (numbers, reduced int64 [m]) -> factor, shift and value, int64 [m].

    Numbers are factor, add, shift, adjust, token. TOKEN also gives the mantissa, u16 [m, 1], and the token's shift, u8 [m, 1],
    as `ax_requantize` takes them.
    """
    numbers, reduced = te.placeholder((5,), "int64", "numbers"), te.placeholder((m,), "int64", "reduced")
    factor, add, shift, adjust, token = (numbers[k] for k in range(5))
    v = te.compute((m,), lambda i: rounding_shift(reduced[i] * factor, shift) + add, "v")
    value = te.compute((m,), lambda i: _sat32(v[i]), "value")
    if function is Row.COPY:
        same = te.compute((m,), lambda i: value[i], "factor")
        none = te.compute((m,), lambda i: i64(0), "shift")
        return finish([numbers, reduced, same, none, value], "ax_scalar")
    u = te.compute((m,), lambda i: te.max(v[i], i64(1)), "u")
    length = _bit_length(u, m)
    if function is Row.RSQRT:
        k = te.compute((m,), lambda i: (i64(64) - length[i]) >> i64(1), "k")
        n = te.compute((m,), lambda i: _root(u[i].astype("uint64") << (k[i] * 2).astype("uint64")), "n")
    else:
        k = te.compute((m,), lambda i: i64(32) - length[i], "k")
        n = te.compute(
            (m,),
            lambda i: tirx.Select(k[i] >= 0, u[i] << te.max(k[i], i64(0)), u[i] >> te.max(-k[i], i64(0))),
            "n",
        )
    results = []
    if function is Row.TOKEN:
        rounded = te.compute((m,), lambda i: (n[i] + i64(1 << 15)) >> i64(16), "rounded")
        most = i64(1 << 16)
        mantissa = te.compute((m,), lambda i: tirx.Select(rounded[i] == most, i64(1 << 15), rounded[i]), "held")
        own = te.compute((m,), lambda i: tirx.Select(rounded[i] == most, k[i] - 1, k[i]), "own")
        k, n = own, te.compute((m,), lambda i: mantissa[i] << i64(16), "divisor")
        results.append(te.compute((m, 1), lambda i, z: mantissa[i].astype("uint16"), "mantissa"))
        results.append(te.compute((m, 1), lambda i, z: clamp(own[i] + (token - 16), 1, 62).astype("uint8"), "token_shift"))
    top = (1 << 62) - 1
    quotient = te.compute((m,), lambda i: tirx.truncdiv(i64(top), n[i]), "factor")
    held = te.compute((m,), lambda i: clamp(i64(62) - adjust - k[i], 0, 63), "shift")
    return finish([numbers, reduced, quotient, held, value, *results], "ax_scalar")


def ax_codes(m: int, n: int, size: int) -> Expr:
    """Codes of `size` bytes: (x [m, n], factor int64 [m], shift int64 [m]) -> clamp(sat32(rne(x * factor, shift)))."""
    x = te.placeholder((m, n), "int32", "x")
    factor, shift = te.placeholder((m,), "int64", "factor"), te.placeholder((m,), "int64", "shift")
    product = te.compute((m, n), lambda i, j: widened(x[i, j]) * factor[i], "product")
    high = (1 << (8 * size - 1)) - 1
    y = te.compute(
        (m, n), lambda i, j: clamp(rounding_shift(product[i, j], shift[i]), -high, high).astype(f"int{8 * size}"), "y"
    )  # fmt: skip
    return finish([x, factor, shift, y], "ax_codes")


def ax_by_position(m: int, n: int, positions: int) -> Expr:
    """(table s32 [positions, n], places) -> its rows from the first position on, [m, n]; zeros beyond its end."""
    table, places = te.placeholder((positions, n), "int32", "table"), te.placeholder((2,), "int64", "places")

    def row(i: Expr, j: Expr) -> Expr:
        at = places[0] + i
        return tirx.if_then_else(at < positions, table[te.min(at, i64(positions - 1)), j], tirx.const(0, "int32"))

    return finish([table, places, te.compute((m, n), row, "y")], "ax_by_position")


def ax_append(m: int, n: int, context: int, dtype: str) -> Expr:
    """(cache [context, n], rows [m, n], places) -> the cache with the rows from the first position on."""
    cache, rows = te.placeholder((context, n), dtype, "cache"), te.placeholder((m, n), dtype, "rows")
    places = te.placeholder((2,), "int64", "places")

    def element(i: Expr, j: Expr) -> Expr:
        at = widened(i) - places[0]
        own = tirx.And(at >= 0, at < m)
        return tirx.if_then_else(own, rows[clamp(at, 0, m - 1), j], cache[i, j])

    return finish([cache, rows, places, te.compute((context, n), element, "y")], "ax_append")


def ax_summed(m: int, k: int, n: int, turned: bool, bits: int) -> Expr:
    """Codes x codes of the cache, times the token's scale.

    (numbers: m1, m1_shift; x int`bits` [m, k]; cache int8, [n, k] if `turned` else [k, n]; mantissa u16 [m, 1]; token_shift u8
    [m, 1]) -> s32 [m, n]: sat32(rne(sat32(rne(sum m1, m1_shift)) mantissa, token_shift)).
    """
    numbers, x = te.placeholder((2,), "int64", "numbers"), te.placeholder((m, k), f"int{bits}", "x")
    cache = te.placeholder((n, k) if turned else (k, n), "int8", "cache")
    mantissa, shift = te.placeholder((m, 1), "uint16", "mantissa"), te.placeholder((m, 1), "uint8", "token_shift")
    axis = te.reduce_axis((0, k), "k")
    total = te.compute(
        (m, n),
        lambda i, j: te.sum(widened(x[i, axis]) * widened(cache[j, axis] if turned else cache[axis, j]), axis),
        "total",
    )
    value = te.compute((m, n), lambda i, j: _sat32(rounding_shift(total[i, j] * numbers[0], numbers[1])), "value")
    product = te.compute((m, n), lambda i, j: value[i, j] * widened(mantissa[i, 0]), "product")
    y = te.compute(
        (m, n), lambda i, j: _sat32(rounding_shift(product[i, j], widened(shift[i, 0]))).astype("int32"), "y"
    )  # fmt: skip
    return finish([numbers, x, cache, mantissa, shift, y], "ax_summed")


def ax_weigh(m: int, n: int, causal: bool, reduce: Reduce) -> Expr:
    """x times each key's scale / 2**shift, 0 where a key is not seen, and the reduction.

    (numbers: shift; x [m, n]; scales s32 [n, 1]; places) -> s32 [m, n], int64 [m].
    """
    numbers = te.placeholder((1,), "int64", "numbers")
    x, scales = te.placeholder((m, n), "int32", "x"), te.placeholder((n, 1), "int32", "scales")
    places = te.placeholder((2,), "int64", "places")
    product = te.compute((m, n), lambda i, j: widened(x[i, j]) * widened(scales[j, 0]), "product")
    y = te.compute((m, n), lambda i, j: _sat32(rounding_shift(product[i, j], numbers[0])).astype("int32"), "y")

    valid = partial(_valid, places, causal)
    kept = te.compute((m, n), lambda i, j: tirx.Select(valid(i, j), y[i, j], tirx.const(0, "int32")), "kept")
    return finish([numbers, x, scales, places, kept, _reduced(reduce, y, m, n, valid)], "ax_weigh")


def ax_gather(m: int, n: int, shift: int) -> Expr:
    """(x [m, n], places) -> [1, n]: total = sat32(rne(row + total 2**shift, shift)), over the rows that are no padding."""
    half = 1 << (shift - 1) if shift else 1

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def gather(
        x: T.Buffer((m, n), "int32"),  # type: ignore[valid-type]
        places: T.Buffer((2,), "int64"),  # type: ignore[valid-type]
        y: T.Buffer((1, n), "int32"),  # type: ignore[valid-type]
    ) -> None:
        for j in range(n):
            y[0, j] = 0
        for i, j in T.grid(m, n):
            if T.int64(i) < places[1]:
                total: T.let = T.Cast("int64", x[i, j]) + (T.Cast("int64", y[0, j]) << T.int64(shift))
                floor: T.let = total >> T.int64(shift)
                rest: T.let = total - (floor << T.int64(shift))
                odd: T.let = floor & T.int64(1)
                up: T.let = T.Select(rest + odd > T.int64(half), T.int64(1), T.int64(0))
                y[0, j] = T.Cast("int32", T.max(T.min(floor + up, T.int64(SAT32)), T.int64(-SAT32)))

    return gather.with_attr({"global_symbol": "ax_gather", "tirx.noalias": True})
