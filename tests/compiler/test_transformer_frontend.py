"""Exported decoders are recognised whole, and what is not a causal decoder is refused by its node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import exported as E
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.merge import merge_graph
from axlora.compiler.frontend.precision import to_float32
from axlora.compiler.operators import Affine, Apply, Attention, Function, Mul, Norm, NormKind
from axlora.compiler.passes.pipeline import READ_WHOLE
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import read_transformer
from axlora.compiler.pipelines.samples import products
from axlora.compiler.rows import float_forms
from axlora.compiler.transformer import Transformer

TOKENS = 16
FREE = {"batch": 1, "sequence": TOKENS}
LLAMA = (
    "llama.dynamo", "llama.script", "llama-lora.dynamo", "llama-lora.script", "llama-sdpa.dynamo", "llama-half.dynamo",
    "llama-bfloat.dynamo",
)  # fmt: skip
GPT2 = ("gpt2.dynamo", "gpt2.script", "gpt2-lora.dynamo", "gpt2-lora.script")


def _read(file: str) -> onnx.ModelProto:
    return onnx_reader.read(E.MODELS / f"{file}.onnx", FREE)[0]


def _recognised(proto: onnx.ModelProto) -> tuple[Transformer, dict[str, float_forms.Product]]:
    g, found = recognise(proto, passes=READ_WHOLE)
    return read_transformer(g, found, "model"), products(merge_graph(found))


def _logits(model: Path | bytes, ids: np.ndarray) -> np.ndarray:
    """onnxruntime without its own rewrites."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model) if isinstance(model, Path) else model, options)
    feed = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
    (logits,) = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
    return np.asarray(logits)[0].astype(np.float64)


@pytest.mark.parametrize("file", LLAMA)
def test_llama_is_recognised(file: str) -> None:
    model, _ = _recognised(_read(file))
    count = Counter(type(op).__name__ for op in model.operators)
    assert count == {"Norm": 5, "Linear": 15, "Rotary": 4, "Attention": 2, "Add": 4, "Apply": 2, "Mul": 2}
    assert model.positions is None
    assert model.embedding.shape == (E.VOCAB, E.HIDDEN)
    for op in model.operators:
        if isinstance(op, Attention):
            assert (op.heads, op.kv_heads, op.dim) == (E.HEADS, E.HEADS // 2, E.HIDDEN // E.HEADS)
            assert op.scale == pytest.approx(op.dim**-0.5, rel=1e-3)
            assert op.causal
        elif isinstance(op, Norm):
            assert op.kind is NormKind.RMS
        elif isinstance(op, Apply):
            assert op.function is Function.SILU


@pytest.mark.parametrize("file", GPT2)
def test_gpt2_is_recognised(file: str) -> None:
    """One packed projection holds q, k and v; positions are learned rows."""
    model, _ = _recognised(_read(file))
    count = Counter(type(op).__name__ for op in model.operators)
    assert count == {"Norm": 5, "Linear": 9, "Attention": 2, "Add": 4, "Apply": 2}
    assert model.positions is not None
    assert model.positions.shape == (TOKENS, E.HIDDEN)
    for op in model.operators:
        if isinstance(op, Attention):
            assert op.q == op.k == op.v
            assert op.first == (0, E.HIDDEN, 2 * E.HIDDEN)
        elif isinstance(op, Norm):
            assert op.kind is NormKind.LAYER
        elif isinstance(op, Apply):
            assert op.function is Function.GELU_TANH


@pytest.mark.parametrize("file", [*LLAMA, *GPT2])
def test_the_recognised_model_has_onnxruntimes_logits(file: str) -> None:
    """To 1e-4, LoRA branches of the graph included; half and bfloat models run as float32 with their own weights."""
    model, products = _recognised(_read(file))
    path = E.MODELS / f"{file}.onnx"
    plain: Path | bytes = path
    if "half" in file or "bfloat" in file:
        proto = onnx.load(path)
        to_float32(proto)
        plain = proto.SerializeToString()
    for seed in range(3):
        ids = np.random.default_rng(seed).integers(0, E.VOCAB, TOKENS)
        wanted = _logits(plain, ids)
        got = float_forms.evaluate(model, float_forms.embed(model, {"input_ids": ids}), products)[model.output]
        assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)


def _sum_of_embeddings(proto: onnx.ModelProto) -> str:
    """The rows of embeddings with their positions, which the first norm reads."""
    made = next(n for n in proto.graph.node if n.op_type == "Add")
    assert sum(made.output[0] in n.input for n in proto.graph.node) == 2  # a norm and the residual sum
    return str(made.output[0])


