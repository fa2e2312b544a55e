"""Tables of straight lines: each function's error is the chord's, and rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.functions import OWN_ERROR, own_bound, own_function, real
from axlora.compiler.operators import Function
from axlora.compiler.rows.fractions import EXP_FRACTION, SCORE_FRACTION, TABLE_FRACTION
from axlora.compiler.rows.row_operations import Table
from axlora.compiler.rows.tables import EXP_INTERVALS, EXP_LOW, INTERVALS, exp_table, function_table, nearest_fraction
from axlora.isa import numerics
from axlora.isa.opcodes import Map

KINKS = {Function.RELU: (0.0,), Function.HARD_SWISH: (-3.0, 3.0)}
"""Where a function's slope jumps."""
ROUNDING = 1.01
"""Steps of the result: half of one for a record's base and for the product, little for the slope."""


def _through(table: Table, x: np.ndarray) -> np.ndarray:
    y, _ = numerics.map_rows(
        Map.TABLE, x[None], x[None], low=table.low, step=table.step, shift=table.shift, table=table.records
    )
    return y[0]


@pytest.mark.parametrize("fx", [18, 12, 7])
@pytest.mark.parametrize("function", list(Function))
def test_error_of_each_function_is_the_chords_and_rounding(function: Function, fx: int) -> None:
    """h^2 / 16 max|f''| over every interval, f'' by differences of the function itself."""
    table, fy = function_table(function, fx, TABLE_FRACTION), TABLE_FRACTION
    bound = -table.low / 2**fx
    h = 2 * bound / INTERVALS
    assert h == 2.0 ** (table.step - fx)
    x = np.unique(np.rint(np.linspace(-bound, bound, 200_001) * 2**fx).astype(np.int64))
    x = x[:-1]  # up to, not at, the bound
    got, wanted = np.ldexp(_through(table, x).astype(float), -fy), real(function, x / 2.0**fx)
    t, d = np.linspace(-bound, bound, 100_001), 1e-3
    for kink in KINKS.get(function, ()):
        assert (kink / h).is_integer()  # at an edge: the lines meet there
        t = t[np.abs(t - kink) > 2 * d]
    bend = np.abs(real(function, t + d) - 2 * real(function, t) + real(function, t - d)).max() / d**2
    chord = h**2 / 16 * bend if bend > 1e-6 else 0  # of straight lines the differences are noise
    assert np.abs(got - wanted).max() <= 1.02 * chord + ROUNDING * 2.0**-fy
    assert np.abs(got - wanted).max() >= 0.5 * chord  # the bound is not idle


@pytest.mark.parametrize("function", list(Function))
def test_beyond_the_table_the_outer_lines_go_on(function: Function) -> None:
    """To +-2^13, within 2^-17 of the function: flat, or with a slope of exactly one."""
    table = function_table(function, TABLE_FRACTION, TABLE_FRACTION)
    bound = -table.low / 2.0**TABLE_FRACTION
    far = np.concatenate([np.linspace(bound, 8191, 1001), -np.linspace(bound, 8191, 1001)])
    x = np.rint(np.ldexp(far, TABLE_FRACTION)).astype(np.int64)
    with np.errstate(over="ignore"):
        wanted = real(function, x / 2.0**TABLE_FRACTION)
    got = np.ldexp(_through(table, x).astype(float), -TABLE_FRACTION)
    assert np.abs(got - wanted).max() <= 2.0**-17


COMPOSED: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "leaky": lambda x, c: np.where(x < 0, c * x, x),
    "elu": lambda x, c: np.where(x < 0, c * np.expm1(np.minimum(x, 0)), x),
    "clip": lambda x, c: np.clip(x, -1, np.ceil(8 * c) / 8),
    "swish": lambda x, c: x / (1 + np.exp(-(1 + c) * x)),
    "softplus": lambda x, c: c * np.logaddexp(0, x),
    "line": lambda x, c: c * x - 3 * c,
}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(COMPOSED)), st.floats(0.05, 1.0))
def test_tables_of_composed_functions(kind: str, c: float) -> None:
    """To +-2^13: within `OWN_ERROR` of the largest on -8..8, and of the function where that is more than 1."""

    def of(x: np.ndarray) -> np.ndarray:
        return COMPOSED[kind](x, c)

    bound = own_bound(of)
    assert bound is not None
    table = function_table(own_function("own", of, bound), TABLE_FRACTION, TABLE_FRACTION)
    far = np.geomspace(1e-3, 8191, 20_001)
    x = np.rint(np.ldexp(np.concatenate([far, -far]), TABLE_FRACTION)).astype(np.int64)
    with np.errstate(over="ignore"):
        wanted, size = of(x / 2.0**TABLE_FRACTION), np.abs(of(np.linspace(-8, 8, 161))).max()
    error = np.abs(np.ldexp(_through(table, x).astype(float), -TABLE_FRACTION) - wanted)
    assert (error <= 1.05 * OWN_ERROR * np.maximum(min(1, size), np.abs(wanted)) + 2.0**-17).all()


