"""The row side of the vector unit: CBUF, VBUF, function tables, the rows' reductions and scalars; VMAP and VROW on them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa import numerics
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import CBUF_BIT, ROWS, SCALARS, ErrorCode, Into, Map, Opcode, Reduce, Row
from axlora.isa.target import Target

from .kernels import NO_WORDS, READS_B, MapSettings, Operand, map_rows
from .work import Work

Int64 = npt.NDArray[np.int64]
_NOTHING: Int64 = np.zeros(2 * ROWS, np.int64)[::2]
"""Subtracted from each row: as far apart as the factors of `RowUnit`, so that one compiled loop takes both."""


class RowUnit:
    """State after power-up (all zero). A word is V 32-bit elements; a row lies in consecutive words."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.cbuf = np.zeros((target.cbuf_words, target.vector_lanes), np.int32)
        self.vbuf = np.zeros((target.vbuf_words, target.vector_lanes), np.int32)
        self.table = np.zeros((target.table_entries, 2), np.int32)
        self.reduced = [0] * ROWS
        self.factors = np.zeros((SCALARS, ROWS, 2), np.int64)
        """Each scalar of each row: factor, shift."""
        self.token_words = np.zeros(target.tbuf_tokens, np.int64)
        """Token scales that VROW wrote, as in TBUF."""
        self.length = Instruction(Opcode.VLEN)
        self.pitch = Instruction(Opcode.VPITCH)
        self.constants = Instruction(Opcode.VCON)
        self.intervals = Instruction(Opcode.VTAB)

    def _operand(self, work: Work, address: int, pitch: int, rows: int, words: int) -> Operand:
        """Rows in the buffer that an address names (bit 15: CBUF)."""
        name, memory = ("CBUF", self.cbuf) if address & CBUF_BIT else ("VBUF", self.vbuf)
        first = address & (CBUF_BIT - 1)
        work.local(f"{name} words", first + (rows - 1) * pitch, words, len(memory))
        return Operand(memory, first, pitch)

    def map(self, i: Instruction, work: Work) -> tuple[Int64, int]:
        """VMAP up to its last clamp, with the writes to VBUF: values [rows, words*V], and how many a clamp changed."""
        function, reduction, into = Map(i.sub & 3), Reduce(i.sub >> 2), Into(i.misc >> 3 & 3)
        rows, words = (i.misc & 7) + 1, i.z
        a = self._operand(work, i.x & 0xFFFF, self.pitch.x & 0xFFFF, rows, words)
        b = self._operand(work, i.x >> 16, self.pitch.x >> 16, rows, words) if function in READS_B else a
        table, shift = numerics.NO_TABLE, self.constants.y
        if function is Map.TABLE:
            first, last = self.intervals.y, self.intervals.z
            work.local("table entries", first, last + 1, len(self.table))
            table, shift = self.table[first : first + last + 1].astype(np.int64), self.intervals.misc >> 6
        to = Operand(NO_WORDS, 0, 0)
        if into is Into.VBUF:
            work.local("VBUF words", i.y + (rows - 1) * self.pitch.y, words, len(self.vbuf))
            to = Operand(self.vbuf, i.y, self.pitch.y)
        scale = self.factors[i.misc >> 7 & 3]
        settings = MapSettings(
            function=int(function),
            reduction=int(reduction),
            rows=rows,
            words=words,
            valid=self.length.x,
            step=self.length.misc & 1,
            ca=_signed(self.constants.x & 0xFFFF, 16),
            cb=_signed(self.constants.x >> 16, 16),
            shifts=scale[:, 1] if function is Map.SCALE else np.full(2 * ROWS, shift, np.int64)[::2],
            factors=scale[:, 0],
            less=self.factors[i.misc >> 9 & 3, :, 0] if i.misc >> 11 & 1 else _NOTHING,
            low=_signed(self.intervals.x, 32),
            interval=self.intervals.misc & 31,
            table=table,
            size=0 if into is Into.NOTHING else 1 << (i.misc >> 5 & 3),
        )
        values, reduced, changed = map_rows(settings, a, b, to)
        if reduction is not Reduce.NONE:
            self.reduced[:rows] = reduced.tolist()
        return values, changed

    def row(self, i: Instruction, work: Work) -> Int64:
        """VROW: sets the rows' scalars (TOKEN: their token scales too); the values [rows] for OBUF."""
        function, rows = Row(i.sub), (i.misc & 7) + 1
        token = i.x >> 16
        if function is Row.TOKEN:
            work.local("tokens", token, rows, self.target.tbuf_tokens)
        values = np.zeros(rows, np.int64)
        for r in range(rows):
            found = numerics.row_scalar(
                function,
                self.reduced[r],
                i.x & 0xFFFF,
                0 if function is Row.TOKEN else i.x >> 16,
                i.z & 63,
                _signed(i.z >> 6 & 255, 8),
                _signed(i.y & 255, 8),
            )
            self.factors[i.misc >> 3 & 3, r] = found.factor, found.shift
            values[r] = found.value
            if function is Row.TOKEN:
                self.token_words[token + r] = found.mantissa << 16 | found.token_shift << 10
        return values

    def write(self, work: Work, place: int, values: Int64) -> None:
        """[rows, n] to VBUF from word `place` on, rows a destination pitch apart; n a multiple of V."""
        words = values.shape[1] // self.target.vector_lanes
        first = place + np.arange(values.shape[0])[:, None] * self.pitch.y
        work.local("VBUF words", int(first.max()), words, len(self.vbuf))
        for row, at in zip(values, first[:, 0], strict=True):
            self.vbuf[at : at + words] = row.reshape(words, -1)

    def to_obuf(self, i: Instruction, work: Work, values: Int64, obuf: npt.NDArray[np.uint8]) -> None:
        """[rows, n] to OBUF from beat Y on, rows a destination pitch of beats apart: side by side, or as tiles."""
        t = self.target
        size = i.misc >> 5 & 3
        if i.misc >> 12:
            beats = -(-values.shape[1] // t.ports)
            padded = np.zeros((len(values), beats * t.ports), np.int64)
            padded[:, : values.shape[1]] = values
            data = np.tile(padded.reshape(len(values), beats, t.ports), t.beat_bytes // t.ports).astype(np.int8)
            written = np.tile((np.arange(beats * t.ports) < values.shape[1]).reshape(beats, t.ports), t.beat_bytes // t.ports)
            rows = data.view(np.uint8).reshape(len(values), -1)
            keep = written.reshape(-1)
        else:
            rows = values.astype((np.int8, np.int16, np.int32)[size]).view(np.uint8)
            keep = np.ones(rows.shape[1], np.bool_)
        for r, row in enumerate(rows):
            first = (i.y + r * self.pitch.y) * t.beat_bytes
            if first + row.size > obuf.size:
                work.refuse(ErrorCode.LOCAL_ADDRESS, f"OBUF bytes up to {first + row.size}, has {obuf.size}")
            obuf[first : first + row.size][keep] = row[keep]


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
