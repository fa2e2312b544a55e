"""Row operations to instructions: values in VBUF, constants and tables, VMAP and VROW; for one group of tokens.

The program is a straight line; it is the same at every position. Weights stream through WBUF, values stay in VBUF, and only
keys, values, rows of embeddings and logits pass through memory. Linears and attention are in `emit_linears`, `emit_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler import layer
from axlora.compiler.backend.plan import Plan, Shape, u_lines
from axlora.compiler.backend.schedule import AREA_BITS, Schedule, Span
from axlora.compiler.errors import BadModel
from axlora.isa.opcodes import CBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row
from axlora.isa.target import Target

from .layout import Memory, Pool, Ring, words_of
from .positions import SLOTS, Position
from .rows import Cells, Heads, Table

Int64 = npt.NDArray[np.int64]
ROOM = 1 << AREA_BITS
"""Added to offsets of regions that change; offsets of read-only data are as they are."""
ADAPTER = 2 << AREA_BITS
"""Added to offsets in an adapter block, whose address a slot register holds."""
EVERY = 1 << 20
"""More elements than a row has."""


@dataclass(frozen=True)
class Placed:
    """A linear in memory: its tiling, and where its tiles and its piece of every adapter block lie."""

    linear: layer.Linear
    shape: Shape
    plan: Plan
    tiles: tuple[int, ...]
    scales: tuple[int, ...]
    records: int
    ones: int
    adapter: int


class RowEmit:
    """`rows.Rows` as instructions for `tokens` rows (at most T)."""

    def __init__(
        self, target: Target, placed: Mapping[str, Placed], memory: Memory, tokens: int, context: int, head: int
    ) -> None:
        """`head`: features of the widest head."""
        t = self.target = target
        self.placed, self.memory, self.tokens, self.context = placed, memory, tokens, context
        self.schedule = Schedule()
        self.pool = Pool(t.vbuf_words - t.lanes // t.vector_lanes)  # a head's codes are read in whole lines, beyond its end
        self.pitch: dict[str, int] = {}
        self.base: dict[str, int] = {}
        self.constants: dict[str, tuple[int, int, bool]] = {}
        """Name -> (offset in memory, words a row, whether a row a position)."""
        self.tables: dict[str, int] = {}
        self.records: dict[tuple[int, int], int] = {}
        self.table_next = 0
        self.settings: dict[Opcode, dict[str, int]] = {}
        longest = max((p.shape.blocks for p in placed.values()), default=1)
        self.u_first = max(longest, -(-context // t.lanes))
        self.alike = -(-max(context, head + t.beat_bytes) // t.ports)
        self.fixed_records = 0
        self.wbuf = Ring("WBUF", t.wbuf_lines)
        self.pbuf = Ring("PBUF", t.pbuf_groups, 2 * self.alike)
        self.cbuf = Ring("CBUF", t.cbuf_words)
        self.acc = Ring("ACC", t.acc_words)
        self.obuf = Ring("OBUF", t.obuf_beats)
        self.sbuf = Ring("SBUF", t.sbuf_lines)
        self.dim = self.half = self.slack = self.output_words = 0
        need = self.u_first + max((u_lines(t, p.shape) for p in placed.values() if p.shape.slots), default=0)
        if need > t.ubuf_lines:
            raise BadModel(f"needs {need} lines of UBUF, {t.ubuf_lines} are there", f"target {t.name}", "more ubuf_lines")
        slots = max((p.shape.slots for p in placed.values()), default=0)
        if slots > SLOTS:
            raise BadModel(f"{slots} adapter slots beside the registers of positions", "max-loras", f"at most {SLOTS}")
        words = memory.room("token words", max(t.tokens * 4, t.beat_bytes))
        self._load(Buffer.TBUF, ROOM + words, Span("TBUF", 0, t.tokens), 0, max(1, t.tokens * 4 // t.beat_bytes))

    # Instructions

    def _set(self, opcode: Opcode, **fields: int) -> None:
        """A setting, unless it holds already."""
        if self.settings.get(opcode) != fields:
            self.settings[opcode] = fields
            self.schedule.add(opcode, **fields)

    def _load(self, buffer: Buffer, address: int, to: Span, beat: int, beats: int, **fields: int) -> None:
        reads = [self._region(address)] if ROOM <= address < ADAPTER else []
        self.schedule.add(
            Opcode.LOAD, reads, [to], buffer=buffer, address=address, beat=beat, **{"rows": 1, "beats": beats} | fields
        )

    def _region(self, address: int) -> Span:
        """The region of what changes in memory that an address lies in, as a whole."""
        start = max(first for first, _ in self.memory.regions.values() if first <= address - ROOM)
        return Span("memory", start, start + 1)

    def _vmap(
        self, a: int, b: int, to: int, words: int, reads: list[Span], writes: list[Span], rows: int, **fields: int
    ) -> None:
        self.schedule.add(Opcode.VMAP, reads, writes, a=a, b=b, to=to, words=words, rows=rows, **fields)

    # Rows

    def value(self, name: str, width: int) -> Cells:
        t = self.target
        whole = max(t.lanes, t.ports)
        words = -(-(width + self.slack) // whole) * whole // t.vector_lanes
        self.base[name] = self.pool.take(name, self.tokens * words)
        self.pitch[name] = words
        return Cells(name, 0, width)

    def take_over(self, name: str, cells: Cells) -> Cells:
        self.base[name], self.pitch[name] = self.base[cells.name], self.pitch[cells.name]
        self.pool.taken[name] = self.pool.taken.pop(cells.name)
        return Cells(name, 0, cells.width)

    def free(self, cells: Cells) -> None:
        self.pool.free(cells.name)

    def constant(self, name: str, values: Int64) -> Cells:
        return self._constant(name, values[None], False)

    def by_position(self, name: str, values: Int64) -> Cells:
        cells = self._constant(name, values, True)
        half = self.constants[name][1] * self.target.vector_lanes
        if self.half not in (0, half):
            raise BadModel("rotary tables of different widths", name, "not supported yet")
        self.half = half
        return cells

    def _constant(self, name: str, values: Int64, by_position: bool) -> Cells:
        data = words_of(self.target, values)
        words = len(data) // values.shape[0] // self.target.vector_word_bytes
        self.constants[name] = (self.memory.put(data), words, by_position)
        return Cells(name, 0, values.shape[1])

    def _operand(self, cells: Cells) -> tuple[int, int, list[Span]]:
        """(word address, pitch, what is read) of an operand; constants are loaded first."""
        t = self.target
        if cells.first % t.vector_lanes:
            what = f"{cells.name!r} is cut at feature {cells.first}, words have {t.vector_lanes}"
            raise BadModel(what, f"target {t.name}", "heads, and halves of what turns in them, must be whole words")
        if cells.name not in self.constants:
            return self.base[cells.name] + cells.first // t.vector_lanes, self.pitch[cells.name], []
        offset, words, by_position = self.constants[cells.name]
        rows = self.tokens if by_position else 1
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        place = self.cbuf.held.get(cells.name)
        if place is None:
            place = self.cbuf.take(rows * words, unit, cells.name)
            beats = rows * words * t.vector_word_bytes // t.beat_bytes
            extra = {"rx": int(Position.TURN)} if by_position else {}
            self._load(Buffer.CBUF, offset, place, place.first * t.vector_word_bytes // t.beat_bytes, beats, **extra)
        return CBUF_BIT + place.first, words if by_position else 0, [place]

    def _words(self, width: int) -> int:
        return -(-width // self.target.vector_lanes)

    def map(
        self,
        function: Map,
        a: Cells,
        b: Cells | None = None,
        out: Cells | None = None,
        *,
        reduce: Reduce = Reduce.NONE,
        ca: int = 1,
        cb: int = 0,
        shift: int = 0,
        table: Table | None = None,
        scale: int | None = None,
        less: int | None = None,
        keys: Heads | None = None,
    ) -> None:
        at, pitch, reads = self._operand(a)
        at_b, pitch_b, more = self._operand(b) if b is not None else (at, pitch, [])
        to, to_pitch, _ = self._operand(out) if out is not None else (0, 0, [])
        if keys is not None:
            self._visible(keys)
        else:
            self._set(Opcode.VLEN, valid=a.width)
        self._set(Opcode.VPITCH, a=pitch, b=pitch_b, to=to_pitch)
        if table is not None:
            first = self._table(table)
            fields = {"low": table.low, "first": first, "last": len(table.records) - 1, "step": table.step}
            self._set(Opcode.VTAB, **fields, shift=table.shift)
            reads = [*reads, Span("FBUF", first, first + len(table.records))]
        elif function is not Map.SCALE:
            self._set(Opcode.VCON, ca=ca, cb=cb, shift=shift)
        self._vmap(
            at,
            at_b,
            to,
            0 if keys is not None else self._words(a.width),
            reads + more,
            [],
            self.tokens,
            function=function,
            reduce=reduce,
            into=Into.NOTHING if out is None else Into.VBUF,
            size=0 if out is None else 2,
            scale=scale or 0,
            less=less or 0,
            subtract=int(less is not None),
            **({"rz": int(Position.WORDS)} if keys is not None else {}),
        )

    def _visible(self, heads: Heads) -> None:
        """Keys up to each row's own are valid; without a causal mask, all up to the last row's."""
        self._set(Opcode.VLEN, valid=1 if heads.causal else self.tokens, rx=int(Position.FIRST), step=int(heads.causal))

    def _table(self, table: Table) -> int:
        if table.name not in self.tables:
            t = self.target
            count = len(table.records)
            unit = max(1, t.beat_bytes // 8)
            padded = -(-count // unit) * unit
            if self.table_next + padded > t.table_entries:
                hint = "a target with more table_entries"
                raise BadModel(f"function tables need more than {t.table_entries} entries", f"target {t.name}", hint)
            records = np.zeros((padded, 2), "<i4")
            records[:count] = table.records
            place = Span("FBUF", self.table_next, self.table_next + padded)
            offset = self.memory.put(records.tobytes())
            self._load(Buffer.FBUF, offset, place, place.first * 8 // t.beat_bytes, padded * 8 // t.beat_bytes)
            self.tables[table.name] = place.first
            self.table_next = place.stop
        return self.tables[table.name]

    def scalar(self, function: Row, slot: int, factor: int, shift: int, add: int = 0, adjust: int = 0) -> None:
        fields = {"function": function, "factor": factor, "add": add, "shift": shift, "adjust": adjust, "scalar": slot}
        self.schedule.add(Opcode.VROW, rows=self.tokens, **fields)

    def quantize(self, x: Cells, factor: int, shift: int, adjust: int, token: int, keys: Heads | None = None) -> None:
        t = self.target
        fields = {"factor": factor, "shift": shift, "adjust": adjust, "to": token & 255, "scalar": 1}
        self.schedule.add(Opcode.VROW, function=Row.TOKEN, rows=self.tokens, **fields)
        at, pitch, _ = self._operand(x)
        lines = -(-x.width // t.lanes)
        if keys is not None:
            self._visible(keys)
        else:
            self._set(Opcode.VLEN, valid=x.width)
        self._set(Opcode.VPITCH, a=pitch, b=pitch, to=0)
        self._vmap(
            at,
            at,
            0,
            0 if keys is not None else lines * t.lanes // t.vector_lanes,
            [],
            [Span("UBUF", 0, lines)],
            self.tokens,
            function=Map.SCALE,
            into=Into.UBUF,
            size=t.activation_bits // 16,
            scale=1,
            **({"rz": int(Position.WORDS)} if keys is not None else {}),
        )

    # Shared with linears and attention

    def _requantize(self, acc: Span, records: Span, to: int, pitch: int, **fields: int) -> None:
        self._set(Opcode.VOUT, size=2, vbuf=1)
        self._set(Opcode.VPITCH, a=0, b=0, to=pitch)
        reads = [acc, records, Span("TBUF", 0, self.target.tokens)]
        self.schedule.add(Opcode.VREQ, reads, [], acc=acc.first, to=to, tokens=self.tokens, **fields)

    def _store(self, address: int, source: Span, beats: int, width: int, register: int) -> None:
        bytes_field = width.bit_length() if 0 < width < self.target.beat_bytes else 0
        fields = {"address": address, "beat": source.first, "beats": beats, "bytes": bytes_field, "rx": int(register)}
        self.schedule.add(Opcode.STORE, [source], [self._region(address)], rows=1, **fields)

    # The ends

    def read_input(self, cells: Cells) -> None:
        """Rows of embeddings from memory to a value."""
        t = self.target
        words = self.pitch[cells.name]
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        place = self.cbuf.take(self.tokens * words, unit)
        where = ROOM + self.memory.room("input", t.tokens * words * t.vector_word_bytes)
        beat = t.vector_word_bytes
        self._load(Buffer.CBUF, where, place, place.first * beat // t.beat_bytes, self.tokens * words * beat // t.beat_bytes)
        self._set(Opcode.VLEN, valid=EVERY)
        self._set(Opcode.VPITCH, a=words, b=words, to=words)
        self._set(Opcode.VCON, ca=1, cb=0, shift=0)
        at = self.base[cells.name]
        fields = {"function": Map.MAC, "into": Into.VBUF, "size": 2}
        self._vmap(CBUF_BIT + place.first, CBUF_BIT + place.first, at, words, [place], [], self.tokens, **fields)

    def write_output(self, cells: Cells) -> None:
        """A value to memory, s32 rows of whole words."""
        t = self.target
        words = self.output_words = self.pitch[cells.name]
        beats = words * t.vector_word_bytes // t.beat_bytes
        place = self.obuf.take(self.tokens * beats)
        where = ROOM + self.memory.room("output", t.tokens * words * t.vector_word_bytes)
        self._copy(self.base[cells.name], words, place, beats, words)
        self._store(where, place, self.tokens * beats, 0, 0)

    def _copy(self, at: int, pitch: int, place: Span, beats: int, words: int) -> None:
        """Rows of words from VBUF to OBUF, `beats` a row."""
        self._set(Opcode.VLEN, valid=EVERY)
        self._set(Opcode.VPITCH, a=pitch, b=pitch, to=beats)
        self._set(Opcode.VCON, ca=1, cb=0, shift=0)
        fields = {"function": Map.MAC, "into": Into.OBUF, "size": 2}
        self._vmap(at, at, place.first, words, [], [place], self.tokens, **fields)
