"""Structure, never names: the forms of a linear, its bias and its branches (the project's notes, `inputs.md`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target

K, N, R, T = 24, 20, 4, 6


def check(model: onnx.ModelProto, target: Target, linears: int = 1, adapter: str | None = None, steps: float = 1.01) -> None:
    """Lower, run the integers, and compare with onnxruntime; `steps`: allowed difference in output steps."""
    low, graph = lower(model, target, CompileOptions())
    assert len(low.linears) == linears
    assert low.default_adapter == adapter
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runner = ort.InferenceSession(model.SerializeToString(), options)
    random = np.random.default_rng(5)
    feed = {i.name: random.normal(0, 1, i.shape).astype(np.float32) for i in runner.get_inputs()}
    got = Reference(graph).run(feed, adapter)
    for o in runner.get_outputs():
        expected = runner.run([o.name], feed)[0]
        scale = next((t.scale for t in low.outputs if t.bits < 32), 0.0) or 0.02 * float(np.abs(expected).max())
        assert np.abs(got[o.name] - expected).max() <= steps * scale, o.name


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("per_tensor", [True, False])
@pytest.mark.parametrize("bias", [None, "left", "right"])
def test_qdq_linear(build: Any, target: Target, dtype: type, per_tensor: bool, bias: str | None) -> None:
    b = build
    x = b.qdq("x", 0.02, 120 if dtype is np.uint8 else -8, dtype)
    y = b.node("MatMul", x, b.weight(K, N, per_tensor, dtype))
    if bias:
        vector = b.floats(N)
        y = b.node("Add", *((vector, y) if bias == "left" else (y, vector)))
    b.qdq(y, 0.02, 130 if dtype is np.uint8 else 3, dtype, "y")
    check(b.model({"x": [T, K]}, ["y"]), target)


def lora_of(b: Any, x: str, scale: str = "mul", qdq: bool = False) -> str:
    """A branch beside a base that reads x."""
    a, c = b.floats(K, R, spread=0.2), b.floats(R, N, spread=0.05)
    if qdq:
        a, c = b.weight(K, R), b.weight(R, N)
    t = b.node("MatMul", x, a)
    t = b.qdq(t, 0.03, 1) if qdq else t
    u = b.node("MatMul", t, c)
    u = b.qdq(u, 0.01, 0) if qdq else u
    return b.node("Mul", u, b.constant(np.array(2, np.float32))) if scale == "mul" else u


@pytest.mark.parametrize("order", ["bias first", "branch first"])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("scale", ["mul", "none"])
def test_branch_beside_the_base(build: Any, target: Target, order: str, side: int, scale: str) -> None:
    b = build
    x = b.qdq("x", 0.02, -8)
    y, bias = b.node("MatMul", x, b.weight(K, N)), b.floats(N)
    if order == "bias first":
        y = b.node("Add", y, bias)
    delta = lora_of(b, x, scale)
    y = b.node("Add", *((y, delta) if side else (delta, y)))
    if order == "branch first":
        y = b.node("Add", bias, y)
    b.qdq(y, 0.02, 3, out="y")
    check(b.model({"x": [T, K]}, ["y"]), target, adapter="graph")


def test_static_qdq_of_base_a_and_b(build: Any, target: Target) -> None:
    """Q/DQ after base, A and B: the fused mode rounds once, so it is within a few steps of the file's own chain."""
    b = build
    x = b.qdq("x", 0.02, -8)
    y = b.qdq(b.node("Add", b.node("MatMul", x, b.weight(K, N)), b.floats(N)), 0.02, 3)
    b.qdq(b.node("Add", y, lora_of(b, x, qdq=True)), 0.02, 3, out="y")
    check(b.model({"x": [T, K]}, ["y"]), target, adapter="graph", steps=2.01)


def test_two_branches_chained(build: Any, target: Target) -> None:
    b = build
    x = b.qdq("x", 0.02, -8)
    y = b.node("Add", b.node("MatMul", x, b.weight(K, N)), lora_of(b, x))
    b.qdq(b.node("Add", y, lora_of(b, x, "none")), 0.02, 3, out="y")
    check(b.model({"x": [T, K]}, ["y"]), target, adapter="graph")


