"""Integer semantics of VMAP and VROW against Python integers and exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from axlora.isa import numerics
from axlora.isa.opcodes import Map, Reduce, Row

TOP = 2**31 - 1
ENDS = [TOP, -TOP, -(2**31), 0, 1, -1]
WORD = st.one_of(st.sampled_from(ENDS), st.integers(-(2**31), TOP))
"""What a word of VBUF or CBUF may hold: CBUF also -2^31, which no saturated result is."""
HALF = st.one_of(st.sampled_from([-(2**15), 2**15 - 1, 0, 1, -1]), st.integers(-(2**15), 2**15 - 1))
SHIFT = st.one_of(st.sampled_from([0, 1, 31, 62, 63]), st.integers(0, 63))


def _array(values: object) -> np.ndarray:
    return np.array(values, np.int64)


def _saturated(value: int) -> int:
    return max(-TOP, min(TOP, value))


def _rounded(value: int, shift: int) -> int:
    return round(Fraction(value, 1 << shift))  # Fraction rounds half to even


def _map(function: Map, a: int, b: int, **settings: object) -> tuple[int, bool]:
    y, changed = numerics.map_rows(function, _array([[a]]), _array([[b]]), **settings)  # type: ignore[arg-type]
    return int(y[0, 0]), bool(changed[0, 0])


def _expected(product: int, shift: int, base: int = 0) -> tuple[int, bool]:
    raw = _rounded(product, shift) + base
    return _saturated(raw), raw != _saturated(raw)


@given(WORD, WORD, HALF, HALF, SHIFT, WORD)
@example(-(2**31), -(2**31), -(2**15), -(2**15), 0, 0)
@example(-(2**31), 0, 1, 0, 63, TOP)
def test_mac_is_the_rounded_sum_of_two_products(a: int, b: int, ca: int, cb: int, shift: int, less: int) -> None:
    got = _map(Map.MAC, a, b, ca=ca, cb=cb, shift=shift, less=less)
    assert got == _expected(_saturated(a - less) * ca + b * cb, shift)


@given(WORD, WORD, SHIFT, WORD)
@example(-(2**31), -(2**31), 0, 0)
@example(-(2**31), -(2**31), 63, 0)
def test_mul_is_the_rounded_product(a: int, b: int, shift: int, less: int) -> None:
    assert _map(Map.MUL, a, b, shift=shift, less=less) == _expected(_saturated(a - less) * b, shift)


@given(WORD, st.one_of(st.sampled_from(ENDS), st.integers(-TOP, TOP)), SHIFT, WORD)
@example(-(2**31), TOP, 63, TOP)
def test_scale_multiplies_by_the_rows_own_factor(a: int, factor: int, shift: int, less: int) -> None:
    """Each row has its own; here the row asked for stands between two others."""
    column = _array([[5], [factor], [-7]])
    shifts = _array([[3], [shift], [0]])
    y, changed = numerics.map_rows(
        Map.SCALE, _array([[1], [a], [2]]), _array([[0]] * 3), factor=column, shift=shifts, less=_array([[0], [less], [0]])
    )
    assert (int(y[1, 0]), bool(changed[1, 0])) == _expected(_saturated(a - less) * factor, shift)
    assert [int(y[0, 0]), int(y[2, 0])] == [_rounded(5, 3), -14]


@st.composite
def _tables(draw: st.DrawFn) -> list[tuple[int, int]]:
    return draw(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=5))


@given(WORD, WORD, WORD, st.integers(0, 31), SHIFT, _tables())
@example(TOP, 0, -(2**31), 0, 0, [(TOP, TOP)])
@example(-(2**31), TOP, TOP, 31, 63, [(-(2**31), -(2**31))])
def test_table_is_the_line_of_the_elements_interval(
    a: int, less: int, low: int, step: int, shift: int, records: list[tuple[int, int]]
) -> None:
    """Below the first interval and beyond the last, their lines go on."""
    got = _map(Map.TABLE, a, 0, less=less, low=low, step=step, shift=shift, table=_array(records))
    distance = _saturated(a - less) - low
    index = max(0, min(len(records) - 1, math.floor(Fraction(distance, 1 << step))))
    base, slope = records[index]
    assert got == _expected(slope * _saturated(distance - (index << step)), shift, base)


@given(st.lists(WORD, min_size=1, max_size=8), st.sampled_from([1, 2, 4]))
def test_clamp_bytes_is_symmetric(values: list[int], size: int) -> None:
    top = 2 ** (8 * size - 1) - 1
    assert numerics.clamp_bytes(_array(values), size).tolist() == [max(-top, min(top, v)) for v in values]


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 9))
def test_reductions_take_the_valid_elements_only(seed: int, rows: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.where(rng.random((rows, n)) < 0.3, rng.choice(ENDS, (rows, n)), rng.integers(-TOP, TOP, (rows, n)))
    valid = rng.random((rows, n)) < 0.6
    kept = [[int(v) for v, ok in zip(row, oks, strict=True) if ok] for row, oks in zip(y, valid, strict=True)]
    assert numerics.reduce_rows(Reduce.SUM, y, valid).tolist() == [sum(k) for k in kept]
    assert numerics.reduce_rows(Reduce.MAX, y, valid).tolist() == [max(k, default=-(2**31)) for k in kept]
    assert numerics.reduce_rows(Reduce.ABSMAX, y, valid).tolist() == [max(map(abs, k), default=0) for k in kept]


@pytest.mark.parametrize(("reduction", "empty"), [(Reduce.SUM, 0), (Reduce.MAX, -(2**31)), (Reduce.ABSMAX, 0)])
def test_a_row_with_no_valid_element_keeps_the_start_value(reduction: Reduce, empty: int) -> None:
    y = _array([[5, -TOP, TOP], [1, 1, 1]])
    assert numerics.reduce_rows(reduction, y, np.zeros(y.shape, bool)).tolist() == [empty, empty]
    assert numerics.reduce_rows(reduction, y[:, :0], np.zeros((2, 0), bool)).tolist() == [empty, empty]


@pytest.mark.parametrize("value", [TOP, -TOP, 0, -1, 77])
def test_rows_whose_elements_are_equal(value: int) -> None:
    y, valid = np.full((2, 1000), value, np.int64), np.ones((2, 1000), bool)
    assert numerics.reduce_rows(Reduce.SUM, y, valid).tolist() == [1000 * value] * 2
    assert numerics.reduce_rows(Reduce.MAX, y, valid).tolist() == [value] * 2
    assert numerics.reduce_rows(Reduce.ABSMAX, y, valid).tolist() == [abs(value)] * 2


# VROW

REDUCED = st.one_of(
    st.sampled_from([0, 1, -1, TOP, -TOP, 2**46 - 1, -(2**46)]), st.integers(0, 2**46).map(lambda v: v >> (v % 47))
)
"""R * factor fits 64 bits: the largest sums are of 2^15 elements."""
FACTOR = st.one_of(st.sampled_from([0, 1, 65535]), st.integers(0, 65535))
ADD = st.one_of(st.sampled_from([0, 65535]), st.integers(0, 65535))
ADJUST = st.one_of(st.sampled_from([-128, 127, 0]), st.integers(-128, 127))
BOUND = Fraction(1, 2**29)


def _u(reduced: int, factor: int, add: int, shift: int) -> int:
    return max(_rounded(reduced * factor, shift) + add, 1)


@settings(deadline=None)  # the first call compiles
@given(REDUCED, FACTOR, ADD, SHIFT)
def test_copy_is_the_saturated_value(reduced: int, factor: int, add: int, shift: int) -> None:
    got = numerics.row_scalar(Row.COPY, reduced, factor, add, shift)
    value = _saturated(_rounded(reduced * factor, shift) + add)
    assert got == numerics.RowScalar(value, 0, value)


@settings(deadline=None)  # the first call compiles
@given(REDUCED, FACTOR, ADD, SHIFT, ADJUST)
@example(0, 1, 0, 0, 0)
@example(-5, 1, 0, 0, 0)
@example(2**46, 65535, 65535, 0, 0)
def test_reciprocal_is_within_2_to_the_minus_29(reduced: int, factor: int, add: int, shift: int, adjust: int) -> None:
    got = numerics.row_scalar(Row.RECIPROCAL, reduced, factor, add, shift, adjust)
    u = _u(reduced, factor, add, shift)
    assert 2**29 <= got.factor <= TOP
    assert got.value == _saturated(_rounded(reduced * factor, shift) + add)
    k = 32 - u.bit_length()
    assert got.shift == max(0, min(63, 62 - k - adjust))
    if 0 <= 62 - k - adjust <= 63:
        exact = Fraction(2) ** adjust / u
        assert abs(Fraction(got.factor, 1 << got.shift) - exact) < exact * BOUND


@settings(deadline=None)  # the first call compiles
@given(REDUCED, FACTOR, ADD, SHIFT, ADJUST)
@example(0, 1, 0, 0, 0)
@example(-(2**46), 65535, 0, 0, 0)
@example(2**46, 65535, 65535, 0, 0)
@example(2**32 - 1, 1, 0, 0, 0)
def test_rsqrt_is_within_2_to_the_minus_29(reduced: int, factor: int, add: int, shift: int, adjust: int) -> None:
    """(1 - 2^-29) < factor sqrt(u) / 2^(shift + adjust) < (1 + 2^-29), squared so that it stays rational."""
    got = numerics.row_scalar(Row.RSQRT, reduced, factor, add, shift, adjust)
    u = _u(reduced, factor, add, shift)
    k = (64 - u.bit_length()) // 2
    assert 2**29 <= got.factor <= TOP
    assert got.shift == max(0, min(63, 62 - k - adjust))
    if 0 <= 62 - k - adjust <= 63:
        squared = Fraction(got.factor**2 * u) / Fraction(4) ** (got.shift + adjust)
        assert (1 - BOUND) ** 2 < squared < (1 + BOUND) ** 2


@settings(deadline=None)  # the first call compiles
@given(REDUCED, FACTOR, SHIFT, ADJUST, st.integers(-128, 127))
@example(2**32 - 1, 1, 0, 0, 0)
@example(0, 1, 0, 0, 0)
@example(-9, 1, 0, 0, 0)
def test_token_rounds_u_to_a_mantissa_and_inverts_that(reduced: int, factor: int, shift: int, adjust: int, token: int) -> None:
    """The scale is the nearest 16-bit mantissa of u (of its top 32 bits), and the factor is the scale's own inverse."""
    got = numerics.row_scalar(Row.TOKEN, reduced, factor, 0, shift, adjust, token)
    u = _u(reduced, factor, 0, shift)
    assert 2**15 <= got.mantissa < 2**16
    # u in units of the mantissa: u * 2^(k - 16), k after the carry; the 32-bit cut adds less than 2^-16 of such a unit.
    k = 32 - u.bit_length()
    carried = got.mantissa == 2**15 and Fraction(u) * Fraction(2) ** (k - 16) > 2**15 + 1
    k -= carried
    assert abs(Fraction(u) * Fraction(2) ** (k - 16) - got.mantissa) <= Fraction(1, 2) + Fraction(1, 2**16)
    assert got.token_shift == max(1, min(62, k + token - 16))
    assert got.shift == max(0, min(63, 62 - k - adjust))
    if 0 <= 62 - k - adjust <= 63:
        held = Fraction(got.mantissa) / Fraction(2) ** (k - 16)
        exact = Fraction(2) ** adjust / held
        assert abs(Fraction(got.factor, 1 << got.shift) - exact) < exact * BOUND


