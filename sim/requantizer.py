"""VREQ and VQT: accumulators to codes, with the records of columns in PBUF and the token words in TBUF."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import inner
from axlora.isa.numerics import block_quantize_token, requantize_element
from axlora.isa.opcodes import UBUF_BIT

from . import counts as c
from .faults import ACC_WORDS, OBUF_BYTES, PBUF_GROUPS, TBUF_TOKENS, UBUF_LINES, VBUF_WORDS, outside
from .state import SET_MISC, SET_VBANK, SET_VCFG, SET_VOUT, SET_VPITCH, SET_X, SET_Y, SET_Z, Bytes, Size, State

Int64 = npt.NDArray[np.int64]


@inner
def put(memory: Bytes, at: int, code: int, size: int) -> None:
    """The 1 << size bytes of a code to byte `at` on, low ones first."""
    for n in range(1 << size):
        memory[at + n] = (code >> (8 * n)) & 255


@inner
def column_place(size: Size, column: int, token: int) -> int:
    """Element of a column of a token in a region: [block][token][lane]."""
    return column // size.lanes * size.tokens * size.lanes + column % size.lanes + token * size.lanes


@inner
def write_region(size: Size, s: State, place: int, codes: Int64, log_bytes: int, to_ubuf: bool, fault: Int64) -> None:
    """Store [tokens, n] results as a region, in UBUF from line `place` or in OBUF from beat `place` on."""
    tokens, n = codes.shape
    if to_ubuf:
        line = place & (UBUF_BIT - 1)
        if outside(fault, UBUF_LINES, line, -(-n // size.lanes), size.ubuf_lines):
            return
        memory, log_bytes = s.ubuf, size.activation_bits >> 4
        first = (line * size.tokens * size.lanes) << log_bytes
    else:
        memory, first = s.obuf, place * size.beat
        last = first + ((column_place(size, n - 1, tokens - 1) + 1) << log_bytes)
        if last > len(s.obuf):
            fault[0], fault[1], fault[2] = OBUF_BYTES, last, len(s.obuf)
            return
    for t in range(tokens):
        for column in range(n):
            put(memory, first + (column_place(size, column, t) << log_bytes), codes[t, column], log_bytes)


@inner
def _write_words(size: Size, s: State, place: int, codes: Int64, fault: Int64) -> None:
    """[tokens, n] to VBUF from word `place` on, tokens a destination pitch apart; n a multiple of V."""
    tokens, n = codes.shape
    pitch, words = s.settings[SET_VPITCH, SET_Y], n // size.vector_lanes
    if outside(fault, VBUF_WORDS, place + (tokens - 1) * pitch, words, size.vbuf_words):
        return
    for t in range(tokens):
        first = (place + t * pitch) * size.vector_lanes
        for column in range(n):
            s.vbuf32[first + column] = codes[t, column]


@inner
def vreq(size: Size, s: State, x: int, y: int, groups: int, misc: int, count: Int64, fault: Int64) -> None:
    """VREQ of at least one column group: bank by bank, addresses mod 2^16."""
    tokens, apart, to = (misc & 7) + 1, s.settings[SET_VBANK, SET_X] & 0xFFFF, s.settings[SET_VBANK, SET_Y]
    for bank in range((misc >> 3) + 1):
        token = (x >> 16) + bank * tokens
        _bank(size, s, (x + bank * apart) & 0xFFFF, token, (y + bank * to) & 0xFFFF, groups, tokens, count, fault)
        if fault[0]:
            return


@inner
def _bank(size: Size, s: State, word: int, token: int, y: int, groups: int, tokens: int, count: Int64, fault: Int64) -> None:
    """The tokens of one bank of VREQ, from ACC word `word` on and with the scales from `token` on, to place y."""
    cfg, out = s.settings[SET_VCFG], s.settings[SET_VOUT]
    ports, n = size.ports, groups * size.ports
    adapter = cfg[SET_MISC] >> 11 & 1
    base = cfg[SET_X] & 0xFFFF
    if outside(fault, TBUF_TOKENS, token, tokens, size.tbuf_tokens):
        return
    if outside(fault, PBUF_GROUPS, base, groups, size.pbuf_groups):
        return
    if outside(fault, ACC_WORDS, word, groups, size.acc_words):
        return
    records = np.empty(tokens, np.int64)
    word2 = (word + cfg[SET_Z]) & 0xFFFF
    if adapter:
        for t in range(tokens):
            records[t] = -1
            slot = np.int64(s.tbuf32[token + t] & 15)
            if slot:
                records[t] = ((cfg[SET_X] >> 16) + (slot - 1) * cfg[SET_Y]) & 0xFFFF
                if outside(fault, PBUF_GROUPS, records[t], groups, size.pbuf_groups):
                    return
        if outside(fault, ACC_WORDS, word2, groups, size.acc_words):
            return
    bias_shift, bias_end, guard = cfg[SET_MISC] >> 7 & 15, (cfg[SET_MISC] >> 6 & 1) == 1, cfg[SET_MISC] & 31
    scaled, log_bytes = (cfg[SET_MISC] >> 5 & 1) == 1, out[SET_MISC] & 3
    zero = np.int64(np.int16(out[SET_X]))
    codes = np.empty((tokens, n), np.int64)
    changed = 0
    for t in range(tokens):
        meta = s.token_words[token + t] if cfg[SET_MISC] >> 12 else np.int64(s.tbuf32[token + t])
        own, exponent = records[t] if adapter else -1, s.exponent[token + t]
        for column in range(n):
            group, port = column // ports, column % ports
            record = base * ports + column
            shift = np.int64(s.pbuf[8 * record + 6]) & 63
            acc2 = m2 = np.int64(0)
            if adapter:
                acc2 = s.acc[((word2 + group) * size.tokens + t) * ports + port]
            if own >= 0:
                record = own * ports + column
                m2 = np.int64(s.pbuf16[4 * record + 3])
            code, different = requantize_element(
                s.acc[((word + group) * size.tokens + t) * ports + port],
                np.int64(s.pbuf32[2 * record]),
                np.int64(s.pbuf16[4 * record + 2]),
                shift,
                acc2,
                m2,
                exponent,
                scaled,
                meta >> 16,
                meta >> 10 & 63,
                bias_shift,
                bias_end,
                guard,
                zero,
                8 << log_bytes,
            )
            codes[t, column] = code
            changed += different
    count[c.VECTOR_ELEMENTS] += codes.size
    count[c.SATURATIONS] += changed
    if out[SET_MISC] & 8:
        _write_words(size, s, y, codes, fault)
    else:
        write_region(size, s, y, codes, log_bytes, (out[SET_MISC] & 4) > 0, fault)


@inner
def vqt(size: Size, s: State, x: int, y: int, groups: int, misc: int, count: Int64, fault: Int64) -> int:
    """VQT: the tokens that take part, a bit each."""
    tokens, slot, word, token = (misc & 7) + 1, misc >> 3, x & 0xFFFF, x >> 16
    if outside(fault, TBUF_TOKENS, token, tokens, size.tbuf_tokens):
        return 0
    taking = 0
    for t in range(tokens):
        taking |= (slot == 0 or slot == s.tbuf32[token + t] & 15) << t
    if taking == 0:
        return 0
    if groups == 0:
        for t in range(tokens):
            if taking >> t & 1:
                s.exponent[token + t] = 0
        return taking
    ports, n = size.ports, groups * size.ports
    cfg = s.settings[SET_VCFG]
    base = cfg[SET_X] & 0xFFFF
    if outside(fault, PBUF_GROUPS, base, groups, size.pbuf_groups):
        return 0
    if outside(fault, ACC_WORDS, word, groups, size.acc_words):
        return 0
    line = y & (UBUF_BIT - 1)
    if outside(fault, UBUF_LINES, line, -(-n // size.lanes), size.ubuf_lines):
        return 0
    acc, bias, m1, shift = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    codes, changed = np.empty(n, np.int64), np.empty(n, np.bool_)
    for column in range(n):
        record = base * ports + column
        bias[column], m1[column] = s.pbuf32[2 * record], s.pbuf16[4 * record + 2]
        shift[column] = np.int64(s.pbuf[8 * record + 6]) & 63
    log_bytes = size.activation_bits >> 4
    for t in range(tokens):
        if not taking >> t & 1:
            continue
        for column in range(n):
            acc[column] = s.acc[((word + column // ports) * size.tokens + t) * ports + column % ports]
        s.exponent[token + t] = block_quantize_token(
            acc, bias, m1, shift, cfg[SET_MISC] >> 7 & 15, size.activation_bits, codes, changed
        )
        for column in range(n):
            at = line * size.tokens * size.lanes + column_place(size, column, t)
            put(s.ubuf, at << log_bytes, codes[column], log_bytes)
        count[c.VECTOR_ELEMENTS] += n
        for column in range(n):
            count[c.SATURATIONS] += changed[column]
    return taking
