"""Linears of a chain to instructions: the weights of all of them stay in WBUF, and each multiplies a group of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from axlora.compiler.backend.emit_row_linears import LinearEmit
from axlora.compiler.backend.emit_tiles import Columns, Placed
from axlora.compiler.backend.plan import tile_lines
from axlora.compiler.backend.schedule import Span
from axlora.compiler.rows.row_operations import PLACES, Cells, Chains, Heads

KEPT = 7 / 8
"""Share of WBUF that a chain takes at most: what comes behind it is loaded into the rest."""


class ChainEmit(LinearEmit):
    """`row_operations.Chains` as instructions."""

    @property
    def chains(self) -> Chains | None:
        return self if self.chained and self.count > self.target.tokens else None

    def beside(self, names: Sequence[str], heads: Heads | None, split: bool) -> bool:
        t = self.target
        placed = [self.placed[name] for name in names]
        if any(p.shape.slots for p in placed):
            return False
        groups = sum(p.shape.groups for p in placed)
        sums = groups + PLACES * self.alike
        if split and len(placed[0].plan.row_tiles(placed[0].shape)) > 1:
            sums += placed[0].shape.groups * -(-self.count // t.tokens)
            if len(placed[0].plan.column_tiles(placed[0].shape)) > 1:
                return False
        tiles = list(self._tiles(names, names[0] if split else ""))
        scales = [rows // p.shape.per_group * count for p, _, (_, count), (_, rows) in tiles if p.shape.per_group]
        return (
            self._lines_of(tiles) + self._lines_of_heads(heads) <= t.wbuf_lines * KEPT
            and sums <= t.acc_words
            and groups <= t.pbuf_groups - self.pbuf.first
            and sum(scales) <= t.sbuf_lines
        )

    def begin(self, names: Sequence[str], heads: Heads | None, split: bool) -> None:
        self.split = names[0] if split else ""
        if self.split:
            self._first_rows(self.split)
        lines = self._lines_of(list(self._tiles(names, self.split))) + self._lines_of_heads(heads)
        if self.wbuf.next + lines > self.wbuf.size:
            self.wbuf.next = self.wbuf.first
        for name in names:
            if self._room(name) not in self.pinned:
                self.pinned[name] = self.acc.take(self.placed[name].shape.groups, keep=self.pinned.values())

    def product(self, name: str) -> None:
        room = self.pinned[self._room(name)]
        for p, tile, (first, count), rows in self._tiles([name], self.split):
            held = self._weights(p, tile, count, rows, ())
            acc = Span("ACC", room.first + first, room.first + first + count)
            self._product(p, count, held, [], acc, count, rows)

    def results(self, name: str, out: Cells) -> None:
        p = self.placed[name]
        count = p.shape.groups
        records = self.pbuf.held.get(name) or self._records(p, 0, (0, count), [], False, name)
        self._results(p, count, records)
        to, pitch, _ = self._operand(out)
        self._requantize(self.pinned[self._room(name)], records, to, pitch, self.at, groups=count)

    def end(self) -> None:
        self.pinned = {name: span for name, span in self.pinned.items() if not name}

    def _room(self, name: str) -> str:
        """Key of the sums of a linear of the selected group."""
        return f"{name} {self.group}" if name == self.split else name

    def _first_rows(self, name: str) -> None:
        """All rows of a linear's weights but the last: sums of every group."""
        p = self.placed[name]
        count = p.shape.groups
        for tile, rows in enumerate(p.plan.row_tiles(p.shape)[:-1]):
            held = self._weights(p, tile, count, rows, ())
            for _ in self.groups():
                if not tile:
                    self.pinned[self._room(name)] = self.acc.take(count, keep=self.pinned.values())
                self._product(p, count, held, [], self.pinned[self._room(name)], count, rows)

    def _tiles(self, names: Sequence[str], split: str) -> Iterator[tuple[Placed, int, Columns, tuple[int, int]]]:
        """(linear, number, columns, rows) of the tiles of weights that stay: of the linear `split` the last rows."""
        for name in names:
            p = self.placed[name]
            rows = p.plan.row_tiles(p.shape)
            for n, columns in enumerate(p.plan.column_tiles(p.shape)):
                for m, part in enumerate(rows):
                    if name != split or part is rows[-1]:
                        yield p, n * len(rows) + m, columns, part

    @staticmethod
    def _lines_of(tiles: Sequence[tuple[Placed, int, Columns, tuple[int, int]]]) -> int:
        """Lines of WBUF of some tiles."""
        return sum(tile_lines(p.shape, columns[1], rows[1]) for p, _, columns, rows in tiles)

    def _wide(self, heads: Heads) -> int:
        """Features of a head in the cache: whole beats, the rest zeros."""
        return -(-heads.dim // self.target.beat_bytes) * self.target.beat_bytes

    def _lines_of_heads(self, heads: Heads | None) -> int:
        """Lines of WBUF of all keys and values of an attention."""
        if heads is None:
            return 0
        t, wide = self.target, self._wide(heads)
        keys, values = -(-self.context // t.ports) * -(-wide // t.lanes), -(-self.context // t.lanes) * (wide // t.ports)
        return heads.kv_heads * (keys + values)
