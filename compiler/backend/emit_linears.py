"""Linears between a host part: codes from memory through ABUF, results as codes to memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from axlora.compiler.backend.emit_tiles import ROOM, Columns, Placed, TileEmit, low_lines
from axlora.compiler.backend.memory_layout import Ring
from axlora.compiler.backend.plan import adapter_lines, output_bytes, tile_lines, u_lines
from axlora.compiler.backend.schedule import Span
from axlora.isa.opcodes import Buffer, Opcode
from axlora.isa.target import Target
from axlora.timing.vector import requantize_duration

LAP = 4
"""Tiles in a round of a ring."""
OUTPUT_SIZES = {8: 0, 16: 1, 32: 2}


@dataclass(frozen=True)
class Rooms:
    """Where a linear's codes, their token words, and the results of each column tile lie: offsets behind the weights."""

    input: int
    tokens: int
    output: Sequence[int]


class LinearsEmit(TileEmit):
    """One linear after another, a pass over as many tokens as TBUF and UBUF hold at a time."""

    def __init__(self, target: Target, placed: Sequence[Placed]) -> None:
        """`placed`: all linears of the program."""
        super().__init__(target)
        t = target
        self.abuf, self.tbuf = Ring("ABUF", t.abuf_lines), Ring("TBUF", t.tbuf_tokens)
        self.tokens = t.tokens
        self._low_stride = low_lines(t, placed)

    def linear(self, p: Placed, rooms: Rooms, first_group: int, groups: int) -> None:
        """A linear over token groups `first_group` .. `first_group + groups - 1`."""
        t = self.target
        self._placed, self._rooms, self._first_group, self._count = p, rooms, first_group, groups
        self._held_words = self._load_words()
        self._divide(p)

        def finish(columns: Columns, acc: Span, records: Span) -> None:
            beats = output_bytes(t, p.shape, columns[1]) // t.beat_bytes
            if self.group_of_chunk == 0:
                self._done = self.obuf.take(len(self._chunk) * beats)
            first = self._done.first + self.group_of_chunk * beats
            place = Span("OBUF", first, first + beats)
            self._set(Opcode.VOUT, zero_point=p.linear.zero_point & 0xFFFF, size=OUTPUT_SIZES[p.linear.output_bits])
            fields = {"acc": acc.first, "token": self._token(), "to": place.first, "groups": columns[1]}
            cycles = requantize_duration(t, t.tokens, columns[1], bool(p.shape.slots))
            self.schedule.add(Opcode.VREQ, [acc, records, self._words()], [place], cycles, tokens=t.tokens, **fields)
            last = self.group == self._chunk.stop - 1
            if columns == tiles[-1] and self._chunk.stop == self._count:  # nothing hides these stores: each as soon as it can
                store(columns, place, 1)
            elif last:
                store(columns, self._done, len(self._chunk))

        def store(columns: Columns, place: Span, count: int) -> None:
            beats = (place.stop - place.first) // count
            first = first_group + self.group + 1 - count
            address = ROOM + rooms.output[tiles.index(columns)] + first * beats * t.beat_bytes
            self.schedule.add(Opcode.STORE, [place], [], address=address, beat=place.first, rows=1, beats=count * beats)

        tiles = p.plan.column_tiles(p.shape)
        self.multiply(p, finish)

    def _divide(self, p: Placed) -> None:
        """Rings of `LAP` tiles, or as many as fit, so that addresses and semaphores repeat; adapters at the end of WBUF."""
        t, s, plan = self.target, p.shape, p.plan
        columns, chunk = plan.columns, min(plan.chunk, self._count)
        a, b = (s.slots * lines for lines in adapter_lines(s, columns))
        tile = tile_lines(s, columns, plan.rows)
        room = t.wbuf_lines - 2 * tile - a - b
        self.b_lines = Ring("WBUF", t.wbuf_lines, t.wbuf_lines - b * (2 if b <= room else 1))
        self.a_lines = Ring("WBUF", self.b_lines.first, self.b_lines.first - a)
        self.wbuf.window(LAP, tile, self.a_lines.first)
        sums, records = columns * (2 if s.slots else 1), columns * (1 + s.slots)
        # The first column tile has x.A beside it; of a chunk's groups one may not fit before the ring's end.
        self.acc.window(max(LAP * chunk, (chunk + 1) * -(-(sums + s.rank_groups) // sums)), sums, t.acc_words)
        self.pbuf.window(max(LAP, -(-(records + s.slots * s.rank_groups) // records)), records, t.pbuf_groups)
        self.obuf.window(LAP, chunk * output_bytes(t, s, columns) // t.beat_bytes, t.obuf_beats)

    def chunks(self) -> Iterator[None]:
        size = self._placed.plan.chunk
        for first in range(0, self._count, size):
            self._chunk = range(first, min(first + size, self._count))
            yield

    def groups(self) -> Iterator[None]:
        for group in self._chunk:
            self.at = group * self.target.tokens
            yield

    @property
    def group_of_chunk(self) -> int:
        return self.group - self._chunk.start

    def _activation(self, p: Placed, rows: tuple[int, int]) -> tuple[Span, int, int]:
        t, blocks = self.target, p.shape.blocks
        first, count = self._first_group + self._chunk.start, len(self._chunk)
        key = (self._rooms.input, first, count)
        place = self.abuf.held.get(key)
        if place is None:
            place = self.abuf.take(count * blocks, key=key)
            address = ROOM + self._rooms.input + first * blocks * t.abuf_line_bytes
            line = t.abuf_line_beats
            self._load(Buffer.ABUF, address, place, place.first * line, blocks * line, rows=count)
        return place, place.first + self.group_of_chunk * blocks + rows[0], rows[1]

    def _load_words(self) -> Span:
        """The words of the pass's tokens in TBUF, loaded unless they are there."""
        t = self.target
        key = (self._rooms.tokens, self._first_group, self._count)
        place = self.tbuf.held.get(key)
        if place is None:
            per_beat = t.beat_bytes // 4
            beats = -(-self._count * t.tokens // per_beat)
            place = self.tbuf.take(beats * per_beat, per_beat, key)
            address = ROOM + self._rooms.tokens + self._first_group * t.tokens * 4
            self._load(Buffer.TBUF, address, place, place.first // per_beat, beats)
        return place

    def _words(self) -> Span:
        return self._held_words

    def _low_place(self, p: Placed) -> Span:
        first = self.group * self._low_stride
        return Span("UBUF", first, first + u_lines(self.target, p.shape))
