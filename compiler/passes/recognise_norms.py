"""Layer and RMS norms of a Relax function, as one operator or taken apart, by structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.read_module import PASSIVE, Node

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


_LEAST = 1e-12
"""Epsilon of a norm without one: BERT's, which optimizers take for zero."""
_PASSED = (*PASSIVE, "quantize", "dequantize")
"""What rounds, if anything, inside a norm."""


def _node(g: Dataflow, name: str, *kinds: str) -> Node | None:
    """The node of one of `kinds` behind a tensor, its Casts and its Q/DQ pairs."""
    node = g.node_of(_plain(g, name))
    return node if node is not None and node.op in kinds else None


def _plain(g: Dataflow, name: str, passed: Sequence[str] = _PASSED) -> str:
    """The tensor behind Casts and Q/DQ pairs."""
    node = g.node_of(name)
    while node is not None and node.op in passed:
        name = node.inputs[0]
        node = g.node_of(name)
    return name


def _reader(g: Dataflow, name: str, nodes: list[int], *kinds: str) -> Node | None:
    """The only reader of a tensor, behind Casts and Q/DQ pairs, if it is one of `kinds`; appended to `nodes` with them."""
    while len(readers := g.readers.get(name, [])) == 1 and name not in g.outputs:
        node = g.nodes[readers[0]]
        nodes.append(readers[0])
        if node.op in kinds:
            return node
        if node.op not in _PASSED:
            return None
        name = node.outputs[0]
    return None


def _square(g: Dataflow, name: str) -> str | None:
    """d of a tensor d^2."""
    node = _node(g, name, "power", "multiply")
    if node is None:
        return None
    if node.op == "power":
        return node.inputs[0] if g.scalar(node.inputs[1]) == 2 else None
    return node.inputs[0] if _plain(g, node.inputs[0]) == _plain(g, node.inputs[1]) else None


def _last_axis(g: Dataflow, node: Node) -> bool:
    """Whether a ReduceMean is over the last dimension alone."""
    axes, rank = node.numbers("axis"), len(g.shape(node.inputs[0]))
    return axes is not None and [a % rank for a in axes] == [rank - 1]


def _shifted(g: Dataflow, name: str) -> tuple[str, float, list[int]] | None:
    """A mean of squares, the epsilon that is added to it, and the node of that sum; None if another tensor is added."""
    added = _node(g, name, "add")
    if added is None:
        return name, _LEAST, []
    side = 0 if g.scalar(added.inputs[1]) is not None else 1
    eps = g.scalar(added.inputs[1 - side])
    return None if eps is None else (added.inputs[side], eps, [g.producer[name]])


def _taken_apart(g: Dataflow, index: int) -> FoundNorm | None:
    """The norm whose square root is node `index`."""
    root = g.nodes[index]
    shifted = _shifted(g, root.inputs[0])
    if shifted is None:
        return None
    squares, eps, before = shifted
    mean = _node(g, squares, "mean")
    d = _square(g, mean.inputs[0]) if mean is not None and _last_axis(g, mean) else None
    if mean is None or d is None:
        return None
    x, centred = _plain(g, d, PASSIVE), False
    less = _node(g, d, "subtract")
    if less is not None:
        average = _node(g, less.inputs[1], "mean")
        if average is not None and _plain(g, average.inputs[0]) == _plain(g, less.inputs[0]) and _last_axis(g, average):
            x, centred = _plain(g, less.inputs[0], PASSIVE), True
    nodes = [index]
    found = _reader(g, root.outputs[0], nodes, "divide")
    if found is not None and g.scalar(found.inputs[0]) == 1:
        found = _reader(g, found.outputs[0], nodes, "multiply")
    if found is None or _plain(g, d) not in [_plain(g, n) for n in found.inputs]:
        return None
    n = g.shape(x)[-1]
    y, gain, bias = found.outputs[0], np.ones(n), None
    for kind in ("multiply", "add"):
        ahead: list[int] = []
        node = _reader(g, y, ahead, kind)
        if node is None:
            continue
        vector = next((v for name in node.inputs if (v := g.vector(name, n)) is not None), None)
        if vector is None:
            break
        gain, bias = (vector, bias) if kind == "multiply" else (gain, vector)
        nodes += ahead
        y = node.outputs[0]
    before += [g.producer[name] for name in (squares, mean.inputs[0])]
    return FoundNorm(x, y, centred, gain, bias, eps, (*_between(g, x, nodes, before), *nodes))


def _between(g: Dataflow, x: str, nodes: list[int], start: list[int]) -> Iterator[int]:
    """Nodes from x to `start` and what the norm's own nodes read, x excluded."""
    todo = [*start, *(g.producer[n] for i in nodes for n in g.nodes[i].inputs if n in g.producer)]
    seen: set[int] = set(nodes)
    while todo:
        index = todo.pop()
        if index in seen:
            continue
        seen.add(index)
        if x in g.nodes[index].outputs:
            continue
        node = g.nodes[index]
        yield index
        todo += [g.producer[n] for n in node.inputs if n in g.producer and n != x]


def _whole(g: Dataflow, index: int) -> FoundNorm | None:
    node = g.nodes[index]
    shape = g.shape(node.inputs[0])
    n = shape[-1]
    gain = g.vector(node.inputs[1], n)
    bias = g.vector(node.inputs[2], n)
    if gain is None or bias is None or [a % len(shape) for a in node.numbers("axes") or ()] != [len(shape) - 1]:
        return None
    return FoundNorm(
        node.inputs[0], node.outputs[0], True, gain, bias if bias.any() else None, node.number("epsilon"), (index,)
    )


def norms(g: Dataflow) -> list[FoundNorm]:
    """Every norm of a graph."""
    found = []
    for index, node in enumerate(g.nodes):
        if node.op == "nn.layer_norm":
            found.append(_whole(g, index))
        elif node.op == "sqrt":
            found.append(_taken_apart(g, index))
    return [f for f in found if f is not None]
