"""Loops over elements that numba compiles, around the element-wise functions of `isa.numerics`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from axlora.isa.numerics import clamp_bytes, map_element, reduce_element, reduce_none
from axlora.isa.opcodes import READ_AFTER, Map, Reduce

Int64 = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]


class Operand(NamedTuple):
    """Rows of words in a buffer, a pitch apart."""

    memory: Words
    """[words, V]."""
    first: int
    pitch: int


class MapSettings(NamedTuple):
    """VMAP with the settings that it reads; see `numerics.map_rows`."""

    function: int
    reduction: int
    rows: int
    words: int
    valid: int
    """Elements of row 0."""
    step: int
    """Elements that each row has more than the one before."""
    ca: int
    cb: int
    shifts: Int64
    """[rows]."""
    factors: Int64
    less: Int64
    low: int
    interval: int
    table: Int64
    size: int
    """Bytes that a value is clamped to; 0: it goes nowhere."""


@njit(cache=True)
def _write_word(into: Operand, words: int, q: int, out: Int64) -> None:
    """Word q of the values to its place."""
    r, w = q // words, q % words
    v = into.memory.shape[1]
    for e in range(v):
        into.memory[into.first + r * into.pitch + w, e] = out[r, w * v + e]


@njit(cache=True)
def map_rows(s: MapSettings, a: Operand, b: Operand, into: Operand) -> tuple[Int64, Int64, int]:
    """VMAP. Word q reads what the words up to q - READ_AFTER wrote.

    Args:
        into: where the values go, if it is VBUF; else its memory has no word.

    Returns:
        Values [rows, n], 0 where they are not valid; reductions [rows]; elements that a clamp changed.
    """
    v = a.memory.shape[1]
    total = s.rows * s.words
    out = np.zeros((s.rows, s.words * v), np.int64)
    reduced = np.full(s.rows, reduce_none(s.reduction), np.int64)
    changed = 0
    writes = len(into.memory) > 0
    for q in range(total):
        if writes and q >= READ_AFTER:
            _write_word(into, s.words, q - READ_AFTER, out)
        r, w = q // s.words, q % s.words
        valid = s.valid + r * s.step
        for e in range(v):
            n = w * v + e
            if n >= valid:
                break
            x = np.int64(a.memory[a.first + r * a.pitch + w, e])
            z = np.int64(b.memory[b.first + r * b.pitch + w, e])
            y, raw = map_element(s.function, x, z, s.ca, s.cb, s.shifts[r], s.factors[r], s.less[r], s.low, s.interval, s.table)
            if s.reduction != Reduce.NONE:
                reduced[r] = reduce_element(s.reduction, reduced[r], y)
            held = clamp_bytes(y, s.size) if s.size else y
            changed += y != raw or held != y
            out[r, n] = held
    if writes:
        for q in range(max(0, total - READ_AFTER), total):
            _write_word(into, s.words, q, out)
    return out, reduced, changed


NO_WORDS: Words = np.zeros((0, 1), np.int32)
READS_B = (Map.MAC, Map.MUL)
"""Functions of two operands."""
