"""Weights of a MATMUL as values, with the timing that they cause: decoded at their first use, kept while there is room."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.formats import Format, unpack
from axlora.isa.opcodes import SEGMENTS
from axlora.isa.target import ENGINES, Target
from axlora.timing.matrix import FIRST_ISSUE, RAW_CYCLES, cache_index, fixed_issue, reuse_issue, schedule, table_issue

from .faults import ROOM
from .state import (
    CODEBOOKS,
    RUN,
    SEG_BLOCK_STRIDE,
    SEG_FORMAT,
    SEG_GROUP_STRIDE,
    SEG_GROUPS,
    SEG_LINE,
    Bytes,
    Size,
    State,
)

Int64 = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]

_SLOTS = 1 << 15
"""Tiles that are remembered, at most; a power of two."""
_USUAL = 1 << 24
"""Codes of all of them, at most, where WBUF does not hold more."""
_OF_PLACE = 6
_PLACE_KEY = 3 + _OF_PLACE * SEGMENTS
_OF_CONTENT = 4
_CONTENT_KEY = 5 + _OF_CONTENT * SEGMENTS
(
    AT, VALUES_AT, ROUND, SERIAL, LAST_POP, TILE_FULL, TILE_PRODUCT, TILE_RAW, TILE_MISSES, SEGMENT_MISSES, SEGMENT_ZEROS
) = *range(10), 9 + SEGMENTS  # fmt: skip
"""Places in what is known of a tile: where its codes begin; where its values, and in which round of them; its number; its
timing; and for each segment codes multiplied and skipped."""
_KNOWN = SEGMENT_ZEROS + SEGMENTS
_USED, _LAST_SERIAL, _VALUED, ROUNDS = range(4)
"""Places in `Tiles.now`: codes in use; number of the last tile that was timed; values in use, and how often they began anew."""


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
_REUSE, _TABLE = ENGINES.index("reuse"), ENGINES.index("table")


class Tiles(NamedTuple):
    """Tiles by place and version of their codes in a run, and by content in all runs; of each hash the last one."""

    places: Int64
    """[_SLOTS, _PLACE_KEY]."""
    found: Int64
    """[_SLOTS, 2]: row of `contents`, and the number of the tile that was there."""
    contents: Int64
    """[_SLOTS, _CONTENT_KEY]."""
    known: Int64
    """[_SLOTS, _KNOWN], of the same rows."""
    raw: Bytes
    """Codes as WBUF has them, line by line; `words` are the same in pieces of 8 bytes."""
    words: Int64
    values: Codes
    """Of tiles that were used last, segment by segment [rows, columns]."""
    now: Int64


def room_for(target: Target, codes: int = 0, remembered: int = 0) -> Tiles:
    """No tiles, and room for the codes that WBUF holds, at least `codes`; `remembered`: so many may be known without values."""
    most = (max(codes, _USUAL, 4 * target.wbuf_lines * target.wbuf_line_bytes) + 7) // 8 * 8
    words = np.empty(max(most, remembered) // 8, np.int64)
    return Tiles(
        places=np.zeros((_SLOTS, _PLACE_KEY), np.int64),
        found=np.zeros((_SLOTS, 2), np.int64),
        contents=np.zeros((_SLOTS, _CONTENT_KEY), np.int64),
        known=np.zeros((_SLOTS, _KNOWN), np.int64),
        raw=words.view(np.uint8),
        words=words,
        values=np.empty(most, np.int16),
        now=np.zeros(4, np.int64),
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
def _row(key: Int64) -> int:
    """Row of a table in which a key is looked for."""
    mixed = np.int64(0)
    for n in range(len(key)):
        mixed = (mixed ^ key[n]) * 0x9E3779B97F4A7C1 + (mixed >> 29)
    return int((mixed >> 20) & (_SLOTS - 1))


@inner
def _same(one: Int64, other: Int64) -> bool:
    different = np.int64(0)
    for n in range(len(one)):
        different |= one[n] ^ other[n]
    return bool(different == 0)


@inner
def find(size: Size, s: State, tiles: Tiles, active: Int64, lasts: Int64, blocks: int, fault: Int64) -> int:
    """Row of `Tiles.known` that tells of a tile; it is decoded if there is none.

    Args:
        active: segments of the tile.
        lasts: `last_line` of each of them.
    """
    key = np.zeros(_PLACE_KEY, np.int64)
    key[0], key[1], key[2] = s.now[RUN], blocks, len(active)
    groups = 0
    for n in range(len(active)):
        of, at = s.segments[active[n]], 3 + _OF_PLACE * n
        newest = 0
        for line in range(of[SEG_LINE], of[SEG_LINE] + lasts[n] + 1):
            newest = max(newest, s.versions[line])
        key[at] = of[SEG_FORMAT] + (s.now[CODEBOOKS] << 4 if of[SEG_FORMAT] == CODEBOOK_FORMAT else 0)
        key[at + 1], key[at + 2] = of[SEG_LINE], of[SEG_GROUPS]
        key[at + 3], key[at + 4], key[at + 5] = of[SEG_BLOCK_STRIDE], of[SEG_GROUP_STRIDE], newest
        groups += of[SEG_GROUPS]
    place = _row(key)
    found = tiles.found[place]
    codes = (blocks * groups * size.lanes * size.ports + 7) // 8 * 8
    if _same(tiles.places[place], key) and tiles.known[found[0], SERIAL] == found[1]:
        _value(size, s, tiles, active, blocks, codes, tiles.known[found[0]])
        return int(found[0])
    if codes > len(tiles.values):
        fault[0], fault[1] = ROOM, codes
        return -1
    if tiles.now[_USED] + codes > len(tiles.raw):
        tiles.now[_USED] = 0
        for n in range(_SLOTS):
            tiles.contents[n, 0] = tiles.known[n, SERIAL] = 0
    row = _by_content(size, s, tiles, active, blocks, groups, codes)
    _value(size, s, tiles, active, blocks, codes, tiles.known[row])
    for n in range(_PLACE_KEY):
        tiles.places[place, n] = key[n]
    found[0], found[1] = row, tiles.known[row, SERIAL]
    return row


@inner
def _by_content(size: Size, s: State, tiles: Tiles, active: Int64, blocks: int, groups: int, codes: int) -> int:
    """`find` among tiles of the same codes, of this run or another."""
    begin = tiles.now[_USED]
    tiles.words[(begin + codes) // 8 - 1] = 0
    to, line = begin, size.lanes * size.ports
    key = np.zeros(_CONTENT_KEY, np.int64)
    key[0], key[1] = blocks, len(active)
    for n in range(len(active)):
        of, at = s.segments[active[n]], 5 + _OF_CONTENT * n
        key[at], key[at + 1] = of[SEG_FORMAT], of[SEG_GROUPS]
        key[at + 2], key[at + 3] = of[SEG_BLOCK_STRIDE], of[SEG_GROUP_STRIDE]
        if of[SEG_FORMAT] == CODEBOOK_FORMAT:
            for e in range(16):
                key[2 + e // 8] |= (s.codebook[e] & 255) << e % 8 * 8
        for b in range(blocks):
            for g in range(of[SEG_GROUPS]):
                first = (of[SEG_LINE] + (group_index(s, active[n], b, g) >> SUB_BITS[of[SEG_FORMAT]])) * line
                stored, own = s.wbuf[first : first + line], tiles.raw[to : to + line]
                for m in range(line):
                    own[m] = stored[m]
                to += line
    words = tiles.words[begin // 8 : (begin + codes) // 8]
    mixed = np.int64(0)
    for n in range(len(words)):
        mixed += (words[n] ^ (words[n] >> 31)) * (2 * n + 0x9E3779B97F4A7C1)
    key[4] = mixed
    row = _row(key)
    known = tiles.known[row]
    old = known[AT] // 8
    if _same(tiles.contents[row], key) and _same(tiles.words[old : old + len(words)], words):
        return row
    for n in range(_CONTENT_KEY):
        tiles.contents[row, n] = key[n]
    tiles.now[_USED] += codes
    tiles.now[_LAST_SERIAL] += 1
    known[AT], known[SERIAL], known[ROUND] = begin, tiles.now[_LAST_SERIAL], -1
    _time(size, s, active, blocks, groups, _indices(size, s, tiles, active, blocks, groups, begin), known)
    return row


@inner
def _look_up(size: Size, s: State, segment: int, raw: Bytes, table: Codes, into: Codes, before: int) -> None:
    """Entries of a table for the codes of a segment.

    Args:
        raw: as `Tiles.raw`. table: [256].
        into: [blocks, lanes, groups, ports], of which those of the segment begin at group `before`.
    """
    lanes, ports, groups = size.lanes, size.ports, s.segments[segment, SEG_GROUPS]
    bits = SUB_BITS[s.segments[segment, SEG_FORMAT]]
    width, mask = 8 >> bits, (1 << bits) - 1
    lines = raw.reshape(len(into), groups, lanes, ports)
    twice, both = into.view(np.int32), np.empty(256, np.int32)
    """The same two by two, as nibbles of a byte are looked up."""
    for n in range(256):
        both[n] = table[n >> 4] << 16 | (table[n & 15] & 0xFFFF)
    for b in range(len(into)):
        for g in range(groups):
            first = (group_index(s, segment, b, g) & mask) * ports
            for lane in range(lanes):
                stored = lines[b, g, lane]
                if bits == 0:
                    one = into[b, lane, before + g]
                    for p in range(ports):
                        one[p] = table[stored[p]]
                elif bits == 1:
                    two = twice[b, lane, before + g]
                    for p in range(ports // 2):
                        two[p] = both[stored[first // 2 + p]]
                else:
                    one = into[b, lane, before + g]
                    for p in range(ports):
                        n = first + p
                        one[p] = table[(stored[n >> bits] >> (n & mask) * width) & ((1 << width) - 1)]


@inner
def _value(size: Size, s: State, tiles: Tiles, active: Int64, blocks: int, codes: int, known: Int64) -> None:
    """Have the values of a tile, whose codes are in `raw`."""
    if known[ROUND] == tiles.now[ROUNDS]:
        return
    if tiles.now[_VALUED] + codes > len(tiles.values):
        tiles.now[_VALUED] = 0
        tiles.now[ROUNDS] += 1
    known[VALUES_AT], known[ROUND] = tiles.now[_VALUED], tiles.now[ROUNDS]
    tiles.now[_VALUED] += codes
    at, to = known[AT], known[VALUES_AT]
    for segment in active:
        of = s.segments[segment]
        fmt, groups = of[SEG_FORMAT], of[SEG_GROUPS]
        count, table = blocks * size.lanes * groups * size.ports, VALUES[fmt]
        if fmt == CODEBOOK_FORMAT:
            table = np.empty(256, np.int16)
            for n in range(256):
                table[n] = s.codebook[n & 15]
        into = tiles.values[to : to + count].reshape(blocks, size.lanes, groups, size.ports)
        _look_up(size, s, segment, tiles.raw[at : at + count], table, into, 0)
        at, to = at + count, to + count


@inner
def _indices(size: Size, s: State, tiles: Tiles, active: Int64, blocks: int, total: int, at: int) -> Codes:
    """Cache indices [blocks, lanes, groups, ports] of a tile, whose codes are in `raw` from `at` on; none but of `reuse`."""
    reuses = size.engine == _REUSE
    index, before = np.empty((blocks if reuses else 0, size.lanes, total, size.ports), np.int16), 0
    for segment in active:
        if reuses:
            fmt, groups = s.segments[segment, SEG_FORMAT], s.segments[segment, SEG_GROUPS]
            last = at + blocks * size.lanes * groups * size.ports
            _look_up(size, s, segment, tiles.raw[at:last], INDICES[fmt], index, before)
            at, before = last, before + groups
    return index


@inner
def _time(size: Size, s: State, active: Int64, blocks: int, total: int, index: npt.NDArray[np.int16], known: Int64) -> None:
    """Note the timing of a tile."""
    clear = np.zeros(total, np.bool_)
    last, group = -1, 0
    for segment in active:
        own = _CLASSES[s.segments[segment, SEG_FORMAT]]
        clear[group] = own != last
        last = own
        group += s.segments[segment, SEG_GROUPS]
    if size.engine == _REUSE:
        cycles, misses, zeros = reuse_issue(index, clear, size.multipliers)
    elif size.engine == _TABLE:
        cycles, misses, zeros = table_issue(clear, blocks, size.lanes, size.multipliers)
    else:
        cycles, misses, zeros = fixed_issue(blocks, size.lanes, total, size.ports, size.multipliers)
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
