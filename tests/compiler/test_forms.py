"""Forms of a linear that need no exporter to show, and files that are read with care: halves, outside weights, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from axlora.compiler.errors import BadModel
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.passes.recognise_linears import recognise

K, N, R, T = 24, 20, 4, 6


def only(model: onnx.ModelProto) -> FoundLinear:
    read, _ = onnx_reader.read(model)
    _, found = recognise(read)
    assert len(found) == 1
    return found[0]


def checked(model: onnx.ModelProto, branches: int, tolerance: float = 1e-5) -> FoundLinear:
    """The one linear of `model` (x -> y), and that it computes what onnxruntime does."""
    f = only(model)
    assert len(f.loras) == branches
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    runner = ort.InferenceSession(model.SerializeToString(), options)
    x = np.random.default_rng(1).normal(0, 1, runner.get_inputs()[0].shape)
    kind = np.float16 if "float16" in runner.get_inputs()[0].type else np.float32
    (expected,) = runner.run(None, {"x": x.astype(kind)})
    y = x @ f.weight
    for lora in f.loras:
        y = y + lora.scale * (x @ lora.a @ lora.b) + (0 if lora.bias is None else lora.bias)
        y = y if lora.gain is None else y * lora.gain
    assert np.abs(y + f.bias - expected).max() < tolerance * max(1, np.abs(expected).max())
    return f


def pair(b: Any) -> tuple[str, str]:
    return b.floats(K, R, spread=0.2), b.floats(R, N, spread=0.2)


def test_scale_on_a_division_and_between_a_and_b(build: Any) -> None:
    b = build
    a, c = pair(b)
    t = b.node("Mul", b.constant(np.array([3.0], np.float32)), b.node("MatMul", "x", a))
    u = b.node("Div", b.node("MatMul", t, c), b.constant(np.array(2, np.float32)))
    b.node("Add", u, b.node("MatMul", "x", b.floats(K, N)), out="y")
    f = checked(b.model({"x": [T, K]}, ["y"]), 1)
    assert f.loras[0].scale == 1.5


def test_vectors_by_rank_and_by_column(build: Any) -> None:
    """VeRA: lambda_d between A and B, lambda_b after B."""
    b = build
    a, c = pair(b)
    t = b.node("Mul", b.node("MatMul", "x", a), b.floats(R, spread=1))
    u = b.node("Mul", b.node("MatMul", t, c), b.floats(N, spread=1))
    b.node("Add", b.node("MatMul", "x", b.floats(K, N)), u, out="y")
    checked(b.model({"x": [T, K]}, ["y"]), 1)


def test_bias_after_b_is_scaled(build: Any) -> None:
    b = build
    a, c = pair(b)
    u = b.node("Add", b.node("MatMul", b.node("MatMul", "x", a), c), b.floats(N))
    v = b.node("Mul", u, b.constant(np.array(2, np.float32)))
    base = b.node("Add", b.floats(N), b.node("MatMul", "x", b.floats(K, N)))
    b.node("Add", base, v, out="y")
    assert checked(b.model({"x": [T, K]}, ["y"]), 1).loras[0].bias is not None


def test_a_transpose_before_every_product(build: Any) -> None:
    b = build

    def turned(rows: int, columns: int) -> str:
        return b.node("Transpose", b.floats(columns, rows, spread=0.2), perm=[1, 0])

    t = b.node("MatMul", "x", turned(K, R))
    b.node("Add", b.node("MatMul", "x", turned(K, N)), b.node("MatMul", t, turned(R, N)), out="y")
    checked(b.model({"x": [T, K]}, ["y"]), 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [0, 1])
def test_dora_in_the_graph(build: Any, bias: bool, side: int) -> None:
    """Add(base, Add(Mul(g - 1, base without bias), Mul(Mul(g, lora), s))), PEFT 0.21's form."""
    b = build
    a, c = pair(b)
    g = b.random.uniform(0.5, 2, (1, N)).astype(np.float32)
    product = b.node("MatMul", "x", b.floats(K, N))
    vector = b.floats(N)
    base = b.node("Add", product, vector) if bias else product
    bare = b.node("Sub", base, vector) if bias else product
    lora = b.node("Mul", b.constant(g), b.node("MatMul", b.node("MatMul", "x", a), c))
    ends = [b.node("Mul", b.constant(g - 1), bare), b.node("Mul", lora, b.constant(np.array(2, np.float32)))]
    joined = b.node("Add", *(ends if side else ends[::-1]))
    b.node("Add", *((base, joined) if side else (joined, base)), out="y")
    f = checked(b.model({"x": [T, K]}, ["y"]), 1)
    gain = f.loras[0].gain
    assert gain is not None
    assert np.allclose(gain, g)
    assert f.bias.any() == bias


