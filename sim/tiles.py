"""Weights of a MATMUL as values, with the timing that they cause: decoded at their first use, kept while there is room."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.formats import Format, unpack
from axlora.isa.opcodes import SEGMENTS
from axlora.isa.target import Target
from axlora.timing.matrix import FIRST_ISSUE, RAW_CYCLES, cache_index, reuse_issue, schedule

from .errors import ROOM
from .state import (
    SEG_BLOCK_STRIDE,
    SEG_FORMAT,
    SEG_GROUP_STRIDE,
    SEG_GROUPS,
    SEG_LINE,
    Size,
    State,
)

Int64 = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]

_SLOTS = 1024
"""Tiles that are remembered, at most; a power of two."""
_OF_SEGMENT = 6
_KEY = 2 + _OF_SEGMENT * SEGMENTS
AT, LAST_POP, TILE_FULL, TILE_PRODUCT, TILE_RAW, TILE_MISSES, SEGMENT_MISSES, SEGMENT_ZEROS = (
    *range(7),
    6 + SEGMENTS,
)
"""Places in what is known of a tile: where its values begin, its timing, and for each segment codes multiplied and skipped."""
_KNOWN = SEGMENT_ZEROS + SEGMENTS


def _of_format(fmt: Format) -> tuple[Codes, Codes]:
    """Value and cache index of each stored code [256]."""
    stored = np.arange(1 << fmt.storage, dtype=np.uint8)
    code = unpack(stored, fmt)[:: 8 // fmt.storage]
    padding = (0, 256 - code.size)
    return np.pad(code, padding), np.pad(cache_index(code, fmt), padding)


VALUES, INDICES = (np.stack(each) for each in zip(*map(_of_format, Format), strict=True))
"""[format, stored code]: value (of CB4 the place in the codebook), and entry of the result cache or -1."""
GREATEST = np.array([128 if fmt is Format.CB4 else int(np.abs(VALUES[fmt]).max()) for fmt in Format])
"""Bound of a code's magnitude."""
CODEBOOK_FORMAT = int(Format.CB4)
SUB_BITS = np.array([{8: 0, 4: 1, 2: 2}[fmt.storage] for fmt in Format])
"""log2 of the groups in a word of WBUF."""
_CLASSES = np.array([fmt.format_class for fmt in Format])


class Tiles(NamedTuple):
    """Tiles by format, place and version of their codes, the last one of each hash."""

    keys: Int64
    """[_SLOTS, _KEY]."""
    known: Int64
    """[_SLOTS, _KNOWN]."""
    values: Codes
    """Those of each tile, segment by segment [rows, columns]."""
    used: Int64
    """[1], of `values`."""


def room_for(target: Target, codes: int = 0) -> Tiles:
    """No tiles, and room for as many codes as WBUF holds, at least `codes`."""
    most = max(codes, 4 * target.wbuf_lines * target.wbuf_line_bytes)
    return Tiles(
        np.zeros((_SLOTS, _KEY), np.int64),
        np.zeros((_SLOTS, _KNOWN), np.int64),
        np.empty(most, np.int16),
        np.zeros(1, np.int64),
    )


@inner
def group_index(s: State, segment: int, block: int, group: int) -> np.int64:
    """gi of docs/isa.md."""
    of = s.segments[segment]
    return np.int64((block * of[SEG_BLOCK_STRIDE] + group * of[SEG_GROUP_STRIDE]) & 0xFFFF)


@inner
def last_line(s: State, segment: int, blocks: int) -> int:
    """Greatest line offset that a segment reads."""
    last = 0
    for b in range(blocks):
        for g in range(s.segments[segment, SEG_GROUPS]):
            last = max(last, int(group_index(s, segment, b, g)))
    return last >> int(SUB_BITS[s.segments[segment, SEG_FORMAT]])


