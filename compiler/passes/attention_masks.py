"""What a mask of attention scores lets a token see, found by what it does to masks of padding."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import numpy.typing as npt


class Mask(Enum):
    """Which keys a token sees."""

    NONE = "none"
    """All."""
    CAUSAL = "causal"
    """Itself and those before it."""
    PADDING = "padding"
    """All that are no padding."""


def describe(seen: Sequence[npt.NDArray[np.bool_]]) -> str:
    """What a mask that `kind_of_mask` does not know lets a token see, in words.

    Args:
        seen: [.., n, n], as there.
    """
    n = seen[0].shape[-1]
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    for one in (m for s in seen for m in s.reshape(-1, n, n)):
        before, after = (int(np.max(side[one], initial=0)) for side in (distance, -distance))
        if np.array_equal(one, (distance <= before) & (distance >= -after)) and before < n - 1:
            window = f"{before + 1} tokens" if not after else f"{before} tokens before and {after} after"
            return f"attention in a sliding window of {window}"
    if not any(np.triu(m, 1).any() for s in seen for m in s.reshape(-1, n, n)):
        return "a mask of attention that hides some of the tokens before, by no padding"
    return "a mask of attention that is neither causal nor of padding"


def kind_of_mask(seen: Sequence[npt.NDArray[np.bool_]], masks: Sequence[npt.NDArray[np.int64]]) -> Mask | None:
    """The kind, or None if it is another.

    Args:
        seen: [.., n, n] for each mask of `masks`, or one for all.
        masks: [1, n], 1 where there is a token.
    """
    n = seen[0].shape[-1]
    if all(s.all() for s in seen):
        return Mask.NONE
    if all(np.array_equal(m, np.tri(n, dtype=bool)) for s in seen for m in s.reshape(-1, n, n)):
        return Mask.CAUSAL
    if len(seen) == len(masks) and all((s == (m[0] > 0)).all() for s, m in zip(seen, masks, strict=True)):
        return Mask.PADDING
    return None
