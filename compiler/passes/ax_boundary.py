"""Where floats become codes, as TIR functions beside `ax_ops`: equal to `isa.numerics` bit for bit for finite values."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from axlora.compiler.passes.ax_ops import clamp, finish, i64, widened
from axlora.isa.numerics import SAT32

Expr = Any


def _f64(value: float) -> Expr:
    return tirx.const(value, "float64")


def _power(exponent: Expr) -> Expr:
    """2.0 ** exponent of an int64, in the range of normal float64."""
    return tirx.reinterpret("float64", (exponent + i64(1023)) << i64(52))


def _within(value: Expr, low: int, high: int) -> Expr:
    """A whole float64 as int64, held between two numbers."""
    return te.max(te.min(value, _f64(high)), _f64(low)).astype("int64")


def ax_quantize(m: int, k: int, bits: int) -> Expr:
    """(x f32 [m, k], scale f32 [1], zero s64 [1]) -> codes int8 or int16 [m, k]: `numerics.quantize_real`."""
    x = te.placeholder((m, k), "float32", "x")
    scale, zero = te.placeholder((1,), "float32", "scale"), te.placeholder((1,), "int64", "zero")
    high = (1 << (bits - 1)) - 1

    def code(i: Expr, j: Expr) -> Expr:
        whole = tirx.nearbyint(x[i, j] / scale[0]).astype("float64") + zero[0].astype("float64")
        return _within(whole, -high - 1, high).astype(f"int{bits}")

    return finish([x, scale, zero, te.compute((m, k), code, "codes")], "ax_quantize")


def ax_quantize_tokens(m: int, k: int, bits: int, offset_columns: int) -> Expr:
    """(x f32 [m, k]) -> codes int8 or int16 [m, k + offset_columns], mantissa u16 and shift u8 [m, 1].

    `numerics.quantize_tokens`; the last columns of the codes hold the token's offset.
    """
    x = te.placeholder((m, k), "float32", "x")
    high, zero = (1 << (bits - 1)) - 1, tirx.const(0, "float32")
    columns, more = te.reduce_axis((0, k), "j"), te.reduce_axis((0, k), "l")
    largest = te.compute((m,), lambda i: te.max(x[i, columns], columns), "largest")
    smallest = te.compute((m,), lambda i: te.min(x[i, more], more), "smallest")
    most = te.compute((m,), lambda i: te.max(largest[i], zero).astype("float64"), "most")
    least = te.compute((m,), lambda i: te.min(smallest[i], zero).astype("float64"), "least")

    def step(i: Expr) -> Expr:
        peak = (most[i] - least[i]) / _f64(2) if offset_columns else te.max(most[i], -least[i])
        return te.min(peak / _f64(high) * _power(i64(bits - 8)), _f64(65535 / 2))

    held = te.compute((m,), step, "held")

    def shift_of(i: Expr) -> Expr:
        field = (tirx.reinterpret("int64", held[i]) >> i64(52)) & i64(0x7FF)
        return clamp(i64(16) - tirx.Select(held[i] > _f64(0), field - i64(1022), i64(0)), 1, 62)

    first = te.compute((m,), shift_of, "first_shift")
    rounded = te.compute((m,), lambda i: tirx.nearbyint(held[i] * _power(first[i])).astype("int64"), "rounded")
    carry = te.compute((m,), lambda i: tirx.And(rounded[i] == 1 << 16, first[i] > 1).astype("int64"), "carry")
    whole = te.compute((m,), lambda i: clamp(rounded[i] >> carry[i], 1, (1 << 16) - 1), "whole")
    shift = te.compute((m, 1), lambda i, _: (first[i] - carry[i]).astype("uint8"), "shift")
    mantissa = te.compute((m, 1), lambda i, _: whole[i].astype("uint16"), "mantissa")

    def scale_of(i: Expr) -> Expr:
        return whole[i].astype("float64") * _power(-(first[i] - carry[i]) - i64(bits - 8))

    scale = te.compute((m,), scale_of, "scale")

    def middle_of(i: Expr) -> Expr:
        if not offset_columns:
            return i64(0)
        return _within(tirx.nearbyint((most[i] + least[i]) / (_f64(2) * scale[i])), -high, high)

    middle = te.compute((m,), middle_of, "middle")

    def code(i: Expr, j: Expr) -> Expr:
        own = tirx.nearbyint(x[i, te.min(j, k - 1)].astype("float64") / scale[i]) - middle[i].astype("float64")
        return tirx.Select(j < k, _within(own, -high, high), widened(middle[i])).astype(f"int{bits}")

    codes = te.compute((m, k + offset_columns), code, "codes")
    return finish([x, codes, mantissa, shift], "ax_quantize_tokens")


def ax_to_rows(m: int, n: int, fraction: int) -> Expr:
    """(x f32 [m, n]) -> s32 [m, n]: `numerics.to_fixed`."""
    x = te.placeholder((m, n), "float32", "x")

    def row(i: Expr, j: Expr) -> Expr:
        return _within(tirx.nearbyint(x[i, j].astype("float64") * _f64(2.0**fraction)), -SAT32, SAT32).astype("int32")

    return finish([x, te.compute((m, n), row, "y")], "ax_to_rows")


def ax_from_rows(m: int, n: int, fraction: int) -> Expr:
    """(x s32 [m, n]) -> f32 [m, n]: x / 2**fraction."""
    x = te.placeholder((m, n), "int32", "x")

    def real(i: Expr, j: Expr) -> Expr:
        return (x[i, j].astype("float64") * _f64(2.0**-fraction)).astype("float32")

    return finish([x, te.compute((m, n), real, "y")], "ax_from_rows")
