"""Linears of rows to instructions: codes in UBUF, sums to values in VBUF or to memory."""

from __future__ import annotations

from axlora.compiler.backend.emit_tiles import ROOM, Columns, Placed
from axlora.compiler.backend.emit_windows import WindowEmit
from axlora.compiler.backend.plan import u_lines
from axlora.compiler.backend.schedule import Span
from axlora.compiler.rows.row_operations import Cells
from axlora.isa.opcodes import UBUF_BIT


class LinearEmit(WindowEmit):
    """Adds linears."""

    def linear(self, name: str, out: Cells) -> None:
        t = self.target

        def finish(columns: Columns, acc: Span, records: Span) -> None:
            to, pitch, _ = self._operand(out)
            self._requantize(acc, records, to + columns[0] * t.ports // t.vector_lanes, pitch, self.at, groups=columns[1])

        self.multiply(self.placed[name], finish)

    def logits(self, number: int, name: str) -> None:
        t, p = self.target, self.placed[name]
        tile = self.temporary(f"output {number}", p.plan.columns * t.ports)
        to, pitch, _ = self._operand(tile)
        self.output_words[number] = p.shape.groups * t.ports // t.vector_lanes
        size = self.output_words[number] * t.vector_word_bytes
        where = ROOM + self.memory.room(f"output {number}", self._rows() * size)

        def finish(columns: Columns, acc: Span, records: Span) -> None:
            first, count = columns
            self._requantize(acc, records, to, pitch, self.at, groups=count)
            beats = count * t.ports * 4 // t.beat_bytes
            place = self.obuf.take(self.tokens * beats)
            self._copy(to, pitch, place, beats, count * t.ports // t.vector_lanes)
            for r in range(self.tokens):
                source = Span("OBUF", place.first + r * beats, place.first + (r + 1) * beats)
                self._store(where + (self.row + r) * size + first * t.ports * 4, source, beats, 0, 0)

        self.multiply(p, finish)
        self.free(tile)

    def _activation(self, p: Placed, rows: tuple[int, int]) -> tuple[Span, int, int]:
        own = -(-p.linear.k // self.target.lanes)  # a weight's blocks fill its last scale group, codes do not
        place = self._codes(own)
        return place, UBUF_BIT + place.first + rows[0], min(rows[1], own - rows[0])

    def _low_place(self, p: Placed) -> Span:
        first = self.u_first + self.group * self.low_stride
        return Span("UBUF", first, first + u_lines(self.target, p.shape))
