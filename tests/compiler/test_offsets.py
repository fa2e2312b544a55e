"""Inputs on one side of zero: found by structure, quantized with an offset a token, summed by rows of the weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import onnx
import pytest
from exported_runs import FREE
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import axlora
from axlora.adapters import add_adapter
from axlora.compiler.boundary import quantize
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.one_sided_inputs import one_sided
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.layer import Codes
from axlora.compiler.passes.offsets import fitted, rows_needed, with_offset_rows
from axlora.compiler.passes.quantize_linear import quantize_weight
from axlora.compiler.pipelines import linears as pipeline
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.formats import Format
from axlora.isa.target import Target

K, N, T, RANK = 40, 12, 8, 3


def function(b: Any, kind: str) -> str:
    """Some function of x, as an exporter writes it."""
    half, one = b.constant(np.array(0.5, np.float32)), b.constant(np.array(1, np.float32))
    match kind:
        case "gelu":
            root = b.constant(np.array(2**0.5, np.float32))
            erf = b.node("Erf", b.node("Div", "x", root))
            return str(b.node("Mul", b.node("Mul", "x", b.node("Add", erf, one)), half))
        case "gelu-tanh":
            cube = b.node("Pow", "x", b.constant(np.array(3, np.float32)))
            inner = b.node("Add", "x", b.node("Mul", cube, b.constant(np.array(0.044715, np.float32))))
            tanh = b.node("Tanh", b.node("Mul", inner, b.constant(np.array([0.7978846], np.float32))))
            return str(b.node("Mul", b.node("Mul", half, "x"), b.node("Add", one, tanh)))
        case "silu":
            return str(b.node("Mul", "x", b.node("Sigmoid", "x")))
        case "square":
            return str(b.node("Mul", b.node("Relu", "x"), b.node("Relu", "x")))
        case "negative":
            return str(b.node("Neg", b.node("Softplus", "x")))
        case "gated":
            return str(b.node("Mul", b.node("Sigmoid", "x"), b.node("MatMul", "x", b.floats(K, K))))
        case "sum":
            return str(b.node("Add", b.node("Relu", "x"), b.floats(K)))
        case "identity":
            return "x"
        case name:
            return str(b.node(name, "x"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *((kind, True) for kind in ("gelu", "gelu-tanh", "silu", "square", "negative", "Relu", "Sigmoid", "Softplus")),
        *((kind, False) for kind in ("Tanh", "Neg", "Sin", "gated", "sum", "identity", "Erf")),
    ],
)
def test_one_side_is_told_by_the_function(build: Any, kind: str, expected: bool) -> None:
    build.node("MatMul", function(build, kind), build.floats(K, N), out="y")
    model, _ = onnx_reader.read(build.model({"x": [T, K]}, ["y"]))
    assert one_sided(Graph(model), next(n for n in model.graph.node if n.output[0] == "y").input[0]) is expected


@pytest.mark.parametrize("exporter", E.EXPORTERS)
@pytest.mark.parametrize(("plain", "count"), [("bert", 2), ("distilbert", 2), ("gpt2", 2), ("llama", 0)])
def test_real_exports_have_an_offset_behind_every_gelu(plain: str, count: int, exporter: str, target: Target) -> None:
    low, _ = lower(E.MODELS / f"{plain}.{exporter}.onnx", target, CompileOptions(shapes=FREE))
    found = [linear for linear in low.linears if linear.offset_rows]
    assert len(found) == count == sum(t.offset_columns > 0 for t in low.inputs)
    assert all(linear.inputs == E.INNER for linear in found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.floats(-1, 1), st.integers(0, 1 << 20))
def test_rows_of_the_offset_sum_to_the_weight(k: int, bits: int, zero_points: bool, lean: float, seed: int) -> None:
    """Any codes q and offset z: (q, z, ..., z) times the longer weight is (q + z) times the weight; codes keep their format."""
    random = np.random.default_rng(seed)
    high = (1 << (bits - 1)) - 1
    codes = np.clip(np.rint(random.normal(lean * high, high, (k, 5))), -high - zero_points, high).astype(np.int64)
    fmt = {2: Format.S2, 3: Format.S3, 4: Format.S4, 8: Format.S8}[bits]
    groups = -(-k // 128)
    zero = np.repeat(random.integers(-high - 1, high + 1, (1, 5)), groups, axis=0)
    weight = Codes(codes, fmt, None, 128, np.ones_like(zero), zero) if zero_points else Codes(codes, fmt)
    rows = rows_needed(weight, bits)
    assert rows <= max(k, 2 * (k / 3) ** 0.5 + 1)
    longer = with_offset_rows(weight, rows)
    assert longer.codes.min() >= -high - 1
    assert longer.codes.max() <= high
    assert np.array_equal(longer.weights()[:k], weight.weights())
    q, z = random.integers(-127, 128, (4, k)), random.integers(-127, 128, (4, 1))
    assert np.array_equal(np.hstack([q, np.repeat(z, rows, axis=1)]) @ longer.weights(), (q + z) @ weight.weights())


@pytest.mark.parametrize("lean", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 4, 30])
def test_columns_of_a_that_lean_too_far_get_a_larger_scale(rows: int, lean: float) -> None:
    a = np.random.default_rng(rows).normal(lean, 1, (60, 6))
    codes, scale = quantize_weight(a, 8)
    longer, wider = fitted(a, codes, scale, rows)
    assert np.array_equal(longer[60:].sum(axis=0), longer[:60].sum(axis=0))
    assert np.abs(longer).max() <= 127
    assert (np.abs(longer[:60] * wider - a) <= wider * 0.5000001).all()
    untouched = np.abs(codes.sum(axis=0)) <= 127 * rows
    assert np.array_equal(wider[untouched], scale[untouched])
    assert (wider[~untouched] <= 1.05 * np.maximum(np.abs(a.sum(axis=0)) / (127 * rows), scale)[~untouched]).all()


def exact(b: Any, n: int, middle: float) -> str:
    """A weight [K, n] that 8-bit codes hold without error."""
    codes = np.clip(np.rint(b.random.normal(middle, 40, (K, n))), -127, 127)
    codes[0] = 127
    return str(b.constant((codes / 1024).astype(np.float32)))


def gelu_model(b: Any) -> onnx.ModelProto:
    """x, GELU, a linear with a bias, and a second linear of the same input with weights on one side of zero."""
    hidden = function(b, "gelu")
    b.node("Add", b.node("MatMul", hidden, exact(b, N, 0)), b.floats(N), out="y")
    b.nodes[-2].name = "/down/MatMul"
    b.node("MatMul", hidden, exact(b, 5, 60), out="z")
    return b.model({"x": [T, K]}, ["y", "z"])


def adapter(write_peft: Any, lean: float, name: str = "a") -> Path:
    """LoRA on `down`; `lean` moves all of A to one side, so that the rows for the offset are too few for it."""
    random = np.random.default_rng(3)
    a, b = random.normal(lean, 0.2, (RANK, K)).astype(np.float32), random.normal(0, 0.2, (N, RANK)).astype(np.float32)
    path = "base_model.model.down"
    return Path(write_peft({f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}, name=name, r=RANK, lora_alpha=RANK))


def real(model: onnx.ModelProto, x: np.ndarray, folder: Path | None) -> dict[str, np.ndarray]:
    """The float model by hand, with the adapter."""
    from math import erf

    from safetensors.numpy import load_file

    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    hidden = x * (1 + np.vectorize(erf)(x / 2**0.5)) / 2
    down = next(n for n in model.graph.node if n.name == "/down/MatMul")
    add, other = (next(n for n in model.graph.node if n.output[0] == name) for name in "yz")
    y = hidden @ values[down.input[1]] + values[add.input[1]]
    if folder is not None:
        a, b = (load_file(folder / "adapter_model.safetensors")[f"base_model.model.down.lora_{p}.weight"] for p in "AB")
        y = y + hidden @ a.T @ b.T
    return {"y": y, "z": hidden @ values[other.input[1]]}


@pytest.mark.parametrize(("lean", "most"), [(0.0, 0.9), (0.3, 1.1)])
def test_an_offset_halves_the_distance(
    build: Any, target: Target, write_peft: Any, lean: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the base; a branch has roundings of its own, and an A that leans to one side loses resolution."""
    model, folder = gelu_model(build), adapter(write_peft, lean)
    x = np.random.default_rng(1).normal(0, 2, (T, K)).astype(np.float32)

    def distance() -> tuple[float, float]:
        reference = Reference(lower(model, target, CompileOptions(adapters={"a": folder}))[1])
        wanted = {name: real(model, x, folder if name else None) for name in (None, "a")}
        runs = {name: reference.run({"x": x}, name) for name in (None, "a")}
        base, own = (
            max(float(np.linalg.norm(runs[n][key] - wanted[n][key]) / np.linalg.norm(wanted[n][key])) for key in "yz")
            for n in (None, "a")
        )
        return base, own

    base, own = distance()
    monkeypatch.setattr(pipeline, "one_sided", lambda g, name: False)
    symmetric, symmetric_own = distance()
    assert base < 0.55 * symmetric
    assert own < most * symmetric_own


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_simulator_equals_reference_and_adapters_come_later(
    build: Any, target: Target, write_peft: Any, tmp_path: Path, weight_bits: int
) -> None:
    """Base and adapter, one compiled in, one added to the loaded package: the same codes, the same block."""
    model, folder = gelu_model(build), adapter(write_peft, 0.1)
    options: dict[str, Any] = {"weight_bits": weight_bits}
    low, graph = lower(model, target, CompileOptions(adapters={"a": folder}, **options))
    reference = Reference(graph)
    program = axlora.compile(model, target, adapters={"a": folder}, lora_linears="all", **options)
    later = axlora.compile(model, target, max_loras=1, max_lora_rank=RANK, **options)
    later.save(tmp_path / "m.axl")
    later = add_adapter(axlora.load(tmp_path / "m.axl"), "a", folder)
    assert later.adapters[0].block == program.adapters[0].block
    x = np.random.default_rng(2).normal(0, 2, (T, K)).astype(np.float32)
    for name in (None, "a"):
        wanted = reference.run({"x": x}, name)
        for made in (program, later):
            run = axlora.simulate(made, {"x": x}, name)
            assert all(np.array_equal(run.codes[linear.output], reference.codes[linear.output]) for linear in low.linears)
            assert all(np.array_equal(run.outputs[key], wanted[key]) for key in wanted)


def test_codes_end_with_the_offset(build: Any, target: Target) -> None:
    low, _ = lower(gelu_model(build), target, CompileOptions())
    (tensor,) = low.inputs
    x = np.abs(np.random.default_rng(0).normal(0, 1, (T, K))).astype(np.float32)
    codes = quantize(tensor, x).codes
    assert codes.shape == (T, tensor.columns) == (T, K + tensor.offset_columns)
    assert (codes[:, K:] == codes[:, K : K + 1]).all()
    assert (codes[:, K] > 100).all()


def test_a_function_with_integers_inside_is_looked_at_too(build: Any) -> None:
    b = build
    cast = b.node("Cast", b.node("Cast", "x", to=TensorProto.INT32), to=TensorProto.FLOAT)
    b.node("MatMul", b.node("Abs", cast), b.floats(K, N), out="y")
    model, _ = onnx_reader.read(b.model({"x": [T, K]}, ["y"]))
    assert one_sided(Graph(model), next(n for n in model.graph.node if n.output[0] == "y").input[0])
