"""`auto` does less only where the model or the target leave no choice, and says why; what the user got wrong is an error."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported_runs import path_of
from onnx import TensorProto, helper, numpy_helper

import axlora
import axlora.compiling
from axlora.compiler.errors import BadAdapter, BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.macs import macs
from axlora.compiler.frontend.onnx_graph import Graph
from axlora.compiler.passes.placement import computes_on_host, place
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.isa.target import Target

TOKENS = 8
FREE = {"batch": 1, "sequence": TOKENS}
TEST = Target.load("test")


def _file(name: str) -> Path:
    return E.MODELS / f"{name}.onnx"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The notices so far."""
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("axlora")]


def _only(notices: list[str]) -> str:
    """The notice that the linears alone run on the accelerator."""
    (one,) = [n for n in notices if n.startswith("only the linears run on the accelerator")]
    return one


# What falls back


LITTLE_MEMORY = dataclasses.replace(TEST, vbuf_words=64)
"""Room for the buffers of linears, and not for the values of a layer."""


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("bert.dynamo", LITTLE_MEMORY),
        ("distilbert.script", dataclasses.replace(TEST, table_entries=16)),
    ],
    ids=["rows", "tables"],
)
def test_what_does_not_fit_as_a_whole_runs_its_linears(file: str, target: Target, said: Callable[[], list[str]]) -> None:
    """Values of a layer in too little memory, tables of functions: said with numbers."""
    with pytest.raises(BadModel) as whole:
        axlora.compile(_file(file), target, shapes=FREE, operators="all")
    program = axlora.compile(_file(file), target, shapes=FREE)
    assert program.kind == "linears"
    notice = _only(said())
    assert f"({whole.value.message} ({whole.value.where}))" in notice
    host = computes_on_host(program.placement)
    assert f"{len(host)} operators on the host, first {host[0].operator}: {host[0].reason}" in notice


def _windowed(size: int) -> onnx.ModelProto:
    """Llama, as the reader leaves it, in which a token sees itself and `size` - 1 tokens before."""
    proto, _ = onnx_reader.read(_file("llama.dynamo"), {"batch": 1, "sequence": E.SEQUENCE})
    held = [*proto.graph.initializer, *(a.t for n in proto.graph.node if n.output[0] == "bitwise_and" for a in n.attribute)]
    tensor = next(t for t in held if t.name == "bitwise_and")
    mask = numpy_helper.to_array(tensor)
    distance = np.arange(E.SEQUENCE)[:, None] - np.arange(E.SEQUENCE)
    tensor.CopyFrom(numpy_helper.from_array(np.broadcast_to((distance >= 0) & (distance < size), mask.shape), tensor.name))
    return proto


def test_a_sliding_window_runs_whole(said: Callable[[], list[str]]) -> None:
    """With rotary embedding, and results that are the model's."""
    model = _windowed(5)
    program = axlora.compile(model, TEST)
    assert program.kind == "whole"
    assert not [n for n in said() if "linears" in n]
    feed = {"input_ids": next(E.feeds())["input_ids"], "attention_mask": np.ones((1, E.SEQUENCE), np.int64)}
    feed = {v.name: feed[v.name] for v in model.graph.input}
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(None, feed)
    (got,) = axlora.simulate(program, feed, timing=False).outputs.values()
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_a_model_that_fits_says_nothing_of_linears(said: Callable[[], list[str]]) -> None:
    assert axlora.compile(_file("bert.dynamo"), TEST, shapes=FREE).kind == "whole"
    assert not [n for n in said() if "linears" in n]


def test_linears_that_were_asked_for_give_no_notice(said: Callable[[], list[str]]) -> None:
    assert axlora.compile(_file("bert.dynamo"), TEST, shapes=FREE, operators="linears").kind == "linears"
    assert axlora.compile(_floats(), TEST, operators="linears").kind == "linears"
    assert not said()


