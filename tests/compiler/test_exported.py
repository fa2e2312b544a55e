"""Models as torch's exporters and onnxruntime's quantizers write them: every linear is found, TVM takes the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exported as E
import numpy as np
import onnx
import pytest
import tvm
from exported_runs import FREE, path_of, run

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.attach import find_linear
from axlora.compiler.frontend.peft import read_peft
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.frontend.tvm_import import compiled, import_onnx
from axlora.compiler.layer import Codes, Linear, Records
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.recognise_linears import recognise
from axlora.isa.formats import Format

FILES = [f"{case.name}.{exporter}" for case in E.CASES for exporter in case.exporters]
HALF = [f for f in FILES if E.BY_NAME[f.split(".")[0]].half]
QUANTIZED = [(f, form) for f in FILES if "bfloat" not in f for form in E.FORMS]
INFINITE = [(f, form) for f in ("gpt2.script", "distilbert.script") for form in E.FORMS if form.startswith("qdq")]
"""sdpa masks with -inf, and onnxruntime's quantizer gives that an infinite scale, so the file computes NaN: such pairs go."""
MISTAKEN = [("llama-sdpa.dynamo", form) for form in E.FORMS if form.startswith("dynamic")]
"""onnxruntime's quantizer takes ONNX's Attention for its own, and writes a QAttention that means something else."""
Pairs = Sequence[tuple[str, str]]
QUICK: Pairs = (("bert-lora.dynamo", "qdq-u8u8"), ("llama-lora.script", "dynamic-u8-channel"), ("gpt2-lora.script", "qdq"))
KINDS: Pairs = (
    ("distilbert.dynamo", "qdq-u8"),
    ("bert-dora.script", "dynamic"),
    ("llama-half.dynamo", "dynamic-channel"),
    ("gpt2.dynamo", "dynamic-u8"),
    ("bert-base-chained.dynamo", "qdq"),
    INFINITE[0],
    MISTAKEN[0],
)
"""With those of QUICK every form, every architecture, half precision, DoRA and what is special."""


def marked(pairs: Pairs, quick: Pairs, slow: Pairs) -> list[Any]:
    """All pairs: some in every run, one of each kind in make test, the others in make test-all."""
    assert {*quick, *slow} <= {*pairs}
    marks = dict.fromkeys(slow, (pytest.mark.slow,)) | dict.fromkeys(quick, ())
    return [pytest.param(*p, marks=marks.get(p, (pytest.mark.exhaustive,))) for p in pairs]


def read(path: Path) -> tuple[onnx.ModelProto, Dataflow, tuple[FoundLinear, ...]]:
    model, _ = onnx_reader.read(path, FREE)
    return model, *recognise(model)


def counted(file: str, found: tuple[FoundLinear, ...]) -> None:
    case = E.BY_NAME[file.split(".")[0]]
    assert len(found) == case.linears
    assert sum(len(f.loras) for f in found) == case.branches
    assert sum(lora.gain is not None for f in found for lora in f.loras) == (case.branches if "dora" in case.name else 0)


def by_hand(f: FoundLinear, x: np.ndarray) -> np.ndarray:
    """The linear as `FoundLinear` says."""
    y = x @ f.weight
    for lora in f.loras:
        y = y + lora.scale * (x @ lora.a @ lora.b) + (0 if lora.bias is None else lora.bias)
        y = y if lora.gain is None else lora.gain * y
    return np.asarray(y + f.bias)


def compared(model: onnx.ModelProto, g: Dataflow, found: tuple[FoundLinear, ...], steps: float) -> None:
    """Each linear by hand is what the graph computes, up to `steps` of its greatest magnitude."""
    ends = {f.name: f.result if f.output is None else g.nodes[g.producer[f.result]].inputs[0] for f in found}
    values = run(model, [*(f.x_name for f in found), *ends.values()])
    for f in found:
        expected = values[ends[f.name]].astype(np.float64)
        got = by_hand(f, values[f.x_name].astype(np.float64)).reshape(expected.shape)
        assert np.abs(got - expected).max() <= steps * np.abs(expected).max(), f.name


