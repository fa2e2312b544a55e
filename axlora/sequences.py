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

from axlora.compiler.operators import Padding
from axlora.compiler.pipelines.samples import order_of
from axlora.compiler.rows.formulas import seen
from axlora.isa.numerics import SAT32, to_fixed
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS
from axlora.isa.positions import position_registers
from axlora.isa.regions import token_words

from .choice import AdapterChoice
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


@dataclass(frozen=True)
class Given:
    """The input of floats that is the first rows, its elements in order."""

    input: str
    shape: tuple[int, ...]
    """Of the whole batch."""
    features: int
    rowwise: bool
    """Whether nothing mixes rows; else they are sequences, [batch, context, features]."""

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return int(np.prod(self.shape, dtype=np.int64)) // self.features


_FLOATS = ("float16", "float32", "float64")
_TYPES = ("int8", "int16", "int32", "int64", "uint8", "bool", "float32")


@dataclass(frozen=True)
class _Begun:
    """What a start begins with."""

    memory: Bytes
    registers: dict[int, int]
    order: Int64
    """Places of the sequence in the order of the rows."""


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

    @property
    def rowwise(self) -> bool:
        """Whether nothing mixes rows."""
        return self.given is not None and self.given.rowwise

    def inputs_info(self, _: Machine) -> InputsInfo:
        shapes = {name: (self.batch, *dims) for name, dims in self.unread.items()}
        if self.given is not None:
            shapes[self.given.input] = self.given.shape
        return {name: (shapes.get(name, (self.batch, self.context)), np.dtype(kind)) for name, kind in self.inputs.items()}

    def check_inputs(self, m: Machine, inputs: Inputs) -> Values:
        """As `Stages.check_inputs`; ids outside their table and padding where none is taken are refused too."""
        found = checked(inputs, self.inputs_info(m))
        for name, value in found.items():
            kind = self.inputs[name]
            if name in self.unread:
                continue
            if self.given is not None and name == self.given.input:
                found[name] = cast(name, value, np.dtype(kind))
                continue
            if value.dtype.kind not in "fiub" or not np.isfinite(value).all() or (value != np.trunc(value)).any():
                raise BadInput(f"input {name!r} holds values that are no {kind}", "input", f"{kind} values")
            if name in self.tables:
                rows = len(self.tables[name])
                if value.min() < -rows or value.max() >= rows:
                    raise BadInput(f"input {name!r} holds ids outside 0 to {rows - 1}", "input", "check the tokenizer")
                found[name] = value.astype(np.int64) % rows
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
        """Refuse tokens [batch, context] that would come to other places than attention's biases and rotations have them at."""
        first, count = tokens.argmax(axis=1), tokens.sum(axis=1)
        last = self.context - tokens[:, ::-1].argmax(axis=1)
        if self.padding is not Padding.ANYWHERE and (last - first != count).any():
            raise BadInput(f"input {name!r} has padding between tokens", "input", "positions count here: tokens side by side")
        if self.padding is Padding.BEHIND and first.any():
            raise BadInput(f"input {name!r} has padding before tokens", "input", "positions count here: tokens first")

    def random_inputs(self, m: Machine, rng: np.random.Generator) -> Values:
        """Ids that index their tables, no padding; rows within the range that calibration saw."""

        def values(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            if name in self.tables:
                return rng.integers(0, len(self.tables[name]), shape)
            if self.given is not None and name == self.given.input:
                top = seen(self.input_fraction)
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
        count = -(-self.given.rows // self.context) if self.given is not None else self.batch
        for n, begun in enumerate(self._starts(m, given, adapter)):
            lefts.append(engine.start(m.target, Start(function, begun.memory, begun.registers, wanted, written)))
            for r in self.results:
                values = self.read(m, lefts[-1].memory, f"output {r.region}", r.rows, r.words)[:, : r.width]
                back = np.empty_like(values)
                back[begun.order if r.rows == self.context else slice(None)] = values
                found[r.name].append(back)
            if progress is not None:
                progress(n + 1, count)
        codes = {r.name: np.concatenate(found[r.name])[: self._rows(r)] for r in self.results}
        outputs = {r.name: self._output(r, codes[r.name]) for r in self.results}
        layers = self.layers(m, [(function, left) for left in lefts])
        return run_of(m, engine, outputs, codes, lefts, layers, self.saturated(given))

    def rows(self, values: Values) -> tuple[Int64, Int64, int]:
        """Rows of one sequence in fixed point, the places of their tokens, and how many are no padding.

        Args:
            values: input -> [context].
        """
        order, keys = order_of(values[self.mask] if self.mask else None, self.context)
        return (self.embed(values) if self.given is None else self.given_rows(self.given, values))[order], order, keys

    def given_rows(self, given: Given, values: Values) -> Int64:
        """Given rows in fixed point; what is beyond its 32 bits is clamped."""
        return to_fixed(values[given.input].reshape(-1, given.features), self.input_fraction)

    def saturated(self, values: Values) -> int:
        """Elements of given rows at the ends of the fixed point's range: 8 to 16 times the largest that calibration saw."""
        return 0 if self.given is None else int((np.abs(self.given_rows(self.given, values)) == SAT32).sum())

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
        own = [0 if name is None else 1 + used.index(name) for name in m.adapters_of(adapter, self.batch)]
        rows, slots = self.given_rows(given, values), np.repeat(own, given.rows // self.batch)
        for first in range(0, given.rows, self.context):
            part, memory = slice(first, first + self.context), m.memory()
            m.put(memory, "token words", token_words(slots[part]))
            self.put(m, memory, rows[part])
            yield _Begun(memory, m.registers(used), np.arange(self.context))

    def _begin(self, m: Machine, values: Values, adapter: str | None) -> _Begun:
        """What the start of one sequence begins with.

        Args:
            values: input -> [context].
        """
        rows, order, keys = self.rows(values)
        memory, registers = self.begin(m, adapter)
        self.put(m, memory, rows)
        if "row weights" in m.regions:
            weights = np.zeros((self.context, m.regions["row count"][1] // 4), "<i4")
            weights[:keys, 0] = 1
            m.put(memory, "row weights", weights.tobytes())
            m.put(memory, "row count", np.array([keys], "<i4").tobytes())
        places = position_registers(m.target, 0, keys, self.dim, self.half, self.context)
        return _Begun(memory, {int(k): v for k, v in places.items()} | registers, order)

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
        rows = [] if self.given is None else [self.given.input]
        c.named([*self.tables, *self.fixed, *([self.mask] if self.mask else []), *rows], self.inputs, "inputs")
        for name, kind in self.inputs.items():
            types = _FLOATS if name in rows else (*_FLOATS, *_TYPES) if name in self.unread else _TYPES
            c.need(kind in types, f"type of input {name!r}", kind, f"one of {', '.join(types)}")
        c.named(list(self.unread), self.inputs, "unread")
        for name, dims in self.unread.items():
            c.need(all(d > 0 for d in dims) and math.prod(dims) <= FILE_LIMIT, f"shape of input {name!r}", dims, "sizes")
        for name, value in self.fixed.items():
            c.array(f"fixed input {name!r}", value, value.dtype.str, (1, self.context))
        c.need(bool(self.results), "results", "empty", "one or more")
        c.unique([r.name for r in self.results], "results")
        if self.given is not None:
            self._check_given(c, self.given)
        for n, r in enumerate(self.results):
            self._check_result(c, r, f"results[{n}]")
        features = None if self.given is None else self.given.features
        self.check_rows(c, regions, features, SLOTS if self.rowwise else 1)

    def _check_given(self, c: Check, given: Given) -> None:
        c.within(given.features, 1, FILE_LIMIT, "given.features")
        size = math.prod(given.shape)
        c.need(bool(given.shape) and min(given.shape) > 0 and size <= FILE_LIMIT, "given.shape", given.shape, "sizes")
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
        taken = (self.context,) if self.rowwise else (1, self.context)
        c.need(r.rows in taken, f"{field}.rows", r.rows, " or ".join(map(str, taken)))
        c.within(r.width, 1, r.words * c.t.vector_lanes, f"{field}.width")
        c.within(r.fraction, -62, 62, f"{field}.fraction")
        c.need(bool(r.shape) and (self.rowwise or r.shape[0] == 1), f"{field}.shape", r.shape, "1 first")
        if r.picked:
            index = self.indices.get(r.name, np.zeros(0, np.int64)).reshape(-1)
            c.array(f"index of {field}", index, "i8", (size,), lambda v: bool(((v >= 0) & (v < whole)).all()))
        else:
            c.need(size == whole, f"{field}.shape", r.shape, f"{rows} x {r.width} elements")
