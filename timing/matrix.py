"""MATMUL: issue cycles of each group, and the schedule of lanes, FIFOs and accumulators as a max-plus recurrence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import cached
from axlora.isa.formats import Format
from axlora.isa.opcodes import FILL_ADDS, MULTIPLES
from axlora.isa.target import Target

FIRST_ISSUE = 5
"""Cycles from g0 to the first group's first issue: S, F, W, D and the issue register."""

RAW_CYCLES = 3
"""Least distance of two pops that update the same accumulator word."""


def cache_index(codes: npt.NDArray[np.int16], fmt: Format) -> npt.NDArray[np.int16]:
    """Entry of the result cache, -1 where no product is needed (docs/isa.md): same shape."""
    if fmt.format_class == 2:
        return codes
    if fmt.format_class == 1:
        return np.where(codes == 0, -1, codes).astype(np.int16)
    return np.where(codes == 0, -1, np.abs(codes) & 127).astype(np.int16)


_STAMPS = 512
"""A power of two: entries of the result cache, and more."""


@cached
def reuse_issue(
    index: npt.NDArray[np.int16], clear: npt.NDArray[np.bool_], banks: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Issue cycles of each group [blocks, lanes, row], and codes multiplied and skipped of each column group [row].

    Args:
        index, clear: as `matmul_timing` takes them.
        banks: of the result cache, a power of two.
    """
    blocks, lanes, row, ports = index.shape
    cycles = np.empty((blocks, lanes, row), np.uint8)
    misses = np.zeros(row, np.int64)
    zeros = np.zeros(row, np.int64)
    stamp = np.zeros(_STAMPS, np.int64)
    now = 0
    for b in range(blocks):
        for lane in range(lanes):
            for r in range(row):
                if clear[r]:
                    now += 1
                    stamp[_STAMPS - 1] = now  # where the code -1 looks: it needs no product
                codes = index[b, lane, r]
                skipped, load = 0, np.int64(0)  # load: products of each bank, a byte each
                for p in range(ports):
                    i = np.uint16(codes[p]) & np.uint16(_STAMPS - 1)
                    load += np.int64(stamp[i] != now) << (np.int64(i) & (banks - 1)) * 8
                    stamp[i] = now
                    skipped += i == _STAMPS - 1
                zeros[r] += skipped
                worst = 1
                while load:
                    worst = max(worst, int(load & 255))
                    misses[r] += load & 255
                    load >>= 8
                cycles[b, lane, r] = worst
    return cycles, misses, zeros


@cached
def fixed_issue(
    blocks: int, lanes: int, row: int, ports: int, multipliers: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """As `reuse_issue`, of the engine `mac`: every code is multiplied."""
    cycles = np.full((blocks, lanes, row), ports // multipliers, np.uint8)
    return cycles, np.full(row, blocks * lanes * ports, np.int64), np.zeros(row, np.int64)


@cached
def table_issue(
    clear: npt.NDArray[np.bool_], blocks: int, lanes: int, adders: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """As `reuse_issue`, of the engine `table`; column groups between two that are `clear` share a fill.

    The next fill begins in the cycle in which the first group of this one is issued, so that a set of n groups lasts
    max(n, MULTIPLES / adders) cycles. Only the first fill of a MATMUL runs beside no look-ups.
    """
    row, fill = clear.size, MULTIPLES // adders
    cycles = np.ones((blocks, lanes, row), np.uint8)
    adds = np.where(clear, blocks * lanes * FILL_ADDS, 0)
    begin = row
    while not clear[begin - 1]:
        begin -= 1
    before = row - begin + 1  # groups of the last set: it is in front of the first one of the next block
    for r in range(row):
        if clear[r]:
            cycles[:, :, r] = 1 + max(0, fill - before)
            before = 0
        before += 1
    cycles[0, :, 0] = fill
    return cycles, adds, np.zeros(row, np.int64)


@cached
def schedule(
    cycles: npt.NDArray[np.uint8], latency: int, depth: int, raw_cycles: int, first_issue: int
) -> tuple[int, int, int, int]:
    """Cycle of the last pop, and cycles of lane_fifo_full, matrix_product and matrix_raw, of groups with these issue cycles."""
    blocks, lanes, row = cycles.shape
    total = blocks * row
    pop = np.empty(total, np.int64)
    last = np.full(lanes, first_issue - 1, np.int64)  # E of the previous group; g0 is time 0
    full = 0
    product = 0
    raw = 0
    before = -1
    for q in range(total):
        b = q // row
        r = q - b * row
        ready = 0
        place = pop[q - depth] + 1 if q >= depth else 0
        for lane in range(lanes):
            start = last[lane] + 1
            if place > start:
                full += place - start
                start = place
            end = start + cycles[b, lane, r] - 1
            last[lane] = end
            ready = max(ready, end)
        ready += latency + 1
        time = max(ready, before + 1)
        product += time - (before + 1)
        if q >= row:
            free = pop[q - row] + raw_cycles
            if free > time:
                raw += free - time
                time = free
        pop[q] = time
        before = time
    return before, full, product, raw


@dataclass(frozen=True)
class MatmulTiming:
    """Cycles and lane counters of one MATMUL, relative to g0."""

    last_pop: int
    """Cycle of the last pop, g0 = 0."""
    raw: int
    product: int
    lane_groups: int
    lane_misses: int
    lane_fifo_full: int
    misses: npt.NDArray[np.int64]
    """Codes multiplied, or additions of fills, per column group of the row: int64 [row]."""
    zeros: npt.NDArray[np.int64]
    """Zero codes skipped, per column group of the row: int64 [row]."""


def matmul_timing(target: Target, index: npt.NDArray[np.int16], clear: npt.NDArray[np.bool_]) -> MatmulTiming:
    """Time one MATMUL with at least one block and one active column group.

    Args:
        target: the machine.
        index: cache index of each code, -1 for a code that needs no product: int16 [blocks, lanes, row, ports].
        clear: whether the result cache is cleared, or tables are filled, before a column group: bool [row] (first always).

    Returns:
        Cycles from g0; docs/isa.md, Cycles, Matrix.
    """
    blocks, lanes, row, ports = index.shape
    if target.engine == "reuse":
        cycles, misses, zeros = reuse_issue(index, clear, target.multipliers)
    elif target.engine == "table":
        cycles, misses, zeros = table_issue(clear, blocks, lanes, target.multipliers)
    else:
        cycles, misses, zeros = fixed_issue(blocks, lanes, row, ports, target.multipliers)
    last, full, product, raw = schedule(cycles, target.multiplier_latency, target.fifo_depth, RAW_CYCLES, FIRST_ISSUE)
    groups = blocks * lanes * row
    return MatmulTiming(
        last_pop=int(last),
        raw=int(raw),
        product=int(product),
        lane_groups=groups,
        lane_misses=int(cycles.sum(dtype=np.int64)) - groups,
        lane_fifo_full=int(full),
        misses=misses,
        zeros=zeros,
    )


def matmul_setup(tokens: int, segments: int) -> int:
    """Cycles from accepting a MATMUL to g0."""
    return 2 + tokens + segments


def matmul_duration(target: Target, tokens: int, segments: int, last_pop: int | None) -> int:
    """d of a MATMUL; `last_pop` is None when nothing is active or there are no blocks."""
    if last_pop is None:
        return matmul_setup(tokens, segments) + 1
    return matmul_setup(tokens, segments) + last_pop + target.pipe
