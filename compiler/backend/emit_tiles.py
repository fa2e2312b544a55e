"""Linears with adapters to instructions: weight tiles through WBUF, sums in ACC; subclasses say where codes are and sums go.

Here is also what every emitter has: the schedule, rings of buffers, and settings that hold until they change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from axlora.compiler import layer
from axlora.compiler.backend.memory_layout import Ring
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import Plan, Shape, u_lines
from axlora.compiler.backend.schedule import AREA_BITS, Schedule, Span
from axlora.isa.formats import Format
from axlora.isa.opcodes import REGISTERS_OF_ALL, UBUF_BIT, Buffer, Opcode
from axlora.isa.regions import slot_registers
from axlora.isa.target import Target
from axlora.timing.matrix import matmul_setup

ROOM = 1 << AREA_BITS
"""Added to offsets of regions that change; offsets of read-only data are as they are."""
ADAPTER = 2 << AREA_BITS
"""Added to offsets in an adapter block, whose address a slot register holds."""
Columns = tuple[int, int]
"""First column group of a column tile, and its groups."""


@dataclass(frozen=True)
class Placed:
    """A linear in memory: its tiling, and where its tiles and its piece of every adapter block lie."""

    linear: layer.Linear
    shape: Shape
    plan: Plan
    tiles: tuple[int, ...]
    """Offset of each weight tile, row tiles of a column tile after each other."""
    scales: tuple[int, ...]
    records: int
    ones: int
    adapter: int

    def again(self, linear: layer.Linear, move: int, adapter: int) -> Placed:
        """Another linear with the same weights, `move` bytes behind, its piece of an adapter block at `adapter`."""
        own = replace(self.linear, name=linear.name, input=linear.input, output=linear.output)
        tiles, scales = (tuple(place + move for place in places) for places in (self.tiles, self.scales))
        ones = self.ones + move if self.scales else 0
        return replace(self, linear=own, tiles=tiles, scales=scales, records=self.records + move, ones=ones, adapter=adapter)


Finish = Callable[[Columns, Span, Span], None]
"""What becomes of a group's sums: of these columns, in ACC, with these records in PBUF."""


