"""A decoder's graph as a `transformer.ops.Transformer`: linears and norms by structure, the rest by what it does to elements.

Every node is followed from the token ids on; what mixes tokens in any way but causal attention is refused by its name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.found import FoundLinear
from axlora.compiler.frontend.graph import Graph, attribute
from axlora.compiler.frontend.norms import FoundNorm, norms
from axlora.compiler.frontend.views import Constant, Curve, HeadView, Ids, View, heads
from axlora.compiler.transformer.ops import Add, Apply, Attention, Linear, Mul, Norm, NormKind, Op, Rotary, Transformer

Float64 = npt.NDArray[np.float64]
_PASS = ("Identity", "Cast", "CastLike", "Dropout")
_MASKED = -1e4
"""A mask's value at and below which a key is not seen."""
_UNARY: dict[str, Callable[[Float64], Float64]] = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
}


@dataclass(frozen=True)
class _Scores:
    """q.k of heads, scaled; `causal` once a mask was added; `done` after the softmax."""

    q: HeadView
    k: HeadView
    scale: float
    causal: bool = False
    done: bool = False


_Symbol = Constant | Ids | View | Curve | _Scores


@dataclass
class _Walk:
    g: Graph
    found: Sequence[FoundLinear]
    ids: str
    symbols: dict[str, _Symbol] = field(default_factory=dict)
    operators: list[Op] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    embedding: Float64 | None = None
    positions: Float64 | None = None
    input: str = ""
    turned: dict[tuple[str, int, int, int], str] = field(default_factory=dict)

    def refuse(self, node: onnx.NodeProto, what: str) -> UnsupportedOperator:
        """An error that names the node."""
        return UnsupportedOperator(what, f"node {node.name or node.output[0]!r} ({node.op_type})", "compile without --generate")

    def value(self, name: str, features: int) -> None:
        """A tensor that is rows of a new value of its own name."""
        self.features[name] = features
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
        if isinstance(symbol, View) and symbol.factor() == 1:
            return symbol.value
        raise self.refuse(node, "reads a tensor that is not rows of features, one a token")

    def applied(self, node: onnx.NodeProto, curve: Curve) -> str:
        """The value of an activation function."""
        function = curve.function()
        if function is None:
            raise self.refuse(node, "an element-wise function that has no table")
        name = f"{curve.value} {function.value}"
        if name not in self.features:
            self.features[name] = self.features[curve.value]
            self.operators.append(Apply(curve.value, name, function))
        return name

    # Nodes

    def run(self) -> None:
        """Follow every node."""
        linears = {self.g.producer[f.result]: f for f in self.found}
        inside = {i for f in self.found for i in f.nodes}
        by_last: dict[int, FoundNorm] = {n.nodes[-1]: n for n in norms(self.g)}
        inside |= {i for n in by_last.values() for i in n.nodes}
        for index, node in enumerate(self.g.nodes):
            if index in linears:
                self.linear(node, linears[index])
            elif index in by_last:
                self.norm(node, by_last[index])
            elif index not in inside:
                self.node(node)

    def linear(self, node: onnx.NodeProto, found: FoundLinear) -> None:
        x = self.rows(node, found.x_name)
        self.value(found.result, found.shape[1])
        self.operators.append(Linear(x, found.result, found.name))

    def norm(self, node: onnx.NodeProto, found: FoundNorm) -> None:
        x = self.rows(node, found.x)
        self.value(found.y, self.features[x])
        kind = NormKind.LAYER if found.centred else NormKind.RMS
        self.operators.append(Norm(x, found.y, kind, found.gain, found.bias, found.eps))

    def node(self, node: onnx.NodeProto) -> None:
        """One node that is neither of a linear nor of a norm."""
        inputs = [self.symbol(name) for name in node.input if name]
        if all(isinstance(s, Constant) for s in inputs):
            self.constant(node, [s for s in inputs if isinstance(s, Constant)])
            return
        kind = node.op_type
        result: _Symbol | dict[str, _Symbol] | None
        if kind in _PASS:
            # `read` made all floats float32: a Cast that is left is to integers and back, which rounds.
            whole = kind == "Cast" and int(attribute(node, "to")) != onnx.TensorProto.FLOAT and not isinstance(inputs[0], Ids)
            result = None if whole else inputs[0]
        elif kind == "Gather" and isinstance(inputs[1], Ids):
            self.embed(node, inputs[0])
            return
        elif kind in ("Add", "Sub", "Mul", "Div", "Pow", "Where") and len(inputs) >= 2:
            result = self.joined(node, kind, inputs)
        elif kind == "MatMul":
            result = self.product(node, inputs[0], inputs[1])
        elif kind == "Softmax" and isinstance(inputs[0], _Scores):
            s = inputs[0]
            if int(attribute(node, "axis", -1)) not in (-1, len(self.g.shape(node.input[0])) - 1):
                raise self.refuse(node, "softmax over anything but the keys")
            result = _Scores(s.q, s.k, s.scale, s.causal, True)
        elif kind == "IsNaN" and isinstance(inputs[0], _Scores) and inputs[0].done:
            result = Constant(np.zeros((1, 1, 1, 1), bool))  # a causal row sees itself: no softmax is empty
        elif kind in _UNARY or kind in ("Gelu", "Neg"):
            result = self.unary(node, inputs[0])
        elif isinstance(inputs[0], View | Curve):
            first = inputs[0]
            if isinstance(first, Curve):
                first = View.rows(self.applied(node, first), first.shape)
            result = self.moved(node, [first, *inputs[1:]])
        else:
            result = None
        if result is None:
            raise self.refuse(node, "is not understood between embeddings and logits")
        self.symbols |= result if isinstance(result, dict) else {node.output[0]: result}

    def constant(self, node: onnx.NodeProto, inputs: Sequence[Constant]) -> None:
        """Evaluate a node that no input changes."""
        if node.op_type == "Constant":
            self.symbols[node.output[0]] = Constant(np.asarray(self.g.constant(node.output[0])))
            return
        values = [
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in dict.fromkeys(node.input) if n
        ]
        outs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in node.output]
        graph = onnx.helper.make_graph([node], "constant", values, outs)
        model = onnx.helper.make_model(graph, opset_imports=self.g.model.opset_import)
        feed = dict(zip([n for n in node.input if n], (s.value for s in inputs), strict=True))
        for name, value in zip(node.output, ReferenceEvaluator(model).run(None, feed), strict=True):
            self.symbols[name] = Constant(np.asarray(value))

    def embed(self, node: onnx.NodeProto, table: _Symbol) -> None:
        if not isinstance(table, Constant) or self.embedding is not None:
            raise self.refuse(node, "a second embedding of the token ids")
        if int(attribute(node, "axis", 0)) != 0:
            raise self.refuse(node, "picks features, not tokens, by the token ids")
        self.embedding = table.value.astype(np.float64)
        self.input = node.output[0]
        self.value(self.input, self.embedding.shape[1])

    def joined(self, node: onnx.NodeProto, kind: str, inputs: Sequence[_Symbol]) -> _Symbol | None:
        """Arithmetic of two tensors."""
        if kind == "Where":
            return self.chosen(inputs)
        a, b = inputs
        if isinstance(a, Constant) and kind in ("Add", "Mul"):
            a, b = b, a
        if isinstance(b, Constant):
            return self.with_constant(node, kind, a, b.value.astype(np.float64))
        if kind in ("Add", "Sub") and isinstance(a, View) and isinstance(b, View) and a.value == b.value and a.factor() is None:
            return a.plus(b.times(np.float64(1 if kind == "Add" else -1)))
        curve = _both_curves(kind, a, b)
        if curve is not None and (curve.function() is not None or not _rows(a, b)):
            return curve
        if kind not in ("Add", "Mul") or not isinstance(a, View | Curve) or not isinstance(b, View | Curve):
            return None
        x, y = (self.rows(node, name) for name in node.input)
        out = node.output[0]
        self.value(out, self.features[x])
        self.operators.append(Add(x, y, out) if kind == "Add" else Mul(x, y, out))
        return self.symbols[out]

    def with_constant(self, node: onnx.NodeProto, kind: str, a: _Symbol, c: Float64) -> _Symbol | None:
        if isinstance(a, _Scores) and not a.done:
            if kind in ("Mul", "Div") and c.size == 1:
                return _Scores(a.q, a.k, a.scale * float(c.reshape(-1)[0]) ** (1 if kind == "Mul" else -1), a.causal)
            return self.masked(node, a, c) if kind == "Add" else None
        rows = self.only_embeddings(node, a)
        if rows and kind == "Mul" and c.size == 1:
            assert self.embedding is not None
            self.embedding = self.embedding * float(c.reshape(-1)[0])
            self.positions = None if self.positions is None else self.positions * float(c.reshape(-1)[0])
            return a
        if isinstance(a, View) and kind in ("Mul", "Div"):
            return a.times(c if kind == "Mul" else 1 / c)
        if rows and kind == "Add":
            # Positions and token types, added to the rows of embeddings before anything reads them.
            shape = self.g.shape(self.input)
            more = np.broadcast_to(c, shape).reshape(-1, shape[-1])
            self.positions = more if self.positions is None else self.positions + more
            return a
        if c.size == 1 and (curve := _as_curve(a)) is not None:
            constant, f = float(c.reshape(-1)[0]), curve.of
            return Curve(curve.value, curve.shape, _scalar(kind, f, constant)) if kind != "Sub" or a is not None else None
        return None

    def only_embeddings(self, node: onnx.NodeProto, a: _Symbol) -> bool:
        """Whether a is the rows of embeddings, which nothing but this node reads: they may be changed in place."""
        if self.operators or not isinstance(a, View) or a.value != self.input or a.factor() != 1:
            return False
        return all(len(self.g.readers.get(name, [])) == 1 for name in node.input if self.symbol(name) is a)

    def masked(self, node: onnx.NodeProto, scores: _Scores, mask: Float64) -> _Scores:
        """Scores plus a constant mask that is proved causal, or is zero."""
        tokens = scores.q.cos.shape[0] if scores.q.cos is not None else int(mask.shape[-1])
        whole = np.broadcast_to(mask, (*np.broadcast_shapes(mask.shape[:-2], (1, 1)), tokens, tokens))
        seen = whole > _MASKED
        if (whole[seen] != 0).any() or not _causal(seen):
            if not whole.any():
                return scores
            raise self.refuse(node, "not causal: the mask lets a token see later ones, or weighs what it sees")
        return _Scores(scores.q, scores.k, scores.scale, True)

    def chosen(self, inputs: Sequence[_Symbol]) -> _Symbol | None:
        """Where(mask, scores, -inf), and Where(never, 0, weights)."""
        condition, yes, no = inputs
        if not isinstance(condition, Constant):
            return None
        if isinstance(yes, Constant) and isinstance(no, _Scores) and not condition.value.any():
            return no
        if (
            isinstance(yes, _Scores)
            and isinstance(no, Constant)
            and not yes.done
            and (no.value.astype(np.float64) <= _MASKED).all()
        ):
            return _Scores(yes.q, yes.k, yes.scale, True) if _causal(condition.value) else None
        return None

    def unary(self, node: onnx.NodeProto, x: _Symbol) -> _Symbol | None:
        if node.op_type == "Neg":
            return x.times(np.float64(-1)) if isinstance(x, View) else None
        curve = _as_curve(x)
        if curve is None:
            return None
        inner = curve.of
        if node.op_type == "Gelu":
            tanh = next((a.s for a in node.attribute if a.name == "approximate"), b"none") == b"tanh"
            own: Callable[[Float64], Float64] = _gelu_tanh if tanh else _gelu
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
            return x.moved(lambda v: v[_slices(v.ndim, [c.reshape(-1).tolist() for c in constants])])
        if kind == "Gather" and len(constants) == 1:
            return x.moved(lambda v: np.take(v, constants[0].astype(np.int64), axis=int(attribute(node, "axis", 0))))
        if kind == "Concat" and all(isinstance(s, View) and s.value == x.value for s in inputs):
            views = [s for s in inputs if isinstance(s, View) and 0 not in s.shape]
            most = max(len(v.terms) for v in views)
            views = [v.padded(most) for v in views]
            axis = int(attribute(node, "axis", 0))
            joined = [tuple(np.concatenate([v.terms[n][part] for v in views], axis) for part in (0, 1)) for n in range(most)]
            return View(x.value, tuple((i.astype(np.int64), c.astype(np.float64)) for i, c in joined))
        return None

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
        if not s.causal:
            raise self.refuse(node, "not causal: attention without a causal mask")
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
        self.operators.append(Attention(q, k, own, out, count, kv, s.q.dim, s.scale, True, first, stride))
        self.features[out] = count * v.dim
        tokens = self.g.shape(out)[2]
        index = (
            np.arange(tokens)[None, :, None] * self.features[out] + np.arange(count)[:, None, None] * v.dim + np.arange(v.dim)
        )
        return View(out, ((index[None], np.ones((1, *index.shape))),))

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


