"""Families whose graphs hold what others do not: each runs whole, near onnxruntime, bit for bit as both integer references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import family_exports as F
import numpy as np
import onnx
import pytest
import whole_runs as R

import axlora
from axlora.adapters import add_adapter
from axlora.compiler.errors import UnsupportedOperator

BOUND = 0.04
"""Of the other exports: 8 bits of weights and activations, random weights."""


def _model(name: str) -> onnx.ModelProto:
    return onnx.load(F.FOLDER / f"{name}.onnx")


def _given(name: str, seed: int = 0) -> R.Feed:
    rng = np.random.default_rng(seed)
    values = {
        "input_ids": rng.integers(2, F.VOCABULARY, (1, F.TOKENS)),
        "attention_mask": np.ones((1, F.TOKENS), np.int64),
        "pixel_values": rng.standard_normal((1, 3, F.SIDE, F.SIDE)).astype(np.float32),
    }
    return {each: values[each] for each in F.inputs(name)}


@pytest.mark.parametrize("name", F.FAMILIES)
def test_family(name: str) -> None:
    proto, given = _model(name), _given(name)
    _, run = R.compared(proto, given, calibration=given)
    assert R.distance(next(iter(run.outputs.values())), R.expected(proto, given)) < BOUND


@pytest.mark.parametrize("name", ["roberta", "mpnet"])
def test_positions_are_counted_in_ids(name: str, tmp_path: Path) -> None:
    """Ids of padding count nothing, masked or not, in front, behind and between; also after the package was read again."""
    proto, given = _model(name), _given(name)
    program = axlora.compile(proto, R.TARGET, calibration=given, operators="all")
    program.save(tmp_path / "a.axl")
    for seed, places in enumerate([[10, 11], [0, 1], [5]]):
        feed = _given(name, seed)
        feed["input_ids"][0, places] = 1
        feed["attention_mask"][0, places] = seed == 2
        run = axlora.open(tmp_path / "a.axl").session().run(feed)
        kept = feed["attention_mask"][0] == 1
        got, wanted = next(iter(run.outputs.values())), R.expected(proto, feed)
        assert R.distance(got[:, kept], wanted[:, kept]) < BOUND


def test_positions_beyond_the_table() -> None:
    proto = _model("roberta")
    table = next(i for i in proto.graph.initializer if "position_embeddings.weight" in i.name)
    table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table)[: F.TOKENS], table.name))
    with pytest.raises(UnsupportedOperator, match="12 tokens count up to 13 in a table of 12"):
        axlora.compile(proto, R.TARGET, operators="all")


@pytest.mark.parametrize(("name", "module", "dora"), [("glm4", "layers.0.self_attn", True), ("gptj", "h.0.attn", False)])
def test_adapter_where_neighbours_turn(
    name: str, module: str, dora: bool, write_peft: Callable[..., Path], tmp_path: Path
) -> None:
    """Columns of queries and keys are in another order: an adapter, at once or later, changes what it changes in the model."""
    proto, given, rng = _model(name), _given(name), np.random.default_rng(1)
    merged, tensors = onnx.ModelProto(), {}
    merged.CopyFrom(proto)
    weights = [node.input[1] for node in proto.graph.node if node.op_type == "MatMul"][:3]
    for part, weight in zip("qkv", weights, strict=True):
        held = next(i for i in merged.graph.initializer if i.name == weight)
        w = onnx.numpy_helper.to_array(held)
        a, b = rng.normal(0, 0.3, (2, w.shape[0])), rng.normal(0, 0.3, (w.shape[1], 2))
        after = w + 2 * (b @ a).T
        key = f"base_model.model.{module}.{part}_proj"
        tensors |= {f"{key}.lora_A.weight": a.astype(np.float32), f"{key}.lora_B.weight": b.astype(np.float32)}
        if dora:
            magnitude = np.linalg.norm(w, axis=0) * rng.uniform(0.5, 1.5, w.shape[1])
            after = after / np.linalg.norm(after, axis=0) * magnitude
            tensors[f"{key}.lora_magnitude_vector.weight"] = magnitude.astype(np.float32)
        held.CopyFrom(onnx.numpy_helper.from_array(after.astype(np.float32), weight))
    folder = write_peft(tensors, r=2, lora_alpha=4, use_dora=dora, target_modules=["q_proj", "k_proj", "v_proj"])
    wanted = R.expected(merged, given)
    assert R.distance(R.expected(proto, given), wanted) > 5 * BOUND
    at_once = axlora.compile(proto, R.TARGET, calibration=given, operators="all", adapters={"own": folder})
    axlora.compile(proto, R.TARGET, calibration=given, operators="all", max_loras=1, max_lora_rank=2).save(tmp_path / "a.axl")
    later = add_adapter(axlora.open(tmp_path / "a.axl"), "own", folder)
    whole = axlora.compile(proto, R.TARGET, calibration=given, operators="all", adapters={"own": folder}, merge=True)
    for program, adapter in ((at_once, "own"), (later, "own"), (whole, None)):
        run = axlora.simulate(program, given, adapter=adapter)
        assert R.distance(next(iter(run.outputs.values())), wanted) < BOUND


def test_adapter_of_a_module_that_runs_twice(write_peft: Callable[..., Path]) -> None:
    """ALBERT's layers are one: a branch of its values changes both."""
    proto, given, rng = _model("albert"), _given("albert"), np.random.default_rng(1)
    module = "encoder.albert_layer_groups.0.albert_layers.0.attention.value"
    nodes = [n for n in proto.graph.node if n.op_type == "MatMul" and any(module in p.value for p in n.metadata_props)]
    assert len(nodes) == 2
    a, b = rng.normal(0, 0.3, (2, 32)), rng.normal(0, 0.3, (32, 2))
    key = f"base_model.model.{module}.lora_"
    folder = write_peft({f"{key}A.weight": a.astype(np.float32), f"{key}B.weight": b.astype(np.float32)}, r=2, lora_alpha=4)
    merged = onnx.ModelProto()
    merged.CopyFrom(proto)
    for held in merged.graph.initializer:
        if held.name in {node.input[1] for node in nodes}:
            after = onnx.numpy_helper.to_array(held) + 2 * (b @ a).T
            held.CopyFrom(onnx.numpy_helper.from_array(after.astype(np.float32), held.name))
    wanted = R.expected(merged, given)
    program = axlora.compile(proto, R.TARGET, calibration=given, operators="all", adapters={"own": folder})
    run = axlora.simulate(program, given, adapter="own")
    assert R.distance(next(iter(run.outputs.values())), wanted) < BOUND < R.distance(R.expected(proto, given), wanted)


