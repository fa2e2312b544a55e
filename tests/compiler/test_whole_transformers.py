"""Transformers as PyTorch exports them, whole on the machine: nothing on the host, near onnxruntime, padding and adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import decoders as D
import exported as E
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported_runs import path_of
from onnx import helper, numpy_helper

import axlora
from axlora.adapters import add_adapter
from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.merge import merge_graph
from axlora.compiler.operators import Apply, Attention, Function, PoolKind
from axlora.compiler.passes.drop_scales import drop_scales
from axlora.compiler.passes.pipeline import READ_WHOLE
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import read_whole
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.samples import products
from axlora.compiler.pipelines.transformers import lower_whole, recognised
from axlora.compiler.rows import float_forms
from axlora.compiler.rows.float_forms import Product
from axlora.compiler.transformer import Padding, Transformer
from axlora.isa.target import Target

TOKENS = 16
ENCODERS = [
    f"{name}.{exporter}"
    for name in ("bert", "bert-lora", "bert-dora", "distilbert", "distilbert-lora")
    for exporter in ("dynamo", "script")
]
DECODERS = ["gpt2.dynamo", "gpt2-lora.script", "llama.dynamo", "llama-lora.script", "llama-sdpa.dynamo", "llama-half.dynamo"]


def _free(path: Path, batch: int = 1) -> dict[str, int]:
    free = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        for axis, d in enumerate(value.type.tensor_type.shape.dim):
            if d.dim_param:
                free[d.dim_param] = TOKENS if axis else batch
    return free


def _recognised(proto: onnx.ModelProto) -> tuple[Transformer, dict[str, Product]]:
    g, found = recognise(proto, passes=READ_WHOLE)
    return read_whole(g, found, "model"), products(merge_graph(found))


def _onnxruntime(model: Path | bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model) if isinstance(model, Path) else model, options)
    return [np.asarray(y) for y in session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})]


def _feed(batch: int, seed: int, padded: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (rng.random((batch, TOKENS)) < (0.6 if padded else 2)).astype(np.int64)
    mask[:, 0] = 1
    return {"input_ids": rng.integers(0, E.VOCAB, (batch, TOKENS)), "attention_mask": mask}


def _evaluated(model: Transformer, held: dict[str, Product], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The recognised model's outputs for one sequence, tokens in their own order."""
    mask = feed[model.mask][0] if model.mask else np.ones(TOKENS, np.int64)
    order, keys = np.argsort(mask == 0, kind="stable"), int(mask.sum())
    ids = {x.input: feed[x.input][0] for x in model.lookups}
    values = float_forms.evaluate(model, float_forms.embed(model, ids, order), held, keys)
    found = []
    for output in model.outputs:
        y = values[output.value]
        if len(y) == TOKENS:
            y = y[np.argsort(order)]
        found.append((y.reshape(-1) if output.index is None else y.reshape(-1)[output.index]).reshape(output.shape))
    return found


@pytest.mark.parametrize("file", ENCODERS)
def test_the_recognised_encoder_has_onnxruntimes_outputs(file: str) -> None:
    """To 1e-5, with holes in the mask: padding is a place in it, not an end."""
    path = E.MODELS / f"{file}.onnx"
    model, held = _recognised(onnx_reader.read(path, _free(path))[0])
    assert model.mask == "attention_mask"
    assert not any(op.causal for op in model.operators if isinstance(op, Attention))
    for seed in range(3):
        feed = _feed(1, seed, padded=True)
        for got, wanted in zip(_evaluated(model, held, feed), _onnxruntime(path, feed), strict=True):
            assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("file", DECODERS)
