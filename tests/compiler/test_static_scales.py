"""Whole models that keep a file's static scales: near onnxruntime on the same file, equal bits, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlps as M
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime import quantization as q

import axlora
from axlora.compiler.errors import BadModel, DoesNotFit, UnsupportedOperator
from axlora.compiler.operators import FakeQuantize, Linear
from axlora.compiler.passes.placement import computes_on_host
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole
from axlora.compiler.reference.numpy_rows import Cache, Reference
from axlora.compiler.rows.lower import lower
from axlora.compiler.transformer import Transformer
from axlora.isa.target import Target

TEST = Target.load("test")
WIDE = replace(TEST, activation_bits=16, accumulator_bits=48)
BATCH = 48


def _chain() -> onnx.ModelProto:
    """Two linears, nothing but Q/DQ between them."""
    g = M.Graph(5)
    y = g.linear(g.linear("x", M.K, M.HIDDEN, "up"), M.HIDDEN, M.OUT, "down")
    return g.model(["batch", M.K], {y: ["batch", M.OUT]})


def _gemm() -> onnx.ModelProto:
    """As PyTorch writes it: bias and product in one node, so that no pair is between them."""
    g = M.Graph(6)
    y = "x"
    for k, n in ((M.K, M.HIDDEN), (M.HIDDEN, M.OUT)):
        w, b = g.constant(g.random.normal(0, k**-0.5, (k, n))), g.constant(g.random.normal(0, 0.1, n))
        y = g.do("Gemm", y if n == M.HIDDEN else g.do("Relu", y), w, b)
    return g.model(["batch", M.K], {y: ["batch", M.OUT]})


MLPS = {"relu": lambda: M.activation("Relu"), "chain": _chain, "gemm": _gemm}
TYPES = {"s8": q.QuantType.QInt8, "u8": q.QuantType.QUInt8, "s16": q.QuantType.QInt16}


class _Samples(q.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, model: onnx.ModelProto) -> None:
        self._all = iter([{"x": x} for x in M.samples(model, BATCH, 4, seed=1)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._all, None)


def _quantized(model: onnx.ModelProto, kind: str, folder: Path) -> Path:
    """The static QDQ form that onnxruntime makes of a model, with weights of int8."""
    onnx.save(model, folder / "float.onnx")
    path = folder / f"{kind}.onnx"
    q.quantize_static(
        folder / "float.onnx",
        path,
        _Samples(model),
        activation_type=TYPES[kind],
        weight_type=q.QuantType.QInt8,
        per_channel=True,
    )
    return path


def _onnxruntime(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """The file as it is, without onnxruntime's own rewrites."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options)
    names = [o.name for o in session.get_outputs()]
    return {name: np.asarray(y) for name, y in zip(names, session.run(names, {"x": x}), strict=True)}


def _step(path: Path) -> float:
    """Of the codes that the first output stands for."""
    model = onnx.load(path)
    last = next(n for n in model.graph.node if n.output[0] == model.graph.output[0].name)
    (scale,) = (onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name == last.input[1])
    return float(scale)


def _compiled(path: Path, target: Target = TEST, kind: str = "s8", **options: object) -> axlora.Program:
    bits = "static16" if kind == "s16" else "static8"
    return axlora.compile(path, target, shapes={"batch": BATCH}, operators="all", activation=bits, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["s8", "u8", "s16"])
@pytest.mark.parametrize("name", MLPS)
def test_an_mlp_has_the_codes_of_onnxruntime(name: str, kind: str, tmp_path: Path) -> None:
    """Without calibration data, nothing on the host, written and read again; each pair counts: a step off at most, and seldom.

    A Relu that the pair behind it stands for is no operator.
    """
    path, target = _quantized(MLPS[name](), kind, tmp_path), WIDE if kind == "s16" else TEST
    _compiled(path, target, kind, mode="exact").save(tmp_path / "m.axl")
    program = axlora.load(tmp_path / "m.axl")
    assert program.host is None
    assert not computes_on_host(program.placement)
    assert not any("Apply" in row.operator for row in program.placement)
    x = M.samples(MLPS[name](), BATCH, seed=2)[0]
    run = axlora.simulate(program, {"x": x})
    ((output, wanted),) = _onnxruntime(path, x).items()
    off = np.abs(np.rint((run.outputs[output] - wanted) / _step(path)))
    # A multiplier of 14 bits is off by 2**-15 at most: a step of 16 bits in each linear, and one where it is rounded.
    assert off.max() <= (3 if kind == "s16" else 1)
    assert (off > 0).mean() < (0.5 if kind == "s16" else 0.02)


@pytest.mark.parametrize("mode", ["fused", "exact"])
def test_fused_linears_round_once(mode: str, tmp_path: Path) -> None:
    """Pairs between product and bias are passed over, as in programs of linears; `exact` keeps them."""
    program = _compiled(_quantized(MLPS["relu"](), "u8", tmp_path), mode=mode)
    kinds = [row.operator.split()[0] for row in program.placement]
    assert kinds.count("FakeQuantize") == (3 if mode == "fused" else 5)
    assert kinds.count("Affine") == (0 if mode == "fused" else 2)


