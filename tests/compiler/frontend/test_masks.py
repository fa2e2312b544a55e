"""A mask of attention is called what it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from axlora.compiler.passes.attention_masks import Mask, describe, kind_of_mask

N = st.integers(2, 24)
OTHER = "a mask of attention that is neither causal nor of padding"
BEFORE = "a mask of attention that hides some of the tokens before, by no padding"


def window(n: int, before: int, after: int) -> np.ndarray:
    """[n, n]: a token sees itself, so many before and so many after, one comparison a pair."""
    return np.array([[-after <= row - column <= before for column in range(n)] for row in range(n)])


@settings(deadline=None)
@given(N, st.data(), st.sampled_from(((), (1,), (1, 1), (2, 3))))
def test_a_causal_window_of_any_size(n: int, data: st.DataObject, lead: tuple[int, ...]) -> None:
    size = data.draw(st.integers(1, n - 1))
    seen = [np.broadcast_to(window(n, size - 1, 0), (*lead, n, n))]
    assert kind_of_mask(seen, []) is None
    assert describe(seen) == f"attention in a sliding window of {size} tokens"


@settings(deadline=None)
@given(N, st.data())
def test_a_window_to_both_sides(n: int, data: st.DataObject) -> None:
    before, after = data.draw(st.integers(0, n - 2)), data.draw(st.integers(1, n - 1))
    seen = [window(n, before, after)]
    assert kind_of_mask(seen, []) is None
    assert describe(seen) == f"attention in a sliding window of {before} tokens before and {after} after"


@settings(deadline=None)
@given(N, st.data())
def test_a_window_with_padding_is_still_a_window(n: int, data: st.DataObject) -> None:
    """One of the probed masks shows it."""
    assume(n > 2)
    size = data.draw(st.integers(1, n - 1))
    plain = window(n, size - 1, 0)
    padded = plain & (np.arange(n) < n // 2)
    masks = [np.ones((1, n), np.int64), (np.arange(n) < n // 2).astype(np.int64)[None]]
    assert kind_of_mask([plain, padded], masks) is None
    assert describe([plain, padded]) == f"attention in a sliding window of {size} tokens"


@settings(deadline=None)
@given(st.integers(2, 24), st.data())
def test_a_causal_mask_with_a_hole_hides_tokens_before(n: int, data: st.DataObject) -> None:
    assume(n > 2)
    row = data.draw(st.integers(1, n - 1))
    column = data.draw(st.integers(0, row))
    seen = np.tri(n, dtype=bool)
    seen[row, column] = False
    assume(not any(np.array_equal(seen, window(n, before, 0)) for before in range(n)))
    assert kind_of_mask([seen], []) is None
    assert describe([seen]) == BEFORE


@settings(deadline=None)
@given(st.integers(3, 16), st.data())
def test_one_later_token_is_neither_causal_nor_padding(n: int, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, n - 2))
    column = data.draw(st.integers(row + 1, n - 1))
    seen = np.tri(n, dtype=bool)
    seen[row, column] = True
    assert kind_of_mask([seen], []) is None
    assert describe([seen]) == OTHER


@settings(deadline=None)
@given(N)
def test_what_is_known_keeps_its_kind(n: int) -> None:
    assert kind_of_mask([np.ones((n, n), bool)], []) is Mask.NONE
    assert kind_of_mask([np.ones((1, 2, n, n), bool)], []) is Mask.NONE
    assert kind_of_mask([np.tri(n, dtype=bool)] * 2, []) is Mask.CAUSAL
    masks = [np.ones((1, n), np.int64), (np.arange(n) < max(1, n // 2)).astype(np.int64)[None]]
    seen = [np.broadcast_to(m[0] > 0, (1, 1, n, n)) for m in masks]
    assert kind_of_mask(seen, masks) is (Mask.PADDING if n > 1 else Mask.NONE)


@pytest.mark.parametrize("blocks", [2, 3])
def test_blocks_are_no_window(blocks: int) -> None:
    seen = np.kron(np.eye(blocks, dtype=bool), np.ones((4, 4), bool))
    assert describe([seen]) == OTHER
