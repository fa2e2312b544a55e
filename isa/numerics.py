"""Integer semantics of the machine: every operation, once, as pure functions of NumPy arrays.

Those that are `register_jitable` hold for one element too, and numba compiles the simulator's loops around them.

The compiler's `ax_*` operators, the simulator, the Verilog and the HLS C++ are all compared with these functions. All
intermediate values are 64-bit two's complement; the compiler proves that nothing wraps (`docs/numerics.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from .compiled import cached
from .opcodes import Map, Reduce, Row

Int64 = npt.NDArray[np.int64]
Value = Any
"""An array of int64, or one element of it."""

SAT32 = (1 << 31) - 1
"""Bound of the 32-bit intermediates: they are clamped to +-SAT32 (symmetric, so that |v| fits 31 bits)."""


@register_jitable
def wrap(value: Value, bits: int) -> Value:
    """Two's complement wrap to `bits` (1..64): what an accumulator of that width holds. int64, any shape."""
    shift = np.int64(64 - bits)
    return (value << shift) >> shift


@register_jitable
def rounding_shift(value: Value, shift: Value) -> Value:
    """value / 2**shift, rounded half to even (IEEE 754 roundTiesToEven on integers); shift 0 is the value itself.

    Args:
        value: int64, any shape, |value| < 2**62.
        shift: 0..63, broadcast.
    """
    floor = value >> shift
    rest = value - (floor << shift)
    half = np.int64(1) << (shift - (shift > 0))  # with shift 0 the rest is 0, below it
    return floor + ((rest > half) | ((rest == half) & ((floor & 1) == 1)))


@register_jitable
def saturate(value: Value, low: int, high: int) -> Value:
    """Clamp to [low, high]; int64, any shape."""
    return np.minimum(np.maximum(value, low), high)


def to_fixed(values: npt.ArrayLike, fraction: int) -> Int64:
    """Reals as 32-bit fixed point: rint(value * 2**fraction), clamped to +-(2**31 - 1); int64, any shape."""
    scaled = np.rint(np.ldexp(np.asarray(values, np.float64), fraction))
    return np.clip(scaled, -SAT32, SAT32).astype(np.int64)


@register_jitable
def saturate32(value: Value) -> Value:
    """Clamp to +-(2**31 - 1)."""
    return np.minimum(np.maximum(value, -SAT32), SAT32)