def _lowered_run(
    path: Path, target: Target, x: np.ndarray, options: dict[str, Any], adapter: str | None = None
) -> tuple[axlora.Program, list[dict[int, np.ndarray]]]:
    """The program, and what NumPy and LLVM make of x."""
    options = {"shapes": {"batch": len(x)}, "operators": "all"} | options
    found = lower_whole(path, target, CompileOptions(**options))
    bits = target.activation_bits
    program = axlora.compile(path, target, **options)
    rows = program.interface.given_rows(program.interface.given, {"x": x})
    linears = {li.name: li for li in found.lowered.linears}
    numpy = Reference(linears, [adapter] * len(rows), Cache(), bits, rows)
    lower(found.region, numpy, bits, found.image.context)
    return program, [numpy.outputs, found.integers(bits).run(rows, adapter=adapter)[0]]


@pytest.mark.parametrize(
    ("name", "kind", "target", "exact"),
    [
        ("relu", "u8", TEST, True),
        ("relu", "s8", WIDE, False),
        ("chain", "s8", TEST, False),
        ("gemm", "s16", WIDE, True),
    ],
    ids=["relu-u8", "relu-s8-wide", "chain-s8", "gemm-s16"],
)
def test_simulator_numpy_llvm_and_verilog_are_equal(name: str, kind: str, target: Target, exact: bool, tmp_path: Path) -> None:
    """Outputs bit for bit; of the Verilog every counter too."""
    path = _quantized(MLPS[name](), kind, tmp_path)
    x = M.samples(MLPS[name](), 5, seed=3)[0]
    options = {"activation": "static16" if kind == "s16" else "static8", "mode": "exact" if exact else "fused"}
    program, others = _lowered_run(path, target, x, options)
    sim, rtl = axlora.simulate(program, {"x": x}), axlora.run_rtl(program, {"x": x})
    (result,) = program.interface.results
    for outputs in others:
        np.testing.assert_array_equal(sim.codes[result.name], outputs[result.region][:, : result.width])
    np.testing.assert_array_equal(sim.codes[result.name], rtl.codes[result.name])
    assert sim.counters == rtl.counters


def test_adapters_of_files_read_the_same_codes(write_peft: Callable[..., Path], tmp_path: Path) -> None:
    """As LLVM computes them, and what they add to the base is near x A B of the floats."""
    tensors, rng = {}, np.random.default_rng(0)
    a, b = rng.normal(0, 0.3, (M.RANK, M.HIDDEN)), rng.normal(0, 0.3, (M.OUT, M.RANK))
    tensors["base_model.model.down.lora_A.weight"] = a.astype(np.float32)
    tensors["base_model.model.down.lora_B.weight"] = b.astype(np.float32)
    own = write_peft(tensors, "a", r=M.RANK, lora_alpha=2 * M.RANK, target_modules=["down"])
    path = _quantized(MLPS["chain"](), "s8", tmp_path)
    x = M.samples(MLPS["chain"](), 6, seed=4)[0]
    options = {"adapters": {"a": own}, "activation": "static8"}
    program, (_, outputs) = _lowered_run(path, TEST, x, options, "a")
    run = axlora.simulate(program, {"x": x}, "a")
    (result,) = program.interface.results
    np.testing.assert_array_equal(run.codes[result.name], outputs[result.region][:, : result.width])
    base = axlora.simulate(program, {"x": x}).outputs[result.name]
    model = MLPS["chain"]()
    model.graph.output[0].name = model.graph.node[1].output[0]
    del model.graph.node[2:]
    onnx.save(model, tmp_path / "up.onnx")
    (hidden,) = _onnxruntime(tmp_path / "up.onnx", x).values()
    y, added = run.outputs[result.name], 2 * hidden @ a.T @ b.T
    inside = np.all([(v > v.min()) & (v < v.max()) for v in (y, base)], axis=0)  # neither end clamps
    assert inside.mean() > 0.5
    assert np.abs(y - base - added)[inside].max() < 4 * _step(path)
    assert np.abs(added).mean() > 10 * _step(path)


