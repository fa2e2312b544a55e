"""Row operations to instructions: values in VBUF, constants and tables, VMAP and VROW; for one group of tokens.

The program is a straight line; it is the same at every position. Weights stream through WBUF, values stay in VBUF, and only
keys, values, rows of embeddings and logits pass through memory. Linears and attention are in `emit_linears`, `emit_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from axlora.compiler.backend.emit_tiles import ADAPTER, ROOM, Placed, TileEmit, low_lines
from axlora.compiler.backend.memory_layout import Memory, Pool, Ring, words_of
from axlora.compiler.backend.schedule import MEMORY, Span
from axlora.compiler.errors import DoesNotFit, UnsupportedOperator
from axlora.compiler.rows.row_operations import PLACES, Cells, Heads, MapRow, MapsRows, Table
from axlora.isa.opcodes import CBUF_BIT, ROWS, Buffer, Into, Map, Opcode, Reduce, Row, Unit
from axlora.isa.positions import SLOTS, Position, position_registers
from axlora.isa.target import Target

Int64 = npt.NDArray[np.int64]
LOADS_OF_SEQUENCES = 64
"""Loads that are looked at for the next one: keys and values of all heads come before weights that are ready."""
Apart = tuple[int | None, int | None, int | None]
"""Words, or lines of UBUF, from a bank of rows of a, b and the result to the next; None: as before."""
STRIP_WORDS = 256
"""Words of the rows that a map takes at once, where one group has fewer: what waits for the first should not wait long."""
EVERY = 1 << 20
"""More elements than a row has."""


def whole_context(target: Target, context: int) -> int:
    """Tokens that a cache of at least `context` has: whole tiles."""
    unit = max(target.lanes, target.ports)
    return -(-context // unit) * unit


class Form(Enum):
    """How the steps of a start are done, for room or for time."""

    CHAINED = "chained"
    """Group by group, where weights allow it (`Chains`)."""
    PLAIN = "plain"
    """Each to all groups at once."""
    PARKED = "parked"
    """Likewise; values are kept in memory while wider ones are worked on."""


class RowEmit(TileEmit, MapsRows):
    """`rows.Rows` as instructions: blocks of rows whose values lie in VBUF together, in groups of at most T."""

    row_scale = True

    def __init__(
        self,
        target: Target,
        placed: Mapping[str, Placed],
        memory: Memory,
        blocks: Sequence[Sequence[tuple[int, int]]],
        context: int,
        heads: Sequence[tuple[int, int]],
        dry: bool = False,
        sequence: bool = False,
        form: Form = Form.PLAIN,
        several: bool = False,
        apart: bool = False,
        counted: int = 0,
    ) -> None:
        """`blocks`: (first row, rows) of each, of each stream; `dry`: only to see whether it fits.

        `heads`: of each attention, (places of a head in the cache, places of a head of its result).
        `sequence`: a start begins at position 0, and no register says where. `apart`: as `Rows`.
        `several`: a register says where a sequence's cache is.
        `counted`: the stream of which a register says how many keys there are.

        No group takes more room than a block's first, so a dry run looks at that alone.
        """
        head = max((wide for wide, _ in heads), default=0)
        self.alike = -(-max(context, head + target.beat_bytes) // target.ports)
        super().__init__(target, 2 * self.alike, dry)
        t, self._dry, self._sequence, self.apart = target, dry, sequence, apart
        if sequence:
            self.schedule.loads = LOADS_OF_SEQUENCES
        self.parks, self.several = form is Form.PARKED, several
        self._heads = 1
        """That are as rows of the one row that is selected."""
        self.banks = 1
        """Heads of each selected row that are worked on together, a bank of rows each."""
        self._alone = False
        """Whether rows are selected one by one."""
        self.placed, self.memory, self.context, self._blocks = placed, memory, context, blocks
        self.counted, self.stream = counted, 0
        self.first, self.count = blocks[0][0]
        self.most = max(count for own in blocks for _, count in own)
        # A head's codes are read in whole lines, beyond it.
        self.pool = Pool(t.vbuf_words - t.lanes // t.vector_lanes, self.parks)
        self.pitch: dict[str, int] = {}
        self.base: dict[str, int] = {}
        self.whole: dict[str, bool] = {}
        """Whether a value has a row for each of the block's, or for the group's only."""
        self.constants: dict[str, tuple[int, int, Position | None]] = {}
        """Name -> (offset in memory, words a row, register of the rows before; None: one row for all)."""
        self.made: tuple[tuple[int, int, int], dict[str, int] | None] | None = None
        """Where the last VMAP of `mapped` wrote, and its fields in the schedule, if it may reduce what it makes."""
        self.records: dict[tuple[int, int], int] = {}
        self.spilled: dict[str, str] = {}
        """Value -> region that keeps it."""
        self.kept: dict[str, tuple[str, Cells, int]] = {}
        """Rows that windows slide over: the region that holds them, their cells, words a row."""
        self.idle_rooms: list[str] = []
        """Regions of spilled values that are not needed any more."""
        longest = max((p.shape.blocks for p in placed.values()), default=1)
        own = -(-context // t.lanes)
        groups = -(-self.most // t.tokens)
        lora = low_lines(t, placed.values())
        self.u_stride, self.low_stride = longest, lora
        self.u_first = groups * longest
        self.heads_first = self.u_first + groups * lora
        need = self.heads_first + own
        self.fixed_records = 0
        self.cbuf = Ring("CBUF", t.cbuf_words)
        self.fbuf = Ring("FBUF", t.table_entries)
        self.dim = self.half = 0
        self.slack = max((-(-wide // t.beat_bytes) * t.beat_bytes - own for wide, own in heads), default=0)
        """Places behind a row that the last head's whole beats reach: behind all rows, or spilled ones come back shifted."""
        self.unit = math.lcm(t.lanes, t.ports, *(p.shape.column_unit * t.ports for p in placed.values()))
        """Places that a row is a multiple of: VREQ writes whole column units, and those of weights of few bits are wide."""
        self.output_words: dict[int, int] = {}
        if need > t.ubuf_lines:
            raise DoesNotFit(f"needs {need} lines of UBUF, {t.ubuf_lines} are there", f"target {t.name}", "more ubuf_lines")
        if self.most > t.tbuf_tokens:
            raise DoesNotFit(f"{self.most} rows at once, TBUF has {t.tbuf_tokens}", f"target {t.name}", "more tbuf_tokens")
        self.heads_ubuf = Ring("UBUF", min(t.ubuf_lines, self.heads_first + 2 * own), self.heads_first)
        self.scales = groups * t.tokens
        """Places of row scales before those of attention."""
        self.chained = form is Form.CHAINED and not apart and self.most > t.tokens
        self.split = self.going_ahead = ""
        """The linear that began before the chain at hand, and the one that ends behind it."""
        self.leading: dict[str, int] = {}
        """Linear -> tiles of rows that go ahead."""
        self.sums: dict[int, tuple[Span, int]] = {}
        """Of attention: place -> sums in ACC, and the place of their row scales."""
        self.strip = False
        """Whether banks are groups of rows that follow each other."""
        self.scale = self.turn = 0
        """Place of the row scales of the codes at hand; whose turn it is of two places for those of q."""
        self.ahead = self.scales + 3 * t.tokens <= t.tbuf_tokens and 2 * PLACES * self.alike <= t.acc_words
        slots = max((p.shape.slots for p in placed.values()), default=0)
        if head and slots > SLOTS:
            raise DoesNotFit(f"{slots} adapter slots beside the registers of positions", "max-loras", f"at most {SLOTS}")
        padded = -(-self.most * 4 // t.beat_bytes) * t.beat_bytes
        words = memory.room("token words", padded)
        self._load(Buffer.TBUF, ROOM + words, Span("TBUF", 0, self.most), 0, padded // t.beat_bytes)

    # Blocks

    def blocks(self, stream: int, rows: int) -> Sequence[tuple[int, int]]:
        return self._blocks[stream]

    def block(self, stream: int, first: int, count: int) -> None:
        self.stream, self.first, self.count = stream, first, count

    def _length(self, stream: int) -> int:
        """Rows of a stream."""
        return max(first + count for first, count in self._blocks[stream])

    def region(self, kind: str) -> str:
        """The name of the stream's own region of a kind."""
        return f"{kind} {self.stream}" if self.stream else kind

    def groups(self) -> Iterator[int]:
        self._alone = False
        for number in range(1 if self._dry else -(-self.count // self.target.tokens)):
            self.select(number)
            yield number

    def strips(self, width: int) -> Iterator[int]:
        if self._dry or self.apart:
            yield from self.groups()
            return
        t = self.target.tokens
        whole = self.count // t
        most = max(1, min(ROWS, STRIP_WORDS // self._words_of(width)) // t)
        for first in range(0, whole, most):
            self.select(first)
            self.banks = min(most, whole - first)
            self.strip = True
            yield first
        self.strip, self.banks = False, 1
        if whole * t < self.count:
            self.select(whole)
            yield whole

    def sequences(self) -> Iterator[int]:
        if not self.apart:
            yield from self.groups()
            return
        self._alone = True
        for number in range(1 if self._dry else self.count):
            self.select(number)
            yield number

    def select(self, number: int, heads: int = 1) -> None:
        step = 1 if self._alone else self.target.tokens
        self.at = number * step
        self.tokens = min(step, self.count - self.at)
        self._heads, self.banks = (heads, 1) if self._one_row else (1, heads)
        self.tokens = max(self.tokens, self._heads)
        self.schedule.window = number if self._alone else 0

    def chunks(self) -> Iterator[None]:
        yield

    def operator(self, number: int) -> None:
        self.schedule.owner = number

    @property
    def row(self) -> int:
        """The group's first row of all."""
        return self.first + self.at

    @property
    def _one_row(self) -> bool:
        """Whether what attention works on at once is one row, of which heads are as rows."""
        return self.count == 1 or self.apart

    @property
    def behind(self) -> int:
        """Rows of its sequence that the start has before the group."""
        return 0 if self.apart else self.row

    # Instructions

    def _sources(self, address: int) -> Sequence[Span]:
        return [self._region(address)] if ROOM <= address < ADAPTER else ()

    def _region(self, address: int) -> Span:
        """The region of what changes in memory that an address lies in, as a whole."""
        number = self.memory.region_at(address - ROOM)
        return Span(MEMORY, number, number + 1)

    def _vmap(
        self, a: int, b: int, to: int, words: int, reads: list[Span], writes: list[Span], rows: int, **fields: int
    ) -> None:
        """One bank of rows."""
        if self.settings.get((Opcode.VBANK, 0), {}).get("rows", 0) < rows:
            self._set(Opcode.VBANK, a=None, b=None, to=None, rows=self.target.tokens)
        self.schedule.add(Opcode.VMAP, reads, writes, a=a, b=b, to=to, words=words, rows=rows, **fields)

    def _vmap_of_banks(
        self, a: int, b: int, to: int, words: int, reads: list[Span], writes: list[Span], apart: Apart, **fields: int
    ) -> None:
        """The group's rows, of every head that is worked on; `apart`: from a bank to the next."""
        if self.banks == 1:
            self._vmap(a, b, to, words, reads, writes, self.tokens, **fields)
            return
        self._set(Opcode.VBANK, a=apart[0], b=apart[1], to=apart[2], rows=self.tokens)
        rows = self.tokens * self.banks
        self.schedule.add(Opcode.VMAP, reads, writes, a=a, b=b, to=to, words=words, rows=rows, **fields)

    def _apart(self, cells: Cells | None) -> int | None:
        """Words from a bank of rows of a value to the next: of a temporary one they follow each other."""
        if cells is None:
            return None
        if cells.apart or cells.name in self.constants:
            return cells.apart // self.target.vector_lanes
        return self.target.tokens * self.pitch[cells.name]

    # Rows

    def value(self, name: str, width: int) -> Cells:
        self.pitch[name] = self._pitch(width)
        self.base[name] = self.pool.take(name, self.count * self.pitch[name])
        self.whole[name] = True
        return Cells(name, 0, width)

    def _pitch(self, width: int) -> int:
        """Words of a row."""
        return -(-(width + self.slack) // self.unit) * self.unit // self.target.vector_lanes

    def temporary(self, name: str, width: int, least: int = 1) -> Cells:
        self.pitch[name] = self._pitch(width)
        rows = min(self.count, self.target.tokens)
        rows = max(least, rows) if self._one_row or least == 1 else least * self.target.tokens
        self.base[name] = self.pool.take(name, rows * self.pitch[name])
        self.whole[name] = False
        return Cells(name, 0, width)

    def take_over(self, name: str, cells: Cells) -> Cells:
        self.base[name], self.pitch[name] = self.base[cells.name], self.pitch[cells.name]
        self.whole[name] = self.whole[cells.name]
        if cells.name in self.pool.taken:  # not one of the rooms at the end
            self.pool.taken[name] = self.pool.taken.pop(cells.name)
        return Cells(name, 0, cells.width)

    def free(self, cells: Cells) -> None:
        self.pool.free(cells.name)

    def constant(self, name: str, values: Int64) -> Cells:
        return self._constant(name, values[None], None)

    def by_position(self, name: str, values: Int64) -> Cells:
        cells = self._constant(name, values, Position.TURN)
        half = self.constants[name][1] * self.target.vector_lanes
        if self.half not in (0, half) and not self._sequence:
            raise UnsupportedOperator("rotary tables of different widths", name, "not supported yet")
        self.half = half
        return cells

    def by_key(self, name: str, values: Int64) -> Cells:
        keys = values.shape[1]
        if name not in self.constants:
            self._constant(name, np.pad(values, ((0, 0), (0, -keys % self.target.lanes))), Position.BIAS)
        return Cells(name, 0, keys)

    def _constant(self, name: str, values: Int64, before: Position | None) -> Cells:
        data = words_of(self.target, values)
        words = len(data) // values.shape[0] // self.target.vector_word_bytes
        self.constants[name] = (self.memory.put(data), words, before)
        return Cells(name, 0, values.shape[1])

    def _operand(self, cells: Cells) -> tuple[int, int, list[Span]]:
        """(word address, pitch, what is read) of an operand; constants are loaded first."""
        t = self.target
        if cells.first % t.vector_lanes:
            what = f"{cells.name!r} is cut at feature {cells.first}, words have {t.vector_lanes}"
            raise DoesNotFit(what, f"target {t.name}", "heads, and halves of what turns in them, must be whole words")
        if cells.name not in self.constants:
            pitch = self.pitch[cells.name]
            row = self.at * pitch if self.whole[cells.name] else 0
            apart = cells.apart // t.vector_lanes if self._one_row else 0
            return self.base[cells.name] + row + cells.first // t.vector_lanes, apart or pitch, []
        offset, words, before = self.constants[cells.name]
        by_position = before is not None
        rows = self.tokens if by_position else 1
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        key = (cells.name, self.row if by_position else 0)
        place = self.cbuf.held.get(key)
        if place is None:
            place = self.cbuf.take(rows * words, unit, key)
            parts = rows if self.apart else 1  # each row from where its own sequence is
            size = words * t.vector_word_bytes
            extra = {"rx": self._first(before)} if before is not None else {}
            offset += self.behind * size if by_position else 0
            for n in range(parts):
                part = place.part(n, rows * words // parts)
                beat, beats = part.first * t.vector_word_bytes // t.beat_bytes, rows * size // parts // t.beat_bytes
                self.schedule.window = self.at + n if by_position and self.apart else 0
                self._load(Buffer.CBUF, offset, part, beat, beats, **extra)
            self.schedule.window = self.at if self._alone else 0
        return CBUF_BIT + place.first, words if by_position else 0, [place]

    def _words_of(self, width: int) -> int:
        return -(-width // self.target.vector_lanes)

    def mapped(self, row: MapRow) -> None:
        if self._reduces_what_is_made(row):
            return
        self._vmap_of(row)
        self.made = None
        if row.out is not None and row.reduce is Reduce.NONE and row.keys is None and self.banks == 1:
            self.made = self._place(row.out), self.schedule.latest(Unit.VECTOR)

    def _reduces_what_is_made(self, row: MapRow) -> bool:
        """Let the VMAP before reduce what it makes, where a pass over its result would do nothing else."""
        if (
            self.made is None
            or self.banks > 1
            or row != replace(MapRow.same(row.a), reduce=row.reduce)
            or row.a.name in self.constants
        ):
            return False
        place, fields = self.made
        if fields is None or self.schedule.latest(Unit.VECTOR) is not fields or place != self._place(row.a):
            return False
        fields["reduce"] = row.reduce
        return True

    def _place(self, cells: Cells) -> tuple[int, int, int]:
        """Word address, pitch and elements of a value of the group's rows."""
        at, pitch, _ = self._operand(cells)
        return at, pitch, cells.width

    def _vmap_of(self, row: MapRow) -> None:
        at, pitch, reads = self._operand(row.a)
        at_b, pitch_b, more = self._operand(row.b) if row.b is not None else (at, pitch, [])
        to, to_pitch, _ = self._operand(row.out) if row.out is not None else (0, None, [])
        if row.keys is not None:
            self._visible(row.keys)
        else:
            self._set(Opcode.VLEN, valid=row.a.width)
        self._set(Opcode.VPITCH, a=pitch, b=pitch_b, to=to_pitch)
        if row.table is not None:
            reads = [*reads, self._lines(row.table)]
        elif row.function is not Map.SCALE:
            self._set(Opcode.VCON, ca=row.ca, cb=row.cb, shift=row.shift)
        self._vmap_of_banks(
            at,
            at_b,
            to,
            reads=reads + more,
            writes=[],
            apart=(self._apart(row.a), self._apart(row.b), self._apart(row.out)),
            function=row.function,
            reduce=row.reduce,
            into=Into.NOTHING if row.out is None else Into.VBUF,
            size=0 if row.out is None else 2,
            scale=row.scale or 0,
            less=row.less or 0,
            subtract=int(row.less is not None),
            **({"words": self._words_of(row.a.width)} if row.keys is None else self._seen(row.keys, Position.WORDS, "words")),
        )

    def _visible(self, heads: Heads) -> None:
        """Keys up to each row's own are valid; without a causal mask, all that are no padding."""
        if heads.causal:
            self._set(Opcode.VLEN, valid=1 + self.behind, rx=self._first(Position.FIRST), step=int(self._heads == 1))
        elif self._sequence and heads.stream != self.counted:
            self._set(Opcode.VLEN, valid=self._length(heads.stream))
        else:
            self._set(Opcode.VLEN, valid=0, rx=int(Position.KEYS))

    def _seen(self, heads: Heads, register: Position, field: str) -> dict[str, int]:
        """A count that follows from the keys seen: a register's or, where it is the same in every start, its number."""
        if not self._sequence or (heads.stream == self.counted and not heads.causal):
            return {field: 0, "rz": int(register)}
        keys = whole_context(self.target, self._length(heads.stream))
        return {field: position_registers(self.target, 0, keys, 0, 0, keys)[register]}

    def _first(self, register: Position) -> int:
        """A register that follows from the position of a start's first row: none where that is 0."""
        return 0 if self._sequence else int(register)

    def _lines(self, table: Table) -> Span:
        """Take this table from now on; its place in FBUF."""
        place = self._table(table)
        fields = {"low": table.low, "first": place.first, "last": len(table.records) - 1, "step": table.step}
        self._set(Opcode.VTAB, **fields, shift=table.shift)
        return place

    def _table(self, table: Table) -> Span:
        """The table's place in FBUF, where it stays until others need the room."""
        t = self.target
        count = len(table.records)
        place = self.fbuf.held.get(table.name)
        if place is None:
            unit = max(1, t.beat_bytes // 8)
            padded = -(-count // unit) * unit
            records = np.zeros((padded, 2), "<i4")
            records[:count] = table.records
            place = self.fbuf.take(padded, unit, table.name)
            offset = self.memory.put(records.tobytes())
            self._load(Buffer.FBUF, offset, place, place.first * 8 // t.beat_bytes, padded * 8 // t.beat_bytes)
        return Span("FBUF", place.first, place.first + count)

    def scalar(self, function: Row, slot: int, factor: int, shift: int, add: int = 0, adjust: int = 0) -> None:
        fields = {"function": function, "factor": factor, "add": add, "shift": shift, "adjust": adjust, "scalar": slot}
        self.schedule.add(Opcode.VROW, rows=self.tokens * self.banks, **fields)

    def quantize(self, x: Cells, factor: int, shift: int, adjust: int, token: int, heads: Heads | None, keys: bool) -> None:
        t = self.target
        self.scale = self.at if heads is None else self._scale_of_heads(keys)
        fields = {"factor": factor, "shift": shift, "adjust": adjust, "to": token & 255, "scalar": 1, "add": self.scale}
        self.schedule.add(Opcode.VROW, function=Row.TOKEN, rows=self.tokens * self.banks, **fields)
        lines = -(-x.width // t.lanes)
        if heads is not None and keys:
            self._visible(heads)
        else:
            self._set(Opcode.VLEN, valid=x.width)
        self.active = self.heads_ubuf.take(lines * self.banks) if heads is not None else self._codes(lines)
        own = {"words": lines * t.lanes // t.vector_lanes}
        words = self._seen(heads, Position.WORDS, "words") if heads is not None and keys else own
        self._to_ubuf(x, [], function=Map.SCALE, scale=1, **words)

    def _scale_of_heads(self, keys: bool) -> int:
        """Place of the group's scales: those of q take turns, and behind them are those of the weights."""
        if not self.ahead:
            return self.at
        if not keys:
            self.turn = 1 - self.turn
        return self.scales + (2 if keys else self.turn) * self.target.tokens * self.banks

    def static_codes(self, x: Cells, table: Table) -> None:
        t = self.target
        lines = -(-x.width // t.lanes)
        self._set(Opcode.VLEN, valid=x.width)
        self.active = self._codes(lines)
        self._to_ubuf(x, [self._lines(table)], function=Map.TABLE, words=lines * t.lanes // t.vector_lanes)

    def _to_ubuf(self, x: Cells, reads: list[Span], **fields: int) -> None:
        """The group's rows of a value to codes in their place."""
        at, pitch, _ = self._operand(x)
        self._set(Opcode.VPITCH, a=pitch, b=None, to=None)
        fields |= {"into": Into.UBUF, "size": self.target.activation_bits // 16}
        apart = (self._apart(x), None, self.u_stride if self.strip else (self.active.stop - self.active.first) // self.banks)
        self._vmap_of_banks(at, at, self.active.first, reads=reads, writes=[self.active], apart=apart, **fields)

    def _codes(self, lines: int) -> Span:
        """The place in UBUF for what linears read, of the group or of all groups of a strip."""
        first = self.group * self.u_stride
        return Span("UBUF", first, first + (self.banks - 1) * self.u_stride + lines)

    # Shared with linears and attention

    def _requantize(self, acc: Span, records: Span, to: int, pitch: int, scale: int, **fields: int) -> None:
        self._set(Opcode.VOUT, size=2, vbuf=1)
        self._set(Opcode.VPITCH, a=None, b=None, to=pitch)
        reads = [acc, records, self._words()]
        self.schedule.add(Opcode.VREQ, reads, [], acc=acc.first, to=to, tokens=self.tokens, token=scale, **fields)

    def _words(self) -> Span:
        return Span("TBUF", 0, self.most)

    def _store(self, address: int, source: Span, beats: int, width: int, register: int, rows: int = 1) -> None:
        """Rows of OBUF to memory, `beats` a row; of each beat only `width` bytes, or all if 0; as far apart as SPITCH says."""
        bytes_field = width.bit_length()
        fields = {"address": address, "beat": source.first, "beats": beats, "bytes": bytes_field, "rx": int(register)}
        apart = self.settings.get((Opcode.SPITCH, 0), {}).get("row", 0)
        regions = {self._region(address + row * apart) for row in range(rows)}
        self.schedule.add(Opcode.STORE, [source], regions, rows=rows, **fields)
