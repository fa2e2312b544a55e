"""The whole chain on real weights and real activations: integer graph = simulator = Verilog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import axlora
from axlora.compiler.pipelines.linears import lower
from axlora.compiler.pipelines.options import CompileOptions
from axlora.compiler.reference.linears import Reference
from axlora.isa.target import Target

ADAPTERS = ("law", "med")


def _adapters(folder: Path) -> dict[str, Path]:
    return {name: folder / "adapters" / name for name in ADAPTERS}


def test_integer_graph_equals_simulator_on_100_real_inputs(minilm: Path) -> None:
    """One layer's four linears on the target `test`."""
    assert _equal("test", minilm, 100) == 4


@pytest.mark.slow
def test_integer_graph_equals_simulator_on_10_real_inputs_of_all_24_linears(minilm_all: Path) -> None:
    """All layers on the target `edge-asic`."""
    assert _equal("edge-asic", minilm_all, 10) == 24


@pytest.mark.exhaustive
def test_integer_graph_equals_simulator_on_100_real_inputs_of_all_24_linears(minilm_all: Path) -> None:
    assert _equal("edge-asic", minilm_all, 100) == 24


def _equal(name: str, minilm: Path, count: int) -> int:
    """Every output code of every linear, base and both adapters, the Relax graph compiled by LLVM; the number of linears."""
    target = Target.load(name)
    shapes = {"tokens": 8}
    lowered, graph = lower(minilm / "minilm.onnx", target, CompileOptions(adapters=_adapters(minilm), shapes=shapes))
    program = axlora.compile(minilm / "minilm.onnx", target, adapters=_adapters(minilm), shapes=shapes)
    reference = Reference(graph)
    with np.load(minilm / "inputs.npz") as data:
        inputs = {key: data[key] for key in data.files}
    differs = 0
    for number in range(count):
        feed = {key: value[number] for key, value in inputs.items()}
        base = None
        for adapter in (None, *ADAPTERS):
            run = axlora.simulate(program, feed, adapter, timing=False)
            wanted = reference.run(feed, adapter)
            for linear in lowered.linears:
                assert (run.codes[linear.output] == reference.codes[linear.output]).all(), (number, adapter, linear.name)
            assert all((run.outputs[name] == value).all() for name, value in wanted.items())
            base = run.codes if adapter is None else base
            assert base is not None
            differs += adapter is not None and any((run.codes[k] != base[k]).any() for k in base)
    assert differs == 2 * count  # no dead adapter
    return len(lowered.linears)


def test_verilog_equals_simulator_on_the_real_linears(minilm: Path, sample: dict[str, np.ndarray]) -> None:
    program = axlora.compile(minilm / "minilm.onnx", "test", adapters=_adapters(minilm), shapes={"tokens": 8})
    for adapter in ADAPTERS:
        sim, rtl = axlora.simulate(program, sample, adapter), axlora.run_rtl(program, sample, adapter)
        assert sim.counters == rtl.counters
        assert all((sim.codes[key] == rtl.codes[key]).all() for key in sim.codes)
        assert sim.counters["multiplications"] < 0.4 * sim.counters["macs"]


def test_a_batch_with_mixed_adapters_equals_single_runs(minilm: Path, sample: dict[str, np.ndarray]) -> None:
    """Each batch row (here: token) names its adapter; the result is that of a run of its own."""
    program = axlora.compile(minilm / "minilm.onnx", "test", adapters=_adapters(minilm), shapes={"tokens": 8}, max_loras=2)
    rows = ["law", None, "med", "med", None, "law", "law", "med"]
    mixed = axlora.simulate(program, sample, rows)
    alone = {name: axlora.simulate(program, sample, name) for name in (None, *ADAPTERS)}
    for key, codes in mixed.codes.items():
        for row, name in enumerate(rows):
            assert (codes[row] == alone[name].codes[key][row]).all()
    assert axlora.run_rtl(program, sample, rows).counters == mixed.counters
