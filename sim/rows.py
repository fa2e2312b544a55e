"""The row side of the vector unit: VMAP and VROW on CBUF, VBUF, function tables, the rows' reductions and scalars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.numerics import clamp_bytes, map_element, reduce_element, reduce_none, row_scalar_element
from axlora.isa.opcodes import CBUF_BIT, READ_AFTER, UBUF_BIT, Into, Map, Reduce, Row

from . import counts as c
from .faults import CBUF_WORDS, OBUF_BEATS, OBUF_BYTES, TABLE_ENTRIES, TOKENS, UBUF_LINES, VBUF_WORDS, outside
from .requantizer import put, write_region
from .state import SET_MISC, SET_VBANK, SET_VCON, SET_VLEN, SET_VPITCH, SET_VTAB, SET_X, SET_Y, SET_Z, Size, State

Int64 = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]


@inner
def _place(r: int, bank: int, pitch: int, apart: int) -> int:
    """Where row r begins, less where the first does: rows of a bank are a pitch apart, and banks `apart`."""
    return r % bank * pitch + r // bank * apart


@inner
def _end(rows: int, bank: int, pitch: int, apart: int) -> int:
    """The largest of them: pitches are not negative."""
    last = _place(rows - 1, bank, pitch, apart)
    return max(last, _place(rows // bank * bank - 1, bank, pitch, apart)) if rows > bank else last


@inner
def _operand(size: Size, s: State, address: int, end: int, words: int, fault: Int64) -> Words:
    """The buffer that an address of rows names (bit 15: CBUF); `end`: as `_end`."""
    first = address & (CBUF_BIT - 1)
    if address & CBUF_BIT:
        outside(fault, CBUF_WORDS, first + end, words, size.cbuf_words)
        return s.cbuf32
    outside(fault, VBUF_WORDS, first + end, words, size.vbuf_words)
    return s.vbuf32


@inner
def vmap(size: Size, s: State, sub: int, x: int, y: int, words: int, misc: int, count: Int64, fault: Int64) -> None:
    """VMAP of at least one word. Word q reads what the words up to q - READ_AFTER wrote."""
    function, reduction, into = sub & 3, sub >> 2, misc >> 6 & 3
    rows, v = (misc & 63) + 1, size.vector_lanes
    pitch, constants, intervals = s.settings[SET_VPITCH], s.settings[SET_VCON], s.settings[SET_VTAB]
    banks, bank = s.settings[SET_VBANK], s.settings[SET_VBANK, SET_MISC] + 1
    pitch_a, pitch_b, apart_a, apart_b = pitch[SET_X] & 0xFFFF, pitch[SET_X] >> 16, banks[SET_X] & 0xFFFF, banks[SET_X] >> 16
    a = b = _operand(size, s, x & 0xFFFF, _end(rows, bank, pitch_a, apart_a), words, fault)
    if fault[0]:
        return
    reads_b = function == Map.MAC or function == Map.MUL
    if reads_b:
        b = _operand(size, s, x >> 16, _end(rows, bank, pitch_b, apart_b), words, fault)
        if fault[0]:
            return
    first_a, first_b = x & (CBUF_BIT - 1), x >> 16 & (CBUF_BIT - 1)
    table = s.table32[:1]
    if function == Map.TABLE:
        first, entries = intervals[SET_Y], intervals[SET_Z] + 1
        if outside(fault, TABLE_ENTRIES, first, entries, size.table_entries):
            return
        table = s.table32[first : first + entries]
    last = y + _end(rows, bank, pitch[SET_Y], banks[SET_Y])
    if into == Into.VBUF and outside(fault, VBUF_WORDS, last, words, size.vbuf_words):
        return
    ca, cb = np.int64(np.int16(constants[SET_X] & 0xFFFF)), np.int64(np.int16(constants[SET_X] >> 16))
    low, interval = np.int64(np.int32(intervals[SET_X])), intervals[SET_MISC] & 31
    scale, less, subtract = s.factors[misc >> 10 & 3], s.factors[misc >> 12 & 3, 0], misc >> 14 & 1
    log_bytes, out, changed = misc >> 8 & 3, np.zeros((rows, words * v), np.int64), 0
    for r in range(rows):
        reduced = np.int64(reduce_none(reduction))
        valid = min(words * v, s.settings[SET_VLEN, SET_X] + r % bank * (s.settings[SET_VLEN, SET_MISC] & 1))
        at_a = (first_a + _place(r, bank, pitch_a, apart_a)) * v
        at_b = (first_b + _place(r, bank, pitch_b, apart_b)) * v
        own = r % bank if misc >> 16 else r
        shift, factor = constants[SET_Y], scale[0, own]
        if function == Map.SCALE:
            shift = scale[1, own]
        elif function == Map.TABLE:
            shift = intervals[SET_MISC] >> 6
        minus = less[own] if subtract else np.int64(0)
        for n in range(words * v):
            q = r * words + n // v
            if into == Into.VBUF and n % v == 0 and q >= READ_AFTER:
                _write_word(s, size, q - READ_AFTER, words, y, out)
            if n >= valid:
                continue
            z = np.int64(b[at_b + n]) if reads_b else np.int64(0)
            value, raw = map_element(function, np.int64(a[at_a + n]), z, ca, cb, shift, factor, minus, low, interval, table)
            if reduction != Reduce.NONE:
                reduced = reduce_element(reduction, reduced, value)
            held = value if into == Into.NOTHING else clamp_bytes(value, 1 << log_bytes)
            changed += value != raw or held != value
            out[r, n] = held
        if reduction != Reduce.NONE:
            s.reduced[r] = reduced
    count[c.VECTOR_ELEMENTS], count[c.SATURATIONS] = out.size, changed
    if into == Into.VBUF:
        for q in range(max(0, rows * words - READ_AFTER), rows * words):
            _write_word(s, size, q, words, y, out)
    elif into == Into.UBUF:
        for first in range(0, rows, bank):
            line = (y & (UBUF_BIT - 1)) + first // bank * banks[SET_Y]
            if outside(fault, UBUF_LINES, line, -(-words * v // size.lanes), size.ubuf_lines):
                return
            write_region(size, s, line, out[first : first + bank], log_bytes, True, fault)
    elif into == Into.OBUF:
        if misc >> 15 & 1:
            _tile_obuf(size, s, y, out, fault)
        else:
            _to_obuf(size, s, y, out, log_bytes, fault)


@inner
def _destination(s: State, place: int, r: int) -> int:
    """Where row r of a result goes, in words or beats."""
    return place + _place(r, s.settings[SET_VBANK, SET_MISC] + 1, s.settings[SET_VPITCH, SET_Y], s.settings[SET_VBANK, SET_Y])


@inner
def _write_word(s: State, size: Size, q: int, words: int, place: int, out: Int64) -> None:
    """Word q of the values to its place in VBUF."""
    r, w, v = q // words, q % words, size.vector_lanes
    for e in range(v):
        s.vbuf32[(_destination(s, place, r) + w) * v + e] = out[r, w * v + e]


@inner
def _fits(s: State, first: int, count: int, fault: Int64) -> bool:
    if first + count > len(s.obuf):
        fault[0], fault[1], fault[2] = OBUF_BYTES, first + count, len(s.obuf)
        return False
    return True


@inner
def _to_obuf(size: Size, s: State, place: int, values: Int64, log_bytes: int, fault: Int64) -> None:
    """[rows, n] to OBUF from beat `place` on."""
    for r in range(len(values)):
        first = _destination(s, place, r) * size.beat
        if not _fits(s, first, values.shape[1] << log_bytes, fault):
            return
        for n in range(values.shape[1]):
            put(s.obuf, first + (n << log_bytes), values[r, n], log_bytes)


@inner
def _tile_obuf(size: Size, s: State, place: int, values: Int64, fault: Int64) -> None:
    """`_to_obuf` of bytes, P to a beat, as often as a beat holds them."""
    columns = values.shape[1]
    for r in range(len(values)):
        first = _destination(s, place, r) * size.beat
        if not _fits(s, first, -(-columns // size.ports) * size.beat, fault):
            return
        for n in range(columns):
            at = first + n // size.ports * size.beat + n % size.ports
            for copy in range(size.beat // size.ports):
                s.obuf[at + copy * size.ports] = values[r, n] & 255


@inner
def vrow(size: Size, s: State, function: int, x: int, y: int, z: int, misc: int, fault: Int64) -> None:
    """VROW: sets the rows' scalars, the token scales of TOKEN, and OBUF if it is asked to."""
    rows, token, scalar = (misc & 63) + 1, x >> 16, misc >> 6 & 3
    if function == Row.TOKEN and outside(fault, TOKENS, token, rows, size.tbuf_tokens):
        return
    writes = misc >> 8
    if writes and outside(fault, OBUF_BEATS, y, rows, size.obuf_beats):
        return
    add = 0 if function == Row.TOKEN else token
    for r in range(rows):
        factor, shift, value, mantissa, token_shift = row_scalar_element(
            function,
            s.reduced[r],
            x & 0xFFFF,
            add,
            z & 63,
            np.int64(np.int8(z >> 6 & 255)),
            np.int64(np.int8(y & 255)),
        )
        s.factors[scalar, 0, r], s.factors[scalar, 1, r] = factor, shift
        if function == Row.TOKEN:
            s.token_words[token + r] = mantissa << 16 | token_shift << 10
        if writes:
            for n in range(size.beat // 4):
                put(s.obuf, (y + r) * size.beat + 4 * n, value, 2)
