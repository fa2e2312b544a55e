"""A ReLU or ReLU6 that onnxruntime's quantizer folded into a Q/DQ pair is not lost where the pair goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as q

import axlora

ROWS, WIDTH = 48, 24
KINDS = {"Relu": {}, "Clip": {"least": 0.0, "most": 1.0}, "Clip below": {"least": -1.0, "most": 0.0}}


def two_linears(kind: str, path: Path) -> np.ndarray:
    """Write a model of two linears with a function between; gives inputs [ROWS, WIDTH]."""
    random = np.random.default_rng(3)
    weights = {name: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4 for name in ("up", "down")}
    limits = {name: np.array(value, np.float32) for name, value in KINDS[kind].items()}
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["h"], name="first"),
        helper.make_node(kind.split()[0], ["h", *limits], ["a"], name="function"),
        helper.make_node("MatMul", ["a", "down"], ["y"], name="second"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [ROWS, WIDTH])], [value("y", TensorProto.FLOAT, [ROWS, WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in (weights | limits).items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return random.standard_normal((ROWS, WIDTH)).astype(np.float32)


def floats(path: Path, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(ort.InferenceSession(str(path), options).run(None, {"x": x})[0])


class Samples(q.CalibrationDataReader):  # type: ignore[misc]
    """The inputs, once."""

    def __init__(self, x: np.ndarray) -> None:
        self._left = [{"x": x}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("activation", [None, "token8"])
@pytest.mark.parametrize("kind", ["Relu", "Clip"])
def test_a_folded_function_is_kept(kind: str, activation: str | None, tmp_path: Path) -> None:
    """With the file's scales and without them: no further from float than 1.1 times onnxruntime's own distance."""
    x = two_linears(kind, tmp_path / "float.onnx")
    q.quantize_static(tmp_path / "float.onnx", tmp_path / "qdq.onnx", Samples(x), activation_type=q.QuantType.QUInt8)
    held = [node.op_type for node in onnx.load(tmp_path / "qdq.onnx").graph.node]
    assert kind not in held  # what this test is about
    wanted = floats(tmp_path / "float.onnx", x)
    own = np.linalg.norm(floats(tmp_path / "qdq.onnx", x) - wanted)
    got = axlora.simulate(axlora.compile(tmp_path / "qdq.onnx", "edge-asic", activation=activation), {"x": x}, timing=False)
    assert np.linalg.norm(got.outputs["y"] - wanted) <= 1.1 * own


def test_a_pair_at_the_upper_end_becomes_a_clip(tmp_path: Path) -> None:
    """Codes whose zero point is the greatest code hold nothing above zero."""
    x = two_linears("Clip below", tmp_path / "float.onnx")
    model = onnx.load(tmp_path / "float.onnx")
    graph, scale = model.graph, numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")
    graph.initializer.extend([scale, numpy_helper.from_array(np.array(255, np.uint8), "zero")])
    pair = [
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
    ]
    nodes = [graph.node[0], *pair, graph.node[2]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.save(model, tmp_path / "pair.onnx")
    wanted = floats(tmp_path / "pair.onnx", x)
    got = axlora.simulate(axlora.compile(tmp_path / "pair.onnx", "edge-asic", activation="token8"), {"x": x}, timing=False)
    assert np.linalg.norm(got.outputs["y"] - wanted) <= 0.02 * np.linalg.norm(wanted)
