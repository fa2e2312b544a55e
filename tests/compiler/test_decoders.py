"""Decoders of other families, as PyTorch exports them: recognised, equal to onnxruntime in float, whole on the machine."""

from __future__ import annotations

import decoders as D
import numpy as np
import onnx
import onnxruntime
import pytest

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.merge import merge_graph
from axlora.compiler.passes.pipeline import READ_WHOLE
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import read_transformer
from axlora.compiler.pipelines.samples import products
from axlora.compiler.rows.float_forms import embed, evaluate

FILES = sorted(D.FOLDER.glob("*.onnx"))
IDS = np.random.default_rng(0).integers(0, D.VOCABULARY, 20)


def _logits(path: object) -> np.ndarray:
    """[20, vocabulary] of onnxruntime, optimizations disabled."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": IDS[None]})[0][0]


def _free(path: object) -> dict[str, int]:
    """One sequence of all positions; exporters fix a batch of one where the model does."""
    dims = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return {d.dim_param: n for d, n in zip(dims, (1, D.POSITIONS), strict=True) if d.dim_param}


def test_every_family_is_there() -> None:
    assert [path.stem for path in FILES] == ["gemma", "neox", "opt", "phi", "qwen3"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_recognised_decoder_computes_the_same(path: object) -> None:
    proto, where = onnx_reader.read(path, _free(path))
    g, found = recognise(proto, passes=READ_WHOLE)
    model = read_transformer(g, found, where)
    values = evaluate(model, embed(model, {"input_ids": IDS}), products(merge_graph(found)))
    wanted = _logits(path)
    assert np.abs(values[model.output] - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs_whole_on_the_machine(path: object) -> None:
    program = axlora.compile(path, "test", generate=True, max_context=24, calibration={"input_ids": IDS[None]})
    assert program.kind == "generator"
    assert program.host_macs == 0
    got = np.ldexp(program.session().feed(IDS.tolist()).astype(float), -program.interface.output_fraction)
    wanted = _logits(path)
    assert np.sqrt(((got - wanted) ** 2).mean() / (wanted**2).mean()) < 0.04
