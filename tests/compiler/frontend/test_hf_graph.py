"""Hugging Face directories of every family: recognised whole, equal to transformers in float, and whole on the machine."""

from __future__ import annotations

from pathlib import Path

import hf_models as H
import numpy as np
import onnxruntime
import pytest
from hf_runs import BOUND, SHAPE, distance, float_logits, generator

import axlora
from axlora.compiler.frontend import onnx_reader
from axlora.compiler.frontend.hf.config import DECODERS, ENCODERS

DECODING = [name for name in H.FAMILIES if "num_key_value_heads" in H.config(name)]
ENCODING = [name for name in H.FAMILIES if name not in DECODING]


def test_every_kind_has_a_model() -> None:
    assert {H.config(name)["model_type"] for name in H.FAMILIES} == {*DECODERS, *ENCODERS}


@pytest.mark.parametrize("family", DECODING)
def test_a_decoder_computes_what_transformers_computes(family: str, tmp_path: Path) -> None:
    got = float_logits(H.save(family, tmp_path), H.inputs(H.config(family))["input_ids"])
    wanted = H.results(family)["logits"][0]
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("family", ENCODING)
def test_an_encoder_computes_what_transformers_computes(family: str, tmp_path: Path) -> None:
    proto, _ = onnx_reader.read(H.save(family, tmp_path), SHAPE)
    given, wanted = H.inputs(H.config(family)), H.results(family)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = given["attention_mask"][0] > 0
    for output, value in zip(session.get_outputs(), session.run(None, given), strict=True):
        rows = seen if value.ndim == 3 else slice(None)
        assert np.abs(value - wanted[output.name])[:, rows].max() < 1e-4 * np.abs(wanted[output.name]).max()


@pytest.mark.slow
@pytest.mark.parametrize("family", DECODING)
def test_a_decoder_runs_whole_with_a_cache(family: str, tmp_path: Path) -> None:
    ids = H.inputs(H.config(family))["input_ids"]
    program = generator(H.save(family, tmp_path), ids)
    assert program.host_macs == 0
    run = axlora.simulate(program, {"input_ids": ids})
    assert distance(run.outputs["logits"], H.results(family)["logits"]) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("family", ENCODING)
def test_an_encoder_runs_whole(family: str, tmp_path: Path) -> None:
    given = H.inputs(H.config(family))
    program = axlora.compile(H.save(family, tmp_path), "test", operators="all", shapes=SHAPE, calibration=given)
    assert program.host_macs == 0
    run = axlora.simulate(program, given)
    seen = given["attention_mask"][0] > 0
    for name, wanted in H.results(family).items():
        rows = seen if wanted.ndim == 3 else slice(None)
        assert distance(run.outputs[name][:, rows], wanted[:, rows]) < BOUND
