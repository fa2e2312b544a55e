"""A decoder's graph as a `transformer.ops.Transformer`: linears and norms by structure, the rest by what it does to elements.

Every node is followed from the token ids on; what mixes tokens in any way but causal attention is refused by its name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import fold
from axlora.compiler.frontend.found import FoundLinear
from axlora.compiler.frontend.graph import Graph, attribute
from axlora.compiler.frontend.masks import Mask, kind_of_mask
from axlora.compiler.frontend.norms import FoundNorm, norms
from axlora.compiler.frontend.views import Constant, Curve, HeadView, Ids, Length, Looked, Probed, View, Weighted, heads, probes
from axlora.compiler.transformer import tables
from axlora.compiler.transformer.ops import (
    Add,
    Apply,
    Attention,
    Function,
    Linear,
    Lookup,
    Mul,
    Norm,
    NormKind,
    Op,
    Output,
    Pool,
    PoolKind,
    Rotary,
    Transformer,
    operands,
)

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_PASS = ("Identity", "Cast", "CastLike", "Dropout")
_SHAPED = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
_MASKED = -1e4
"""A mask's value at and below which a key is not seen."""
_NORMAL = 1e-6
"""An eps below which a length is not changed by it."""
_UNARY: dict[str, Callable[[Float64], Float64]] = {
    "Sigmoid": partial(tables.real, Function.SIGMOID),
    "Tanh": np.tanh,
    "Relu": partial(tables.real, Function.RELU),
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
}


@dataclass(frozen=True)
class _Scores:
    """q.k of heads, scaled; `done` after the softmax."""

    q: HeadView
    k: HeadView
    scale: float
    mask: Mask = Mask.NONE
    done: bool = False


_Symbol = Constant | Probed | Ids | Looked | View | Curve | Weighted | Length | _Scores


