"""The machine's memories and settings, in arrays that compiled loops read and write."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import ROWS, SCALARS, SEGMENTS
from axlora.isa.target import ENGINES, Target

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

LOADS, CODEBOOKS, RUN, _NOW = range(4)
"""Places in `State.now`: LOADs that wrote WBUF; times that CODEBOOK was set; number of the run in this process."""
SET_VCFG, SET_VOUT, SET_VLEN, SET_VPITCH, SET_VCON, SET_VTAB, SET_SPITCH, SET_VBANK, _SETTINGS = range(9)
"""Rows of `State.settings`."""
SET_X, SET_Y, SET_Z, SET_MISC = range(4)
(
    SEG_FORMAT,
    SEG_SLOT,
    SEG_LINE,
    SEG_GROUPS,
    SEG_BLOCK_STRIDE,
    SEG_GROUP_STRIDE,
    SEG_ACC,
    SEG_SCALE_LINE,
    SEG_SCALE_STRIDE,
    SEG_SCALED,
    SEG_SUMS,
    _MEMBERS,
) = range(12)
"""Columns of `State.segments`: SEGW sets those up to the group stride, SEGA the others."""


_RUNS = itertools.count(1)


class Size(NamedTuple):
    """Numbers of a target that compiled code needs; names and units are those of `Target`."""

    lanes: int
    ports: int
    tokens: int
    beat: int
    activation_bits: int
    accumulator_bits: int
    vector_lanes: int
    sbuf_line: int
    """Bytes."""
    wbuf_lines: int
    abuf_lines: int
    ubuf_lines: int
    acc_words: int
    group_words: int
    pbuf_groups: int
    tbuf_tokens: int
    sbuf_lines: int
    obuf_beats: int
    cbuf_words: int
    vbuf_words: int
    table_entries: int
    burst_beats: int
    write_latency: int
    engine: int
    """Place in ENGINES."""
    multipliers: int
    multiplier_latency: int
    fifo_depth: int
    limit: int
    """Bytes of memory that the program may touch."""
    bad_start: int
    bad_stop: int
    """Byte addresses that answer with an AXI error."""


class State(NamedTuple):
    """State after power-up is all zero. Every buffer that LOAD or STORE moves is (also) there as bytes."""

    memory: Bytes
    wbuf: Bytes
    """[line][lane][port]."""
    versions: Int64
    """[wbuf_lines]: number of the last LOAD that wrote the line."""
    abuf: Bytes
    """[line][token][lane] elements."""
    ubuf: Bytes
    acc: Int64
    """[word][token][port]."""
    pbuf: Bytes
    pbuf32: npt.NDArray[np.int32]
    pbuf16: npt.NDArray[np.uint16]
    tbuf: Bytes
    tbuf32: npt.NDArray[np.uint32]
    exponent: Int64
    """[tbuf_tokens], of VQT."""
    token_words: Int64
    """[tbuf_tokens]: token scales that VROW wrote, as in TBUF."""
    sbuf: Bytes
    obuf: Bytes
    cbuf: Bytes
    cbuf32: npt.NDArray[np.int32]
    """[element]: a word is V elements."""
    vbuf32: npt.NDArray[np.int32]
    table: Bytes
    table32: npt.NDArray[np.int32]
    """[entries, 2]."""
    reduced: Int64
    """[ROWS]."""
    factors: Int64
    """[SCALARS, 2, ROWS]: factors, then shifts."""
    settings: Int64
    """[instruction, x y z misc]."""
    segments: Int64
    """[SEGMENTS, member]."""
    codebook: Int64
    now: Int64


def power_up(target: Target, memory: Bytes, limit: int, bad: range) -> tuple[Size, State]:
    """The machine before its first instruction; `memory` is what it reads and writes."""
    t = target
    lines = t.lanes * t.tokens * t.element_bytes

    def zeros(count: int) -> Bytes:
        return np.zeros(count, np.uint8)

    own: dict[str, Any] = {
        "beat": t.beat_bytes,
        "sbuf_line": t.sbuf_line_bytes,
        "engine": ENGINES.index(t.engine),
        "limit": limit,
        "bad_start": bad.start,
        "bad_stop": bad.stop,
    }
    size = Size(**own, **{name: getattr(t, name) for name in Size._fields if name not in own})
    pbuf, tbuf, cbuf = zeros(t.pbuf_bytes), zeros(4 * t.tbuf_tokens), zeros(t.cbuf_words * t.vector_word_bytes)
    table = zeros(8 * t.table_entries)
    state = State(
        memory=memory,
        wbuf=zeros(t.wbuf_lines * t.wbuf_line_bytes),
        versions=np.zeros(t.wbuf_lines, np.int64),
        abuf=zeros(t.abuf_lines * lines),
        ubuf=zeros(t.ubuf_lines * lines),
        acc=np.zeros(t.acc_words * t.tokens * t.ports, np.int64),
        pbuf=pbuf,
        pbuf32=pbuf.view(np.int32),
        pbuf16=pbuf.view(np.uint16),
        tbuf=tbuf,
        tbuf32=tbuf.view(np.uint32),
        exponent=np.zeros(t.tbuf_tokens, np.int64),
        token_words=np.zeros(t.tbuf_tokens, np.int64),
        sbuf=zeros(t.sbuf_lines * t.sbuf_line_bytes),
        obuf=zeros(t.obuf_beats * t.beat_bytes),
        cbuf=cbuf,
        cbuf32=cbuf.view(np.int32),
        vbuf32=np.zeros(t.vbuf_words * t.vector_lanes, np.int32),
        table=table,
        table32=table.view(np.int32).reshape(-1, 2),
        reduced=np.zeros(ROWS, np.int64),
        factors=np.zeros((SCALARS, 2, ROWS), np.int64),
        settings=np.zeros((_SETTINGS, 4), np.int64),
        segments=np.zeros((SEGMENTS, _MEMBERS), np.int64),
        codebook=np.zeros(16, np.int64),
        now=np.zeros(_NOW, np.int64),
    )
    state.settings[SET_VBANK, SET_MISC] = t.tokens - 1
    state.now[RUN] = next(_RUNS)
    return size, state