@pytest.mark.parametrize("transposed", [False, True])
def test_gemm_between_reshapes_with_a_branch_on_the_unreshaped_input(build: Any, target: Target, transposed: bool) -> None:
    """GPT-2: Reshape, Gemm, Reshape; the branch reads x itself."""
    b = build
    x = b.qdq("x", 0.02, -8)
    flat = b.node("Reshape", x, b.constant(np.array([-1, K], np.int64)))
    w = b.floats(N, K) if transposed else b.weight(K, N)
    y = b.node("Gemm", flat, w, b.floats(N), transB=int(transposed))
    y = b.node("Reshape", y, b.constant(np.array([2, T, N], np.int64)))
    b.qdq(b.node("Add", y, lora_of(b, x)), 0.02, 3, out="y")
    check(b.model({"x": [2, T, K]}, ["y"]), target, adapter="graph", steps=2.01)


def test_transposed_codes_by_row(build: Any, target: Target) -> None:
    """Transpose(DQ(W [N, K], axis 0)): scales run along the output columns."""
    b = build
    x = b.qdq("x", 0.02, -8)
    codes = b.random.integers(-127, 128, (N, K)).astype(np.int8)
    names = [b.constant(v) for v in (codes, b.random.uniform(0.001, 0.003, N).astype(np.float32), np.zeros(N, np.int8))]
    w = b.node("Transpose", b.node("DequantizeLinear", *names, axis=0), perm=[1, 0])
    b.qdq(b.node("MatMul", x, w), 0.02, 3, out="y")
    check(b.model({"x": [T, K]}, ["y"]), target)


def test_two_linears_in_a_row_pass_codes(build: Any, target: Target) -> None:
    b = build
    y = b.qdq(b.node("MatMul", b.qdq("x", 0.02, -8), b.weight(K, N)), 0.02, 3)
    b.qdq(b.node("MatMul", y, b.weight(N, K)), 0.02, 1, out="y")
    model = b.model({"x": [T, K]}, ["y"])
    low, graph = lower(model, target, CompileOptions())
    assert low.linears[1].input == low.linears[0].output
    assert graph.inputs == (low.linears[0].input,)
    check(model, target, linears=2, steps=2.01)


def test_host_operators_between_linears(build: Any, target: Target) -> None:
    b = build
    y = b.node("MatMul", b.qdq("x", 0.02, -8), b.weight(K, N))
    y = b.qdq(b.node("Relu", y), 0.02, -10)
    b.node("Softmax", b.node("MatMul", y, b.weight(N, K)), axis=-1, out="y")
    model = b.model({"x": [T, K]}, ["y"])
    low, _ = lower(model, target, CompileOptions())
    assert [(r.where, r.macs) for r in low.placement if r.operator.startswith("MatMul")] == [
        ("accelerator", T * K * N),
        ("accelerator", T * K * N),
    ]
    assert {r.where for r in low.placement if r.operator.split()[0] in ("Relu", "Softmax")} == {"host"}
    check(model, target, linears=2)


def test_a_product_with_another_input_is_no_branch(build: Any, target: Target) -> None:
    """Two linears of different inputs that are added: neither is an adapter of the other."""
    b = build
    x, z = b.qdq("x", 0.02, -8), b.qdq("z", 0.02, 4)
    low_rank = b.node("MatMul", b.qdq(b.node("MatMul", z, b.weight(K, R)), 0.02, 0), b.weight(R, N))
    b.node("Add", b.node("MatMul", x, b.weight(K, N)), low_rank, out="y")
    low, _ = lower(b.model({"x": [T, K], "z": [T, K]}, ["y"]), target, CompileOptions())
    assert len(low.linears) == 3
    assert low.default_adapter is None


def test_dead_columns_and_a_huge_bias(build: Any, target: Target) -> None:
    """All-zero columns give their bias; a bias far beyond the accumulator shifts."""
    b = build
    codes = b.random.integers(-127, 128, (K, N)).astype(np.int8)
    codes[:, :3] = 0
    scale = np.full(N, 0.002, np.float32)
    scale[:2] = 0.0
    scale[5] = 1e-8
    bias = b.random.normal(0, 1, N).astype(np.float32)
    w = b.node("DequantizeLinear", *[b.constant(v) for v in (codes, scale, np.zeros(N, np.int8))], axis=1)
    b.qdq(b.node("Add", b.node("MatMul", b.qdq("x", 0.02, -8), w), b.constant(bias)), 0.03, 3, out="y")
    check(b.model({"x": [T, K]}, ["y"]), target)


