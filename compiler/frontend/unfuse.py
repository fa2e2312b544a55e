"""Bring onnxruntime's fused products back to the standard operators that they stand for, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from axlora.compiler.frontend.onnx_graph import attribute

_DOMAIN = "com.microsoft"


class _Rewriter:
    """Appends the nodes that replace one."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
        self.node, self.graph = node, graph
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{self.node.output[0]}.{kind}.{len(self.nodes)}"
        made = helper.make_node(kind, inputs, [name], name=f"{self.node.name or self.node.output[0]}/{kind}", **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return name

    def given(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def finish(self, bias: str = "") -> list[onnx.NodeProto]:
        """The last node writes what the fused one wrote."""
        if bias:
            self.add("Add", [self.nodes[-1].output[0], bias])
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes


def _fused_matmul(to: _Rewriter) -> list[onnx.NodeProto] | None:
    """FusedMatMul(a, b; alpha, transA, transB) of two dimensions or constant b: Transpose, MatMul, Mul."""
    node = to.node
    if attribute(node, "transA") or attribute(node, "transBatchA") or attribute(node, "transBatchB"):
        return None
    right = node.input[1]
    if attribute(node, "transB"):
        if not any(t.name == right and len(t.dims) == 2 for t in to.graph.initializer):
            return None
        right = to.add("Transpose", [right], perm=[1, 0])
    product = to.add("MatMul", [node.input[0], right])
    alpha = attribute(node, "alpha", 1)
    if alpha != 1:
        scale = f"{node.output[0]}.alpha"
        to.graph.initializer.append(numpy_helper.from_array(np.array(alpha, np.float32), scale))
        to.add("Mul", [product, scale])
    return to.finish()


def _integer_to_float(to: _Rewriter, codes: list[str], x_scale: str, w_scale: str, bias: str) -> list[onnx.NodeProto]:
    product = to.add("Cast", [to.add("MatMulInteger", codes)], to=TensorProto.FLOAT)
    to.add("Mul", [product, to.add("Mul", [x_scale, w_scale])])
    return to.finish(bias)


def _matmul_integer_to_float(to: _Rewriter) -> list[onnx.NodeProto]:
    """MatMulIntegerToFloat(a, b, scale of a, of b, zero of a, of b, bias)."""
    g = to.given
    return _integer_to_float(to, [g(0), g(1), g(4), g(5)], g(2), g(3), g(6))


def _dynamic_quantize_matmul(to: _Rewriter) -> list[onnx.NodeProto]:
    """DynamicQuantizeMatMul(x, b, scale of b, zero of b, bias)."""
    g = to.given
    base = to.node.output[0]
    names = [f"{base}.x_{part}" for part in ("codes", "scale", "zero")]
    to.nodes.append(helper.make_node("DynamicQuantizeLinear", [g(0)], names, name=f"{base}/quantize"))
    return _integer_to_float(to, [names[0], g(1), names[2], g(3)], names[1], g(2), g(4))


_KNOWN = {
    "FusedMatMul": _fused_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
}


def unfuse(model: onnx.ModelProto) -> None:
    """Rewrite what is known; everything else of that domain stays (and is refused by name)."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        known = _KNOWN.get(node.op_type) if node.domain == _DOMAIN else None
        made = known(_Rewriter(node, graph)) if known is not None else None
        nodes += [node] if made is None else made
    if len(nodes) == len(graph.node) and all(n.domain != _DOMAIN for n in graph.node):
        return
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
