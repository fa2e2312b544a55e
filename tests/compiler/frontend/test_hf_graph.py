"""Hugging Face directories of every family: recognised whole, equal to transformers in float, and whole on the machine."""

from __future__ import annotations

from pathlib import Path

import hf_models as H
import numpy as np
import pytest

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.hf.config import DECODERS, ENCODERS
from axlora.compiler.frontend.merge import merge_graph
from axlora.compiler.passes.pipeline import READ_WHOLE
from axlora.compiler.passes.recognise_linears import recognise
from axlora.compiler.passes.recognise_transformer import read_transformer
from axlora.compiler.pipelines.samples import products
from axlora.compiler.rows.float_forms import embed, evaluate

DECODING = [name for name in H.FAMILIES if "num_key_value_heads" in H.config(name)]
SHAPE = {"batch": 1, "sequence": H.TOKENS}


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_every_kind_has_a_model() -> None:
    assert {H.config(name)["model_type"] for name in H.FAMILIES} == {*DECODERS, *ENCODERS}


@pytest.mark.parametrize("family", DECODING)
def test_a_decoder_computes_what_transformers_computes(family: str, tmp_path: Path) -> None:
    proto, where = onnx_reader.read(H.save(family, tmp_path), SHAPE)
    g, found = recognise(proto, passes=READ_WHOLE)
    model = read_transformer(g, found, where)
    values = evaluate(
        model, embed(model, {"input_ids": H.inputs(H.config(family))["input_ids"][0]}), products(merge_graph(found))
    )
    wanted = H.results(family)["logits"][0]
    assert np.abs(values[model.output] - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("family", DECODING)
def test_a_decoder_runs_whole_with_a_cache(family: str, tmp_path: Path) -> None:
    ids = H.inputs(H.config(family))["input_ids"]
    program = axlora.compile(H.save(family, tmp_path), "test", generate=True, max_context=24, calibration={"input_ids": ids})
    assert program.host_macs == 0
    run = axlora.simulate(program, {"input_ids": ids})
    assert distance(run.outputs["logits"], H.results(family)["logits"]) < 0.04


@pytest.mark.parametrize("family", [name for name in H.FAMILIES if name not in DECODING])
def test_an_encoder_runs_whole(family: str, tmp_path: Path) -> None:
    given = H.inputs(H.config(family))
    program = axlora.compile(H.save(family, tmp_path), "test", operators="all", shapes=SHAPE, calibration=given)
    assert program.host_macs == 0
    run = axlora.simulate(program, given)
    seen = given["attention_mask"][0] > 0
    for name, wanted in H.results(family).items():
        rows = wanted.ndim == 3
        assert distance(*(value[:, seen] if rows else value for value in (run.outputs[name], wanted))) < 0.04
