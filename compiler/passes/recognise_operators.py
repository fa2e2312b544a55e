"""A walk over a transformer's graph: every node that the outputs need, by what it does to elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from axlora.compiler import functions
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.operators import Function, Linear, Mul, Norm, NormKind, Positional
from axlora.compiler.passes.read_module import RESHAPES, Node
from axlora.compiler.passes.recognise_attention import LOWEST
from axlora.compiler.passes.recognise_gates import GateWalk
from axlora.compiler.passes.recognise_indices import IndexWalk
from axlora.compiler.passes.recognise_moves import MoveWalk
from axlora.compiler.passes.recognise_norms import FoundNorm, norms
from axlora.compiler.passes.recognise_spread import SpreadWalk
from axlora.compiler.passes.recognise_state import PASS, SHAPED, Scores, Symbol
from axlora.compiler.passes.recognise_values import features_last
from axlora.compiler.passes.tensor_elements import Constant, Curve, Derived, Ids, Length, Looked, Probed, View, Weighted

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_UNARY: dict[str, Callable[[Float64], Float64]] = {
    "sigmoid": partial(functions.real, Function.SIGMOID),
    "tanh": np.tanh,
    "nn.relu": partial(functions.real, Function.RELU),
    "erf": functions.erf,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "log": np.log,
    "nn.silu": partial(functions.real, Function.SILU),
    "nn.gelu": partial(functions.real, Function.GELU),
    "nn.gelu_tanh": partial(functions.real, Function.GELU_TANH),
}
_MOVING = (*PASS, *SHAPED, "permute_dims", "split", "strided_slice", "take", "concat", "pad")
"""Operators that only move elements: what they make of an input of floats the host lays out."""
_JOINS: dict[str, Callable[..., Float64]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}
"""Arithmetic of two tensors, and comparisons, whose results choose."""
_ORDERED = ("subtract", "divide", "greater", "greater_equal", "less", "less_equal")
"""Those whose operands cannot change places."""


@dataclass
class Walk(MoveWalk, GateWalk, IndexWalk, SpreadWalk):
    """All nodes."""

    def run(self) -> None:
        """Follow every node that the outputs need."""
        linears = {self.g.producer[f.result]: f for f in self.found}
        by_last: dict[int, FoundNorm] = {n.nodes[-1]: n for n in norms(self.g)}
        needed: set[int] = set()
        todo = sorted(self.g.outputs)
        while todo:
            index = self.g.producer.get(todo.pop(), -1)
            if index < 0 or index in needed:
                continue
            needed.add(index)
            own = [linears[index].x_name] if index in linears else [by_last[index].x] if index in by_last else None
            todo += own or [name for name in self.g.nodes[index].inputs if name]
        fixed = self.fixed(needed - linears.keys() - by_last.keys())
        for name in sorted(name for name in self.hosts if len(self.g.shape(name)) > 3):
            if self._read_by_others(name):
                self.pixels(name)
        for index in sorted(needed):
            node = self.g.nodes[index]
            self.used |= set(node.inputs)
            if index in fixed:
                continue
            if index in linears:
                self.linear(node, linears[index])
            elif index in by_last:
                self.norm(node, by_last[index])
            else:
                self.node(node)

    def _read_by_others(self, name: str) -> bool:
        """Whether anything but linears reads what moves make of an input."""
        linears = {self.g.strip(found.x_name) for found in self.found}
        todo, seen = [name], {name}
        while todo:
            tensor = todo.pop()
            for node in (self.g.nodes[index] for index in self.g.readers.get(tensor, [])):
                if node.op == "matmul" and self.g.strip(tensor) in linears:
                    continue
                if node.op not in (*_MOVING, "quantize", "dequantize"):
                    return True
                todo += {*node.outputs} - seen
                seen |= {*node.outputs}
        return False

    def linear(self, node: Node, found: FoundLinear) -> None:
        x = self.rows(node, found.x_name)
        if found.shape[0] != self.features[x]:
            raise self.refuse(node, f"reads rows of {found.shape[0]} features, which elsewhere have {self.features[x]}")
        self.value(found.result, found.shape[1], x)
        self.operators.append(Linear(x, found.result, found.name))

    def norm(self, node: Node, found: FoundNorm) -> None:
        heads = self.in_heads(found.x, found.gain.size)
        x = self.rows(node, found.x) if heads is None else heads.value
        if self.features[x] % found.gain.size:
            raise self.refuse(node, f"norms {found.gain.size} features, where rows have {self.features[x]}")
        self.value(found.y, self.features[x], x)
        kind = NormKind.LAYER if found.centred else NormKind.RMS
        self.operators.append(Norm(x, found.y, kind, found.gain, found.bias, found.eps))
        if heads is not None:
            self.symbols[found.y] = replace(heads, value=found.y)

    def in_heads(self, name: str, count: int) -> View | None:
        """A view of heads of `count` features that are a value, in another order than there; None if it is none."""
        view = self.symbol(name)
        if not isinstance(view, View) or view.value in self.hosts:
            return None
        view = self.turned_view(view)
        if len(view.terms) > 1 or (view.terms[0][1] != 1).any():
            return None
        view = self.sliced(view)
        index = view.terms[0][0]
        whole = index.size == view.size and index.shape[-1:] == (count,) and not self.features[view.value] % count
        first = index[..., :1]
        if view.factor() == 1 or not whole or (first % count).any() or (index != first + np.arange(count)).any():
            return None
        return view

    def node(self, node: Node) -> None:
        """One node that is neither of a linear nor of a norm."""
        node = self.extremum(node)
        kind = node.op
        if kind == "stack" and all(self.extremum(each) is not each for each in self.readers(node.outputs[0])):
            return  # its readers look at what it stacks
        if kind not in _MOVING:
            self.as_rows(node)
        inputs = [self.symbol(name) for name in node.inputs if name]
        if kind in _JOINS or kind in _UNARY:
            inputs = [_squared(x, self.g.shape(name)) for x, name in zip(inputs, node.inputs, strict=True)]
        result: Symbol | dict[str, Symbol] | None
        if (gates := self.gates(node, inputs)) is not None:
            result = gates
        elif isinstance(inputs[0], Weighted | Length):
            result = self.reduced(node, inputs)
        elif kind == "quantize" and self.g.activation(node.outputs[0]) is not None:
            result = inputs[0]  # what reads its codes rounds
        elif kind == "dequantize" and self.g.codes_of(node.outputs[0]) is not None:
            result = self.dequantized(node, inputs[0])
        elif isinstance(inputs[0], Ids) and kind in (*PASS, *SHAPED):
            result = inputs[0]
        elif isinstance(inputs[0], Looked) and kind in RESHAPES and inputs[0].features == self.g.shape(node.outputs[0])[-1]:
            result = inputs[0]  # the same rows
        elif kind == "take" and isinstance(inputs[1], Derived) and self.g.dtype(node.outputs[0]) == "float32":
            result = self.picked_by(node, inputs[0], inputs[1])
        elif not (kind == "take" and isinstance(inputs[1], Ids)) and (made := self.derived(node, inputs)) is not None:
            result = made
        elif kind in PASS:
            # `read` made all floats float32: a cast that is left is to integers and back, which rounds.
            result = inputs[0] if self.g.dtype(node.outputs[0]) == "float32" else None
        elif kind == "take" and isinstance(inputs[1], Ids):
            result = self.embed(node, inputs[0], inputs[1])
        elif kind == "dequantize" and isinstance(inputs[0], Looked):
            result = self.rows_of_codes(inputs[0], inputs[1], inputs[2])
        elif kind in (*_JOINS, "where") and len(inputs) >= 2:
            result = self.joined(node, kind, inputs)
        elif kind == "matmul":
            result = self.product(node, inputs[0], inputs[1])
        elif kind == "nn.softmax" and isinstance(inputs[0], Scores):
            if int(node.number("axis", -1)) not in (-1, len(self.g.shape(node.inputs[0])) - 1):
                raise self.refuse(node, "softmax over anything but the keys")
            result = replace(inputs[0], done=True)
        elif kind in SHAPED and isinstance(inputs[0], Scores):
            result = self.reshaped_scores(node, inputs[0])
        elif kind == "tanh" and isinstance(inputs[0], Scores):
            result = inputs[0].capped()
        elif kind == "isnan" and isinstance(inputs[0], Scores) and inputs[0].done:
            result = Constant(np.zeros((1, 1, 1, 1), bool))  # a row sees itself, or a token: no softmax is empty
        elif kind in _UNARY or kind in ("negative", "clip", "nn.leakyrelu"):
            result = self.unary(node, inputs[0])
        elif kind == "concat" and len(full := [x for x in inputs if not (isinstance(x, Constant) and x.value.size == 0)]) == 1:
            result = full[0]  # keys behind an empty cache
        elif kind == "concat" and isinstance(inputs[0], Constant) and any(isinstance(x, View | Curve) for x in inputs):
            result = self.between(node, inputs)
        elif kind == "nn.batch_norm" and isinstance(inputs[0], View | Curve):
            result = self.batch_norm(node, inputs[0], inputs[1:])
        elif kind in ("sum", "mean") and isinstance(inputs[0], View | Curve):
            result = self.reduction(node, inputs[0])
        elif isinstance(inputs[0], View | Curve | Looked):
            seen = [self.viewed(node, n) if isinstance(self.symbol(n), Looked) else self.symbol(n) for n in node.inputs if n]
            result = self.moved(node, [self.viewed(node, node.inputs[0]), *seen[1:]])
        else:
            result = None
        if result is None:
            raise self.refuse(node, "is not understood between the first rows and the outputs")
        self.symbols |= result if isinstance(result, dict) else {node.outputs[0]: result}

    def extremum(self, node: Node) -> Node:
        """The larger or smaller of two tensors, which the importer makes of Max and Min by stacking them, as one node."""
        stack = self.g.node_of(node.inputs[0]) if node.op in ("max", "min") else None
        if stack is None or stack.op != "stack" or len(stack.inputs) != 2 or node.numbers("axis") != [0]:
            return node
        return replace(node, op=f"{node.op}imum", inputs=stack.inputs)

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor."""
        return [self.g.nodes[index] for index in self.g.readers.get(name, [])]

    def joined(self, node: Node, kind: str, inputs: Sequence[Symbol]) -> Symbol | None:
        """Arithmetic of two tensors."""
        if kind == "where":
            condition, yes, no = inputs
            return piecewise(condition, yes, no) if isinstance(condition, Curve) else self.chosen(node, inputs)
        a, b = inputs
        if isinstance(a, Constant | Probed) and kind in ("add", "multiply", "maximum", "minimum"):
            a, b = b, a
        if isinstance(a, Constant) and kind in _ORDERED:
            return self.from_constant(node, kind, a.value.astype(np.float64), b)
        if isinstance(b, Probed) and isinstance(a, Scores):
            return self.masked(node, a, b.values) if kind == "add" and not a.done else None
        if isinstance(b, Probed):
            return self.with_mask(node, kind, a, b)
        if isinstance(b, Constant):
            c = b.value.astype(np.float64)
            alike = c.size > 1 and kind not in ("add", "subtract", "multiply", "divide") and (c == c.flat[0]).all()
            return self.with_constant(node, kind, a, c.reshape(-1)[:1] if alike else c)
        if isinstance(a, Looked) and isinstance(b, Looked):
            return a.plus(b) if kind == "add" else None
        if isinstance(b, Length):
            x = self.rows(node, node.inputs[0]) if kind == "divide" and not isinstance(a, Weighted) else None
            return self.unit(node, x, b) if x == b.of and b.stage == "root" else None
        if kind in ("add", "subtract") and isinstance(a, View) and a.factor() is None and (views := self.of_one_value((a, b))):
            return views[0].plus(views[1].times(np.float64(1 if kind == "add" else -1)))
        if len({self._elements(name) for name in (*node.inputs, node.outputs[0])}) != 1:
            scaled = self.row_scale(node) if kind == "multiply" else None
            return scaled or self.spread_row(node, kind)  # one is repeated for the other
        a, b = (self.sliced(x) if isinstance(x, View) and isinstance(other, Curve) else x for x, other in ((a, b), (b, a)))
        curve = _both_curves(kind, a, b)
        if curve is not None and (curve.function() is not None or not _rows(a, b)):
            return curve
        if kind not in ("add", "subtract", "multiply") or not all(isinstance(s, View | Curve | Looked) for s in (a, b)):
            return None
        (x, y), second = self.in_rows(node, node.inputs)
        if x == y and kind == "multiply":
            return Length(x, "squares")
        if self.stream(x) != self.stream(y):
            raise self.refuse(node, "rows of two inputs meet outside of attention")
        if (x in self.single) != (y in self.single) and (spread := self.spread_row(node, kind)) is not None:
            return spread  # an image of one pixel
        if (x in self.single) != (y in self.single):
            raise self.refuse(node, "rows of all tokens meet one row of all")
        out = node.outputs[0]
        if kind == "multiply":
            self.value(out, self.features[x], x)
            self.operators.append(Mul(x, y, out))
        else:
            self.summed(x, y, out, -1 if kind == "subtract" else 1)
        return self.tensor(out, out, second)

    def _elements(self, name: str) -> int:
        return int(np.prod(self.g.shape(name)))

    def with_constant(self, node: Node, kind: str, a: Symbol, c: Float64) -> Symbol | None:
        if isinstance(a, Scores) and not a.done:
            if kind == "maximum":
                return a if c.max() <= LOWEST else None
            if kind in ("multiply", "divide") and c.size == 1:
                return a.times(float(c.reshape(-1)[0]) ** (1 if kind == "multiply" else -1))
            return self.masked(node, a, (c,)) if kind == "add" else None
        if isinstance(a, Looked):
            if kind in ("multiply", "divide") and c.size == 1:
                return a.times(float(c.reshape(-1)[0]) ** (1 if kind == "multiply" else -1))
            # Positions and token types, added to the rows of embeddings before anything reads them.
            n, tokens = a.tables[0].table.shape[1], self.ids_shape(a.tables[0].input)[-1]
            return a.plus(Looked((), np.broadcast_to(c, (1, tokens, n)).reshape(-1, n))) if kind == "add" else None
        if isinstance(a, View) and kind in ("multiply", "divide"):
            factor = c if kind == "multiply" else 1 / c
            pixels = c.size > 1 and a.value in self.features and len(a.shape) > 2 and not self.is_rows(a)
            if pixels and a.moved(features_last).columns(self.features[a.value]) is not None:
                return self.by_feature(node, a, factor, np.zeros(1)) or a.times(factor)
            return a.times(factor)
        if c.size > 1 and isinstance(a, View | Curve):
            if kind in ("multiply", "divide"):
                return self.by_feature(node, a, c if kind == "multiply" else 1 / c, np.zeros(1))
            if kind not in ("add", "subtract"):
                return None
            c = c if kind == "add" else -c
            return self.by_feature(node, a, np.ones(1), c) or self.by_row(node, a, c)
        if isinstance(a, View) and len(a.terms) > 1 and len(a.shape) > 3:
            name = next(n for n in node.inputs if self.symbols.get(n) is a)
            (value,), second = self.in_rows(node, [name])
            self.symbols[name] = a = self.tensor(value, name, second)
        if c.size == 1 and (curve := _as_curve(a)) is not None:
            return curve.over(_scalar(kind, curve.of, float(c.reshape(-1)[0])))
        return None

    def by_feature(self, node: Node, a: View | Curve, gain: Float64, bias: Float64) -> View | None:
        """a gain + bias, where both are the same in every row; None where a row differs, or a is repeated for them."""
        out, name = node.outputs[0], next(n for n in node.inputs if self.symbols.get(n) is a)
        if self._elements(out) != self._elements(name):
            return None
        own, second = a.columns(self.features[a.value]) if isinstance(a, View) else None, False
        if own is None:
            (x,), second = self.in_rows(node, [name])
        else:
            x = a.value
        shape = self.g.shape(out)
        every = [np.broadcast_to(c, shape) for c in (gain, bias)]
        rows = [(features_last(c) if second else c).reshape(-1, self.features[x]) for c in every]
        if any((c != c[0]).any() for c in rows):
            return None
        return self.tensor(self.scaled(x, rows[0][0] * (1 if own is None else own), np.array(rows[1][0])), out, second)

    def by_row(self, node: Node, a: View | Curve, c: Float64) -> View | None:
        """a + c, a row of it for each position; None where a is repeated for it, or rows are none of a sequence."""
        out, name = node.outputs[0], next(n for n in node.inputs if self.symbols.get(n) is a)
        if self.rowwise or self._elements(out) != self._elements(name):
            return None
        x = self.rows(node, name)
        table = np.broadcast_to(c, self.g.shape(out)).reshape(-1, self.features[x])
        if x in self.single:
            return None
        self.value(out, self.features[x], x)
        self.operators.append(Positional(x, out, np.array(table)))
        return View.rows(out, self.g.shape(out))

    def batch_norm(self, node: Node, x: View | Curve, vectors: Sequence[Symbol]) -> View | None:
        """gain (x - mean) / sqrt(variance + eps) + bias of constant statistics, over the last dimension or the second."""
        known = [v.value.astype(np.float64) for v in vectors if isinstance(v, Constant)]
        rank, axis = len(self.g.shape(node.inputs[0])), int(node.number("axis"))
        if len(known) != 4 or axis not in (1, rank - 1):
            return None
        gain, bias, mean, variance = (v.reshape(-1, *(1 for _ in range(rank - 1 - axis))) for v in known)
        gain = gain / np.sqrt(variance + node.number("epsilon"))
        return self.by_feature(node, x, gain, bias - mean * gain)

    def from_constant(self, node: Node, kind: str, c: Float64, b: Symbol) -> Symbol | None:
        """c - b, or c / b for one number."""
        if kind == "subtract" and c.size > 1 and isinstance(b, View | Curve):
            return self.by_feature(node, b, np.full(1, -1.0), c)
        curve = _as_curve(b)
        if curve is None or c.size != 1:
            return None
        number, of = float(c.reshape(-1)[0]), curve.of
        return curve.over(lambda t: _JOINS[kind](number, of(t)))

    def unary(self, node: Node, x: Symbol) -> Symbol | None:
        if node.op == "negative":
            if isinstance(x, Curve):
                return x.over(lambda t, of=x.of: -of(t))  # type: ignore[misc]
            return x.times(np.float64(-1)) if isinstance(x, View) else None
        if isinstance(x, View) and len(x.terms) > 1:
            (value,), second = self.in_rows(node, node.inputs[:1])
            x = self.tensor(value, node.inputs[0], second)
        curve = _as_curve(self.sliced(x) if isinstance(x, View) else x)
        if curve is None:
            return None
        inner, own = curve.of, _UNARY.get(node.op)
        if node.op == "nn.leakyrelu":
            slope = node.number("alpha")
            return curve.over(lambda t: np.where(inner(t) < 0, slope * inner(t), inner(t)))
        if own is None:
            (least,), (most,) = node.static
            own = partial(np.clip, a_min=least, a_max=most)
        return curve.over(lambda t: own(inner(t)))


