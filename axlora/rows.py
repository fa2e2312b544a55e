"""Models on the machine from their first rows on: what whole sequences, batches of rows and language models have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.embeddings import Table, of_array
from axlora.compiler.pipelines.options import MOST_CONTEXT
from axlora.isa.numerics import to_fixed
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.regions import token_words

from .engines import Left
from .layer_counters import Operator, added, marks, operator_shares
from .machine import Bytes, Function, Int64, Machine
from .run import Layer
from .validate import FILE_LIMIT, Check

EXECUTED = 64
"""Most times that a start executes each instruction of a program, on average; loops of groups of rows repeat about 16 times."""
_FRACTION = 62
"""Largest of bits behind a binary point, either way."""
_OPERATORS = 1 << 20


@dataclass(frozen=True)
class Rows:
    """What models of rows have in common."""

    context: int
    """Most tokens of a sequence, or rows of a start where nothing mixes rows."""
    dim: int
    """Features of a head."""
    half: int
    """Elements of a row of the tables by position; 0 without."""
    input_fraction: int
    input_words: int
    """Of a row of the region `input`."""
    tables: dict[str, npt.NDArray[np.float32]]
    """Input of ids -> [ids, features]; the rows add up. Empty where rows are given."""
    positions: npt.NDArray[np.float32] | None
    """[context, features], added to the rows."""
    operators: tuple[Operator, ...]
    owners: dict[str, npt.NDArray[np.int32]]
    """Function -> operator of each of its instructions."""

    def embeddings(self, _: Machine) -> tuple[Table, ...]:
        return tuple(of_array(table) for table in self.tables.values())

    def marks(self, m: Machine, number: int) -> dict[int, str]:
        return marks([o.name for o in self.operators], self.owners[m.functions[number].name])

    def embed(self, ids: Mapping[str, Sequence[int] | npt.NDArray[Any]], first: int = 0) -> Int64:
        """Rows [tokens, features] in fixed point of tokens at positions `first` ...; `ids` by input."""
        return self.picked(
            ids, list(self.tables), None if self.positions is None else self.positions[first:], self.input_fraction
        )

    def picked(
        self,
        ids: Mapping[str, Sequence[int] | npt.NDArray[Any]],
        names: Sequence[str],
        positions: npt.NDArray[np.float32] | None,
        fraction: int,
    ) -> Int64:
        """The sum of rows of these inputs' tables and, from the first on, of positions, in fixed point."""
        rows = np.sum([self.tables[name][list(ids[name])].astype(np.float64) for name in names], axis=0)
        return to_fixed(rows + (0.0 if positions is None else positions[: len(rows)]), fraction)

    def begin(self, m: Machine, adapter: str | None) -> tuple[Bytes, dict[int, int]]:
        """Memory and registers before the first start of a sequence."""
        memory = m.memory()
        count = m.regions["token words"][1] // 4
        m.put(memory, "token words", token_words(np.full(count, int(adapter is not None))))
        return memory, m.registers(memory, [] if adapter is None else [adapter])

    def put(self, m: Machine, memory: Bytes, rows: Int64, region: str = "input", words: int | None = None) -> None:
        """Rows in fixed point into a region of first rows, `words` of memory each."""
        padded = np.zeros((len(rows), (words or self.input_words) * m.target.vector_lanes), "<i4")
        padded[:, : rows.shape[1]] = rows
        m.put(memory, region, padded.tobytes())

    def read(self, m: Machine, memory: Bytes, region: str, rows: int, words: int) -> Int64:
        """Rows of a result [rows, padded features]."""
        address, width = m.regions[region][0], words * m.target.vector_lanes
        return memory[address : address + 4 * width * rows].view("<i4").reshape(rows, width).astype(np.int64)

    def layers(self, m: Machine, starts: Sequence[tuple[Function, Left]]) -> tuple[Layer, ...]:
        """What each operator had of the starts; empty where the engine does not tell."""
        return added(
            [
                operator_shares(m, f, self.operators, self.owners[f.name], left.trace, left.counters["cycles"])
                for f, left in starts
                if left.trace is not None
            ]
        )

    def check_rows(
        self,
        c: Check,
        outputs: Mapping[str, int],
        features: int | None = None,
        slots: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        """What models of rows are checked for: regions, tables, linears, functions, operators of their instructions.

        Args:
            outputs: region of a result -> bytes that the rows of a start take.
            features: of rows that are given; None: the tables' rows are the first.
            slots: most adapters in a start.
            names: of the tables that the first rows are picked from; None: of all.
        """
        m, t = c.m, c.t
        c.need(m.host is None, "host", "there", "null: nothing of the model runs there")
        c.within(m.slots, 0, slots, "slots")
        c.within(self.context, 1, MOST_CONTEXT, "context")
        for name in ("dim", "half", "input_words"):
            c.within(getattr(self, name), 0, FILE_LIMIT, name)
        c.within(self.input_fraction, -_FRACTION, _FRACTION, "input_fraction")
        rows = max(f.rows for f in m.functions)
        c.within(rows, 1, max(t.tokens, self.context), "functions: rows")
        c.region("input", self.input_words * t.vector_word_bytes * rows)
        for name, size in outputs.items():
            c.region(name, size)
        for name in ("row weights", "row count"):
            if name in m.regions:
                c.region(name, 4 * (self.context if name == "row weights" else 1))
        if features is None:
            self.check_tables(c, list(self.tables) if names is None else names, self.positions, self.context, self.input_words)
        else:
            c.need(not (self.tables if names is None else names), "tables", list(self.tables), "none: rows are given")
            c.need(self.positions is None, "positions", "there", "none: rows are given")
            c.within(features, 1, self.input_words * t.vector_lanes, "features of the rows")
        for number, info in enumerate(m.layers):
            wanted = {"output_bits": 32, "offset_rows": 0, "bias_end": info.token_scale}
            c.layer(info, f"layers[{number}]", t.tokens, wanted)
            c.within(info.x_bits, t.activation_bits if info.token_scale else 8, t.activation_bits, f"layers[{number}].x_bits")
            step = "bias_step" if info.token_scale else "y_scale"
            c.need(getattr(info, step) > 0, f"layers[{number}].{step}", getattr(info, step), "positive")
        c.tiles()
        c.adapters()
        c.vectors()
        c.within(len(self.operators), 1, _OPERATORS, "number of operators")
        c.owners(self.owners, [len(self.operators)] * len(m.functions))
        for f in m.functions:
            c.ends(f, EXECUTED * (f.size // INSTRUCTION_BYTES))

    def check_tables(
        self, c: Check, names: Sequence[str], positions: npt.NDArray[np.float32] | None, context: int, words: int
    ) -> None:
        """Tables from which first rows are picked, and what is added to `context` of them; `words` of memory each."""
        c.need(bool(names), "tables", "empty", "one or more")
        tables = {name: self.tables[name] for name in names}
        width = min(table.shape[-1] if table.ndim else 0 for table in tables.values())
        c.within(width, 1, words * c.t.vector_lanes, "features of the tables")
        for name, table in tables.items():
            c.array(f"table {name}", table, "f4", (max(1, len(table) if table.ndim else 0), width))
        if positions is not None:
            c.array("positions", positions, "f4", (context, width))
