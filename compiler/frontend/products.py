"""Products with a constant in another form than a linear's as MatMuls that have it on the right, in two dimensions.

| form | becomes |
| --- | --- |
| MatMul with the constant on the left | the transposed product |
| MatMul with a constant [experts, k, n] | a product for each expert |
| Einsum of an activation and a constant | one product, or one for each index that both have and the result too |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.fold import drop_dead, infer_shapes
from axlora.compiler.frontend.macs import einsum_terms
from axlora.compiler.frontend.onnx_graph import Graph, attribute

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MOST = 256
"""Products that one node may become."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Product:
    """A product of activation and constant by letters: each dimension of either, and of the result, has one."""

    x: str
    w: str
    y: str
    right: int
    """Which input the constant is."""
    extents: dict[str, int]
    experts: str = ""
    """Letters of the constant alone, each index of which is a linear of its own."""

    @property
    def inner(self) -> str:
        """Letters that are summed over."""
        return "".join(c for c in self.x if c in self.w and c not in self.y)

    @property
    def batch(self) -> str:
        """Letters of both that stay."""
        return "".join(c for c in self.w if c in self.x and c in self.y)

    @property
    def rows(self) -> str:
        """Letters of the activation alone."""
        return "".join(c for c in self.x if c not in self.w)

    @property
    def columns(self) -> str:
        """Letters of the constant alone, less `experts`."""
        return "".join(c for c in self.w if c not in self.x and c not in self.experts)

    @property
    def is_linear(self) -> bool:
        """Whether every letter has its part, none is there twice, products are not too many, and something is summed."""
        terms = (self.x, self.w, self.y)
        parts = self.batch + self.experts + self.rows + self.columns
        distinct = all(len(set(term)) == len(term) for term in terms)
        return distinct and self.size(self.inner) > 1 and sorted(parts) == sorted(self.y) and self.count <= _MOST

    @property
    def count(self) -> int:
        """Linears that it becomes."""
        return self.size(self.batch + self.experts)

    def size(self, letters: str) -> int:
        """Product of their extents."""
        return prod(self.extents[c] for c in letters)


def _of_matmul(g: Graph, node: onnx.NodeProto, right: int) -> _Product | None:
    """A MatMul whose constant is on the left, or has more dimensions than two."""
    shapes = [g.shape(name) for name in node.input]
    y = g.shape(node.output[0])
    if min(map(len, shapes)) < 2 or (right and len(shapes[1]) == 2):
        return None
    lead = _LETTERS[: len(y) - 2]
    ends = ("yk", "kz")
    terms = [lead[len(lead) - len(s) + 2 :] + end for s, end in zip(shapes, ends, strict=True)]
    extents = dict(zip(lead + "yz", y, strict=True)) | {"k": shapes[0][-1]}
    kept = ["".join(c for c, n in zip(t, s, strict=True) if n == extents[c]) for t, s in zip(terms, shapes, strict=True)]
    experts = "".join(c for c in kept[right] if c in lead and c not in kept[1 - right])
    return _Product(kept[1 - right], kept[right], lead + "yz", right, extents, experts)


def _of_einsum(g: Graph, node: onnx.NodeProto, right: int) -> _Product | None:
    """An Einsum of two operands, with the letters of its result."""
    terms, result = einsum_terms(node)
    shapes = [g.shape(name) for name in node.input]
    if result is None or len(terms) != 2 or any("." in t for t in (*terms, result)):
        return None
    extents: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if len(term) != len(shape) or any(extents.setdefault(c, n) != n for c, n in zip(term, shape, strict=True)):
            return None
    return _Product(terms[1 - right], terms[right], result, right, extents)


@dataclass(frozen=True)
class _Weight:
    """A constant [.., ..] as floats, or as codes with their scale and zero point."""

    values: Array
    scale: Array | None = None
    zero: Array | None = None
    """As scale, which has one element or the extent of `axis`."""
    axis: int = 0

    @classmethod
    def of(cls, g: Graph, name: str) -> _Weight | None:
        """What a tensor holds; None if it is no such constant."""
        node = g.node_of(name)
        if node is None or node.op_type != "DequantizeLinear":
            value = g.constant(name)
            return None if value is None else cls(value)
        codes, scale, *zero = (g.constant(n) for n in node.input if n)
        if codes is None or scale is None or None in [z if z is None else 0 for z in zero]:
            return None
        axis = int(attribute(node, "axis", 1)) % codes.ndim
        if attribute(node, "block_size") or scale.size not in (1, codes.shape[axis]):
            return None
        return cls(codes, scale, zero[0] if zero else None, axis)

    def broadcast(self, part: Array) -> Array:
        """A scale or zero point in as many dimensions as the values have."""
        shape = [1] * self.values.ndim
        if part.size > 1:
            shape[self.axis] = part.size
        return part.reshape(shape)


