"""Each operator alone, on integers against its formula, over the magnitudes that models have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoder import partitioned

from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    Function,
    Mul,
    Norm,
    NormKind,
    Op,
    Positional,
    Rotary,
    RowScale,
    TopGates,
    Window,
)
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows import float_forms
from axlora.compiler.rows.fractions import fraction
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import read_region
from axlora.compiler.rows.tables import EXP_INTERVALS, EXP_LOW
from axlora.compiler.transformer import Lookup, Output, Transformer

Float64 = np.ndarray
EXPONENT = st.integers(-10, 10)
CHORD = (EXP_LOW / EXP_INTERVALS) ** 2 / 8
"""How far the straight lines of exp are from it, at most, where it is 1."""


def _model(x: Float64, *operators: Op) -> Transformer:
    return Transformer((Lookup("ids", x),), None, "x", operators, (Output("y", operators[-1].y),))


def _both(x: Float64, *operators: Op, largest: Mapping[str, float] | None = None) -> tuple[Float64, Float64]:
    """(integer, real) results of operators on rows x, scales from these very rows unless given."""
    model = _model(x, *operators)
    most = {
        name: float(peak.max()) for name, peak in float_forms.magnitudes(model, [float_forms.Sample(x, len(x))], {}).items()
    }
    most = most | dict(largest or {})
    rows = np.rint(np.ldexp(x, fraction(most["x"]))).astype(np.int64)
    reference = Reference({}, [None] * len(x), Cache(), 8, rows)
    _, fractions = lower(read_region(partitioned(model, {}, most, len(x)), []), reference, 8, len(x))
    return np.ldexp(reference.output.astype(float), -fractions[model.output]), float_forms.evaluate(model, x, {})[model.output]


def _error(got: Float64, wanted: Float64) -> float:
    """The largest error over the largest magnitude."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(NormKind)),
    st.sampled_from([8, 24, 100, 768, 4096]),
    EXPONENT,
    st.sampled_from([1e-12, 1e-6, 1e-5, 1e-3]),
    st.integers(0, 2**32 - 1),
)
def test_norms_over_all_magnitudes(kind: NormKind, n: int, exponent: int, eps: float, seed: int) -> None:
    """Rows of one magnitude with some outliers, gains from 0.1 to 3."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (3, n)) * 2.0**exponent
    x[:, 0] *= rng.choice([1, 10])
    bias = rng.normal(0, 0.3, n) if kind is NormKind.LAYER else None
    op = Norm("x", "y", kind, rng.uniform(0.1, 3, n), bias, eps)
    assert _error(*_both(x, op)) < 1e-4


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(list(NormKind)), st.integers(4, 9), st.integers(0, 2**32 - 1))
def test_norms_of_rows_far_below_the_largest(kind: NormKind, down: int, seed: int) -> None:
    """A row 2^-down of the largest keeps its own precision: activations of one sequence differ that much."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (2, 256))
    x[1] *= 2.0**-down
    got, wanted = _both(x, Norm("x", "y", kind, np.ones(256), None, 1e-6))
    assert _error(got[0], wanted[0]) < 1e-4
    assert _error(got[1], wanted[1]) < 2e-3


@pytest.mark.parametrize("kind", list(NormKind))
def test_norms_of_a_row_of_zeros_and_of_equal_elements(kind: NormKind) -> None:
    """Zeros give zeros; a variance of 0 gives the bias, not a quotient by 0."""
    x = np.concatenate([np.zeros((1, 40)), np.full((1, 40), 0.75), np.random.default_rng(0).normal(0, 1, (1, 40))])
    bias = np.linspace(-1, 1, 40) if kind is NormKind.LAYER else None
    got, wanted = _both(x, Norm("x", "y", kind, np.ones(40), bias, 1e-5))
    assert np.abs(got - wanted).max() < 2e-3


@settings(max_examples=100, deadline=None)
@given(st.integers(-4, 9), st.integers(0, 2**32 - 1))
def test_products_and_sums_of_unlike_magnitudes(exponent: int, seed: int) -> None:
    """x sigmoid(x), sums and differences of both: the second operand's fraction is the table's, up to 14 bits from x's."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (2, 33)) * 2.0**exponent
    gate = Apply("x", "s", Function.SIGMOID)
    sums = (Add("x", "s", "y"), Add("s", "x", "y"), Add("x", "s", "y", -1), Add("s", "x", "y", -1), Add("x", "x", "y", -1))
    for op in (Mul("x", "s", "y"), *sums):
        with np.errstate(over="ignore"):  # the real sigmoid of -2000
            got, wanted = _both(x, gate, op)
        assert np.abs(got - wanted).max() < 2e-4 * max(1.0, np.abs(wanted).max())


@settings(max_examples=100, deadline=None)
@given(EXPONENT, EXPONENT, st.sampled_from([0.0, 1e-3, 1.0, 100.0]), st.integers(0, 2**32 - 1))
def test_scales_and_shifts_over_all_magnitudes(exponent: int, gains: int, shift: float, seed: int) -> None:
    """Against what is added up, which the sum may be far below."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (3, 33)) * 2.0**exponent
    gain = rng.normal(0, 1, 33) * 2.0**gains
    bias = -shift * np.abs(x * gain).max() * rng.uniform(0.9, 1, 33)
    got, wanted = _both(x, Affine("x", "y", gain, bias))
    most = max(np.abs(x).max() * np.abs(gain).max(), np.abs(bias).max(), 2.0**-12)  # what lies below has no finer fraction
    assert np.abs(got - wanted).max() < 2.0**-25 * most


