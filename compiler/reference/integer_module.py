"""The row operations of a region as a Relax module: what LLVM runs, equal to the machine bit for bit.

The same lowering (`lower`) that drives the emitter and the NumPy reference writes it: a function for each number of rows, from
the rows of embeddings, the place of the first and the cache to the outputs and the cache with these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from axlora.compiler import layer
from axlora.compiler.frontend.tvm_import import compiled
from axlora.compiler.operators import Attention, Op
from axlora.compiler.passes.linear_calls import Emitter, LinearVars, emit_linear, parameters
from axlora.compiler.rows import ax_rows
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import Region
from axlora.compiler.rows.row_operations import Cells, Heads, MapRow, MapsRows, OneGroup, Table
from axlora.isa.opcodes import Map, Reduce, Row

Int64 = npt.NDArray[np.int64]
Expr = Any


@dataclass
class _Value:
    """A value's columns, in parts that do not overlap: what no part covers is 0."""

    width: int
    rows: int
    parts: dict[int, tuple[int, Expr]] = field(default_factory=dict)
    """First column -> (width, tensor)."""


class RelaxRows(OneGroup, MapsRows):
    """`rows.Rows` that writes a Relax function for so many rows of each stream."""

    def __init__(self, builder: relax.BlockBuilder, emitter: Emitter, start: Start) -> None:
        """The function's body is open in `builder`."""
        self.builder, self.emitter, self.start = builder, emitter, start
        self.stream, self.tokens = 0, start.lengths[0]
        self.values: dict[str, _Value] = {}
        self.outputs: dict[int, Expr] = {}
        self.kept: dict[str, Expr] = {}
        """Rows that windows slide over."""
        self.caches = dict(start.caches)
        self.reduced: Expr = None
        self.factors: dict[int, tuple[Expr, Expr]] = {}
        self.activation: Expr = None
        self.scale: list[Expr] = []
        self.products: dict[int, list[Expr]] = {}
        """Place -> codes, what they are multiplied with, and their scale, of attention."""

    # Room

    def blocks(self, stream: int, rows: int) -> Sequence[tuple[int, int]]:
        return [(0, self.start.lengths[stream])]

    def block(self, stream: int, first: int, count: int) -> None:
        self.stream, self.tokens = stream, count
        self.factors.clear()

    def value(self, name: str, width: int) -> Cells:
        self.values.setdefault(name, _Value(width, self.tokens))
        return Cells(name, 0, width)

    def temporary(self, name: str, width: int, least: int = 1) -> Cells:
        return self.value(name, width)

    def one_row(self, name: str, width: int) -> Cells:
        self.values[name] = _Value(width, 1)
        return Cells(name, 0, width)

    def take_over(self, name: str, cells: Cells) -> Cells:
        old = self.values[cells.name]
        self.values[name] = _Value(old.width, old.rows, dict(old.parts))
        return Cells(name, 0, cells.width)

    def read_input(self, cells: Cells) -> None:
        self._put(cells, self.start.rows[self.stream])

    def write_output(self, number: int, cells: Cells) -> None:
        self.outputs[number] = self._of(cells)

    def constant(self, name: str, values: Int64) -> Cells:
        if name not in self.values:
            every = np.repeat(values[None], self.tokens, axis=0).astype(np.int32)
            self.values[name] = _Value(values.size, self.tokens, {0: (values.size, relax.const(every))})
        elif self.values[name].rows != self.tokens:
            del self.values[name]
            return self.constant(name, values)
        return Cells(name, 0, values.size)

    def by_position(self, name: str, values: Int64) -> Cells:
        positions, width = values.shape
        if name not in self.values:
            table = relax.const(values.astype(np.int32))
            found = self._call(
                ax_rows.ax_by_position,
                (self.tokens, width, positions),
                [table, self.start.places[self.stream]],
                ((self.tokens, width), "int32"),
            )
            self.values[name] = _Value(width, self.tokens, {0: (width, found)})
        return Cells(name, 0, width)

    def by_key(self, name: str, values: Int64) -> Cells:
        return self.by_position(name, values)

    def _call(self, make: Any, fixed: tuple[object, ...], args: list[Expr], out: Any) -> Expr:
        return self.emitter.call(make, fixed, args, out)

    def _emit(self, expression: Expr) -> Expr:
        return self.builder.emit(expression)

    def _of(self, cells: Cells) -> Expr:
        """The columns as one tensor s32 [rows, width]."""
        value, end, found, at = self.values[cells.name], cells.first + cells.width, [], cells.first
        for first, (width, tensor) in sorted(value.parts.items()):
            if first + width <= at or first >= end:
                continue
            if first > at:
                found.append(relax.const(np.zeros((value.rows, first - at), np.int32)))
                at = first
            stop = min(end, first + width)
            whole = at == first and stop == first + width
            found.append(tensor if whole else self._emit(relax.op.strided_slice(tensor, [1], [at - first], [stop - first])))
            at = stop
        if at < end:
            found.append(relax.const(np.zeros((value.rows, end - at), np.int32)))
        return found[0] if len(found) == 1 else self._emit(relax.op.concat(found, axis=1))

    def _put(self, cells: Cells, tensor: Expr) -> None:
        """Columns anew."""
        value, end = self.values[cells.name], cells.first + cells.width
        for first, (width, old) in list(value.parts.items()):
            if first + width <= cells.first or first >= end:
                continue
            del value.parts[first]
            if first < cells.first:
                left = self._emit(relax.op.strided_slice(old, [1], [0], [cells.first - first]))
                value.parts[first] = (cells.first - first, left)
            if first + width > end:
                right = self._emit(relax.op.strided_slice(old, [1], [end - first], [width]))
                value.parts[end] = (first + width - end, right)
        value.parts[cells.first] = (cells.width, tensor)

    # Rows

    def mapped(self, row: MapRow) -> None:
        m, n = self.tokens, row.a.width
        low, step, entries = (row.table.low, row.table.step, len(row.table.records)) if row.table is not None else (0, 0, 0)
        args = [_numbers(row.ca, row.cb, row.shift if row.table is None else row.table.shift, low, step), self._of(row.a)]
        two = row.function in (Map.MAC, Map.MUL) and row.b is not None
        if two and row.b is not None:
            args.append(self._of(row.b))
        if row.scale is not None:
            args += self.factors[row.scale]
        if row.less is not None:
            args.append(self.factors[row.less][0])
        if row.keys is not None:
            args.append(self.start.places[row.keys.stream])
        if row.table is not None:
            args.append(relax.const(row.table.records.astype(np.int32)))
        causal = None if row.keys is None else row.keys.causal
        fixed = (
            row.function,
            m,
            n,
            row.reduce,
            row.scale is not None,
            row.less is not None,
            causal,
            entries,
            two,
            row.out is not None,
        )
        results: list[tuple[tuple[int, ...], str]] = []
        if row.out is not None:
            results.append(((m, n), "int32"))
        if row.reduce is not Reduce.NONE:
            results.append(((m,), "int64"))
        made = self._several(ax_rows.ax_map, fixed, args, results)
        if row.out is not None:
            self._put(row.out, made[0])
        if row.reduce is not Reduce.NONE:
            self.reduced = made[-1]

    def _several(self, make: Any, fixed: tuple[object, ...], args: list[Expr], results: list[Any]) -> list[Expr]:
        """The results of a call, however many."""
        if len(results) == 1:
            return [self._call(make, fixed, args, results[0])]
        made = self._call(make, fixed, args, results)
        return [self._emit(made[n]) for n in range(len(results))]

    def _scalar(self, function: Row, reduced: Expr, *numbers: int) -> list[Expr]:
        """factor, shift, value; of TOKEN also mantissa and its shift."""
        m = self.tokens
        results: list[tuple[tuple[int, ...], str]] = [((m,), "int64")] * 3
        if function is Row.TOKEN:
            results += [((m, 1), "uint16"), ((m, 1), "uint8")]
        return self._several(ax_rows.ax_scalar, (function, m), [_numbers(*numbers), reduced], results)

    def scalar(self, function: Row, slot: int, factor: int, shift: int, add: int = 0, adjust: int = 0) -> None:
        made = self._scalar(function, self.reduced, factor, add, shift, adjust, 0)
        self.factors[slot] = (made[0], made[1])

    def _codes(self, x: Expr, n: int, factor: Expr, shift: Expr, size: int) -> Expr:
        m = self.tokens
        return self._call(ax_rows.ax_codes, (m, n, size), [x, factor, shift], ((m, n), f"int{8 * size}"))

    def quantize(self, x: Cells, factor: int, shift: int, adjust: int, token: int, heads: Heads | None, keys: bool) -> None:
        made = self._scalar(Row.TOKEN, self.reduced, factor, 0, shift, adjust, token)
        self.scale = made[3:]
        self.activation = self._codes(self._of(x), x.width, made[0], made[1], self.start.bits // 8)

    def static_codes(self, x: Cells, table: Table) -> None:
        wide = self.temporary(f"{x.name} codes", x.width)
        self.map(Map.TABLE, x, out=wide, table=table)
        one, none = (_numbers(*[n] * self.tokens) for n in (1, 0))
        self.scale, self.activation = [], self._codes(self._of(wide), x.width, one, none, self.start.bits // 8)

    def _linear(self, name: str) -> Expr:
        own, variables = self.start.linears[name]
        bits = self.start.bits
        done = emit_linear(self.emitter, own, self.activation, self.tokens, (bits, bits), variables, self.scale)
        return done["codes"]

    def linear(self, name: str, out: Cells) -> None:
        self._put(out, self._linear(name))

    def logits(self, number: int, name: str) -> None:
        self.outputs[number] = self._linear(name)

    # Pools

    def keep(self, name: str, x: Cells) -> None:
        self.kept[name] = self._emit(relax.op.concat([self._of(x), relax.const(np.zeros((1, x.width), np.int32))], axis=0))

    def slide(self, name: str, outs: Sequence[Cells], index: Int64) -> None:
        places = np.where(index < 0, int(self.kept[name].ty.shape.values[0]) - 1, index)
        for out, rows in zip(outs, places.T, strict=True):
            self._put(out, self._emit(relax.op.take(self.kept[name], relax.const(rows, "int64"), axis=0, mode="clip")))

    def pick(self, x: Cells, out: Cells) -> None:
        first = relax.op.strided_slice(self._of(x), [0], [0], [1])
        self._put(out, self._emit(first))

    def gather(self, x: Cells, out: Cells, shift: int) -> None:
        args = [self._of(x), self.start.places[self.stream]]
        self._put(out, self._call(ax_rows.ax_gather, (self.tokens, x.width, shift), args, ((1, x.width), "int32")))

    def count_rows(self) -> None:
        self.reduced = self._emit(relax.op.strided_slice(self.start.places[self.stream], [0], [1], [2]))

    # Attention

    def append(self, heads: Heads, k: Cells, v: Cells, factor: int, shift: int, adjust: int) -> None:
        m, context, places = self.tokens, self.start.context, self.start.places[self.stream]
        for cells, kind, stride in ((k, "key", heads.k_stride), (v, "value", heads.v_stride)):
            every = Cells(cells.name, cells.first, (heads.kv_heads - 1) * stride + heads.dim)
            for head in range(heads.kv_heads):
                x = Cells(cells.name, cells.first + head * stride, heads.dim)
                parts = []
                if heads.scaled(head) == head:
                    self.map(Map.MAC, every if heads.one_scale else x, reduce=Reduce.ABSMAX)
                    found = self._scalar(Row.RECIPROCAL, self.reduced, factor, 0, shift, adjust, 0)
                    scales = self._emit(relax.op.reshape(self._emit(relax.op.astype(found[2], "int32")), (m, 1)))
                    parts.append(("scales", 1, "int32", scales))
                parts.append(("codes", heads.dim, "int8", self._codes(self._of(x), heads.dim, found[0], found[1], 1)))
                for part, width, dtype, rows in parts:
                    name = f"{heads.name} {kind} {head} {part}"
                    args = [self.caches[name], rows, places]
                    self.caches[name] = self._call(
                        ax_rows.ax_append, (m, width, context, dtype), args, ((context, width), dtype)
                    )

    def _cached(self, heads: Heads, head: int, kind: str) -> tuple[Expr, Expr]:
        """Codes [context, dim] and scales [context, 1]."""
        own, name = heads.own(head), f"{heads.name} {kind}"
        return self.caches[f"{name} {own} codes"], self.caches[f"{name} {heads.scaled(own)} scales"]

    def _weighed(self, heads: Heads, x: Expr, scales: Expr, shift: int, reduce: Reduce) -> Expr:
        m, n = self.tokens, self.start.context
        args, results = [_numbers(shift), x, scales, self.start.places[heads.stream]], [((m, n), "int32"), ((m,), "int64")]
        made = self._several(ax_rows.ax_weigh, (m, n, heads.causal, reduce), args, results)
        self.reduced = made[1]
        return made[0]

    def times_keys(self, heads: Heads, head: int, place: int) -> None:
        codes, _ = self._cached(heads, head, "key")
        self.products[place] = [self.activation, codes, *self.scale]

    def scores(self, heads: Heads, head: int, place: int, out: Cells, m1: int, m1_shift: int, key_shift: int) -> None:
        m, n = self.tokens, self.start.context
        _, scales = self._cached(heads, head, "key")
        args = [_numbers(m1, m1_shift), *self.products[place]]
        z = self._call(ax_rows.ax_summed, (m, heads.dim, n, True, self.start.bits), args, ((m, n), "int32"))
        self._put(out, self._weighed(heads, z, scales, key_shift, Reduce.MAX))

    def weigh(self, heads: Heads, head: int, e: Cells, shift: int) -> None:
        _, scales = self._cached(heads, head, "value")
        self._put(e, self._weighed(heads, self._of(e), scales, shift, Reduce.ABSMAX))

    def times_values(self, heads: Heads, head: int, place: int) -> None:
        codes, _ = self._cached(heads, head, "value")
        self.products[place] = [self.activation, codes, *self.scale]

    def mix(self, heads: Heads, place: int, out: Cells, m1: int, m1_shift: int) -> None:
        m, n = self.tokens, self.start.context
        args = [_numbers(m1, m1_shift), *self.products[place]]
        fixed = (m, n, heads.dim, False, self.start.bits)
        self._put(out, self._call(ax_rows.ax_summed, fixed, args, ((m, heads.dim), "int32")))


def _numbers(*values: int) -> Expr:
    """Fields of an instruction."""
    return relax.const(np.array(values, np.int64), "int64")


@dataclass(frozen=True)
class Start:
    """The parameters of one function."""

    lengths: Sequence[int]
    """Rows of each stream."""
    context: int
    bits: int
    rows: Sequence[Expr]
    """First rows of each stream."""
    places: Sequence[Expr]
    """Position of each stream's first row, and how many are no padding."""
    caches: Mapping[str, Expr]
    linears: Mapping[str, tuple[layer.Linear, LinearVars]]


def cache_shapes(operators: Sequence[Op], context: int) -> dict[str, tuple[tuple[int, int], str]]:
    """Name of every part of the cache -> (shape, type)."""
    found: dict[str, tuple[tuple[int, int], str]] = {}
    for op in operators:
        if isinstance(op, Attention):
            for kind in ("key", "value"):
                for head in range(op.kv_heads):
                    found[f"{op.y} {kind} {head} codes"] = ((context, op.dim), "int8")
                    if head == 0 or not op.one_scale:
                        found[f"{op.y} {kind} {head} scales"] = ((context, 1), "int32")
    return found


class IntegerModule:
    """The integer functions of a region, one for each number of rows, compiled by LLVM at the first run."""

    def __init__(
        self, region: Region, linears: Sequence[layer.Linear], *, bits: int, context: int, starts: Sequence[int]
    ) -> None:
        """`bits`: of activations; `context`: tokens of the cache; `starts`: numbers of rows."""
        self.region, self.linears, self.context = region, {one.name: one for one in linears}, context
        self.caches = cache_shapes(region.operators, context)
        self.numbers: tuple[int, ...] = ()
        self.fractions: tuple[int, dict[str, int]] = (0, {})
        builder = relax.BlockBuilder()
        emitter = Emitter(builder.add_func, builder.emit)
        for tokens in starts:
            self._function(builder, emitter, tokens, bits)
        self.module = builder.finalize()
        self._vm: Any = None
        self._weights: dict[str | None, list[Any]] = {}

    def _function(self, builder: relax.BlockBuilder, emitter: Emitter, tokens: int, bits: int) -> None:
        lengths = (tokens, *self.region.lengths[1:])
        sizes = list(zip(self.region.inputs, lengths, strict=False))
        made = [relax.const(np.array([0, length]), "int64") for length in lengths[len(sizes) :]]
        rows = [relax.Var(f"rows{n}", relax.TensorType((m, self.region.widths[x]), "int32")) for n, (x, m) in enumerate(sizes)]
        places = [relax.Var(f"places{n}", relax.TensorType((2,), "int64")) for n in range(len(sizes))]
        caches = {
            name: relax.Var(f"cache{n}", relax.TensorType(shape, dtype))
            for n, (name, (shape, dtype)) in enumerate(self.caches.items())
        }
        own = {
            name: (linear, LinearVars.declare(linear, f"w{n}", self.region.rank))
            for n, (name, linear) in enumerate(self.linears.items())
        }
        params = [*rows, *places, *caches.values(), *(v for _, variables in own.values() for v in variables.all())]
        with builder.function(f"start_{tokens}", params):
            with builder.dataflow():
                to = RelaxRows(builder, emitter, Start(lengths, self.context, bits, rows, [*places, *made], caches, own))
                self.fractions = lower(self.region, to, bits, self.context)
                self.numbers = tuple(sorted(to.outputs))
                results = [*(to.outputs[n] for n in self.numbers), *(to.caches[name] for name in self.caches)]
                gathered = builder.emit_output(relax.Tuple(results))
            builder.emit_func_output(gathered)

    def empty(self) -> list[Any]:
        """An empty cache."""
        return [tvm.runtime.tensor(np.zeros(shape, dtype)) for shape, dtype in self.caches.values()]

    def _parameters(self, adapter: str | None) -> list[Any]:
        if adapter not in self._weights:
            found = []
            for linear in self.linears.values():
                own = next((a for a in linear.adapters if a.name == adapter), None)
                found += [tvm.runtime.tensor(np.ascontiguousarray(p)) for p in parameters(linear, self.region.rank, own)]
            self._weights[adapter] = found
        return self._weights[adapter]

    def run(
        self,
        rows: Int64,
        first: int = 0,
        keys: int | None = None,
        cache: list[Any] | None = None,
        adapter: str | None = None,
        more: Sequence[tuple[Int64, int]] = (),
    ) -> tuple[dict[int, Int64], list[Any]]:
        """One start.

        Args:
            rows: s32 [tokens, n] of embeddings; a function for so many tokens was asked for.
            first: position of the first. keys: rows that are no padding, default all.
            cache: what an earlier start gave, default an empty one.
            adapter: its name; None is the base.
            more: rows of further streams, and how many of them are no padding.

        Returns:
            number of each output -> s32 [rows, n], and the cache.
        """
        if self._vm is None:
            self._vm = compiled(self.module)
        counts = [np.array([first, len(rows) if keys is None else keys], np.int64)]
        counts += [np.array([0, own], np.int64) for _, own in more]
        given = [each.astype(np.int32) for each in (rows, *(own for own, _ in more))]
        arguments = [tvm.runtime.tensor(each) for each in (*given, *counts)]
        results = self._vm[f"start_{len(rows)}"](*arguments, *(cache or self.empty()), *self._parameters(adapter))
        outputs = {n: results[place].numpy().astype(np.int64) for place, n in enumerate(self.numbers)}
        return outputs, [results[n] for n in range(len(self.numbers), len(results))]
