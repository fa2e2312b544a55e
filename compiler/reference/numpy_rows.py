"""The integer reference of a transformer: its row operations on whole arrays, with `isa.numerics` and nothing of the ISA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler import layer
from axlora.compiler.rows.row_operations import Cells, Heads, MapRow, MapsRows, OneGroup, Table
from axlora.isa import numerics
from axlora.isa.opcodes import Map, Reduce, Row

Int64 = npt.NDArray[np.int64]


class Cache:
    """Keys and values of every attention operator: codes and scales, appended token by token."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, int], list[Int64]] = {}
        self.values: dict[tuple[str, int], list[Int64]] = {}

    def __len__(self) -> int:
        return max((len(rows) for rows in self.keys.values()), default=0)


class Reference(OneGroup, MapsRows):
    """`rows.Rows` in NumPy, for tokens at positions `first`, `first` + 1, ...; reads and grows a cache."""

    def __init__(
        self,
        linears: Mapping[str, layer.Linear],
        adapters: Sequence[str | None],
        cache: Cache,
        bits: int,
        rows: Int64,
        keys: int | None = None,
        more: Sequence[tuple[Int64, int]] = (),
    ) -> None:
        """The first rows.

        Args:
            rows: of the first stream, s32 [tokens, n]. keys: the first so many of them are no padding, default all.
            more: the same of further streams.
        """
        tokens = len(rows)
        self.linears, self.adapters, self.cache, self.bits, self.tokens = linears, adapters, cache, bits, tokens
        self.given = [(rows, tokens if keys is None else keys), *more]
        """First rows of each stream, and how many of them are no padding."""
        self.stream = 0
        self.outputs: dict[int, Int64] = {}
        """Number of the output -> s32 [rows, n]."""
        self.first = len(cache)
        self.values: dict[str, Int64] = {}
        self.kept: dict[str, Int64] = {}
        """Rows that windows slide over."""
        self.reduced: list[int] = [0] * tokens
        self.factors = np.zeros((4, tokens, 2), np.int64)
        self.activation = np.zeros((tokens, 0), np.int64)
        self.scale: Int64 | None = None
        """Mantissa and shift of each row's scale [2, tokens, 1]; None: the activation has one scale."""
        self.sums: dict[int, tuple[Int64, Int64]] = {}
        """Place -> sums of attention and `scale` of what was multiplied."""

    @property
    def output(self) -> Int64:
        """The first output, s32 [rows, n]."""
        return self.outputs[0]

    def blocks(self, stream: int, rows: int) -> Sequence[tuple[int, int]]:
        if stream == len(self.given):
            self.given.append((np.zeros((rows, 0), np.int64), rows))
        return [(0, len(self.given[stream][0]))]

    def block(self, stream: int, first: int, count: int) -> None:
        self.stream, self.tokens = stream, count
        self.factors = np.zeros((4, count, 2), np.int64)

    def value(self, name: str, width: int) -> Cells:
        self.values.setdefault(name, np.zeros((self.tokens, width), np.int64))
        return Cells(name, 0, width)

    def temporary(self, name: str, width: int, least: int = 1) -> Cells:
        return self.value(name, width)

    def one_row(self, name: str, width: int) -> Cells:
        self.values[name] = np.zeros((1, width), np.int64)
        return Cells(name, 0, width)

    def take_over(self, name: str, cells: Cells) -> Cells:
        self.values[name] = self.values[cells.name].copy()
        return Cells(name, 0, cells.width)

    def read_input(self, cells: Cells) -> None:
        self.values[cells.name] = self.given[self.stream][0].copy()

    def write_output(self, number: int, cells: Cells) -> None:
        self.outputs[number] = self._of(cells).copy()

    def constant(self, name: str, values: Int64) -> Cells:
        self.values[name] = np.repeat(values[None], self.tokens, axis=0)
        return Cells(name, 0, values.size)

    def by_position(self, name: str, values: Int64) -> Cells:
        self.values[name] = values[self.first : self.first + self.tokens]
        return Cells(name, 0, values.shape[1])

    def by_key(self, name: str, values: Int64) -> Cells:
        return self.by_position(name, values)

    def _of(self, cells: Cells) -> Int64:
        return self.values[cells.name][:, cells.first : cells.first + cells.width]

    def _valid(self, width: int, heads: Heads) -> npt.NDArray[np.bool_]:
        """Keys up to each row's own if causal, else all that are no padding."""
        keys = self.given[heads.stream][1]
        own = self.first + 1 + np.arange(self.tokens)[:, None] if heads.causal else np.full((self.tokens, 1), keys)
        return np.asarray(np.arange(width)[None] < own)

    def mapped(self, row: MapRow) -> None:
        x = self._of(row.a)
        valid = np.ones(x.shape, np.bool_) if row.keys is None else self._valid(row.a.width, row.keys)
        factor = self.factors[0 if row.scale is None else row.scale]
        y, _ = numerics.map_rows(
            row.function,
            x,
            x if row.b is None else self._of(row.b),
            ca=row.ca,
            cb=row.cb,
            shift=factor[:, 1:] if row.scale is not None else row.shift if row.table is None else row.table.shift,
            factor=factor[:, :1],
            less=0 if row.less is None else self.factors[row.less][:, :1],
            low=0 if row.table is None else row.table.low,
            step=0 if row.table is None else row.table.step,
            table=None if row.table is None else row.table.records,
        )
        if row.reduce is not Reduce.NONE:
            self.reduced = [int(r) for r in numerics.reduce_rows(row.reduce, y, valid)]
        if row.out is not None:
            self._of(row.out)[:] = np.where(valid, y, 0)

    def scalar(self, function: Row, slot: int, factor: int, shift: int, add: int = 0, adjust: int = 0) -> None:
        for r, reduced in enumerate(self.reduced):
            found = numerics.row_scalar(function, reduced, factor, add, shift, adjust)
            self.factors[slot, r] = found.factor, found.shift

    def quantize(self, x: Cells, factor: int, shift: int, adjust: int, token: int, heads: Heads | None, keys: bool) -> None:
        found = [numerics.row_scalar(Row.TOKEN, r, factor, 0, shift, adjust, token) for r in self.reduced]
        self.scale = np.array([[[s.mantissa] for s in found], [[s.token_shift] for s in found]], np.int64)
        self.activation = self._codes(self._of(x), found, self.bits // 8)

    def static_codes(self, x: Cells, table: Table) -> None:
        self.scale = None
        y = self._table(self._of(x), table)
        self.activation = numerics.clamp_bytes(y, self.bits // 8)

    @staticmethod
    def _table(x: Int64, table: Table) -> Int64:
        return numerics.map_rows(Map.TABLE, x, x, low=table.low, step=table.step, shift=table.shift, table=table.records)[0]

    def _codes(self, x: Int64, scalars: Sequence[numerics.RowScalar], size: int) -> Int64:
        factor, shift = (np.array([[getattr(s, name)] for s in scalars], np.int64) for name in ("factor", "shift"))
        return numerics.clamp_bytes(numerics.map_rows(Map.SCALE, x, x, factor=factor, shift=shift)[0], size)

    def linear(self, name: str, out: Cells) -> None:
        own = self.linears[name]
        names = self.adapters[: self.tokens] if self.stream == 0 else [self.adapters[0]] * self.tokens
        for chosen in dict.fromkeys(names):
            rows = np.array([r for r, a in enumerate(names) if a == chosen])
            x = self.activation[rows]
            records, bias, m1 = own.records, own.records.bias, own.records.m1
            branch: dict[str, Any] = {}
            adapter = next((a for a in own.adapters if a.name == chosen), None)
            if adapter is not None:
                a = adapter.a_records
                low = numerics.matmul(x, adapter.a.values())
                u, exponent, _ = numerics.block_quantize(low, a.bias, a.m1, a.shift, own.bias_shift, self.bits)
                branch = {"acc2": numerics.matmul(u, adapter.b.values()), "m2": adapter.m2, "exponent": exponent}
                bias, m1 = adapter.bias, adapter.m1
            y, _ = numerics.requantize(
                numerics.matmul(x, own.weight.weights()),
                bias,
                m1,
                records.shift,
                mantissa=None if self.scale is None else self.scale[0, rows],
                token_shift=None if self.scale is None else self.scale[1, rows],
                bias_shift=own.bias_shift,
                bias_end=own.bias_end,
                guard=own.guard,
                bits=32,
                **branch,
            )
            self._of(out)[rows] = y

    def logits(self, number: int, name: str) -> None:
        out = self.value(f"output {number}", self.linears[name].n)
        self.linear(name, out)
        self.write_output(number, out)

    def keep(self, name: str, x: Cells) -> None:
        self.kept[name] = self._of(x).copy()

    def slide(self, name: str, outs: Sequence[Cells], index: Int64) -> None:
        for out, rows in zip(outs, index.T, strict=True):
            self._of(out)[:] = np.where(rows[:, None] < 0, 0, self.kept[name][rows])

    def pick(self, x: Cells, out: Cells) -> None:
        self._of(out)[:] = self._of(x)[:1]

    def gather(self, x: Cells, out: Cells, shift: int) -> None:
        total = self._of(out)
        for row in self._of(x)[: self.given[self.stream][1]]:
            total[:] = numerics.map_rows(Map.MAC, row[None], total, ca=1, cb=1 << shift, shift=shift)[0]

    def count_rows(self) -> None:
        self.reduced = [self.given[self.stream][1]]

    def append(self, heads: Heads, k: Cells, v: Cells, factor: int, shift: int, adjust: int) -> None:
        for cells, kept, stride in ((k, self.cache.keys, heads.k_stride), (v, self.cache.values, heads.v_stride)):
            own = [self._of(Cells(cells.name, cells.first + head * stride, heads.dim)) for head in range(heads.kv_heads)]
            of = [np.concatenate(own, axis=1)] if heads.one_scale else own
            found = [
                [numerics.row_scalar(Row.RECIPROCAL, int(np.abs(row).max()), factor, 0, shift, adjust) for row in x] for x in of
            ]
            for head, x in enumerate(own):
                scalars, cached = found[heads.scaled(head)], kept.setdefault((heads.name, head), [])
                cached += [np.append(row, s.value) for row, s in zip(self._codes(x, scalars, 1), scalars, strict=True)]

    def _cached(self, kept: dict[tuple[str, int], list[Int64]], heads: Heads, head: int) -> tuple[Int64, Int64]:
        """Codes [keys, dim] and scales [keys]."""
        rows = np.stack(kept[heads.name, heads.own(head)])
        return rows[:, :-1], rows[:, -1]

    def _summed(self, place: int, m1: int, m1_shift: int) -> Int64:
        """Sums times the token scale."""
        sums, (mantissa, shift) = self.sums[place]
        n = sums.shape[1]
        zeros, ones = np.zeros(n, np.int64), np.ones(n, np.int64)
        y, _ = numerics.requantize(sums, zeros, m1 * ones, m1_shift * ones, mantissa=mantissa, token_shift=shift, bits=32)
        return y

    def _sum(self, place: int, x: Int64, weight: Int64) -> None:
        assert self.scale is not None
        self.sums[place] = numerics.matmul(x, weight), self.scale

    def times_keys(self, heads: Heads, head: int, place: int) -> None:
        codes, _ = self._cached(self.cache.keys, heads, head)
        self._sum(place, self.activation, codes.T)

    def scores(self, heads: Heads, head: int, place: int, out: Cells, m1: int, m1_shift: int, key_shift: int) -> None:
        _, scales = self._cached(self.cache.keys, heads, head)
        z = self._summed(place, m1, m1_shift)
        y, _ = numerics.map_rows(Map.MUL, z, np.broadcast_to(scales, z.shape), shift=key_shift)
        valid = self._valid(len(scales), heads)
        self.reduced = [int(r) for r in numerics.reduce_rows(Reduce.MAX, y, valid)]
        self._of(out)[:, : len(scales)] = np.where(valid, y, 0)

    def weigh(self, heads: Heads, head: int, e: Cells, shift: int) -> None:
        _, scales = self._cached(self.cache.values, heads, head)
        x = self._of(e)[:, : len(scales)]
        y, _ = numerics.map_rows(Map.MUL, x, np.broadcast_to(scales, x.shape), shift=shift)
        valid = self._valid(len(scales), heads)
        self.reduced = [int(r) for r in numerics.reduce_rows(Reduce.ABSMAX, y, valid)]
        x[:] = np.where(valid, y, 0)

    def times_values(self, heads: Heads, head: int, place: int) -> None:
        codes, _ = self._cached(self.cache.values, heads, head)
        self._sum(place, self.activation[:, : len(codes)], codes)

    def mix(self, heads: Heads, place: int, out: Cells, m1: int, m1_shift: int) -> None:
        self._of(out)[:] = self._summed(place, m1, m1_shift)
