"""The integer operators `ax_*` as TIR functions: what LLVM runs, equal to `isa.numerics` bit for bit.

Every function here makes one PrimFunc for fixed shapes; products and sums are 64-bit but for `ax_matmul`, whose accumulator
type the caller chooses from the proven bound. Shifts stay in 0..62, and the half of a shift of 0 is 1 << max(-1, 0): TVM's
shifts of a negative count or of 64 and more are undefined. Relax calls the functions with `call_tir`; nothing is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, te, tirx

from axlora.isa.numerics import SAT32

Expr = Any
"""A TVM expression: TVM ships no types."""


@dataclass(frozen=True)
class Requantize:
    """Static fields of a requantization: see `isa.numerics.requantize`."""

    bits: int = 8
    zero_point: int = 0
    guard: int = 0
    bias_shift: int = 0
    bias_end: bool = False
    token_scale: bool = False
    lora: bool = False
    """With an adapter's accumulator, multiplier and exponents."""


def i64(value: int) -> Expr:
    return tirx.const(value, "int64")


def widened(value: Expr) -> Expr:
    return value.astype("int64")


def rounding_shift(value: Expr, shift: Expr) -> Expr:
    """`isa.numerics.rounding_shift`: half to even; at shift 0 the rest is 0 and never reaches a half."""
    floor = value >> shift
    rest = value - (floor << shift)
    half = i64(1) << te.max(shift - 1, i64(0))
    odd = floor & i64(1)
    up = tirx.Or(rest > half, tirx.And(rest == half, odd == 1))
    return floor + tirx.Select(up, i64(1), i64(0))


def clamp(value: Expr, low: int, high: int) -> Expr:
    return te.max(te.min(value, i64(high)), i64(low))


def finish(args: list[Expr], name: str) -> Expr:
    return te.create_prim_func(args).with_attr({"global_symbol": name, "tirx.noalias": True})


def row_order(func: Expr, block: str) -> Expr:
    """Loop order token, k, column: the inner loop runs along memory, so that LLVM makes vectors of it."""
    schedule = s_tir.Schedule(func)
    name = schedule.get_sblock(block)
    i, j, k = schedule.get_loops(name)
    schedule.reorder(i, k, j)
    schedule.decompose_reduction(name, k)
    return schedule.mod["main"].with_attr("global_symbol", str(func.attrs["global_symbol"]))


def ax_matmul(m: int, k: int, n: int, x_type: str, w_type: str, acc_type: str) -> Expr:
    """(x [m, k], w [k, n]) -> acc [m, n] in `acc_type`, int32 only where the bound is proved."""
    x, w = te.placeholder((m, k), x_type, "x"), te.placeholder((k, n), w_type, "w")
    axis = te.reduce_axis((0, k), "k")
    acc = te.compute((m, n), lambda i, j: te.sum(x[i, axis].astype(acc_type) * w[axis, j].astype(acc_type), axis), "acc")
    return row_order(finish([x, w, acc], "ax_matmul"), "acc")


