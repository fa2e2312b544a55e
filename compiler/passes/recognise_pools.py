"""Pools of a transformer's graph: rows weighed, added up, brought to length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import Norm, NormKind, PoolKind
from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_state import PASS, SHAPED, Symbol
from axlora.compiler.passes.recognise_values import Values
from axlora.compiler.passes.tensor_elements import Constant, Curve, Length, Looked, Probed, View, Weighted

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_NORMAL = 1e-6
"""An eps below which a length is not changed by it."""


@dataclass
class PoolWalk(Values):
    """Adds pools."""

    def with_mask(self, node: Node, kind: str, a: Symbol, b: Probed) -> Symbol | None:
        """What only the mask changes weighs rows of a value."""
        if kind != "multiply" or not isinstance(a, View | Curve | Looked):
            return None
        x = self.rows(node, node.inputs[0 if self.symbol(node.inputs[0]) is a else 1])
        shape = self.g.shape(node.outputs[0])
        weights = []
        for value in b.values:
            spread = np.broadcast_to(value, shape).astype(np.float64).reshape(-1, shape[-1])
            if spread.shape != (self.tokens(x), self.features[x]) or (spread != spread[:, :1]).any():
                return None
            weights.append(spread[:, 0])
        self.heeds(node, x)
        return Weighted(x, tuple(weights))

    def reduction(self, node: Node, x: View | Curve) -> Symbol | None:
        """The mean over tokens without a mask, or the length of rows."""
        rank = len(self.g.shape(node.inputs[0]))
        axes = self.axes(node, rank)
        kind = node.op
        if kind == "mean" and rank == 3 and axes == [1]:
            rows = self.rows(node, node.inputs[0])
            tokens = self.tokens(rows)
            return Weighted(rows, (np.full(tokens, 1 / tokens),) * len(self.padded(rows)), True)
        if kind == "sum" and axes == [rank - 1] and isinstance(x, Curve):
            probe = np.linspace(-3, 3, 7)
            return Length(x.value, "sum") if np.allclose(x.of(probe), probe**2) else None
        if kind == "mean" and isinstance(x, View | Curve) and rank > 3 and sorted(axes) == [*range(2, rank)]:
            (rows,), _ = self.in_rows(node, node.inputs)
            if self.features[rows] == self.g.shape(node.inputs[0])[1] and rows not in self.single:  # of an image
                return View.rows(self.pooled(rows, PoolKind.MEAN), self.g.shape(node.outputs[0]))
        return None

    def axes(self, node: Node, rank: int) -> list[int]:
        """The axes of a reduction, from 0 on."""
        return [a % rank for a in node.numbers("axis") or ()]

    def reduced(self, node: Node, inputs: Sequence[Symbol]) -> Symbol | None:
        """What is done to weighted rows and their sum, and to the length of rows."""
        x, kind = inputs[0], node.op
        if kind in (*PASS, *SHAPED):
            return x
        other = inputs[1] if len(inputs) > 1 else None
        if isinstance(x, Length):
            rank = len(self.g.shape(node.inputs[0]))
            if kind == "sum" and x.stage == "squares" and self.axes(node, rank) == [rank - 1]:
                return replace(x, stage="sum")
            if kind == "sqrt" and x.stage == "sum":
                return replace(x, stage="root")
            limits = [s.value for s in inputs[1:] if isinstance(s, Constant)]
            small = len(limits) == len(inputs) - 1 and bool(limits) and all(np.size(v) == 1 for v in limits)
            if kind in ("maximum", "add") and small and float(np.ravel(limits[0])[0]) <= _NORMAL:
                return x
            return None
        assert isinstance(x, Weighted)
        if kind == "sum" and not x.summed and self.axes(node, len(self.g.shape(node.inputs[0]))) == [1]:
            return replace(x, summed=True)
        if not x.summed:
            return None
        if kind in ("divide", "multiply") and isinstance(other, Constant | Probed):
            values = other.values if isinstance(other, Probed) else (other.value,) * len(x.weights)
            return x.scaled([1 / v if kind == "divide" else v for v in (np.asarray(v, np.float64) for v in values)])
        if not x.sums(self.padded(x.value)):
            return None
        # A row's length takes any factor with it: the mean stands for the sum.
        if (kind == "multiply" and other == x) or (
            kind == "power" and isinstance(other, Constant) and np.all(other.value == 2)
        ):
            return Length(self.pooled(x.value, PoolKind.MEAN), "squares")
        if kind == "divide" and isinstance(other, Length) and other.stage == "root":
            mean = self.pooled(x.value, PoolKind.MEAN)
            return self.unit(node, mean, other) if other.of == mean else None
        return None

    def unit(self, node: Node, x: str, length: Length) -> Symbol:
        """Rows over their length."""
        out, n = node.outputs[0], self.features[x]
        self.value(out, n, x)
        self.operators.append(Norm(x, out, NormKind.UNIT, np.ones(n), None, 1e-24))
        return self.symbols[out]
