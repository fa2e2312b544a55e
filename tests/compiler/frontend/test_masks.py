"""What a mask of attention lets a token see: its kind, and the keys that it hides beside."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.passes.attention_masks import CAUSAL, HEEDING, Mask, both, kind_of_mask

N = st.integers(2, 24)


def shown(kind: Mask, n: int, tokens: np.ndarray) -> np.ndarray:
    """[n, n]: what a kind shows, one comparison a pair."""
    after = kind not in CAUSAL
    return np.array([[(after or key <= row) and (kind not in HEEDING or tokens[key]) for key in range(n)] for row in range(n)])


@settings(deadline=None)
@given(N, st.integers(0, 1 << 32), st.sampled_from([1, 3]), st.booleans(), st.booleans())
def test_kind_and_hidden_keys_make_the_mask_again(n: int, seed: int, heads: int, causal: bool, padded: bool) -> None:
    """Any mask in which every token sees itself."""
    rng = np.random.default_rng(seed)
    ever = (rng.random((heads, n, n)) < 0.7) | np.eye(n, dtype=bool)
    ever &= np.tri(n, dtype=bool) if causal else True
    masks = [np.ones((1, n), np.int64), (rng.random((1, n)) < 0.5).astype(np.int64), np.eye(n, dtype=np.int64)[:1]]
    seen = [ever & (m[0] > 0) for m in masks] if padded else [ever] * len(masks)
    found = kind_of_mask(seen, masks, True)
    assert found is not None
    kind, hidden = found
    assert (kind in HEEDING) == padded
    for mask, own in zip(masks, seen, strict=True):
        np.testing.assert_array_equal(shown(kind, n, mask[0] > 0) & ~hidden, own)


@settings(deadline=None)
@given(N)
def test_what_hides_nothing_else_is_its_kind_alone(n: int) -> None:
    masks = [np.ones((1, n), np.int64), (np.arange(n) < -(-n // 2))[None].astype(np.int64)]
    for kind in Mask:
        seen = [shown(kind, n, m[0] > 0)[None] for m in masks]
        found = kind_of_mask(seen, masks, True)
        assert found is not None
        assert found[0] is kind
        assert not found[1].any()


@settings(deadline=None)
@given(N, st.data())
def test_a_token_that_sees_nothing_is_refused(n: int, data: st.DataObject) -> None:
    seen = np.tri(n, dtype=bool)
    seen[data.draw(st.integers(0, n - 1))] = False
    assert kind_of_mask([seen[None]], [], True) is None


@settings(deadline=None)
@given(N, st.data())
def test_padding_that_hides_rows_is_refused(n: int, data: st.DataObject) -> None:
    """Of padding only keys may be hidden, in every row alike."""
    masks = [np.ones((1, n), np.int64), (np.arange(n) < n - 1)[None].astype(np.int64)]
    seen = [np.ones((1, n, n), bool), np.ones((1, n, n), bool)]
    seen[1][0, data.draw(st.integers(0, n - 1)), n - 1] = False
    assert kind_of_mask(seen, masks, True) is None


def test_two_masks_one_after_the_other() -> None:
    for one in Mask:
        assert both(Mask.NONE, one) is both(one, Mask.NONE) is both(one, one) is one
    assert both(Mask.CAUSAL, Mask.PADDING) is both(Mask.PADDING, Mask.CAUSAL_PADDING) is Mask.CAUSAL_PADDING
