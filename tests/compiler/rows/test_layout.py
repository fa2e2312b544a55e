"""Layouts: heads, and halves that turn, begin at whole words; what element-wise operators connect lies alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axlora.compiler.backend.spread import Gaps
from axlora.compiler.layer import Codes, Linear, Records
from axlora.compiler.operators import Add, Apply, Attention, Function, Norm, NormKind, Op, Rotary
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.rows.layout import WITHOUT, Layout, layouts
from axlora.isa.formats import Format

HEADS, DIM, UNIT = 3, 6, 4
WIDE = HEADS * DIM
WIDTHS = {"h": 10, "o": 10, "end": 10} | dict.fromkeys(("q", "k", "v", "q1", "rq", "rk", "y", "gate", "gated"), WIDE)
TABLE = np.zeros((8, 3))
ATTENTION: tuple[Op, ...] = (
    *(LinearOp("h", name, name) for name in "qkv"),
    Rotary("q", "rq", HEADS, DIM, TABLE, TABLE, 0, DIM),
    Rotary("k", "rk", HEADS, DIM, TABLE, TABLE, 0, DIM),
    Attention("rq", "rk", "v", "y", HEADS, HEADS, DIM, 1.0, True, (0, 0, 0), (DIM,) * 3),
    LinearOp("y", "o", "o"),
    Add("h", "o", "end"),
)
HALVES, WHOLE = ((3, 4), (3, 4)) * HEADS, ((6, 8),) * HEADS


def _found(*operators: Op, unit: int = UNIT) -> dict[str, tuple[tuple[int, int], ...]]:
    return {name: own.parts for name, own in layouts(operators, WIDTHS, {"h", "end"}, unit).items()}


def test_halves_of_what_turns_and_whole_heads_of_values() -> None:
    assert _found(*ATTENTION) == dict.fromkeys(("q", "k", "rq", "rk"), HALVES) | dict.fromkeys(("v", "y"), WHOLE)


@pytest.mark.parametrize("unit", [1, 3])
def test_heads_of_whole_words_have_no_gaps(unit: int) -> None:
    assert _found(*ATTENTION, unit=unit) == {}


def test_norms_of_heads_and_what_they_read_lie_alike() -> None:
    """A norm of mean squares in front of the rotation takes the gaps of halves; one that takes the mean off takes none."""
    turned = [replace(op, x="q1") if isinstance(op, Rotary) and op.x == "q" else op for op in ATTENTION]
    norm = Norm("q", "q1", NormKind.RMS, np.ones(DIM), None, 1e-6)
    assert _found(norm, *turned)["q"] == _found(norm, *turned)["q1"] == HALVES
    kept = _found(replace(norm, kind=NormKind.LAYER), *turned)
    assert kept == dict.fromkeys(("v", "y"), WHOLE)


@pytest.mark.parametrize("gate", [Apply("h", "gate", Function.SIGMOID), LinearOp("h", "gate", "gate")], ids=["table", "linear"])
def test_what_meets_heads_has_their_gaps_unless_it_makes_something_of_0(gate: Op) -> None:
    operators = (*ATTENTION[:-2], replace(gate, x="q1") if isinstance(gate, Apply) else gate, Add("y", "gate", "gated"))
    if isinstance(gate, Apply):
        assert {"y", "v", "gate", "gated", "q1"}.isdisjoint(_found(*operators))
    else:
        assert _found(*operators)["gate"] == _found(*operators)["gated"] == WHOLE


def test_rows_that_the_host_reads_have_no_gaps() -> None:
    assert {"y", "v"}.isdisjoint(layouts(ATTENTION, WIDTHS, {"h", "y"}, UNIT))


PARTS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=6).map(
    lambda pairs: tuple((count, count + gap) for count, gap in pairs)
)


@given(parts=PARTS, seed=st.integers(0, 9))
def test_spreading_and_gathering(parts: tuple[tuple[int, int], ...], seed: int) -> None:
    layout = Layout(parts)
    features = sum(count for count, _ in parts)
    values = np.random.default_rng(seed).integers(1, 100, (2, features))
    spread = layout.spread(values)
    assert spread.shape == (2, layout.width(features)) == (2, layout.place(features))
    assert np.array_equal(layout.gathered(spread, features, 1), values)
    assert spread.sum() == values.sum()
    first = 0
    for number, (count, room) in enumerate(parts):
        place, wide = layout.span(first, count)
        assert wide == room
        assert layout.part(first, count).parts == parts[number : number + 1]
        assert np.array_equal(spread[:, place : place + count], values[:, first : first + count])
        first += count


@given(
    count=st.integers(1, 12),
    gap=st.integers(0, 5),
    heads=st.integers(1, 7),
    columns=PARTS,
    seed=st.integers(0, 9),
    book=st.booleans(),
)
def test_a_linear_with_gaps_gives_the_results_of_the_one_without(
    count: int, gap: int, heads: int, columns: tuple[tuple[int, int], ...], seed: int, book: bool
) -> None:
    """Scale groups with zero points, or with a codebook that has a 0: of whole heads, in places as in features."""
    rng = np.random.default_rng(seed)
    down, across = Layout(((count, count + gap),) * heads), Layout(columns)
    k, n = count * heads, sum(own for own, _ in columns)
    group = down.group(8)
    assert down.grouped(group) % 8 == 0
    assert down.features(down.grouped(group)) == group
    groups = -(-k // group)
    scale, zero = rng.integers(1, 255, (groups, n)), rng.integers(-8, 8, (groups, n))
    weight = Codes(rng.integers(-8, 8, (k, n)), Format.S4, None, group, scale, zero)
    if book:
        entries = rng.permutation(np.append(0, rng.integers(-128, 128, 15)))
        weight = Codes(rng.integers(0, 16, (k, n)), Format.CB4, entries, group, scale)
    linear = Linear("l", "x", "y", weight, Records(*rng.integers(1, 9, (3, n))))
    found = Gaps(down.parts, across.parts).linear(linear)
    x = rng.integers(-127, 128, (3, k))
    wanted = across.spread(x @ weight.weights())
    assert np.array_equal(down.spread(x) @ found.weight.weights(), wanted)
    anything = rng.integers(-127, 128, (3, down.width(k)))  # of a scale whose code of 0 is another number
    anything[:, down.places] = x
    assert np.array_equal(anything @ found.weight.weights(), wanted)
    assert np.array_equal(found.records.bias, across.spread(linear.records.bias))


def test_a_row_without_gaps() -> None:
    assert (WITHOUT.place(7), WITHOUT.width(7), WITHOUT.span(2, 3), WITHOUT.group(32)) == (7, 7, (2, 3), 32)
    assert WITHOUT.spread(values := np.arange(4)) is values
