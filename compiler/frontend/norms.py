"""Layer and RMS norms of an ONNX graph, as one operator or taken apart, by structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.frontend.graph import Graph, attribute

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoundNorm:
    """y = (x - mean, if centred) / sqrt(mean of squares + eps) * gain + bias."""

    x: str
    y: str
    centred: bool
    gain: Float64
    bias: Float64 | None
    eps: float
    nodes: tuple[int, ...]
    """Indices of its nodes; the last writes y."""


def _node(g: Graph, name: str, *kinds: str) -> onnx.NodeProto | None:
    """The node of one of `kinds` behind a tensor and its Casts."""
    node = g.node_of(name)
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = g.node_of(node.input[0])
    return node if node is not None and node.op_type in kinds else None


def _plain(g: Graph, name: str) -> str:
    """The tensor behind Casts."""
    node = g.node_of(name)
    while node is not None and node.op_type in ("Cast", "Identity"):
        name = node.input[0]
        node = g.node_of(name)
    return name


def _reader(g: Graph, name: str, nodes: list[int], *kinds: str) -> onnx.NodeProto | None:
    """The only reader of a tensor, behind Casts, if it is one of `kinds`; appended to `nodes` with them."""
    while len(readers := g.readers.get(name, [])) == 1 and name not in g.outputs:
        node = g.nodes[readers[0]]
        nodes.append(readers[0])
        if node.op_type in kinds:
            return node
        if node.op_type not in ("Cast", "Identity"):
            return None
        name = node.output[0]
    return None


def _square(g: Graph, name: str) -> str | None:
    """d of a tensor d^2."""
    node = _node(g, name, "Pow", "Mul")
    if node is None:
        return None
    if node.op_type == "Pow":
        return _plain(g, node.input[0]) if g.scalar(node.input[1]) == 2 else None
    return _plain(g, node.input[0]) if node.input[0] == node.input[1] else None


def _last_axis(g: Graph, node: onnx.NodeProto) -> bool:
    """Whether a ReduceMean is over the last dimension alone."""
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1:
        value = g.constant(node.input[1])
        axes = None if value is None else [int(v) for v in value.reshape(-1)]
    rank = len(g.shape(node.input[0]))
    return axes is not None and [a % rank for a in axes] == [rank - 1]


def _taken_apart(g: Graph, index: int) -> FoundNorm | None:
    """The norm whose square root is node `index`."""
    root = g.nodes[index]
    added = _node(g, root.input[0], "Add")
    if added is None:
        return None
    side = 0 if g.scalar(added.input[1]) is not None else 1
    eps = g.scalar(added.input[1 - side])
    mean = _node(g, added.input[side], "ReduceMean")
    d = _square(g, mean.input[0]) if mean is not None and _last_axis(g, mean) else None
    if eps is None or mean is None or d is None:
        return None
    x, centred = d, False
    less = _node(g, d, "Sub")
    if less is not None:
        average = _node(g, less.input[1], "ReduceMean")
        if average is not None and _plain(g, average.input[0]) == _plain(g, less.input[0]) and _last_axis(g, average):
            x, centred = _plain(g, less.input[0]), True
    nodes = [index]
    found = _reader(g, root.output[0], nodes, "Reciprocal", "Div")
    if found is not None and (found.op_type == "Reciprocal" or g.scalar(found.input[0]) == 1):
        found = _reader(g, found.output[0], nodes, "Mul")
    if found is None or d not in [_plain(g, n) for n in found.input]:
        return None
    n = g.shape(x)[-1]
    y, gain, bias = found.output[0], np.ones(n), None
    for kind in ("Mul", "Add"):
        ahead: list[int] = []
        node = _reader(g, y, ahead, kind)
        if node is None:
            continue
        vector = next((v for name in node.input if (v := g.vector(name, n)) is not None), None)
        if vector is None:
            break
        gain, bias = (vector, bias) if kind == "Mul" else (gain, vector)
        nodes += ahead
        y = node.output[0]
    before = [g.producer[name] for name in (root.input[0], added.input[side], mean.input[0])]
    return FoundNorm(x, y, centred, gain, bias, eps, (*_between(g, x, nodes, before), *nodes))


def _between(g: Graph, x: str, nodes: list[int], start: list[int]) -> Iterator[int]:
    """Nodes from x to `start` and what the norm's own nodes read, x excluded."""
    todo = [*start, *(g.producer[n] for i in nodes for n in g.nodes[i].input if n in g.producer)]
    seen: set[int] = set(nodes)
    while todo:
        index = todo.pop()
        if index in seen:
            continue
        seen.add(index)
        if x in g.nodes[index].output or g.nodes[index].op_type == "Constant":
            continue
        node = g.nodes[index]
        yield index
        todo += [g.producer[n] for n in node.input if n in g.producer and n != x]


def _whole(g: Graph, index: int) -> FoundNorm | None:
    node = g.nodes[index]
    n = g.shape(node.input[0])[-1]
    gain = g.vector(node.input[1], n)
    bias = g.vector(node.input[2], n) if len(node.input) > 2 and node.input[2] else None
    if gain is None or int(attribute(node, "axis", -1)) not in (-1, len(g.shape(node.input[0])) - 1):
        return None
    return FoundNorm(node.input[0], node.output[0], True, gain, bias, float(attribute(node, "epsilon", 1e-5)), (index,))


def norms(g: Graph) -> list[FoundNorm]:
    """Every norm of a graph."""
    found = []
    for index, node in enumerate(g.nodes):
        if node.op_type == "LayerNormalization":
            found.append(_whole(g, index))
        elif node.op_type == "Sqrt":
            found.append(_taken_apart(g, index))
    return [f for f in found if f is not None]
