"""Convolutions on the accelerator: every attribute, float, in pairs, as QLinearConv and dynamic, against onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as quant
from safetensors.numpy import save_file

import axlora
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.isa.target import Target

BATCH = 2


def model(
    shape: tuple[int, ...], weight: tuple[int, ...], bias: bool = True, second: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """Conv, Relu and a second Conv of one element, every `second` of them, x to y."""
    rng = np.random.default_rng(1)
    held = {"w": rng.normal(0, 0.3, weight), "w2": rng.normal(0, 0.3, (5, weight[0], *(1 for _ in weight[2:])))}
    if bias:
        held |= {"b": rng.normal(0, 0.5, weight[0])}
    nodes = [
        helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], "/stem/Conv", **attributes),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"], "/head/Conv", strides=[second] * (len(weight) - 2)),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [BATCH, *shape])],
        [value("y", TensorProto.FLOAT, [f"d{n}" for n in range(1 + len(shape))])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


FORMS: dict[str, dict[str, Any]] = {
    "one element": {"shape": (6, 5, 7), "weight": (8, 6, 1, 1)},
    "padded": {"shape": (3, 8, 8), "weight": (8, 3, 3, 3), "pads": [1, 1, 1, 1]},
    "without a bias": {"shape": (3, 8, 8), "weight": (8, 3, 3, 3), "bias": False},
    "strided": {"shape": (3, 9, 8), "weight": (8, 3, 3, 2), "pads": [1, 0, 1, 0], "strides": [2, 3]},
    "pads of each side": {"shape": (3, 7, 7), "weight": (8, 3, 3, 3), "pads": [0, 1, 2, 3]},
    "dilated": {"shape": (3, 9, 9), "weight": (8, 3, 3, 3), "dilations": [2, 3], "pads": [2, 3, 2, 3]},
    "same upper": {"shape": (3, 7, 8), "weight": (8, 3, 3, 4), "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"shape": (3, 7, 8), "weight": (8, 3, 3, 4), "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "valid": {"shape": (3, 7, 8), "weight": (8, 3, 3, 3), "auto_pad": "VALID"},
    "groups": {"shape": (6, 6, 6), "weight": (18, 2, 3, 3), "group": 3, "pads": [1, 1, 1, 1]},
    "depthwise": {"shape": (40, 6, 6), "weight": (40, 1, 3, 3), "group": 40, "pads": [1, 1, 1, 1]},
    "tiles": {"shape": (3, 8, 11), "weight": (8, 3, 4, 2), "strides": [4, 2]},
    "one dimension": {"shape": (6, 16), "weight": (8, 6, 3), "strides": [2], "pads": [1, 1]},
    "three dimensions": {"shape": (2, 4, 5, 6), "weight": (8, 2, 3, 2, 3), "pads": [1, 0, 1, 1, 0, 1]},
}


def expected(proto: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(proto) if isinstance(proto, Path) else proto.SerializeToString()
    return np.asarray(ort.InferenceSession(source, options).run(None, {"x": x})[0])


def given(shape: tuple[int, ...], seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (BATCH, *shape)).astype(np.float32)


def products(program: axlora.Program) -> list[str]:
    """Where what multiplies runs."""
    return [
        row.where for row in program.placement if row.operator.split()[0] in ("MatMul", "Conv", "ConvInteger", "MatMulInteger")
    ]


@pytest.mark.parametrize("form", FORMS)
def test_floats(form: str) -> None:
    proto, x = model(**FORMS[form]), given(FORMS[form]["shape"])
    program = axlora.compile(proto, "test")
    assert program.host_macs == 0
    assert set(products(program)) == {"accelerator"}
    got, wanted = axlora.simulate(program, {"x": x}, timing=False).outputs["y"], expected(proto, x)
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) < 0.013 * np.linalg.norm(wanted)


def _quantized(form: str, folder: Path, **options: Any) -> Path:
    """The model as onnxruntime's static quantizer writes it."""
    onnx.save(model(**FORMS[form]), folder / "f.onnx")
    shape = FORMS[form]["shape"]

    class Reader(quant.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": given(shape, seed)} for seed in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quant.quantize_static(str(folder / "f.onnx"), str(folder / "q.onnx"), Reader(), **options)
    return folder / "q.onnx"


STATIC = {
    "pairs": {"quant_format": quant.QuantFormat.QDQ, "weight_type": quant.QuantType.QInt8},
    "pairs by channel": {"quant_format": quant.QuantFormat.QDQ, "weight_type": quant.QuantType.QInt8, "per_channel": True},
    "unsigned": {
        "quant_format": quant.QuantFormat.QDQ,
        "weight_type": quant.QuantType.QUInt8,
        "activation_type": quant.QuantType.QUInt8,
    },
    "operators on codes": {
        "quant_format": quant.QuantFormat.QOperator,
        "weight_type": quant.QuantType.QInt8,
        "per_channel": True,
    },
}


@pytest.mark.parametrize("form", ["padded", "strided", "groups", "depthwise", "one dimension"])
@pytest.mark.parametrize("kind", STATIC)
def test_codes_are_onnxruntimes(kind: str, form: str, tmp_path: Path) -> None:
    """Within a step of the output, for its rounding alone may differ."""
    path, x = _quantized(form, tmp_path, **STATIC[kind]), given(FORMS[form]["shape"])
    program = axlora.compile(path, "test")
    assert program.host_macs == 0
    assert set(products(program)) == {"accelerator"}
    got, wanted = axlora.simulate(program, {"x": x}, timing=False).outputs["y"], expected(path, x)
    step = np.diff(np.unique(wanted)).min()
    assert np.abs(got - wanted).max() < 1.01 * step
    assert (np.abs(got - wanted) > step / 2).mean() < 0.02


@pytest.mark.parametrize("form", ["padded", "groups", "one dimension"])
def test_dynamic_files(form: str, tmp_path: Path) -> None:
    """Rows have scales of their own here: no further from floats than onnxruntime is."""
    proto, x = model(**FORMS[form]), given(FORMS[form]["shape"])
    onnx.save(proto, tmp_path / "f.onnx")
    quant.quantize_dynamic(tmp_path / "f.onnx", tmp_path / "d.onnx", op_types_to_quantize=["Conv"])
    program = axlora.compile(tmp_path / "d.onnx", "test")
    assert set(products(program)) == {"accelerator"}
    exact, got = expected(proto, x), axlora.simulate(program, {"x": x}, timing=False).outputs["y"]
    theirs = np.linalg.norm(expected(tmp_path / "d.onnx", x) - exact)
    assert np.linalg.norm(got - exact) < 1.1 * theirs


def test_codes_of_the_file_reach_the_machine(tmp_path: Path) -> None:
    """Each code, in the order of the patches: elements of the kernel, then channels."""
    path = _quantized("padded", tmp_path, **STATIC["pairs by channel"])
    codes = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}["w_quantized"]
    lowered, _ = lower(path, Target.load("test"), CompileOptions())
    stem = next(linear for linear in lowered.linears if linear.node == "/stem/Conv")
    np.testing.assert_array_equal(stem.weight.codes, codes.transpose(2, 3, 1, 0).reshape(-1, 8))
    assert "stem" in stem.modules


