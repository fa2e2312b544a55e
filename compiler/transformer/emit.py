"""Row operations to instructions: `rows.Rows` on the machine, for one group of tokens at positions that registers name.

The program is a straight line; it is the same at every position. Weights stream through WBUF, values stay in VBUF, and only
keys, values, rows of embeddings and logits pass through memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from axlora.compiler import layer
from axlora.compiler.backend.pack import adapter_offsets, base_records
from axlora.compiler.backend.plan import Plan, Shape, adapter_lines, u_lines
from axlora.compiler.backend.schedule import AREA_BITS, Schedule, Span
from axlora.compiler.errors import BadModel
from axlora.isa.formats import Format
from axlora.isa.opcodes import CBUF_BIT, UBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row
from axlora.isa.regions import slot_registers
from axlora.isa.target import Target

from .layout import Memory, Pool, Ring, words_of
from .rows import Cells, Heads, Table

Int64 = npt.NDArray[np.int64]
ROOM = 1 << AREA_BITS
"""Added to offsets of regions that change; offsets of read-only data are as they are."""
ADAPTER = 2 << AREA_BITS
"""Added to offsets in an adapter block, whose address a slot register holds."""
EVERY = 1 << 20
"""More elements than a row has."""


class Position(IntEnum):
    """Registers that the host sets before a start at a position; K = keys seen by the last row."""

    FIRST = 1
    """Position of the first row."""
    GROUPS = 2
    """ceil(K / P)."""
    BLOCKS = 3
    """ceil(K / L)."""
    WORDS = 4
    """BLOCKS * L / V."""
    KEY = 5
    """Bytes of the keys before: FIRST * dim elements."""
    VALUE = 6
    """Bytes to the first row's place in the tiles of V."""
    KEYS = 7
    """K."""
    SCALE = 31
    """4 * FIRST."""
    SCALE_BEATS = 30
    """Beats of K scales."""
    TURN = 29
    """Bytes of the rows before in a table by position."""


SLOTS = 5
"""Adapter slots whose registers leave the positions' alone."""