@pytest.mark.parametrize("file", FILES)
def test_float_model_is_read_and_its_linears_are_found(file: str) -> None:
    model, g, found = read(E.MODELS / f"{file}.onnx")
    counted(file, found)
    compared(model, g, found, 1e-5)
    assert all(f.x is None and f.codes is None and not f.dynamic for f in found)
    assert all(f.shape == f.weight.shape for f in found)
    if "bfloat" not in file:  # onnxruntime has no bfloat16 on CPUs
        before, after = run(E.MODELS / f"{file}.onnx")["y"], run(model)["y"]
        assert np.abs(before.astype(np.float32) - after).max() < (1e-2 if file in HALF else 1e-4)


@pytest.mark.parametrize(("file", "form"), marked(QUANTIZED, QUICK, KINDS))
def test_quantized_model_is_read_and_its_linears_are_found(file: str, form: str, tmp_path: Path) -> None:
    path = path_of(file, form, tmp_path)
    if (file, form) in MISTAKEN:
        with pytest.raises(UnsupportedOperator, match="QAttention"):
            read(path)
        return
    model, g, found = read(path)
    counted(file, found)
    compared(model, g, found, 0.15)
    assert all(f.codes is not None and np.array_equal(f.codes.reals, f.weight) for f in found)
    assert all(f.dynamic == form.startswith("dynamic") and (f.x is None) == f.dynamic for f in found)
    assert all((f.codes.zero is None or "u8" in form.partition("-")[2]) for f in found if f.codes is not None)
    if (file, form) not in INFINITE and not E.BY_NAME[file.split(".")[0]].half:
        assert np.abs(run(path)["y"] - run(model)["y"]).max() < 1e-4


@pytest.mark.parametrize("file", ["distilbert.script", pytest.param("gpt2.script", marks=pytest.mark.slow)])
def test_pairs_of_infinite_scale_are_left_out(file: str, tmp_path: Path) -> None:
    """onnxruntime's softmax over such a pair is NaN everywhere, attention is 0; without it the model is near the float one."""
    path = path_of(file, "qdq", tmp_path)
    quantized = onnx.load(path)
    softmax = [n.output[0] for n in quantized.graph.node if n.op_type == "Softmax"]
    values = run(quantized, softmax)
    assert len(softmax) == E.LAYERS
    assert all(np.isnan(values[name]).all() for name in softmax)
    model, _, _ = read(path)
    wanted = run(E.MODELS / f"{file}.onnx")["y"]
    distance, theirs = (np.linalg.norm(y - wanted) / np.linalg.norm(wanted) for y in (run(model)["y"], values["y"]))
    assert distance < 0.1 < theirs
    with pytest.raises(BadModel, match=r"scale of node .* is not finite"):
        onnx_reader.read(path, FREE, exact=True)


FLOATS = [(f, "float") for f in FILES]
IMPORTED = FLOATS + [(f, form) for f, form in QUANTIZED if form in ("qdq", "qdq-u8u8", "dynamic-u8-channel")]
IMPORTED = [pair for pair in IMPORTED if pair not in MISTAKEN]


IMPORTED_QUICK = (("bert-lora.script", "float"), ("llama-lora.dynamo", "float"))
IMPORTED_KINDS = (
    ("distilbert.dynamo", "float"),
    ("gpt2.script", "float"),
    ("bert-dora.dynamo", "float"),
    ("llama-sdpa.dynamo", "float"),
    ("llama-half.dynamo", "float"),
    ("llama-bfloat.dynamo", "float"),
    ("bert.dynamo", "qdq"),
    ("gpt2-lora.script", "qdq-u8u8"),
    ("llama-lora.script", "dynamic-u8-channel"),
)


