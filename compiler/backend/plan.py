"""Tiling of one linear: which columns, rows and tokens are on the chip at once, chosen by the timing formulas.

Loop nest: for column tile: for chunk of token groups: for row tile. Every buffer that is filled while another unit reads it
holds two tiles at least. What a buffer still holds is not loaded again.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from axlora.compiler.errors import DoesNotFit
from axlora.compiler.layer import Linear
from axlora.isa.formats import Format
from axlora.isa.target import Target
from axlora.timing.matrix import cache_index, matmul_setup, matmul_timing

MAX_CHUNK = 32
"""Token groups of a chunk."""


@dataclass(frozen=True)
class Shape:
    """A linear in the machine's units."""

    tokens: int
    groups: int
    """Column groups, ceil(N/P), padded so that a column tile can hold whole words and whole blocks of L columns."""
    blocks: int
    """Row blocks, ceil(K/L), padded to whole scale groups."""
    token_groups: int
    storage: int
    """Bits of a weight code in memory."""
    element: int
    """Bytes of a result."""
    rank_groups: int
    """Column groups of the largest rank, 0 without adapters."""
    rank_blocks: int
    slots: int
    per_group: int
    """Row blocks of a scale group, 0 without."""
    column_unit: int
    """Column tiles are multiples of this many groups."""

    @classmethod
    def of(cls, target: Target, linear: Linear, tokens: int, slots: int, rank: int) -> Shape:
        """Shape of a linear for `tokens` rows with `slots` adapter slots of at most `rank`."""
        t = target
        per = linear.weight.group // t.lanes if linear.weight.group else 0
        if linear.weight.group and (linear.weight.group % t.lanes or not t.group_scales):
            raise DoesNotFit(
                f"{linear.name}: scale groups of {linear.weight.group} rows do not fit target {t.name}",
                linear.name,
                "a target with group_scales and lanes that divide the group",
            )
        blocks = -(-linear.k // t.lanes)
        return cls.sized(t, linear.n, blocks, linear.weight.fmt, linear.output_bits, per, tokens, slots, rank)

    @classmethod
    def sized(
        cls, target: Target, n: int, blocks: int, fmt: Format, output_bits: int, per: int, tokens: int, slots: int, rank: int
    ) -> Shape:
        """As `of`, from sizes: `blocks` row blocks at least, `per` of them in a scale group (0: none)."""
        t = target
        unit = math.lcm(8 // fmt.storage, max(1, t.lanes // t.ports))
        groups = -(-n // t.ports)
        return cls(
            tokens=tokens,
            groups=-(-groups // unit) * unit,
            blocks=-(-blocks // per) * per if per else blocks,
            token_groups=-(-tokens // t.tokens),
            storage=fmt.storage,
            element=output_bits // 8,
            rank_groups=-(-rank // t.ports) if slots else 0,
            rank_blocks=-(-rank // t.lanes) if slots else 0,
            slots=slots,
            per_group=per,
            column_unit=unit,
        )


@dataclass(frozen=True)
class Plan:
    """Tile sizes, in column groups, row blocks and token groups, and the cycles that they are expected to take."""

    columns: int
    rows: int
    chunk: int
    cycles: int
    pace: float = 0.0
    """Cycles a column group takes in a row; 0: not known."""

    def column_tiles(self, shape: Shape) -> list[tuple[int, int]]:
        """(first, count) of each column tile in groups."""
        return [(c, min(self.columns, shape.groups - c)) for c in range(0, shape.groups, self.columns)]

    def row_tiles(self, shape: Shape) -> list[tuple[int, int]]:
        """(first, count) of each row tile in blocks."""
        return [(r, min(self.rows, shape.blocks - r)) for r in range(0, shape.blocks, self.rows)]


def tile_lines(shape: Shape, columns: int, rows: int) -> int:
    """WBUF lines of a weight tile, with one more for the row of ones that zero points need."""
    return rows * columns * shape.storage // 8 + (1 if shape.per_group else 0)


def adapter_lines(shape: Shape, columns: int) -> tuple[int, int]:
    """WBUF lines of A (all of K) and of B (a column tile), of one slot."""
    return shape.rank_groups * shape.blocks, shape.rank_blocks * columns


def u_lines(target: Target, shape: Shape) -> int:
    """UBUF lines of one token group's x.A: VQT writes whole column groups, which may be more than the rank's blocks."""
    return max(shape.rank_blocks, -(-shape.rank_groups * target.ports // target.lanes))


def output_bytes(target: Target, shape: Shape, columns: int) -> int:
    """Bytes of one token group's results of a column tile, in whole beats."""
    blocks = -(-columns * target.ports // target.lanes)
    size = blocks * target.lanes * target.tokens * shape.element
    return -(-size // target.beat_bytes) * target.beat_bytes


def fits(target: Target, shape: Shape, columns: int, rows: int, chunk: int) -> bool:
    """Whether every buffer has room for two of the tiles: one is filled while the other is read."""
    t = target
    lora = 2 if shape.slots else 1
    acc = chunk * (lora * columns + shape.rank_groups)
    scale_lines = columns * (rows // shape.per_group) if shape.per_group else 0
    return (
        2 * tile_lines(shape, columns, rows) + shape.slots * sum(adapter_lines(shape, columns)) <= t.wbuf_lines
        and 2 * acc <= t.acc_words
        and 2 * chunk * shape.blocks <= t.abuf_lines
        and 2 * chunk * output_bytes(t, shape, columns) <= t.obuf_beats * t.beat_bytes
        and 2 * (columns * (1 + shape.slots) + shape.slots * shape.rank_groups) <= t.pbuf_groups
        and 2 * scale_lines <= t.sbuf_lines
        and (not shape.per_group or columns + shape.rank_groups * shape.slots + 1 <= t.group_words)
        and shape.token_groups * u_lines(t, shape) <= t.ubuf_lines
        and 2 * shape.token_groups * t.tokens <= t.tbuf_tokens
        and rows * columns < 1 << 16
    )


def _cost(target: Target, shape: Shape, plan: Plan, pace: float) -> int:
    t = target
    column_tiles = -(-shape.groups // plan.columns)
    row_tiles = -(-shape.blocks // plan.rows)
    chunks = -(-shape.token_groups // plan.chunk)
    overhead = matmul_setup(t.tokens, 1 + shape.slots) + t.pipe + 8
    matrix = shape.token_groups * (
        shape.blocks * shape.groups * pace
        + column_tiles * row_tiles * overhead
        + shape.slots * (column_tiles * overhead + shape.rank_blocks * shape.groups * pace + shape.blocks * shape.rank_groups)
    )
    weight_beats = shape.blocks * shape.groups * t.wbuf_line_beats * shape.storage // 8 * (chunks if row_tiles > 1 else 1)
    x_beats = shape.token_groups * shape.blocks * t.abuf_line_beats * (column_tiles if chunks > 1 else 1)
    vector = shape.token_groups * shape.groups * t.tokens * max(t.ports // t.vector_lanes, 2 if shape.slots else 1)
    fill = tile_lines(shape, plan.columns, plan.rows) * t.wbuf_line_beats + plan.chunk * shape.blocks * t.abuf_line_beats
    drain = plan.chunk * plan.columns * t.tokens * t.ports // t.vector_lanes
    return int(max(matrix, (weight_beats + x_beats) * 1.05, vector) + fill + drain)


def pace_of(target: Target, linear: Linear, columns: int, blocks: int = 4) -> float:
    """Cycles a column group takes in a row of `columns` groups, from the schedule of the first rows."""
    t = target
    width = min(columns * t.ports, linear.n)
    rows = min(linear.k, blocks * t.lanes) // t.lanes * t.lanes
    groups = width // t.ports
    if not rows or not groups:
        return 1.0
    part = linear.weight.stored[:rows, : groups * t.ports].astype(np.int16)
    index = cache_index(part, linear.weight.fmt).reshape(rows // t.lanes, t.lanes, groups, t.ports)
    clear = np.zeros(groups, bool)
    clear[0] = True
    timing = matmul_timing(target, np.ascontiguousarray(index), clear)
    return timing.last_pop / (index.shape[0] * groups)


def make_plan(target: Target, linear: Linear, shape: Shape) -> Plan:
    """The cheapest tiling by the cost formula over a grid of tile sizes.

    Raises:
        BadModel: no tiling fits the target's buffers.
    """
    unit = shape.column_unit
    counts = sorted({-(-shape.groups // (n * unit)) * unit for n in range(1, shape.groups // unit + 1)}, reverse=True)
    best: Plan | None = None
    for columns in counts:
        pace = 0.0
        step = shape.per_group or 1
        row_counts = sorted({-(-shape.blocks // (n * step)) * step for n in range(1, shape.blocks // step + 1)}, reverse=True)
        found = 0
        for rows in row_counts:
            chunk = next(
                (c for c in range(min(shape.token_groups, MAX_CHUNK), 0, -1) if fits(target, shape, columns, rows, c)),
                0,
            )
            if not chunk:
                continue
            pace = pace or pace_of(target, linear, columns)
            for size in {chunk, max(1, chunk // 2), min(chunk, 4), min(chunk, 2)}:
                plan = Plan(columns, rows, size, 0, pace)
                plan = dataclasses.replace(plan, cycles=_cost(target, shape, plan, pace))
                if best is None or plan.cycles < best.cycles:
                    best = plan
            found += 1
            if found == 3:
                break
    if best is None:
        raise DoesNotFit(
            f"{linear.name}: {linear.k}x{linear.n} with {shape.tokens} tokens does not fit the buffers of target {target.name}",
            linear.name,
            "fewer tokens, a smaller max LoRA rank, or larger buffers",
        )
    return best