def _causal(seen: npt.NDArray[np.generic]) -> bool:
    """Whether [.., n, n] lets each token see itself and those before it, and no other."""
    n = seen.shape[-1]
    return seen.shape[-2:] == (n, n) and all(np.array_equal(m, np.tri(n, dtype=bool)) for m in seen.reshape(-1, n, n))


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


def _gelu(x: Float64) -> Float64:
    return np.asarray(0.5 * x * (1 + _UNARY["Erf"](x / np.sqrt(2))))


def _gelu_tanh(x: Float64) -> Float64:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


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


def _token_input(g: Graph, where: str) -> str:
    """The input of token ids: the one that an embedding's Gather reads."""
    names = [i.name for i in g.model.graph.input]
    for node in g.nodes:
        if node.op_type == "Gather" and node.input[1] in names and g.constant(node.input[0]) is not None:
            return str(node.input[1])
    raise UnsupportedOperator("no embedding of token ids", where, "a language model with an input of token ids")


def read_transformer(g: Graph, found: Sequence[FoundLinear], where: str) -> Transformer:
    """The whole model as a decoder.

    Other inputs than the token ids mean: a mask of ones (no padding), positions 0, 1, .., token types 0.

    Raises:
        UnsupportedOperator: names the node that is not understood, or that is not causal.
    """
    ids = _token_input(g, where)
    walk = _Walk(g, found, ids)
    walk.symbols[ids] = Ids()
    for entry in g.model.graph.input:
        if entry.name == ids:
            continue
        shape = g.shape(entry.name)
        kind = onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        if "mask" in entry.name:
            fill = np.ones(shape, kind)
        elif "position" in entry.name:
            fill = np.broadcast_to(np.arange(shape[-1]), shape).astype(kind)
        elif "type" in entry.name:
            fill = np.zeros(shape, kind)
        else:
            hint = "export without caches: the cache is made by --generate"
            raise UnsupportedOperator(f"input {entry.name!r} beside the token ids", where, hint)
        walk.symbols[entry.name] = Constant(fill)
    walk.run()
    output = g.model.graph.output[0].name
    logits = walk.symbols.get(output)
    if walk.embedding is None or not isinstance(logits, View) or logits.factor() != 1:
        raise UnsupportedOperator(
            f"output {output!r} is not rows of logits", where, "a language model that ends with its logits"
        )
    return Transformer(walk.embedding, walk.positions, walk.input, logits.value, tuple(walk.operators), ids, output)
