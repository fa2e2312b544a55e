"""Values to memory and back, and one row made of all: inputs, outputs, what waits for another block."""

from __future__ import annotations

from collections.abc import Sequence

from axlora.compiler.backend.emit_rows import EVERY, RowEmit
from axlora.compiler.backend.emit_tiles import ROOM
from axlora.compiler.backend.schedule import Span
from axlora.compiler.rows.row_operations import Cells
from axlora.isa.opcodes import CBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row


class MemoryEmit(RowEmit):
    """Adds transfers and pools."""

    def read_input(self, cells: Cells) -> None:
        """The stream's first rows from memory to a value."""
        self._read(self.region("input"), cells)

    def spill(self, cells: Cells) -> None:
        t = self.target
        if cells.name not in self.spilled:
            size = self._rows() * self.pitch[cells.name] * t.vector_word_bytes
            fit = [name for name in self.idle_rooms if self.memory.regions[name][1] == size]
            self.spilled[cells.name] = fit[0] if fit else f"rows {len(self.spilled) + len(self.idle_rooms)}"
            self.idle_rooms = [name for name in self.idle_rooms if name not in fit[:1]]
            self.memory.room(self.spilled[cells.name], size)
        self._write(self.spilled[cells.name], cells)
        self.free(cells)

    def restore(self, name: str, width: int) -> Cells:
        cells = self.value(name, width)
        self._read(self.spilled[name], cells)
        return cells

    def forget(self, name: str) -> None:
        self.idle_rooms.append(self.spilled.pop(name))

    def write_output(self, number: int, cells: Cells) -> None:
        """A value to memory, s32 rows of whole words."""
        self.output_words[number] = self.pitch[cells.name]
        self._write(f"output {number}", cells)

    def _rows(self) -> int:
        """Rows of a region that holds all rows of the stream."""
        own = self._blocks[self.stream]
        return max(first + -(-count // self.target.tokens) * self.target.tokens for first, count in own)

    def _read(self, region: str, cells: Cells) -> None:
        t = self.target
        words = self.pitch[cells.name]
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        size = words * t.vector_word_bytes
        start = ROOM + self.memory.room(region, self._rows() * size)
        for _ in self.groups():
            place = self.cbuf.take(self.tokens * words, unit)
            beat = place.first * t.vector_word_bytes // t.beat_bytes
            self._load(Buffer.CBUF, start + self.row * size, place, beat, self.tokens * size // t.beat_bytes)
            to = self.base[cells.name] + self.at * words
            self._line(CBUF_BIT + place.first, words, to, rows=self.tokens, reads=[place])

    def _write(self, region: str, cells: Cells) -> None:
        """The block's rows to a region."""
        t = self.target
        words = self.pitch[cells.name]
        beats = words * t.vector_word_bytes // t.beat_bytes
        start = ROOM + self.memory.room(region, self._rows() * words * t.vector_word_bytes)
        for _ in self.groups():
            place = self.obuf.take(self.tokens * beats)
            at, _, _ = self._operand(Cells(cells.name, 0, cells.width))
            self._copy(at, words, place, beats, words)
            self._store(start + self.row * words * t.vector_word_bytes, place, self.tokens * beats, 0, 0)

    def _line(
        self,
        a: int,
        words: int,
        to: int,
        rows: int = 1,
        b: int | None = None,
        ca: int = 1,
        cb: int = 0,
        shift: int = 0,
        reads: Sequence[Span] = (),
    ) -> None:
        """Whole rows of words by MAC, VBUF or CBUF to VBUF."""
        self._set(Opcode.VLEN, valid=EVERY)
        self._set(Opcode.VPITCH, a=words, b=words, to=words)
        self._set(Opcode.VCON, ca=ca, cb=cb, shift=shift)
        fields = {"function": Map.MAC, "into": Into.VBUF, "size": 2}
        self._vmap(a, a if b is None else b, to, words, list(reads), [], rows, **fields)

    def _copy(self, at: int, pitch: int, place: Span, beats: int, words: int) -> None:
        """Rows of words from VBUF to OBUF, `beats` a row."""
        self._set(Opcode.VLEN, valid=EVERY)
        self._set(Opcode.VPITCH, a=pitch, b=pitch, to=beats)
        self._set(Opcode.VCON, ca=1, cb=0, shift=0)
        fields = {"function": Map.MAC, "into": Into.OBUF, "size": 2}
        self._vmap(at, at, place.first, words, [], [place], self.tokens, **fields)

    # One row of all

    def one_row(self, name: str, width: int) -> Cells:
        self.pitch[name] = self._pitch(width)
        self.base[name] = self.pool.keep(name, self.pitch[name])
        self.whole[name] = False
        self._line(self.base[name], self.pitch[name], self.base[name], ca=0)
        return Cells(name, 0, width)

    def pick(self, x: Cells, out: Cells) -> None:
        if self.row == 0:
            self._line(self._operand(x)[0], self.pitch[out.name], self.base[out.name])

    def gather(self, x: Cells, out: Cells, shift: int) -> None:
        """Row by row, each times 1 or, for padding, 0: a word a row that the host writes."""
        words, total = self.pitch[out.name], self.base[out.name]
        weights, place = self._weights_of_rows()
        self._set(Opcode.VLEN, valid=1)
        self._set(Opcode.VPITCH, a=place[1], b=place[1], to=0)
        self._set(Opcode.VCON, ca=1, cb=0, shift=0)
        fields = {"function": Map.MAC, "reduce": Reduce.SUM, "into": Into.NOTHING, "size": 0}
        self._vmap(weights, weights, 0, 1, [place[0]], [], self.tokens, **fields)
        self.scalar(Row.COPY, 0, 1, 0)
        kept = self.temporary(f"{out.name} kept", x.width)
        self.map(Map.SCALE, x, out=kept, scale=0)
        for r in range(self.tokens):
            self._line(self.base[kept.name] + r * self.pitch[kept.name], words, total, b=total, cb=1 << shift, shift=shift)
        self.free(kept)

    def _weights_of_rows(self) -> tuple[int, tuple[Span, int]]:
        """1 or 0 a row, the group's in CBUF: operand, (place, words a row)."""
        t = self.target
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        start = ROOM + self.memory.room(self.region("row weights"), self._rows() * unit * t.vector_word_bytes)
        place = self.cbuf.take(self.tokens * unit, unit)
        size = unit * t.vector_word_bytes
        self._load(
            Buffer.CBUF,
            start + self.row * size,
            place,
            place.first * t.vector_word_bytes // t.beat_bytes,
            self.tokens * size // t.beat_bytes,
        )
        return CBUF_BIT + place.first, (place, unit)

    def count_rows(self) -> None:
        t = self.target
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        size = unit * t.vector_word_bytes
        start = ROOM + self.memory.room(self.region("row count"), size)
        place = self.cbuf.take(unit, unit)
        self._load(Buffer.CBUF, start, place, place.first * t.vector_word_bytes // t.beat_bytes, size // t.beat_bytes)
        self._set(Opcode.VLEN, valid=1)
        self._set(Opcode.VPITCH, a=unit, b=unit, to=0)
        self._set(Opcode.VCON, ca=1, cb=0, shift=0)
        fields = {"function": Map.MAC, "reduce": Reduce.SUM, "into": Into.NOTHING, "size": 0}
        self._vmap(CBUF_BIT + place.first, CBUF_BIT + place.first, 0, 1, [place], [], 1, **fields)
