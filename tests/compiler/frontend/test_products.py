"""Products with a constant on the left, of more dimensions than two, or in an Einsum become linears that compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.passes.recognise_linears import recognise

SIZES = {"b": 2, "t": 5, "e": 3, "k": 8, "h": 4, "n": 6, "d": 7}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0])


def equal(model: onnx.ModelProto, linears: int) -> onnx.ModelProto:
    """The rewritten model computes the same, and has so many linears."""
    read, _ = onnx_reader.read(model)
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(dims).astype(np.float32)
    np.testing.assert_allclose(run(read, x), run(model, x), rtol=1e-4, atol=1e-4)
    _, found = recognise(read)
    assert len(found) == linears
    return read


def test_a_constant_on_the_left(build: Any) -> None:
    build.node("MatMul", build.floats(4, 6), "x", out="y")
    equal(build.model({"x": [2, 3, 6, 5]}, ["y"]), 1)


@pytest.mark.parametrize("shape", [[6, 8], [1, 6, 8], [3, 6, 8], [2, 3, 6, 8], [2, 1, 6, 8]])
@pytest.mark.parametrize("left", [False, True])
def test_experts(build: Any, shape: list[int], left: bool) -> None:
    """One activation for all, or one for each; under further dimensions too."""
    weight = build.constant(build.random.normal(0, 0.3, (3, 5, 6) if left else (3, 8, 5)).astype(np.float32))
    build.node("MatMul", *([weight, "x"] if left else ["x", weight]), out="y")
    equal(build.model({"x": shape}, ["y"]), 3)


def test_one_expert_is_a_linear(build: Any) -> None:
    weight = build.constant(build.random.normal(0, 0.3, (1, 8, 5)).astype(np.float32))
    build.node("MatMul", "x", weight, out="y")
    equal(build.model({"x": [4, 6, 8]}, ["y"]), 1)


@pytest.mark.parametrize(
    ("equation", "linears"),
    [
        ("btk,nk->btn", 1),
        ("btk,kn->btn", 1),
        ("btk,kn->ntb", 1),
        ("btk,khd->bhtd", 1),
        ("btk,hkd->bthd", 1),
        ("bthd,hdn->btn", 1),
        ("etk,ekn->etn", 3),
        ("etk,enk->ten", 3),
        ("betk,ekn->betn", 3),
        ("tk,ekn->etn", 1),
        ("btk,tkn->bn", 1),
        ("tehk,ekn->tnhe", 3),
    ],
)
@pytest.mark.parametrize("right", [0, 1])
def test_einsum_of_an_activation_and_a_constant(build: Any, equation: str, linears: int, right: int) -> None:
    terms, result = equation.split("->")
    x, w = terms.split(",")
    weight = build.constant(build.random.normal(0, 0.3, [SIZES[c] for c in w]).astype(np.float32))
    reads, order = (["x", weight], f"{x},{w}") if right else ([weight, "x"], f"{w},{x}")
    build.node("Einsum", *reads, out="y", equation=f"{order}->{result}")
    equal(build.model({"x": [SIZES[c] for c in x]}, ["y"]), linears)


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_codes_of_experts_stay_codes(build: Any, axis: int | None) -> None:
    """Scales for all, for each expert, for each column."""
    codes = build.random.integers(-127, 128, (3, 8, 5)).astype(np.int8)
    count = 1 if axis is None else codes.shape[axis]
    scale = build.random.uniform(0.01, 0.02, count).astype(np.float32)
    pair = [scale.reshape(()), np.zeros((), np.int8)] if axis is None else [scale, np.zeros(count, np.int8)]
    reals = build.node("DequantizeLinear", *[build.constant(v) for v in (codes, *pair)], axis=axis or 0)
    build.node("MatMul", "x", reals, out="y")
    _, found = recognise(equal(build.model({"x": [3, 6, 8]}, ["y"]), 3))
    for i, linear in enumerate(found):
        assert linear.codes is not None
        assert np.array_equal(linear.codes.codes, codes[i])


def test_codes_with_a_scale_a_row_stay(build: Any) -> None:
    codes = build.constant(build.random.integers(-127, 128, (3, 8, 5)).astype(np.int8))
    scale = build.constant(build.random.uniform(0.01, 0.02, 8).astype(np.float32))
    reals = build.node("DequantizeLinear", codes, scale, build.constant(np.zeros(8, np.int8)), axis=1)
    build.node("MatMul", "x", reals, out="y")
    equal(build.model({"x": [3, 6, 8]}, ["y"]), 0)


@pytest.mark.parametrize("equation", ["bt,n->btn", "btk,tn->bn", "btk,kk->bt", "b...k,kn->b...n"])
def test_what_is_no_linear_stays(build: Any, equation: str) -> None:
    """Outer products, features that are summed away, diagonals; an ellipsis is the host's."""
    x, w = equation.split("->")[0].split(",")
    dims = [SIZES[c] for c in x.replace("...", "t")]
    weight = build.constant(build.random.normal(0, 0.3, [SIZES[c] for c in w]).astype(np.float32))
    build.node("Einsum", "x", weight, out="y", equation=equation)
    read, _ = onnx_reader.read(build.model({"x": dims}, ["y"]))
    assert [node.op_type for node in read.graph.node] == ["Einsum"]


def test_products_of_one_number_are_no_linears(build: Any) -> None:
    """Rotary frequencies times positions must keep their floats."""
    build.node("MatMul", build.floats(6, 1), "x", out="y")
    read, _ = onnx_reader.read(build.model({"x": [1, 5]}, ["y"]))
    assert [node.op_type for node in read.graph.node] == ["MatMul"]
    assert not recognise(read)[1]


def test_experts_run_on_the_accelerator(build: Any) -> None:
    """A router's mixture of experts: every product is in a linear."""
    b = build
    weights = [b.constant(b.random.normal(0, 0.3, s).astype(np.float32)) for s in ((4, 32, 16), (4, 16, 32))]
    inner = b.node("Relu", b.node("MatMul", "x", weights[0]))
    share = b.node("Softmax", b.node("MatMul", "x", b.floats(32, 4)), axis=-1)
    each = b.node("Unsqueeze", b.node("Transpose", share, perm=[1, 0]), b.constant(np.array([2], np.int64)))
    mixed = b.node("Mul", b.node("MatMul", inner, weights[1]), each)
    b.node("ReduceSum", mixed, b.constant(np.array([0], np.int64)), out="y", keepdims=0)
    model = b.model({"x": [6, 32]}, ["y"])
    program = axlora.compile(model, "edge-asic")
    assert program.host_macs == 0
    x = np.random.default_rng(3).standard_normal((6, 32)).astype(np.float32)
    y, wanted = axlora.simulate(program, {"x": x}).outputs["y"], run(model, x)
    assert np.linalg.norm(y - wanted) < 0.02 * np.linalg.norm(wanted)