class TileEmit(ABC):
    """A schedule, the rings of buffers, settings that hold, and the products of linears, for one group of tokens at a time."""

    row_scale = False
    """Whether results take the scale that VROW's TOKEN wrote."""

    def __init__(self, target: Target, first_record: int = 0, dry: bool = False) -> None:
        """`first_record`: column groups of PBUF that the ring of records leaves alone. `dry`: only to see whether it fits."""
        t = self.target = target
        self.schedule = Schedule(dry)
        self.at, self.tokens = 0, 0
        """The group: its first token among those at hand, and its tokens."""
        self.settings: dict[tuple[Opcode, int], dict[str, int]] = {}
        self._window_of: dict[tuple[Opcode, int], int] = {}
        """Setting that names a register of windows -> the window that it was made in."""
        self.wbuf = self.a_lines = self.b_lines = Ring("WBUF", t.wbuf_lines)
        """Where weight tiles, A and B of adapters are taken: one ring, unless a subclass keeps them apart."""
        self.pbuf = Ring("PBUF", t.pbuf_groups, first_record)
        self.acc = Ring("ACC", t.acc_words)
        self.obuf = Ring("OBUF", t.obuf_beats)
        self.sbuf = Ring("SBUF", t.sbuf_lines)
        self.most_lines = 0
        """Lines of WBUF that one load fills at most; 0: any number."""
        self.pinned: dict[str, Span] = {}
        """Places of ACC that others leave alone."""

    @property
    def group(self) -> int:
        """The group's number among those at hand."""
        return self.at // self.target.tokens

    @abstractmethod
    def chunks(self) -> Iterator[None]:
        """Select each chunk of tokens whose sums are in ACC together."""

    @abstractmethod
    def groups(self) -> Iterator[int | None]:
        """Select each group of the chunk's tokens in turn."""

    @abstractmethod
    def _activation(self, p: Placed, rows: tuple[int, int]) -> tuple[Span, int, int]:
        """The group's codes for some rows of a linear: what is read, MATMUL's line, and blocks."""

    @abstractmethod
    def _low_place(self, p: Placed) -> Span:
        """The group's place in UBUF for x.A."""

    @abstractmethod
    def _words(self) -> Span:
        """The words of the tokens at hand in TBUF."""

    # Instructions

    def _set(self, opcode: Opcode, *reads: Span, **fields: int | None) -> None:
        """A setting, unless it holds already; it waits for what those that it is for read. None: a field stays as it is."""
        key = (opcode, fields.get("segment", fields.get("half", 0)) or 0)
        held = self.settings.get(key, {})
        new = {name: held.get(name, 0) if value is None else value for name, value in fields.items()}
        window = self.schedule.window if new.get("rx", 0) >= REGISTERS_OF_ALL else -1
        if held != new or self._window_of.get(key, -1) != window:
            self.settings[key], self._window_of[key] = new, window
            self.schedule.add(opcode, reads, **new)

    def _load(self, buffer: Buffer, address: int, to: Span, beat: int, beats: int, **fields: int) -> None:
        fields = {"rows": 1, "beats": beats} | fields
        self.schedule.add(Opcode.LOAD, self._sources(address), [to], buffer=buffer, address=address, beat=beat, **fields)

    def _sources(self, address: int) -> Sequence[Span]:
        """What a load from an address reads that the program itself writes."""
        return ()

    # Linears

    def multiply(self, p: Placed, finish: Finish) -> None:
        """All sums of a linear, column tile by column tile, chunk by chunk; `finish` is called for each group."""
        s, rows = p.shape, p.plan.row_tiles(p.shape)
        offsets = adapter_offsets(self.target, s, p.plan)[0]
        for n, columns in enumerate(p.plan.column_tiles(s)):
            with_a, count = bool(s.slots) and n == 0, columns[1]
            width = count * (2 if s.slots else 1)
            adapters: list[tuple[Span, Span]] = []
            held = records = None
            for _ in self.chunks():
                sums: list[Span] = []
                for m, part in enumerate(rows):
                    if held is None or len(rows) > 1:
                        held = self._weights(p, n * len(rows) + m, count, part, _both(adapters))
                    if records is None:
                        adapters = self._adapter_weights(p, n, count, offsets, with_a, held[0])
                        records = self._records(p, n, columns, offsets, with_a)
                    for _ in self.groups():
                        if m == 0:
                            sums.append(
                                self.acc.take(width + (s.rank_groups if with_a else 0), keep=[*sums, *self.pinned.values()])
                            )
                        self._product(p, count, held, adapters if with_a else [], sums[self.group_of_chunk], width, part)
                assert records is not None
                self._adapt(p, columns, sums, records, adapters, with_a)
                self._results(p, count, records)
                for _ in self.groups():
                    finish(columns, sums[self.group_of_chunk], records)

    @property
    def group_of_chunk(self) -> int:
        """The group's number in its chunk."""
        return self.group

    def _adapt(
        self, p: Placed, columns: Columns, sums: Sequence[Span], records: Span, adapters: list[tuple[Span, Span]], with_a: bool
    ) -> None:
        """x.A of every slot to block floating point, beside the first column tile; (x.A).B beside the base's sums."""
        s, count = p.shape, columns[1]
        for slot in range(1, s.slots + 1) if with_a else ():
            first = records.first + (1 + s.slots) * count + (slot - 1) * s.rank_groups
            self._set(Opcode.VCFG, records, base=first, bias_shift=p.linear.bias_shift)
            for _ in self.groups():
                acc = sums[self.group_of_chunk]
                self._low(p, slot, Span("ACC", acc.first + 2 * count, acc.stop), records)
        for slot, (_, b) in enumerate(adapters, 1):
            weight = {"slot": slot, "line": b.first, "groups": count, "block_stride": count, "group_stride": 1}
            self._segment(0, {"format": Format.S8} | weight, {})
            for _ in self.groups():
                self._high(p, slot, b, count, sums[self.group_of_chunk])

    def _results(self, p: Placed, count: int, records: Span) -> None:
        """What VREQ makes of sums."""
        own, slots = p.linear, p.shape.slots
        self._set(
            Opcode.VCFG,
            records,
            base=records.first,
            adapters=records.first + count if slots else 0,
            adapter_stride=count if slots else 0,
            acc2=count if slots else 0,
            guard=own.guard,
            token_scale=int(own.token_scale),
            bias_end=int(own.bias_end),
            bias_shift=own.bias_shift,
            adapter=int(slots > 0),
            row_scale=int(self.row_scale),
        )

    def _weights(self, p: Placed, tile: int, count: int, rows: tuple[int, int], keep: Iterable[Span]) -> tuple[Span, Span]:
        """A weight tile in WBUF, with group scales a line of ones behind it, and those scales in SBUF."""
        t, s = self.target, p.shape
        lines, key = rows[1] * count * s.storage // 8, (p.linear.name, tile)
        place, scales = self.wbuf.held.get(key), Span("SBUF", 0, 0)
        if s.per_group:
            found = self.sbuf.held.get(key)
            place = place if found else None
            scales = found or self.sbuf.take(rows[1] // s.per_group * count, key=key)
        if place is not None:
            return place, scales
        place = self.wbuf.take(lines + (1 if s.per_group else 0), key=key, keep=keep)
        to, line = Span("WBUF", place.first, place.first + lines), t.wbuf_line_beats
        for first in range(0, lines, self.most_lines or lines):
            part = Span("WBUF", place.first + first, min(to.stop, place.first + first + (self.most_lines or lines)))
            address = p.tiles[tile] + first * t.wbuf_line_bytes
            self._load(Buffer.WBUF, address, part, part.first * line, (part.stop - part.first) * line)
        if s.per_group:
            self._load(Buffer.WBUF, p.ones, Span("WBUF", to.stop, place.stop), to.stop * line, line)
            beats = t.sbuf_line_bytes // t.beat_bytes
            self._load(Buffer.SBUF, p.scales[tile], scales, scales.first * beats, (scales.stop - scales.first) * beats)
        return place, scales

    def _adapter_weights(
        self, p: Placed, n: int, count: int, offsets: list[int], with_a: bool, keep: Span
    ) -> list[tuple[Span, Span]]:
        """(A, B) of every slot in WBUF, beside the weight tile `keep`; A is loaded with the first tile only."""
        t, s = self.target, p.shape
        out: list[tuple[Span, Span]] = []
        for slot in range(1, s.slots + 1):
            address, groups, blocks = slot_registers(slot)
            line, kept = t.wbuf_line_beats, [keep, *_both(out)]
            a = self.a_lines.take(s.rank_groups * s.blocks if with_a else 1, keep=kept)
            b = self.b_lines.take(s.rank_blocks * count, keep=[*kept, a])
            if with_a:
                fields = {"rx": address, "rows": 0, "rz": groups}
                self._load(Buffer.WBUF, ADAPTER + p.adapter + offsets[0], a, a.first * line, s.blocks * line, **fields)
            fields = {"rx": address, "rows": 0, "rz": blocks}
            self._load(Buffer.WBUF, ADAPTER + p.adapter + offsets[2 + 2 * n], b, b.first * line, count * line, **fields)
            out.append((a, b))
        return out

    def _records(self, p: Placed, n: int, columns: Columns, offsets: list[int], with_a: bool, key: object = None) -> Span:
        """Records of a column tile in PBUF: the base's, each slot's, and of the first tile those of x.A."""
        t, s = self.target, p.shape
        first, count = columns
        record = t.ports * 8
        unit = max(1, t.beat_bytes // record)
        place = self.pbuf.take(count * (1 + s.slots) + (s.slots * s.rank_groups if with_a else 0), unit, key)

        def load(address: int, at: int, groups: int, **fields: int) -> None:
            beats = (1 if "rz" in fields else groups) * record // t.beat_bytes
            self._load(Buffer.PBUF, address, Span("PBUF", at, at + groups), at * record // t.beat_bytes, beats, **fields)

        load(p.records + first * record, place.first, count)
        for slot in range(1, s.slots + 1):
            address, rank, _ = slot_registers(slot)
            load(ADAPTER + p.adapter + offsets[3 + 2 * n], place.first + slot * count, count, rx=address)
            if with_a:
                at = place.first + (1 + s.slots) * count + (slot - 1) * s.rank_groups
                load(ADAPTER + p.adapter + offsets[1], at, s.rank_groups, rx=address, rows=0, rz=rank)
        return place

    def _segment(self, number: int, weight: Mapping[str, int], sums: Mapping[str, int]) -> None:
        self._set(Opcode.SEGW, segment=number, **weight)
        self._set(Opcode.SEGA, segment=number, **sums)

    def _product(
        self,
        p: Placed,
        count: int,
        held: tuple[Span, Span],
        adapters: list[tuple[Span, Span]],
        acc: Span,
        width: int,
        rows: tuple[int, int],
        base: int = 0,
    ) -> None:
        """x.W over some rows, and x.A of every slot beside it; `held`: the tile in WBUF, its group scales in SBUF.

        `base`: what of the place in ACC is a setting of x.W.
        """
        s, number = p.shape, 0
        tile, scales = held
        reads = [tile]
        if s.per_group:
            self._segment(0, {"format": Format.S8, "line": tile.stop - 1, "groups": 1}, {"scaled": 1, "sums": 1})
            number = 1
            reads.append(scales)
        scaled = {"scale_line": scales.first, "scale_stride": count, "scaled": 1} if s.per_group else {}
        scaled |= {"acc": base} if base else {}
        weight = {"format": p.linear.weight.fmt, "line": tile.first, "groups": count, "block_stride": count, "group_stride": 1}
        self._segment(number, weight, scaled)
        self._codebook(p.linear.weight)
        number += 1
        for slot, (a, _) in enumerate(adapters, 1):
            rank = slot_registers(slot)[1]
            weight = {"slot": slot, "line": a.first + rows[0], "rz": rank, "block_stride": 1, "group_stride": s.blocks}
            self._segment(number, {"format": Format.S8} | weight, {"acc": width})
            reads.append(a)
            number += 1
        place, line, blocks = self._activation(p, rows)
        fields = {"acc": acc.first - base, "line": line, "blocks": blocks, "per_group": s.per_group}
        token = self._token() if s.slots else 0
        fields |= {"segments": number, "tokens": self.tokens, "token": token, "first": int(rows[0] == 0)}
        self.schedule.add(Opcode.MATMUL, [*reads, place, self._words()], [acc], self._time(p, number, blocks * count), **fields)

    def _time(self, p: Placed, segments: int, columns: int) -> int:
        """About how long a product takes, where the plan says it."""
        t = self.target
        return int(p.plan.pace and matmul_setup(t.tokens, segments) + t.pipe + columns * p.plan.pace)

    def _codebook(self, weight: layer.Codes) -> None:
        """The entries of a codebook, in the two halves that instructions hold."""
        if weight.codebook is None:
            return
        data = weight.codebook.astype("i1").tobytes()
        for half in (0, 1):
            parts = {"e0": data[8 * half : 8 * half + 4], "e4": data[8 * half + 4 :][:2], "e6": data[8 * half + 6 :][:2]}
            self._set(Opcode.CODEBOOK, half=half, **{name: int.from_bytes(part, "little") for name, part in parts.items()})

    def _token(self) -> int:
        """The group's first token in TBUF."""
        return self._words().first + self.at

    def _low(self, p: Placed, slot: int, acc: Span, records: Span) -> None:
        """x.A of a slot to block floating point in UBUF."""
        place = self._low_place(p)
        fields = {"acc": acc.first, "to": UBUF_BIT + place.first, "rz": slot_registers(slot)[1], "slot": slot}
        reads = [acc, records, self._words()]
        self.schedule.add(Opcode.VQT, reads, [place], tokens=self.tokens, token=self._token(), **fields)

    def _high(self, p: Placed, slot: int, b: Span, count: int, acc: Span) -> None:
        """(x.A).B of a slot beside the base's sums."""
        place, blocks = self._low_place(p), slot_registers(slot)[2]
        fields = {"segments": 1, "acc": acc.first + count, "line": UBUF_BIT + place.first, "rz": blocks, "first": 1}
        reads = [b, place, self._words()]
        self.schedule.add(Opcode.MATMUL, reads, [acc], tokens=self.tokens, token=self._token(), **fields)


def _both(adapters: Iterable[tuple[Span, Span]]) -> list[Span]:
    """The places of A and B of every slot."""
    return [span for pair in adapters for span in pair]


def low_lines(target: Target, placed: Iterable[Placed]) -> int:
    """UBUF lines of a group's x.A, for the linear that needs most."""
    return max((u_lines(target, p.shape) for p in placed if p.shape.slots), default=0)