def test_positions_are_scaled_with_the_embeddings() -> None:
    """Scaled after their sum: both; before it: the embeddings alone."""
    proto = _read("gpt2.script")
    tensor = _sum_of_embeddings(proto)
    plain, _ = _recognised(proto)
    _after(proto, tensor, "Mul", np.array(3, np.float32))
    proto = onnx.shape_inference.infer_shapes(proto)
    model, products = _recognised(proto)
    assert plain.positions is not None
    assert model.positions is not None
    np.testing.assert_allclose(model.positions, 3 * plain.positions)
    ids = np.random.default_rng(0).integers(0, E.VOCAB, TOKENS)
    wanted = _logits(proto.SerializeToString(), ids)
    got = float_forms.evaluate(model, float_forms.embed(model, {"input_ids": ids}), products)[model.output]
    assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("kind", "constant"), [("Mul", 3), ("Add", 1)])
def test_embeddings_that_others_read_as_they_are_stay(kind: str, constant: int) -> None:
    """One of two readers reads them changed: refused, where a change in place would reach both."""
    proto = _read("gpt2.script")
    tensor = _sum_of_embeddings(proto)
    _after(proto, tensor, kind, np.array(constant, np.float32))
    reader = [n for n in proto.graph.node if f"{tensor} after {kind}" in n.input][-1]
    for n, name in enumerate(reader.input):
        if name == f"{tensor} after {kind}":
            reader.input[n] = tensor
    with pytest.raises(UnsupportedOperator):
        _recognised(onnx.shape_inference.infer_shapes(proto))


@pytest.mark.parametrize("file", ["bert.dynamo", "bert.script", "distilbert.dynamo", "distilbert.script"])
def test_encoders_are_refused_as_not_causal(file: str) -> None:
    with pytest.raises(UnsupportedOperator, match=r"(?s)node .*\(MatMul\).*not causal"):
        _recognised(_read(file))


# Models that are nearly decoders

MASK = {"llama.dynamo": "bitwise_and", "gpt2.script": "/transformer/And_output_0"}
SOME = tuple(MASK)


def _constant(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            return tensor
    return next(a.t for n in proto.graph.node if n.output[0] == name for a in n.attribute if a.name == "value")


@pytest.mark.parametrize("file", SOME)
@pytest.mark.parametrize(("row", "column", "seen"), [(3, 5, True), (5, 2, False), (0, TOKENS - 1, True), (7, 7, False)])
def test_one_changed_entry_of_the_mask_counts(file: str, row: int, column: int, seen: bool) -> None:
    """A token that sees one later is refused; one that misses one before it, or itself, is recognised as that."""
    proto = _read(file)
    tensor = _constant(proto, MASK[file])
    mask = numpy_helper.to_array(tensor).copy()
    assert mask.shape[-2:] == (TOKENS, TOKENS)
    assert mask[..., row, column].all() != seen
    mask[..., row, column] = seen
    tensor.CopyFrom(numpy_helper.from_array(mask, tensor.name))
    if seen:
        with pytest.raises(UnsupportedOperator, match=r"(?s)node .*(not causal|not understood)"):
            _recognised(proto)
        return
    model, products = _recognised(proto)
    ids = np.random.default_rng(0).integers(0, E.VOCAB, TOKENS)
    wanted, plain = (_logits(each.SerializeToString(), ids) for each in (proto, _read(file)))
    got = float_forms.evaluate(model, float_forms.embed(model, {"input_ids": ids}), products)[model.output]
    assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)
    assert np.linalg.norm(plain - wanted) > 1e-3 * np.linalg.norm(wanted)


def _after(proto: onnx.ModelProto, tensor: str, kind: str, *constants: np.ndarray, **attributes: object) -> str:
    """Put a node of this kind behind a tensor; its name."""
    nodes = list(proto.graph.node)
    names = [f"inserted {kind} {n}" for n in range(len(constants))]
    proto.graph.initializer.extend(numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True))
    name, out = f"inserted {kind}", f"{tensor} after {kind}"
    for node in nodes:
        for n, given in enumerate(node.input):
            if given == tensor:
                node.input[n] = out
    place = 1 + max(n for n, node in enumerate(nodes) if tensor in node.output)
    nodes.insert(place, helper.make_node(kind, [tensor, *names], [out], name=name, **attributes))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return name


STREAM = {"llama.dynamo": "add_346", "gpt2.script": "/transformer/h.0/Add_output_0"}
"""The value between attention and the feed-forward half of the first layer: [1, tokens, features]."""
AXIS = np.array(1)
BACKWARDS = np.arange(TOKENS)[::-1].copy()
INSERTED: dict[str, Callable[[onnx.ModelProto, str], str]] = {
    "sum over tokens": lambda p, x: _after(p, x, "CumSum", AXIS),
    "tokens backwards": lambda p, x: _after(p, x, "Gather", BACKWARDS, axis=1),
    "features backwards": lambda p, x: _after(p, x, "Gather", np.arange(E.HIDDEN)[::-1].copy(), axis=2),
    "softmax over tokens": lambda p, x: _after(p, x, "Softmax", axis=1),
    "sine": lambda p, x: _after(p, x, "Sin"),
    "exponential": lambda p, x: _after(p, x, "Exp"),
    "a weight a token": lambda p, x: _after(p, x, "Mul", np.linspace(1, 2, TOKENS, dtype=np.float32)[:, None]),
    "norm over tokens": lambda p, x: _after(p, x, "LpNormalization", axis=1),
}


