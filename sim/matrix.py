"""The matrix unit: the segment table, and MATMUL."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.numerics import wrap
from axlora.isa.opcodes import UBUF_BIT

from . import counts as c
from .faults import (
    ABUF_LINES,
    ACC_WORDS,
    GROUP_WORDS,
    SBUF_LINES,
    SCALE_GROUP,
    TBUF_TOKENS,
    UBUF_LINES,
    WBUF_LINES,
    outside,
)
from .state import (
    SEG_ACC,
    SEG_FORMAT,
    SEG_GROUPS,
    SEG_LINE,
    SEG_SCALE_LINE,
    SEG_SCALE_STRIDE,
    SEG_SCALED,
    SEG_SLOT,
    SEG_SUMS,
    Bytes,
    Size,
    State,
)
from .tiles import (
    GREATEST,
    LAST_POP,
    SEGMENT_MISSES,
    SEGMENT_ZEROS,
    TILE_FULL,
    TILE_MISSES,
    TILE_PRODUCT,
    TILE_RAW,
    VALUES_AT,
    Codes,
    Tiles,
    find,
    last_line,
)

Int64 = npt.NDArray[np.int64]


@inner
def element(memory: Bytes, n: int, bits: int) -> np.int64:
    """Element n of ABUF or UBUF."""
    if bits == 8:
        return np.int64(np.int8(memory[n]))
    return np.int64(np.int16(memory[2 * n] | np.uint16(memory[2 * n + 1]) << 8))


@inner
def _multiply_add(x: npt.NDArray[np.int32], first: int, last: int, values: Codes, total: npt.NDArray[Any]) -> None:
    """total += x[:, first:last] @ rows first..last-1 of values, in the type of `total`."""
    fours = last - (last - first) % 4
    for k in range(first, fours, 4):
        w0, w1, w2, w3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        for t in range(len(x)):
            v0, v1, v2, v3, sums = x[t, k], x[t, k + 1], x[t, k + 2], x[t, k + 3], total[t]
            for n in range(len(sums)):
                sums[n] += v0 * w0[n] + v1 * w1[n] + v2 * w2[n] + v3 * w3[n]
    for k in range(fours, last):
        weights = values[k]
        for t in range(len(x)):
            v, sums = x[t, k], total[t]
            for n in range(len(weights)):
                sums[n] += v * weights[n]


@inner
def _product(x: npt.NDArray[np.int32], first: int, last: int, peak: int, values: Codes, total: Int64, bits: int) -> None:
    """total = x[:, first:last] @ rows first..last-1 of values, wrapped to `bits`; in 32 bits where every sum fits them.

    Args:
        x: [tokens, rows]. values: [rows, columns]. total: [tokens, columns].
        peak: bound of the products' magnitudes.
    """
    tokens, columns = total.shape
    if peak * (last - first) < 1 << 31:
        narrow = np.zeros((tokens, columns), np.int32)
        _multiply_add(x, first, last, values, narrow)
        for t in range(tokens):
            for n in range(columns):
                total[t, n] = wrap(np.int64(narrow[t, n]), bits)
        return
    wide = np.zeros((tokens, columns), np.int64)
    _multiply_add(x, first, last, values, wide)
    for t in range(tokens):
        for n in range(columns):
            total[t, n] = wrap(wide[t, n], bits)


@inner
def _activations(size: Size, memory: Bytes, line: int, blocks: int, tokens: int) -> npt.NDArray[np.int32]:
    """[tokens, blocks*lanes]."""
    x = np.empty((tokens, blocks * size.lanes), np.int32)
    for b in range(blocks):
        for t in range(tokens):
            first = ((line + b) * size.tokens + t) * size.lanes
            for lane in range(size.lanes):
                x[t, b * size.lanes + lane] = element(memory, first + lane, size.activation_bits)
    return x


@inner
def _scaled(size: Size, s: State, segment: int, sums: Int64, sumx: Int64, total: Int64, fault: Int64) -> None:
    """total += (sums - zero point * sum of x) * scale, of each group of rows; sums [groups of rows, tokens, columns]."""
    of = s.segments[segment]
    rows, tokens, columns = sums.shape
    last = of[SEG_SCALE_LINE] + (rows - 1) * of[SEG_SCALE_STRIDE] + of[SEG_GROUPS] - 1
    if outside(fault, SBUF_LINES, last, 1, size.sbuf_lines):
        return
    for r in range(rows):
        for n in range(columns):
            line = of[SEG_SCALE_LINE] + r * of[SEG_SCALE_STRIDE] + n // size.ports
            at = line * size.sbuf_line + n % size.ports
            scale, zero = np.int64(s.sbuf[at]), np.int64(np.int8(s.sbuf[at + size.ports]))
            for t in range(tokens):
                total[t, n] += (sums[r, t, n] - zero * sumx[t, r]) * scale


@inner
def matmul(
    size: Size, s: State, tiles: Tiles, segments: int, x: int, y: int, blocks: int, misc: int, count: Int64, fault: Int64
) -> int:
    """MATMUL: cycle of the last pop, -1 where nothing is active.

    Args:
        x, y, misc: fields.
        count: [COUNTS], of this instruction.
    """
    tokens, per = (misc >> 1 & 7) + 1, misc >> 4
    token = x & 0xFFFF
    if outside(fault, TBUF_TOKENS, token, tokens, size.tbuf_tokens):
        return -1
    active, masks = np.empty(segments, np.int64), np.zeros((segments, tokens), np.bool_)
    number = 0
    for segment in range(segments):
        of = s.segments[segment]
        some = False
        for t in range(tokens):
            masks[number, t] = of[SEG_SLOT] == 0 or of[SEG_SLOT] == s.tbuf32[token + t] & 15
            some = some or masks[number, t]
        if of[SEG_GROUPS] and some:
            if of[SEG_SCALED] and per == 0:
                fault[0] = SCALE_GROUP
                return -1
            active[number] = segment
            number += 1
    if blocks == 0 or number == 0:
        return -1
    line = y & (UBUF_BIT - 1)
    if y & UBUF_BIT:
        if outside(fault, UBUF_LINES, line, blocks, size.ubuf_lines):
            return -1
        vectors = _activations(size, s.ubuf, line, blocks, tokens)
    else:
        if outside(fault, ABUF_LINES, line, blocks, size.abuf_lines):
            return -1
        vectors = _activations(size, s.abuf, line, blocks, tokens)
    lasts = np.empty(number, np.int64)
    for n in range(number):
        lasts[n] = last_line(s, active[n], blocks)
        if outside(fault, WBUF_LINES, s.segments[active[n], SEG_LINE], lasts[n] + 1, size.wbuf_lines):
            return -1
    place = find(size, s, tiles, active[:number], lasts, blocks, fault)
    if place < 0:
        return -1
    known = tiles.known[place]
    _multiply(size, s, tiles, known, active[:number], masks, vectors, (x >> 16, blocks, per, misc & 1), count, fault)
    count[c.RAW], count[c.PRODUCT] = known[TILE_RAW], known[TILE_PRODUCT]
    count[c.LANE_MISSES], count[c.LANE_FIFO_FULL] = known[TILE_MISSES], known[TILE_FULL]
    return int(known[LAST_POP])


@inner
def _multiply(
    size: Size,
    s: State,
    tiles: Tiles,
    known: Int64,
    active: Int64,
    masks: npt.NDArray[np.bool_],
    x: npt.NDArray[np.int32],
    fields: tuple[int, int, int, int],
    count: Int64,
    fault: Int64,
) -> None:
    """Sums of the active segments; `fields` are acc, blocks, blocks a scale group, and whether sums begin anew."""
    acc, blocks, per, anew = fields
    tokens, ports = len(x), size.ports
    peak = 0
    for t in range(tokens):
        for k in range(x.shape[1]):
            peak = max(peak, abs(int(x[t, k])))
    groups = -(-blocks // per) if per else 1
    sumx = np.zeros((tokens, groups), np.int64)
    at, column = known[VALUES_AT], 0
    for number in range(len(active)):
        of = s.segments[active[number]]
        mask = masks[number]
        n, taking = of[SEG_GROUPS], 0
        for t in range(tokens):
            taking += mask[t]
        columns, bound = n * ports, peak * GREATEST[of[SEG_FORMAT]]
        missed, coded = known[SEGMENT_MISSES + number] * taking, blocks * size.lanes * columns * taking
        count[c.MACS] += coded
        count[c.MULTIPLICATIONS] += missed
        count[c.ZEROS] += known[SEGMENT_ZEROS + number] * taking
        count[c.LANE_GROUPS] += blocks * size.lanes * n
        if of[SEG_SLOT]:
            count[c.ADAPTER_MACS] += coded
            count[c.ADAPTER_MULTIPLICATIONS] += missed
        rows, first = blocks * size.lanes, column
        values = tiles.values[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        column += n
        if of[SEG_SCALED]:
            if outside(fault, GROUP_WORDS, first, n, size.group_words):
                return
            of_group = per * size.lanes
            parts = np.empty((groups, tokens, columns), np.int64)
            for g in range(groups):
                last = min((g + 1) * of_group, rows)
                _product(x, g * of_group, last, bound, values, parts[g], size.accumulator_bits)
                if of[SEG_SUMS]:
                    for t in range(tokens):
                        if mask[t]:
                            sumx[t, g] = parts[g, t, columns - ports]
            if of[SEG_SUMS]:
                continue
        base = (of[SEG_ACC] + acc) & 0xFFFF
        if outside(fault, ACC_WORDS, base, n, size.acc_words):
            return
        total = np.zeros((tokens, columns), np.int64)
        if of[SEG_SCALED]:
            _scaled(size, s, active[number], parts, sumx, total, fault)
            if fault[0]:
                return
            count[c.RESCALES] += groups * columns * taking
        else:
            _product(x, 0, rows, bound, values, total, 64)
        for t in range(tokens):
            if mask[t]:
                for m in range(columns):
                    to = ((base + m // ports) * size.tokens + t) * ports + m % ports
                    s.acc[to] = wrap((0 if anew else s.acc[to]) + total[t, m], size.accumulator_bits)