@settings(max_examples=50, deadline=None)
@given(EXPONENT, st.sampled_from([2, 6, 64, 128]), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_rotary_turns_pairs(exponent: int, dim: int, heads: int, seed: int) -> None:
    """First feature 3 on purpose: heads may lie within a packed projection."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (5, 3 + heads * dim)) * 2.0**exponent
    angle = rng.uniform(0, 7, (5, dim // 2))
    op = Rotary("x", "y", heads, dim, np.cos(angle), np.sin(angle), 3, dim)
    assert _error(*_both(x, op)) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-8, 6), st.integers(-8, 8), st.sampled_from([8, 16, 64]), st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_attention_over_magnitudes(qk: int, v: int, dim: int, heads: tuple[int, int], seed: int) -> None:
    """One packed value of q, k, v; scores from nearly equal to one that wins; error over the largest |v| as 8 bits give it."""
    rng = np.random.default_rng(seed)
    count, kv = heads
    x = rng.normal(0, 1, (9, (count + 2 * kv) * dim))
    x[:, : (count + kv) * dim] *= 2.0 ** (qk / 2)
    x[:, (count + kv) * dim :] *= 2.0**v
    op = Attention("x", "x", "x", "y", count, kv, dim, dim**-0.5, True, (0, count * dim, (count + kv) * dim), (dim,) * 3)
    got, wanted = _both(x, op)
    peak = np.abs(x[:, (count + kv) * dim :]).max()
    spread = 2.0**qk  # scores have a standard deviation of it, and errors of 2^-8 of q and k each
    assert np.abs(got - wanted).max() < peak * (0.008 + min(1.0, 0.015 * spread))


def test_sums_of_values_far_apart_keep_the_coarser_ones_bits() -> None:
    """Fractions more than 14 bits apart, as of small embeddings beside a linear's results."""
    x = np.random.default_rng(0).normal(0, 1, (2, 8)) * 2.0**-11
    got, wanted = _both(x, Apply("x", "s", Function.SIGMOID), Add("x", "s", "y"), largest={"y": 1.0, "x": 2.0**-11})
    assert np.abs(got - wanted).max() < 2.0**-12


def test_products_of_values_whose_fractions_do_not_reach_the_results() -> None:
    """A calibration that saw products far below what the factors allow: no shift left, the exact product is kept."""
    x = np.random.default_rng(0).normal(0, 1, (2, 8))
    got, wanted = _both(x, Mul("x", "x", "y"), largest={"x": 2.0**20, "y": 2.0**-12})
    assert np.abs(got - wanted).max() < 2.0**-5
    assert np.abs(wanted).max() > 1


@pytest.mark.parametrize("exponent", [12, 20, 26])
def test_functions_of_large_values(exponent: int) -> None:
    """A fraction more than 14 bits below the table's takes several factors."""
    x = np.random.default_rng(0).uniform(-4, 4, (2, 33))
    got, wanted = _both(x, Apply("x", "y", Function.SIGMOID), largest={"x": 2.0**exponent})
    assert np.abs(got - wanted).max() < 2.0 ** (exponent - 28) + 1e-4


@settings(max_examples=100, deadline=None)
@given(EXPONENT, EXPONENT, st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_row_for_each_position_of_any_magnitude(x: int, table: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, added = rng.normal(0, 1, (2, rows, 6)) * 2.0 ** np.array([x, table])[:, None, None]
    assert _error(*_both(own, Positional("x", "y", added))) < 2e-4


@settings(max_examples=200, deadline=None)
@given(
    *(st.integers(1, 4) for _ in range(3)), st.integers(-3, 5), st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32 - 1)
)
def test_windows_are_the_rows_side_by_side(
    taps: int, stride: int, dilation: int, before: int, rows: int, made: int, seed: int
) -> None:
    """Whatever lies beyond either end is zeros."""
    x = np.random.default_rng(seed).integers(-50, 50, (rows, 3)).astype(float)
    index = np.arange(made)[:, None] * stride + np.arange(taps) * dilation - before
    got, wanted = _both(x, Window("x", "y", np.where((index >= 0) & (index < rows), index, -1), "made"))
    np.testing.assert_array_equal(got, wanted)
    behind = 200
    padded = np.pad(x, ((behind, behind), (0, 0)))
    at = behind - before + np.arange(made)[:, None] * stride + np.arange(taps) * dilation
    np.testing.assert_array_equal(wanted, padded[at].reshape(made, -1))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([2, 3, 8, 60, 128]), st.integers(1, 8), st.booleans(), st.integers(-3, 2), st.integers(0, 2**32 - 1))
def test_gates_choose_as_reals_do(experts: int, count: int, normalized: bool, exponent: int, seed: int) -> None:
    """The same experts where logits are further apart than a key's step, and their softmax; all others are exactly 0."""
    rng = np.random.default_rng(seed)
    x = rng.permuted(np.tile(np.linspace(-1, 1, experts), (4, 1)), axis=1) * 2.0**exponent
    got, wanted = _both(x, TopGates("x", "y", min(count, experts), normalized))
    assert np.array_equal(got > 0, wanted > 0)
    assert np.abs(got - wanted).max() < CHORD


def test_of_equal_logits_the_first_are_chosen() -> None:
    x = np.array([[1.0, 2, 2, 1, 2, 1], [0.0] * 6])
    got, wanted = _both(x, TopGates("x", "y", 2, True))
    assert np.allclose(got, wanted, atol=CHORD)
    assert np.array_equal(got > 0, [[0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])


@settings(max_examples=50, deadline=None)
@given(EXPONENT, st.sampled_from([4, 33, 100]), st.integers(0, 2**32 - 1))
def test_rows_times_a_feature_of_another(exponent: int, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(0, 1, (3, n)) * 2.0**exponent
    assert _error(*_both(x, Affine("x", "by", np.full(n, -2.0), np.ones(n)), RowScale("x", "by", "y", 1))) < 1e-4
