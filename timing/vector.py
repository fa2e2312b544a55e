"""VREQ, VQT, VMAP and VROW: fixed-latency formulas (docs/isa.md, Cycles, Vector)."""

from __future__ import annotations

from collections.abc import Sequence

from axlora.isa.opcodes import MAP_PIPE, REDUCE_PIPE, VPIPE, Reduce, Row
from axlora.isa.target import Target


def requantize_duration(target: Target, tokens: int, groups: int, adapter: bool) -> int:
    """d of a VREQ over `tokens` tokens and `groups` column groups."""
    return tokens * groups * max(target.ports // target.vector_lanes, 2 if adapter else 1) + VPIPE


def block_quantize_duration(target: Target, taking_part: Sequence[bool], groups: int) -> int:
    """d of a VQT; `taking_part` says for each token whether it has the slot."""
    one = 2 * (groups * target.ports // target.vector_lanes + VPIPE)
    return VPIPE + sum(1 + (one if part else 1) for part in taking_part)


def map_duration(target: Target, rows: int, words: int, reduction: Reduce) -> int:
    """d of a VMAP over `rows` rows of `words` words: a word a cycle, until what follows may begin."""
    levels = target.vector_lanes.bit_length() - 1
    return rows * words + (MAP_PIPE if reduction is Reduce.NONE else REDUCE_PIPE + levels)


ROW_LATENCY = {Row.COPY: 5, Row.RECIPROCAL: 25, Row.RSQRT: 41, Row.TOKEN: 25}
"""Cycles of one row: two of product, two of rounding, write; the others four to normalise, 16 of division; 16 of the root."""


DIVIDE = {Row.COPY: 0, Row.RECIPROCAL: 17, Row.RSQRT: 33, Row.TOKEN: 17}
"""Cycles that a row keeps its divider."""


def row_duration(target: Target, function: Row, rows: int) -> int:
    """d of a VROW over `rows` rows: a row a cycle, in turns of V, each on a divider of its own; a turn begins when the
    dividers of the one before are free."""
    turns, rest = divmod(rows - 1, target.vector_lanes)
    return ROW_LATENCY[function] + 1 + turns * max(target.vector_lanes, DIVIDE[function]) + rest
