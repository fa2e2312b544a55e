"""Models of whole sequences, and of rows that nothing mixes: a start goes from the first rows to the outputs.

The first rows are those of embeddings, or an input of floats. A start takes a sequence; where nothing mixes rows, as many rows
of the batch as the machine holds at once, each with the adapter of its batch row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from axlora.compiler.rows.fractions import seen
from axlora.compiler.transformer import Counted, Padding, RowInput, order_of
from axlora.isa.numerics import SAT32, to_fixed
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS
from axlora.isa.positions import position_registers
from axlora.isa.regions import token_words

from .choice import AdapterChoice
from .choice import Rows as RowsOf
from .engines import Engine, Left, Progress, Start
from .inputs import BadInput, Inputs, InputsInfo, Kind, Values, cast, checked, no_sequence
from .machine import Bytes, Int64, Machine
from .rows import Rows
from .run import Run, run_of
from .validate import FILE_LIMIT, Check


@dataclass(frozen=True)
class Result:
    """An output of the model: where its rows lie, and what they stand for."""

    name: str
    shape: tuple[int, ...]
    """Of one sequence, whose first dimension is 1; of rows that nothing mixes, of the batch."""
    region: int
    """Number of the region `output N` that holds it."""
    rows: int
    """Of a start."""
    width: int
    """Features of a row."""
    words: int
    """Of a row in memory."""
    fraction: int
    """value = integer / 2**fraction."""
    picked: bool
    """Only some elements, or in another order: `Sequences.indices` says which."""
    stream: int = 0


@dataclass(frozen=True)
class Given:
    """The input of floats that is the first rows, its elements in order."""

    input: str
    shape: tuple[int, ...]
    """Of the whole batch."""
    features: int
    rowwise: bool
    """Whether nothing mixes rows; else they are sequences."""
    laid_out: bool = False
    """Whether the rows are not its elements in order: `Sequences.layouts` says which."""

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return int(np.prod(self.shape, dtype=np.int64)) // self.features


@dataclass(frozen=True)
class Part:
    """The first rows of a stream: of an encoder's tokens, or of a decoder's."""

    rows: int
    """Of a sequence."""
    input_fraction: int
    input_words: int
    """Of a row of the region `input N` of stream N."""
    tables: tuple[str, ...]
    """Inputs whose tables' rows add up; () where an input of floats is the rows."""
    given: str = ""
    """That input, [batch, rows, features] but for `shape`."""
    features: int = 0
    """Of a given row."""
    shape: tuple[int, ...] = ()
    """Of that input behind the batch, where the rows are not its elements in order: `Sequences.layouts` says which."""


_FLOATS = ("float16", "float32", "float64")
_TYPES = ("int8", "int16", "int32", "int64", "uint8", "bool", "float32")


@dataclass(frozen=True)
class _Begun:
    """What a start begins with."""

    memory: Bytes
    registers: dict[int, int]
    orders: tuple[Int64, ...]
    """Of each stream: places of the sequence in the order of the rows."""