def ax_grouped_matmul(m: int, k: int, n: int, rows: int, x_type: str, w_type: str) -> Expr:
    """(x [m, k], w [k, n], scale u8 [g, n], zero s8 [g, n]) -> acc int64 [m, n], g = ceil(k / rows).

    The sum over groups of (x_g @ w_g - zero_g * sum(x_g)) * scale_g, written as the sum over k of x * (w - zero) * scale:
    the same integer, as nothing wraps in 64 bits.
    """
    groups = -(-k // rows)
    x, w = te.placeholder((m, k), x_type, "x"), te.placeholder((k, n), w_type, "w")
    scale, zero = te.placeholder((groups, n), "uint8", "scale"), te.placeholder((groups, n), "int8", "zero")
    row = te.compute(
        (k, n), lambda r, j: (widened(w[r, j]) - widened(zero[r // rows, j])) * widened(scale[r // rows, j]), "row"
    )
    axis = te.reduce_axis((0, k), "k")
    acc = te.compute((m, n), lambda i, j: te.sum(widened(x[i, axis]) * row[axis, j], axis), "acc")
    return row_order(finish([x, w, scale, zero, acc], "ax_grouped_matmul"), "acc")


def ax_requantize(m: int, n: int, acc_type: str, spec: Requantize, acc2_type: str = "int64") -> Expr:
    """Accumulators to codes; also `ax_requantize_lora` when `spec.lora`.

    Arguments, in order: acc [m, n], bias s32 [n], m1 u16 [n], shift u8 [n]; with lora: acc2 [m, n], m2 u16 [n],
    exponent u8 [m, 1]; with token_scale: mantissa u16 [m, 1], token_shift u8 [m, 1]; result codes int8, int16 or int32 [m, n].
    """
    acc = te.placeholder((m, n), acc_type, "acc")
    bias, m1 = te.placeholder((n,), "int32", "bias"), te.placeholder((n,), "uint16", "m1")
    shift = te.placeholder((n,), "uint8", "shift")
    args = [acc, bias, m1, shift]
    if spec.lora:
        acc2, m2 = te.placeholder((m, n), acc2_type, "acc2"), te.placeholder((n,), "uint16", "m2")
        exponent = te.placeholder((m, 1), "uint8", "exponent")
        args += [acc2, m2, exponent]
    if spec.token_scale:
        mantissa, token_shift = te.placeholder((m, 1), "uint16", "mantissa"), te.placeholder((m, 1), "uint8", "token_shift")
        args += [mantissa, token_shift]

    def stage(name: str, element: Callable[[Expr, Expr], Expr]) -> Expr:
        return te.compute((m, n), element, name)  # a buffer a step: nested, the expression grows by x5 a rounding

    def shifted(j: Expr) -> Expr:
        return widened(bias[j]) << i64(spec.bias_shift)

    def front(i: Expr, j: Expr) -> Expr:
        value = (widened(acc[i, j]) + (i64(0) if spec.bias_end else shifted(j))) * widened(m1[j])
        if spec.lora:
            value = value + ((widened(acc2[i, j]) * widened(m2[j])) << widened(exponent[i, 0]))
        return value

    wide = stage("wide", front)
    value = stage("value", lambda i, j: clamp(rounding_shift(wide[i, j], widened(shift[j])), -SAT32, SAT32))
    if spec.token_scale:
        product = stage("product", lambda i, j: value[i, j] * widened(mantissa[i, 0]))
        whole = stage("scaled", lambda i, j: clamp(rounding_shift(product[i, j], widened(token_shift[i, 0])), -SAT32, SAT32))
    else:
        whole = value
    biased = stage("biased", lambda i, j: whole[i, j] + shifted(j)) if spec.bias_end else whole
    high = (1 << (spec.bits - 1)) - 1

    def last(i: Expr, j: Expr) -> Expr:
        rounded = rounding_shift(biased[i, j], i64(spec.guard)) if spec.guard else biased[i, j]
        return clamp(rounded + i64(spec.zero_point), -high - 1, high).astype(f"int{spec.bits}")

    return finish([*args, stage("codes", last)], "ax_requantize_lora" if spec.lora else "ax_requantize")


def ax_block_quantize(m: int, n: int, acc_type: str, bias_shift: int, bits: int) -> Expr:
    """(acc [m, n], bias s32 [n], m1 u16 [n], shift u8 [n]) -> codes int8 or int16 [m, n], exponent u8 [m, 1]."""
    acc = te.placeholder((m, n), acc_type, "acc")
    bias, m1 = te.placeholder((n,), "int32", "bias"), te.placeholder((n,), "uint16", "m1")
    shift = te.placeholder((n,), "uint8", "shift")

    def front(i: Expr, j: Expr) -> Expr:
        return (widened(acc[i, j]) + (widened(bias[j]) << i64(bias_shift))) * widened(m1[j])

    wide = te.compute((m, n), front, "wide")
    value = te.compute((m, n), lambda i, j: clamp(rounding_shift(wide[i, j], widened(shift[j])), -SAT32, SAT32), "value")
    axis = te.reduce_axis((0, n), "j")
    peak = te.compute((m,), lambda i: te.max(te.abs(value[i, axis]), axis), "peak")
    bit = te.reduce_axis((0, 31), "bit")
    length = te.compute(
        (m,),
        lambda i: te.sum(tirx.Select(peak[i] >= (i64(1) << widened(bit)), i64(1), i64(0)), bit),
        "length",
    )
    high = (1 << (bits - 1)) - 1
    exponent = te.compute((m, 1), lambda i, z: te.max(length[i] - (bits - 1), i64(0)).astype("uint8"), "exponent")
    codes = te.compute(
        (m, n),
        lambda i, j: clamp(rounding_shift(value[i, j], widened(exponent[i, 0])), -high, high).astype(f"int{bits}"),
        "codes",
    )
    return finish([acc, bias, m1, shift, codes, exponent], "ax_block_quantize")
