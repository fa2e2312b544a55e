"""Linears with adapters to instructions: weight tiles through WBUF, sums to values in VBUF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from axlora.compiler.backend.emit_row_memory import MemoryEmit
from axlora.compiler.backend.emit_rows import ADAPTER, ROOM, Placed
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import u_lines
from axlora.compiler.backend.schedule import Span
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.rows.row_operations import Cells
from axlora.isa.formats import Format
from axlora.isa.opcodes import UBUF_BIT, Buffer, Opcode
from axlora.isa.regions import slot_registers


class LinearEmit(MemoryEmit):
    """Adds linears."""

    def linear(self, name: str, out: Cells) -> None:
        t = self.target
        for first, count, acc, records in self._tiles(self.placed[name]):
            to, pitch, _ = self._operand(out)
            self._requantize(acc, records, to + first * t.ports // t.vector_lanes, pitch, groups=count)

    def logits(self, number: int, name: str) -> None:
        t, p = self.target, self.placed[name]
        tile = self.temporary(f"output {number}", p.plan.columns * t.ports)
        to, pitch, _ = self._operand(tile)
        self.output_words[number] = p.shape.groups * t.ports // t.vector_lanes
        size = self.output_words[number] * t.vector_word_bytes
        where = ROOM + self.memory.room(f"output {number}", self._rows() * size)
        for first, count, acc, records in self._tiles(p):
            self._requantize(acc, records, to, pitch, groups=count)
            beats = count * t.ports * 4 // t.beat_bytes
            place = self.obuf.take(self.tokens * beats)
            self._copy(to, pitch, place, beats, count * t.ports // t.vector_lanes)
            for r in range(self.tokens):
                source = Span("OBUF", place.first + r * beats, place.first + (r + 1) * beats)
                self._store(where + (self.row + r) * size + first * t.ports * 4, source, beats, 0, 0)
        self.free(tile)

    def _tiles(self, p: Placed) -> Iterator[tuple[int, int, Span, Span]]:
        """The sums of each column tile and group: (first column group, groups, accumulators, records), ready for VREQ."""
        s, plan, own = p.shape, p.plan, p.linear
        offsets = adapter_offsets(self.target, s, plan)[0]
        rows = plan.row_tiles(s)
        for n, (first, count) in enumerate(plan.column_tiles(s)):
            with_a = bool(s.slots) and n == 0
            words = count * (2 if s.slots else 1)
            adapters: list[tuple[Span, Span]] = []
            records = Span("PBUF", 0, 0)
            sums: list[Span] = []
            for m, part in enumerate(rows):
                held = self._weights(p, n * len(rows) + m, count, part)
                if m == 0:
                    adapters = self._adapter_weights(p, n, count, offsets, with_a) if s.slots else []
                    records = self._records(p, n, (first, count), offsets, with_a)
                for _ in self.groups():
                    if m == 0:
                        sums.append(self.acc.take(words + (s.rank_groups if with_a else 0)))
                    acc = sums[self.group]
                    self._product(p, count, held, adapters if with_a else [], acc, words, part)
                    if m < len(rows) - 1:
                        continue
                    if with_a:
                        self._low(p, Span("ACC", acc.first + words, acc.stop), records, (1 + s.slots) * count)
                    if s.slots:
                        self._high(p, count, adapters, acc)
                    self._set(
                        Opcode.VCFG,
                        base=records.first,
                        adapters=records.first + count if s.slots else 0,
                        adapter_stride=count if s.slots else 0,
                        acc2=count if s.slots else 0,
                        guard=own.guard,
                        token_scale=int(own.token_scale),
                        bias_end=int(own.bias_end),
                        bias_shift=own.bias_shift,
                        adapter=int(s.slots > 0),
                        row_scale=int(own.token_scale),
                    )
                    yield first, count, acc, records

    def _weights(self, p: Placed, tile: int, count: int, rows: tuple[int, int]) -> tuple[Span, Span]:
        """A weight tile in WBUF, with group scales a line of ones behind it, and those scales in SBUF."""
        t, s = self.target, p.shape
        lines = rows[1] * count * s.storage // 8
        place = self.wbuf.take(lines + (1 if s.per_group else 0))
        to, line = Span("WBUF", place.first, place.first + lines), t.wbuf_line_beats
        self._load(Buffer.WBUF, p.tiles[tile], to, place.first * line, lines * line)
        if not s.per_group:
            return place, Span("SBUF", 0, 0)
        self._load(Buffer.WBUF, p.ones, Span("WBUF", to.stop, place.stop), to.stop * line, line)
        scales = self.sbuf.take(rows[1] // s.per_group * count)
        beats = t.sbuf_line_bytes // t.beat_bytes
        self._load(Buffer.SBUF, p.scales[tile], scales, scales.first * beats, (scales.stop - scales.first) * beats)
        return place, scales

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
        words: int,
        rows: tuple[int, int],
    ) -> None:
        """x.W over some rows, and x.A of every slot beside it; `held`: the tile in WBUF, its group scales in SBUF."""
        s, number = p.shape, 0
        tile, scales = held
        reads = [tile]
        if p.linear.weight.codebook is not None:
            raise UnsupportedOperator("codebook weights", p.linear.name, "4-bit integers are taken")
        if s.per_group:
            self._segment(0, {"format": Format.S8, "line": tile.stop - 1, "groups": 1}, {"scaled": 1, "sums": 1})
            number = 1
            reads.append(scales)
        scaled = {"scale_line": scales.first, "scale_stride": count, "scaled": 1} if s.per_group else {}
        weight = {"format": p.linear.weight.fmt, "line": tile.first, "groups": count, "block_stride": count, "group_stride": 1}
        self._segment(number, weight, scaled)
        number += 1
        for slot, (a, _) in enumerate(adapters, 1):
            rank = slot_registers(slot)[1]
            weight = {"slot": slot, "line": a.first + rows[0], "rz": rank, "block_stride": 1, "group_stride": s.blocks}
            self._segment(number, {"format": Format.S8} | weight, {"acc": words})
            reads.append(a)
            number += 1
        own = -(-p.linear.k // self.target.lanes)  # a weight's blocks fill its last scale group, codes do not
        place, blocks = self._codes(own), min(rows[1], own - rows[0])
        fields = {"acc": acc.first, "line": UBUF_BIT + place.first + rows[0], "blocks": blocks, "per_group": s.per_group}
        reads += [place, self._tokens()]
        fields |= {"segments": number, "tokens": self.tokens, "token": self.at, "first": int(rows[0] == 0)}
        self.schedule.add(Opcode.MATMUL, reads, [acc], **fields)

    def _low_place(self, p: Placed) -> Span:
        """The group's place in UBUF for x.A."""
        first = self.u_first + self.group * self.low_stride
        return Span("UBUF", first, first + u_lines(self.target, p.shape))

    def _low(self, p: Placed, acc: Span, records: Span, first_record: int) -> None:
        """x.A of every slot to block floating point in UBUF."""
        s, place = p.shape, self._low_place(p)
        for slot in range(1, s.slots + 1):
            self._set(
                Opcode.VCFG, base=records.first + first_record + (slot - 1) * s.rank_groups, bias_shift=p.linear.bias_shift
            )
            fields = {"acc": acc.first, "to": UBUF_BIT + place.first, "rz": slot_registers(slot)[1], "slot": slot}
            reads = [acc, records, self._tokens()]
            self.schedule.add(Opcode.VQT, reads, [place], tokens=self.tokens, token=self.at, **fields)

    def _high(self, p: Placed, count: int, adapters: list[tuple[Span, Span]], acc: Span) -> None:
        """(x.A).B of every slot beside the base's sums."""
        place = self._low_place(p)
        for slot, (_, b) in enumerate(adapters, 1):
            weight = {"slot": slot, "line": b.first, "groups": count, "block_stride": count, "group_stride": 1}
            self._segment(0, {"format": Format.S8} | weight, {})
            reads = [b, place, self._tokens()]
            blocks = slot_registers(slot)[2]
            fields = {"segments": 1, "acc": acc.first + count, "line": UBUF_BIT + place.first, "rz": blocks, "first": 1}
            self.schedule.add(Opcode.MATMUL, reads, [acc], tokens=self.tokens, token=self.at, **fields)
