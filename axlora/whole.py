"""A compiled model that takes whole sequences from rows of embeddings to its outputs in one start of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.transformer.pipeline import order_of
from axlora.isa.numerics import to_fixed
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.positions import position_registers

from .choice import AdapterChoice, chosen
from .machine import Bytes, Int64, Machine, put
from .program import BadInput, Listed


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
    """Only some elements, or in another order: `Whole.indices` says which."""


@dataclass(frozen=True)
class Operator:
    """An operator of the model: what its instructions work for."""

    name: str
    kind: str
    error: float | None = None
    """See `axlora.run.Layer`."""


@dataclass(frozen=True)
class Whole(Machine):
    """A model of whole sequences for one target."""

    program: tuple[int, int]
    """(address, bytes)."""
    tokens: int
    batch: int
    inputs: dict[str, str]
    """The model's inputs, each [batch, tokens]: name -> NumPy type."""
    mask: str | None
    """The input that tells tokens (not 0) from padding (0)."""
    tables: dict[str, npt.NDArray[np.float32]]
    """Input -> [ids, features]; the rows add up."""
    fixed: dict[str, npt.NDArray[Any]]
    """Input -> [1, tokens]: the only values that it may hold."""
    results: tuple[Result, ...]
    indices: dict[str, Int64]
    operators: tuple[Operator, ...]
    owners: npt.NDArray[np.int32]
    """Operator of each instruction."""

    @property
    def summary(self) -> str:
        """Sizes, in words."""
        return f"{self.program[1] // INSTRUCTION_BYTES} instructions, {len(self.image) / 1024:.0f} KiB of weights"

    def listing(self) -> list[Listed]:
        """The program, for a disassembly."""
        first, size = self.program
        changes = np.flatnonzero(np.diff(self.owners, prepend=-1))
        return [("", self.image[first : first + size], {int(n): self.operators[self.owners[n]].name for n in changes})]

    @property
    def inputs_info(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Input -> (shape, type)."""
        return {name: ((self.batch, self.tokens), np.dtype(kind)) for name, kind in self.inputs.items()}

    def check_inputs(self, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """The inputs as integers [batch, tokens].

        Raises:
            BadInput: a name, shape, type or value that the model does not take.
        """
        for name in inputs:
            if name not in self.inputs:
                raise BadInput(f"no input {name!r}", "input", f"the model has: {', '.join(self.inputs)}")
        shape, found = (self.batch, self.tokens), {}
        for name, kind in self.inputs.items():
            if name not in inputs:
                raise BadInput(f"input {name!r} is missing", "input", f"shape {shape}, type {kind}")
            value = np.asarray(inputs[name])
            if value.shape != shape:
                raise BadInput(
                    f"input {name!r} has shape {value.shape}, compiled for {shape}", "input", "--shape at compile time sets it"
                )
            if value.dtype.kind not in "fiub" or not np.isfinite(value).all() or (value != np.trunc(value)).any():
                raise BadInput(f"input {name!r} holds values that are no {kind}", "input", f"{kind} values")
            found[name] = value
        for name, value in found.items():
            if name in self.tables:
                rows = len(self.tables[name])
                if value.min() < -rows or value.max() >= rows:
                    raise BadInput(f"input {name!r} holds ids outside 0 to {rows - 1}", "input", "check the tokenizer")
                found[name] = value.astype(np.int64) % rows
            elif name in self.fixed and (value != self.fixed[name]).any():
                what = "ones: padding is not taken" if (self.fixed[name] == 1).all() else "what it was compiled for"
                raise BadInput(
                    f"input {name!r} must be {what}", "input", f"the first values are {self.fixed[name][0, :4].tolist()}"
                )
            elif name == self.mask and not (value != 0).any(axis=1).all():
                raise BadInput(f"input {name!r} has a row without a token", "input", "at least one 1 in every row")
        return found

    def adapters_of(self, adapter: AdapterChoice) -> list[str | None]:
        """The adapter of each sequence.

        Raises:
            BadAdapter: no such adapter, more different ones than `max_loras`, or not one for each.
        """
        _, names = chosen(self.adapters, self.default_adapter, self.max_loras, adapter)
        if adapter is None or isinstance(adapter, str):
            names *= self.batch
        if len(names) != self.batch:
            raise BadAdapter(f"{len(names)} adapters named for {self.batch} batch rows", "adapter", "one, or one per batch row")
        return names

    def rows(self, values: Mapping[str, npt.NDArray[Any]]) -> tuple[Int64, Int64, int]:
        """Rows of embeddings of one sequence in fixed point, the places of their tokens, and how many are no padding.

        Args:
            values: input -> [tokens].
        """
        order, keys = order_of(values[self.mask] if self.mask else None, self.tokens)
        rows = np.zeros((self.tokens, next(iter(self.tables.values())).shape[1]), np.float64)
        for name, table in self.tables.items():
            rows += table[values[name]]
        if self.positions is not None:
            rows += self.positions
        return to_fixed(rows[order], self.input_fraction), order, keys

    def ready(self, values: Mapping[str, npt.NDArray[Any]], adapter: str | None) -> tuple[Bytes, dict[int, int], Int64]:
        """Memory and registers before the start of one sequence, and the places of its tokens in the order of rows.

        Args:
            values: input -> [tokens].
        """
        rows, order, keys = self.rows(values)
        memory, registers = self.memory(adapter, self.regions["token words"][1] // 4)
        self.put_rows(memory, rows)
        if "row weights" in self.regions:
            unit = self.regions["row count"][1] // 4
            weights = np.zeros((self.tokens, unit), "<i4")
            weights[:keys, 0] = 1
            put(memory, self.regions["row weights"][0], weights.tobytes())
            put(memory, self.regions["row count"][0], np.array([keys], "<i4").tobytes())
        places = position_registers(self.target, 0, keys, self.dim, self.half)
        return memory, {int(k): v for k, v in places.items()} | registers, order

    def outputs_of(self, rows: Mapping[str, Int64]) -> dict[str, npt.NDArray[np.float32]]:
        """The model's outputs from the rows of all sequences: name -> integers [batch, rows, width]."""
        out = {}
        for r in self.results:
            values = np.ldexp(rows[r.name].astype(np.float64), -r.fraction).astype(np.float32).reshape(self.batch, -1)
            values = values[:, self.indices[r.name].reshape(-1)] if r.picked else values
            out[r.name] = values.reshape(self.batch, *r.shape[1:])
        return out
