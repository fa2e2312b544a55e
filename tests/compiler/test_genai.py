"""Decoders as ORT GenAI's model builder writes them: whole, with caches and without, with LoRA in the graph and PEFT's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import genai as G
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import axlora

IDS = np.array([[3, 7, 1, 9, 30, 2]])
FORMS: dict[str, dict[str, Any]] = {
    "codes": {},
    "packed": {"packed": True},
    "adapters": {"bits": 0, "adapters": True},
    "half": {"half": True},
    "rotary apart": {"apart": True},
}


def logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """[1, tokens, vocabulary] of onnxruntime, optimizations disabled and caches empty."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    inputs["position_ids"] = np.arange(ids.size)[None]
    known = {i.name: np.float16 if "float16" in i.type else np.float32 for i in session.get_inputs()}
    empty = {name: np.zeros((1, G.GROUPS, 0, G.DIM), kind) for name, kind in known.items() if name not in inputs}
    inputs = {name: value for name, value in (inputs | empty).items() if name in known}
    return np.asarray(session.run(["logits"], inputs)[0])


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got.reshape(wanted.shape) - wanted) / np.linalg.norm(wanted))


def greedy(path: Path, count: int) -> list[int]:
    ids = IDS
    for _ in range(count):
        ids = np.concatenate([ids, logits(path, ids)[:, -1:].argmax(-1)], 1)
    return [int(i) for i in ids[0, IDS.size :]]


@pytest.mark.parametrize("form", FORMS)
def test_it_generates(form: str, tmp_path: Path) -> None:
    path = G.save(G.Builder(**FORMS[form]).model(), tmp_path)
    program = axlora.compile(path, "zcu104", generate=True, max_context=32)
    assert program.kind == "generator"
    assert program.host_macs == 0
    linears = [row for row in program.placement if row.where == "accelerator" and row.macs]
    assert linears
    assert distance(axlora.simulate(program, {"input_ids": IDS}).outputs["logits"], logits(path, IDS)) < 0.04
    assert [token for token, _ in axlora.generate(program, IDS[0].tolist(), max_new_tokens=6)] == greedy(path, 6)


def merged(path: Path, folder: Path, a: np.ndarray, b: np.ndarray, scale: float) -> Path:
    """The model of floats with a LoRA in the weight of layer 0's q_proj."""
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if t.name.endswith("layers.0.attn.q_proj.MatMul.weight"))
    value = numpy_helper.to_array(weight) + scale * (a.T @ b.T)
    weight.CopyFrom(numpy_helper.from_array(value.astype(np.float32), weight.name))
    folder.mkdir()
    return G.save(model, folder)


def test_an_adapter_of_peft(tmp_path: Path, write_peft: Callable[..., Path]) -> None:
    """Its module is found by the builder's paths; base and adapter differ as in onnxruntime."""
    path = G.save(G.Builder(bits=0).model(), tmp_path)
    random = np.random.default_rng(1)
    a = random.normal(0, 0.3, (4, G.HIDDEN)).astype(np.float32)
    b = random.normal(0, 0.3, (G.HEADS * G.DIM, 4)).astype(np.float32)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    folder = write_peft({key.format("A"): a, key.format("B"): b}, target_modules=["q_proj"])
    program = axlora.compile(path, "zcu104", adapters={"law": folder}, generate=True, max_context=32)
    wanted = logits(merged(path, tmp_path / "merged", a, b, 2.0), IDS)
    got = axlora.simulate(program, {"input_ids": IDS}, adapter="law").outputs["logits"]
    assert distance(wanted, logits(path, IDS)) > 0.1
    assert distance(got, wanted) < 0.04


def test_prompts_as_whole_sequences_need_no_cache(tmp_path: Path) -> None:
    """As many keys as tokens: the caches come in for nothing, in a buffer that has room for them."""
    model = G.Builder().model()
    del model.graph.output[1:]
    path = G.save(model, tmp_path)
    tokens = IDS.size
    shapes = {"batch_size": 1, "sequence_length": tokens, "total_sequence_length": tokens, "past_sequence_length": tokens}
    program = axlora.compile(path, "zcu104", shapes=shapes)
    assert program.kind == "whole"
    rest = {name: np.ones(shape, dtype) for name, (shape, dtype) in program.inputs_info.items()}
    assert rest["past_key_values.1.value"].shape == (1, G.GROUPS, tokens, G.DIM)
    run = axlora.simulate(program, rest | {"input_ids": IDS})
    assert distance(run.outputs["logits"], logits(path, IDS)) < 0.04


def test_a_step_with_caches_runs_linears(tmp_path: Path) -> None:
    """One token behind four: attention is the host's, its caches come in and go out."""
    path = G.save(G.Builder(layers=1).model(), tmp_path)
    shapes = {"batch_size": 1, "sequence_length": 1, "total_sequence_length": 5, "past_sequence_length": 4}
    program = axlora.compile(path, "zcu104", shapes=shapes)
    assert program.kind == "linears"
    random = np.random.default_rng(2)
    inputs = {"input_ids": IDS[:, :1], "attention_mask": np.ones((1, 5), np.int64)}
    cache = {f"past_key_values.0.{part}": random.standard_normal((1, G.GROUPS, 4, G.DIM)) for part in ("key", "value")}
    inputs |= {name: value.astype(np.float32) for name, value in cache.items()}
    run = axlora.simulate(program, inputs)
    wanted = ort.InferenceSession(str(path)).run(None, inputs)
    for name, value in zip(("logits", "present.0.key", "present.0.value"), wanted, strict=True):
        assert distance(run.outputs[name], value) < 0.04