def test_a_branch_behind_a_residual_is_two_linears(build: Any) -> None:
    """Add(Add(base, residual), lora): nothing is lost, nothing is joined over the residual."""
    b = build
    a, c = pair(b)
    sum_ = b.node("Add", b.node("MatMul", "x", b.floats(K, N)), b.node("Relu", "z"))
    b.node("Add", sum_, b.node("MatMul", b.node("MatMul", "x", a), c), out="y")
    model, _ = onnx_reader.read(b.model({"x": [T, K], "z": [T, N]}, ["y"]))
    _, found = recognise(model)
    assert sorted(f.shape for f in found) == sorted([(K, N), (K, R), (R, N)])
    assert not any(f.loras for f in found)


def test_half_precision_base_between_casts(build: Any) -> None:
    b = build
    a, c = pair(b)
    w = b.constant(b.random.normal(0, 0.2, (K, N)).astype(np.float16))
    wide = b.node("Cast", "x", to=TensorProto.FLOAT)
    delta = b.node("Cast", b.node("MatMul", b.node("MatMul", wide, a), c), to=TensorProto.FLOAT16)
    b.node("Add", b.node("MatMul", "x", w), delta, out="y")
    model = b.model({"x": [T, K]}, ["y"])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    checked(model, 1, 5e-3)


def test_weights_with_zero_points_beyond_int8(build: Any) -> None:
    """Codes less zero point reach -250: they stay unsigned, with their zero points."""
    b = build
    codes, zero = b.random.integers(0, 256, (K, N)).astype(np.uint8), b.random.integers(0, 256, N).astype(np.uint8)
    zero[0] = 250
    scale = b.random.uniform(0.001, 0.003, N).astype(np.float32)
    b.node("MatMul", "x", b.node("DequantizeLinear", *[b.constant(v) for v in (codes, scale, zero)], axis=1), out="y")
    f = checked(b.model({"x": [T, K]}, ["y"]), 0)
    assert f.codes is not None
    assert np.array_equal(f.codes.codes, codes)
    assert f.codes.zero is not None
    assert np.array_equal(f.codes.zero, zero)


def test_weights_that_the_graph_itself_quantizes(build: Any) -> None:
    """QAT exports: QuantizeLinear and DequantizeLinear of a float weight; the codes are found, not the floats."""
    b = build
    w, pair_of = b.floats(K, N), [b.constant(np.array(0.003, np.float32)), b.constant(np.array(0, np.int8))]
    codes = b.node("QuantizeLinear", w, *pair_of)
    b.node("MatMul", "x", b.node("DequantizeLinear", codes, *pair_of), out="y")
    f = checked(b.model({"x": [T, K]}, ["y"]), 0)
    assert f.codes is not None
    assert np.array_equal(f.codes.reals, f.weight)


