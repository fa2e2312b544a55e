"""What kinds of files needed to run whole: softcaps, moves of codes, fused products, convolutions of dynamic int8."""

from __future__ import annotations

from pathlib import Path

import form_files as F
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from whole_runs import compared, distance, expected

import axlora
from axlora.compiler.frontend import onnx_reader

BY_TITLE = {tiny.title: tiny for tiny in F.MODELS}


def feed_of(proto: onnx.ModelProto) -> F.Feed:
    return next(F.feeds(proto, 1))


def test_softcaps_of_scores_and_logits() -> None:
    """Gemma 2: also a norm of what a linear writes, whose squares need all its bits; in both references, bit for bit."""
    proto = F.loaded(BY_TITLE["Gemma 2"])
    feed, caps = feed_of(proto), [node for node in proto.graph.node if node.op_type == "Tanh"]
    divided = {node.output[0]: node for node in proto.graph.node if node.op_type == "Div"}
    for i, cap in enumerate(caps[:2]):  # scores of the size of their cap
        divided[cap.input[0]].input[1] = f"cap {i}"
        proto.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), f"cap {i}"))
    _, run = compared(proto, feed)
    assert distance(run.outputs["y"], expected(proto, feed)) < 0.06
    for cap in caps[:2]:
        cap.op_type = "Identity"
    assert distance(run.outputs["y"], expected(proto, feed)) > 0.1


def test_columns_of_weights_of_2_bits_leave_the_values_behind_them_alone(tmp_path: Path) -> None:
    """Column units are 16 wide there, the vocabulary is 40; a function of the logits lies behind the last row."""
    proto = F.FORMS["NBits 2"](BY_TITLE["Gemma 2"], tmp_path)
    compared(proto, feed_of(proto))


@pytest.mark.parametrize("title", ["GPT-NeoX", "Qwen 2"])
def test_operators_on_codes_run_whole(title: str, tmp_path: Path) -> None:
    """Codes go through reshapes, and halves of heads have scales of their own; with a part of a head that does not turn."""
    proto = F.FORMS["QOperator"](BY_TITLE[title], tmp_path)
    program = axlora.compile(proto, "test")
    assert program.kind == "whole"
    feed = feed_of(F.loaded(BY_TITLE[title]))
    got = next(iter(axlora.simulate(program, feed, timing=False).outputs.values()))
    assert distance(got, expected(proto, feed)) < 0.1


def small(nodes: list[onnx.NodeProto], held: dict[str, np.ndarray], given: list[int], result: list[int]) -> onnx.ModelProto:
    """x to y."""
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", TensorProto.FLOAT, given)], [value("y", TensorProto.FLOAT, result)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, name) for name, v in held.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def same(proto: onnx.ModelProto, x: np.ndarray, gone: str, within: float = 1e-5) -> onnx.ModelProto:
    """The normalised model computes what onnxruntime makes of the file, and an operator is gone."""
    read, _ = onnx_reader.read(proto)
    assert gone not in {node.op_type for node in read.graph.node}
    assert distance(expected(read, {"x": x}), expected(proto, {"x": x})) < within
    return read


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("Relu", {}), ("Tanh", {}), ("LeakyRelu", {"activation_alpha": 0.2})],
)
def test_fused_gemm(kind: str, parameters: dict[str, float]) -> None:
    own = {"transB": 1, "alpha": 0.5, "activation": kind} | parameters
    node = helper.make_node("FusedGemm", ["x", "w", "c"], ["y"], domain="com.microsoft", **own)
    same(small([node], {"w": random(5, 8), "c": random(5, seed=2)}, [4, 8], [4, 5]), random(4, 8, seed=3), "FusedGemm")


@pytest.mark.parametrize(("kind", "parameters"), [("Relu", []), ("LeakyRelu", [0.1]), ("Clip", [0.0, 0.5])])
@pytest.mark.parametrize("added", [False, True])
def test_fused_conv(kind: str, parameters: list[float], added: bool) -> None:
    """What is added comes before the activation."""
    held = {"w": random(4, 3, 3, 3), "b": random(4, seed=2)} | ({"z": random(1, 4, 6, 6, seed=4)} if added else {})
    own = {"activation": kind, "pads": [1, 1, 1, 1]} | ({"activation_params": parameters} if parameters else {})
    node = helper.make_node("FusedConv", ["x", *held], ["y"], domain="com.microsoft", **own)
    same(small([node], held, [1, 3, 6, 6], [1, 4, 6, 6]), random(1, 3, 6, 6, seed=3), "FusedConv")


def test_what_is_fused_in_another_way_is_named() -> None:
    node = helper.make_node("FusedGemm", ["x", "w", "c"], ["y"], "fc", domain="com.microsoft", activation="Softplus")
    with pytest.raises(axlora.Error, match=r"FusedGemm with Softplus"):
        onnx_reader.read(small([node], {"w": random(8, 5), "c": random(5)}, [4, 8], [4, 5]))


def test_a_convolution_of_dynamic_int8_keeps_its_codes_and_scale(tmp_path: Path) -> None:
    """ConvInteger, Cast, Mul by both scales and Add of the bias are one linear of the file's codes, whose x stays in floats."""
    from onnxruntime import quantization as q

    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", kernel_shape=[4, 4], strides=[4, 4])
    weight = random(4, 3, 4, 4)
    q.quantize_dynamic(small([node], {"w": weight, "b": random(4, seed=2)}, [1, 3, 8, 8], [1, 4, 2, 2]), tmp_path / "q.onnx")
    proto = onnx.load(tmp_path / "q.onnx")
    read = same(proto, random(1, 3, 8, 8, seed=3), "ConvInteger", within=0.02)
    moves = {"Reshape", "Transpose", "Slice", "Constant"}
    assert {node.op_type for node in read.graph.node} - moves == {"DequantizeLinear", "MatMul", "Add"}
    (product,) = (node for node in read.graph.node if node.op_type == "MatMul")
    (back,) = (node for node in read.graph.node if node.output[0] == product.input[1])
    scale, held = ({i.name: numpy_helper.to_array(i) for i in each.graph.initializer} for each in (proto, read))
    assert held[back.input[1]] == scale["w_scale"]


def test_codes_are_moved_as_what_they_stand_for() -> None:
    """A pool and a Transpose between QuantizeLinear and DequantizeLinear; codes that are an output stay codes."""
    held = {"s": np.array(0.05, np.float32), "z": np.array(-3, np.int8), "s2": np.array([0.05], np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["p"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("DequantizeLinear", ["t", "s2", "z"], ["y"]),
    ]
    read = same(small(nodes, held, [1, 3, 4, 4], [1, 2, 2, 3]), random(1, 3, 4, 4), "none", within=1e-6)
    assert [node.op_type for node in read.graph.node][:4] == ["QuantizeLinear", "DequantizeLinear", "MaxPool", "Transpose"]
    proto = small(nodes, held, [1, 3, 4, 4], [1, 2, 2, 3])
    proto.graph.output.append(helper.make_tensor_value_info("t", TensorProto.INT8, [1, 2, 2, 3]))
    read, _ = onnx_reader.read(proto)
    assert [o.name for o in read.graph.output] == ["y", "t"]
    assert distance(expected(read, {"x": random(1, 3, 4, 4)}), expected(proto, {"x": random(1, 3, 4, 4)})) < 1e-6
