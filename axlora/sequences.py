"""Models of whole sequences: one start takes a sequence from its rows of embeddings to the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from axlora.compiler.pipelines.transformers import order_of
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.positions import position_registers

from .choice import AdapterChoice
from .engines import Engine, Left, Progress, Start
from .inputs import BadInput, Inputs, InputsInfo, Kind, Values, checked, no_sequence
from .machine import Bytes, Int64, Machine
from .rows import Rows
from .run import Run, run_of
from .validate import Check


@dataclass(frozen=True)
class Result:
    """An output of the model: where its rows lie, and what they stand for."""

    name: str
    shape: tuple[int, ...]
    """Of one sequence: the first dimension is 1."""
    region: int
    """Number of the region `output N` that holds it."""
    rows: int
    """Of a sequence."""
    width: int
    """Features of a row."""
    words: int
    """Of a row in memory."""
    fraction: int
    """value = integer / 2**fraction."""
    picked: bool
    """Only some elements, or in another order: `Sequences.indices` says which."""


_TYPES = ("int8", "int16", "int32", "int64", "uint8", "bool", "float32")


@dataclass(frozen=True)
class Sequences(Rows):
    """One function takes a sequence from its rows to the outputs; the sequences of a batch are starts of their own."""

    kind: ClassVar[Kind] = Kind.WHOLE
    batch: int
    inputs: dict[str, str]
    """The model's inputs, each [batch, context]: name -> NumPy type."""
    mask: str | None
    """The input that tells tokens (not 0) from padding (0)."""
    fixed: dict[str, npt.NDArray[Any]]
    """Input -> [1, context]: the only values that it may hold."""
    results: tuple[Result, ...]
    indices: dict[str, npt.NDArray[np.int64]]

    def inputs_info(self, _: Machine) -> InputsInfo:
        return {name: ((self.batch, self.context), np.dtype(kind)) for name, kind in self.inputs.items()}

    def check_inputs(self, m: Machine, inputs: Inputs) -> Values:
        """As `Stages.check_inputs`; ids outside their table and padding where none is taken are refused too."""
        found = checked(inputs, self.inputs_info(m))
        for name, value in found.items():
            kind = self.inputs[name]
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
        return found

    def random_inputs(self, m: Machine, rng: np.random.Generator) -> Values:
        """Ids that index their tables, no padding."""

        def values(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            if name in self.tables:
                return rng.integers(0, len(self.tables[name]), shape)
            return np.broadcast_to(self.fixed.get(name, np.array(1)), shape)

        return {name: values(name, shape).astype(dtype) for name, (shape, dtype) in self.inputs_info(m).items()}

    def summary(self, m: Machine) -> str:
        return f"{m.functions[0].size // INSTRUCTION_BYTES} instructions, {len(m.image) / 1024:.0f} KiB of weights"

    def prove(self, m: Machine) -> None:
        """Pick the rows of embeddings of random inputs, and lay out the memory of a run."""
        values = self.random_inputs(m, np.random.default_rng(0))
        self._begin(m, {name: value[0] for name, value in values.items()}, None)

    def sequence(self, m: Machine, engine: Engine, adapter: str | None, shared: bool = False) -> NoReturn:
        no_sequence()

    def run(self, m: Machine, engine: Engine, inputs: Inputs, adapter: AdapterChoice, progress: Progress | None) -> Run:
        given = self.check_inputs(m, inputs)
        names, (function,) = m.adapters_of(adapter, self.batch), m.functions
        wanted, written = [m.regions[f"output {n}"] for n in sorted({r.region for r in self.results})], list(m.regions.values())
        lefts: list[Left] = []
        found: dict[str, list[Int64]] = {r.name: [] for r in self.results}
        for n, name in enumerate(names):
            memory, registers, order = self._begin(m, {key: value[n] for key, value in given.items()}, name)
            lefts.append(engine.start(m.target, Start(function, memory, registers, wanted, written)))
            for r in self.results:
                values = self.read(m, lefts[-1].memory, f"output {r.region}", r.rows, r.words)[:, : r.width]
                back = np.empty_like(values)
                back[order if r.rows == self.context else slice(None)] = values
                found[r.name].append(back)
            if progress is not None:
                progress(n + 1, len(names))
        outputs = {r.name: self._output(r, np.stack(found[r.name])) for r in self.results}
        codes = {key: np.concatenate(value) for key, value in found.items()}
        return run_of(m, engine, outputs, codes, lefts, self.layers(m, [(function, left) for left in lefts]))

    def rows(self, values: Values) -> tuple[Int64, Int64, int]:
        """Rows of one sequence in fixed point, the places of their tokens, and how many are no padding.

        Args:
            values: input -> [context].
        """
        order, keys = order_of(values[self.mask] if self.mask else None, self.context)
        return self.embed(values)[order], order, keys

    def _begin(self, m: Machine, values: Values, adapter: str | None) -> tuple[Bytes, dict[int, int], Int64]:
        """Memory and registers before the start of one sequence, and the places of its tokens in the order of rows.

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
        places = position_registers(m.target, 0, keys, self.dim, self.half)
        return memory, {int(k): v for k, v in places.items()} | registers, order

    def _output(self, r: Result, rows: Int64) -> npt.NDArray[np.float32]:
        """An output from integers [batch, rows, width]."""
        values = np.ldexp(rows.astype(np.float64), -r.fraction).astype(np.float32).reshape(self.batch, -1)
        values = values[:, self.indices[r.name].reshape(-1)] if r.picked else values
        return values.reshape(self.batch, *r.shape[1:])

    def validate(self, c: Check) -> None:
        t = c.t
        regions = {f"output {r.region}": r.words * t.vector_word_bytes * r.rows for r in self.results}
        c.within(self.batch, 1, 1 << 15, "batch")
        c.need([f.rows for f in c.m.functions] == [self.context], "functions", len(c.m.functions), "one, for the context")
        c.named([*self.tables, *self.fixed, *([self.mask] if self.mask else [])], self.inputs, "inputs")
        for name, kind in self.inputs.items():
            c.need(kind in _TYPES, f"type of input {name!r}", kind, f"one of {', '.join(_TYPES)}")
        for name, value in self.fixed.items():
            c.array(f"fixed input {name!r}", value, value.dtype.str, (1, self.context))
        c.need(bool(self.results), "results", "empty", "one or more")
        c.unique([r.name for r in self.results], "results")
        for n, r in enumerate(self.results):
            self._check_result(c, r, f"results[{n}]")
        self.check_rows(c, regions)

    def _check_result(self, c: Check, r: Result, field: str) -> None:
        size, whole = int(np.prod([max(0, n) for n in r.shape], dtype=np.int64)), r.rows * r.width
        c.need(r.rows in (1, self.context), f"{field}.rows", r.rows, f"1 or {self.context}")
        c.within(r.width, 1, r.words * c.t.vector_lanes, f"{field}.width")
        c.within(r.fraction, -62, 62, f"{field}.fraction")
        c.need(bool(r.shape) and r.shape[0] == 1, f"{field}.shape", r.shape, "1 first")
        if r.picked:
            index = self.indices.get(r.name, np.zeros(0, np.int64)).reshape(-1)
            c.array(f"index of {field}", index, "i8", (size,), lambda v: bool(((v >= 0) & (v < whole)).all()))
        else:
            c.need(size == whole, f"{field}.shape", r.shape, f"{r.rows} x {r.width} elements")