def microsoft(b: Any) -> onnx.ModelProto:
    """The built model, with onnxruntime's operators in it."""
    model: onnx.ModelProto = b.model({"x": [T, K]}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def test_fused_scale_of_onnxruntime(build: Any) -> None:
    """FusedMatMul(alpha): LoRA's scale after onnxruntime's extended optimizations."""
    b = build
    a, c = pair(b)
    base = b.node("FusedMatMul", "x", b.floats(N, K), domain="com.microsoft", transB=1)
    t = b.node("MatMul", "x", a)
    b.node("Add", base, b.node("FusedMatMul", t, c, domain="com.microsoft", alpha=1.6), out="y")
    assert checked(microsoft(b), 1).loras[0].scale == pytest.approx(1.6)


@pytest.mark.parametrize("kind", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_dynamic_products_of_onnxruntime(build: Any, kind: str, bias: bool) -> None:
    b = build
    codes, zero = b.random.integers(0, 256, (K, N)).astype(np.uint8), b.random.integers(100, 150, N).astype(np.uint8)
    w, z = b.constant(codes), b.constant(zero)
    scale = b.constant(b.random.uniform(0.001, 0.003, N).astype(np.float32))
    last = [b.floats(N)] if bias else []
    if kind == "DynamicQuantizeMatMul":
        b.node(kind, "x", w, scale, z, *last, domain="com.microsoft", out="y")
    else:
        b.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "o"]))
        b.node(kind, "q", w, "s", scale, "o", z, *last, domain="com.microsoft", out="y")
    f = checked(microsoft(b), 0, 0.02)
    assert f.dynamic
    assert f.x_name == "x"
    assert f.bias.any() == bias
    assert f.codes is not None


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_every_opset(build: Any, opset: int) -> None:
    b = build
    a, c = pair(b)
    flat = b.node("Reshape", "x", b.constant(np.array([-1, K], np.int64)))
    base = b.node("Gemm", flat, b.floats(N, K), b.floats(N), transB=1)
    base = b.node("Reshape", base, b.constant(np.array([2, T, N], np.int64)))
    b.node("Add", base, b.node("MatMul", b.node("MatMul", "x", a), c), out="y")
    checked(b.model({"x": [2, T, K]}, ["y"], opset), 1)


def outside(b: Any, folder: Path) -> Path:
    """A model whose weights lie in weights.bin beside it."""
    b.node("MatMul", "x", b.floats(K, N), out="y")
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(b.model({"x": [T, K]}, ["y"]), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def moved(path: Path, **fields: str) -> None:
    """Change what the file says of its weights."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = fields.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


def test_weights_beside_the_model(build: Any, tmp_path: Path) -> None:
    path = outside(build, tmp_path / "m")
    _, found = recognise(onnx_reader.read(path)[0])
    assert found[0].weight.shape == (K, N)
    with pytest.raises(BadModel, match="not in the model"):
        onnx_reader.read(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"location": "../weights.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "none.bin"}, "no file"),
        ({"offset": "64"}, "needs 1920"),
        ({"length": "16"}, "needs 1920"),
        ({"length": "many"}, "no number"),
    ],
)
def test_weights_out_of_reach(build: Any, tmp_path: Path, fields: dict[str, str], text: str) -> None:
    path = outside(build, tmp_path / "m")
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    moved(path, **fields)
    with pytest.raises(BadModel, match=text) as error:
        onnx_reader.read(path)
    assert "\n" not in str(error.value)


def test_weights_that_link_out_of_the_folder(build: Any, tmp_path: Path) -> None:
    path = outside(build, tmp_path / "m")
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(BadModel, match="links out"):
        onnx_reader.read(path)


def test_raw_weights_that_are_cut(build: Any) -> None:
    b = build
    b.node("MatMul", "x", b.floats(K, N), out="y")
    model = b.model({"x": [T, K]}, ["y"])
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(BadModel, match="need 1920"):
        onnx_reader.read(model)


def test_the_given_model_is_not_changed(build: Any) -> None:
    b = build
    b.node("MatMul", "x", b.constant(np.ones((K, N), np.float16)), out="y")
    model = b.model({"x": [T, K]}, ["y"])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    before = model.SerializeToString()
    onnx_reader.read(model)
    assert model.SerializeToString() == before


def test_shape_arithmetic_is_folded(build: Any) -> None:
    """Shape, Gather, Concat, ConstantOfShape, Range, Expand: nothing of it is left."""
    b = build
    rows = b.node("Gather", b.node("Shape", "x"), b.constant(np.array([0], np.int64)), axis=0)
    shape = b.node("Concat", rows, b.constant(np.array([1], np.int64)), axis=0)
    ones = b.node("ConstantOfShape", shape, value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.0]))
    y = b.node("Mul", b.node("MatMul", "x", b.floats(K, N)), ones)
    end = b.node("Squeeze", rows, b.constant(np.array([0], np.int64)))
    one, zero = b.constant(np.array(1, np.int64)), b.constant(np.array(0, np.int64))
    b.node("Gather", y, b.node("Range", zero, end, one), axis=0, out="y")
    model, _ = onnx_reader.read(b.model({"x": ["rows", K]}, ["y"]), {"rows": T})
    assert {n.op_type for n in model.graph.node} <= {"MatMul", "Mul", "Gather", "Constant"}
