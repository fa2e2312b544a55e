"""x times a constant matrix, in every form that exporters and quantizers write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from axlora.compiler.frontend.found import WeightCodes
from axlora.compiler.frontend.graph import Graph, Matrix, attribute

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Product:
    """x.W, and the bias of a Gemm."""

    index: int
    """The node that writes it: MatMul, Gemm, or the Mul by the scales after a MatMulInteger."""
    core: int
    """The MatMul, Gemm or MatMulInteger."""
    x: str
    """Float tensor that it reads."""
    weight_name: str
    shape: tuple[int, int]
    """[k, n]."""
    codes: WeightCodes | None
    read: Callable[[], Float64]
    """The weights [k, n]."""
    bias: Float64 | None
    nodes: tuple[int, ...]
    """All nodes that belong to it alone."""
    dynamic: bool = False


class Products:
    """The products of a graph, each looked at once."""

    def __init__(self, graph: Graph) -> None:
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


def _product(g: Graph, index: int) -> Product | None:
    node = g.nodes[index]
    if node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "MatMul":
            matrix = g.matrix(node.input[1])
            if matrix is None or 0 in matrix.shape or g.constant(node.input[0]) is not None:
                return None
            return _plain(node, index, matrix, None)
        case "Gemm":
            return _gemm(g, node, index)
        case "Mul":
            return _dynamic(g, node, index)
    return None


def _plain(node: onnx.NodeProto, index: int, matrix: Matrix, bias: Float64 | None) -> Product:
    return Product(index, index, node.input[0], node.input[1], matrix.shape, matrix.codes, matrix.read, bias, (index,))


def _gemm(g: Graph, node: onnx.NodeProto, index: int) -> Product | None:
    matrix = g.matrix(node.input[1], axis=0 if attribute(node, "transB") else 1)
    if matrix is None or 0 in matrix.shape or g.constant(node.input[0]) is not None:
        return None
    if attribute(node, "alpha", 1) != 1 or attribute(node, "beta", 1) != 1 or attribute(node, "transA"):
        return None
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = g.vector(node.input[2], matrix.shape[1])
        if bias is None:
            return None
    return _plain(node, index, matrix, bias)


def _of_codes(index: int, core: int, x: str, weight: str, codes: WeightCodes, own: tuple[int, ...]) -> Product:
    k, n = codes.stored.shape
    return Product(index, core, x, weight, (k, n), codes, lambda: codes.reals, None, own, dynamic=True)


def _dynamic(g: Graph, node: onnx.NodeProto, index: int) -> Product | None:
    """Mul(Cast(MatMulInteger(codes of x, W, zero of x, zeros of W)), Mul(scale of x, scales of W)), either side."""
    for accumulator, scales in (node.input, reversed(node.input)):
        cast, both = g.node_of(accumulator), g.node_of(scales)
        core = g.node_of(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
        if cast is None or both is None or both.op_type != "Mul" or core is None or core.op_type != "MatMulInteger":
            continue
        quantize = g.node_of(core.input[0])
        if quantize is None or quantize.op_type != "DynamicQuantizeLinear":
            continue
        step = next((s for s in both.input if s != quantize.output[1]), "")
        scale = g.constant(step)
        zeros = [*core.input[2:], "", ""]
        if quantize.output[1] not in both.input or scale is None or zeros[0] != quantize.output[2]:
            continue
        codes = g.codes(core.input[1], scale, zeros[1], axis=1)
        if codes is None:
            continue
        at = g.producer
        own = (index, at[accumulator], at[cast.input[0]], at[scales])
        return _of_codes(index, at[cast.input[0]], quantize.input[0], core.input[1], codes, own)
    return None
