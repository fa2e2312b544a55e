"""Windows: rows of a value from memory to their places in the rows that see them, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from axlora.compiler.backend.emit_row_memory import MemoryEmit
from axlora.compiler.backend.emit_rows import EVERY, Int64
from axlora.compiler.backend.emit_tiles import ROOM
from axlora.compiler.backend.schedule import Span
from axlora.compiler.rows.row_operations import Cells
from axlora.isa.opcodes import CBUF_BIT, ROWS, Buffer, Into, Map, Opcode

STRIDE = 4
"""Most rows from one that is copied to the next in one instruction: the rows between are loaded too."""


@dataclass(frozen=True)
class Run:
    """Rows `at`, `at` + `step`, .. that are the rows `first`, `first` + `stride`, .. of what is read, or zeros."""

    at: int
    step: int
    count: int
    first: int = -1
    """-1: zeros."""
    stride: int = 0


def copies(rows: Sequence[int], total: int) -> list[Run]:
    """What copies these of `total` rows, in order; where -1 stands any row may be copied, for zeros are put there behind."""
    found: list[Run] = []
    for at, row in enumerate(rows):
        if found and (last := found[-1]).at + last.count == at:
            stride = row - last.first if last.count == 1 and row >= 0 else last.stride
            own = last.first + last.count * stride
            begun = row >= 0 or last.count > 1
            if begun and row in (-1, own) and 0 <= own < total and 0 <= stride <= STRIDE:
                found[-1] = replace(last, count=last.count + 1, stride=stride)
                continue
        if row >= 0:
            found.append(Run(at, 1, 1, row))
    return found


def zeros(rows: Sequence[int]) -> list[Run]:
    """What puts zeros where -1 stands, in places that lie evenly apart."""
    found: list[Run] = []
    for at in (n for n, row in enumerate(rows) if row < 0):
        last = found[-1] if found else None
        step = 1 if last is None else at - last.at if last.count == 1 else last.step
        if last is not None and at == last.at + last.count * step:
            found[-1] = replace(last, step=step, count=last.count + 1)
        else:
            found.append(Run(at, 1, 1))
    return found


class WindowEmit(MemoryEmit):
    """Adds windows."""

    def keep(self, name: str, x: Cells) -> None:
        t, words = self.target, self.pitch[x.name]
        self.kept.setdefault(name, (f"window {len(self.kept)}", x, words))
        size, beats = words * t.vector_word_bytes, words * t.vector_word_bytes // t.beat_bytes
        start = ROOM + self.memory.room(self.kept[name][0], self._rows() * size)
        for at, count in self._strips(t.obuf_beats // 2 // beats):
            place = self.obuf.take(count * beats)
            fields = {"function": Map.MAC, "into": Into.OBUF, "size": 2}
            self._set(Opcode.VLEN, valid=EVERY)
            self._set(Opcode.VCON, ca=1, cb=0, shift=0)
            self._map_rows(self.base[x.name] + at * words, place.first, words, beats, words, count, [], [place], fields)
            self._store(start + (self.first + at) * size, place, count * beats, 0, 0)

    def slide(self, name: str, outs: Sequence[Cells], index: Int64) -> None:
        """What all taps of some rows read is loaded once, where half of CBUF holds it; else what each reads."""
        room = self.target.cbuf_words // 2 // self.kept[name][2]
        for at, count in self._strips(ROWS):
            rows = index[self.first + at : self.first + at + count]
            rows = np.pad(rows, ((0, count - len(rows)), (0, 0)), constant_values=-1)  # beyond the stream's last
            first, many = _spanned(rows)
            held = self._rows_kept(name, first, many) if 0 < many <= room else None
            for out, own in zip(outs, rows.T, strict=True):
                self._tap(name, out, at, own, None if held is None else (first, many, held))

    def _strips(self, most: int) -> Iterator[tuple[int, int]]:
        """(first, count) of the block's rows, whole groups of them, as many at once as an instruction takes."""
        self.select(0)
        t = self.target.tokens
        step = max(t, min(most, ROWS) // t * t)
        for at in range(0, self.count, step)[: 1 if self._dry else None]:
            yield at, min(step, self.count - at)

    def _rows_kept(self, name: str, first: int, count: int) -> Span:
        """Load rows of what was kept to CBUF."""
        t, (region, _, words) = self.target, self.kept[name]
        size = words * t.vector_word_bytes
        place = self.cbuf.take(count * words, max(1, t.beat_bytes // t.vector_word_bytes))
        start = ROOM + self.memory.regions[region][0] + first * size
        self._load(Buffer.CBUF, start, place, place.first * t.vector_word_bytes // t.beat_bytes, count * size // t.beat_bytes)
        return place

    def _tap(self, name: str, out: Cells, at: int, rows: Int64, held: tuple[int, int, Span] | None) -> None:
        """Rows of what was kept to the block's rows from `at` on; `held`: which of them CBUF holds, and where."""
        _, x, words = self.kept[name]
        to, pitch, _ = self._operand(out)
        to, length = to + at * pitch, self._words_of(out.width)
        fields = {"function": Map.MAC, "into": Into.VBUF, "size": 2}
        self._set(Opcode.VLEN, valid=x.width)
        first, many = (held or _spanned(rows[:, None]))[:2]
        for run in copies(np.where(rows < 0, -1, rows - first).tolist(), many):
            if held is not None:
                place, source = held[2], CBUF_BIT + held[2].first + run.first * words
            else:
                place = self._rows_kept(name, first + run.first, (run.count - 1) * run.stride + 1)
                source = CBUF_BIT + place.first
            self._set(Opcode.VCON, ca=1, cb=0, shift=0)
            self._map_rows(source, to + run.at * pitch, run.stride * words, pitch, length, run.count, [place], [], fields)
        for run in zeros(rows.tolist()):
            self._set(Opcode.VCON, ca=0, cb=0, shift=0)
            self._map_rows(to, to + run.at * pitch, 0, run.step * pitch, length, run.count, [], [], fields)

    def _map_rows(
        self,
        source: int,
        to: int,
        apart: int,
        pitch: int,
        words: int,
        count: int,
        reads: list[Span],
        writes: list[Span],
        fields: dict[str, int],
    ) -> None:
        """One VMAP of up to `ROWS` rows that lie `apart` and `pitch` words or beats from each other."""
        t = self.target.tokens
        self._set(Opcode.VPITCH, a=apart, b=apart, to=pitch)
        if count > t:
            self._set(Opcode.VBANK, a=t * apart, b=t * apart, to=t * pitch, rows=t)
            self.schedule.add(Opcode.VMAP, reads, writes, a=source, b=source, to=to, words=words, rows=count, **fields)
        else:
            self._vmap(source, source, to, words, reads, writes, count, **fields)


def _spanned(rows: Int64) -> tuple[int, int]:
    """(first, count) of the rows from the first to the last that are read; (0, 0) if none are."""
    read = rows[rows >= 0]
    return (int(read.min()), int(read.max() - read.min()) + 1) if read.size else (0, 0)