def test_more_positions_than_a_linear_takes_stay_on_the_host() -> None:
    """Named with its multiply-accumulates; what is smaller behind it goes to the accelerator."""
    program = axlora.compile(model((1, 200, 200), (4, 1, 1, 1), second=7), "test")
    assert program.host_macs == 2 * 200 * 200 * 4
    row = next(row for row in program.placement if row.operator == "Conv /stem/Conv")
    assert (row.where, row.reason) == ("host", "its 80000 positions are more than the 32768 that a linear takes")


def test_a_kernel_that_is_no_constant_stays_on_the_host() -> None:
    proto = model((3, 6, 6), (8, 3, 3, 3))
    proto.graph.node.insert(0, helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0))
    proto.graph.node.insert(1, helper.make_node("Mul", ["w", "mean"], ["own"]))
    proto.graph.node[2].input[1] = "own"
    program = axlora.compile(proto, "test")
    row = next(row for row in program.placement if row.operator == "Conv /stem/Conv")
    assert (row.where, row.reason) == ("host", "both operands are activations")


def _adapter(folder: Path, rank: int = 4, **more: Any) -> dict[str, np.ndarray]:
    """A PEFT directory with a branch of each of the two convolutions; module -> its delta."""
    rng, tensors, deltas = np.random.default_rng(8), {}, {}
    for module, (out, own, *size) in {"stem": (8, 3, 3, 3), "head": (5, 8, 1, 1)}.items():
        a, b = rng.normal(0, 0.4, (rank, own, *size)), rng.normal(0, 0.4, (out, rank, 1, 1))
        tensors |= {f"base_model.model.{module}.lora_{n}.weight": v.astype(np.float32) for n, v in (("A", a), ("B", b))}
        deltas[module] = np.einsum("or,r...->o...", b[:, :, 0, 0], a) * 2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["stem", "head"], **more}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return deltas


@pytest.mark.parametrize("form", ["padded", "strided by one"])
def test_adapters_of_convolutions(form: str, tmp_path: Path) -> None:
    """Of PEFT's Conv2d, beside the base in one batch, against onnxruntime with the deltas in the kernels."""
    sizes = {"shape": (3, 8, 8), "weight": (8, 3, 3, 3)} | ({"pads": [1, 1, 1, 1]} if form == "padded" else {})
    proto, x = model(**sizes), given((3, 8, 8))
    deltas = _adapter(tmp_path / "a")
    program = axlora.compile(proto, "test", adapters={"a": tmp_path / "a"})
    base, own = (axlora.simulate(program, {"x": x}, name, timing=False).outputs["y"] for name in (None, "a"))
    wanted = expected(proto, x)
    for tensor, module in ((proto.graph.initializer[0], "stem"), (proto.graph.initializer[1], "head")):
        changed = numpy_helper.to_array(tensor) + deltas[module]
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    trained = expected(proto, x)
    assert np.linalg.norm(base - wanted) < 0.013 * np.linalg.norm(wanted)
    assert np.linalg.norm(own - trained) < 0.02 * np.linalg.norm(trained)
    assert np.linalg.norm(wanted - trained) > 0.3 * np.linalg.norm(trained)


def test_an_adapter_of_another_kernel_is_refused(tmp_path: Path) -> None:
    _adapter(tmp_path / "a")
    with pytest.raises(axlora.Error, match="stem"):
        axlora.compile(model((3, 8, 8), (8, 3, 5, 5)), "test", adapters={"a": tmp_path / "a"})


@pytest.mark.slow
def test_convolutions_in_verilator(tmp_path: Path) -> None:
    """Codes, cycles and every counter of both, of a group and of a static file."""
    path, x = _quantized("groups", tmp_path, **STATIC["pairs by channel"]), given(FORMS["groups"]["shape"])
    program = axlora.compile(path, "test")
    sim, rtl = axlora.simulate(program, {"x": x}), axlora.run_rtl(program, {"x": x})
    for name, codes in sim.codes.items():
        np.testing.assert_array_equal(codes, rtl.codes[name])
    assert sim.counters == rtl.counters
