"""Linears of a chain to instructions: the weights of all of them stay in WBUF, and each takes a group of rows at a time.

And what attention has room for: how many heads at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from axlora.compiler.backend.emit_row_linears import LinearEmit
from axlora.compiler.backend.emit_tiles import Columns, Placed
from axlora.compiler.backend.plan import tile_lines
from axlora.compiler.backend.schedule import Span
from axlora.compiler.rows.row_operations import PLACES, Cells, Chains, Heads
from axlora.isa.opcodes import ROWS

Tile = tuple[Placed, int, Columns, tuple[int, int]]
"""A linear, number of a tile of its weights, columns, rows."""
MOST_BEATS = 3072
"""Beats of weights that one load moves at most: others that are needed sooner do not wait for a whole tile."""
EARLY = 1500
"""About how many cycles before it may begin a load of a program with chains is chosen."""
KEPT = 9 / 10
"""Share of WBUF that a chain takes at most: what comes behind it is loaded into the rest."""


class ChainEmit(LinearEmit):
    """`row_operations.Chains` as instructions."""

    @property
    def chains(self) -> Chains | None:
        return self if self.chained else None

    def at_once(self, heads: Heads) -> int:
        t = self.target
        if self._one_row:
            alike = heads.heads // heads.kv_heads
            return max(n for n in range(1, min(alike, t.tokens) + 1) if alike % n == 0)
        if not (self.ahead and heads.one_scale):
            return 1
        lines = self._keys_and_values(heads)
        own = -(-self.context // t.lanes)
        most = min(
            ROWS // t.tokens,
            (t.tbuf_tokens - self.scales) // (3 * t.tokens),
            t.acc_words // (2 * PLACES * self.alike),
            t.wbuf_lines // 4 // lines,
            (t.ubuf_lines - self.heads_first) // (2 * own),
            t.vbuf_words // 8 // (t.tokens * self._pitch(self.context)),
        )
        found = max(n for n in range(1, max(1, min(most, heads.heads)) + 1) if heads.heads % n == 0)
        self.heads_ubuf.size = max(self.heads_ubuf.size, min(t.ubuf_lines, self.heads_first + 2 * own * found))
        return found

    def _keys_and_values(self, heads: Heads) -> int:
        """Lines of WBUF of the keys and values of a head."""
        return sum(self._lines_of_tiles(heads))

    def _lines_of_tiles(self, heads: Heads) -> tuple[int, int]:
        """Lines of WBUF of a head's keys, and of its values."""
        t, wide = self.target, self._wide(heads)
        return -(-self.context // t.ports) * -(-wide // t.lanes), -(-self.context // t.lanes) * (wide // t.ports)

    def _wide(self, heads: Heads) -> int:
        """Features of a head in the cache: whole beats, the rest zeros."""
        return -(-heads.dim // self.target.beat_bytes) * self.target.beat_bytes

    def beside(self, names: Sequence[str], heads: Heads | None, split: bool) -> bool:
        return self._fits(names, heads, self._in_parts(names[0]) if split else "", {})

    def leads(self, names: Sequence[str], heads: Heads | None, split: bool, name: str) -> bool:
        if not name or not self.beside([name], None, True):
            return False
        p = self.placed[name]
        most = len(p.plan.row_tiles(p.shape)) - self._last(p)
        first = self._in_parts(names[0]) if split else ""
        self.leading[name] = next((n for n in range(most, 0, -1) if self._fits([*names, name], heads, first, {name: n})), 0)
        return self.leading[name] > 0

    def _fits(self, names: Sequence[str], heads: Heads | None, split: str, leading: Mapping[str, int]) -> bool:
        """Whether these linears have room; of `leading` only so many of the first tiles, of `split` only the last ones."""
        t = self.target
        placed = [self.placed[name] for name in names]
        partly = [self.placed[name] for name in (split, *leading) if name]
        if any(p.shape.slots for p in placed) or any(len(p.plan.column_tiles(p.shape)) > 1 for p in partly):
            return False
        tiles = [tile for name in names for tile in self._tiles(name, split, leading.get(name, 0))]
        scales = [rows // p.shape.per_group * count for p, _, (_, count), (_, rows) in tiles if p.shape.per_group]
        groups = sum(p.shape.groups for p in placed)
        banks = 1 if heads is None else self.at_once(heads)
        sums = groups + sum(p.shape.groups for p in partly) * -(-self.count // t.tokens) + PLACES * self.alike * banks
        return (
            self._lines_of(tiles) + self._lines_of_heads(heads) <= t.wbuf_lines * KEPT
            and sums <= t.acc_words * 3 // 4  # rooms of two chains lie between each other
            and groups <= t.pbuf_groups - self.pbuf.first
            and sum(scales) <= t.sbuf_lines
        )

    def begin(self, names: Sequence[str], heads: Heads | None, split: bool, ahead: str) -> None:
        self.most_lines = max(1, MOST_BEATS // self.target.wbuf_line_beats)
        self.schedule.early = EARLY
        self.split, self.going_ahead = self._in_parts(names[0]) if split else "", ahead
        if self.split:
            self._middle_rows(self.split)
        whole = [*names, ahead] if ahead else names
        tiles = [self._lines_of([tile]) for name in whole for tile in self._kept(name)]
        if not self.wbuf.goes_around([*(self._lines_of_tiles(heads) * heads.kv_heads if heads else ()), *tiles]):
            self.wbuf.next = self.wbuf.first
        for name in names:
            if name != self.split:
                self._take(name)
        for _ in self.groups() if ahead else ():
            self._take(ahead)

    def product(self, name: str) -> None:
        self._multiply_tiles(self._kept(name))

    def _multiply_tiles(self, tiles: Iterable[Tile]) -> None:
        """The selected group times some tiles of a linear."""
        for p, tile, (first, count), rows in tiles:
            held = self._weights(p, tile, count, rows, ())
            start = self.pinned[self._room(p.linear.name)].first + first
            # What steps from group to group steps as codes do: loops have seven registers.
            base = start if p.linear.name in (self.split, self.going_ahead) else 0
            self._product(p, count, held, [], Span("ACC", start, start + count), count, rows, base)

    def results(self, name: str, out: Cells) -> None:
        p = self.placed[name]
        count = p.shape.groups
        records = self.pbuf.held.get(name) or self._records(p, 0, (0, count), [], False, name)
        self._results(p, count, records)
        to, pitch, _ = self._operand(out)
        self._requantize(self.pinned[self._room(name)], records, to, pitch, self.at, groups=count)

    def end(self) -> None:
        self.most_lines = 0
        kept = [f"{self.going_ahead} {group}" for group in range(-(-self.count // self.target.tokens))]
        self.pinned = {name: span for name, span in self.pinned.items() if name in kept}

    def _room(self, name: str) -> str:
        """Key of the sums of a linear, of the selected group."""
        return f"{name} {self.group}" if name in (self.split, self.going_ahead) else name

    def _take(self, name: str) -> None:
        """Room for sums of a linear, of the selected group."""
        self.pinned[self._room(name)] = self.acc.take(self.placed[name].shape.groups, keep=self.pinned.values())

    def _middle_rows(self, name: str) -> None:
        """Sums of every group over the rows of a linear's weights that are in no chain."""
        p = self.placed[name]
        done = self.leading.pop(name, 0)
        tiles = [*self._tiles(name, "", 0)][done : len(p.plan.row_tiles(p.shape)) - self._last(p)]
        for _ in () if done else self.groups():
            self._take(name)
        for tile in tiles:
            for _ in self.groups():
                self._multiply_tiles([tile])

    def _kept(self, name: str) -> Iterator[Tile]:
        """Tiles of a linear in the chain at hand."""
        return self._tiles(name, self.split, self.leading[name] if name == self.going_ahead else 0)

    def _in_parts(self, name: str) -> str:
        """The linear, if its weights are cut into rows."""
        p = self.placed[name]
        return name if len(p.plan.row_tiles(p.shape)) > 1 else ""

    @staticmethod
    def _last(p: Placed) -> int:
        """How many of the tiles of rows are for the chain that a linear begins, if it does not stay as a whole."""
        return -(-len(p.plan.row_tiles(p.shape)) // 2)

    def _tiles(self, name: str, split: str, leading: int) -> Iterator[Tile]:
        """The tiles of a linear that stay: of `split` the last ones; `leading` of the first, or all."""
        p = self.placed[name]
        rows = p.plan.row_tiles(p.shape)
        kept = range(len(rows) - self._last(p) if name == split else 0, leading or len(rows))
        for n, columns in enumerate(p.plan.column_tiles(p.shape)):
            for m in kept:
                yield p, n * len(rows) + m, columns, rows[m]

    @staticmethod
    def _lines_of(tiles: Iterable[Tile]) -> int:
        """Lines of WBUF of some tiles."""
        return sum(tile_lines(p.shape, columns[1], rows[1]) for p, _, columns, rows in tiles)

    def _lines_of_heads(self, heads: Heads | None) -> int:
        """Lines of WBUF of all keys and values of an attention."""
        return 0 if heads is None else heads.kv_heads * self._keys_and_values(heads)
