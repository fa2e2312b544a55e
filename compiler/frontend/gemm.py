"""Gemm with alpha, beta or a transposed left side, in the operators that stand for it: Transpose, MatMul, Mul, Add."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from axlora.compiler.frontend.onnx_graph import attribute


def _is_plain(node: onnx.NodeProto) -> bool:
    return attribute(node, "alpha", 1) == 1 and attribute(node, "beta", 1) == 1 and not attribute(node, "transA")


class _Rewriter:
    """Appends the nodes that replace one Gemm, and the constants they read."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
        self.node, self.graph = node, graph
        self.constants = {i.name: i for i in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self.node.output[0]}.{kind}.{len(self.nodes)}"
        own = self.node.name or self.node.output[0]
        made = helper.make_node(kind, inputs, [name], name=own if kind == "MatMul" else f"{own}/{kind}", **attributes)
        made.metadata_props.extend(self.node.metadata_props)
        self.nodes.append(made)
        return name

    def transposed(self, name: str, given: bool) -> str:
        return self.add("Transpose", name, perm=[1, 0]) if given else name

    def scaled(self, name: str, factor: float) -> str:
        """`name` times `factor`: a float constant is multiplied here, everything else by a Mul."""
        if factor == 1:
            return name
        tensor = self.constants.get(name)
        if tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor) * np.float32(factor)
            made = f"{self.node.output[0]}.{name}.{len(self.nodes)}"  # B and C may be one constant
            self.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), made))
            return made
        scale = f"{self.node.output[0]}.factor.{len(self.nodes)}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), scale))
        return self.add("Mul", name, scale)

    def run(self) -> list[onnx.NodeProto]:
        """alpha A'.B' + beta C; alpha goes into B where that is a constant."""
        node = self.node
        alpha = attribute(node, "alpha", 1)
        folds = node.input[1] in self.constants
        right = self.scaled(node.input[1], alpha if folds else 1)
        left = self.transposed(node.input[0], bool(attribute(node, "transA")))
        product = self.add("MatMul", left, self.transposed(right, bool(attribute(node, "transB"))))
        product = self.scaled(product, 1 if folds else alpha)
        if len(node.input) > 2 and node.input[2] and attribute(node, "beta", 1) != 0:
            self.add("Add", product, self.scaled(node.input[2], attribute(node, "beta", 1)))
        self.nodes[-1].output[0] = node.output[0]
        return self.nodes


def plain_gemms(model: onnx.ModelProto) -> None:
    """Replace each Gemm whose alpha, beta or transA differ from the plain form's, in place; floats are float32 already."""
    graph = model.graph
    if all(node.op_type != "Gemm" or _is_plain(node) for node in graph.node):
        return
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += [node] if node.op_type != "Gemm" or _is_plain(node) else _Rewriter(node, graph).run()
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
