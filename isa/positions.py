"""Registers that name a position: the host sets them before a start, and the program is the same at every position."""

from __future__ import annotations

from enum import IntEnum

from .target import Target


class Position(IntEnum):
    """Registers that the host sets before a start at a position; K = keys seen by the last row. R1 to R7 are left to loops."""

    CACHE = 20
    """Bytes of the caches of the sequences before."""
    BIAS = 21
    """Bytes of the rows before in a table by position and key."""
    FIRST = 22
    """Position of the first row."""
    GROUPS = 23
    """ceil(K / P)."""
    BLOCKS = 24
    """ceil(K / L)."""
    WORDS = 25
    """BLOCKS * L / V."""
    KEY = 26
    """Bytes of the keys before: CACHE and FIRST * dim elements."""
    VALUE = 27
    """Bytes to the first row's place in the tiles of V, from CACHE on."""
    KEYS = 28
    """K."""
    TURN = 29
    """Bytes of the rows before in a table by position."""
    SCALE_BEATS = 30
    """Beats of K scales."""
    SCALE = 31
    """CACHE + 4 * FIRST."""


SLOTS = 4
"""Adapter slots whose registers leave the positions' alone; programs that name no position may have more."""


def position_registers(
    target: Target, first: int, rows: int, dim: int, half: int, context: int, cache: int = 0
) -> dict[int, int]:
    """What the host writes for rows at `first` .. `first + rows - 1`.

    Args:
        first: a multiple of `rows`: the rows of a start lie in one tile of V.
        dim: features of a head, in whole beats. half: s32 elements of a row of the tables by position, padded.
        context: most keys; a row of a table by position and key has an s32 element for each, padded to whole lines of L.
        cache: bytes of the caches of the sequences before, in one memory.
    """
    t, keys = target, first + rows
    blocks = -(-keys // t.lanes)
    return {
        Position.CACHE: cache,
        Position.FIRST: first,
        Position.GROUPS: -(-keys // t.ports),
        Position.BLOCKS: blocks,
        Position.WORDS: blocks * t.lanes // t.vector_lanes,
        Position.KEY: cache + first * dim,
        Position.VALUE: cache + first // t.lanes * t.lanes * dim + first % t.lanes * t.ports,
        Position.KEYS: keys,
        Position.SCALE: cache + 4 * first,
        Position.SCALE_BEATS: -(-4 * keys // t.beat_bytes),
        Position.TURN: first * half * 4,
        Position.BIAS: first * (-(-context // t.lanes) * t.lanes) * 4,
    }
