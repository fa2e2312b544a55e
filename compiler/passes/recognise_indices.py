"""Indices that a graph makes of token ids, as RoBERTa's positions: what they are is found by probing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_state import Symbol
from axlora.compiler.passes.recognise_values import Values
from axlora.compiler.passes.tensor_elements import Constant, Derived, Ids, Looked
from axlora.compiler.transformer import Counted, Lookup

Int64 = npt.NDArray[np.int64]
_PROBES = 6
_OTHERS = (3, 5, 7, 11)
"""Ids that probes hold beside those that the graph may take for padding."""


@dataclass
class IndexWalk(Values):
    """Adds what is made of ids."""

    def derived(self, node: Node, inputs: Sequence[Symbol]) -> Symbol | dict[str, Symbol] | None:
        """What a node makes of ids and constants alone; None of anything else."""
        made = [x for x in inputs if isinstance(x, Ids | Derived)]
        if not made or len(inputs) != len([x for x in inputs if isinstance(x, Ids | Derived | Constant)]):
            return None
        names, numbers = frozenset[str](), frozenset[int]()
        for x in inputs:
            if isinstance(x, Constant):
                values = np.unique(x.value)[:2] if x.value.dtype.kind in "iu" else ()
                numbers |= {int(v) for v in values}
            elif isinstance(x, Derived):
                names, numbers = names | x.inputs, numbers | x.numbers
            elif isinstance(x, Ids):
                names |= {x.input}
        return {name: Derived(name, names, numbers) for name in node.outputs if name}

    def picked_by(self, node: Node, table: Symbol, index: Derived) -> Looked | Constant | None:
        """Rows of a table that are picked by what is made of ids: the same ones for all ids, or counted."""
        if not isinstance(table, Constant) or table.value.ndim != 2 or int(node.number("axis")) != 0:
            return None
        rows = table.value.astype(np.float64)
        found = self._indices(index)
        if isinstance(found, Counted):
            shape = self.g.shape(index.tensor)
            if found.first + shape[-1] >= len(rows) or found.first < 0:
                raise self.refuse(node, f"{shape[-1]} tokens count up to {found.first + shape[-1]} in a table of {len(rows)}")
            if self.causal:  # a language model has no padding in front of what it reads
                return Constant(rows[found.of(np.full((1, shape[-1]), found.padding - 1)).reshape(shape)])
            name = f"{index.tensor} of {found.input}"
            self.counted[name] = found
            return Looked((Lookup(name, rows, found, str(node.inputs[0])),))
        return None if found is None else Constant(rows[found])

    def _indices(self, index: Derived) -> Counted | Int64 | None:
        """The values, if no ids change them, or how they are counted; None if they are anything else."""
        if len(index.inputs) != 1:
            return None
        (name,) = index.inputs
        shape, rng = self.g.shape(name), np.random.default_rng(0)
        ids = [rng.choice([*sorted(index.numbers), *_OTHERS], shape) for _ in range(_PROBES)]
        values = [own.astype(np.int64) for (own,) in self.g.evaluate([index.tensor], [{name: each} for each in ids])]
        if all(np.array_equal(values[0], own) for own in values):
            return values[0]
        for padding in sorted(index.numbers):
            alike = [(each, own.reshape(each.shape)) for each, own in zip(ids, values, strict=True) if each.size == own.size]
            first = {int(v) for each, own in alike for v in own[each == padding]}
            if len(first) == 1:
                found = Counted(name, padding, first.pop())
                if all(np.array_equal(found.of(each), own) for each, own in alike):
                    return found
        return None
