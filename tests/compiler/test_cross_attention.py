"""Encoder-decoders whole on the machine: rows of two sequences, which meet in cross attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from encoder_decoders import IDS, MELS, Model, Sizes
from whole_runs import TARGET, Feed, compared, distance, expected

import axlora
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import lower_whole

CASES = {
    "bart": Sizes(),
    "t5": Sizes(relative=True, mask=True, keys=7, tokens=9),
    "decoder of a given encoder": Sizes(encoder=False, mask=True),
    "as many tokens as keys": Sizes(keys=6, mask=True),
    "one token": Sizes(tokens=1),
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


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [Sizes(keys=5, tokens=3, mask=True), Sizes(keys=5, tokens=3, sound=True)])
def test_verilog_has_the_simulators_bits_and_counters(sizes: Sizes) -> None:
    proto = Model(sizes).proto()
    program = axlora.compile(proto, TARGET, operators="all", calibration=calibration(sizes, proto))
    given = feed(sizes, proto)
    sim, rtl = (program.session(engine=engine).run(given) for engine in ("sim", "rtl"))
    assert sim.counters == rtl.counters
    np.testing.assert_array_equal(sim.codes["logits"], rtl.codes["logits"])
