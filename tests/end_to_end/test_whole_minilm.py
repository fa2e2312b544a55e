"""The whole MiniLM with its two trained adapters: accuracy against float, reference = simulator = Verilog, mixed batches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from whole_minilm import TASKS, Feed, Whole

import axlora
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target

SHAPE = {"batch": 1, "sequence": 64}


def _embeddings(reference: Reference, feed: Feed, adapter: str | None) -> np.ndarray:
    rows = range(len(feed["input_ids"]))
    return np.concatenate([reference.run({k: v[i : i + 1] for k, v in feed.items()}, adapter)["embedding"] for i in rows])


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


FORMS = [
    ("minilm", "token8", 0.995),
    ("minilm", "static8", 0.99),
    ("minilm_static", None, 0.99),
    ("minilm_dynamic", None, 0.995),
]
"""ONNX file, how activations are quantized (None: as the file says), least mean cosine to the float model."""


def _near_float(whole: Whole, file: str, activation: str | None, least: float, count: int) -> None:
    """Mean cosine of base and adapter embeddings; adapter - base points where its float twin does: no dead adapter."""
    data = whole.calibration() if activation else None
    model = whole.folder / f"{file}.onnx"
    lowered, graph = lower(
        model,
        Target.load("test"),
        CompileOptions(shapes=SHAPE, adapters=whole.adapters, activation=activation, calibration=data),
    )
    assert sum(row.macs for row in lowered.placement if row.where == "host") == 6 * 12 * 64 * 64 * 32 * 2  # Q.K and P.V
    reference = Reference(graph)
    for task in TASKS:
        feed = whole.passages(task, count)
        wanted = {name: whole.float_outputs(name, feed) for name in (None, task)}
        got = {name: _embeddings(reference, feed, name) for name in (None, task)}
        for name in (None, task):
            assert _cosine(got[name], wanted[name]).mean() >= least, name
        assert _cosine(got[task] - got[None], wanted[task] - wanted[None]).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("file", "activation", "least"), FORMS)
def test_accuracy_against_float_on_16_passages(whole: Whole, file: str, activation: str | None, least: float) -> None:
    """Eight of each task, under the bounds of 100 passages."""
    _near_float(whole, file, activation, least, 8)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("file", "activation", "least"), FORMS)
def test_accuracy_against_float_on_100_passages(whole: Whole, file: str, activation: str | None, least: float) -> None:
    _near_float(whole, file, activation, least, 50)


@pytest.mark.exhaustive
def test_held_out_accuracy_is_within_a_point_of_float(whole: Whole) -> None:
    """Nearest prototype on the 300 held-out passages of each task, prototypes of the float model."""
    lowered, graph = lower(
        whole.folder / "minilm.onnx",
        Target.load("test"),
        CompileOptions(shapes=SHAPE, adapters=whole.adapters, calibration=whole.calibration()),
    )
    assert all(linear.token_scale for linear in lowered.linears)
    reference = Reference(graph)
    for name in TASKS:
        task = whole.tasks.TASKS[name]
        passages = whole.tasks.held_out(name)
        assert len(passages) == 300
        feed, numbers = whole.passages(name, 300), whole.tasks.labels(passages, task)
        of = whole.tasks.load_prototypes(name)["adapter"]
        wanted = whole.tasks.accuracy(whole.float_outputs(name, feed), numbers, of)
        got = whole.tasks.accuracy(_embeddings(reference, feed, name), numbers, of)
        assert wanted > 0.75
        assert abs(got - wanted) <= 0.01, (name, got, wanted)


def _equal_at(whole: Whole, size: int, lengths: Iterable[int]) -> None:
    """Passages of `lengths` tokens in `size`, a row of the batch under each adapter: every linear's codes, the output."""
    target = Target.load("edge-asic")
    text = whole.passages("topic", 300, 64)
    stream = text["input_ids"][text["attention_mask"] == 1]
    shape = {"batch": 2, "sequence": size}
    arguments = {"shapes": shape, "adapters": whole.adapters}
    program = axlora.compile(whole.folder / "minilm.onnx", target, max_loras=2, operators="linears", **arguments)
    reference = Reference(lower(whole.folder / "minilm.onnx", target, CompileOptions(**arguments))[1])
    for length in lengths:
        ids = np.resize(np.roll(stream, -7 * length), (2, size))
        mask = np.tile((np.arange(size) < length).astype(np.int64), (2, 1))
        feed = {"input_ids": ids * mask, "attention_mask": mask}
        run = axlora.simulate(program, feed, list(TASKS), timing=False)
        wanted = reference.run(feed, list(TASKS))
        assert len(reference.codes) == 36
        for name, codes in reference.codes.items():
            assert np.array_equal(run.codes[name], codes), (length, name)
        assert np.array_equal(run.outputs["embedding"], wanted["embedding"])


