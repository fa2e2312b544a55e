"""Gates of experts: a softmax over logits and the largest of each row, put back at their places; and rows times one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import RowScale, TopGates
from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_pools import PoolWalk
from axlora.compiler.passes.recognise_state import PASS, Symbol
from axlora.compiler.passes.tensor_elements import Chosen, Constant, Curve, View

_NOTHING = 1e-6
"""What may be added to a sum before it divides."""
_PARTS = 64
"""Most parts of a row that have numbers of their own: each is three operators."""
_HIDDEN = -1e30
"""A logit below it is of no expert."""


@dataclass
class GateWalk(PoolWalk):
    """Adds gates."""

    def gates(self, node: Node, inputs: Sequence[Symbol]) -> Symbol | dict[str, Symbol] | None:
        """What a node on the way from logits to gates makes; None if it is on no such way.

        Raises:
            UnsupportedOperator: the largest in another form than gates have.
        """
        a, *others = inputs
        match node.op:
            case "nn.softmax" if self._of_rows(node, a) and self._readers(node) == {"topk"}:
                return Chosen(self.rows(node, node.inputs[0]), 0, True)
            case "nn.softmax" if self._of_rows(node, a):
                logits = self.rows(node, node.inputs[0])
                return self._made(node, Chosen(logits, self.features[logits], True, normalized=True))
            case "topk" if self._of_rows(node, a) or isinstance(a, Chosen):
                own = a if isinstance(a, Chosen) else Chosen(self.rows(node, node.inputs[0]), 0, False)
                own = replace(own, count=self.g.shape(node.outputs[0])[-1])
                if not node.number("largest") or self._axis(node) != -1:
                    raise self.refuse(node, "takes other than the largest of each row")
                made = (own, replace(own, stage="places"))
                return {name: symbol for name, symbol in zip(node.outputs, made, strict=False) if name}
        found = next((x for x in inputs if isinstance(x, Chosen)), None)
        if found is None:
            return None
        result = self._of_chosen(node, a, others)
        if result is None:
            raise self.refuse(node, "is not understood between the largest logits and gates: scatter their softmax onto zeros")
        return result

    def _of_chosen(self, node: Node, a: Symbol, others: Sequence[Symbol]) -> Symbol | None:
        """What a node makes of the largest, their sum or their places."""
        match node.op, a, others:
            case kind, Chosen(), [] if kind in PASS:
                return a if a.stage in ("places", "at") or self.g.dtype(node.outputs[0]) == "float32" else None
            case "equal", Chosen(stage="places"), [Constant(value)] if value.size == 1:
                return replace(a, stage="at", expert=int(value.reshape(-1)[0]))
            case "multiply", Chosen(stage="at"), [Chosen(stage="weights") as own]:
                return self._one(a, own)
            case "multiply", Chosen(stage="weights"), [Chosen(stage="at") as at]:
                return self._one(at, a)
            case "where", Chosen(stage="at"), [Chosen(stage="weights") as own, Constant(value)] if not value.any():
                return self._one(a, own)
            case "sum", Chosen(stage="one"), [] if self.axes(node, self._rank(node)) == [self._rank(node) - 1]:
                return self._column(node, a)
            case "nn.softmax", Chosen(stage="weights", softmax=False), [] if self._axis(node) == -1:
                return replace(a, softmax=True, normalized=True)
            case "nn.softmax", Chosen(stage="masked"), [] if self._axis(node) == -1:
                return self._made(node, replace(a, softmax=True, normalized=True))
            case "sum", Chosen(stage="weights", softmax=True), []:
                whole = node.number("keepdims") and self.axes(node, len(self.g.shape(node.inputs[0]))) == [self._rank(node) - 1]
                return replace(a, stage="sum") if whole else None
            case "add", Chosen(stage="sum"), [Constant(value)] if np.abs(value.astype(np.float64)).max() <= _NOTHING:
                return a
            case "divide", Chosen(stage="weights"), [Chosen(stage="sum") as total] if replace(total, stage="weights") == a:
                return replace(a, normalized=True)
            case "scatter_elements", Constant(value), [Chosen(stage="places") as at, Chosen(stage="weights") as own]:
                if (at.logits, at.count) != (own.logits, own.count) or self._axis(node) != -1:
                    return None
                if own.softmax:
                    return None if value.any() else self._made(node, own)
                return replace(own, stage="masked") if (value.astype(np.float64) < _HIDDEN).all() else None
        return None

    @staticmethod
    def _one(at: Chosen, own: Chosen) -> Chosen | None:
        alike = (at.logits, at.count) == (own.logits, own.count) and own.softmax
        return replace(own, stage="one", expert=at.expert) if alike else None

    def _column(self, node: Node, own: Chosen) -> View | None:
        """One expert's gates, which are features of a value of all."""
        name, features = f"{own.logits} gates {own.count} {own.normalized}", self.features[own.logits]
        shape = self.g.shape(node.outputs[0])
        if not 0 <= own.expert < features:
            return None
        if name not in self.features:
            self.features[name] = features
            if own.logits in self.single:
                self.single.add(name)
            self.operators.append(TopGates(own.logits, name, own.count, own.normalized))
        rows = int(np.prod(shape))
        index = (np.arange(rows) * features + own.expert).reshape(shape)
        return View(name, ((index, np.ones(shape)),), rows * features)

    def _made(self, node: Node, own: Chosen) -> View:
        """The value of gates."""
        y = node.outputs[0]
        self.value(y, self.features[own.logits], own.logits)
        self.operators.append(TopGates(own.logits, y, own.count, own.normalized))
        return View.rows(y, self.g.shape(y))

    def row_scale(self, node: Node) -> View | None:
        """Rows, or parts of each, times one number each, features of another value that are repeated; None if it is no such."""
        out = node.outputs[0]
        shape = self.g.shape(out)
        wide = next((name for name in node.inputs if self.g.shape(name) == shape), None)
        narrow = next((name for name in node.inputs if name != wide), None)
        if wide is None or narrow is None or not all(isinstance(self.symbol(n), View | Curve) for n in (wide, narrow)):
            return None
        view, whole = self.viewed(node, narrow), self.viewed(node, wide)
        if not self.is_rows(whole):
            return None
        x = whole.value if whole.factor() == 1 else self.rows(node, wide)
        width, features = self.features[x], self.features.get(view.value, 0)
        if not features or len(view.terms) > 1 or int(np.prod(shape)) % width:
            return None
        index, coefficient = (np.broadcast_to(part, shape).reshape(-1, width) for part in view.terms[0])
        at, factor = index[0], float(coefficient[0, 0])
        if (coefficient != factor).any() or not np.array_equal(index - at, np.arange(len(index))[:, None] * features + 0 * at):
            return None
        chosen = np.unique(at)
        if chosen[-1] >= features or len(chosen) > _PARTS:
            return None
        by = view.value if factor == 1 else self.scaled(view.value, np.full(features, factor), np.zeros(features))
        if self.stream(x) != self.stream(by) or (x in self.single) != (by in self.single):
            return None
        self.value(out, width, x)
        if len(chosen) == 1:
            self.operators.append(RowScale(x, by, out, int(at[0])))
            return View.rows(out, shape)
        found = [self._part(x, by, out, at == feature, int(feature)) for feature in chosen]
        total = found[0]
        for n, part in enumerate(found[1:], 2):
            total = self.summed(total, part, out if n == len(found) else f"{out} parts {n}")
        return View.rows(out, shape)

    def _part(self, x: str, by: str, out: str, mask: npt.NDArray[np.bool_], feature: int) -> str:
        """The features of a mask times a feature of `by`, and zeros elsewhere."""
        own, name = self.scaled(x, mask.astype(np.float64), np.zeros(mask.size)), f"{out} part {feature}"
        self.features[name] = mask.size
        if x in self.single:
            self.single.add(name)
        self.operators.append(RowScale(own, by, name, feature))
        return name

    def _of_rows(self, node: Node, x: Symbol) -> bool:
        return isinstance(x, View | Curve) and self.is_rows(x) and self._axis(node) == -1

    def _readers(self, node: Node) -> set[str]:
        return {self.g.nodes[index].op for index in self.g.readers.get(node.outputs[0], [])}

    def _rank(self, node: Node) -> int:
        return len(self.g.shape(node.inputs[0]))

    def _axis(self, node: Node) -> int:
        """The dimension that a node works along: -1 for the last."""
        axis, rank = int(node.number("axis", -1)), self._rank(node)
        return -1 if axis in (-1, rank - 1) else axis
