"""Operators on codes mean what onnxruntime computes, within one step of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend import onnx_reader

STEP = 0.05
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "QLinearMatMul": ("", ["q", "sx", "zx", "w", "sw", "zw", "sy", "zy"], {}),
    "QGemm": ("com.microsoft", ["q", "sx", "zx", "w", "sw", "zw", "c", "sy", "zy"], {}),
    "QLinearAdd": ("com.microsoft", ["q", "sx", "zx", "o", "sx", "zx", "sy", "zy"], {}),
    "QLinearMul": ("com.microsoft", ["q", "sx", "zx", "o", "sx", "zx", "sy", "zy"], {}),
    "QLinearSigmoid": ("com.microsoft", ["q", "sx", "zx", "sy", "zy"], {}),
    "QLinearLeakyRelu": ("com.microsoft", ["q", "sx", "zx", "sy", "zy"], {"alpha": 0.1}),
    "QLinearSoftmax": ("com.microsoft", ["q", "sx", "zx", "sy", "zy"], {"axis": -1, "opset": 17}),
    "QLinearConcat": ("com.microsoft", ["sy", "zy", "q", "sx", "zx", "o", "sx", "zx"], {"axis": 1}),
}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0])


@pytest.mark.parametrize("kind", sorted(CASES))
def test_means_what_onnxruntime_computes(kind: str) -> None:
    rng = np.random.default_rng(0)
    domain, names, attributes = CASES[kind]
    tensors = {
        "sx": np.array(0.02, np.float32), "zx": np.array(120, np.uint8), "sy": np.array(STEP, np.float32),
        "zy": np.array(100, np.uint8), "w": rng.integers(-127, 128, (16, 16)).astype(np.int8),
        "sw": np.array(0.01, np.float32), "zw": np.array(0, np.int8), "c": rng.integers(-500, 500, 16).astype(np.int32),
        "o": rng.integers(0, 256, (4, 16)).astype(np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        helper.make_node(kind, names, ["r"], "node", domain=domain, **attributes),
        helper.make_node("DequantizeLinear", ["r", "sy", "zy"], ["y"]),
    ]
    columns = 32 if kind == "QLinearConcat" else 16
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [4, 16])],
        [value("y", TensorProto.FLOAT, [4, columns])],
        [numpy_helper.from_array(v, name) for name, v in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = rng.normal(0, 1, (4, 16)).astype(np.float32)
    read, _ = onnx_reader.read(model)
    wanted = run(model, x)
    assert wanted.std() > STEP / 4
    assert np.abs(run(read, x) - wanted).max() <= STEP * 1.001


def images(kind: str, domain: str, names: list[str], shape: list[int], **attributes: Any) -> onnx.ModelProto:
    """x [2, 3, 5, 5] in codes through one operator on codes, and as floats again."""
    rng = np.random.default_rng(5)
    tensors = {
        "sx": np.array(0.02, np.float32), "zx": np.array(120, np.uint8), "sy": np.array(STEP, np.float32),
        "zy": np.array(100, np.uint8), "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "sw": rng.uniform(0.005, 0.01, 4).astype(np.float32), "zw": np.zeros(4, np.int8),
        "c": rng.integers(-500, 500, 4).astype(np.int32), "o": rng.integers(0, 256, (2, 3, 5, 5)).astype(np.uint8),
        "picks": rng.random((2, 1, 5, 5)) < 0.5, "so": np.array(0.03, np.float32), "zo": np.array(7, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        helper.make_node(kind, names, ["r"], "node", domain=domain, **attributes),
        helper.make_node("DequantizeLinear", ["r", "sy", "zy"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    used = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(v, name) for name, v in tensors.items() if name in used]
    given, result = value("x", TensorProto.FLOAT, [2, 3, 5, 5]), value("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [given], [result], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


CONV = ["q", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
IMAGES: dict[str, tuple[str, str, list[str], list[int], dict[str, Any]]] = {
    "convolution": ("QLinearConv", "", CONV, [2, 4, 3, 3], {}),
    "convolution with a bias": ("QLinearConv", "", [*CONV, "c"], [2, 4, 3, 3], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "mean of an image": ("QLinearGlobalAveragePool", "com.microsoft", ["q", "sx", "zx", "sy", "zy"], [2, 3, 1, 1], {}),
    "choice": ("QLinearWhere", "com.microsoft", ["picks", "q", "sx", "zx", "o", "so", "zo", "sy", "zy"], [2, 3, 5, 5], {}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_of_images(name: str) -> None:
    kind, domain, names, shape, attributes = IMAGES[name]
    model = images(kind, domain, names, shape, **attributes)
    x = np.random.default_rng(6).normal(0, 1, (2, 3, 5, 5)).astype(np.float32)
    read, _ = onnx_reader.read(model)
    assert not {node.op_type for node in read.graph.node} & {kind}
    wanted = run(model, x)
    assert wanted.std() > STEP / 4
    assert np.abs(run(read, x) - wanted).max() <= STEP * 1.001


def test_channels_last_are_refused() -> None:
    model = images("QLinearGlobalAveragePool", "com.microsoft", ["q", "sx", "zx", "sy", "zy"], [2, 3, 1, 1], channels_last=1)
    with pytest.raises(UnsupportedOperator, match="QLinearGlobalAveragePool with channels_last"):
        onnx_reader.read(model)