@pytest.mark.parametrize(("file", "form"), marked(IMPORTED, IMPORTED_QUICK, IMPORTED_KINDS))
def test_tvm_takes_the_model_and_computes_the_same(file: str, form: str, tmp_path: Path) -> None:
    model, _ = onnx_reader.read(path_of(file, form, tmp_path), FREE)
    module = import_onnx(model)
    weights = list(module["main"].attrs["params"]) if "params" in module["main"].attrs else []
    machine = compiled(module)
    feed = list(E.feeds())[1]
    result = machine["main"](*[tvm.runtime.tensor(feed[i.name]) for i in model.graph.input], *weights)
    values = result if hasattr(result, "numpy") else result[0]
    difference = np.abs(values.numpy() - run(model)["y"])
    if form.startswith("qdq"):  # a float's last bit may move a code by one
        assert np.mean(difference > 1e-4) < 0.1
        assert difference.max() < 0.05 * np.abs(values.numpy()).max()
    else:
        assert difference.max() < 1e-4


def linear_of(f: FoundLinear) -> Linear:
    """Just the names, for `find_linear`."""
    none = np.zeros((0, 0), np.int64)
    flat = np.zeros(0, np.int64)
    return Linear(f.name, f.x_name, f.result, Codes(none, Format.S8), Records(flat, flat, flat), node=f.node, modules=f.modules)


@pytest.mark.parametrize("plain", E.ADAPTED)
@pytest.mark.parametrize("exporter", E.EXPORTERS)
@pytest.mark.parametrize("form", ["float", pytest.param("qdq", marks=pytest.mark.slow)])
def test_peft_directory_finds_its_linears_in_a_plain_export(plain: str, exporter: str, form: str, tmp_path: Path) -> None:
    """Every module of the adapter is the linear of its shape; none is found twice."""
    adapter = read_peft(E.MODELS / E.ADAPTED[plain])
    _, _, found = read(path_of(f"{plain}.{exporter}", form, tmp_path))
    by_name, linears = {f.name: f for f in found}, [linear_of(f) for f in found]
    chosen = [find_linear(lora.module, linears, None, "adapter").name for lora in adapter]
    assert len(set(chosen)) == len(chosen) == E.BY_NAME[E.ADAPTED[plain]].branches
    for name, lora in zip(chosen, adapter, strict=True):
        assert by_name[name].shape == (lora.a.shape[0], lora.b.shape[1])
        assert lora.module.endswith(name)


@pytest.mark.parametrize("plain", E.ADAPTED)
@pytest.mark.parametrize("exporter", E.EXPORTERS)
def test_branches_of_the_graph_are_those_of_the_peft_directory(plain: str, exporter: str) -> None:
    _, _, found = read(E.MODELS / f"{E.ADAPTED[plain]}.{exporter}.onnx")
    branches = {f.name: f.loras[0] for f in found if f.loras}
    adapter = {lora.module: lora for lora in read_peft(E.MODELS / E.ADAPTED[plain])}
    assert branches.keys() == adapter.keys()
    for name, lora in adapter.items():
        assert np.allclose(branches[name].a, lora.a, atol=1e-6)
        assert np.allclose(branches[name].scale * branches[name].b, lora.scale * lora.b, atol=1e-6)


@pytest.mark.parametrize("file", ["bert-lora.script", "llama-half.dynamo"])
def test_weights_set_aside_change_nothing(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Big models go through the tools without their weights; here a small one does."""
    from axlora.compiler.frontend import storage

    path = E.MODELS / f"{file}.onnx"
    _, _, whole = read(path)
    monkeypatch.setattr(storage, "TOTAL_LIMIT", 0)
    monkeypatch.setattr(storage, "TENSOR_LIMIT", 256)
    model, g, found = read(path)
    assert [i.name for i in model.graph.input] == ["input_ids", "attention_mask"]
    assert [(f.name, f.modules, len(f.loras)) for f in found] == [(f.name, f.modules, len(f.loras)) for f in whole]
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(found, whole, strict=True))
    compared(model, g, found, 1e-5)
