"""The row side of the vector unit: CBUF, VBUF, function tables, the rows' reductions and scalars; VMAP and VROW on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from axlora.isa import numerics
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import CBUF_BIT, READ_AFTER, ROWS, SCALARS, ErrorCode, Into, Map, Opcode, Reduce, Row
from axlora.isa.target import Target

from .work import Work

Int64 = npt.NDArray[np.int64]
_Elements = Callable[[Int64, Int64, slice], tuple[Int64, npt.NDArray[np.bool_]]]


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

    def _places(self, work: Work, address: int, pitch: int, rows: int, words: int) -> tuple[npt.NDArray[np.int32], Int64]:
        """The buffer that an address names (bit 15: CBUF) and the words of its rows: [rows, words]."""
        name, memory = ("CBUF", self.cbuf) if address & CBUF_BIT else ("VBUF", self.vbuf)
        first = (address & (CBUF_BIT - 1)) + np.arange(rows)[:, None] * pitch
        work.local(f"{name} words", int(first.max()), words, len(memory))
        return memory, first + np.arange(words)[None]

    def _elements(self, i: Instruction, work: Work) -> _Elements:
        """What VMAP's settings make of elements a, b of a row."""
        function = Map(i.sub & 3)
        table: Int64 | None = None
        shift: Int64 | int = self.constants.y
        if function is Map.TABLE:
            first, last = self.intervals.y, self.intervals.z
            work.local("table entries", first, last + 1, len(self.table))
            table = self.table[first : first + last + 1].astype(np.int64)
            shift = self.intervals.misc >> 6
        scale, less = self.factors[i.misc >> 7 & 3], self.factors[i.misc >> 9 & 3]

        def of(a: Int64, b: Int64, rows: slice) -> tuple[Int64, npt.NDArray[np.bool_]]:
            return numerics.map_rows(
                function,
                a,
                b,
                ca=_signed(self.constants.x & 0xFFFF, 16),
                cb=_signed(self.constants.x >> 16, 16),
                shift=scale[rows, 1:] if function is Map.SCALE else shift,
                factor=scale[rows, :1],
                less=less[rows, :1] if i.misc >> 11 & 1 else 0,
                low=_signed(self.intervals.x, 32),
                step=self.intervals.misc & 31,
                table=table,
            )

        return of

    def map(self, i: Instruction, work: Work) -> tuple[Int64, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """VMAP up to its last clamp: y [rows, words*V], where elements are valid, where a saturation changed one."""
        function, reduction = Map(i.sub & 3), Reduce(i.sub >> 2)
        rows, words = (i.misc & 7) + 1, i.z
        a, a_at = self._places(work, i.x & 0xFFFF, self.pitch.x & 0xFFFF, rows, words)
        b, b_at = a, a_at
        if function in (Map.MAC, Map.MUL):
            b, b_at = self._places(work, i.x >> 16, self.pitch.x >> 16, rows, words)
        elements = self._elements(i, work)
        count = words * self.target.vector_lanes
        valid = np.arange(count)[None] < self.length.x + np.arange(rows)[:, None] * (self.length.misc & 1)
        read = [at.ravel() for memory, at in ((a, a_at), (b, b_at)) if memory is self.vbuf]
        if read and Into(i.misc >> 3 & 3) is Into.VBUF and self._reads_its_writes(i, work, rows, words, read):
            y, changed = self._one_by_one(i, elements, valid, (a, a_at), (b, b_at))
        else:
            wide = [memory[at].reshape(rows, count).astype(np.int64) for memory, at in ((a, a_at), (b, b_at))]
            y, changed = elements(wide[0], wide[1], slice(0, rows))
        if reduction is not Reduce.NONE:
            self.reduced[:rows] = [int(r) for r in numerics.reduce_rows(reduction, y, valid)]
        return np.where(valid, y, 0), valid, changed & valid

    def _reads_its_writes(self, i: Instruction, work: Work, rows: int, words: int, read: Sequence[Int64]) -> bool:
        """Whether VMAP reads a word that it wrote READ_AFTER words or more before: it then sees what was written."""
        if rows * words <= READ_AFTER:
            return False
        written = (i.y + np.arange(rows)[:, None] * self.pitch.y + np.arange(words)[None]).ravel()
        words_of, first = np.unique(written, return_index=True)
        number = np.arange(written.size)
        for each in read:
            place = np.minimum(np.searchsorted(words_of, each), words_of.size - 1)
            if ((words_of[place] == each) & (first[place] <= number - READ_AFTER)).any():
                work.local("VBUF words", int(written.max()), 1, len(self.vbuf))
                return True
        return False

    def _one_by_one(
        self,
        i: Instruction,
        elements: _Elements,
        valid: npt.NDArray[np.bool_],
        a: tuple[npt.NDArray[np.int32], Int64],
        b: tuple[npt.NDArray[np.int32], Int64],
    ) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """VMAP word by word, each reading what the words at least READ_AFTER before it wrote."""
        v = self.target.vector_lanes
        y = np.zeros(valid.shape, np.int64)
        changed = np.zeros(valid.shape, np.bool_)
        order = [(r, w) for r in range(len(valid)) for w in range(valid.shape[1] // v)]

        def write(n: int) -> None:
            r, w = order[n]
            part = slice(w * v, w * v + v)
            self.vbuf[i.y + r * self.pitch.y + w] = np.where(valid[r, part], y[r, part], 0)

        for n, (r, w) in enumerate(order):
            if n >= READ_AFTER:
                write(n - READ_AFTER)
            part = slice(w * v, w * v + v)
            ys, cs = elements(a[0][a[1][r, w]][None].astype(np.int64), b[0][b[1][r, w]][None].astype(np.int64), slice(r, r + 1))
            y[r, part], changed[r, part] = ys[0], cs[0]
        for n in range(max(0, len(order) - READ_AFTER), len(order)):
            write(n)
        return y, changed

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