def test_scales_and_calibration_data_go_together(tmp_path: Path) -> None:
    """Norms and sums between the linears: the file tells no range of a sum that something else reads too."""
    path = _quantized(M.residual(), "s8", tmp_path)
    data = {"x": M.samples(M.residual(), BATCH, 4, seed=1)}
    run = axlora.simulate(_compiled(path, mode="exact", calibration=data), {"x": data["x"][0]})
    for name, wanted in _onnxruntime(path, data["x"][0]).items():
        assert np.linalg.norm(run.outputs[name] - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("option", [{}, {"operators": "all"}, {"activation": "static8"}, {"mode": "exact"}])
def test_rows_of_a_quantized_file_run_whole_without_data(option: dict[str, str], tmp_path: Path) -> None:
    """The file's scales tell the range of its input, so they stay, whatever is asked for but a scale a token."""
    path, data = _quantized(M.activation("Sigmoid"), "u8", tmp_path), M.samples(M.activation("Sigmoid"), BATCH, 1, seed=2)[0]
    program = axlora.compile(path, TEST, shapes={"batch": BATCH}, **option)  # type: ignore[arg-type]
    wanted = _compiled(path, mode=option.get("mode", "fused"))
    assert program.kind == "whole"
    assert not [row.operator for row in program.placement if row.where == "host"]
    for name, codes in axlora.simulate(wanted, {"x": data}).codes.items():
        np.testing.assert_array_equal(axlora.simulate(program, {"x": data}).codes[name], codes)


def test_a_scale_a_token_needs_data_for_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _quantized(M.activation("Sigmoid"), "u8", tmp_path)
    assert axlora.compile(path, TEST, shapes={"batch": BATCH}, activation="auto").kind == "linears"
    assert "only calibration data tells" in caplog.text


def test_a_file_without_scales_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="carries no static scales") as error:
        axlora.compile(M.activation("Relu"), TEST, shapes={"batch": 2}, operators="all", activation="static8")
    assert "--calibration" in error.value.hint


def test_codes_of_16_bits_need_the_option_and_the_target(tmp_path: Path) -> None:
    path = _quantized(_gemm(), "s16", tmp_path)
    with pytest.raises(BadModel, match="codes of 16 bits"):
        _compiled(path, WIDE)
    with pytest.raises(DoesNotFit, match="activations have 16 bits, the target takes 8"):
        _compiled(path, TEST, "s16")


def test_rows_whose_range_no_pair_tells_need_data(tmp_path: Path) -> None:
    """The pair of the input is gone: what it reads is as wide as it likes."""
    path = _quantized(_chain(), "s8", tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["x" if name == "x_DequantizeLinear_Output" else name for name in node.input]
    onnx.save(model, path)
    with pytest.raises(UnsupportedOperator, match="only calibration data tells"):
        _compiled(path)


@pytest.mark.parametrize("option", [{"mode": "exact"}, {"mode": "exact", "generate": True}])
def test_combinations_that_are_not_taken(option: dict[str, object], tmp_path: Path) -> None:
    path = _quantized(_chain(), "s8", tmp_path)
    with pytest.raises(BadModel, match=r"mode exact with (operators all|generate)"):
        axlora.compile(path, TEST, shapes={"batch": 2}, operators="all", **option)


def _rounded(model: Transformer) -> list[str]:
    return [op.x for op in model.operators if isinstance(op, FakeQuantize)]


def test_a_value_is_rounded_once(tmp_path: Path) -> None:
    """Two pairs of one scale are one operator, as quantizers write them around a reshape."""
    g = M.Graph(7)
    y = g.do("Reshape", g.linear("x", M.K, M.HIDDEN, "up", bias=False), g.constant(np.array([0, M.HIDDEN])))
    model = g.model(["batch", M.K], {g.linear(y, M.HIDDEN, M.OUT, "down", bias=False): ["batch", M.OUT]})
    path = _quantized(model, "s8", tmp_path)
    assert sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node) == 4
    found = lower_whole(path, TEST, CompileOptions(operators="all", activation="static8", shapes={"batch": 3}))
    assert len(_rounded(found.model)) == 3


@pytest.mark.parametrize(("activation", "target"), [("static8", TEST), ("static16", WIDE)])
def test_scales_from_calibration(activation: str, target: Target, tmp_path: Path) -> None:
    """A float model gets them before its linears: as NumPy and LLVM compute it, and about as near as with a scale a row."""
    model = M.activation("Gelu")
    onnx.save(model, tmp_path / "f.onnx")
    x, data = M.samples(model, BATCH, seed=2)[0], {"x": M.samples(model, BATCH, 4, seed=1)}
    options = {"activation": activation, "calibration": data}
    program, others = _lowered_run(tmp_path / "f.onnx", target, x, options)
    found = lower_whole(model, target, CompileOptions(operators="all", shapes={"batch": BATCH}, **options))
    reads = {op.x for op in found.model.operators if isinstance(op, Linear)}
    codes = {op.y: op.codes for op in found.model.operators if isinstance(op, FakeQuantize)}
    assert reads == codes.keys()
    assert {c.bits for c in codes.values()} == {int(activation.removeprefix("static"))}
    run = axlora.simulate(program, {"x": x}, timing=False)
    (result,) = program.interface.results
    for outputs in others:
        np.testing.assert_array_equal(run.codes[result.name], outputs[result.region][:, : result.width])
    rows = axlora.compile(tmp_path / "f.onnx", target, shapes={"batch": BATCH}, operators="all", calibration=data)
    wanted = _onnxruntime(tmp_path / "f.onnx", x)[result.name]
    static, own = (
        np.linalg.norm(found.outputs[result.name] - wanted) / np.linalg.norm(wanted)
        for found in (run, axlora.simulate(rows, {"x": x}, timing=False))
    )
    assert own < static < 2 * own
