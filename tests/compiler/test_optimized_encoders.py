"""Encoders as onnxruntime's transformer optimizer leaves them run whole, padding included."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from optimized import TOKENS, VOCABULARY, Encoder

import axlora


@pytest.mark.parametrize("apart", [False, True])
def test_it_runs_whole(apart: bool) -> None:
    model = Encoder(apart).model()
    program = axlora.compile(model, "zcu104", shapes={"batch": 2})
    assert program.kind == "whole"
    assert program.host_macs == 0
    random = np.random.default_rng(1)
    mask = np.array([[1] * TOKENS, [1] * 5 + [0] * 3], np.int32)
    inputs = {"input_ids": random.integers(0, VOCABULARY, (2, TOKENS)).astype(np.int32), "attention_mask": mask}
    inputs["token_type_ids"] = random.integers(0, 2, (2, TOKENS)).astype(np.int32)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (wanted,) = ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    (got,) = axlora.simulate(program, inputs).outputs.values()
    seen = mask > 0
    assert np.linalg.norm((got - wanted)[seen]) < 0.03 * np.linalg.norm(wanted[seen])