@dataclass
class _Walk:
    g: Graph
    found: Sequence[FoundLinear]
    tokens: int
    hint: str
    causal: bool
    """Whether attention must be causal."""
    symbols: dict[str, _Symbol] = field(default_factory=dict)
    operators: list[Op] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    """Values of one row."""
    masks: tuple[Int64, ...] = ()
    """What a mask of padding is probed with; () if there is none."""
    used: set[str] = field(default_factory=set)
    """Tensors that some followed node reads."""
    kinds: set[Mask] = field(default_factory=set)
    """Of all attention."""
    looked: Looked | None = None
    input: str = ""
    turned: dict[tuple[str, int, int, int], str] = field(default_factory=dict)

    def refuse(self, node: onnx.NodeProto, what: str) -> UnsupportedOperator:
        """An error that names the node."""
        return UnsupportedOperator(what, f"node {node.name or node.output[0]!r} ({node.op_type})", self.hint)

    def value(self, name: str, features: int, *of: str) -> None:
        """A tensor that is rows of a new value of its own name; it has one row where what it is made `of` has."""
        self.features[name] = features
        if any(x in self.single for x in of):
            self.single.add(name)
        self.symbols[name] = View.rows(name, self.g.shape(name))

    def symbol(self, name: str) -> _Symbol:
        """What a tensor is; constants are looked up."""
        if name not in self.symbols:
            value = self.g.constant(name)
            if value is None:
                raise BadModel("tensor is used before it is made", name, "export the model again")
            self.symbols[name] = Constant(value)
        return self.symbols[name]

    def rows(self, node: onnx.NodeProto, name: str) -> str:
        """The value that a tensor is, all of it and in order.

        Raises:
            UnsupportedOperator: it is only a part, or its tokens are not in order.
        """
        symbol = self.symbol(name)
        if isinstance(symbol, Curve):
            return self.applied(node, symbol)
        if isinstance(symbol, Looked):
            return self.first(node, symbol)
        if isinstance(symbol, Weighted) and symbol.summed and symbol.means(self.masks or probes(self.tokens)[:1]):
            return self.pooled(symbol.value, PoolKind.MEAN)
        if isinstance(symbol, View) and symbol.factor() == 1:
            return symbol.value
        raise self.refuse(node, "reads a tensor that is not rows of features, one a token")

    def first(self, node: onnx.NodeProto, looked: Looked) -> str:
        """The value of the rows that were looked up."""
        if self.looked is not None and self.looked is not looked:
            raise self.refuse(node, "a second embedding of the token ids")
        if not self.input:
            n = looked.tables[0][1].shape[1]
            self.looked, self.input = looked, "embeddings"
            self.features[self.input] = n
        return self.input

    def pooled(self, value: str, kind: PoolKind) -> str:
        """The value of one row that is made of all rows of another."""
        name = f"{value} {kind.value}"
        if name not in self.features:
            self.features[name] = self.features[value]
            self.single.add(name)
            self.operators.append(Pool(value, name, kind))
        return name

    def applied(self, node: onnx.NodeProto, curve: Curve) -> str:
        """The value of an activation function."""
        function = curve.function()
        if function is None:
            raise self.refuse(node, "an element-wise function that has no table")
        name = f"{curve.value} {function.value}"
        if name not in self.features:
            self.features[name] = self.features[curve.value]
            if curve.value in self.single:
                self.single.add(name)
            self.operators.append(Apply(curve.value, name, function))
        return name

    # Nodes

    def run(self) -> None:
        """Follow every node that the outputs need."""
        linears = {self.g.producer[f.result]: f for f in self.found}
        by_last: dict[int, FoundNorm] = {n.nodes[-1]: n for n in norms(self.g)}
        needed: set[int] = set()
        todo = [o.name for o in self.g.model.graph.output]
        while todo:
            index = self.g.producer.get(todo.pop(), -1)
            if index < 0 or index in needed:
                continue
            needed.add(index)
            own = [linears[index].x_name] if index in linears else [by_last[index].x] if index in by_last else None
            todo += own or [name for name in self.g.nodes[index].input if name]
        for index in sorted(needed):
            node = self.g.nodes[index]
            self.used |= set(node.input)
            if index in linears:
                self.linear(node, linears[index])
            elif index in by_last:
                self.norm(node, by_last[index])
            else:
                self.node(node)

    def linear(self, node: onnx.NodeProto, found: FoundLinear) -> None:
        x = self.rows(node, found.x_name)
        self.value(found.result, found.shape[1], x)
        self.operators.append(Linear(x, found.result, found.name))

    def norm(self, node: onnx.NodeProto, found: FoundNorm) -> None:
        x = self.rows(node, found.x)
        self.value(found.y, self.features[x], x)
        kind = NormKind.LAYER if found.centred else NormKind.RMS
        self.operators.append(Norm(x, found.y, kind, found.gain, found.bias, found.eps))

    def node(self, node: onnx.NodeProto) -> None:
        """One node that is neither of a linear nor of a norm."""
        inputs = [self.symbol(name) for name in node.input if name]
        fixed = [s for s in inputs if isinstance(s, Constant | Probed)]
        if len(fixed) == len(inputs):
            self.evaluated(node, fixed)
            return
        kind = node.op_type
        result: _Symbol | dict[str, _Symbol] | None
        if isinstance(inputs[0], Weighted | Length):
            result = self.reduced(node, inputs)
        elif isinstance(inputs[0], Ids):
            result = inputs[0] if kind in (*_PASS, *_SHAPED) else None
        elif kind in _PASS:
            # `read` made all floats float32: a Cast that is left is to integers and back, which rounds.
            whole = kind == "Cast" and int(attribute(node, "to")) != onnx.TensorProto.FLOAT
            result = None if whole else inputs[0]
        elif kind == "Gather" and isinstance(inputs[1], Ids):
            result = self.embed(node, inputs[0], inputs[1])
        elif kind in ("Add", "Sub", "Mul", "Div", "Pow", "Where") and len(inputs) >= 2:
            result = self.joined(node, kind, inputs)
        elif kind == "MatMul":
            result = self.product(node, inputs[0], inputs[1])
        elif kind == "Softmax" and isinstance(inputs[0], _Scores):
            if int(attribute(node, "axis", -1)) not in (-1, len(self.g.shape(node.input[0])) - 1):
                raise self.refuse(node, "softmax over anything but the keys")
            result = replace(inputs[0], done=True)
        elif kind == "IsNaN" and isinstance(inputs[0], _Scores) and inputs[0].done:
            result = Constant(np.zeros((1, 1, 1, 1), bool))  # a row sees itself, or a token: no softmax is empty
        elif kind in _UNARY or kind in ("Gelu", "Neg"):
            result = self.unary(node, inputs[0])
        elif kind in ("ReduceSum", "ReduceMean", "ReduceL2") and isinstance(inputs[0], View | Curve):
            result = self.reduction(node, inputs[0])
        elif isinstance(inputs[0], View | Curve | Looked):
            result = self.moved(node, [self.viewed(node, node.input[0]), *inputs[1:]])
        else:
            result = None
        if result is None:
            raise self.refuse(node, "is not understood between embeddings and logits")
        self.symbols |= result if isinstance(result, dict) else {node.output[0]: result}

    def viewed(self, node: onnx.NodeProto, name: str) -> View:
        """The elements of a tensor; functions and rows that were looked up become values."""
        symbol = self.symbol(name)
        if isinstance(symbol, View):
            return symbol
        return View.rows(self.rows(node, name), self.g.shape(name))

    def evaluated(self, node: onnx.NodeProto, inputs: Sequence[Constant | Probed]) -> None:
        """A node that no ids change: its value, or one for each probe of the mask."""
        if node.op_type == "Constant":
            self.symbols[node.output[0]] = Constant(np.asarray(self.g.constant(node.output[0])))
            return
        most = max(len(s.values) if isinstance(s, Probed) else 1 for s in inputs)
        found = []
        for n in range(most):
            values = fold.evaluate(self.g.model, node, [s.values[n] if isinstance(s, Probed) else s.value for s in inputs])
            if values is None:
                raise self.refuse(node, "is not understood between embeddings and logits")
            found.append(values)
        for place, name in enumerate(node.output):
            own = tuple(values[place] for values in found)
            alike = all(np.array_equal(own[0], other) for other in own[1:])
            self.symbols[name] = Constant(own[0]) if alike else Probed(own)

    def embed(self, node: onnx.NodeProto, table: _Symbol, ids: Ids) -> Looked:
        if not isinstance(table, Constant) or table.value.ndim != 2:
            raise self.refuse(node, "rows of what is no table")
        if int(attribute(node, "axis", 0)) != 0:
            raise self.refuse(node, "picks features, not tokens, by the token ids")
        return Looked(((ids.input, table.value.astype(np.float64)),))

    def joined(self, node: onnx.NodeProto, kind: str, inputs: Sequence[_Symbol]) -> _Symbol | None:
        """Arithmetic of two tensors."""
        if kind == "Where":
            return self.chosen(node, inputs)
        a, b = inputs
        if isinstance(a, Constant | Probed) and kind in ("Add", "Mul"):
            a, b = b, a
        if isinstance(b, Probed):
            return self.with_mask(node, kind, a, b)
        if isinstance(b, Constant):
            return self.with_constant(node, kind, a, b.value.astype(np.float64))
        if isinstance(a, Looked) and isinstance(b, Looked):
            return a.plus(b) if kind == "Add" else None
        if isinstance(b, Length):
            x = self.rows(node, node.input[0]) if kind == "Div" and not isinstance(a, Weighted) else None
            return self.unit(node, x, b) if x == b.of and b.stage == "root" else None
        if kind in ("Add", "Sub") and isinstance(a, View) and isinstance(b, View) and a.value == b.value and a.factor() is None:
            return a.plus(b.times(np.float64(1 if kind == "Add" else -1)))
        curve = _both_curves(kind, a, b)
        if curve is not None and (curve.function() is not None or not _rows(a, b)):
            return curve
        if kind not in ("Add", "Mul") or not all(isinstance(s, View | Curve | Looked) for s in (a, b)):
            return None
        x, y = (self.rows(node, name) for name in node.input)
        if x == y and kind == "Mul":
            return Length(x, "squares")
        if (x in self.single) != (y in self.single):
            raise self.refuse(node, "rows of all tokens meet one row of all")
        out = node.output[0]
        self.value(out, self.features[x], x)
        self.operators.append(Add(x, y, out) if kind == "Add" else Mul(x, y, out))
        return self.symbols[out]

    def with_mask(self, node: onnx.NodeProto, kind: str, a: _Symbol, b: Probed) -> _Symbol | None:
        """What only the mask changes is added to scores, or weighs rows of a value."""
        if isinstance(a, _Scores) and not a.done and kind == "Add":
            return self.masked(node, a, b.values)
        if kind != "Mul" or not isinstance(a, View | Curve | Looked):
            return None
        x = self.rows(node, node.input[0 if self.symbol(node.input[0]) is a else 1])
        shape = self.g.shape(node.output[0])
        weights = []
        for value in b.values:
            spread = np.broadcast_to(value, shape).astype(np.float64).reshape(-1, shape[-1])
            if spread.shape != (self.tokens, self.features[x]) or (spread != spread[:, :1]).any():
                return None
            weights.append(spread[:, 0])
        return Weighted(x, tuple(weights))

    def reduction(self, node: onnx.NodeProto, x: View | Curve) -> _Symbol | None:
        """The mean over tokens without a mask, or the length of rows."""
        rank = len(self.g.shape(node.input[0]))
        axes = self.axes(node, rank)
        kind = node.op_type
        if kind == "ReduceL2" and axes == [rank - 1]:
            return Length(self.rows(node, node.input[0]), "root")
        if kind == "ReduceMean" and rank == 3 and axes == [1]:
            return Weighted(
                self.rows(node, node.input[0]), (np.full(self.tokens, 1 / self.tokens),) * max(1, len(self.masks)), True
            )
        if kind == "ReduceSum" and axes == [rank - 1] and isinstance(x, Curve):
            probe = np.linspace(-3, 3, 7)
            return Length(x.value, "sum") if np.allclose(x.of(probe), probe**2) else None
        return None

    def axes(self, node: onnx.NodeProto, rank: int) -> list[int]:
        """The axes of a reduction, from 0 on."""
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if axes is None and len(node.input) > 1 and (value := self.g.constant(node.input[1])) is not None:
            axes = [int(v) for v in value.reshape(-1)]
        return [a % rank for a in axes or ()]

    def reduced(self, node: onnx.NodeProto, inputs: Sequence[_Symbol]) -> _Symbol | None:
        """What is done to weighted rows and their sum, and to the length of rows."""
        x, kind = inputs[0], node.op_type
        if kind in (*_PASS, *_SHAPED):
            return x
        other = inputs[1] if len(inputs) > 1 else None
        if isinstance(x, Length):
            rank = len(self.g.shape(node.input[0]))
            if kind == "ReduceSum" and x.stage == "squares" and self.axes(node, rank) == [rank - 1]:
                return replace(x, stage="sum")
            if kind == "Sqrt" and x.stage == "sum":
                return replace(x, stage="root")
            limits = [s.value for s in inputs[1:] if isinstance(s, Constant)]
            small = len(limits) == len(inputs) - 1 and bool(limits) and all(np.size(v) == 1 for v in limits)
            if kind in ("Clip", "Max", "Add") and small and float(np.ravel(limits[0])[0]) <= _NORMAL:
                return x
            return None
        assert isinstance(x, Weighted)
        if kind == "ReduceSum" and not x.summed and self.axes(node, len(self.g.shape(node.input[0]))) == [1]:
            return replace(x, summed=True)
        if not x.summed:
            return None
        if kind in ("Div", "Mul") and isinstance(other, Constant | Probed):
            values = other.values if isinstance(other, Probed) else (other.value,) * len(x.weights)
            return x.scaled([1 / v if kind == "Div" else v for v in (np.asarray(v, np.float64) for v in values)])
        if not x.sums(self.masks or probes(self.tokens)[:1]):
            return None
        # A row's length takes any factor with it: the mean stands for the sum.
        if (kind == "Mul" and other == x) or (kind == "Pow" and isinstance(other, Constant) and np.all(other.value == 2)):
            return Length(self.pooled(x.value, PoolKind.MEAN), "squares")
        if kind == "ReduceL2":
            return Length(self.pooled(x.value, PoolKind.MEAN), "root")
        if kind == "Div" and isinstance(other, Length) and other.stage == "root":
            mean = self.pooled(x.value, PoolKind.MEAN)
            return self.unit(node, mean, other) if other.of == mean else None
        return None

    def unit(self, node: onnx.NodeProto, x: str, length: Length) -> _Symbol:
        """Rows over their length."""
        out, n = node.output[0], self.features[x]
        self.value(out, n, x)
        self.operators.append(Norm(x, out, NormKind.UNIT, np.ones(n), None, 1e-24))
        return self.symbols[out]

    def with_constant(self, node: onnx.NodeProto, kind: str, a: _Symbol, c: Float64) -> _Symbol | None:
        if isinstance(a, _Scores) and not a.done:
            if kind in ("Mul", "Div") and c.size == 1:
                return replace(a, scale=a.scale * float(c.reshape(-1)[0]) ** (1 if kind == "Mul" else -1))
            return self.masked(node, a, (c,)) if kind == "Add" else None
        if isinstance(a, Looked):
            if kind in ("Mul", "Div") and c.size == 1:
                return a.times(float(c.reshape(-1)[0]) ** (1 if kind == "Mul" else -1))
            # Positions and token types, added to the rows of embeddings before anything reads them.
            n = a.tables[0][1].shape[1]
            return a.plus(Looked((), np.broadcast_to(c, (1, self.tokens, n)).reshape(-1, n))) if kind == "Add" else None
        if isinstance(a, View) and kind in ("Mul", "Div"):
            return a.times(c if kind == "Mul" else 1 / c)
        if c.size == 1 and (curve := _as_curve(a)) is not None:
            return Curve(curve.value, curve.shape, _scalar(kind, curve.of, float(c.reshape(-1)[0])))
        return None

    def masked(self, node: onnx.NodeProto, scores: _Scores, masks: Sequence[npt.NDArray[np.generic]]) -> _Scores:
        """Scores plus a mask that is proved causal, or that of padding, or nothing."""
        seen = []
        for mask in masks:
            spread = np.broadcast_to(mask, (*np.broadcast_shapes(mask.shape[:-2], (1, 1)), self.tokens, self.tokens))
            seen.append(spread > _MASKED)
            if (spread[seen[-1]] != 0).any():
                raise self.refuse(node, "not causal: the mask weighs what a token sees")
        return self.seeing(node, scores, seen)

    def seeing(self, node: onnx.NodeProto, scores: _Scores, seen: Sequence[npt.NDArray[np.bool_]]) -> _Scores:
        """Scores of which only those `seen` [.., n, n] count."""
        kind = kind_of_mask(seen, self.masks)
        if kind is None or (kind is not Mask.NONE and scores.mask not in (Mask.NONE, kind)):
            raise self.refuse(node, "not causal: the mask lets a token see later ones, or is no padding's")
        return scores if kind is Mask.NONE else replace(scores, mask=kind)

    def chosen(self, node: onnx.NodeProto, inputs: Sequence[_Symbol]) -> _Symbol | None:
        """Where(mask, scores, -inf), Where(masked, -inf, scores), and Where(never, 0, weights)."""
        condition, yes, no = inputs
        if not isinstance(condition, Constant | Probed):
            return None
        values = condition.values if isinstance(condition, Probed) else (condition.value,)
        conditions = [np.asarray(v, np.bool_) for v in values]
        if isinstance(yes, Constant) and isinstance(no, _Scores) and not any(c.any() for c in conditions):
            return no
        if isinstance(yes, Constant) and isinstance(no, _Scores):
            conditions, (yes, no) = [~c for c in conditions], (no, yes)
        if not isinstance(yes, _Scores) or not isinstance(no, Constant) or yes.done:
            return None
        if (no.value.astype(np.float64) > _MASKED).any():
            return None
        wide = [np.broadcast_to(c, (*np.broadcast_shapes(c.shape[:-2], (1, 1)), self.tokens, self.tokens)) for c in conditions]
        return self.seeing(node, yes, wide)

    def unary(self, node: onnx.NodeProto, x: _Symbol) -> _Symbol | None:
        if node.op_type == "Neg":
            return x.times(np.float64(-1)) if isinstance(x, View) else None
        curve = _as_curve(x)
        if curve is None:
            return None
        inner = curve.of
        if node.op_type == "Gelu":
            tanh = next((a.s for a in node.attribute if a.name == "approximate"), b"none") == b"tanh"
            own: Callable[[Float64], Float64] = partial(tables.real, Function.GELU_TANH if tanh else Function.GELU)
        else:
            own = _UNARY[node.op_type]
        return Curve(curve.value, curve.shape, lambda t: own(inner(t)))

    def moved(self, node: onnx.NodeProto, inputs: Sequence[_Symbol]) -> View | dict[str, _Symbol] | None:
        """Operators that only move elements."""
        x = inputs[0]
        assert isinstance(x, View)
        kind = node.op_type
        if kind in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return x.moved(lambda v: v.reshape(self.g.shape(node.output[0])))
        if kind == "Expand":
            return x.moved(lambda v: np.broadcast_to(v, self.g.shape(node.output[0])))
        if kind == "Transpose":
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            return x.moved(lambda v: np.transpose(v, perm))
        if kind == "Split":
            axis = int(attribute(node, "axis", 0))
            sizes = [self.g.shape(out)[axis] for out in node.output]
            cuts = np.cumsum(sizes)[:-1].tolist()
            parts = [x.moved(lambda v, n=n: np.split(v, cuts, axis)[n]) for n in range(len(sizes))]  # type: ignore[misc]
            return dict(zip(node.output, parts, strict=True))
        constants = [s.value for s in inputs[1:] if isinstance(s, Constant)]
        if kind == "Slice" and len(constants) == len(inputs) - 1:
            return self.picked(x.moved(lambda v: v[_slices(v.ndim, [c.reshape(-1).tolist() for c in constants])]))
        if kind == "Gather" and len(constants) == 1:
            return self.picked(
                x.moved(lambda v: np.take(v, constants[0].astype(np.int64), axis=int(attribute(node, "axis", 0))))
            )
        if kind == "Concat" and all(isinstance(s, View) and s.value == x.value for s in inputs):
            views = [s for s in inputs if isinstance(s, View) and 0 not in s.shape]
            most = max(len(v.terms) for v in views)
            views = [v.padded(most) for v in views]
            axis = int(attribute(node, "axis", 0))
            joined = [tuple(np.concatenate([v.terms[n][part] for v in views], axis) for part in (0, 1)) for n in range(most)]
            return replace(x, terms=tuple((i.astype(np.int64), c.astype(np.float64)) for i, c in joined))
        return None

    def picked(self, view: View) -> View:
        """A view that is the first row of a value is a value of its own."""
        if view.value in self.single or self.tokens == 1 or not view.starts(self.features[view.value]):
            return view
        if (view.terms[0][1] != 1).any():
            return view
        return View.rows(self.pooled(view.value, PoolKind.FIRST), view.shape)

    def product(self, node: onnx.NodeProto, a: _Symbol, b: _Symbol) -> _Symbol | None:
        """q.k, or weights of the values times v."""
        if isinstance(a, _Scores) and a.done and isinstance(b, View):
            v = heads(b, self.features[b.value])
            if v is None or v.cos is not None or v.scale != 1:
                return None
            return self.attention(node, a, v)
        if not isinstance(a, View) or not isinstance(b, View):
            return None
        q = heads(_four(a), self.features[a.value])
        k = heads(_four(b.moved(lambda x: np.swapaxes(x, -1, -2))), self.features[b.value])
        if q is None or k is None or q.dim != k.dim:
            return None
        return _Scores(q, k, q.scale * k.scale)

    def attention(self, node: onnx.NodeProto, s: _Scores, v: HeadView) -> _Symbol:
        if self.causal and s.mask is not Mask.CAUSAL:
            raise self.refuse(node, "not causal: attention without a causal mask")
        self.kinds.add(s.mask)
        count, kv = len(s.q.own), len(set(s.k.own))
        groups = count // kv
        order = [sorted(set(own)) for own in (s.q.own, s.k.own, v.own)]
        grouped = not count % kv and s.k.own == tuple(order[1][h // groups] for h in range(count))
        if list(s.q.own) != order[0] or not grouped or v.own != tuple(order[2][h // groups] for h in range(count)):
            raise self.refuse(node, "heads in another order than query head h reading key head h // group")
        strides = [_stride(own) for own in order]
        if not all(strides):
            raise self.refuse(node, "heads that are not evenly spaced")
        out = node.output[0]
        parts = [
            self.rotated(x, n, stride * x.dim) for x, n, stride in zip((s.q, s.k, v), (count, kv, kv), strides, strict=True)
        ]
        q, k, own = (value for value, _, _ in parts)
        first = (parts[0][1], parts[1][1], parts[2][1])
        stride = (parts[0][2], parts[1][2], parts[2][2])
        self.operators.append(Attention(q, k, own, out, count, kv, s.q.dim, s.scale, s.mask is Mask.CAUSAL, first, stride))
        self.features[out] = count * v.dim
        tokens = self.g.shape(out)[2]
        index = (
            np.arange(tokens)[None, :, None] * self.features[out] + np.arange(count)[:, None, None] * v.dim + np.arange(v.dim)
        )
        return View(out, ((index[None], np.ones((1, *index.shape))),), index.size)

    def rotated(self, view: HeadView, count: int, stride: int) -> tuple[str, int, int]:
        """The value that holds the heads after rotary embedding, its first feature, and the features from head to head."""
        if view.cos is None or view.sin is None:
            return view.value, view.first, stride
        key = (view.value, view.first, count, view.dim)
        if key not in self.turned:
            name = f"{view.value} rotated {view.first}"
            self.turned[key] = name
            self.features[name] = count * view.dim
            self.operators.append(Rotary(view.value, name, count, view.dim, view.cos, view.sin, view.first, stride))
        return self.turned[key], 0, view.dim


def _stride(own: Sequence[int]) -> int:
    """The even distance of ascending numbers, 1 for one number, 0 if there is none."""
    steps = {b - a for a, b in itertools.pairwise(own)} or {1}
    return steps.pop() if len(steps) == 1 else 0


def _rows(a: _Symbol, b: _Symbol) -> bool:
    return isinstance(a, View) and isinstance(b, View)


def _as_curve(x: _Symbol) -> Curve | None:
    if isinstance(x, Curve):
        return x
    if isinstance(x, View) and (c := x.factor()) is not None:
        return Curve(x.value, x.shape, lambda t: c * t)
    return None


def _both_curves(kind: str, a: _Symbol, b: _Symbol) -> Curve | None:
    """Two functions of the same value as one."""
    f, g = _as_curve(a), _as_curve(b)
    if f is None or g is None or f.value != g.value or kind not in ("Add", "Sub", "Mul", "Div"):
        return None
    own, other = f.of, g.of
    join = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[kind]
    return Curve(f.value, f.shape, lambda t: join(own(t), other(t)))


def _scalar(kind: str, f: Callable[[Float64], Float64], c: float) -> Callable[[Float64], Float64]:
    join = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}[kind]
    return lambda t: join(f(t), c)


def _four(view: View) -> View:
    """[heads, tokens, dim] as [1, heads, tokens, dim]."""
    return view.moved(lambda v: v[None]) if len(view.shape) == 3 else view


def _slices(rank: int, parts: Sequence[Sequence[int]]) -> tuple[slice, ...]:
    starts, ends = parts[0], parts[1]
    axes = parts[2] if len(parts) > 2 else range(len(starts))
    steps = parts[3] if len(parts) > 3 else [1] * len(starts)
    out = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        out[axis] = slice(start, end, step)
    return tuple(out)


def _inputs(g: Graph) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """(name, shape, type) of every input."""
    constant = {i.name for i in g.model.graph.initializer}
    return [
        (i.name, g.shape(i.name), onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
        for i in g.model.graph.input
        if i.name not in constant
    ]


def _token_input(g: Graph, where: str) -> str:
    """The input of token ids: the one that the first embedding's Gather reads, reshaped or not."""
    names = {name for name, _, kind in _inputs(g) if kind.kind in "iu"}
    for node in g.nodes:
        if node.op_type != "Gather" or g.constant(node.input[0]) is None:
            continue
        name = str(node.input[1])
        while name not in names and (before := g.node_of(name)) is not None and before.op_type in (*_PASS, *_SHAPED):
            name = str(before.input[0])
        if name in names:
            return name
    raise UnsupportedOperator("no embedding of token ids", where, "a language model with an input of token ids")


def _usual(name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """What an input beside the token ids holds unless someone says otherwise: no padding, positions in order, one type."""
    if "mask" in name:
        return np.ones(shape, kind)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(kind)
    return np.zeros(shape, kind) if "type" in name else None


def read_transformer(g: Graph, found: Sequence[FoundLinear], where: str) -> Transformer:
    """The whole model as a decoder.

    Other inputs than the token ids mean: a mask of ones (no padding), positions 0, 1, .., token types 0.

    Raises:
        UnsupportedOperator: names the node that is not understood, or that is not causal.
    """
    ids = _token_input(g, where)
    fixed: dict[str, npt.NDArray[Any]] = {}
    for name, shape, kind in _inputs(g):
        if name != ids:
            value = _usual(name, shape, kind)
            if value is None:
                hint = "export without caches: the cache is made by --generate"
                raise UnsupportedOperator(f"input {name!r} beside the token ids", where, hint)
            fixed[name] = value
    return _read(g, found, where, [ids], fixed, "", "compile without --generate")


def read_whole(g: Graph, found: Sequence[FoundLinear], where: str) -> Transformer:
    """The whole model for whole sequences: attention may be causal, see all tokens, or all that are no padding.

    An input that the model does not heed as ids or as a mask of padding is fixed to its usual value (`Transformer.fixed`).

    Raises:
        UnsupportedOperator: names the node that is not understood.
    """
    ids = _token_input(g, where)
    usual: dict[str, npt.NDArray[Any]] = {}
    more: list[str] = []
    mask = ""
    for name, shape, kind in _inputs(g):
        if name == ids:
            continue
        value = _usual(name, shape, kind)
        if value is None or len(shape) != 2 or shape[0] != 1:
            raise UnsupportedOperator(f"input {name!r} beside the token ids", where, "compile with --operators linears")
        usual[name] = value
        if "mask" in name and not mask:
            mask = name
        elif "mask" not in name:
            more.append(name)
    tries: list[tuple[list[str], str]] = [(more, mask), (more, ""), ([], mask), ([], "")]
    error: UnsupportedOperator | None = None
    for own, heeded in dict.fromkeys((tuple(a), b) for a, b in tries):
        fixed = {name: value for name, value in usual.items() if name not in own and name != heeded}
        try:
            return _read(g, found, where, [ids, *own], fixed, heeded, "compile with --operators linears")
        except UnsupportedOperator as refused:
            error = refused
    assert error is not None
    raise error


def _read(
    g: Graph,
    found: Sequence[FoundLinear],
    where: str,
    ids: Sequence[str],
    fixed: Mapping[str, npt.NDArray[Any]],
    mask: str,
    hint: str,
) -> Transformer:
    """The model with these inputs as ids, this one as the mask of padding, and those of fixed values."""
    shape = g.shape(ids[0])
    if len(shape) != 2 or shape[0] != 1:
        raise UnsupportedOperator(f"token ids of shape {shape}", where, "[batch, tokens]")
    decoder = hint.endswith("--generate")
    walk = _Walk(g, found, shape[1], hint, decoder)
    walk.symbols |= {name: Ids(name) for name in ids}
    walk.symbols |= {name: Constant(value) for name, value in fixed.items()}
    if mask:
        kind = next(kind for name, _, kind in _inputs(g) if name == mask)
        walk.masks = probes(shape[1])
        walk.symbols[mask] = Probed(tuple(m.astype(kind) for m in walk.masks))
    walk.run()
    outputs = [_output(walk, o.name, where) for o in g.model.graph.output]
    if decoder:
        outputs = outputs[:1]
    if walk.looked is None:
        raise UnsupportedOperator("no embedding of token ids", where, "a language model with an input of token ids")
    if mask and not walk.kinds <= {Mask.PADDING}:
        raise UnsupportedOperator("attention that sees padding beside what heeds the mask", where, hint)
    lookups = tuple(Lookup(name, table) for name, table in sorted(walk.looked.tables, key=lambda pair: pair[0] != ids[0]))
    operators = _needed(walk.operators, {o.value for o in outputs})
    fixed = {name: value for name, value in fixed.items() if name in walk.used}
    return Transformer(
        lookups, walk.looked.constant, walk.input, operators, tuple(outputs), mask if mask in walk.used else None, fixed
    )


def _output(walk: _Walk, name: str, where: str) -> Output:
    """What an output of the graph is."""
    symbol = walk.symbol(name)
    node = walk.g.node_of(name)
    if node is not None and isinstance(symbol, Curve | Weighted):
        return Output(name, walk.rows(node, name), walk.g.shape(name))
    if isinstance(symbol, View) and symbol.factor() == 1:
        return Output(name, symbol.value, walk.g.shape(name))
    if isinstance(symbol, View) and not walk.causal and len(symbol.terms) == 1 and (symbol.terms[0][1] == 1).all():
        return Output(name, symbol.value, walk.g.shape(name), symbol.terms[0][0])
    raise UnsupportedOperator(f"output {name!r} is not rows of logits", where, "a language model that ends with its logits")


def _needed(operators: Sequence[Op], wanted: set[str]) -> tuple[Op, ...]:
    """The operators that the wanted values need, in their order."""
    kept: list[Op] = []
    for op in reversed(operators):
        if op.y in wanted:
            kept.append(op)
            wanted = wanted | set(operands(op))
    return tuple(reversed(kept))
