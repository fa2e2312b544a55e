"""Models on the machine from their first rows on: what whole sequences, batches of rows and language models have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadAdapter
from axlora.compiler.frontend.embeddings import Table, of_array
from axlora.compiler.pipelines.options import MOST_CONTEXT
from axlora.compiler.row_changes import PART, TableChanges, TableInfo
from axlora.isa.numerics import SAT32, to_fixed
from axlora.isa.opcodes import INSTRUCTION_BYTES
from axlora.isa.regions import token_words

from .choice import AdapterInfo, rows_of
from .choice import Rows as RowsOf
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


def _ascending(most: int, values: npt.NDArray[Any]) -> bool:
    return bool((np.diff(values) > 0).all() and (values >= 0).all() and (values < most).all())


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
    embedded: dict[str, TableInfo] = field(default_factory=dict, kw_only=True)
    """Input of ids -> what adapters that come later must know of its table."""

    def embeddings(self, _: Machine) -> tuple[Table, ...]:
        found = {info.name: of_array(self.tables[name], info) for name, info in self.embedded.items()}
        return tuple(found.values())

    def rows_of(self, changes: TableChanges) -> RowsOf:
        """What changes of tables add to the rows that every input of ids picks."""
        return rows_of(changes, self.embedded)

    def fraction_of(self, _: str) -> int:
        """Bits behind the binary point of the rows that an input picks."""
        return self.input_fraction

    def check_reach(self, adapter: AdapterInfo) -> None:
        """The rows that an adapter changes fit in the fixed point of the first rows.

        Raises:
            BadAdapter: they would be clamped.
        """
        for name, changes in adapter.rows.items():
            most, table = math.ldexp(SAT32, -self.fraction_of(name)), self.tables[name]
            for first in range(0, len(table), PART):
                ids = np.arange(first, min(first + PART, len(table)))
                reach = np.abs(table[ids] + sum(change.of(ids) for change in changes)).max()
                if reach > most:
                    what = f"rows of {name!r} reach {reach:.3g}, and the package holds {most:.3g} at most"
                    hint = "compile with it, and with calibration data that has its tokens"
                    raise BadAdapter(what, f"adapter {adapter.name!r}", hint)

    def marks(self, m: Machine, number: int) -> dict[int, str]:
        return marks([o.name for o in self.operators], self.owners[m.functions[number].name])

    def embed(
        self, ids: Mapping[str, Sequence[int] | npt.NDArray[Any]], first: int = 0, changes: RowsOf | None = None
    ) -> Int64:
        """Rows [tokens, features] in fixed point of tokens at positions `first` ..; `ids` and an adapter's changes by input."""
        positions = None if self.positions is None else self.positions[first:]
        return self.picked(ids, list(self.tables), positions, self.input_fraction, changes or {})

    def picked(
        self,
        ids: Mapping[str, Sequence[int] | npt.NDArray[Any]],
        names: Sequence[str],
        positions: npt.NDArray[np.float32] | None,
        fraction: int,
        changes: RowsOf,
    ) -> Int64:
        """The sum of rows of these inputs' tables, with changes, and, from the first on, of positions, in fixed point."""
        rows = np.sum([self.tables[name][list(ids[name])].astype(np.float64) for name in names], axis=0)
        for name in names:
            for change in changes.get(name, ()):
                rows += change.of(list(ids[name]))
        return to_fixed(rows + (0.0 if positions is None else positions[: len(rows)]), fraction)

    def begin(self, m: Machine, adapter: str | None) -> tuple[Bytes, dict[int, int]]:
        """Memory and registers before the first start of a sequence."""
        memory = m.memory()
        count = m.regions["token words"][1] // 4
        used = m.slotted(adapter)
        m.put(memory, "token words", token_words(np.full(count, len(used))))
        return memory, m.registers(memory, used)

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
        self._check_changes(c)
        c.vectors()
        c.within(len(self.operators), 1, _OPERATORS, "number of operators")
        c.owners(self.owners, [len(self.operators)] * len(m.functions))
        for f in m.functions:
            c.ends(f, EXECUTED * (f.size // INSTRUCTION_BYTES))

    def _check_changes(self, c: Check) -> None:
        """What adapters add to rows of tables, and what is known of these."""
        c.named(list(self.embedded), self.tables, "embedded")
        for name, info in self.embedded.items():
            c.need(info.scale != 0, f"embedded.{name}.scale", info.scale, "not 0")
            c.named(info.tied, [layer.name for layer in c.m.layers], f"embedded.{name}.tied")
        for number, adapter in enumerate(c.m.adapters):
            field = f"adapters[{number}].rows"
            c.named(list(adapter.rows), self.tables, field)
            for name, change in ((name, change) for name, found in adapter.rows.items() for change in found):
                rows, features = self.tables[name].shape
                count = rows if change.ids is None else len(change.ids)
                inner = features if change.right is None else len(change.right)
                c.array(f"{field}: {name} left", change.left, "f4", (count, inner))
                if change.right is not None:
                    c.array(f"{field}: {name} right", change.right, "f4", (inner, features))
                if change.ids is not None:
                    c.array(f"{field}: {name} ids", change.ids, "i8", (count,), partial(_ascending, rows))
                    c.within(count, 1, rows, f"{field}: ids")

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
