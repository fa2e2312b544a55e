"""What a mask of attention scores lets a token see, found by what it does to masks of padding."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]


class Mask(Enum):
    """Which keys a token sees."""

    NONE = "none"
    """All."""
    CAUSAL = "causal"
    """Itself and those before it."""
    PADDING = "padding"
    """All that are no padding."""
    CAUSAL_PADDING = "causal and padding"
    """Itself and those before it that are no padding: as `CAUSAL`, once padding is behind all tokens."""


HEEDING = {Mask.PADDING, Mask.CAUSAL_PADDING}
"""Kinds that hide padding."""
CAUSAL = {Mask.CAUSAL, Mask.CAUSAL_PADDING}
"""Kinds that hide what comes later."""


def both(a: Mask, b: Mask) -> Mask:
    """The kind of two masks one after the other."""
    if Mask.NONE in (a, b) or a is b:
        return b if a is Mask.NONE else a
    return Mask.CAUSAL_PADDING


def kind_of_mask(seen: Sequence[Bool], masks: Sequence[npt.NDArray[np.int64]], own: bool) -> tuple[Mask, Bool] | None:
    """The kind, and the keys that it shows and the mask hides whatever is padding; None if it is of no kind.

    Args:
        seen: [heads or 1, m, n] for each mask of `masks`, or one for all.
        masks: [1, n], 1 where there is a token.
        own: whether tokens see those of their own sequence.

    Returns:
        The kind and bool [heads or 1, m, n].
    """
    ever = np.any(seen, axis=0)
    before = np.tri(*ever.shape[1:]) > 0 if own else np.zeros(ever.shape[1:], np.bool_)
    if all(np.array_equal(s, ever) for s in seen):
        kind = Mask.NONE if ever.all() or (ever & ~before).any() else Mask.CAUSAL
    elif len(seen) == len(masks) and all(np.array_equal(s, ever & (m[0] > 0)) for s, m in zip(seen, masks, strict=True)):
        kind = Mask.PADDING if (ever & ~before).any() else Mask.CAUSAL_PADDING
    else:
        return None
    # Whatever is padding, a token sees itself, or all of another sequence.
    itself = np.diagonal(ever, axis1=1, axis2=2) if own else ever
    always = itself if kind in HEEDING else ever.any(axis=-1)
    return (kind, ~ever & (before if kind in CAUSAL else True)) if always.all() else None