class _Rewriter:
    """Appends the nodes that replace one product, and their constants."""

    def __init__(self, g: Graph, node: onnx.NodeProto, product: _Product) -> None:
        self.g, self.node, self.p = g, node, product
        self.nodes: list[onnx.NodeProto] = []
        self.own = node.name or node.output[0]

    def add(self, kind: str, inputs: Sequence[str], called: str, **attributes: Any) -> str:
        name = f"{self.node.output[0]}.{kind}.{len(self.nodes)}"
        number = "" if kind == "MatMul" else f".{len(self.nodes)}"
        made = helper.make_node(kind, list(inputs), [name], name=f"{self.own}{called}{number}", **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return name

    def hold(self, name: str, value: Array) -> str:
        """A constant of the model."""
        own = f"{self.node.output[0]}.{name}"
        self.g.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), own))
        return own

    def turned(self, x: str, letters: str, wanted: str) -> str:
        """A tensor with its dimensions in another order."""
        order = [letters.index(c) for c in wanted]
        return x if letters == wanted else self.add("Transpose", [x], "/Transpose", perm=order)

    def shaped(self, x: str, dims: Sequence[int], given: Sequence[int]) -> str:
        shape = self.hold(f"shape {len(self.nodes)}", np.array(dims, np.int64)) if list(dims) != list(given) else ""
        return self.add("Reshape", [x, shape], "/Reshape") if shape else x

    def sizes(self, letters: str) -> list[int]:
        return [self.p.extents[c] for c in letters]

    def weights(self) -> list[str] | None:
        """The weight [inner, columns] of each linear; None if the constant is in no form that can be cut."""
        p, name = self.p, self.node.input[self.p.right]
        if sorted(p.w) == sorted(p.inner + p.columns) and len(p.inner) == len(p.columns) == len(self.g.shape(name)) - 1:
            return [self.turned(name, p.w, p.inner + p.columns)]
        weight = _Weight.of(self.g, name)
        if weight is None:
            return None
        whole = (p.count, p.size(p.inner), p.size(p.columns))
        cut = self._ordered(weight.values).reshape(whole)
        if weight.scale is None:
            return [self.hold(f"{name}.{i}", part) for i, part in enumerate(cut)]
        parts = [self._columns(weight, v) for v in (weight.scale, weight.zero) if v is not None]
        if any((part != part[:, :1]).any() for part in parts):
            return None  # rows of their own scale
        alike = all((part == part[:, :1, :1]).all() for part in parts)
        found = []
        for i, codes in enumerate(cut):
            held = [self.hold(f"{name}.{i}", codes)]
            held += [self.hold(f"{name}.{i} part {n}", part[i, 0, 0] if alike else part[i, 0]) for n, part in enumerate(parts)]
            found.append(self.add("DequantizeLinear", held, f"/{i}/DequantizeLinear", axis=1))
        return found

    def _ordered(self, values: Array) -> Array:
        """A constant with dimensions of one that no letter has left out, by linear, inner and column."""
        p = self.p
        order = p.batch + p.experts + p.inner + p.columns
        return np.transpose(values.reshape(self.sizes(p.w)), [p.w.index(c) for c in order])

    def _columns(self, weight: _Weight, part: Array) -> Array:
        """A scale or zero point of each element, by linear, inner and column."""
        p = self.p
        wide = np.broadcast_to(weight.broadcast(part), weight.values.shape)
        return self._ordered(wide).reshape(p.count, p.size(p.inner), p.size(p.columns))

    def run(self) -> list[onnx.NodeProto] | None:
        """The nodes in place of the product; None if it stays."""
        p, x = self.p, self.node.input[1 - self.p.right]
        weights = self.weights()
        if weights is None:
            return None
        x = self.turned(self.shaped(x, self.sizes(p.x), self.g.shape(x)), p.x, p.batch + p.rows + p.inner)
        lead = [p.size(p.batch)] if p.batch else []
        flat = [*lead, *self.sizes(p.rows), p.size(p.inner)]
        x = self.shaped(x, flat, self.sizes(p.batch + p.rows + p.inner))
        split = p.batch + p.experts
        results = []
        for i, weight in enumerate(weights):
            own = x
            if p.batch:
                index = self.hold(f"index {i}", np.array(i // p.size(p.experts), np.int64))
                own = self.add("Gather", [x, index], f"/{i}/Gather", axis=0)
            results.append(self.add("MatMul", [own, weight], f"/{i}" if split else ""))
        got = [*self.sizes(p.rows), p.size(p.columns)]
        if split:
            results = [self.shaped(r, [1, *got], got) for r in results]
            got = [len(results), *got]
            results = [self.add("Concat", results, "/Concat", axis=0)]
        y = self.shaped(results[0], self.sizes(split + p.rows + p.columns), got)
        y = self.turned(y, split + p.rows + p.columns, p.y)
        if y != self.nodes[-1].output[0]:
            self.add("Identity", [y], "/Identity")
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes


_FORMS = {"MatMul": _of_matmul, "Einsum": _of_einsum}


def _constants(g: Graph) -> set[str]:
    """Tensors that constants alone lead to."""
    found = {i.name for i in g.model.graph.initializer}
    for node in g.nodes:
        if node.op_type == "Constant" or (node.input and all(name in found for name in node.input if name)):
            found |= set(node.output)
    return found


def plain_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every product of an activation and a constant as a linear's, as far as the constant can be cut.

    Args:
        model: with shapes inferred and every dimension known.
    """
    g = Graph(model)
    constants = _constants(g)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in g.nodes:
        fixed = [name in constants for name in node.input]
        form = _FORMS.get(node.op_type)
        product = form(g, node, fixed.index(True)) if form is not None and fixed in ([True, False], [False, True]) else None
        made = _Rewriter(g, node, product).run() if product is not None and product.is_linear else None
        nodes += [node] if made is None else made
        changed |= made is not None
    if not changed:
        return model
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    drop_dead(model)
    return infer_shapes(model)
