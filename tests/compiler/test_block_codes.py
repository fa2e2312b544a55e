"""Weights with a scale a block: what the file's codes stand for, and that they reach the machine's memory as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported_runs import FREE, run
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import axlora
from axlora.compiler.errors import BadModel
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.recognised import BlockCodes, FoundLinear
from axlora.compiler.passes.block_weights import held_blocks
from axlora.compiler.passes.recognise_linears import recognise
from axlora.isa.target import Target


def model_of(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], k: int, n: int, opset: int = 21) -> onnx.ModelProto:
    """x [3, k] -> y [3, n]."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [3, k])],
        [value("y", TensorProto.FLOAT, [3, n])],
        [numpy_helper.from_array(v, name) for name, v in tensors.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [.., m] to bytes, low codes first."""
    per = 8 // bits
    whole = np.zeros((*codes.shape[:-1], -(-codes.shape[-1] // per) * per), np.uint8)
    whole[..., : codes.shape[-1]] = codes
    parts = whole.reshape(*codes.shape[:-1], -1, per)
    return np.bitwise_or.reduce(parts << (np.arange(per, dtype=np.uint8) * bits), axis=-1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class NBits:
    """A MatMulNBits and what it holds."""

    model: onnx.ModelProto
    codes: np.ndarray
    """Unsigned [k, n]."""
    reals: np.ndarray
    """float64 [k, n]."""
    bits: int
    integer: bool
    """Zero points are integers."""


@st.composite
def nbits(draw: st.DrawFn) -> NBits:
    """Codes of 2, 4 or 8 bits; scales of both signs; no zero points, packed ones or floats; a last block that is cut."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    bits, rows = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([16, 32, 64]))
    k, n = draw(st.integers(1, 150)), draw(st.integers(1, 9))
    groups = -(-k // rows)
    codes = rng.integers(0, 1 << bits, (k, n)).astype(np.uint8)
    whole = np.zeros((groups * rows, n), np.uint8)
    whole[:k] = codes
    scale = (rng.uniform(0.01, 0.05, (groups, n)) * rng.choice([-1, 1], (groups, n))).astype(np.float32)
    tensors = {"w": packed(whole.T.reshape(n, groups, rows), bits), "s": scale.T.reshape(-1).copy()}
    zero = np.full((groups, n), float(1 << (bits - 1)))
    form = draw(st.sampled_from(["none", "packed", "float"]))
    if form == "packed":
        zero = rng.integers(0, 1 << bits, (groups, n)).astype(np.float64)
        tensors["z"] = packed(zero.T.astype(np.uint8), bits).reshape(-1)
    elif form == "float":
        zero = rng.uniform(0, (1 << bits) - 1, (groups, n)).astype(np.float32).astype(np.float64)
        tensors["z"] = zero.T.astype(np.float32).copy()
    names = ["x", "w", "s", "z" if form != "none" else "", ""]
    if draw(st.booleans()):
        tensors["b"] = rng.normal(0, 1, n).astype(np.float32)
        names.append("b")
    while not names[-1]:
        names.pop()
    node = helper.make_node("MatMulNBits", names, ["y"], "/fc", domain="com.microsoft", K=k, N=n, bits=bits, block_size=rows)
    of = np.arange(k) // rows
    return NBits(model_of([node], tensors, k, n), codes, (codes - zero[of]) * scale[of], bits, form != "float")


def only(model: onnx.ModelProto) -> FoundLinear:
    (found,) = recognise(onnx_reader.read(model)[0])[1]
    return found


def by_onnxruntime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (y,) = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
    return np.asarray(y)


@settings(max_examples=60, deadline=None)
@given(nbits())
def test_matmul_nbits_means_what_onnxruntime_computes(case: NBits) -> None:
    found = only(case.model)
    k = case.codes.shape[0]
    x = np.random.default_rng(k).normal(0, 1, (3, k)).astype(np.float32)
    if case.integer or case.bits < 8:  # onnxruntime 1.31 does not compute 8 bits with zero points of floats
        assert np.allclose(x @ found.weight + found.bias, by_onnxruntime(case.model, x), atol=1e-3)
    assert np.allclose(found.weight, case.reals, rtol=1e-5, atol=1e-6)
    assert (found.codes is not None) == case.integer


@settings(max_examples=60, deadline=None)
@given(nbits(), st.sampled_from(["test", "zcu104", "ulx3s-85f"]))
def test_the_machine_holds_the_files_codes_and_scales(case: NBits, name: str) -> None:
    """Codes and zero points exactly, the scales of blocks within 1/255 of the column's largest; or a notice and 8 bits."""
    assume(case.integer)
    target, found = Target.load(name), only(case.model)
    assert isinstance(found.codes, BlockCodes)
    held = held_blocks(found.codes, target, "fc", int)
    blocks = found.codes.scale.shape[0]
    fits = target.group_scales and (blocks == 1 or found.codes.rows % target.lanes == 0)
    assert (held is not None) == (fits or (blocks == 1 and found.codes.zero is None))
    if held is None:
        return
    codes, column = held
    assert np.array_equal(codes.values(), found.codes.stored)
    steps = column if codes.scale is None else codes.scale[np.arange(len(codes.stored)) // codes.group] * column
    largest = found.codes.scale.max(axis=0)
    assert (np.abs(steps - found.codes.steps) <= largest / 127).all()
    if codes.zero is not None:
        wanted = 0 if found.codes.zero is None else found.codes.zero[found.codes.block]
        assert np.array_equal(codes.zero[np.arange(len(codes.stored)) // codes.group], wanted + np.zeros_like(codes.stored))


@pytest.mark.parametrize("negative", [False, True])
def test_codes_are_found_in_the_package(negative: bool, tmp_path: Path) -> None:
    """Unsigned codes less the middle, in 4 bits; a negative scale mirrors them (~q), with the zero point."""
    rng = np.random.default_rng(0)
    k, n = 96, 24
    codes = rng.integers(0, 16, (k, n)).astype(np.uint8)
    scale = rng.uniform(0.01, 0.05, (3, n)).astype(np.float32) * (-1 if negative else 1)
    tensors = {"w": packed(codes.T.reshape(n, 3, 32), 4), "s": scale.T.copy()}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], "/fc", domain="com.microsoft", K=k, N=n, bits=4, block_size=32
    )
    axlora.compile(model_of([node], tensors, k, n), "test").save(tmp_path / "m.axl")
    (linear,) = axlora.open(tmp_path / "m.axl").linears()
    file = codes.astype(np.int8) - 8
    assert linear.weight.fmt.bits == 4
    assert np.array_equal(linear.weight.stored, ~file if negative else file)
    assert linear.weight.zero is not None
    assert (linear.weight.zero == (-1 if negative else 0)).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize("points", [False, True])
def test_blocked_dequantize_linear(axis: int, dtype: int, domain: str, points: bool) -> None:
    """[k, n] with blocks along rows, and its transpose with blocks along columns, before a Transpose."""
    rng = np.random.default_rng(axis)
    k, n, rows = 70, 12, 32
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    low, high = (0, 16) if dtype == TensorProto.UINT4 else (-8, 8) if dtype == TensorProto.INT4 else (0, 120)
    codes = rng.integers(low, high, (k, n)).astype(kind)
    scale = (rng.uniform(0.01, 0.05, (3, n)) * rng.choice([-1, 1], (3, n))).astype(np.float32)
    zero = rng.integers(low, high, (3, n)).astype(kind)
    tensors = {"w": codes, "s": scale, "z": zero} if points else {"w": codes, "s": scale}
    if axis:
        tensors = {name: np.ascontiguousarray(v.T) for name, v in tensors.items()}
    nodes = [helper.make_node("DequantizeLinear", list(tensors), ["d"], domain=domain, axis=axis, block_size=rows)]
    nodes += [helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0])] if axis else []
    nodes.append(helper.make_node("MatMul", ["x", "t" if axis else "d"], ["y"], "/fc"))
    found = only(model_of(nodes, tensors, k, n))
    of = np.arange(k) // rows
    less = zero.astype(np.float64)[of] if points else 0
    assert np.allclose(found.weight, (codes.astype(np.float64) - less) * scale[of])
    assert isinstance(found.codes, BlockCodes)


def test_blocks_along_the_outputs_become_other_codes() -> None:
    """The machine has a scale a column of its own: what runs along the outputs is quantized from its reals."""
    rng = np.random.default_rng(0)
    tensors = {"w": rng.integers(-100, 100, (32, 64)).astype(np.int8), "s": rng.uniform(0.01, 0.05, (32, 2)).astype(np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1, block_size=32),
        helper.make_node("MatMul", ["x", "d"], ["y"], "/fc"),
    ]
    found = only(model_of(nodes, tensors, 32, 64))
    assert found.codes is None
    assert np.allclose(found.weight, tensors["w"] * np.repeat(tensors["s"], 32, axis=1))


@pytest.mark.parametrize("order", ["rows", "mixed"])
def test_rows_in_another_order_of_blocks(order: str, caplog: pytest.LogCaptureFixture) -> None:
    """`g_idx` in order changes nothing; rows of mixed blocks become floats, with a notice."""
    rng = np.random.default_rng(0)
    k, n = 64, 8
    codes, scale = rng.integers(0, 16, (k, n)).astype(np.uint8), rng.uniform(0.01, 0.05, (2, n)).astype(np.float32)
    index = np.arange(k) // 32 if order == "rows" else rng.permutation(np.arange(k) // 32)
    tensors = {"w": packed(codes.T.reshape(n, 2, 32), 4), "s": scale.T.copy(), "g": index.astype(np.int32)}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s", "", "g"], ["y"], "/fc", domain="com.microsoft", K=k, N=n, bits=4, block_size=32
    )
    found = only(model_of([node], tensors, k, n))
    assert np.allclose(found.weight, (codes - 8.0) * scale[index])
    assert (found.codes is None) == (order == "mixed") == ("'/fc'" in caplog.text)


