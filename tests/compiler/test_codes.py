"""Weight matrices a part of their rows at a time: sums and values are those of the whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from axlora.compiler.layer import PART, Codes
from axlora.isa.formats import Format


@st.composite
def _codes(draw: st.DrawFn) -> Codes:
    """Signed and unsigned codes and codebooks, with and without scale groups and zero points."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    k, n = draw(st.integers(1, 3 * PART)), draw(st.integers(1, 5))
    fmt = draw(st.sampled_from([Format.S4, Format.S8, Format.U4, Format.CB4]))
    stored = rng.integers(fmt.low, fmt.high + 1, (k, n))
    codebook = rng.integers(-128, 128, 16) if fmt is Format.CB4 else None
    group = draw(st.sampled_from([0, 1, 8, PART, 2 * PART]))
    if not group:
        return Codes(stored, fmt, codebook)
    shape = (-(-k // group), n)
    scale = rng.integers(1, 256, shape) if draw(st.booleans()) else None
    zero = rng.integers(-128, 128, shape) if draw(st.booleans()) else None
    return Codes(stored, fmt, codebook, group, scale, zero)


def _plain(codes: Codes) -> np.ndarray:
    """(value - zero point) * scale, element by element."""
    k, n = codes.stored.shape
    out = np.zeros((k, n), np.int64)
    for row in range(k):
        for column in range(n):
            code, group = int(codes.stored[row, column]), row // codes.group if codes.group else 0
            value = code if codes.codebook is None else int(codes.codebook[code])
            value -= 0 if codes.zero is None else int(codes.zero[group, column])
            out[row, column] = value * (1 if codes.scale is None else int(codes.scale[group, column]))
    return out


@given(_codes(), st.integers(0, 3 * PART))
def test_parts_and_sums_are_those_of_the_whole(codes: Codes, rows: int) -> None:
    wanted = _plain(codes)
    assert np.array_equal(codes.weights(), wanted)
    assert np.array_equal(np.concatenate([codes.weights(part) for part in codes.parts()]), wanted)
    sums = codes.sums(rows)
    assert np.array_equal(sums.plain, wanted.sum(axis=0))
    assert np.array_equal(sums.magnitudes, np.abs(wanted).sum(axis=0))
    assert np.array_equal(sums.squares, (wanted[:rows] ** 2).sum(axis=0))