@pytest.mark.parametrize("file", SOME)
@pytest.mark.parametrize("what", INSERTED)
def test_a_node_that_is_not_understood_is_refused(file: str, what: str) -> None:
    """By its name, or by the name of what reads it where only its reader tells that it is not rows."""
    proto = _read(file)
    name = INSERTED[what](proto, STREAM[file])
    inferred = onnx.shape_inference.infer_shapes(proto)
    onnx.checker.check_model(inferred)
    with pytest.raises(UnsupportedOperator) as info:
        _recognised(inferred)
    if what in ("sum over tokens", "softmax over tokens", "sine", "norm over tokens"):
        assert name in str(info.value)


UNDERSTOOD: dict[str, tuple[str, np.ndarray, type]] = {
    "twice": ("Mul", np.array(2, np.float32), Affine),
    "square": ("Pow", np.array(2, np.float32), Mul),
    "plus one": ("Add", np.array(1, np.float32), Affine),
    "a weight a feature": ("Mul", np.linspace(1, 2, E.HIDDEN, dtype=np.float32), Affine),
    "a number a feature less": ("Sub", np.linspace(-1, 1, E.HIDDEN, dtype=np.float32), Affine),
}


@pytest.mark.parametrize("file", SOME)
@pytest.mark.parametrize("what", UNDERSTOOD)
def test_scales_and_shifts_of_features_are_recognised(file: str, what: str) -> None:
    """Between the halves of a layer, with onnxruntime's logits."""
    proto = _read(file)
    kind, constant, operator = UNDERSTOOD[what]
    before = sum(isinstance(op, operator) for op in _recognised(_read(file))[0].operators)
    _after(proto, STREAM[file], kind, constant)
    proto = onnx.shape_inference.infer_shapes(proto)
    model, products = _recognised(proto)
    assert sum(isinstance(op, operator) for op in model.operators) == before + 1
    ids = np.random.default_rng(0).integers(0, E.VOCAB, TOKENS)
    wanted = _logits(proto.SerializeToString(), ids)
    got = float_forms.evaluate(model, float_forms.embed(model, {"input_ids": ids}), products)[model.output]
    assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("file", SOME)
@pytest.mark.parametrize("axis", [1, 2])
def test_a_softmax_over_another_axis_is_refused(file: str, axis: int) -> None:
    proto = _read(file)
    node = next(n for n in proto.graph.node if n.op_type == "Softmax")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", axis))
    with pytest.raises(UnsupportedOperator):
        _recognised(proto)


@pytest.mark.parametrize("file", SOME)
def test_a_cast_to_integers_is_refused(file: str) -> None:
    """It rounds: only casts between floats are the values themselves."""
    proto = _read(file)
    _after(proto, STREAM[file], "Cast", to=onnx.TensorProto.INT32)
    _after(proto, f"{STREAM[file]} after Cast", "Cast", to=onnx.TensorProto.FLOAT)
    with pytest.raises((UnsupportedOperator, BadModel)):
        _recognised(onnx.shape_inference.infer_shapes(proto))


def test_a_layer_norm_over_tokens_and_features_is_refused() -> None:
    proto = _read("gpt2.script")
    node = next(n for n in proto.graph.node if n.op_type == "LayerNormalization")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))
    with pytest.raises(UnsupportedOperator):
        _recognised(proto)


def test_a_mean_over_tokens_in_a_norm_is_refused() -> None:
    proto = _read("llama.dynamo")
    node = next(n for n in proto.graph.node if n.op_type == "ReduceMean")
    _constant(proto, node.input[1]).CopyFrom(numpy_helper.from_array(np.array([1]), node.input[1]))
    with pytest.raises(UnsupportedOperator):
        _recognised(proto)


def test_heads_in_another_order_are_refused() -> None:
    """Query heads 0 and 1 swapped against the keys'."""
    proto = _read("llama.dynamo")
    first = next(n for n in proto.graph.node if n.op_type == "Transpose").output[0]
    _after(proto, first, "Gather", np.array([2, 1, 0, 3]), axis=1)
    with pytest.raises(UnsupportedOperator, match=r"heads|not understood"):
        _recognised(onnx.shape_inference.infer_shapes(proto))


def test_a_second_input_is_refused_by_its_name() -> None:
    """One that something reads; others may come in for nothing."""
    proto = _read("llama.dynamo")
    cache = helper.make_tensor_value_info("past_key", onnx.TensorProto.FLOAT, [1, 2, 3, 4])
    proto.graph.input.append(cache)
    _recognised(proto)
    proto.graph.node.append(helper.make_node("Relu", ["past_key"], ["present"]))
    proto.graph.output.append(helper.make_tensor_value_info("present", onnx.TensorProto.FLOAT, [1, 2, 3, 4]))
    with pytest.raises(UnsupportedOperator, match="'past_key'"):
        _recognised(proto)