def position_registers(target: Target, first: int, rows: int, dim: int, half: int) -> dict[int, int]:
    """What the host writes for rows at `first` .. `first + rows - 1`.

    Args:
        dim: features of a head. half: s32 elements of a row of the tables by position, padded.
    """
    t, keys = target, first + rows
    blocks = -(-keys // t.lanes)
    return {
        Position.FIRST: first,
        Position.GROUPS: -(-keys // t.ports),
        Position.BLOCKS: blocks,
        Position.WORDS: blocks * t.lanes // t.vector_lanes,
        Position.KEY: first * dim,
        Position.VALUE: first // t.lanes * t.lanes * dim + first % t.lanes * t.ports,
        Position.KEYS: keys,
        Position.SCALE: 4 * first,
        Position.SCALE_BEATS: -(-4 * keys // t.beat_bytes),
        Position.TURN: first * half * 4,
    }


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


class Emit:
    """`rows.Rows` as instructions for `tokens` rows (at most T)."""

    def __init__(self, target: Target, placed: Mapping[str, Placed], memory: Memory, tokens: int, context: int) -> None:
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
        fixed = -(-context // t.ports)
        self.fixed_records = 0
        self.wbuf = Ring("WBUF", t.wbuf_lines)
        self.pbuf = Ring("PBUF", t.pbuf_groups, 2 * fixed)
        self.cbuf = Ring("CBUF", t.cbuf_words)
        self.acc = Ring("ACC", t.acc_words)
        self.obuf = Ring("OBUF", t.obuf_beats)
        self.sbuf = Ring("SBUF", t.sbuf_lines)
        self.dim = self.half = 0
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
        words = -(-width // whole) * whole // t.vector_lanes
        self.base[name] = self.pool.take(name, self.tokens * words)
        self.pitch[name] = words
        return Cells(name, 0, width)

    def free(self, cells: Cells) -> None:
        self.pool.free(cells.name)

    def constant(self, name: str, values: Int64) -> Cells:
        return self._constant(name, values[None], False)

    def by_position(self, name: str, values: Int64) -> Cells:
        cells = self._constant(name, values, True)
        self.half = self.constants[name][1] * self.target.vector_lanes
        return cells

    def _constant(self, name: str, values: Int64, by_position: bool) -> Cells:
        data = words_of(self.target, values)
        words = len(data) // values.shape[0] // self.target.vector_word_bytes
        self.constants[name] = (self.memory.put(data), words, by_position)
        return Cells(name, 0, values.shape[1])

    def _operand(self, cells: Cells) -> tuple[int, int, list[Span]]:
        """(word address, pitch, what is read) of an operand; constants are loaded first."""
        t = self.target
        if cells.name not in self.constants:
            return self.base[cells.name] + cells.first // t.vector_lanes, self.pitch[cells.name], []
        offset, words, by_position = self.constants[cells.name]
        rows = self.tokens if by_position else 1
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        place = self.cbuf.take(rows * words, unit)
        beats = rows * words * t.vector_word_bytes // t.beat_bytes
        extra = {"rx": int(Position.TURN)} if by_position else {}
        self._load(
            Buffer.CBUF,
            offset,
            place,
            place.first // unit if unit > 1 else place.first * t.vector_word_bytes // t.beat_bytes,
            beats,
            **extra,
        )
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

    # Linears

    def linear(self, name: str, out: Cells) -> None:
        t = self.target
        p = self.placed[name]
        s, plan, own = p.shape, p.plan, p.linear
        offsets = adapter_offsets(t, s, plan)[0]
        a_lines, b_lines = adapter_lines(s, plan.columns)
        base, pitch, _ = self._operand(out)
        low_acc: Span | None = None
        for n, (first, count) in enumerate(plan.column_tiles(s)):
            with_a = bool(s.slots) and n == 0
            tile = self.wbuf.take(s.blocks * count * s.storage // 8 + (1 if s.per_group else 0))
            self._weights(p, n, count, tile)
            adapters = self._adapter_weights(p, n, count, offsets, with_a) if s.slots else []
            records = self._records(p, n, (first, count), offsets, with_a)
            words = count * (2 if s.slots else 1)
            acc = self.acc.take(words + (s.rank_groups if with_a else 0))
            if with_a:
                low_acc = Span("ACC", acc.first + words, acc.stop)
            self._product(p, n, count, tile, adapters if with_a else [], acc, words)
            if with_a and low_acc is not None:
                self._low(p, low_acc, records, (1 + s.slots) * count)
            if s.slots:
                self._high(p, count, adapters, acc)
            self._set(
                Opcode.VCFG,
                base=records.first,
                adapters=records.first + count if s.slots else 0,
                adapter_stride=count if s.slots else 0,
                acc2=count if s.slots else 0,
                guard=own.guard,
                token_scale=1,
                bias_end=int(own.bias_end),
                bias_shift=own.bias_shift,
                adapter=int(s.slots > 0),
                row_scale=1,
            )
            self._requantize(acc, records, base + first * t.ports // t.vector_lanes, pitch, groups=count)

    def _requantize(self, acc: Span, records: Span, to: int, pitch: int, **fields: int) -> None:
        self._set(Opcode.VOUT, size=2, vbuf=1)
        self._set(Opcode.VPITCH, a=0, b=0, to=pitch)
        reads = [acc, records, Span("TBUF", 0, self.target.tokens)]
        self.schedule.add(Opcode.VREQ, reads, [], acc=acc.first, to=to, tokens=self.tokens, **fields)

    def _weights(self, p: Placed, n: int, count: int, tile: Span) -> None:
        t, s = self.target, p.shape
        lines = s.blocks * count * s.storage // 8
        self._load(
            Buffer.WBUF,
            p.tiles[n],
            Span("WBUF", tile.first, tile.first + lines),
            tile.first * t.wbuf_line_beats,
            lines * t.wbuf_line_beats,
        )
        if s.per_group:
            self._load(
                Buffer.WBUF,
                p.ones,
                Span("WBUF", tile.stop - 1, tile.stop),
                (tile.stop - 1) * t.wbuf_line_beats,
                t.wbuf_line_beats,
            )

    def _adapter_weights(self, p: Placed, n: int, count: int, offsets: list[int], with_a: bool) -> list[tuple[Span, Span]]:
        """(A, B) of every slot in WBUF; A is loaded with the first tile only."""
        t, s = self.target, p.shape
        out = []
        for slot in range(1, s.slots + 1):
            address, groups, blocks = slot_registers(slot)
            a = self.wbuf.take(s.rank_groups * s.blocks if with_a else 1)
            b = self.wbuf.take(s.rank_blocks * count)
            line = t.wbuf_line_beats
            if with_a:
                self._load(
                    Buffer.WBUF,
                    ADAPTER + p.adapter + offsets[0],
                    a,
                    a.first * line,
                    s.blocks * line,
                    rx=address,
                    rows=0,
                    rz=groups,
                )
            self._load(
                Buffer.WBUF,
                ADAPTER + p.adapter + offsets[2 + 2 * n],
                b,
                b.first * line,
                count * line,
                rx=address,
                rows=0,
                rz=blocks,
            )
            out.append((a, b))
        return out

    def _records(self, p: Placed, n: int, column: tuple[int, int], offsets: list[int], with_a: bool) -> Span:
        t, s = self.target, p.shape
        first, count = column
        record = t.ports * 8
        unit = max(1, t.beat_bytes // record)
        place = self.pbuf.take(count * (1 + s.slots) + (s.slots * s.rank_groups if with_a else 0), unit)

        def load(address: int, at: int, groups: int, **fields: int) -> None:
            beats = groups * record // t.beat_bytes
            self._load(Buffer.PBUF, address, Span("PBUF", at, at + groups), at * record // t.beat_bytes, beats, **fields)

        load(p.records + first * record, place.first, count)
        for slot in range(1, s.slots + 1):
            address, rank, _ = slot_registers(slot)
            load(ADAPTER + p.adapter + offsets[3 + 2 * n], place.first + slot * count, count, rx=address)
            if with_a:
                at = place.first + (1 + s.slots) * count + (slot - 1) * s.rank_groups
                fields = {"rx": address, "rows": 0, "rz": rank, "beats": record // t.beat_bytes}
                load(ADAPTER + p.adapter + offsets[1], at, s.rank_groups, **fields)
        return place

    def _product(
        self, p: Placed, n: int, count: int, tile: Span, adapters: list[tuple[Span, Span]], acc: Span, words: int
    ) -> None:
        """x.W, and x.A of every slot beside it."""
        s, number, reads = p.shape, 0, [tile]
        add = self.schedule.add
        scales = Span("SBUF", 0, 0)
        if s.per_group:
            add(Opcode.SEGW, segment=0, format=Format.S8, line=tile.stop - 1, groups=1)
            add(Opcode.SEGA, segment=0, scaled=1, sums=1)
            number = 1
            scales = self._scales(p, n, count)
            reads.append(scales)
        weight = {"format": p.linear.weight.fmt, "line": tile.first, "groups": count, "block_stride": count, "group_stride": 1}
        add(Opcode.SEGW, segment=number, **weight)
        add(
            Opcode.SEGA,
            segment=number,
            scale_line=scales.first,
            scale_stride=count if s.per_group else 0,
            scaled=int(s.per_group > 0),
        )
        number += 1
        if p.linear.weight.codebook is not None:
            raise BadModel("codebook weights", p.linear.name, "4-bit integers are taken")
        for slot, (a, _) in enumerate(adapters, 1):
            rank = slot_registers(slot)[1]
            add(
                Opcode.SEGW,
                segment=number,
                format=Format.S8,
                slot=slot,
                line=a.first,
                rz=rank,
                block_stride=1,
                group_stride=s.blocks,
            )
            add(Opcode.SEGA, segment=number, acc=words)
            reads.append(a)
            number += 1
        reads += [Span("UBUF", 0, s.blocks), Span("TBUF", 0, self.target.tokens)]
        fields = {
            "segments": number,
            "acc": acc.first,
            "line": UBUF_BIT,
            "blocks": s.blocks,
            "first": 1,
            "per_group": s.per_group,
        }
        add(Opcode.MATMUL, reads, [acc], tokens=self.tokens, **fields)

    def _scales(self, p: Placed, n: int, count: int) -> Span:
        """Group scales of column tile `n` in SBUF."""
        t, s = self.target, p.shape
        lines = s.blocks // s.per_group * count
        place = self.sbuf.take(lines)
        beats = t.sbuf_line_bytes // t.beat_bytes
        self._load(Buffer.SBUF, p.scales[n], place, place.first * beats, lines * beats)
        return place

    def _low(self, p: Placed, acc: Span, records: Span, first_record: int) -> None:
        """x.A of every slot to block floating point in UBUF."""
        s = p.shape
        for slot in range(1, s.slots + 1):
            self._set(
                Opcode.VCFG, base=records.first + first_record + (slot - 1) * s.rank_groups, bias_shift=p.linear.bias_shift
            )
            rank = slot_registers(slot)[1]
            place = Span("UBUF", self.u_first, self.u_first + u_lines(self.target, s))
            fields = {"acc": acc.first, "to": UBUF_BIT + self.u_first, "rz": rank, "slot": slot}
            reads = [acc, records, Span("TBUF", 0, self.target.tokens)]
            self.schedule.add(Opcode.VQT, reads, [place], tokens=self.tokens, **fields)

    def _high(self, p: Placed, count: int, adapters: list[tuple[Span, Span]], acc: Span) -> None:
        """(x.A).B of every slot beside the base's sums."""
        s = p.shape
        for slot, (_, b) in enumerate(adapters, 1):
            blocks = slot_registers(slot)[2]
            weight = {"slot": slot, "line": b.first, "groups": count, "block_stride": count, "group_stride": 1}
            self.schedule.add(Opcode.SEGW, segment=0, format=Format.S8, **weight)
            self.schedule.add(Opcode.SEGA, segment=0)
            place = Span("UBUF", self.u_first, self.u_first + u_lines(self.target, s))
            reads = [b, place, Span("TBUF", 0, self.target.tokens)]
            fields = {"segments": 1, "acc": acc.first + count, "line": UBUF_BIT + self.u_first, "rz": blocks, "first": 1}
            self.schedule.add(Opcode.MATMUL, reads, [acc], tokens=self.tokens, **fields)

    # Attention

    def append(self, heads: Heads, k: Cells, v: Cells, factor: int, shift: int, adjust: int) -> None:
        t, d = self.target, heads.dim
        self.dim = d
        element = t.element_bytes
        if t.activation_bits != 8 or d % t.beat_bytes or d % t.ports or t.ports > t.beat_bytes or t.beat_bytes > t.lanes:
            what = f"heads of {d} features do not go with beats of {t.beat_bytes} bytes, {t.lanes} lanes and {t.ports} ports"
            raise BadModel(what, f"target {t.name}", "8-bit activations, ports <= beat_bytes <= lanes, a head of whole beats")
        for cells, kind in ((k, "K"), (v, "V")):
            for head in range(heads.kv_heads):
                part = Cells(cells.name, cells.first + head * d, d)
                self.map(Map.MAC, part, reduce=Reduce.ABSMAX)
                scales = self.obuf.take(self.tokens)
                fields = {"factor": factor, "shift": shift, "adjust": adjust, "scalar": 1, "to": scales.first, "write": 1}
                self.schedule.add(Opcode.VROW, [], [scales], function=Row.RECIPROCAL, rows=self.tokens, **fields)
                for r in range(self.tokens):
                    where = self._cache(heads, head, f"{kind} scales") + 4 * r
                    self._store(where, Span("OBUF", scales.first + r, scales.first + r + 1), 1, 4, Position.SCALE)
                beats = d * element // t.beat_bytes if kind == "K" else d // t.ports
                place = self.obuf.take(self.tokens * beats)
                at, pitch, _ = self._operand(part)
                self._set(Opcode.VLEN, valid=d)
                self._set(Opcode.VPITCH, a=pitch, b=pitch, to=beats)
                to = {"into": Into.OBUF, "size": 0, "tiled": int(kind == "V")}
                self._vmap(at, at, place.first, self._words(d), [], [place], self.tokens, function=Map.SCALE, scale=1, **to)
                where = self._cache(heads, head, kind)
                if kind == "K":
                    self._store(where, place, self.tokens * beats, 0, Position.KEY)
                    continue
                for r in range(self.tokens):
                    for j in range(beats):
                        beat = place.first + r * beats + j
                        to_tile = where + r * t.ports + j * t.wbuf_line_bytes
                        self._store(to_tile, Span("OBUF", beat, beat + 1), 1, t.ports, Position.VALUE)

    def _cache(self, heads: Heads, head: int, kind: str) -> int:
        """Address of one head's keys, values or scales."""
        size = self.context * (4 if kind.endswith("scales") else heads.dim)
        return ROOM + self.memory.room(f"{heads.name} {kind} {head}", size)

    def _store(self, address: int, source: Span, beats: int, width: int, register: int) -> None:
        bytes_field = width.bit_length() if 0 < width < self.target.beat_bytes else 0
        fields = {"address": address, "beat": source.first, "beats": beats, "bytes": bytes_field, "rx": int(register)}
        self.schedule.add(Opcode.STORE, [source], [self._region(address)], rows=1, **fields)

    def _uniform(self, m1: int, shift: int, groups: int) -> Span:
        """PBUF records that are all alike."""
        t = self.target
        if (m1, shift) not in self.records:
            count = -(-self.context // t.ports)
            n = count * t.ports
            same = layer.Records(np.zeros(n, np.int64), np.full(n, m1), np.full(n, shift))
            place = Span("PBUF", self.fixed_records, self.fixed_records + count)
            if place.stop > self.pbuf.first:
                raise BadModel("more than two kinds of attention heads", "attention", "not supported yet")
            offset = self.memory.put(base_records(same, n))
            self._load(Buffer.PBUF, offset, place, place.first * t.ports * 8 // t.beat_bytes, n * 8 // t.beat_bytes)
            self.records[m1, shift] = self.fixed_records
            self.fixed_records = place.stop
        first = self.records[m1, shift]
        return Span("PBUF", first, first + groups)

    def _attend(
        self, tile: Span, acc: Span, lines: int, records: Span, out: Cells, weights: dict[str, int], **fields: int
    ) -> None:
        """The activation times a tile of the cache, to a value."""
        add = self.schedule.add
        add(Opcode.SEGW, segment=0, format=Format.S8, line=tile.first, **weights)
        add(Opcode.SEGA, segment=0)
        product = {"segments": 1, "acc": acc.first, "line": UBUF_BIT, "first": 1, "tokens": self.tokens}
        blocks = {"rz": fields["rz"]} if "rz" in fields else {"blocks": fields["blocks"]}
        add(Opcode.MATMUL, [tile, Span("UBUF", 0, lines), Span("TBUF", 0, self.target.tokens)], [acc], **product, **blocks)
        self._set(Opcode.VCFG, base=records.first, token_scale=1, row_scale=1)
        at, pitch, _ = self._operand(out)
        groups = {k: v for k, v in weights.items() if k in ("groups", "rz")}
        self._requantize(acc, records, at, pitch, **groups)

    def _key_scales(self, heads: Heads, head: int, kind: str) -> tuple[int, Span]:
        """The scales of all keys or values in CBUF."""
        t = self.target
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        words = -(-self.context // t.lanes) * t.lanes // t.vector_lanes
        place = self.cbuf.take(words, unit)
        beat = place.first * t.vector_word_bytes // t.beat_bytes
        where = self._cache(heads, self._kv(heads, head), f"{kind} scales")
        self._load(Buffer.CBUF, where, place, beat, 1, rows=0, rz=int(Position.SCALE_BEATS))
        return CBUF_BIT + place.first, place

    @staticmethod
    def _kv(heads: Heads, head: int) -> int:
        return head // (heads.heads // heads.kv_heads)

    def scores(self, heads: Heads, head: int, out: Cells, m1: int, m1_shift: int, key_shift: int) -> None:
        t, d = self.target, heads.dim
        blocks = -(-d // t.lanes)
        tile = self.wbuf.take(-(-self.context // t.ports) * blocks)
        where = self._cache(heads, self._kv(heads, head), "K")
        self._load(Buffer.WKEY, where, tile, tile.first, d // t.beat_bytes, rows=0, rz=int(Position.KEYS))
        groups = -(-self.context // t.ports)
        acc = self.acc.take(groups)
        weights = {"rz": int(Position.GROUPS), "block_stride": 1, "group_stride": blocks}
        self._attend(tile, acc, blocks, self._uniform(m1, m1_shift, groups), out, weights, blocks=blocks)
        self._by_scales(heads, head, "K", out, key_shift, Reduce.MAX)

    def weigh(self, heads: Heads, head: int, e: Cells, shift: int) -> None:
        self._by_scales(heads, head, "V", e, shift, Reduce.ABSMAX)

    def _by_scales(self, heads: Heads, head: int, kind: str, x: Cells, shift: int, reduce: Reduce) -> None:
        scales, place = self._key_scales(heads, head, kind)
        at, pitch, _ = self._operand(x)
        self._visible(heads)
        self._set(Opcode.VPITCH, a=pitch, b=0, to=pitch)
        self._set(Opcode.VCON, ca=1, cb=0, shift=shift)
        fields = {"function": Map.MUL, "reduce": reduce, "into": Into.VBUF, "size": 2, "rz": int(Position.WORDS)}
        self._vmap(at, scales, at, 0, [place], [], self.tokens, **fields)

    def mix(self, heads: Heads, head: int, out: Cells, m1: int, m1_shift: int) -> None:
        t, d = self.target, heads.dim
        blocks = -(-self.context // t.lanes)
        groups = d // t.ports
        tile = self.wbuf.take(blocks * groups)
        where = self._cache(heads, self._kv(heads, head), "V")
        line = t.wbuf_line_beats
        self._load(Buffer.WBUF, where, tile, tile.first * line, groups * line, rows=0, rz=int(Position.BLOCKS))
        acc = self.acc.take(groups)
        weights = {"groups": groups, "block_stride": groups, "group_stride": 1}
        records = self._uniform(m1, m1_shift, groups)
        self._attend(tile, acc, blocks, records, out, weights, rz=int(Position.BLOCKS))

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
        words, at = self.pitch[cells.name], self.base[cells.name]
        beats = words * t.vector_word_bytes // t.beat_bytes
        place = self.obuf.take(self.tokens * beats)
        where = ROOM + self.memory.room("output", t.tokens * words * t.vector_word_bytes)
        self._set(Opcode.VLEN, valid=EVERY)
        self._set(Opcode.VPITCH, a=words, b=words, to=beats)
        self._set(Opcode.VCON, ca=1, cb=0, shift=0)
        fields = {"function": Map.MAC, "into": Into.OBUF, "size": 2}
        self._vmap(at, at, place.first, words, [], [place], self.tokens, **fields)
        self._store(where, place, self.tokens * beats, 0, 0)
