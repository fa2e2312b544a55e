"""Energy: every figure of the table has its source, terms and layers add up, and an action costs what the table says."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import axlora
from axlora.cli import main
from axlora.energy import TERMS, BadEnergyTable, default_table, energy, load_table, read_table
from axlora.isa.target import ENGINES, Target

TEXT = (resources.files("axlora") / "energy.toml").read_text()
COUNTS = ("macs", "multiplications", "lane_groups", "rescales", "vector_elements", "fetch_beats", "load_beats", "store_beats")
COUNTS += ("instructions", "cycles")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two linears, each a stage of its own."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], "first"), helper.make_node("MatMul", ["h", "v"], ["y"], "second")],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(rng.normal(size=s).astype("f4"), n) for n, s in (("w", (16, 24)), ("v", (24, 8)))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path_factory.mktemp("energy") / "two.axl"
    axlora.compile(model, "test", operators="linears", activation="token8").save(path)
    return path


def _counts(**given: float) -> dict[str, float]:
    return dict.fromkeys(COUNTS, 0) | given


def _whole(target: Target, counts: dict[str, float]) -> float:
    return sum(energy(target, counts, default_table()).values())


def test_every_figure_has_its_source() -> None:
    data = tomllib.loads(TEXT)
    figures = [entry for name, entry in data.items() if name not in ("dram", "dram_kind")] + list(data["dram"].values())
    assert len(figures) == 7
    assert all(re.search(r"20\d\d", figure["source"]) for figure in figures)


def test_a_table_without_one_of_its_lines_is_refused() -> None:
    lines = TEXT.splitlines()
    told = [n for n, line in enumerate(lines) if line and not line.startswith("#")]
    assert len(told) > len(COUNTS)
    for number in told:
        with pytest.raises(BadEnergyTable, match=r"own\.toml"):
            read_table("\n".join([*lines[:number], *lines[number + 1 :]]), "own.toml")


@pytest.mark.parametrize("value", ["-1", "0", "inf", "nan", "true", '"a lot"', "[1]"])
def test_a_figure_that_is_no_positive_number_is_refused(value: str) -> None:
    with pytest.raises(BadEnergyTable, match=r"multiply\.pj is .* must be a positive number"):
        read_table(TEXT.replace("pj = 0.2", f"pj = {value}"), "own.toml")


def test_the_command_line_refuses_a_table_in_one_line(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.toml"
    for text in (TEXT.replace("[static]", "[statik]"), "no toml", None):
        if text is not None:
            path.write_text(text)
        else:
            path.unlink()
        assert main(["simulate", str(package), "--random", "0", "--energy", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_terms_and_layers_add_up_on_every_engine(engine: str, package: Path) -> None:
    program = axlora.load(package)
    target = dataclasses.replace(program.target, engine=engine)
    program = dataclasses.replace(program, target=target)
    run = axlora.simulate(program, program.random_inputs(0))
    data: dict[str, Any] = run.to_json()
    assert tuple(data["energy_pj"]) == TERMS
    assert (data["energy_pj"]["cache"] == 0) is (engine == "mac")
    layers = [layer["energy_pj"] for layer in data["layers"]]
    assert min(layers) > 0
    assert math.isclose(sum(layers), sum(data["energy_pj"].values()))
    wrong = dataclasses.replace(run.layers[0], energy_pj=layers[0] * 1.01)
    with pytest.raises(AssertionError):
        dataclasses.replace(run, layers=(wrong, *run.layers[1:])).to_json()


@given(st.integers(0, 1 << 32), st.sampled_from(ENGINES))
def test_shares_of_the_counters_add_up(seed: int, engine: str) -> None:
    target = dataclasses.replace(Target.load("test"), engine=engine)
    shares = np.random.default_rng(seed).integers(0, 1 << 40, (3, len(COUNTS))).tolist()
    parts = [dict(zip(COUNTS, share, strict=True)) for share in shares]
    whole = {name: sum(part[name] for part in parts) for name in COUNTS}
    assert math.isclose(math.fsum(_whole(target, part) for part in parts), _whole(target, whole), rel_tol=1e-12)


def test_an_action_costs_what_the_table_says() -> None:
    """By hand from energy.toml, of `test`: 8-bit activations, 8 lanes, 4 ports, 2 tokens, beats of 8 bytes."""
    t = dataclasses.replace(Target.load("test"), engine="mac")
    table = default_table()
    made = energy(t, _counts(multiplications=100), table)
    assert made["multiplier"] == pytest.approx(100 * 0.2)
    assert sum(made.values()) == made["multiplier"]
    assert energy(t, _counts(load_beats=10), table)["dram"] == pytest.approx(10 * 1300)
    added = energy(t, _counts(macs=8), table)["adder"]  # 8 signs of 16 bits, 4 + 2 + 1 sums of 17, 18, 19, one of 32
    assert added == pytest.approx(0.1 / 32 * (8 * 16 + 4 * 17 + 2 * 18 + 19 + 32))
    kept = energy(dataclasses.replace(t, engine="reuse"), _counts(macs=1), table)["cache"]
    assert kept == pytest.approx(10 / 64 * 16 * math.sqrt(256 * 2 * 2 / 8192))  # 16 bits of 256 entries of 2 tokens


def test_another_table_is_another_energy(package: Path, tmp_path: Path) -> None:
    program = axlora.load(package)
    run = axlora.simulate(program, program.random_inputs(0))
    own = tmp_path / "own.toml"
    own.write_text(TEXT.replace('dram_kind = "dram"', 'dram_kind = "hbm2"'))
    other = run.with_energy(load_table(own))
    assert run.energy_pj is not None
    assert other.energy_pj is not None
    assert other.energy_pj["dram"] == pytest.approx(run.energy_pj["dram"] * 3.92 * 64 / 1300)
    assert {**other.energy_pj, "dram": 0} == {**run.energy_pj, "dram": 0}


def test_a_run_without_cycles_has_no_energy(package: Path) -> None:
    program = axlora.load(package)
    assert axlora.simulate(program, program.random_inputs(0), timing=False).energy_pj is None