@inner
def find(size: Size, s: State, tiles: Tiles, active: Int64, lasts: Int64, blocks: int, fault: Int64) -> int:
    """Place of a tile among those known; it is decoded if it is not.

    Args:
        active: segments of the tile.
        lasts: `last_line` of each of them.
    """
    key = np.zeros(_KEY, np.int64)
    key[0], key[1] = blocks, len(active)
    total = 0
    for n in range(len(active)):
        of = s.segments[active[n]]
        newest = 0
        for line in range(of[SEG_LINE], of[SEG_LINE] + lasts[n] + 1):
            newest = max(newest, s.versions[line])
        at = 2 + _OF_SEGMENT * n
        key[at] = of[SEG_FORMAT] + (s.now[1] << 4 if of[SEG_FORMAT] == CODEBOOK_FORMAT else 0)
        key[at + 1], key[at + 2] = of[SEG_LINE], of[SEG_GROUPS]
        key[at + 3], key[at + 4], key[at + 5] = of[SEG_BLOCK_STRIDE], of[SEG_GROUP_STRIDE], newest
        total += of[SEG_GROUPS]
    mixed = 0
    for n in range(2 + _OF_SEGMENT * len(active)):
        mixed = (mixed ^ key[n]) * 0x9E3779B97F4A7C1 + (mixed >> 29)
    place = (mixed >> 20) & (_SLOTS - 1)
    same = True
    for n in range(_KEY):
        same = same and tiles.keys[place, n] == key[n]
    if same:
        return place
    codes = blocks * size.lanes * total * size.ports
    if tiles.used[0] + codes > len(tiles.values):
        if codes > len(tiles.values):
            fault[0], fault[1] = ROOM, codes
            return -1
        tiles.used[0] = 0
        for n in range(_SLOTS):
            tiles.keys[n, 0] = 0
    for n in range(_KEY):
        tiles.keys[place, n] = key[n]
    tiles.known[place, AT] = tiles.used[0]
    tiles.used[0] += codes
    _time(size, s, active, blocks, total, _decode(size, s, tiles, active, blocks, total, place), tiles.known[place])
    return place


@inner
def _decode(size: Size, s: State, tiles: Tiles, active: Int64, blocks: int, total: int, place: int) -> npt.NDArray[np.int16]:
    """Write the values of a tile; its cache indices [blocks, lanes, groups, ports]."""
    lanes, ports = size.lanes, size.ports
    index = np.empty((blocks, lanes, total, ports), np.int16)
    at, before = tiles.known[place, AT], 0
    for segment in active:
        of = s.segments[segment]
        fmt, groups = of[SEG_FORMAT], of[SEG_GROUPS]
        indices, values = INDICES[fmt], np.empty(256, np.int16)
        for n in range(256):
            values[n] = s.codebook[n & 15] if fmt == CODEBOOK_FORMAT else VALUES[fmt, n]
        bits = SUB_BITS[fmt]
        width, mask = 8 >> bits, (1 << bits) - 1
        into = tiles.values[at : at + blocks * lanes * groups * ports].reshape(blocks, lanes, groups, ports)
        for b in range(blocks):
            for lane in range(lanes):
                for g in range(groups):
                    gi = group_index(s, segment, b, g)
                    word = ((of[SEG_LINE] + (gi >> bits)) * lanes + lane) * ports
                    stored, own, places = s.wbuf[word : word + ports], into[b, lane, g], index[b, lane, before + g]
                    if bits:
                        for p in range(ports):
                            n = (gi & mask) * ports + p
                            code = np.uint8((stored[n >> bits] >> ((n & mask) * width)) & ((1 << width) - 1))
                            own[p], places[p] = values[code], indices[code]
                    else:
                        for p in range(ports):
                            own[p], places[p] = values[stored[p]], indices[stored[p]]
        at += blocks * lanes * groups * ports
        before += groups
    return index


@inner
def _time(size: Size, s: State, active: Int64, blocks: int, total: int, index: npt.NDArray[np.int16], known: Int64) -> None:
    """Note the timing of a tile."""
    if size.reuse:
        clear = np.zeros(total, np.bool_)
        last, group = -1, 0
        for segment in active:
            own = _CLASSES[s.segments[segment, SEG_FORMAT]]
            clear[group] = own != last
            last = own
            group += s.segments[segment, SEG_GROUPS]
        cycles, misses, zeros = reuse_issue(index, clear, size.multipliers)
    else:
        cycles, zeros = np.empty((blocks, size.lanes, total), np.uint8), np.zeros(total, np.int64)
        misses = np.empty(total, np.int64)
        for group in range(total):
            misses[group] = blocks * size.lanes * size.ports
            for b in range(blocks):
                for lane in range(size.lanes):
                    cycles[b, lane, group] = size.ports // size.multipliers
    known[LAST_POP], known[TILE_FULL], known[TILE_PRODUCT], known[TILE_RAW] = schedule(
        cycles, size.multiplier_latency, size.fifo_depth, RAW_CYCLES, FIRST_ISSUE
    )
    known[TILE_MISSES] = -cycles.size
    for b in range(blocks):
        for lane in range(size.lanes):
            for group in range(total):
                known[TILE_MISSES] += np.int64(cycles[b, lane, group])
    first = 0
    for n in range(len(active)):
        known[SEGMENT_MISSES + n] = known[SEGMENT_ZEROS + n] = 0
        last = first + s.segments[active[n], SEG_GROUPS]
        for group in range(first, last):
            known[SEGMENT_MISSES + n] += misses[group]
            known[SEGMENT_ZEROS + n] += zeros[group]
        first = last