@pytest.mark.slow
@pytest.mark.parametrize(("size", "lengths"), [(32, (1, 17, 32)), (128, (97, 128))])
def test_simulator_equals_the_reference_at_some_lengths(whole: Whole, size: int, lengths: tuple[int, ...]) -> None:
    _equal_at(whole, size, lengths)


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_simulator_equals_the_reference_at_every_length(whole: Whole, size: int) -> None:
    """Of 1 to 128 tokens."""
    _equal_at(whole, size, range(size - 31, size + 1))


def seeded_adapter(folder: Path, rank: int, seed: int) -> Path:
    """A PEFT LoRA on query and value of a trained one's size."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["query", "value"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(6):
        for part in ("query", "value"):
            path = f"base_model.model.encoder.layer.{layer}.attention.self.{part}"
            tensors[f"{path}.lora_A.weight"] = random.uniform(-0.05, 0.05, (rank, 384)).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = random.normal(0, 0.02, (384, rank)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _matrix(run: axlora.Run) -> int:
    """Cycles that the matrix unit works, its own stalls included."""
    return sum(run.stalls["matrix"][cause] for cause in ("busy", "raw", "product"))


@pytest.mark.slow
def test_a_batch_of_8_with_4_adapters_equals_8_single_runs(whole: Whole, tmp_path: Path) -> None:
    """Ranks 16, 12, 8 and 5; and it costs the matrix unit at most 1.10 times the batch without adapters."""
    ranks = {"a": 16, "b": 12, "c": 8, "d": 5}
    adapters = {name: seeded_adapter(tmp_path / name, rank, seed) for seed, (name, rank) in enumerate(ranks.items())}
    feed = whole.passages("language", 8, 16)
    model, target = whole.folder / "minilm.onnx", "edge-asic"
    linears = {"operators": "linears"}
    together = axlora.compile(model, target, adapters=adapters, shapes={"batch": 8, "sequence": 16}, max_loras=4, **linears)
    alone = axlora.compile(model, target, adapters=adapters, shapes={"batch": 1, "sequence": 16}, **linears)
    rows = ["a", "b", None, "c", "d", "d", "a", "c"]
    mixed = axlora.simulate(together, feed, rows)
    for i, name in enumerate(rows):
        single = axlora.simulate(alone, {key: value[i : i + 1] for key, value in feed.items()}, name, timing=False)
        assert np.array_equal(single.outputs["embedding"], mixed.outputs["embedding"][i : i + 1])
        for key, codes in single.codes.items():
            tokens = len(codes)
            assert np.array_equal(mixed.codes[key][i * tokens : (i + 1) * tokens], codes), (i, key)
    plain = axlora.compile(model, target, shapes={"batch": 8, "sequence": 16}, **linears)
    every = axlora.simulate(together, feed, ["a", "b", "c", "d"] * 2)
    assert _matrix(every) <= 1.10 * _matrix(axlora.simulate(plain, feed))


@pytest.mark.exhaustive
def test_verilog_equals_simulator_on_the_whole_model(whole: Whole) -> None:
    """One passage, adapter language, calibrated per-token scales: outputs, every linear's codes, every counter."""
    program = axlora.compile(
        whole.folder / "minilm.onnx",
        "test",
        adapters=whole.adapters,
        shapes={"batch": 1, "sequence": 8},
        operators="linears",
    )
    feed = whole.passages("language", 1, 8)
    sim, rtl = axlora.simulate(program, feed, "language"), axlora.run_rtl(program, feed, "language")
    assert sim.counters == rtl.counters
    assert sim.steps == rtl.steps
    assert all(np.array_equal(sim.codes[key], rtl.codes[key]) for key in sim.codes)
    assert np.array_equal(sim.outputs["embedding"], rtl.outputs["embedding"])


def test_reports_add_up(whole: Whole) -> None:
    """`to_json` asserts the sums; here, that the parts are there: stages, adapter columns, bytes, saturation."""
    model, shapes = whole.folder / "minilm_static.onnx", {"batch": 1, "sequence": 8}
    program = axlora.compile(model, "edge-asic", adapters=whole.adapters, shapes=shapes, operators="linears")
    assert len(program.functions) == 24
    run = axlora.simulate(program, whole.passages("topic", 1, 8), "topic")
    report = run.to_json()
    layers = report["layers"]
    assert isinstance(layers, list)
    assert len(layers) == 36
    assert sum(bool(layer["adapter_macs"]) for layer in layers) == 12
    assert all(layer["bytes_read"] > layer["bytes_written"] > 0 for layer in layers)
    assert report["host_macs"] == 6 * 12 * 8 * 8 * 32 * 2
