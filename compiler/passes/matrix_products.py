"""x times a constant matrix, in every form that exporters and quantizers write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from axlora.compiler.frontend.recognised import BlockCodes, Reals, WeightCodes
from axlora.compiler.passes.block_weights import block_matrix
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.read_module import RESHAPES, Node


@dataclass(frozen=True)
class Product:
    """x.W."""

    index: int
    """The node that writes it: a matmul, or the multiply by the scales after one of dynamic codes."""
    core: int
    """The matmul."""
    x: str
    """Float tensor that it reads."""
    weight_name: str
    shape: tuple[int, int]
    """[k, n]."""
    codes: WeightCodes | BlockCodes | None
    read: Callable[[], Reals]
    """The weights [k, n]."""
    nodes: tuple[int, ...]
    """All nodes that belong to it alone."""
    dynamic: bool = False


class Products:
    """The products of a graph, each looked at once."""

    def __init__(self, graph: Dataflow) -> None:
        self._graph = graph
        self._known: dict[int, Product | None] = {}

    def at(self, index: int) -> Product | None:
        """The product that node `index` writes, or None.

        Raises:
            UnsupportedOperator: weight scales in a form that is not taken.
        """
        if index not in self._known:
            self._known[index] = _product(self._graph, index)
        return self._known[index]

    def of(self, name: str) -> Product | None:
        """The product that writes tensor `name`, or None."""
        index = self._graph.producer.get(name)
        return None if index is None else self.at(index)


def _product(g: Dataflow, index: int) -> Product | None:
    node = g.nodes[index]
    if node.op == "multiply":
        return _dynamic(g, node, index)
    matrix = block_matrix(g, node.inputs[1]) or g.matrix(node.inputs[1]) if node.op == "matmul" else None
    if matrix is None or 0 in matrix.shape or g.constant(node.inputs[0]) is not None:
        return None
    if node.source.op_type == "Gemm" and not _adds_row(g, node, matrix.shape[1]):
        return None
    return Product(index, index, node.inputs[0], node.inputs[1], matrix.shape, matrix.codes, matrix.read, (index,))


def _adds_row(g: Dataflow, node: Node, n: int) -> bool:
    """What the rest of a Gemm adds to its product is a constant row, or nothing: the Gemm can be taken as a whole."""
    added = [x for i in g.readers.get(node.outputs[0], []) if (x := g.nodes[i]).origin == node.origin]
    return all(any(g.vector(name, n) is not None for name in x.inputs) for x in added)


def _centred(g: Dataflow, name: str) -> tuple[str, str]:
    """(codes, zero point or "") of a tensor that is codes less their zero point, widened."""
    node = g.node_of(name)
    if node is not None and node.op == "subtract":
        return _widened(g, node.inputs[0]), _widened(g, node.inputs[1])
    return _widened(g, name), ""


def _widened(g: Dataflow, name: str) -> str:
    """The codes behind a cast to int32 and reshapes."""
    while (node := g.node_of(name)) is not None and (node.op in RESHAPES or (node.op == "astype" and g.dtype(name) == "int32")):
        name = node.inputs[0]
    return name


def _is_range(g: Dataflow, scale: str, x: str) -> bool:
    """Whether `scale` is (max(x, 0) - min(x, 0)) / 255: DynamicQuantizeLinear's."""
    step = g.node_of(scale)
    width = g.node_of(step.inputs[0]) if step is not None and step.op == "divide" else None
    if step is None or width is None or width.op != "subtract" or g.scalar(step.inputs[1]) != 255:
        return False
    for name, outer, inner in zip(width.inputs, ("maximum", "minimum"), ("max", "min"), strict=True):
        end = g.node_of(name)
        if end is None or end.op != outer or not any(g.scalar(each) == 0 for each in end.inputs):
            return False
        if not any((e := g.node_of(each)) is not None and e.op == inner and e.inputs == (x,) for each in end.inputs):
            return False
    return True


def _dynamic(g: Dataflow, node: Node, index: int) -> Product | None:
    """(codes of x - zero of x) . (W - zeros of W), times both scales: DynamicQuantizeLinear and MatMulInteger, either side."""
    for accumulator, scales in (node.inputs, reversed(node.inputs)):
        cast, both = g.node_of(accumulator), g.node_of(scales)
        core = g.node_of(cast.inputs[0]) if cast is not None and cast.op == "astype" else None
        if cast is None or both is None or both.op != "multiply" or core is None or core.op != "matmul":
            continue
        left, right = _centred(g, core.inputs[0]), _centred(g, core.inputs[1])
        quantize = g.node_of(left[0])
        if quantize is None or quantize.op != "quantize" or not _is_range(g, quantize.inputs[1], quantize.inputs[0]):
            continue
        step = next((s for s in both.inputs if s != quantize.inputs[1]), "")
        scale = g.constant(step)
        if quantize.inputs[1] not in both.inputs or scale is None or left[1] != quantize.inputs[2]:
            continue
        codes = g.codes(right[0], scale, right[1], axis=1)
        if codes is None:
            continue
        at, (k, n) = g.producer, codes.stored.shape
        own = (index, at[accumulator], at[cast.inputs[0]], at[scales])
        read = partial(getattr, codes, "reals")
        return Product(index, own[2], quantize.inputs[0], core.inputs[1], (k, n), codes, read, own, dynamic=True)
    return None
