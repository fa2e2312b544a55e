"""Operators on codes mean what onnxruntime computes, within one step of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

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
