"""The Relax module that the passes end with for a whole model, run by LLVM, against the package in the simulator."""

from __future__ import annotations

from pathlib import Path

import exported as E
import mlps as M
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import Generated, lower_whole
from axlora.isa.target import Target

TARGET = Target.load("test")
TOKENS = 16
SHAPES = {"batch": 1, "sequence": TOKENS}
Arrays = dict[str, np.ndarray]


def _run(
    found: Generated, model: Path | onnx.ModelProto, shapes: dict[str, int], feed: Arrays, adapter: str | None
) -> list[np.ndarray]:
    """The module's outputs; what it reads beside the inputs are tables of the normalised file."""
    proto, _ = onnx_reader.read(model, shapes, empty_caches=True)
    held = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    return found.whole(TARGET.activation_bits).run(held | feed, adapter)


def _ids() -> Arrays:
    mask = np.ones((1, TOKENS), np.int64)
    mask[0, [0, 3, 7, 15]] = 0
    return {"input_ids": np.random.default_rng(0).integers(0, E.VOCAB, (1, TOKENS)), "attention_mask": mask}


@pytest.mark.parametrize(
    ("file", "adapter"), [("bert.script", None), ("bert-lora.dynamo", "z"), ("distilbert-lora.script", "z")]
)
def test_an_encoder_with_holes_in_its_mask(file: str, adapter: str | None) -> None:
    """The order of rows, what is padding, adapters; the host adds embeddings in single precision, the package in double."""
    path, feed = E.MODELS / f"{file}.onnx", _ids()
    adapters = {adapter: E.MODELS / file.split(".")[0]} if adapter else {}
    found = lower_whole(path, TARGET, CompileOptions(adapters, lora_linears="all", operators="all", shapes=SHAPES))
    program = axlora.compile(path, TARGET, adapters=adapters, shapes=SHAPES, operators="all")
    wanted = axlora.simulate(program, feed, adapter=adapter, timing=False).outputs
    for got, y in zip(_run(found, path, SHAPES, feed, adapter), wanted.values(), strict=True):
        assert got.shape == y.shape
        np.testing.assert_allclose(got, y, rtol=0, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("kind", M.MODELS)
def test_rows_of_a_batch_bit_for_bit(kind: str) -> None:
    model, shapes = M.MODELS[kind](), {"batch": 5}
    data, x = {"x": M.samples(model, 5, 8, seed=1)}, M.samples(model, 5, seed=2)[0]
    found = lower_whole(model, TARGET, CompileOptions(operators="all", shapes=shapes, calibration=data))
    program = axlora.compile(model, TARGET, shapes=shapes, calibration=data)
    wanted = axlora.simulate(program, {"x": x}, timing=False).outputs
    for got, y in zip(_run(found, model, shapes, {"x": x}, program.default_adapter), wanted.values(), strict=True):
        np.testing.assert_array_equal(got, y)


@pytest.mark.parametrize("name", ["qwen3", "gemma"])
def test_a_decoder_bit_for_bit(name: str) -> None:
    """The whole context at once; the package takes it in starts of prefill and decode."""
    path = E.MODELS / "decoders" / f"{name}.onnx"
    found = lower_whole(path, TARGET, CompileOptions(generate=True, max_context=TOKENS))
    program = axlora.compile(path, TARGET, generate=True, max_context=TOKENS)
    ids = np.random.default_rng(0).integers(0, len(program.interface.tables[program.interface.ids]), (1, TOKENS))
    wanted = program.session().run({program.interface.ids: ids}).outputs[program.interface.output]
    free = {
        d: 1 if axis == 0 else TOKENS
        for dims in onnx_reader.dimensions(path).values()
        for axis, d in enumerate(dims)
        if isinstance(d, str)
    }
    (got,) = _run(found, path, free, {program.interface.ids: ids}, None)
    np.testing.assert_array_equal(got, wanted)
