"""The trained adapters of examples/minilm: files, tasks, prototypes. Held-out accuracy without PyTorch."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "minilm"
NAMES = {"topic": 8, "language": 16}
"""Adapter to rank."""


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("tasks")


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("evaluate")


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_is_what_peft_writes_and_small(name: str) -> None:
    folder, rank = EXAMPLE / "adapters" / name, NAMES[name]
    files = {f.name: f.stat().st_size for f in folder.iterdir()}
    assert set(files) == {
        *("adapter_config.json", "adapter_model.safetensors", "prototypes.npz"),
        *("held_out.json", "results.json", "README.md"),
    }
    assert sum(files.values()) < 1_000_000
    assert files["held_out.json"] < 120_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (rank, 2 * rank, ["query", "value"])
    shapes = {
        f"base_model.model.encoder.layer.{i}.attention.self.{module}.lora_{part}.weight": shape
        for i in range(6)
        for module in ("query", "value")
        for part, shape in (("A", (rank, 384)), ("B", (384, rank)))
    }
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {k: v.shape for k, v in tensors.items()} == shapes
    assert all(v.dtype == np.float32 and np.isfinite(v).all() for v in tensors.values())


@pytest.mark.parametrize("name", NAMES)
def test_held_out_passages_have_every_class_and_the_promised_length(tasks: ModuleType, name: str) -> None:
    held, task, made = tasks.held_out(name), tasks.TASKS[name], tasks.tokenizer()
    counts = Counter(p.label for p in held)
    assert tuple(sorted(counts)) == tuple(sorted(task.classes))
    assert min(counts.values()) >= 30
    assert len({p.text for p in held}) == len(held) <= 300
    assert all(task.holds_out(p) for p in held)
    ids, mask = tasks.token_ids(held, made)
    lengths = mask.sum(1)
    assert lengths.min() >= tasks.MIN_TOKENS
    assert ids.shape[1] == lengths.max() <= tasks.MAX_TOKENS


@pytest.mark.parametrize("name", NAMES)
def test_no_training_passage_is_held_out(tasks: ModuleType, name: str) -> None:
    """The task cut anew from this machine's sources: all classes, and nothing shared with what is held out."""
    task = tasks.TASKS[name]
    training, _ = tasks.build(task, tasks.tokenizer())
    held = tasks.held_out(name)
    counts = Counter(p.label for p in training)
    assert set(counts) == set(task.classes)
    assert min(counts.values()) >= 200
    assert not any(task.holds_out(p) for p in training)
    assert not {p.text for p in training} & {p.text for p in held}
    if task.by_file:
        assert not {p.source for p in training} & {p.source for p in held}


@pytest.mark.parametrize("name", NAMES)
def test_prototypes_fit_the_task(tasks: ModuleType, name: str) -> None:
    of = tasks.load_prototypes(name)
    for value in of.values():
        assert value.shape == (len(tasks.TASKS[name].classes), 384)
        assert value.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(value, axis=1), 1, atol=1e-5)
    assert tasks.accuracy(of["adapter"], np.arange(len(of["adapter"])), of["adapter"]) == 1


def test_the_nearest_prototype_is_counted(tasks: ModuleType) -> None:
    x = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    of = tasks.prototypes(x, np.array([0, 0, 1, 2]), 3)
    assert tasks.accuracy(x, np.array([0, 0, 1, 0]), of) == 0.75


def test_pooling_leaves_padding_out(tasks: ModuleType) -> None:
    hidden = np.array([[[3.0, 0], [0, 4], [100, 100]]], np.float32)
    np.testing.assert_allclose(tasks.pool(hidden, np.array([[1, 1, 0]])), [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_sixth_of_the_held_out_passages_is_classified_as_well_as_all(evaluate: ModuleType, name: str) -> None:
    """In NumPy; the adapter is better than the base by 5 points, and near the figure of all passages."""
    tasks = evaluate.tasks
    passages = tasks.held_out(name)[::6]
    numbers, of = tasks.labels(passages, tasks.TASKS[name]), tasks.load_prototypes(name)
    weights = evaluate.build.verified_weights()
    base = tasks.accuracy(evaluate.embeddings(weights, passages), numbers, of["base"])
    adapter = tasks.accuracy(evaluate.embeddings(evaluate.merged(weights, name), passages), numbers, of["adapter"])
    results = json.loads((EXAMPLE / "adapters" / name / "results.json").read_text())
    assert adapter >= base + 0.05
    assert abs(adapter - results["adapter_held_out"]) < 0.12