@pytest.mark.parametrize("function", [Row.RECIPROCAL, Row.RSQRT, Row.TOKEN])
@pytest.mark.parametrize("reduced", [0, -1, -(2**46)])
def test_zero_and_negative_count_as_one(function: Row, reduced: int) -> None:
    """A row of zeros: the scale is finite and its codes come out zero."""
    got, one = (numerics.row_scalar(function, r, 1, 0, 0, 3, 20) for r in (reduced, 1))
    assert (got.factor, got.shift, got.mantissa, got.token_shift) == (one.factor, one.shift, one.mantissa, one.token_shift)
    assert got.value == max(reduced, -TOP)
    y, _ = numerics.map_rows(Map.SCALE, _array([[0]]), _array([[0]]), factor=got.factor, shift=got.shift)
    assert y[0, 0] == 0


def test_the_largest_products_wrap_at_64_bits() -> None:
    """R * factor beyond 64 bits wraps as the multiplier does; the compiler keeps away from it."""
    got = numerics.row_scalar(Row.COPY, 2**62, 4, 3, 0)
    assert got.value == 3
    assert numerics.row_scalar(Row.COPY, 2**62, 2, 0, 0).value == -TOP  # 2^63 is -2^63
    assert numerics.row_scalar(Row.RSQRT, 2**62, 1, 0, 0).factor == TOP  # sqrt(2^62) = 2^31, normalised as it is