def _floats() -> onnx.ModelProto:
    """A linear and two operators of the host, on floats."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="linear"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("Softmax", ["r"], ["y"], name="softmax"),
    ]
    value = helper.make_tensor_value_info
    given, result = [value("x", TensorProto.FLOAT, [4, 24])], [value("y", TensorProto.FLOAT, [4, 16])]
    weight = numpy_helper.from_array(rng.normal(0, 0.2, (24, 16)).astype(np.float32), "w")
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(helper.make_graph(nodes, "g", given, result, [weight]), opset_imports=opsets, ir_version=9)


def test_a_model_without_token_ids_counts_the_operators_of_the_host(said: Callable[[], list[str]]) -> None:
    axlora.compile(_floats(), TEST)
    notice = _only(said())
    assert "(no calibration data for the input of floats)" in notice
    assert "2 operators on the host, first Relu relu" in notice


WIDE = dataclasses.replace(TEST, activation_bits=16, accumulator_bits=48)


def test_an_option_that_only_linears_have_is_said(said: Callable[[], list[str]]) -> None:
    axlora.compile(_file("bert.dynamo"), WIDE, shapes=FREE, activation="token8")
    assert "(activation token8 is asked for)" in _only(said())


@pytest.mark.parametrize("form", ["float", "qdq"])
def test_exact_is_whole_where_the_file_has_scales(form: str, said: Callable[[], list[str]], tmp_path: Path) -> None:
    program = axlora.compile(path_of("bert.dynamo", form, tmp_path), TEST, shapes=FREE, mode="exact")
    assert program.kind == ("linears" if form == "float" else "whole")
    assert form == "qdq" or "no static scales of activations in the file" in _only(said())


# What does not


def _never(*_: object, **__: object) -> None:
    raise AssertionError("tried the linears")


IDS = {"input_ids": np.zeros((2, 1, TOKENS), np.int64), "attention_mask": np.ones((2, 1, TOKENS), np.int64)}
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no samples of an input": ({"calibration": {"input_ids": IDS["input_ids"]}}, BadModel, "lacks input 'attention_mask'"),
    "samples of another length": (
        {"calibration": {name: value[:, :, 1:] for name, value in IDS.items()}}, BadModel, r"has shape \(2, 1, 7\)",
    ),
    "samples of fractions": ({"calibration": IDS | {"input_ids": IDS["input_ids"] + 0.5}}, BadModel, "must be integers"),
    "ids outside the table": ({"calibration": IDS | {"input_ids": IDS["input_ids"] + 99}}, BadModel, "must be from 0 to 36"),
    "all padding": ({"calibration": IDS | {"attention_mask": 0 * IDS["attention_mask"]}}, BadModel, "padding alone"),
    "a dimension that is not there": ({"shapes": FREE | {"tokens": 8}}, BadModel, "no dimension 'tokens'"),
    "a dimension without a value": ({"shapes": {"batch": 1}}, BadModel, "free dimension 'sequence'"),
    "an empty dimension": ({"shapes": FREE | {"sequence": 0}}, BadModel, "must be at least 1"),
    "no adapter": ({"adapters": {"a": E.MODELS / "none"}}, BadAdapter, "none"),
    "the adapter of another model": ({"adapters": {"a": E.MODELS / "llama-lora"}}, BadAdapter, "."),
    "a rank that is too large": (
        {"adapters": {"a": E.MODELS / "bert-lora"}, "max_lora_rank": 2}, BadAdapter, "rank 5",
    ),
    "too many slots": ({"max_loras": 9}, BadModel, "9 adapter slots"),
    "two adapters to merge": (
        {"merge": True, "adapters": dict.fromkeys("ab", E.MODELS / "bert-lora")}, BadAdapter, "2 adapters to merge",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_the_user_got_wrong_is_no_reason_to_do_less(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, kind, words = WRONG[name]
    monkeypatch.setattr(axlora.compiling, "compile_program", _never)
    with pytest.raises(kind, match=words) as error:
        axlora.compile(_file("bert.dynamo"), TEST, **({"shapes": FREE} | options))
    assert "\n" not in str(error.value)


def test_a_second_failure_holds_the_first_reason_too() -> None:
    """Neither a transformer nor a model with a linear."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="rows"),
        helper.make_node("Sin", ["e"], ["y"], name="wave"),
    ]
    given, result = [value("ids", TensorProto.INT64, [1, 8])], [value("y", TensorProto.FLOAT, [1, 8, 4])]
    table = numpy_helper.from_array(np.ones((9, 4), np.float32), "table")
    graph = helper.make_graph(nodes, "g", given, result, [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(UnsupportedOperator) as whole:
        axlora.compile(model, TEST, operators="all")
    with pytest.raises(axlora.Error) as linears:
        axlora.compile(model, TEST, operators="linears")
    assert whole.value.message not in linears.value.message
    with pytest.raises(type(linears.value)) as error:
        axlora.compile(model, TEST)
    assert error.value.message == f"{linears.value.message}; and not as a whole: {whole.value.message} ({whole.value.where})"
    assert error.value.hint == linears.value.hint


def test_one_reason_for_both_is_said_once() -> None:
    model = _floats()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "f"
    model.graph.node[2].op_type, model.graph.node[2].domain = "Fancy", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperator) as error:
        axlora.compile(model, TEST)
    assert str(error.value).count("com.example.Fancy") == 1


# The placement


def _every_product() -> onnx.ModelProto:
    """x [2, 6, 8] through one of each operator that multiplies: a linear, batched constants, Einsum, Conv, MatMulInteger."""
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "w": rng.normal(0, 0.3, (8, 8)), "batched": rng.normal(0, 0.3, (2, 8, 8)), "left": rng.normal(0, 0.3, (6, 6)),
        "e": rng.normal(0, 0.3, (8, 5)), "kernel": rng.normal(0, 0.3, (6, 3, 3)), "back": rng.normal(0, 0.3, (6, 2, 3)),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["linear"], name="linear"),
        helper.make_node("MatMul", ["linear", "batched"], ["b"], name="batched"),
        helper.make_node("MatMul", ["left", "b"], ["l"], name="left"),
        helper.make_node("Einsum", ["l", "e"], ["ein"], name="einsum", equation="bij,jk->bik"),
        helper.make_node("Conv", ["l", "kernel"], ["c"], name="conv", group=2, pads=[1, 1]),
        helper.make_node("ConvTranspose", ["c", "back"], ["t"], name="transposed", group=3),
        helper.make_node("MatMul", ["l", "xt"], ["scores"], name="scores"),
        helper.make_node("Transpose", ["x"], ["xt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], name="dynamic"),
        helper.make_node("MatMulInteger", ["q", "codes", "qz"], ["i"], name="integer"),
        helper.make_node("Cast", ["i"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    nodes.insert(0, nodes.pop(7))
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()]
    tensors.append(numpy_helper.from_array(rng.integers(-9, 9, (8, 7)).astype(np.int8), "codes"))
    results = [value(n, TensorProto.FLOAT, [f"{n}{i}" for i in range(3)]) for n in ("ein", "t", "scores", "y")]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [2, 6, 8])], results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_every_product_is_counted_on_the_side_that_runs_it() -> None:
    """By hand, operator by operator."""
    low, _ = lower(_every_product(), TEST, CompileOptions())
    counted: dict[str, tuple[str, int]] = {}
    for row in low.placement:
        if row.macs:  # groups of a convolution have its name
            name = row.operator.split()[1]
            counted[name] = (row.where, row.macs + counted.get(name, ("", 0))[1])
    assert counted == {
        "linear": ("accelerator", 12 * 8 * 8),
        "batched/0": ("accelerator", 6 * 8 * 8),
        "batched/1": ("accelerator", 6 * 8 * 8),
        "left": ("accelerator", 2 * 6 * 6 * 8),
        "einsum": ("accelerator", 12 * 8 * 5),
        "conv": ("accelerator", 2 * 6 * 8 * 3 * 3),
        "transposed": ("host", 2 * 6 * 8 * 2 * 3),
        "scores": ("host", 2 * 6 * 8 * 6),
        "integer": ("host", 12 * 8 * 7),
    }
    assert all(row.reason for row in low.placement)


def test_the_model_of_every_product_computes_them() -> None:
    model = _every_product()
    x = np.random.default_rng(1).normal(0, 1, (2, 6, 8)).astype(np.float32)
    program = axlora.compile(model, TEST)
    outputs = axlora.simulate(program, {"x": x}).outputs
    wanted = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    for value, result in zip(model.graph.output, wanted, strict=True):
        assert np.linalg.norm(outputs[value.name] - result) < 0.02 * np.linalg.norm(result)
    assert program.host_macs == sum(row.macs for row in program.placement if row.where == "host") > 0


@pytest.mark.parametrize(
    ("file", "form"), [("bert.dynamo", "float"), ("llama-sdpa.dynamo", "float"), ("gpt2.script", "dynamic")]
)
def test_totals_are_those_of_the_graph(file: str, form: str, tmp_path: Path) -> None:
    """No product is lost between the two sides, and none counted twice."""
    proto, _ = onnx_reader.read(path_of(file, form, tmp_path), FREE)
    _, found = recognise(proto)
    g = Graph(proto)
    rows = place(g, found)
    assert len(rows) == len(g.nodes)
    assert sum(row.macs for row in rows) == sum(macs(node, g.shape) for node in g.nodes) > 0
    linears = sum(g.shape(f.x_name)[-2] * f.shape[0] * f.shape[1] for f in found if len(g.shape(f.x_name)) > 1)
    assert sum(row.macs for row in rows if row.where == "accelerator") >= linears
    assert all(row.macs == 0 or row.reason for row in rows)


def test_magnitudes_that_lie_too_far_apart_are_refused_by_name() -> None:
    model = onnx.load(_file("llama.dynamo"))
    (weight,) = [i for i in model.graph.initializer if i.name == "model.layers.1.input_layernorm.weight"]
    changed = numpy_helper.to_array(weight).copy()
    changed[3] = 1e20
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    with pytest.raises(BadModel, match=r"magnitudes of '.+' and of what it is made of lie too far apart for the machine \("):
        axlora.compile(model, TEST, shapes=FREE, operators="all")
