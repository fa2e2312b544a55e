"""A row of an image that meets its pixels again, as squeeze and excitation has it (Hu et al., arXiv:1709.01507)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axlora.compiler.operators import Affine, Mul, Op, Pool, PoolKind, Window, operands
from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_values import Values
from axlora.compiler.passes.tensor_elements import Curve, View

_AT_ONCE = 4
"""Rows that are added at once, as windows."""


@dataclass
class SpreadWalk(Values):
    """Adds one row that is repeated for all rows of another stream."""

    def spread_row(self, node: Node, kind: str) -> View | None:
        """A sum, difference or product of rows and of one row that is repeated for them; None if it is anything else.

        A pooled row is made again as a stream of one row, which others may read: a mean by adding rows up, the first row by a
        window.
        """
        big, small = sorted(node.inputs, key=lambda name: -int(np.prod(self.g.shape(name))))
        fits = kind in ("add", "subtract", "multiply") and all(isinstance(self.symbol(n), View | Curve) for n in (big, small))
        if not fits or self.rowwise or self.causal or self.g.shape(big) != self.g.shape(node.outputs[0]):
            return None
        (x,), second = self.in_rows(node, [big])
        one = self.rows(node, small)
        if self.features[one] != self.features[x] or x in self.single or self.g.shape(small)[-1 if second else -2 :][0] != 1:
            return None
        if one in self.single and not self._as_stream(one):
            return None
        if self.tokens(one) != 1:
            return None
        wide = self.slid(Window(one, f"{one} for {x}", np.zeros((self.tokens(x), 1), np.int64), self._stream_name(x)))
        out = node.outputs[0]
        if kind == "multiply":
            self.features[out] = self.features[x]
            self.operators.append(Mul(x, wide, out))
        elif kind == "add" or node.inputs[0] == big:
            self.summed(x, wide, out, 1 if kind == "add" else -1)
        else:
            self.summed(wide, x, out, -1)
        return self.tensor(out, out, second)

    def _stream_name(self, value: str) -> str:
        """The name of the stream that a value is of, as windows have it."""
        names = {own.input: own.input for own in self.streams}
        for op in self.operators:
            names[op.y] = op.stream if isinstance(op, Window) else names[operands(op)[0]]
        return names[value]

    def _as_stream(self, value: str) -> bool:
        """Make the pool that a value comes of in a stream of its own; False where padding is left out of it."""
        made_by = {op.y: op for op in self.operators}
        while not isinstance(op := made_by[value], Pool):
            value = operands(op)[0]
        if self.masks and self.padded_stream is not None and self.stream(op.x) == self.padded_stream:
            return False
        number, end = self.operators.index(op), len(self.operators)
        if op.kind is PoolKind.FIRST:
            self.operators.append(self.window_of(op.x, np.zeros((1, 1), np.int64), op.y))
        else:
            one = self._sum(op.x)
            n = self.features[one]
            self.operators.append(Affine(one, op.y, np.full(n, 1 / self.tokens(op.x)), np.zeros(n)))
        made = self.operators[end:]
        self.operators = in_order([*self.operators[:number], *made, *self.operators[number + 1 : end]])
        reached = {op.y}
        for each in self.operators:
            if reached & {*operands(each)}:
                reached.add(each.y)
        self.single -= reached
        return True

    def _sum(self, x: str) -> str:
        """The sum of all rows as a stream of one row: a few at a time, until one is left."""
        n = self.features[x]
        while (rows := self.tokens(x)) > 1:
            index = np.arange(-(-rows // _AT_ONCE))[:, None] * _AT_ONCE + np.arange(_AT_ONCE)
            seen = [np.repeat((own < rows)[:, None], n, 1).astype(np.float64) for own in index.T]
            places = [np.where(own < rows, own, 0)[:, None] * n + np.arange(n) for own in index.T]
            total = self.sum_of_rows(View(x, tuple(zip(places, seen, strict=True)), rows * n))
            assert total is not None, "whole rows are added"
            x = total
        return x


def in_order(operators: Sequence[Op]) -> list[Op]:
    """The operators, each behind those that it reads of; else in their order."""
    made = {op.y: op for op in operators}
    found: dict[str, Op] = {}

    def visit(op: Op) -> None:
        if op.y not in found:
            for name in operands(op):
                if name in made:
                    visit(made[name])
            found[op.y] = op

    for op in operators:
        visit(op)
    return [*found.values()]
