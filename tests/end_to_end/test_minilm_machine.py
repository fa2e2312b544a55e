"""MiniLM from rows of embeddings to its sentence vector on the machine, with its trained adapters: accuracy, equal views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from whole_minilm import TASKS, Feed, Whole

import axlora
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.pipelines.transformers import Generated, lower_whole
from axlora.compiler.reference import numpy_rows
from axlora.compiler.rows.float_forms import embed
from axlora.compiler.rows.lower import lower
from axlora.isa.numerics import to_fixed
from axlora.isa.target import Target

TOKENS = 64
Rows = np.ndarray


@dataclass
class Integers:
    """The integer reference of a lowered model."""

    found: Generated

    def __post_init__(self) -> None:
        """Numbers of the linears."""
        self.linears = {li.name: li for li in self.found.lowered.linears}

    def embedding(self, ids: Rows, mask: Rows, adapter: str | None) -> Rows:
        """Integer sentence vector [384] of one passage, and its fraction's value."""
        f = self.found
        order, keys = np.argsort(mask == 0, kind="stable"), int(mask.sum())
        rows = to_fixed(embed(f.model, {"input_ids": ids}, order), f.image.input_fraction)
        return self.vector(rows, keys, adapter)

    def vector(self, rows: Rows, keys: int, adapter: str | None) -> Rows:
        """The same from rows of embeddings in fixed point, padding last."""
        f = self.found
        run = numpy_rows.Reference(self.linears, [adapter] * len(rows), numpy_rows.Cache(), 8, rows, keys)
        _, fractions = lower(f.region, run, 8, f.image.context)
        return np.ldexp(run.output[0].astype(np.float64), -fractions[f.model.output])

    @property
    def fraction(self) -> int:
        """Of the sentence vector."""
        return self.found.image.fractions[self.found.model.output]

    def embeddings(self, feed: Feed, adapter: str | None) -> Rows:
        return np.stack([self.embedding(i, m, adapter) for i, m in zip(feed["input_ids"], feed["attention_mask"], strict=True)])


@pytest.fixture(scope="module")
def integers(whole: Whole) -> Callable[[], Integers]:
    made: list[Integers] = []

    def make() -> Integers:
        if not made:
            shapes, data = {"batch": 1, "sequence": TOKENS}, whole.calibration()
            options = CompileOptions(whole.adapters, operators="all", shapes=shapes, calibration=data)
            made.append(Integers(lower_whole(whole.folder / "minilm.onnx", Target.load("zcu104"), options)))
        return made[0]

    return make


def _cosine(a: Rows, b: Rows) -> Rows:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def _near_float(whole: Whole, machine: Integers, task: str, count: int) -> None:
    """Mean cosines over the first `count` held-out passages: base, adapter, and adapter - base (no dead adapter)."""
    assert [row.operator for row in machine.found.lowered.placement if row.where == "host"] == ["Gather input_ids"]
    feed = whole.passages(task, count)
    base, adapted = machine.embeddings(feed, None), machine.embeddings(feed, task)
    wanted_base, wanted = whole.float_outputs(None, feed), whole.float_outputs(task, feed)
    assert _cosine(base, wanted_base).mean() >= 0.995
    assert _cosine(adapted, wanted).mean() >= 0.995
    assert _cosine(adapted - base, wanted - wanted_base).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_accuracy_against_float_on_8_passages(whole: Whole, integers: Callable[[], Integers], task: str) -> None:
    """The bounds of 50 passages, which hold for each passage alone: a mean over fewer of them is above them too."""
    _near_float(whole, integers(), task, 8)


@pytest.mark.exhaustive
@pytest.mark.parametrize("task", TASKS)
def test_accuracy_against_float(whole: Whole, integers: Callable[[], Integers], task: str) -> None:
    """The bounds of the linears' tests, all operators in integers: cosines on 100 passages, labels of 300 within a point."""
    machine = integers()
    _near_float(whole, machine, task, 50)
    feed = whole.passages(task, 300)
    adapted, wanted = machine.embeddings(feed, task), whole.float_outputs(task, feed)
    passages = whole.tasks.held_out(task)
    numbers = whole.tasks.labels(passages, whole.tasks.TASKS[task])
    of = whole.tasks.load_prototypes(task)["adapter"]
    float_share = whole.tasks.accuracy(wanted, numbers, of)
    assert float_share > 0.75
    assert abs(whole.tasks.accuracy(adapted.astype(np.float32), numbers, of) - float_share) <= 0.01


@pytest.mark.parametrize(
    "target",
    [pytest.param("zcu104", marks=pytest.mark.slow), pytest.param("edge-asic", marks=pytest.mark.exhaustive)],
)
def test_the_simulator_equals_the_reference(whole: Whole, target: str) -> None:
    """Passages of 1 to 64 tokens with padding, one batch under both adapters and the base: bit for bit; LLVM's module too."""
    shapes, model = {"batch": 4, "sequence": TOKENS}, whole.folder / "minilm.onnx"
    program = axlora.compile(model, target, shapes=shapes, adapters=whole.adapters)
    assert program.kind == "whole"
    assert program.host_macs == 0
    machine = Integers(lower_whole(model, Target.load(target), CompileOptions(whole.adapters, operators="all", shapes=shapes)))
    feed = whole.passages("topic", 4)
    length = np.array([1, 17, 40, 64])
    feed["attention_mask"] = (np.arange(TOKENS)[None] < length[:, None]).astype(np.int64)
    names = ["topic", None, "language", "topic"]
    run = axlora.simulate(program, feed, names, timing=False)
    module = machine.found.integers(8)
    for row, name in enumerate(names):
        rows, _, keys = program.interface.rows({key: value[row] for key, value in feed.items()})
        assert keys == length[row]
        wanted = machine.vector(rows, keys, name)
        assert np.array_equal(run.outputs["embedding"][row], wanted.astype(np.float32))
        compiled = module.run(rows, 0, keys, adapter=name)[0][0][0]
        assert np.array_equal(np.ldexp(compiled.astype(np.float64), -machine.fraction), wanted)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("minilm", marks=pytest.mark.exhaustive),
        pytest.param("minilm_static", marks=pytest.mark.slow),
        pytest.param("minilm_dynamic", marks=pytest.mark.exhaustive),
    ],
)
def test_the_three_files_agree(whole: Whole, file: str) -> None:
    """Float, static and dynamic int8 files: the static one's scales are dropped when all operators are asked for."""
    feed = whole.passages("language", 1)
    model = whole.folder / f"{file}.onnx"
    program = axlora.compile(model, "zcu104", shapes={"batch": 1, "sequence": TOKENS}, operators="all")
    assert [row.operator for row in program.placement if row.where == "host"] == ["Gather input_ids"]
    run = axlora.simulate(program, feed, timing=False)
    assert _cosine(run.outputs["embedding"], whole.float_outputs(None, feed))[0] >= 0.99


@pytest.mark.slow
def test_a_static_file_has_its_linears_on_the_machine(whole: Whole) -> None:
    """Where `operators` is not given, its scales are used."""
    model = whole.folder / "minilm_static.onnx"
    assert isinstance(axlora.compile(model, "zcu104", shapes={"batch": 1, "sequence": 8}), axlora.Program)
