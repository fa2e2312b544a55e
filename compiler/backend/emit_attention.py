"""Attention to instructions: keys and values to the cache and back as weights of the matrix unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from axlora.compiler import layer
from axlora.compiler.backend.emit_chains import ChainEmit
from axlora.compiler.backend.emit_tiles import ROOM
from axlora.compiler.backend.pack import base_records
from axlora.compiler.backend.schedule import Span
from axlora.compiler.errors import DoesNotFit, UnsupportedOperator
from axlora.compiler.rows.row_operations import PLACES, Cells, Heads
from axlora.isa.formats import Format
from axlora.isa.opcodes import CBUF_BIT, ROWS, UBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row
from axlora.isa.positions import Position
from axlora.isa.target import Target

ATTENTION = ""
"""Key of attention's room for sums in a chain."""
OBUF_PARTS = 4
"""The heads whose keys wait in OBUF together take at most one part of so many."""


def cache_name(attention: str, kind: str, head: int) -> str:
    """The region of one head's `K`, `V`, `K scales` or `V scales`."""
    return f"{attention} {kind} {head}"


def cache_bytes(target: Target, context: int, kind: str, places: int) -> int:
    """Of that region: a scale a token, or `places` codes in whole beats."""
    return context * (4 if kind.endswith("scales") else -(-places // target.beat_bytes) * target.beat_bytes)


class Emit(ChainEmit):
    """`rows.Rows` as instructions."""

    def append(self, heads: Heads, k: Cells, v: Cells, factor: int, shift: int, adjust: int) -> None:
        t = self.target
        if t.ports > t.beat_bytes or t.beat_bytes > t.lanes or t.tokens > t.lanes:
            what = f"beats of {t.beat_bytes} bytes, {t.tokens} tokens, {t.lanes} lanes and {t.ports} ports do not go together"
            raise DoesNotFit(what, f"target {t.name}", "attention needs ports <= beat_bytes <= lanes and tokens <= lanes")
        wide = self._wide(heads)
        self.dim = wide
        fields = {"function": Row.RECIPROCAL, "factor": factor, "shift": shift, "adjust": adjust, "scalar": 1, "write": 1}
        for cells, kind, stride in ((k, "K", heads.k_stride), (v, "V", heads.v_stride)):
            beats = wide // (t.beat_bytes if kind == "K" else t.ports)
            most = min(max(1, t.obuf_beats // (OBUF_PARTS * self.tokens * (1 + beats))), ROWS // self.tokens)
            alike = heads.one_scale and stride % t.vector_lanes == 0
            if heads.one_scale:
                every = Cells(cells.name, cells.first, (heads.kv_heads - 1) * stride + cells.width)
                self._append_scales(heads, every, kind, 0, fields)
            for first in range(0, heads.kv_heads, most):
                own = range(first, min(first + most, heads.kv_heads))
                size = self.tokens * beats
                places = self._append_place(kind, own, size)
                self.banks = len(own) if alike else 1
                for n in range(0, len(own), self.banks):
                    part = Cells(cells.name, cells.first + own[n] * stride, cells.width)
                    if not heads.one_scale:
                        self._append_scales(heads, part, kind, own[n], fields)
                    place = Span("OBUF", places.first + n * size, places.first + (n + self.banks) * size)
                    at, pitch, _ = self._operand(part)
                    self._set(Opcode.VLEN, valid=cells.width)
                    self._set(Opcode.VPITCH, a=pitch, b=None, to=beats)
                    to = {"into": Into.OBUF, "size": 0, "tiled": int(kind == "V"), "scale": 1, "shared": int(self.banks > 1)}
                    apart = (stride // t.vector_lanes, None, size)
                    words = self._words_of(wide)
                    self._vmap_of_banks(at, at, place.first, words, [], [place], apart, function=Map.SCALE, **to)
                self.banks = 1
                self._store_heads(heads, own, kind, places)

    def _append_scales(self, heads: Heads, x: Cells, kind: str, head: int, fields: dict[str, int]) -> None:
        """The scale of each of the group's rows of keys or values, to the cache too; `fields`: VROW's."""
        kind = f"{kind} scales"
        place = self._append_place(kind, range(head, head + 1), self.tokens)
        self.map(Map.MAC, x, reduce=Reduce.ABSMAX)
        self.schedule.add(Opcode.VROW, [], [place], **fields, rows=self.tokens, to=place.first)
        self._set(Opcode.SPITCH, row=0, part=4)
        self._store(self._cache(heads, head, kind) + 4 * self.behind, place, self.tokens, 4, self._first(Position.SCALE))

    def _append_place(self, kind: str, own: range, count: int) -> Span:
        """OBUF's place for `count` beats of each of some heads: for every group the same, so that groups are alike."""
        key = (kind, own, self.tokens)
        return self.obuf.held.get(key) or self.obuf.take(len(own) * count, key=key)

    def _store_heads(self, heads: Heads, own: range, kind: str, codes: Span) -> None:
        """The group's keys or values of heads side by side to the cache."""
        t, wide, count = self.target, self._wide(heads), len(own)
        places = [self._cache(heads, head, kind) for head in own]
        if kind == "K":
            apart = places[1] - places[0] if count > 1 else 0
            self._set(Opcode.SPITCH, row=apart, part=4)
            beats = self.tokens * (wide // t.beat_bytes)
            self._store(places[0] + self.behind * wide, codes, beats, 0, self._first(Position.KEY), count)
            return
        self._set(Opcode.SPITCH, row=t.ports, part=t.wbuf_line_bytes)
        place = self.behind // t.lanes * t.lanes * wide + self.behind % t.lanes * t.ports
        for n, address in enumerate(places):
            part = codes.part(n, self.tokens * (wide // t.ports))
            self._store(address + place, part, wide // t.ports, t.ports, self._first(Position.VALUE), self.tokens)

    def _cache(self, heads: Heads, head: int, kind: str) -> int:
        """Address of one head's keys, values or scales."""
        size = cache_bytes(self.target, self.context, kind, heads.dim)
        return ROOM + self.memory.room(cache_name(heads.name, kind, head), size)

    def _cached(self, heads: Heads, register: Position) -> dict[str, int]:
        """Of a load from the cache: the rows that a register counts, of the sequence's own cache where there are several."""
        return self._seen(heads, register, "rows") | ({"rx": int(Position.CACHE)} if self.several else {})

    def _uniform(self, m1: int, shift: int, groups: int) -> Span:
        """PBUF records that are all alike."""
        t = self.target
        if (m1, shift) not in self.records:
            count = self.alike
            n = count * t.ports
            same = layer.Records(np.zeros(n, np.int64), np.full(n, m1), np.full(n, shift))
            place = Span("PBUF", self.fixed_records, self.fixed_records + count)
            if place.stop > self.pbuf.first:
                raise UnsupportedOperator("more than two kinds of attention heads", "attention", "not supported yet")
            offset = self.memory.put(base_records(same, n))
            self._load(Buffer.PBUF, offset, place, place.first * t.ports * 8 // t.beat_bytes, n * 8 // t.beat_bytes)
            self.records[m1, shift] = self.fixed_records
            self.fixed_records = place.stop
        first = self.records[m1, shift]
        return Span("PBUF", first, first + groups)

    def _multiply(
        self, place: int, part: int, tiles: Sequence[Span], groups: int, weights: dict[str, int], **blocks: int
    ) -> None:
        """The activation of each head times its tile of the cache, `groups` column groups at most, to a place; in a chain that
        is a `part`."""
        live = [*self.pinned.values(), *(acc for kept, (acc, _) in self.sums.items() if kept != place and self.ahead)]
        each = self.alike if self.pinned else groups
        room = each * len(tiles)
        if self.pinned:  # a chain's groups are alike, so that its program has loops
            if ATTENTION not in self.pinned:
                self.pinned[ATTENTION] = self.acc.take(PLACES * room, keep=live)
            first = self.pinned[ATTENTION].first + part * room
            acc = Span("ACC", first, first + room)
        else:
            acc = self.acc.take(room, keep=live)
        self.sums[place] = acc, self.scale
        for n, tile in enumerate(tiles):
            codes, own = self.active.share(n, len(tiles)), acc.share(n, len(tiles))
            self._segment(0, {"format": Format.S8, "line": tile.first} | weights, {})
            product = {"segments": 1, "acc": own.first, "line": UBUF_BIT + codes.first, "first": 1, "tokens": self.tokens}
            reads, writes = [tile, codes, self._words()], [Span("ACC", own.first, own.first + groups)]
            self.schedule.add(Opcode.MATMUL, reads, writes, **product, **blocks)

    def _from_sums(self, place: int, out: Cells, m1: int, m1_shift: int, **groups: int) -> None:
        """Sums of a place with their scale to a value."""
        acc, scale = self.sums.pop(place)
        records = self._uniform(m1, m1_shift, (acc.stop - acc.first) // self.banks)
        self._set(Opcode.VCFG, base=records.first, token_scale=1, row_scale=1)
        at, pitch, _ = self._operand(out)
        if self.banks > 1:
            size = (acc.stop - acc.first) // self.banks
            self._set(Opcode.VBANK, a=size, b=None, to=self._apart(out), rows=self.tokens)
        self._requantize(acc, records, at, pitch, scale, banks=self.banks, **groups)

    def _key_scales(self, heads: Heads, head: int, kind: str) -> tuple[int, Span]:
        """The scales of all keys or values in CBUF."""
        t = self.target
        unit = max(1, t.beat_bytes // t.vector_word_bytes)
        words = -(-self.context // t.lanes) * t.lanes // t.vector_lanes
        of = heads.scaled(heads.own(head))
        key = (heads.name, of, kind, self.schedule.window)
        if key in self.cbuf.held:
            place = self.cbuf.held[key]
            return CBUF_BIT + place.first, place
        place = self.cbuf.take(words, unit, key)
        beat = place.first * t.vector_word_bytes // t.beat_bytes
        where = self._cache(heads, of, f"{kind} scales")
        self._load(Buffer.CBUF, where, place, beat, 1, **self._cached(heads, Position.SCALE_BEATS))
        return CBUF_BIT + place.first, place

    def _tiles_of_heads(
        self, heads: Heads, head: int, kind: str, size: tuple[Buffer, int, int, int], register: Position
    ) -> list[Span]:
        """Keys or values of each head that is worked on as a tile of WBUF, loaded if it is not there.

        Args:
            size: buffer, lines, beats of its address a line, beats of a row of the load.
            register: counts the load's rows.
        """
        buffer, lines, line, beats = size
        tiles = []
        for own in range(head, head + self.banks):
            key = (heads.name, heads.own(own), kind, self.schedule.window)
            tile = self.wbuf.held.get(key)
            if tile is None:
                tile = self.wbuf.take(lines, key=key)
                where = self._cache(heads, heads.own(own), kind)
                self._load(buffer, where, tile, tile.first * line, beats, **self._cached(heads, register))
            tiles.append(tile)
        return tiles

    def times_keys(self, heads: Heads, head: int, place: int) -> None:
        t, d = self.target, self._wide(heads)
        blocks = -(-d // t.lanes)
        groups = -(-self.context // t.ports)
        tiles = self._tiles_of_heads(heads, head, "K", (Buffer.WKEY, groups * blocks, 1, d // t.beat_bytes), Position.KEYS)
        weights = {**self._seen(heads, Position.GROUPS, "groups"), "block_stride": 1, "group_stride": blocks}
        self._multiply(place, self.turn, tiles, groups, weights, blocks=blocks)

    def scores(self, heads: Heads, head: int, place: int, out: Cells, m1: int, m1_shift: int, key_shift: int) -> None:
        self._from_sums(place, out, m1, m1_shift, **self._seen(heads, Position.GROUPS, "groups"))
        self._by_scales(heads, head, "K", out, key_shift, Reduce.MAX)

    def weigh(self, heads: Heads, head: int, e: Cells, shift: int) -> None:
        self._by_scales(heads, head, "V", e, shift, Reduce.ABSMAX)

    def _by_scales(self, heads: Heads, head: int, kind: str, x: Cells, shift: int, reduce: Reduce) -> None:
        scales, place = self._key_scales(heads, head, kind)
        at, pitch, _ = self._operand(x)
        self._visible(heads)
        self._set(Opcode.VPITCH, a=pitch, b=0, to=pitch)
        self._set(Opcode.VCON, ca=1, cb=0, shift=shift)
        fields = {"function": Map.MUL, "reduce": reduce, "into": Into.VBUF, "size": 2}
        words = self._seen(heads, Position.WORDS, "words")
        apart = self._apart(x)
        self._vmap_of_banks(at, scales, at, reads=[place], writes=[], apart=(apart, 0, apart), **words, **fields)

    def times_values(self, heads: Heads, head: int, place: int) -> None:
        t, d = self.target, self._wide(heads)
        blocks = -(-self.context // t.lanes)
        groups = d // t.ports
        line = t.wbuf_line_beats
        tiles = self._tiles_of_heads(heads, head, "V", (Buffer.WBUF, blocks * groups, line, groups * line), Position.BLOCKS)
        weights = {"groups": groups, "block_stride": groups, "group_stride": 1}
        self._multiply(place, 2, tiles, groups, weights, **self._seen(heads, Position.BLOCKS, "blocks"))

    def mix(self, heads: Heads, place: int, out: Cells, m1: int, m1_shift: int) -> None:
        self._from_sums(place, out, m1, m1_shift, groups=self._wide(heads) // self.target.ports)