@pytest.mark.parametrize("of", [np.exp, np.sin, np.square, np.sign, np.floor, np.log, np.sqrt, np.reciprocal])
def test_what_straight_lines_are_not_near_has_no_table(of: Callable[[np.ndarray], np.ndarray]) -> None:
    assert own_bound(of) is None


@pytest.mark.parametrize(("limit", "taken"), [(0.3, False), (0.3125, True), (5.99, False), (6.0, True)])
def test_slopes_jump_at_edges_of_the_lines_alone(limit: float, taken: bool) -> None:
    """Every 1/32: a jump between two edges is off by up to a quarter of that."""
    assert (own_bound(lambda x: np.clip(x, -limit, limit)) is not None) == taken


def test_exp_is_exactly_one_at_zero_and_zero_below_its_end() -> None:
    table = exp_table(SCORE_FRACTION, EXP_FRACTION)
    assert _through(table, np.array([0])).tolist() == [1 << EXP_FRACTION]
    end = int(EXP_LOW * 2**SCORE_FRACTION)
    below = np.array([end - 1, end - 12345, 2 * end, -(2**31) + 1, end])
    assert _through(table, below).tolist() == [0] * 5
    assert len(table.records) == EXP_INTERVALS + 1


def test_exp_error_is_the_chords() -> None:
    """h^2 / 16 e^x an interval, largest at 0; below one interval from its end it is 0, at most e^-15.9 off."""
    table = exp_table(SCORE_FRACTION, EXP_FRACTION)
    h = -EXP_LOW / EXP_INTERVALS
    x = np.unique(np.rint(np.linspace(EXP_LOW, 0, 200_001) * 2**SCORE_FRACTION).astype(np.int64))
    real_x = x / 2.0**SCORE_FRACTION
    error = np.abs(np.ldexp(_through(table, x).astype(float), -EXP_FRACTION) - np.exp(real_x))
    allowed = h**2 / 16 * np.exp(real_x + h) + ROUNDING * 2.0**-EXP_FRACTION
    assert (error <= np.where(real_x < EXP_LOW + h, np.exp(EXP_LOW + h), allowed)).all()


def test_exp_never_falls() -> None:
    """Weights keep the order of their scores, across every edge of an interval."""
    table = exp_table(SCORE_FRACTION, EXP_FRACTION)
    edges = np.arange(EXP_INTERVALS + 1)[:, None] * (1 << table.step) + np.arange(-3, 4)[None] + table.low
    y = _through(table, np.minimum(edges, 0).reshape(-1))
    step = np.diff(y.reshape(-1, 7), axis=1)
    assert step.min() >= -(2**EXP_FRACTION) * 2 * (2.0**-4) ** 2 / 16  # the half chord that a line is moved by


@pytest.mark.parametrize("fx", [-8, 3, 18, 26, 40])
def test_any_fraction_is_brought_to_one_that_a_table_takes(fx: int) -> None:
    for function in [*Function, own_function("own", np.sin, 32.0)]:
        near = nearest_fraction(function, fx)
        table = function_table(function, near, TABLE_FRACTION)
        assert near == fx or (near > fx) == (fx < 18)
        assert 0 <= table.step <= 31
        assert -(2**31) <= table.low < 0
        assert near < 18 or near == fx or table.low == -(2**30)
        assert near >= 18 or near == fx or table.step == 0


@pytest.mark.parametrize(("fx", "fy"), [(18, 18), (5, 30), (27, 2), (7, 0)])
def test_slopes_fit_their_record(fx: int, fy: int) -> None:
    for table in [*(function_table(f, fx, fy) for f in Function), exp_table(fx, fy)]:
        assert 0 <= table.step <= 31
        assert 0 <= table.shift <= 63
        assert np.abs(table.records[:, 1]).max() < 2**31