def _squared(x: Symbol, shape: tuple[int, ...]) -> Symbol:
    """Squares that no sum follows are a function as any other."""
    return Curve(x.of, shape, np.square) if isinstance(x, Length) and x.stage == "squares" else x


def _rows(a: Symbol, b: Symbol) -> bool:
    return isinstance(a, View) and isinstance(b, View)


def _as_curve(x: Symbol) -> Curve | None:
    if isinstance(x, Curve):
        return x
    if not isinstance(x, View):
        return None
    if (c := x.factor()) is not None:
        return Curve(x.value, x.shape, lambda t: c * t)
    index, coefficient = x.terms[0]
    factor = float(coefficient.reshape(-1)[0])
    if len(x.terms) > 1 or factor == 0 or (coefficient != factor).any():
        return None
    return Curve(x.value, x.shape, lambda t: factor * t, index)


def _both_curves(kind: str, a: Symbol, b: Symbol) -> Curve | None:
    """Two functions of the same value as one."""
    f, g = _as_curve(a), _as_curve(b)
    if f is None or g is None or not f.same(g):
        return None
    own, other, join = f.of, g.of, _JOINS[kind]
    return f.over(lambda t: join(own(t), other(t)))


def piecewise(condition: Curve, yes: Symbol, no: Symbol) -> Curve | None:
    """One function where another, of the same elements, is not 0, and a third elsewhere; numbers are functions too."""
    own: list[Callable[[Float64], Float64]] = []
    for part in (yes, no):
        curve = _as_curve(part)
        if curve is not None and condition.same(curve):
            own.append(curve.of)
        elif isinstance(part, Constant) and part.value.size == 1:
            own.append(partial(np.full_like, fill_value=float(part.value.reshape(-1)[0])))
        else:
            return None
    return condition.over(lambda t: np.where(condition.of(t), own[0](t), own[1](t)))


def _scalar(kind: str, f: Callable[[Float64], Float64], c: float) -> Callable[[Float64], Float64]:
    return lambda t: _JOINS[kind](f(t), c)
