"""QONNX's Quant, BipolarQuant and Trunc mean what their definition says; codes of weights reach recognition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.passes.recognise_linears import recognise

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas")
ROUNDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": lambda x: np.sign(x) * np.floor(np.abs(x)),
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}
"""As the definition of QONNX's Quant lists them (github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops)."""


def quantized(x: np.ndarray, scale: Any, zero: Any, bits: int, signed: int, narrow: int, mode: str) -> np.ndarray:
    """Quant as its definition has it."""
    if bits == 1 and signed:
        return np.where(x / scale + zero >= 0, 1, -1) * scale
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    codes = ROUNDINGS[mode](np.clip(x / scale + zero, low, high))
    return (codes - zero) * scale


def model_of(kind: str, constants: Mapping[str, np.ndarray], domain: str = DOMAINS[0], **attributes: Any) -> onnx.ModelProto:
    """x [4, 6] through one node, whose other inputs are `constants` in their order."""
    node = helper.make_node(kind, ["x", *constants], ["y"], name="n", domain=domain, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 6]) for name in ("x", "y")]
    held = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()]
    graph = helper.make_graph([node], "g", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(domain, 1)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])


def values() -> np.ndarray:
    """Multiples of a quarter of a step, halves and ends of ranges among them."""
    return (np.random.default_rng(2).integers(-60, 60, (4, 6)) / 16).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.booleans(), st.booleans(), st.sampled_from(sorted(ROUNDINGS)), st.integers(-3, 3), st.booleans(),
    st.sampled_from(DOMAINS), st.booleans(),
)  # fmt: skip
def test_quant(
    bits: int, signed: bool, narrow: bool, mode: str, zero: int, columns: bool, domain: str, constant: bool
) -> None:  # fmt: skip
    """Of an activation and of a weight, with one scale and with one a column."""
    zero = zero if bits > 1 else 0
    scale = np.array([0.25, 0.5, 1, 0.125, 0.25, 2], np.float32) if columns else np.array(0.25, np.float32)
    attributes = {"signed": int(signed), "narrow": int(narrow and bits > 1), "rounding_mode": mode}
    model = model_of("Quant", {"s": scale, "z": np.array(zero), "b": np.array(bits)}, domain, **attributes)
    x = values() + np.float32(zero % 2 and 1 / 64)  # no ties: QuantizeLinear adds an odd zero point behind the rounding
    if constant:
        model.graph.initializer.append(numpy_helper.from_array(x, "w"))
        model.graph.node[0].input[0] = "w"
        model.graph.node[0].output[0] = "q"
        model.graph.node.append(helper.make_node("Add", ["x", "q"], ["y"]))
    read, _ = onnx_reader.read(model)
    wanted = quantized(x, scale, zero, bits, int(signed), attributes["narrow"], mode)
    np.testing.assert_allclose(run(read, x), wanted + (x if constant else 0), atol=1e-6)


@pytest.mark.parametrize("domain", DOMAINS)
def test_bipolar_quant(domain: str) -> None:
    x = values()
    read, _ = onnx_reader.read(model_of("BipolarQuant", {"s": np.array(0.7)}, domain))
    assert np.array_equal(run(read, x), np.where(x >= 0, np.float32(0.7), -np.float32(0.7)))


@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
def test_trunc(mode: str) -> None:
    """Bits go below the point: the result is in the scale of the operand."""
    x = (np.random.default_rng(4).integers(-120, 120, (4, 6)) / 4).astype(np.float32)
    parts = {"s": np.array(0.25), "z": np.array(0), "a": np.array(8), "b": np.array(5)}
    read, _ = onnx_reader.read(model_of("Trunc", parts, rounding_mode=mode))
    np.testing.assert_allclose(run(read, x), ROUNDINGS[mode](np.round(x / 0.25) / 8) * 0.25, atol=1e-6)


def network(bits: int, axis: int, turned: bool = False, kind: str = "Quant") -> onnx.ModelProto:
    """Quant of x, of a weight, a product and a ReLU; the weight may be [n, k] with a Transpose, as Brevitas writes it."""
    random = np.random.default_rng(7)
    held = {"sx": np.array(0.05), "zero": np.array(0), "eight": np.array(8), "bits": np.array(bits)}
    held["w"] = random.normal(0, 0.4, (16, 32) if turned else (32, 16))
    shape = [1, 1]
    shape[axis] = held["w"].shape[axis]
    held["sw"] = random.uniform(0.08, 0.12, shape)
    own = {"domain": DOMAINS[0]}
    narrow = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
    nodes = [helper.make_node("Quant", ["x", "sx", "zero", "eight"], ["xq"], **own, **(narrow | {"narrow": 0}))]
    reads = ["w", "sw"] + (["zero", "bits"] if kind == "Quant" else [])
    nodes.append(helper.make_node(kind, reads, ["wq"], **own, **(narrow if kind == "Quant" else {})))
    if turned:
        nodes.append(helper.make_node("Transpose", ["wq"], ["wt"], perm=[1, 0]))
    nodes += [helper.make_node("MatMul", ["xq", nodes[-1].output[0]], ["p"], name="fc"), helper.make_node("Relu", ["p"], ["y"])]
    given, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, m]) for n, m in (("x", 32), ("y", 16)))
    constants = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in held.items()]
    graph = helper.make_graph(nodes, "g", [given], [result], constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(DOMAINS[0], 1)], ir_version=8
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("turned", [False, True])
def test_codes_of_weights_are_recognised(bits: int, turned: bool) -> None:
    model = network(bits, 0 if turned else 1, turned)
    _, (linear,) = recognise(onnx_reader.read(model)[0])
    assert linear.codes is not None
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    codes = np.round(np.clip(held["w"] / held["sw"], 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1))
    assert np.array_equal(linear.codes.codes, codes.T if turned else codes)
    assert np.array_equal(np.ravel(linear.codes.scale), np.ravel(held["sw"]))


@pytest.mark.parametrize("kind", ["Quant", "BipolarQuant"])
def test_a_network_runs_on_the_accelerator(kind: str) -> None:
    model = network(4, 1, kind=kind)
    program = axlora.compile(model, "edge-asic")
    assert program.host_macs == 0
    x = np.random.default_rng(8).normal(0, 1, (4, 32)).astype(np.float32)
    held = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    w = (
        quantized(held["w"], held["sw"], 0, 4, 1, 1, "ROUND")
        if kind == "Quant"
        else np.where(held["w"] >= 0, 1, -1) * held["sw"]
    )
    wanted = np.maximum(quantized(x, 0.05, 0, 8, 1, 0, "ROUND") @ w, 0)
    got = axlora.simulate(program, {"x": x}).outputs["y"]
    assert np.linalg.norm(got - wanted) < 0.01 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("kind", "count", "attributes", "part"),
    [
        ("Quant", 3, {"rounding_mode": "STOCHASTIC"}, "Quant with rounding_mode STOCHASTIC"),
        ("Trunc", 5, {}, "Trunc with a scale of its result"),
        ("FloatQuant", 6, {}, "FloatQuant"),
    ],
)
def test_what_is_refused_is_named(kind: str, count: int, attributes: dict[str, Any], part: str) -> None:
    model = model_of(kind, {f"c{i}": np.array(4) for i in range(count)}, **attributes)
    with pytest.raises(UnsupportedOperator, match=part):
        onnx_reader.read(model)


def test_widths_that_change_are_refused() -> None:
    model = model_of("Quant", {"s": np.array(1), "z": np.array(0)})
    model.graph.node[0].input.append("x")
    with pytest.raises(UnsupportedOperator, match="bits are no constants"):
        onnx_reader.read(model)
