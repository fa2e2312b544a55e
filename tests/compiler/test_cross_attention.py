"""Encoder-decoders whole on the machine: rows of two sequences, which meet in cross attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from encoder_decoders import IDS, MELS, Model, Sizes
from whole_runs import TARGET, Feed, compared, distance, expected
from writer import Writer

import axlora
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole

CASES = {
    "bart": Sizes(),
    "t5": Sizes(relative=True, mask=True, keys=7, tokens=9),
    "decoder of a given encoder, as many tokens as keys": Sizes(encoder=False, mask=True, keys=6),
    "one token": Sizes(tokens=1),
    "two masks": Sizes(encoder=False, mask=True, own_mask=True),
    "whisper": Sizes(sound=True, keys=9),
}


def feed(sizes: Sizes, proto: onnx.ModelProto, batch: int = 1, seed: int = 0, padded: bool = True) -> Feed:
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, sizes.keys), np.int64)
    if padded:
        mask[:, -2:] = 0
        mask[0, 1] = int(sizes.relative)  # distances count: no padding between tokens
    every = {
        "input_ids": rng.integers(0, IDS, (batch, sizes.keys)),
        "input_features": rng.normal(0, 1, (batch, MELS, 2 * sizes.keys)).astype(np.float32),
        "attention_mask": mask,
        "own_mask": np.ones((batch, sizes.tokens), np.int64),
        "encoder_hidden_states": rng.normal(0, 1, (batch, sizes.keys, sizes.n)).astype(np.float32),
        "decoder_input_ids": rng.integers(0, IDS, (batch, sizes.tokens)),
    }
    return {i.name: every[i.name] for i in proto.graph.input}


def calibration(sizes: Sizes, proto: onnx.ModelProto) -> Feed:
    samples = [feed(sizes, proto, seed=100 + n, padded=False) for n in range(8)]
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


@pytest.mark.parametrize("name", [*list(CASES)[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in list(CASES)[1:])])
def test_whole_near_onnxruntime_and_equal_to_both_references(name: str, tmp_path: Path) -> None:
    """Nothing but embeddings on the host; the padding of the encoder's tokens counts; the package is read again."""
    sizes = CASES[name]
    proto = Model(sizes).proto()
    given = feed(sizes, proto)
    program, run = compared(proto, given, calibration=calibration(sizes, proto))
    assert program.interface.mask == ("attention_mask" if sizes.mask else None)
    wanted = expected(proto, given)
    assert distance(run.outputs["logits"], wanted) < 0.04
    if sizes.mask:
        assert distance(expected(proto, given | {"attention_mask": np.ones((1, sizes.keys), np.int64)}), wanted) > 0.05
    program.save(tmp_path / "m.axl")
    again = axlora.simulate(axlora.load(tmp_path / "m.axl"), given)
    np.testing.assert_array_equal(again.outputs["logits"], run.outputs["logits"])


@pytest.mark.parametrize("sizes", [Sizes(keys=41, tokens=26, mask=True), Sizes(keys=33, tokens=20, sound=True)])
def test_blocks_of_both_sequences(sizes: Sizes) -> None:
    """Buffers that hold neither at once: the same bits as one block each."""
    proto = Model(sizes).proto()
    options = {"operators": "all", "calibration": calibration(sizes, proto)}
    given = feed(sizes, proto)
    small = replace(TARGET, vbuf_words=512)
    found = [lower_whole(proto, target, CompileOptions(**options)) for target in (TARGET, small)]
    assert [any(name.startswith("rows ") for name in each.image.regions) for each in found] == [False, True]
    one, several = (axlora.simulate(axlora.compile(proto, target, **options), given) for target in (TARGET, small))
    np.testing.assert_array_equal(one.codes["logits"], several.codes["logits"])


def test_a_batch_of_free_lengths() -> None:
    sizes = Sizes(free=True, mask=True)
    proto = Model(sizes).proto()
    shapes = {"batch": 2, "source": sizes.keys, "target": sizes.tokens}
    data = {name: np.concatenate([value, value], axis=1) for name, value in calibration(sizes, proto).items()}
    program = axlora.compile(proto, "test", operators="all", calibration=data, shapes=shapes)
    given = feed(sizes, proto, batch=2)
    assert distance(axlora.simulate(program, given).outputs["logits"], expected(proto, given)) < 0.03