def test_generation(tmp_path: Path) -> None:
    """A prompt and steps around a cache are the whole model's rows, where neighbours turn."""
    ids = _given("gptj")["input_ids"]
    program = axlora.compile(_model("gptj"), R.TARGET, generate=True)
    run = program.session().run({"input_ids": ids})
    wanted = R.expected(_model("gptj"), {"input_ids": ids})
    assert R.distance(next(iter(run.outputs.values())), wanted) < BOUND


def test_queries_and_keys_of_one_linear() -> None:
    """Both ask for the order of the linear's columns by way of norms of their own: it is made once."""
    proto, rng = _model("gptj"), np.random.default_rng(0)
    for node in [node for node in proto.graph.node if node.output[0] in ("view", "view_1")]:
        held = [rng.uniform(1, 3, 8), rng.normal(0, 1, 8)]
        own = node.output[0]
        names = [f"{own} {part}" for part in ("heads", "gain", "bias")]
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(value.astype(np.float32), name) for value, name in zip(held, names[1:], strict=True)
        )
        node.input[0], node.output[0] = "linear", names[0]
        norm = onnx.helper.make_node("LayerNormalization", names, [own], f"norm of {own}", axis=-1)
        proto.graph.node.insert([*proto.graph.node].index(node) + 1, norm)
    out = next(i for i in proto.graph.initializer if i.name == "val_278")  # attention is most of the result
    out.CopyFrom(onnx.numpy_helper.from_array(30 * onnx.numpy_helper.to_array(out), out.name))
    _, run = R.compared(proto, _given("gptj"), calibration=_given("gptj"))
    assert R.distance(next(iter(run.outputs.values())), R.expected(proto, _given("gptj"))) < BOUND


def test_neighbours_that_more_is_read_of() -> None:
    """The rows whose neighbours turn are an output, too: no order is right for both."""
    proto = _model("gptj")
    query = next(node for node in proto.graph.node if node.op_type == "MatMul").output[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(query, onnx.TensorProto.FLOAT, (1, F.TOKENS, 32)))
    with pytest.raises(UnsupportedOperator, match="neighbours turn in rows"):
        axlora.compile(proto, R.TARGET, calibration=_given("gptj"), operators="all")
