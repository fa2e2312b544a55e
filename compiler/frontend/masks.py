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