# Bad input: one clear line, the right class.


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert getattr(error.value, "hint", "")
    return text


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 40, b"\x08\x09", bytes(range(256)) * 8])
def test_not_an_onnx_file(tmp_path: Any, target: Target, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BadModel) as error:
        lower(tmp_path / "m.onnx", target, CompileOptions())
    assert "m.onnx" in one_line(error)


def test_truncated_file_and_no_file(tmp_path: Any, target: Target, build: Any) -> None:
    b = build
    b.qdq(b.node("MatMul", b.qdq("x", 0.02, 0), b.weight(K, N)), 0.02, 3, out="y")
    data = b.model({"x": [T, K]}, ["y"]).SerializeToString()
    for cut in (len(data) // 3, len(data) - 5):
        (tmp_path / "cut.onnx").write_bytes(data[:cut])
        with pytest.raises(BadModel) as error:
            lower(tmp_path / "cut.onnx", target, CompileOptions())
        assert "cut.onnx" in one_line(error)
    with pytest.raises(BadModel, match="no such file"):
        lower(tmp_path / "none.onnx", target, CompileOptions())


def test_free_dimensions_are_named(build: Any, target: Target) -> None:
    b = build
    b.qdq(b.node("MatMul", b.qdq("x", 0.02, 0), b.weight(K, N)), 0.02, 3, out="y")
    model = b.model({"x": ["tokens", K]}, ["y"])
    with pytest.raises(BadModel, match="--shape tokens=N"):
        lower(model, target, CompileOptions())
    with pytest.raises(BadModel, match="no dimension 'tokenz'"):
        lower(model, target, CompileOptions(shapes={"tokenz": 4}))
    with pytest.raises(BadModel, match="at least 1"):
        lower(model, target, CompileOptions(shapes={"tokens": 0}))


def test_operator_without_a_path_is_named(build: Any, target: Target) -> None:
    b = build
    b.nodes.append(onnx.helper.make_node("MatMulNBits", ["x"], ["y"], name="odd", domain="com.microsoft"))
    model = b.model({"x": [T, K]}, ["y"])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedOperator, match=r"odd.*MatMulNBits"):
        lower(model, target, CompileOptions())


def test_static_scales_of_a_float_model_need_calibration(build: Any, target: Target) -> None:
    b = build
    b.node("MatMul", "x", b.floats(K, N), out="y")
    model = b.model({"x": [T, K]}, ["y"])
    with pytest.raises(BadModel, match="calibration"):
        lower(model, target, CompileOptions(activation="static8"))
    with pytest.raises(BadModel, match="lacks input"):
        lower(model, target, CompileOptions(activation="static8", calibration={"z": np.zeros((1, T, K), np.float32)}))
    with pytest.raises(BadModel, match="shape"):
        lower(model, target, CompileOptions(activation="static8", calibration={"x": np.zeros((2, T + 1, K), np.float32)}))


def test_weights_that_are_not_finite(build: Any, target: Target) -> None:
    b = build
    w = b.constant(np.full((K, N), np.nan, np.float32))
    b.node("MatMul", b.qdq("x", 0.02, 0), w, out="y")
    with pytest.raises(BadModel, match="NaN"):
        lower(b.model({"x": [T, K]}, ["y"]), target, CompileOptions())


def test_accumulator_that_could_overflow(build: Any, target: Target) -> None:
    """128 * sum|w| reaches 2^31: K = 140000 rows of 127."""
    b = build
    k = 140_000
    names = [b.constant(v) for v in (np.full((k, 2), 127, np.int8), np.array(0.01, np.float32), np.array(0, np.int8))]
    b.node("MatMul", b.qdq("x", 0.02, 0), b.node("DequantizeLinear", *names), out="y")
    with pytest.raises(BadModel, match="accumulator could overflow: column 0"):
        lower(b.model({"x": [1, k]}, ["y"]), target, CompileOptions())
