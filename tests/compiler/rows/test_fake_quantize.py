"""Q/DQ pairs in row operations: the codes are those of exact arithmetic, at every boundary; zero stays zero."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from axlora.compiler.operators import Quantization
from axlora.compiler.rows.fractions import fraction, held_zero
from axlora.compiler.rows.row_operations import Table
from axlora.compiler.rows.tables import clamp_table, steps_table
from axlora.isa import numerics
from axlora.isa.opcodes import Map

SLOPE = 2.0**-29
"""Largest relative error of a slope of 30 bits: half a unit of 2**29 and more, and what a product's rounding adds to it."""


def _through(table: Table, x: np.ndarray) -> np.ndarray:
    y, _ = numerics.map_rows(
        Map.TABLE, x[None], x[None], low=table.low, step=table.step, shift=table.shift, table=table.records
    )
    return y[0]


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Quantization, int]:
    """Codes, and a fraction at which a step is 2**12 units and more, as `fraction` leaves to every value that they bound."""
    bits = draw(st.sampled_from([8, 16]))
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    scale = float(np.float32(draw(st.floats(2.0**-20, 2.0**8))))
    codes = Quantization(scale, draw(st.one_of(st.sampled_from([low, 0, high]), st.integers(low, high))), low, high)
    return codes, fraction(codes.largest) - draw(st.integers(0, 3))


def _around(codes: Quantization, fx: int, beyond: int) -> np.ndarray:
    """Fixed-point numbers on both sides of boundaries between codes, of all that 8 bits have and of some of 16."""
    first, last = codes.low - codes.zero - beyond, codes.high - codes.zero + beyond
    edges = np.unique(np.linspace(first, last, 600).astype(np.int64)) + 0.5
    middle = np.floor(np.ldexp(edges * codes.scale, fx)).astype(np.int64)
    return np.unique(np.concatenate([middle + n for n in (-700, -1, 0, 1, 2, 700)] + [np.zeros(1, np.int64)]))


@settings(deadline=None, max_examples=60)
@given(_pairs())
def test_codes_are_exact_but_for_a_band_about_the_boundaries(pair: tuple[Quantization, int]) -> None:
    """Values too: of the codes, within a unit and what the slope's bits leave; exactly 0 at the zero point; ends clamped."""
    codes, fx = pair
    fy = fraction(codes.largest)
    x = _around(codes, fx, 40)
    steps = _through(steps_table(codes, fx), x)
    y = _through(clamp_table(codes, fy), steps)
    for number, step, value in zip(x.tolist(), steps.tolist(), y.tolist(), strict=True):
        exact = Fraction(number) / (Fraction(codes.scale) * Fraction(2) ** fx)
        to_boundary = abs(exact - (exact.__floor__() + Fraction(1, 2)))
        if to_boundary > (abs(exact) + 1) * SLOPE:
            assert step == round(exact)
        else:
            assert abs(step - exact) < 0.5 + (abs(exact) + 1) * SLOPE
        code = min(max(step + codes.zero, codes.low), codes.high)
        wanted = np.ldexp((code - codes.zero) * codes.scale, fy)
        assert abs(value - wanted) <= 1.5 + abs(wanted) * SLOPE
        assert code != codes.zero or value == 0


@settings(deadline=None, max_examples=60)
@given(_pairs(), st.sampled_from([8, 16]))
def test_linears_get_the_codes_back(pair: tuple[Quantization, int], bits: int) -> None:
    """Of the value, and of what is not rounded yet: all codes, but for one end where they fill the bits."""
    codes, fx = pair
    assume(codes.bits <= bits)
    fy, zero = fraction(codes.largest), held_zero(codes, bits)
    x = _around(codes, fx, 3)
    steps = _through(steps_table(codes, fx), x)
    code = np.clip(steps + codes.zero, codes.low, codes.high)
    value = _through(clamp_table(codes, fy), steps)
    held = numerics.clamp_bytes(_through(steps_table(codes, fy, zero), value), bits // 8)
    kept = code != (codes.low if codes.zero >= 0 else codes.high) if codes.bits == bits else np.ones(code.shape, np.bool_)
    np.testing.assert_array_equal((held - zero)[kept], (code - codes.zero)[kept])
    assert np.abs((held - zero) - (code - codes.zero)).max() <= 1
    if codes.bits == bits:
        np.testing.assert_array_equal(numerics.clamp_bytes(_through(steps_table(codes, fx, zero), x), bits // 8), held)


def test_steps_beyond_the_range_leave_a_scale_of_any_size() -> None:
    """A slope that needs more than 31 bits is the largest there is: all but 0 is beyond the codes then too."""
    codes = Quantization(2.0**-40, 0, -128, 127)
    np.testing.assert_array_equal(np.abs(_through(steps_table(codes, 4), np.array([-1, 0, 1]))) > 127, [True, False, True])