def test_sizes_that_contradict_each_other_are_refused() -> None:
    tensors = {"w": np.zeros((8, 2, 16), np.uint8), "s": np.ones((8, 2), np.float32)}
    for change in ({"K": 65}, {"N": 9}, {"bits": 5}, {"block_size": 0}):
        sizes = {"K": 64, "N": 8, "bits": 4, "block_size": 32} | change
        node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], "/fc", domain="com.microsoft", **sizes)
        with pytest.raises(BadModel, match="'/fc'"):
            onnx_reader.read(model_of([node], tensors, 64, 8))


def test_a_table_of_blocks_gives_rows_of_floats() -> None:
    """GatherBlockQuantized: the host picks rows, so the table is reals."""
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(0, 16, (20, 32)).astype(np.uint8), rng.uniform(0.01, 0.05, (20, 2)).astype(np.float32)
    table = helper.make_node(
        "GatherBlockQuantized", ["t", "ids", "s"], ["e"], domain="com.microsoft", block_size=16, bits=4, quantize_axis=1
    )
    tensors = {"t": packed(codes, 4), "s": scale, "ids": np.array([1, 7, 19], np.int64), "w": np.eye(32, dtype=np.float32)}
    nodes = [table, helper.make_node("Add", ["x", "e"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    model = model_of(nodes, tensors, 32, 32)
    read, _ = onnx_reader.read(model)
    x = np.zeros((3, 32), np.float32)
    wanted = ((codes - 8.0) * np.repeat(scale, 16, axis=1))[[1, 7, 19]]
    assert np.allclose(by_onnxruntime(model, x), wanted, atol=1e-6)
    assert np.allclose(by_onnxruntime(read, x), wanted, atol=1e-6)


def quantized(file: str, form: QuantFormat, block: int, symmetric: bool) -> onnx.ModelProto:
    """An exported model in 4 bits, by onnxruntime's quantizer."""
    model = onnx.load(E.MODELS / f"{file}.onnx")
    made = MatMulNBitsQuantizer(model, block_size=block, is_symmetric=symmetric, quant_format=form, bits=4)
    made.process()
    return made.model.model


SAMPLES = 16
"""Of a model with three results; every other one has padding."""


@pytest.mark.slow
@pytest.mark.parametrize("file", ["bert-lora.dynamo", "gpt2.dynamo", "llama-lora.dynamo", "llama-half.dynamo"])
@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
@pytest.mark.parametrize("symmetric", [True, False])
def test_whole_models_in_4_bits(file: str, form: QuantFormat, symmetric: bool) -> None:
    """At most 1.1 times onnxruntime's own distance from the float model, over the samples without padding."""
    model = quantized(file, form, 16, symmetric)
    program = axlora.compile(model, "test", shapes=FREE)
    own, theirs = [], []
    for sample, feed in enumerate(E.feeds(SAMPLES)):
        if (feed["attention_mask"] == 0).any():
            continue  # causal models take no padding
        (wanted,), (exact,) = run(model, sample=sample).values(), run(E.MODELS / f"{file}.onnx", sample=sample).values()
        given = {name: value for name, value in feed.items() if name in program.inputs_info}
        (got,) = axlora.simulate(program, given, timing=False).outputs.values()
        own.append(np.linalg.norm(got - exact) / np.linalg.norm(exact))
        theirs.append(np.linalg.norm(wanted - exact) / np.linalg.norm(exact))
    assert np.mean(own) <= 1.1 * np.mean(theirs)


def test_a_peft_directory_finds_its_linears_in_4_bits(write_peft: Any) -> None:
    """The quantizers' own endings of names are no parts of a module's path."""
    rng = np.random.default_rng(0)
    tensors, nodes, x = {}, [], "x"
    for name, part in (("fc1", "MatMul_Q4"), ("fc2", "MatMul_matmul_Q4")):
        codes = rng.integers(0, 16, (32, 32)).astype(np.uint8)
        tensors |= {f"model.{name}.weight_Q4": packed(codes.reshape(32, 1, 32), 4)}
        tensors |= {f"{name}.s": rng.uniform(0.01, 0.05, (32, 1)).astype(np.float32)}
        y = "y" if name == "fc2" else name
        read = [x, f"model.{name}.weight_Q4", f"{name}.s"]
        nodes.append(
            helper.make_node(
                "MatMulNBits", read, [y], f"/model/{name}/{part}", domain="com.microsoft", K=32, N=32, bits=4, block_size=32
            )
        )
        x = y
    keys = {
        f"base_model.model.{name}.lora_{side}.weight": rng.normal(0, 0.1, shape).astype(np.float32)
        for name in ("fc1", "fc2")
        for side, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    program = axlora.compile(model_of(nodes, tensors, 32, 32), "test", adapters={"law": write_peft(keys)})
    assert [m.module for m in program.adapters[0].modules] == ["fc1", "fc2"]


@pytest.mark.parametrize(("name", "again"), [("test", 0), ("edge-asic", E.LAYERS)])
def test_a_decoder_of_4_bits_runs_whole_and_generates(name: str, again: int, tmp_path: Path) -> None:
    """Blocks reach the machine, but behind heads of 6 in words of 8, which have gaps; near onnxruntime on the same file."""
    quantizer = MatMulNBitsQuantizer(onnx.load(E.MODELS / "llama.dynamo.onnx"), block_size=16, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, tmp_path / "q4.onnx")
    ids = np.random.default_rng(0).integers(0, 30, (1, E.SEQUENCE))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(tmp_path / "q4.onnx"), options)
    (wanted,) = session.run(None, {i.name: ids if i.name == "input_ids" else np.ones_like(ids) for i in session.get_inputs()})
    program = axlora.compile(tmp_path / "q4.onnx", name, generate=True, max_context=E.SEQUENCE)
    groups = [linear.weight.group for linear in program.linears()]
    assert groups.count(0) == again
    assert groups.count(16) == len(groups) - again
    (got,) = program.session().run({"input_ids": ids}).outputs.values()
    assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted)