@dataclass(frozen=True)
class Sequences(Rows):
    """One function takes a sequence, or rows that nothing mixes, from the first rows to the outputs.

    The sequences of a batch are starts of their own.
    """

    kind: ClassVar[Kind] = Kind.WHOLE
    batch: int
    inputs: dict[str, str]
    """The model's inputs, each [batch, context] but for the one that is given as rows and `unread`: name -> NumPy type."""
    mask: str | None
    """The input that tells tokens (not 0) from padding (0)."""
    fixed: dict[str, npt.NDArray[Any]]
    """Input -> [1, context]: the only values that it may hold."""
    results: tuple[Result, ...]
    indices: dict[str, npt.NDArray[np.int64]]
    given: Given | None = None
    """The input that is the first rows; None: they are looked up in `tables`."""
    padding: Padding = Padding.ANYWHERE
    """Where the mask may have padding."""
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Inputs that may hold anything -> their dimensions behind the batch."""
    counted: dict[str, Counted] = field(default_factory=dict)
    """Name of a table that no input picks from -> the indices that pick from it."""
    more: tuple[Part, ...] = ()
    """Of further streams."""
    more_positions: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Number of a further stream -> [rows, features], added to its rows."""
    masked: int = 0
    """The stream that the mask is of."""
    made: tuple[int, ...] = ()
    """Rows of streams that the machine makes of others."""
    layouts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Number of a stream -> [rows, features]: elements of one sequence's input that are its first rows, -1 for zeros."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The first rows of every stream; of rows that nothing mixes, those of a start."""
        others = {name for part in self.more for name in part.tables}
        names = tuple(name for name in self.tables if name not in others)
        given: tuple[str, int, tuple[int, ...]] = ("", 0, ())
        if self.given is not None:
            given = self.given.input, self.given.features, self.given.shape[1:] if self.given.laid_out else ()
        return (Part(self.context, self.input_fraction, self.input_words, names, *given), *self.more)

    def fraction_of(self, name: str) -> int:
        return next(part.input_fraction for part in self.parts if name in part.tables)

    def _lengths(self) -> dict[str, int]:
        """Input -> tokens of a sequence of it."""
        parts = self.parts
        found = {name: part.rows for part in parts for name in (*part.tables, part.given)}
        found |= {name: value.shape[1] for name, value in self.fixed.items()}
        return found | ({self.mask: parts[self.masked].rows} if self.mask is not None else {})

    @property
    def rowwise(self) -> bool:
        """Whether nothing mixes rows."""
        return self.given is not None and self.given.rowwise

    def inputs_info(self, _: Machine) -> InputsInfo:
        shapes = {name: (self.batch, *dims) for name, dims in self.unread.items()}
        for part in self.more:
            if part.given:
                shapes[part.given] = (self.batch, *(part.shape or (part.rows, part.features)))
        if self.given is not None:
            shapes[self.given.input] = self.given.shape
        tokens = self._lengths()
        return {
            name: (shapes[name] if name in shapes else (self.batch, tokens[name]), np.dtype(kind))
            for name, kind in self.inputs.items()
        }

    def check_inputs(self, m: Machine, inputs: Inputs) -> Values:
        """As `Stages.check_inputs`; ids outside their table and padding where none is taken are refused too."""
        found, rows = checked(inputs, self.inputs_info(m)), {part.given for part in self.parts}
        for name, value in found.items():
            kind = self.inputs[name]
            if name in self.unread:
                continue
            if name in rows:
                found[name] = cast(name, value, np.dtype(kind))
                continue
            if value.dtype.kind not in "fiub" or not np.isfinite(value).all() or (value != np.trunc(value)).any():
                raise BadInput(f"input {name!r} holds values that are no {kind}", "input", f"{kind} values")
            if name in self.tables:
                count = len(self.tables[name])
                if value.min() < -count or value.max() >= count:
                    raise BadInput(f"input {name!r} holds ids outside 0 to {count - 1}", "input", "check the tokenizer")
                found[name] = value.astype(np.int64) % count
            elif name in self.fixed and (value != self.fixed[name]).any():
                what = "ones: padding is not taken" if (self.fixed[name] == 1).all() else "what it was compiled for"
                first = self.fixed[name][0, :4].tolist()
                raise BadInput(f"input {name!r} must be {what}", "input", f"the first values are {first}")
            elif name == self.mask and not (value != 0).any(axis=1).all():
                raise BadInput(f"input {name!r} has a row without a token", "input", "at least one 1 in every row")
            elif name == self.mask:
                self._check_padding(name, value != 0)
        return found

    def _check_padding(self, name: str, tokens: npt.NDArray[np.bool_]) -> None:
        """Refuse tokens [batch, rows] that would come to other places than attention's biases and rotations have them at."""
        first, count = tokens.argmax(axis=1), tokens.sum(axis=1)
        last = tokens.shape[1] - tokens[:, ::-1].argmax(axis=1)
        if self.padding is not Padding.ANYWHERE and (last - first != count).any():
            raise BadInput(f"input {name!r} has padding between tokens", "input", "positions count here: tokens side by side")
        if self.padding is Padding.BEHIND and first.any():
            raise BadInput(f"input {name!r} has padding before tokens", "input", "positions count here: tokens first")

    def random_inputs(self, m: Machine, rng: np.random.Generator) -> Values:
        """Ids that index their tables, no padding; rows within the range that calibration saw."""
        fractions = {part.given: part.input_fraction for part in self.parts}

        def values(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            if name in self.tables:
                return rng.integers(0, len(self.tables[name]), shape)
            if name in fractions:
                top = seen(fractions[name])
                return np.clip(rng.normal(0, top / 4, shape), -top, top)
            return np.broadcast_to(self.fixed.get(name, np.array(1)), shape)

        return {name: values(name, shape).astype(dtype) for name, (shape, dtype) in self.inputs_info(m).items()}

    def summary(self, m: Machine) -> str:
        return f"{m.functions[0].size // INSTRUCTION_BYTES} instructions, {len(m.image) / 1024:.0f} KiB of weights"

    def prove(self, m: Machine) -> None:
        """Make the first rows of random inputs, and lay out the memory of a start."""
        next(self._starts(m, self.random_inputs(m, np.random.default_rng(0)), None))

    def sequence(self, m: Machine, engine: Engine, adapter: str | None, shared: bool = False) -> NoReturn:
        no_sequence()

    def new_batch(self, m: Machine, engine: Engine) -> NoReturn:
        no_sequence()

    def run(self, m: Machine, engine: Engine, inputs: Inputs, adapter: AdapterChoice, progress: Progress | None) -> Run:
        given = self.check_inputs(m, inputs)
        (function,) = m.functions
        wanted, written = [m.regions[f"output {n}"] for n in sorted({r.region for r in self.results})], list(m.regions.values())
        lefts: list[Left] = []
        found: dict[str, list[Int64]] = {r.name: [] for r in self.results}
        count = -(-self.given.rows // self.context) if self.given is not None and self.given.rowwise else self.batch
        for n, begun in enumerate(self._starts(m, given, adapter)):
            lefts.append(engine.start(m.target, Start(function, begun.memory, begun.registers, wanted, written)))
            for r in self.results:
                values = self.read(m, lefts[-1].memory, f"output {r.region}", r.rows, r.words)[:, : r.width]
                back = np.empty_like(values)
                ordered = r.stream < len(begun.orders) and r.rows == len(begun.orders[r.stream])
                back[begun.orders[r.stream] if ordered else slice(None)] = values
                found[r.name].append(back)
            if progress is not None:
                progress(n + 1, count)
        codes = {r.name: np.concatenate(found[r.name])[: self._rows(r)] for r in self.results}
        outputs = {r.name: self._output(r, codes[r.name]) for r in self.results}
        layers = self.layers(m, [(function, left) for left in lefts])
        return run_of(m, engine, outputs, codes, lefts, layers, self.saturated(given))

    def rows(self, values: Values) -> tuple[Int64, Int64, int]:
        """Rows of the first stream of one sequence in fixed point, the places of their tokens, and how many are no padding.

        Args:
            values: input -> [tokens].
        """
        return self.first_rows(values)[0]

    def first_rows(self, values: Values, changes: RowsOf | None = None) -> list[tuple[Int64, Int64, int]]:
        """As `rows`, of every stream, with an adapter's changes of the rows that inputs pick."""
        found, values = [], {**values, **{name: own.of(values[own.input]) for name, own in self.counted.items()}}
        for n, part in enumerate(self.parts):
            mask = values[self.mask] if self.mask is not None and n == self.masked else None
            order, keys = order_of(mask, part.rows)
            positions = self.more_positions.get(str(n)) if n else self.positions
            if part.given:
                own = RowInput(part.given, part.features, self.layouts.get(str(n)))
                rows = to_fixed(own.rows(values[part.given]), part.input_fraction)
            else:
                rows = self.picked(values, part.tables, positions, part.input_fraction, changes or {})
            found.append((rows[order], order, keys))
        return found

    def given_rows(self, given: Given, values: Values) -> Int64:
        """Given rows in fixed point; what is beyond its 32 bits is clamped."""
        return to_fixed(values[given.input].reshape(-1, given.features), self.input_fraction)

    def saturated(self, values: Values) -> int:
        """Elements of given rows at the ends of the fixed point's range: 8 to 16 times the largest that calibration saw."""
        given = [(values[part.given], part.input_fraction) for part in self.parts if part.given]
        return sum(int((np.abs(to_fixed(value, fraction)) == SAT32).sum()) for value, fraction in given)

    def _starts(self, m: Machine, values: Values, adapter: AdapterChoice) -> Iterator[_Begun]:
        """What each start of a run begins with.

        Raises:
            BadAdapter: as `Machine.adapters_of`.
        """
        if self.given is not None and self.given.rowwise:
            yield from self._batch(m, self.given, values, adapter)
            return
        for n, name in enumerate(m.adapters_of(adapter, self.batch)):
            yield self._begin(m, {key: value[n] for key, value in values.items()}, name)

    def _batch(self, m: Machine, given: Given, values: Values, adapter: AdapterChoice) -> Iterator[_Begun]:
        """The rows of a batch, `context` a start; what the last start has more is rows of zeros without an adapter."""
        used, _ = m.slot_of(adapter)
        own = [1 + used.index(name) if name in used else 0 for name in m.adapters_of(adapter, self.batch)]
        rows, slots = self.given_rows(given, values), np.repeat(own, given.rows // self.batch)
        for first in range(0, given.rows, self.context):
            part, memory = slice(first, first + self.context), m.memory()
            m.put(memory, "token words", token_words(slots[part]))
            self.put(m, memory, rows[part])
            yield _Begun(memory, m.registers(memory, used), (np.arange(self.context),))

    def _begin(self, m: Machine, values: Values, adapter: str | None) -> _Begun:
        """What the start of one sequence begins with.

        Args:
            values: input -> [tokens].
        """
        parts = self.first_rows(values, m.rows_of(adapter))
        memory, registers = self.begin(m, adapter)
        for n, (part, (rows, order, keys)) in enumerate(zip(self.parts, parts, strict=True)):
            own = f" {n}" if n else ""
            self.put(m, memory, rows, f"input{own}", part.input_words)
            self._weigh(m, memory, own, len(order), keys)
        for n, rows_made in enumerate(self.made, len(parts)):
            self._weigh(m, memory, f" {n}", rows_made, rows_made)
        places = position_registers(m.target, 0, parts[self.masked][2], self.dim, self.half, self.context)
        return _Begun(memory, {int(k): v for k, v in places.items()} | registers, tuple(order for _, order, _ in parts))

    def _weigh(self, m: Machine, memory: Bytes, stream: str, rows: int, keys: int) -> None:
        """What a mean over the rows of a stream reads, if there is one: 1 for rows that are no padding, and their number."""
        if f"row weights{stream}" in m.regions:
            weights = np.zeros((rows, m.regions[f"row count{stream}"][1] // 4), "<i4")
            weights[:keys, 0] = 1
            m.put(memory, f"row weights{stream}", weights.tobytes())
            m.put(memory, f"row count{stream}", np.array([keys], "<i4").tobytes())

    def _rows(self, r: Result) -> int:
        """Rows of a result for the whole batch."""
        return self.given.rows if self.given is not None and self.given.rowwise else r.rows * self.batch

    def _output(self, r: Result, rows: Int64) -> npt.NDArray[np.float32]:
        """An output from integers [rows of the batch, width]."""
        apart = 1 if self.rowwise else self.batch
        values = np.ldexp(rows.astype(np.float64), -r.fraction).astype(np.float32).reshape(apart, -1)
        values = values[:, self.indices[r.name].reshape(-1)] if r.picked else values
        return values.reshape(apart * r.shape[0], *r.shape[1:])

    def validate(self, c: Check) -> None:
        t = c.t
        regions = {f"output {r.region}": r.words * t.vector_word_bytes * r.rows for r in self.results}
        c.within(self.batch, 1, 1 << 15, "batch")
        c.need([f.rows for f in c.m.functions] == [self.context], "functions", len(c.m.functions), "one, for the context")
        rows = [part.given for part in self.parts if part.given]
        c.within(self.masked, 0, len(self.more), "masked")
        for n, rows_made in enumerate(self.made):
            c.within(rows_made, 1, FILE_LIMIT, f"made[{n}]")
            self._check_weights(c, len(self.parts) + n, rows_made)
        laid_out = [str(n) for n, part in enumerate(self.parts) if part.shape]
        c.need(sorted(self.layouts) == sorted(laid_out), "layouts", list(self.layouts), "those of streams that need one")
        for n, part in enumerate(self.parts):
            if part.shape:
                size = math.prod(part.shape)
                c.need(min(part.shape) > 0 and size <= FILE_LIMIT, f"shape of stream {n}", part.shape, "sizes")
                wanted, index = (part.rows, part.features), self.layouts[str(n)]
                c.array(f"layout {n}", index, "i8", wanted)
                c.need(index.min() >= -1 and index.max() < size, f"layout {n}", index.max(), f"-1 to {size - 1}")
        c.named(list(self.counted), list(self.tables), "counted")
        own = [name for name in self.tables if name not in self.counted]
        for name, counted in self.counted.items():
            c.named([counted.input], own, f"ids of {name!r}")
            most = len(self.tables[name]) - 1 - self._lengths()[counted.input]
            c.within(counted.first, 0, most, f"counted[{name!r}].first")
        c.named([*own, *self.fixed, *([self.mask] if self.mask else []), *rows], self.inputs, "inputs")
        for name, kind in self.inputs.items():
            types = _FLOATS if name in rows else (*_FLOATS, *_TYPES) if name in self.unread else _TYPES
            c.need(kind in types, f"type of input {name!r}", kind, f"one of {', '.join(types)}")
        c.named(list(self.unread), self.inputs, "unread")
        for name, dims in self.unread.items():
            c.need(all(d > 0 for d in dims) and math.prod(dims) <= FILE_LIMIT, f"shape of input {name!r}", dims, "sizes")
        for name, value in self.fixed.items():
            c.within(value.size, 1, FILE_LIMIT, f"size of fixed input {name!r}")
            c.array(f"fixed input {name!r}", value, value.dtype.str, (1, value.size))
        c.need(bool(self.results), "results", "empty", "one or more")
        c.unique([r.name for r in self.results], "results")
        if self.given is not None:
            self._check_given(c, self.given)
        for n, r in enumerate(self.results):
            self._check_result(c, r, f"results[{n}]")
        features = None if self.given is None else self.given.features
        for n, part in enumerate(self.more, 1):
            self._check_part(c, n, part)
        c.named(list(self.more_positions), [str(n) for n, part in enumerate(self.more, 1) if part.tables], "more_positions")
        self.check_rows(c, regions, features, SLOTS if self.rowwise else 1, self.parts[0].tables)

    @staticmethod
    def _check_weights(c: Check, n: int, rows: int) -> None:
        for name, size in (("row weights", 4 * rows), ("row count", 4)):
            if f"{name} {n}" in c.m.regions:
                c.region(f"{name} {n}", size)

    def _check_part(self, c: Check, n: int, part: Part) -> None:
        c.within(part.rows, 1, FILE_LIMIT, f"rows of stream {n}")
        c.within(part.input_words, 1, FILE_LIMIT, f"input_words of stream {n}")
        c.within(part.input_fraction, -62, 62, f"input_fraction of stream {n}")
        c.region(f"input {n}", part.input_words * c.t.vector_word_bytes * part.rows)
        self._check_weights(c, n, part.rows)
        if part.given:
            c.need(not part.tables, f"tables of stream {n}", part.tables, "none: rows are given")
            c.within(part.features, 1, part.input_words * c.t.vector_lanes, f"features of stream {n}")
        else:
            c.named(list(part.tables), list(self.tables), f"tables of stream {n}")
            self.check_tables(c, part.tables, self.more_positions.get(str(n)), part.rows, part.input_words)

    def _check_given(self, c: Check, given: Given) -> None:
        c.within(given.features, 1, FILE_LIMIT, "given.features")
        size = math.prod(given.shape)
        c.need(bool(given.shape) and min(given.shape) > 0 and size <= FILE_LIMIT, "given.shape", given.shape, "sizes")
        if given.laid_out:
            c.need(not given.rowwise and given.shape[0] == self.batch, "given.shape", given.shape, f"{self.batch} first")
            return
        c.need(size % given.features == 0, "given.shape", given.shape, f"rows of {given.features}")
        if given.rowwise:
            c.need(given.shape[0] == self.batch, "given.shape", given.shape, f"{self.batch} first")
            c.need(given.rows % self.batch == 0, "given.shape", given.shape, "whole rows for each of the batch")
            c.need(self.mask is None, "mask", self.mask, "none: nothing mixes rows")
            c.region("token words", 4 * self.context)
        else:
            wanted = (self.batch, self.context, given.features)
            c.need(given.shape == wanted, "given.shape", given.shape, str(wanted))

    def _check_result(self, c: Check, r: Result, field: str) -> None:
        rows = self.given.rows if self.given is not None and self.given.rowwise else r.rows
        size, whole = int(np.prod([max(0, n) for n in r.shape], dtype=np.int64)), rows * r.width
        lengths = [*(part.rows for part in self.parts), *self.made]
        c.within(r.stream, 0, len(lengths) - 1, f"{field}.stream")
        taken = (self.context,) if self.rowwise else (1, lengths[r.stream])
        c.need(r.rows in taken, f"{field}.rows", r.rows, " or ".join(map(str, taken)))
        c.within(r.width, 1, r.words * c.t.vector_lanes, f"{field}.width")
        c.within(r.fraction, -62, 62, f"{field}.fraction")
        c.need(bool(r.shape) and (self.rowwise or r.shape[0] == 1), f"{field}.shape", r.shape, "1 first")
        if r.picked:
            index = self.indices.get(r.name, np.zeros(0, np.int64)).reshape(-1)
            c.array(f"index of {field}", index, "i8", (size,), lambda v: bool(((v >= 0) & (v < whole)).all()))
        else:
            c.need(size == whole, f"{field}.shape", r.shape, f"{rows} x {r.width} elements")