def test_decoders_are_causal_and_take_padding(file: str) -> None:
    """Anywhere, or about the tokens where distances count; of rows of padding nothing is asked."""
    path = E.MODELS / f"{file}.onnx"
    model, held = _recognised(onnx_reader.read(path, _free(path))[0])
    assert model.mask == "attention_mask"
    assert all(op.causal for op in model.operators if isinstance(op, Attention))
    assert model.padding is (Padding.AROUND if "llama" in file else Padding.ANYWHERE)
    if "half" not in file:
        feed = _feed(1, 0, padded=model.padding is Padding.ANYWHERE)
        tokens = feed["attention_mask"][0] > 0
        got, wanted = (y.reshape(TOKENS, -1)[tokens] for y in (_evaluated(model, held, feed)[0], _onnxruntime(path, feed)[0]))
        assert np.abs(got - wanted).max() < 1e-4


def test_bert_pools_its_first_token() -> None:
    path = E.MODELS / "bert.dynamo.onnx"
    model, _ = _recognised(onnx_reader.read(path, _free(path))[0])
    count = Counter(type(op).__name__ for op in model.operators)
    assert count == {"Norm": 5, "Linear": 14, "Attention": 2, "Add": 4, "Apply": 3, "Pool": 1}
    assert [op.kind for op in model.operators if hasattr(op, "kind") and isinstance(op.kind, PoolKind)] == [PoolKind.FIRST]


