"""Registers that name a position: the host sets them before a start, and the program is the same at every position."""

from __future__ import annotations

from enum import IntEnum

from .target import Target


class Position(IntEnum):
    """Registers that the host sets before a start at a position; K = keys seen by the last row."""

    FIRST = 1
    """Position of the first row."""
    GROUPS = 2
    """ceil(K / P)."""
    BLOCKS = 3
    """ceil(K / L)."""
    WORDS = 4
    """BLOCKS * L / V."""
    KEY = 5
    """Bytes of the keys before: FIRST * dim elements."""
    VALUE = 6
    """Bytes to the first row's place in the tiles of V."""
    KEYS = 7
    """K."""
    SCALE = 31
    """4 * FIRST."""
    SCALE_BEATS = 30
    """Beats of K scales."""
    TURN = 29
    """Bytes of the rows before in a table by position."""


SLOTS = 5
"""Adapter slots whose registers leave the positions' alone."""


def position_registers(target: Target, first: int, rows: int, dim: int, half: int) -> dict[int, int]:
    """What the host writes for rows at `first` .. `first + rows - 1`.

    Args:
        first: a multiple of `rows`: the rows of a start lie in one tile of V.
        dim: features of a head, in whole beats. half: s32 elements of a row of the tables by position, padded.
    """
    t, keys = target, first + rows
    blocks = -(-keys // t.lanes)
    return {
        Position.FIRST: first,
        Position.GROUPS: -(-keys // t.ports),
        Position.BLOCKS: blocks,
        Position.WORDS: blocks * t.lanes // t.vector_lanes,
        Position.KEY: first * dim,
        Position.VALUE: first // t.lanes * t.lanes * dim + first % t.lanes * t.ports,
        Position.KEYS: keys,
        Position.SCALE: 4 * first,
        Position.SCALE_BEATS: -(-4 * keys // t.beat_bytes),
        Position.TURN: first * half * 4,
    }
