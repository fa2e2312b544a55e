"""LOAD and STORE: bytes between memory and buffers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.opcodes import POSTED, Buffer
from axlora.timing.memory import FIRST_BURST, answered, burst_beats, next_burst, part_address, store_run

from .faults import LIMIT, OBUF_BEATS, READ, WBUF_LINES, WRITE, outside
from .state import LOADS, SET_SPITCH, SET_X, SET_Y, Bytes, Size, State

Int64 = npt.NDArray[np.int64]


@inner
def load(size: Size, s: State, buffer: int, x: int, y: int, z: int, misc: int, fault: Int64) -> int:
    """LOAD: its beats."""
    beats = misc * z
    first = x - x % size.beat
    count = beats * size.beat
    if beats and first + count > size.limit:
        fault[0], fault[1], fault[2] = LIMIT, first + count, size.limit
        return 0
    if beats and first < size.bad_stop and first + count > size.bad_start:
        fault[0] = READ
        return 0
    if buffer == Buffer.WKEY:
        if beats:
            _load_columns(size, s, first, y, z, misc * size.beat, fault)
        return beats
    if buffer == Buffer.WBUF:
        into = s.wbuf
    elif buffer == Buffer.ABUF:
        into = s.abuf
    elif buffer == Buffer.PBUF:
        into = s.pbuf
    elif buffer == Buffer.TBUF:
        into = s.tbuf
    elif buffer == Buffer.SBUF:
        into = s.sbuf
    elif buffer == Buffer.CBUF:
        into = s.cbuf
    else:
        into = s.table
    if outside(fault, buffer, y, beats, len(into) // size.beat):
        return 0
    _copy(s.memory, first, into, y * size.beat, count)
    if buffer == Buffer.WBUF and count:
        line = size.lanes * size.ports
        _loaded(s, y * size.beat // line, (y * size.beat + count - 1) // line)
    return beats


@inner
def _copy(source: Bytes, first: int, into: Bytes, to: int, count: int) -> None:
    those, there = source[first : first + count], into[to : to + count]
    for n in range(count):
        there[n] = those[n]


@inner
def _loaded(s: State, first: int, last: int) -> None:
    """These lines of WBUF are new."""
    s.now[LOADS] += 1
    for line in range(first, last + 1):
        s.versions[line] = s.now[LOADS]


@inner
def _load_columns(size: Size, s: State, first: int, line: int, rows: int, count: int, fault: Int64) -> None:
    """WKEY: row r of the transfer becomes column r; element e of it goes to lane e mod L of the block's line."""
    blocks = -(-count // size.lanes)
    last = line + (rows - 1) // size.ports * blocks + (count - 1) // size.lanes
    if outside(fault, WBUF_LINES, last, 1, size.wbuf_lines):
        return
    for r in range(rows):
        to = (line + r // size.ports * blocks) * size.lanes * size.ports + r % size.ports
        for e in range(count):
            s.wbuf[to + e * size.ports] = s.memory[first + r * count + e]
    _loaded(s, line, last)


@inner
def store(size: Size, s: State, width: int, x: int, y: int, z: int, misc: int, fault: Int64) -> int:
    """STORE: its duration.

    Args:
        width: bytes of each beat, 0 for all of them.
    """
    row, part = s.settings[SET_SPITCH, SET_X], s.settings[SET_SPITCH, SET_Y]
    answers, start, number = np.zeros(POSTED, np.int64), FIRST_BURST, 0
    beat = y
    for n in range(z * misc if width else z if row else 1):
        at, beats = store_run(n, x, z, misc, width > 0, size.beat, row, part)
        while beats > 0:
            count = burst_beats(at // size.beat, beats, size.burst_beats)
            stop = at + count * size.beat
            if outside(fault, OBUF_BEATS, beat, count, size.obuf_beats):
                return 0
            if stop > size.limit:
                fault[0], fault[1], fault[2] = LIMIT, stop, size.limit
                return 0
            if at < size.bad_stop and stop > size.bad_start:
                fault[0] = WRITE
                return 0
            if not width:
                _copy(s.obuf, beat * size.beat, s.memory, at, count * size.beat)
            start = next_burst(answers, number, start, count, size.write_latency)
            number += 1
            beat += count
            beats -= count
            at = stop
    if width:
        for n in range(z * misc):
            to = part_address(n, x, misc, size.beat, row, part)
            place = to % size.beat
            _copy(s.obuf, (y + n) * size.beat + place, s.memory, to, min(width, size.beat - place))
    return answered(answers, number)