def _graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: dict[str, list[int]]) -> onnx.ModelProto:
    """A model of `input_ids`, `attention_mask`, `token_type_ids` with rows of embeddings `rows` of 8 features."""
    rng = np.random.default_rng(0)
    held = {"table": rng.normal(0, 1, (30, 8)), "types": rng.normal(0, 1, (2, 8)), "where": rng.normal(0, 1, (1, TOKENS, 8))}
    first = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["kinds"]),
        helper.make_node("Add", ["words", "kinds"], ["both"]),
        helper.make_node("Add", ["both", "where"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["rows", "w"], ["x"], name="/own/MatMul"),
    ]
    held |= {"w": rng.normal(0, 0.4, (8, 8))} | constants
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph = helper.make_graph(
        first + nodes,
        "g",
        [helper.make_tensor_value_info(n, onnx.TensorProto.INT64, [1, TOKENS]) for n in names],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in outputs.items()],
        [numpy_helper.from_array(v.astype(np.float32) if v.dtype == float else v, n) for n, v in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


N = helper.make_node
AXES = {"one": np.array([1]), "last": np.array([-1]), "tiny": np.array(1e-9), "two": np.array(2.0)}
COLUMN = [N("Unsqueeze", ["mask", "last"], ["column"])]
SUMS = [*COLUMN, N("Mul", ["x", "column"], ["kept"]), N("ReduceSum", ["kept", "one"], ["sum"], keepdims=0)]
COUNT = [N("ReduceSum", ["mask", "one"], ["count"], keepdims=1), N("Clip", ["count", "tiny"], ["least"])]
MEAN = [*SUMS, *COUNT, N("Div", ["sum", "least"], ["mean"])]
HEADS = {
    "mean over the mask": ([*MEAN, N("Identity", ["mean"], ["y"])], {"y": [1, 8]}),
    "mean, normalized by ReduceL2": (
        [
            *MEAN,
            N("ReduceL2", ["mean", "one"], ["long"], keepdims=1),
            N("Clip", ["long", "tiny"], ["safe"]),
            N("Div", ["mean", "safe"], ["y"]),
        ],
        {"y": [1, 8]},
    ),
    "sum, normalized by its squares": (
        [
            *SUMS,
            N("Mul", ["sum", "sum"], ["squares"]),
            N("ReduceSum", ["squares", "last"], ["total"], keepdims=1),
            N("Sqrt", ["total"], ["long"]),
            N("Div", ["sum", "long"], ["y"]),
        ],
        {"y": [1, 8]},
    ),
    "mean over all tokens": ([N("ReduceMean", ["x", "one"], ["y"], keepdims=0)], {"y": [1, 8]}),
    "first token and all tokens": (
        [N("Gather", ["x", "zero"], ["first"], axis=1), N("Tanh", ["first"], ["y"]), N("Relu", ["x"], ["all"])],
        {"y": [1, 8], "all": [1, TOKENS, 8]},
    ),
    "two columns apart": (
        [N("Split", ["x", "cut"], ["start", "middle", "end"], axis=2), N("Squeeze", ["start", "last"], ["y"])],
        {"y": [1, TOKENS], "end": [1, TOKENS, 1]},
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_of_encoders(head: str) -> None:
    """Recognised, and on the machine: what pools, normalizes and picks, with token types and padding."""
    nodes, outputs = HEADS[head]
    proto = _graph(nodes, AXES | {"zero": np.array(0), "cut": np.array([1, 6, 1])}, outputs)
    rng = np.random.default_rng(1)
    mask = np.array([[1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0]])
    feed = {
        "input_ids": rng.integers(0, 30, (1, TOKENS)),
        "token_type_ids": rng.integers(0, 2, (1, TOKENS)),
        "attention_mask": mask,
    }
    wanted = _onnxruntime(proto.SerializeToString(), feed)
    model, held = _recognised(onnx_reader.read(proto)[0])
    for got, exact in zip(_evaluated(model, held, feed), wanted, strict=True):
        assert np.abs(got - exact).max() < 1e-5
    program = axlora.compile(proto, "test", operators="all")
    run = axlora.simulate(program, feed)
    for (name, shape), exact in zip(outputs.items(), wanted, strict=True):
        assert list(run.outputs[name].shape) == shape
        assert np.abs(run.outputs[name] - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([*SUMS, N("Div", ["sum", "two"], ["y"])], "not understood"),
        ([N("ReduceMax", ["x", "one"], ["y"], keepdims=0)], "ReduceMax"),
        ([N("ReduceMean", ["x", "one"], ["m"], keepdims=1), N("Sub", ["x", "m"], ["y"])], "not understood"),
        ([N("CumSum", ["x", "along"], ["y"])], "CumSum"),
    ],
    ids=["sum over two", "largest over tokens", "less the mean over tokens", "running sum"],
)
def test_what_mixes_tokens_in_another_way_is_refused(nodes: list[onnx.NodeProto], what: str) -> None:
    proto = _graph(nodes, AXES | {"along": np.array(1)}, {"y": []})
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    with pytest.raises(UnsupportedOperator, match=what):
        _recognised(onnx_reader.read(proto)[0])


@pytest.mark.parametrize("file", [*ENCODERS[::2], "gpt2.dynamo", "gpt2-lora.script"])
def test_nothing_stays_on_the_host(file: str) -> None:
    """Two sequences with padding, on the simulator, against onnxruntime in float; the package says the same."""
    path = E.MODELS / f"{file}.onnx"
    program = axlora.compile(path, "test", shapes=_free(path, 2))
    assert program.kind == "whole"
    assert [row.operator for row in program.placement if row.where == "host"] == ["Gather input_ids"]
    assert program.host_macs == 0
    feed = _feed(2, 4, padded=program.interface.mask is not None)
    run = axlora.simulate(program, feed)
    (wanted,) = _onnxruntime(path, feed)
    (got,) = run.outputs.values()
    assert got.shape == wanted.shape
    if file.startswith("gpt2"):  # of rows of padding nothing is asked
        got, wanted = (y[feed["attention_mask"] > 0] for y in (got, wanted))
    assert np.linalg.norm(got - wanted) < 0.04 * np.linalg.norm(wanted)
    report = run.to_json()  # asserts the sums
    assert sum(layer.macs for layer in run.layers) == run.counters["macs"] == report["macs"]


@pytest.mark.parametrize("kind", ["HardSwish", "Relu"])
def test_other_activation_functions(kind: str) -> None:
    """In GELU's place, against onnxruntime in float; HardSwish is a sum, a clip, a quotient and a product for TVM."""
    proto = onnx.load(E.MODELS / "bert.dynamo.onnx")
    for node in proto.graph.node:
        if node.op_type == "Gelu":
            node.op_type = kind
            del node.attribute[:]
    feed = _feed(1, 4, padded=True)
    model, held = _recognised(onnx_reader.read(proto, _free(E.MODELS / "bert.dynamo.onnx"))[0])
    wanted = {"HardSwish": Function.HARD_SWISH, "Relu": Function.RELU}[kind]
    assert sum(isinstance(op, Apply) and op.function is wanted for op in model.operators) == E.LAYERS
    for got, expected in zip(_evaluated(model, held, feed), _onnxruntime(proto.SerializeToString(), feed), strict=True):
        assert np.abs(got - expected).max() < 2e-5 * max(1, np.abs(expected).max())


COMPILED = [*(E.MODELS / f"{file}.onnx" for file in [*ENCODERS, *DECODERS[:2]]), *sorted(D.FOLDER.glob("*.onnx"))]


def _as_llvm_computes(
    path: Path,
    target: Target,
    adapters: Mapping[str, Path],
    feed: dict[str, np.ndarray],
    static: bool = False,
    weight_bits: int = 8,
) -> axlora.Run:
    """The run of the base; it and those of adapters are the integer module's outputs, bit for bit.

    Args:
        static: keep the file's scales.
    """
    free, activation = _free(path), "static8" if static else None
    options = {"adapters": adapters, "operators": "all", "activation": activation, "shapes": free, "weight_bits": weight_bits}
    program = axlora.compile(path, target, **options)
    found = lower_whole(path, target, CompileOptions(**options))
    module = found.integers(target.activation_bits)
    feed = {name: feed.get(name, value) % 32 for name, value in program.random_inputs(0).items()}
    runs = {adapter: axlora.simulate(program, feed, adapter, timing=False) for adapter in (None, *adapters)}
    rows, order, keys = program.interface.rows({name: value[0] for name, value in feed.items()})
    for adapter, run in runs.items():
        outputs, _ = module.run(rows, 0, keys, adapter=program.default_adapter if adapter is None else adapter)
        for result in program.interface.results:
            expected = outputs[result.region][:, : result.width]
            back = np.empty_like(expected)
            back[order if len(expected) == TOKENS else slice(None)] = expected
            np.testing.assert_array_equal(run.codes[result.name].reshape(back.shape), back)
    return runs[None]


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_the_integer_module_equals_the_simulator(path: Path) -> None:
    """Every output of the start, padding and the adapters of the directory beside the model too."""
    folder, padded = E.MODELS / path.stem.split(".")[0], path.stem.split(".")[0] in ("bert", "distilbert")
    _as_llvm_computes(path, Target.load("test"), {"a": folder} if folder.is_dir() else {}, _feed(1, 4, padded))


@pytest.mark.parametrize(("static", "words", "blocks"), [(False, 512, 2), (False, 1024, 1), (True, 1024, 2)])
def test_rows_that_wait_in_memory_come_back(static: bool, words: int, blocks: int, tmp_path: Path) -> None:
    """Before attention, of two blocks; beside wider values, of one too, which reads weights once. Heads of 6 leave slack."""
    path = path_of("gpt2.dynamo", "qdq" if static else "float", tmp_path)
    target, activation = replace(Target.load("test"), vbuf_words=words), "static8" if static else None
    program = axlora.compile(path, target, shapes=_free(path), operators="all", activation=activation)
    assert "rows 0" in program.regions
    roomy = axlora.compile(path, Target.load("test"), shapes=_free(path), operators="all", activation=activation)
    assert "rows 0" not in roomy.regions
    runs = [axlora.simulate(p, _feed(1, 5, padded=False)) for p in (program, roomy)]
    read = [sum(o.bytes_read for o in run.layers if "fc" in o.name) for run in runs]
    assert (read[0] > read[1]) == (blocks > 1)
    _as_llvm_computes(path, target, {}, _feed(1, 5, padded=False), static)


FORMS = [(file, form) for file in [*ENCODERS, *DECODERS] for form in E.FORMS if "half" not in file]
KINDS = [
    ("bert-lora.dynamo", "qdq-u8"),
    ("distilbert.script", "qdq-u8u8"),
    ("gpt2-lora.script", "dynamic-u8-channel"),
    ("llama-lora.script", "qdq"),
]


@pytest.mark.parametrize(
    ("file", "form"), [pytest.param(*p, marks=pytest.mark.slow if p in KINDS else pytest.mark.exhaustive) for p in FORMS]
)
def test_quantized_exports_run_whole(file: str, form: str, tmp_path: Path) -> None:
    """As LLVM computes it, and near the model of the file's weights in floats: scales of activations are a row's own.

    Near over samples, for the three logits of one may cancel.
    """
    path = path_of(file, form, tmp_path)
    if "sdpa" in file and form.startswith("dynamic"):
        with pytest.raises(UnsupportedOperator, match="QAttention"):
            axlora.compile(path, "test", shapes=_free(path), operators="all")
        return
    target = Target.load("test")
    _as_llvm_computes(path, target, {}, _feed(1, 5, padded="bert" in file))
    program = axlora.compile(path, target, shapes=_free(path), operators="all")
    g, found = recognise(onnx_reader.read(path, _free(path))[0], passes=READ_WHOLE)
    if any(f.x is not None for f in found):
        g, found = recognise(drop_scales(g, clips=False), passes=READ_WHOLE)
    model, held = read_whole(g, found, "model"), products(merge_graph(found))
    errors, sizes = [], []
    for seed in range(24):
        feed = {name: value % 32 for name, value in _feed(1, seed, padded="bert" in file).items()}
        (expected,) = _evaluated(model, held, feed)
        (got,) = axlora.simulate(program, feed, timing=False).outputs.values()
        errors.append(np.linalg.norm(got - expected))
        sizes.append(np.linalg.norm(expected))
    assert np.linalg.norm(errors) < 0.04 * np.linalg.norm(sizes)


STATIC = [(file, form) for file, form in FORMS if form.startswith("qdq")]
INFINITE = "distilbert.script"
"""The export whose quantized forms have a pair of infinite scale at the mask."""


@pytest.mark.parametrize(
    ("file", "form"), [pytest.param(*p, marks=pytest.mark.slow if p in KINDS else pytest.mark.exhaustive) for p in STATIC]
)
def test_quantized_exports_keep_their_scales(file: str, form: str, tmp_path: Path) -> None:
    """As LLVM computes it, and near onnxruntime on the same file, which is far from the float export.

    The pair of infinite scale is taken out, with which onnxruntime attends to nothing: near the float export then. Logits of
    BERT without LoRA nearly cancel, and pairs inside Llama's norms and rotations are passed over: the wider bound.
    """
    path = path_of(file, form, tmp_path)
    target = Target.load("test")
    _as_llvm_computes(path, target, {}, _feed(1, 5, padded="bert" in file), static=True)
    program = axlora.compile(path, target, shapes=_free(path), operators="all", activation="static8")
    error, size = [], []
    for seed in range(8):
        feed = {name: value % 32 for name, value in _feed(1, seed, padded="bert" in file).items()}
        (got,) = axlora.simulate(program, feed, timing=False).outputs.values()
        (wanted,) = _onnxruntime(E.MODELS / f"{file}.onnx" if file == INFINITE else path, feed)
        error.append(np.linalg.norm(got - wanted))
        size.append(np.linalg.norm(wanted))
    assert np.linalg.norm(error) < (0.15 if file.startswith(("llama", "bert.")) else 0.08) * np.linalg.norm(size)


@pytest.mark.parametrize("mode", ["fused", "exact"])
def test_an_encoder_with_every_pair_is_onnxruntimes(mode: str, tmp_path: Path) -> None:
    """Its recognised operators in floats: the same codes everywhere, scores and weights of attention too, with `exact`."""
    path, feed = path_of("bert.dynamo", "qdq-u8", tmp_path), _feed(1, 5, padded=True)
    options = CompileOptions(operators="all", activation="static8", mode=mode)
    proto, where = onnx_reader.read(path, _free(path), options.exact)
    g, found = recognised(proto, where, options)
    model = read_whole(g, found, where)
    (got,), (wanted,) = _evaluated(model, products(found), feed), _onnxruntime(path, feed)
    assert (np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()) == (mode == "exact")


@pytest.mark.parametrize("file", ["gpt2.dynamo", pytest.param("llama.dynamo", marks=pytest.mark.exhaustive)])
def test_a_decoder_generates_with_its_scales(file: str, tmp_path: Path) -> None:
    """Prefill and decode programs give the whole model's logits, bit for bit."""
    path, target = path_of(file, "qdq", tmp_path), Target.load("test")
    feed = {name: value % 32 for name, value in _feed(1, 6, padded=False).items()}
    program = axlora.compile(path, target, generate=True, max_context=TOKENS, activation="static8", shapes=_free(path))
    (got,) = program.session().run({"input_ids": feed["input_ids"]}).outputs.values()
    whole = axlora.compile(path, target, operators="all", activation="static8", shapes=_free(path))
    (wanted,) = axlora.simulate(whole, feed, timing=False).outputs.values()
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("path", sorted(D.FOLDER.glob("*.onnx")), ids=lambda path: path.stem)
def test_decoders_of_other_families_without_generate(path: Path) -> None:
    program = axlora.compile(path, "test", shapes=_free(path), operators="all")
    ids = np.random.default_rng(2).integers(0, D.VOCABULARY, (1, TOKENS))
    (wanted,) = _onnxruntime(path, {"input_ids": ids})
    (got,) = axlora.simulate(program, {"input_ids": ids}, timing=False).outputs.values()
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", ["bert-lora", "distilbert-lora", "gpt2-lora"])
def test_adapters_of_the_graph_and_of_peft_in_one_batch(name: str, tmp_path: Path) -> None:
    """The export holds the adapter that the directory holds: rows of both are near onnxruntime, one of the base is not."""
    path = E.MODELS / f"{name}.dynamo.onnx"
    program = axlora.compile(path, "test", shapes=_free(path, 3), adapters={"a": E.MODELS / name})
    program.save(tmp_path / "m.axl")
    program = axlora.load(tmp_path / "m.axl")
    feed = _feed(3, 7, padded=False)
    (got,) = axlora.simulate(program, feed, ["graph", "a", None], timing=False).outputs.values()
    (wanted,) = _onnxruntime(path, feed)
    errors = [np.linalg.norm(got[row] - wanted[row]) / np.linalg.norm(wanted[row]) for row in range(3)]
    assert max(errors[:2]) < 0.05
    assert errors[2] > 0.1


@pytest.mark.parametrize("file", ["bert-lora", "gpt2-lora", "llama-lora"])
@pytest.mark.parametrize("target", ["zcu104", pytest.param("edge-asic", marks=pytest.mark.exhaustive)])
def test_heads_of_six_features_on_presets(target: str, file: str, tmp_path: Path) -> None:
    """Words have 8: heads, and Llama's halves, get gaps; an adapter that comes later is the one that is compiled in."""
    path, folder = E.MODELS / f"{file}.dynamo.onnx", E.MODELS / file
    _as_llvm_computes(path, Target.load(target), {"a": folder}, _feed(1, 4, padded="bert" in file))
    early = axlora.compile(path, target, shapes=_free(path), adapters={"a": folder}, operators="all")
    rank = next(a.rank for a in early.adapters if a.name == "a")
    late = axlora.compile(path, target, shapes=_free(path), max_lora_rank=rank, lora_linears="all", operators="all")
    late.save(tmp_path / "late.axl")
    late = add_adapter(axlora.load(tmp_path / "late.axl"), "a", folder)
    feed = {name: value % 32 for name, value in _feed(1, 4, padded="bert" in file).items()}
    runs = [axlora.simulate(program, feed, "a", timing=False) for program in (early, late)]
    for name, codes in runs[0].codes.items():
        assert np.array_equal(codes, runs[1].codes[name])


@pytest.mark.parametrize("file", ["bert.dynamo", "llama.dynamo"])
def test_scale_groups_of_heads_with_gaps(file: str) -> None:
    """Groups of 32 rows of 4-bit weights are 24 features of the linear behind attention: as the reference computes them."""
    path, target = E.MODELS / f"{file}.onnx", Target.load("zcu104")
    options = CompileOptions(operators="all", shapes=_free(path), weight_bits=4)
    groups = {linear.weight.group for linear in lower_whole(path, target, options).lowered.linears}
    assert groups == {24, 32}
    program = axlora.compile(path, target, shapes=_free(path), operators="all", weight_bits=4)
    assert {linear.weight.group for linear in program.linears()} == groups
    _as_llvm_computes(path, target, {}, _feed(1, 5, padded="bert" in file), weight_bits=4)


def test_calibration_measures_every_operators_error() -> None:
    """On its first sample, with what came before: the last operator's is the output's own, and `auto` is a scale a token."""
    path = E.MODELS / "bert.dynamo.onnx"
    samples = [_feed(1, seed, padded=True) for seed in range(3)]
    data = {name: np.stack([feed[name] for feed in samples]) for name in samples[0]}
    program = axlora.compile(path, "test", shapes=_free(path), calibration=data, activation="auto")
    assert program.kind == "whole"
    errors = [operator.error for operator in program.interface.operators]
    assert all(error is not None and 0 <= error < 0.05 for error in errors)
    run = axlora.simulate(program, samples[0])
    (got,), (wanted,) = run.outputs.values(), _onnxruntime(path, samples[0])
    assert errors[-1] == pytest.approx(np.linalg.norm(got - wanted) / np.linalg.norm(wanted), rel=1e-3)
    assert [layer.error for layer in run.layers] == errors


@pytest.mark.parametrize("option", [{"mode": "exact"}, {"activation": "token16"}])
def test_all_operators_and_options_of_linears_do_not_go_together(option: dict[str, str]) -> None:
    path = E.MODELS / "bert.dynamo.onnx"
    with pytest.raises(axlora.Error, match="with operators all"):
        axlora.compile(path, Target.load("test"), shapes=_free(path), operators="all", **option)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("bert-lora.dynamo", marks=pytest.mark.slow),
        pytest.param("llama-lora.dynamo", marks=pytest.mark.slow),
        pytest.param("gpt2.dynamo", marks=pytest.mark.exhaustive),
    ],
)
def test_a_whole_model_in_verilog(file: str) -> None:
    """Outputs, cycles and every counter of a whole model equal the simulator's; Llama's halves of 3 features have gaps."""
    path = E.MODELS / f"{file}.onnx"
    free = {name: size if size != TOKENS else 8 for name, size in _free(path).items()}
    program = axlora.compile(path, "test", shapes=free)
    feed = {name: value[:, :8] for name, value in _feed(1, 3, padded=file.startswith("bert")).items()}
    sim, rtl = axlora.simulate(program, feed), axlora.run_rtl(program, feed)
    assert sim.counters == rtl.counters
    assert [s for s in sim.steps if s.unit != "fetch"] == [s for s in rtl.steps if s.unit != "fetch"]
    for name, codes in sim.codes.items():
        assert np.array_equal(codes, rtl.codes[name])