def matmul(x: Int64, w: Int64) -> Int64:
    """Exact x @ w in int64: x [m, k], w [k, n] -> [m, n].

    Uses float64 BLAS when the bound max|x| * max_n sum_k |w| < 2**53 makes that exact, else integer arithmetic.
    """
    if x.size == 0 or w.size == 0:
        return np.zeros((x.shape[0], w.shape[1]), np.int64)
    bound = int(np.abs(x).max()) * int(np.abs(w).sum(axis=0).max())
    if bound < 1 << 53:
        return (x.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
    return x @ w


def grouped_matmul(x: Int64, w: Int64, scale: Int64, zero: Int64, rows: int) -> Int64:
    """Sum over K-groups of (x_g @ w_g - zero_g * sum(x_g)) * scale_g, exact in int64.

    Args:
        x: [m, k].
        w: codes [k, n].
        scale: unsigned 8-bit group scales [ceil(k/rows), n].
        zero: signed 8-bit zero points [ceil(k/rows), n].
        rows: rows of a group.
    """
    total = np.zeros((x.shape[0], w.shape[1]), np.int64)
    for g in range(scale.shape[0]):
        part = slice(g * rows, (g + 1) * rows)
        sums = x[:, part].sum(axis=1, keepdims=True)
        total += (matmul(x[:, part], w[part]) - zero[g] * sums) * scale[g]
    return total


@register_jitable
def normalise(acc: Int64, bias: Int64, multiplier: Int64, bias_shift: int) -> Int64:
    """(acc + (bias << bias_shift)) * multiplier: the accumulator in units of 2**-shift of the output step.

    Args:
        acc: accumulators, int64 [..., n].
        bias: s32 [n].
        multiplier: u16 [n].
        bias_shift: 0..15.
    """
    return (acc + (bias << np.int64(bias_shift))) * multiplier


def requantize(
    acc: Int64,
    bias: Int64,
    m1: Int64,
    shift: Int64,
    *,
    acc2: Int64 | None = None,
    m2: Int64 | None = None,
    exponent: Int64 | None = None,
    mantissa: Int64 | None = None,
    token_shift: Int64 | None = None,
    bias_shift: int = 0,
    bias_end: bool = False,
    guard: int = 0,
    zero_point: int = 0,
    bits: int = 8,
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Accumulators to codes (VREQ of docs/isa.md); base and adapter join in one 64-bit sum that is rounded once.

    Args:
        acc: base accumulators [t, n].
        bias: s32, [n] or [t, n].
        m1: u16, [n] or [t, n].
        shift: 1..62, [n].
        acc2: adapter accumulators [t, n], or None; m2 and exponent go with it.
        m2: u16 of the adapter, [n] or [t, n] (0 where a token has no adapter).
        exponent: e_u of each token [t, 1], 0..25.
        mantissa: u16 of each token [t, 1], or None: no token scale.
        token_shift: 1..62 of each token [t, 1].
        bias_shift: left shift of the bias.
        bias_end: the bias is added after the token scale instead of to the accumulator.
        guard: bits dropped in the last rounding.
        zero_point: added after it.
        bits: 8, 16 or 32, of the result.

    Returns:
        codes [t, n] as int64, and where a clamp changed the value.
    """
    low: tuple[Value, Value, Value] = (0, 0, 0) if acc2 is None or m2 is None or exponent is None else (acc2, m2, exponent)
    scaled = mantissa is not None and token_shift is not None
    scale: tuple[Value, Value] = (mantissa, token_shift) if scaled else (0, 1)
    factors = acc, bias, m1, shift, *low
    return requantize_element(*factors, scaled, *scale, bias_shift, bias_end, guard, zero_point, bits)


@register_jitable
def requantize_element(
    acc: Value,
    bias: Value,
    m1: Value,
    shift: Value,
    acc2: Value,
    m2: Value,
    exponent: Value,
    scaled: bool,
    mantissa: Value,
    token_shift: Value,
    bias_shift: int,
    bias_end: bool,
    guard: int,
    zero_point: Value,
    bits: int,
) -> tuple[Value, Any]:
    """`requantize` of arrays or of one element; without an adapter m2 is 0, without a token scale `scaled` is false."""
    late = bias << np.int64(bias_shift) if bias_end else bias * 0
    raw = rounding_shift(normalise(acc, bias * 0 if bias_end else bias, m1, bias_shift) + ((acc2 * m2) << exponent), shift)
    value = saturate32(raw)
    changed = value != raw
    if scaled:
        raw = rounding_shift(value * mantissa, token_shift)
        value = saturate32(raw)
        changed = changed | (value != raw)
    raw = rounding_shift(value + late, np.int64(guard)) + np.int64(zero_point)
    code = saturate(raw, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return code, changed | (code != raw)


def block_quantize(
    acc: Int64, bias: Int64, multiplier: Int64, shift: Int64, bias_shift: int, bits: int
) -> tuple[Int64, Int64, npt.NDArray[np.bool_]]:
    """Per-token block floating point (VQT of docs/isa.md): x.A to codes that share a power of two per token.

    Args:
        acc: accumulators [t, n]. bias, multiplier, shift: records [n]. bits: activation bits, 8 or 16.

    Returns:
        codes [t, n], exponents [t, 1] (value = code * 2**exponent), and where the 32-bit clamp changed the value.
    """
    a, b, m, s = (np.ascontiguousarray(given, np.int64) for given in (acc, bias, multiplier, shift))
    return _block_quantize(a, b, m, s, bias_shift, bits)


@cached
def _block_quantize(
    acc: Int64, bias: Int64, multiplier: Int64, shift: Int64, bias_shift: int, bits: int
) -> tuple[Int64, Int64, npt.NDArray[np.bool_]]:
    codes, exponents, changed = np.empty_like(acc), np.empty((len(acc), 1), np.int64), np.empty(acc.shape, np.bool_)
    for t in range(len(acc)):
        exponents[t, 0] = block_quantize_token(acc[t], bias, multiplier, shift, bias_shift, bits, codes[t], changed[t])
    return codes, exponents, changed


@register_jitable
def block_quantize_token(
    acc: Int64,
    bias: Int64,
    multiplier: Int64,
    shift: Int64,
    bias_shift: int,
    bits: int,
    codes: Int64,
    changed: npt.NDArray[np.bool_],
) -> int:
    """`block_quantize` of one token, each array of [n]: writes codes and changed, and gives the exponent."""
    peak = np.int64(0)
    for n in range(len(acc)):
        raw = rounding_shift(normalise(acc[n], bias[n], multiplier[n], bias_shift), shift[n])
        codes[n] = saturate32(raw)
        changed[n] = codes[n] != raw
        peak = max(peak, abs(codes[n]))
    exponent = max(bit_length(peak) - (bits - 1), 0)
    high = (1 << (bits - 1)) - 1
    for n in range(len(acc)):
        codes[n] = saturate(rounding_shift(codes[n], exponent), -high, high)
    return exponent


@register_jitable
def bit_length(value: Value) -> int:
    """Bits of a non-negative int64; 0 for 0."""
    length = 0
    while value >> length and length < 63:
        length += 1
    return length


def quantize_scale(scale: float) -> tuple[int, int]:
    """A positive real as u16 mantissa and shift: scale ~ mantissa / 2**shift, mantissa in [2**15, 2**16), 1 <= shift <= 62.

    Relative error at most 2**-16. Scales too small for shift 62 lose mantissa bits; 0 if below 2**-63.

    Raises:
        ValueError: not finite, not positive, or 2**15 and above.
    """
    if not np.isfinite(scale) or scale <= 0 or scale >= 1 << 15:
        raise ValueError(f"scale {scale} is not in (0, 32768)")
    _, exponent = np.frexp(scale)
    shift = min(16 - int(exponent), 62)
    mantissa = int(np.rint(np.ldexp(scale, shift)))
    if mantissa == 1 << 16:
        mantissa, shift = mantissa >> 1, shift - 1
    return mantissa, shift


def quantize_real(
    value: npt.NDArray[np.float32], scale: float, zero_point: int, bits: int
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Float to codes: clamp(rint(value / scale) + zero_point), in single precision as ONNX QuantizeLinear does.

    Args:
        value: float32, any shape.
        scale: of a code; positive.
        zero_point: the code of 0.0.
        bits: 8 or 16, signed codes.

    Returns:
        codes, and where the clamp changed the value.
    """
    codes = np.rint(value.astype(np.float32) / np.float32(scale)).astype(np.float64) + zero_point
    clamped = np.clip(codes, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return clamped.astype(np.int64), clamped != codes


def dequantize(codes: Int64, scale: float, zero_point: int) -> npt.NDArray[np.float32]:
    """Codes to float32: (code - zero_point) * scale, as ONNX DequantizeLinear does."""
    return (codes - zero_point).astype(np.float32) * np.float32(scale)


def quantize_scales(scale: npt.NDArray[np.float64]) -> tuple[Int64, Int64]:
    """`quantize_scale` of every element, clamped to what a token word holds; 0 becomes a small one."""
    held = np.minimum(scale, 65535 / 2)
    _, exponent = np.frexp(held)
    shift = np.clip(16 - exponent.astype(np.int64), 1, 62)
    mantissa = np.rint(np.ldexp(held, shift)).astype(np.int64)
    carry = (mantissa == 1 << 16) & (shift > 1)
    mantissa, shift = np.where(carry, mantissa >> 1, mantissa), np.where(carry, shift - 1, shift)
    return np.clip(mantissa, 1, (1 << 16) - 1), shift


def quantize_tokens(value: npt.NDArray[np.float32], bits: int, offset: bool = False) -> tuple[Int64, Int64, Int64, Int64]:
    """Float rows to codes with a scale a row, rounded to a token word's mantissa and shift, and an offset a row.

    Without offset the scale is absmax / high, high = 2**(bits-1) - 1. With it the range that the codes span is that of the row
    and zero, (max - min) / (2 high), and zero still has a code: -offset.

    Args:
        value: float32 [t, k], finite.
        bits: 8 or 16.
        offset: asymmetric.

    Returns:
        codes [t, k]; offset, mantissa and shift, each [t, 1]: value ~ (code + offset) * mantissa / 2**(shift + bits - 8).
    """
    high = (1 << (bits - 1)) - 1
    most = value.max(axis=1, keepdims=True, initial=0).astype(np.float64)
    least = value.min(axis=1, keepdims=True, initial=0).astype(np.float64)
    peak = (most - least) / 2 if offset else np.maximum(most, -least)
    mantissa, shift = quantize_scales(np.ldexp(peak / high, bits - 8))
    scale = np.ldexp(mantissa.astype(np.float64), -(shift + bits - 8))
    middle = np.rint((most + least) / (2 * scale)) if offset else np.zeros_like(scale)
    middle = np.clip(middle, -high, high)
    return np.clip(np.rint(value / scale) - middle, -high, high).astype(np.int64), middle.astype(np.int64), mantissa, shift


def map_rows(
    function: Map,
    a: Int64,
    b: Int64,
    *,
    ca: int = 1,
    cb: int = 0,
    shift: Int64 | int = 0,
    factor: Int64 | int = 0,
    less: Int64 | int = 0,
    low: int = 0,
    step: int = 0,
    table: Int64 | None = None,
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """One VMAP before masks and its last clamp (docs/isa.md): y = sat32(rne(p, shift) + base) with a' = sat32(a - less).

    MAC: p = a' ca + b cb. MUL: p = a' b. SCALE: p = a' factor. TABLE: with d = a' - low, i = clamp(d >> step, 0, last) and
    f = sat32(d - (i << step)), p = slope_i f and base = base_i: a straight line in each of the table's intervals.

    Args:
        a, b: s32 [rows, n].
        ca, cb: s16.
        shift: 0..63, for all or [rows, 1].
        factor, less: s32, for all or [rows, 1].
        low: s32, where the table begins. step: 0..31, log2 of an interval's width.
        table: [entries, 2], base and slope, s32.

    Returns:
        y [rows, n], and where the last saturation changed it.
    """
    held = NO_TABLE if table is None else table
    y, raw = map_element(function, a, b, ca, cb, shift, factor, less, low, step, held)
    return y, y != raw


NO_TABLE: Int64 = np.zeros((1, 2), np.int64)
"""What `map_element` takes of functions but TABLE."""


@register_jitable
def map_element(
    function: int,
    a: Value,
    b: Value,
    ca: Value,
    cb: Value,
    shift: Value,
    factor: Value,
    less: Value,
    low: Value,
    step: int,
    table: npt.NDArray[Any],
) -> tuple[Value, Value]:
    """`map_rows` of arrays or of one element: y, and y before its last saturation."""
    x = saturate32(a - less)
    if function == Map.TABLE:
        distance = x - low
        index = saturate(distance >> step, 0, len(table) - 1)
        product = table[index, 1] * saturate32(distance - (index << step))
        raw = rounding_shift(product, shift) + table[index, 0]
    else:
        if function == Map.MAC:
            product = x * ca + b * cb
        elif function == Map.MUL:
            product = x * b
        else:
            product = x * factor
        raw = rounding_shift(product, shift)
    return saturate32(raw), raw


@register_jitable
def clamp_bytes(y: Int64, size: int) -> Int64:
    """Clamp to +-(2**(8*size - 1) - 1): codes of `size` bytes that are symmetric about zero."""
    high = (1 << (8 * size - 1)) - 1
    clamped: Int64 = saturate(y, -high, high)
    return clamped


def reduce_rows(reduction: Reduce, y: Int64, valid: npt.NDArray[np.bool_]) -> Int64:
    """SUM, MAX or ABSMAX of the valid elements of each row of [rows, n] (64 bits); MAX of none is -2**31, the others' 0."""
    found: Int64 = _reduce_rows(int(reduction), np.ascontiguousarray(y, np.int64), np.ascontiguousarray(valid))
    return found


@register_jitable
def reduce_element(reduction: int, before: Value, y: Value) -> Value:
    """`reduce_rows` goes on by one element."""
    if reduction == Reduce.SUM:
        return before + y
    return max(before, y if reduction == Reduce.MAX else abs(y))


@register_jitable
def reduce_none(reduction: int) -> int:
    """`reduce_rows` of no element."""
    return -(1 << 31) if reduction == Reduce.MAX else 0


@cached
def _reduce_rows(reduction: int, y: Int64, valid: npt.NDArray[np.bool_]) -> Int64:
    found = np.full(len(y), reduce_none(reduction), np.int64)
    for r in range(len(y)):
        for n in range(y.shape[1]):
            if valid[r, n]:
                found[r] = reduce_element(reduction, found[r], y[r, n])
    return found


@dataclass(frozen=True)
class RowScalar:
    """What VROW leaves of one row: y = rne(a * factor, shift) multiplies by it; `value` is what it was made of.

    Attributes:
        factor: s32. shift: 0..63.
        value: s32, to OBUF.
        mantissa, token_shift: of the token's scale (TOKEN only).
    """

    factor: int
    shift: int
    value: int
    mantissa: int = 0
    token_shift: int = 1


def row_scalar(function: Row, reduced: int, factor: int, add: int, shift: int, adjust: int = 0, token: int = 0) -> RowScalar:
    """One row of VROW: v = rne(R * factor, shift) + add, then a function of it (docs/isa.md).

    COPY gives v itself. The others take u = max(v, 1) and give a 31-bit m and a shift with m / 2**shift = 2**adjust / u
    (RECIPROCAL), 2**adjust / sqrt(u) (RSQRT): the quotient (2**62 - 1) // n of a normalised n in [2**31, 2**32), so its
    relative error is below 2**-29. TOKEN rounds u to a 16-bit mantissa first; its scale is u * 2**-token, as in a token word.

    Args:
        reduced: R, s64; R * factor must fit 64 bits.
        factor: u16. add: u16. shift: 0..63. adjust, token: s8.
    """
    return RowScalar(*row_scalar_element(int(function), reduced, factor, add, shift, adjust, token))


@cached
def row_scalar_element(
    function: int, reduced: Value, factor: Value, add: Value, shift: Value, adjust: Value, token: Value
) -> tuple[int, int, int, int, int]:
    """`row_scalar` of int64s, compiled: the members of a `RowScalar` in their order."""
    v = rounding_shift(np.int64(reduced) * factor, shift) + add
    value = saturate32(v)
    if function == Row.COPY:
        return value, 0, value, 0, 1
    u: Value = max(v, 1)
    length = bit_length(u)
    if function == Row.RSQRT:
        k = (64 - length) >> 1
        n: Value = np.int64(_square_root(np.uint64(u) << np.uint64(2 * k)))
    else:
        k = 32 - length
        n = u << k if k >= 0 else u >> -k
    mantissa: Value = np.int64(0)
    if function == Row.TOKEN:
        mantissa = (n + (1 << 15)) >> 16
        if mantissa == 1 << 16:
            mantissa, k = np.int64(1 << 15), k - 1
        n = mantissa << 16
    m = ((1 << 62) - 1) // n
    held = max(0, min(63, 62 - k - adjust))
    return m, held, value, mantissa, max(1, min(62, k + token - 16))


@register_jitable
def _square_root(n: np.uint64) -> np.uint64:
    """Integer square root, rounded down: that of the nearest float64 is at most one off."""
    one, top = np.uint64(1), np.uint64(0xFFFFFFFF)
    root = min(np.uint64(np.sqrt(np.float64(n))), top)
    if root * root > n:
        return root - one
    if root < top and (root + one) * (root + one) <= n:
        return root + one
    return root
