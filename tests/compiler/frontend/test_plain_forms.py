"""Forms that converters leave, and what they are read as."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend import onnx_reader


def _model(nodes: list[onnx.NodeProto], rank: int, held: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    free = [[f"{name}{n}" for n in range(rank)] for name in "yz"]
    value = helper.make_tensor_value_info
    x, y, z = (value(name, TensorProto.FLOAT, shape) for name, shape in zip("xyz", ([2, 3, 4], *free), strict=True))
    graph = helper.make_graph(nodes, "g", [x], [y, z], held or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _same(model: onnx.ModelProto) -> None:
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 4)).astype(np.float32)
    wanted = ReferenceEvaluator(model).run(None, {"x": x})
    for got, y in zip(ReferenceEvaluator(onnx_reader.read(model)[0]).run(None, {"x": x}), wanted, strict=True):
        np.testing.assert_allclose(got, y, rtol=1e-6)


@pytest.mark.parametrize("axes", [(1, 1), (2, -1), (0, 3)])
def test_two_flattens_of_one_tensor(axes: tuple[int, int]) -> None:
    """onnxscript's optimizer makes a Reshape of each and keeps a shape for one."""
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    nodes += [helper.make_node("Flatten", ["r"], [name], axis=axis) for name, axis in zip("ab", axes, strict=True)]
    _same(_model([*nodes, helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Abs", ["b"], ["z"])], 2))


def test_nodes_in_any_order() -> None:
    """As onnxruntime's converter to half precision leaves them: casts at the end."""
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["c", "w"], ["y"]),
        helper.make_node("Neg", ["c"], ["z"]),
        helper.make_node("Relu", ["x"], ["c"]),
    ]
    ordered = _model([nodes[2], *nodes[:2]], 3, [weight])
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 4)).astype(np.float32)
    got = ReferenceEvaluator(onnx_reader.read(_model(nodes, 3, [weight]))[0]).run(None, {"x": x})
    for a, b in zip(got, ReferenceEvaluator(ordered).run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    circle = [helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    with pytest.raises(BadModel, match="topologically sorted"):
        onnx_reader.read(_model(circle, 3))