def test_wrong_inputs_are_refused() -> None:
    sizes = Sizes(encoder=False)
    proto = Model(sizes).proto()
    with pytest.raises(axlora.Error, match="encoder_hidden_states"):
        axlora.compile(proto, "test", operators="all")
    program = axlora.compile(proto, "test", operators="all", calibration=calibration(sizes, proto))
    given = feed(sizes, proto)
    with pytest.raises(axlora.BadInput, match=r"compiled for \(1, 10, 16\)"):
        axlora.simulate(program, given | {"encoder_hidden_states": given["encoder_hidden_states"][:, :9]})
    with pytest.raises(axlora.BadInput, match="'decoder_input_ids' holds ids outside 0 to 39"):
        axlora.simulate(program, given | {"decoder_input_ids": np.full((1, sizes.tokens), IDS)})


def two_towers() -> onnx.ModelProto:
    """Two inputs of ids to a row each, and nothing between them."""
    m = Model(Sizes())
    table = m.w.constant(m.rng.normal(0, 1, (IDS, m.s.n)))
    for name, rows, kind in (("input_ids", 6, "mean"), ("decoder_input_ids", 4, "first")):
        x = m.norm(m.layer(m.embedded(table, name, rows), ""))
        if kind == "mean":
            m.w("ReduceMean", x, m.w.ints(1), keepdims=0)
        else:
            m.w("Gather", x, m.w.constant(np.array(0)), axis=1)
        m.w.nodes[-1].output[0] = kind
    value = onnx.helper.make_tensor_value_info
    inputs = [value("input_ids", onnx.TensorProto.INT64, [1, 6]), value("decoder_input_ids", onnx.TensorProto.INT64, [1, 4])]
    outputs = [value(name, onnx.TensorProto.FLOAT, [1, m.s.n]) for name in ("mean", "first")]
    graph = onnx.helper.make_graph(m.w.nodes, "g", inputs, outputs, m.w.held)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def test_two_towers_are_pooled_apart() -> None:
    rng = np.random.default_rng(5)
    given = {"input_ids": rng.integers(0, IDS, (1, 6)), "decoder_input_ids": rng.integers(0, IDS, (1, 4))}
    _, run = compared(two_towers(), given)
    session = ort.InferenceSession(two_towers().SerializeToString())
    for name, wanted in zip(("mean", "first"), session.run(None, given), strict=True):
        assert distance(run.outputs[name], wanted) < 0.03


def test_rows_of_two_inputs_meet_in_attention_alone() -> None:
    """As many rows of each: sizes do not tell."""
    w, ids = Writer(), ("input_ids", "decoder_input_ids")
    table = w.constant(np.random.default_rng(0).normal(0, 1, (IDS, 16)))
    a, b = (w("MatMul", w("Gather", table, name), w.constant(np.eye(16) + n)) for n, name in enumerate(ids))
    w("Add", a, b)
    value = onnx.helper.make_tensor_value_info
    inputs = [value(name, onnx.TensorProto.INT64, [1, 6]) for name in ids]
    outputs = [value(w.nodes[-1].output[0], onnx.TensorProto.FLOAT, [1, 6, 16])]
    graph = onnx.helper.make_graph(w.nodes, "g", inputs, outputs, w.held)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(axlora.Error, match=r"node 'n4' \(Add\): rows of two inputs meet"):
        axlora.compile(proto, "test", operators="all")


@pytest.mark.parametrize("generate", [False, True])
def test_caches_and_generation_are_refused_by_name(generate: bool) -> None:
    proto = Model(Sizes(encoder=False)).proto()
    if not generate:
        value = onnx.helper.make_tensor_value_info("past_key_values.0.key", onnx.TensorProto.FLOAT, [1, 2, 3, 8])
        proto.graph.input.append(value)
        proto.graph.node.append(onnx.helper.make_node("Neg", [value.name], ["present.0.key"]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("present.0.key", onnx.TensorProto.FLOAT, [1, 2, 3, 8]))
    words = "compile without --generate" if generate else "'past_key_values.0.key' is a cache of keys and values"
    with pytest.raises(axlora.Error, match=words):
        axlora.compile(proto, "test", **({"generate": True} if generate else {"operators": "all"}))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [Sizes(keys=5, tokens=3, mask=True), Sizes(keys=5, tokens=3, sound=True)])
def test_verilog_has_the_simulators_bits_and_counters(sizes: Sizes) -> None:
    proto = Model(sizes).proto()
    program = axlora.compile(proto, TARGET, operators="all", calibration=calibration(sizes, proto))
    given = feed(sizes, proto)
    sim, rtl = (program.session(engine=engine).run(given) for engine in ("sim", "rtl"))
    assert sim.counters == rtl.counters
    np.testing.assert_array_equal(sim.codes["logits"], rtl.codes["logits"])
