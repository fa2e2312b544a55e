"""Whole packages and a layer of the tiny Llama with LoRA in the HLS C++, and the project that `axlora hls` writes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hls_compare import assert_equal
from tiny_decoder import VOCABULARY, IntegerReference, Machine, Sizes, random_branches, random_decoder

import axlora
from axlora.cli import main
from axlora.comparing import difference
from axlora.fpga.hls_run import HlsFailed, headers, run_images, sources
from axlora.isa.image import Image
from axlora.isa.opcodes import UNTIMED
from axlora.isa.target import Target
from axlora.sim.run import run_image

MODELS = Path(__file__).parents[1] / "compiler" / "models"
TOKENS = 8


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with LoRA, whole on the machine."""
    shapes = {"batch": 1, "sequence": TOKENS}
    model = MODELS / "bert-lora.dynamo.onnx"
    made = axlora.compile(model, "test", shapes=shapes, adapters={"a": MODELS / "bert-lora"}, operators="all")
    out = tmp_path_factory.mktemp("hls") / "m.axl"
    made.save(out)
    return out


def test_a_layer_with_lora_from_prefill_to_decode() -> None:
    """The layer of tests/rtl/test_transformer: four starts of two rows, then three of one; base and adapter side by side."""
    target, ranks, names = Target.load("test"), {"a": 4}, (None, "a")
    sizes = Sizes(layers=1, features=24, heads=2, kv_heads=1, dim=8, inner=40, context=13)
    decoder = random_decoder(sizes, seed=5)
    linears = decoder.quantized(target, {name: random_branches(decoder, rank, rank) for name, rank in ranks.items()})
    machine = Machine(decoder, target, linears, ranks)
    wanted = IntegerReference(decoder, linears, target.activation_bits, machine.image.context)
    ids = np.random.default_rng(6).integers(0, VOCABULARY, 11)
    adapted = 0
    for count in (2, 2, 2, 2, 1, 1, 1):
        now = ids[machine.position : machine.position + count]
        own = [names[row % 2] for row in range(machine.position, machine.position + count)]
        start = machine.start(wanted.rows(now), own)
        image = Image(start.memory.tobytes(), start.program, start.registers, len(start.memory))
        (hls,) = run_images(target, [image])
        sim = run_image(target, start.memory, start.program, start.registers)
        assert_equal(f"position {machine.position}", sim, hls)
        adapted += hls.counters["adapter_macs"] > 0
        assert np.array_equal(machine.finish(start, np.frombuffer(hls.memory, np.uint8)), wanted.feed(now, own))
    assert adapted == 5  # the rows of two starts are the base's alone


def test_hls_test_of_a_whole_package_says_equal(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.json"
    assert main(["hls-test", str(package), "--random", "3", "--adapter", "a", "--json", str(run)]) == 0
    assert "HLS C++ = simulator" in capsys.readouterr().out
    found = json.loads(run.read_text())
    assert found["cycles"] == 0
    assert found["counters"]["macs"] > 0


def test_run_hls_of_linears_equals_the_simulator_and_differences_are_named(minilm: Path, sample: dict[str, np.ndarray]) -> None:
    adapters = {"law": minilm / "adapters" / "law"}
    program = axlora.compile(minilm / "minilm.onnx", "test", shapes={"tokens": TOKENS}, adapters=adapters)
    sim, hls = axlora.simulate(program, sample, "law"), axlora.run_hls(program, sample, "law")
    assert difference(sim, hls) == ""
    assert hls.view == "hls"
    assert all(hls.counters[name] == sim.counters[name] for name in UNTIMED)
    base = axlora.run_hls(program, sample)
    assert difference(sim, base).startswith("output layer0.")
    base.codes.update(sim.codes)
    assert difference(sim, base).startswith("counter ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test", "ulx3s-85f"])
def test_the_project_builds_and_passes_its_self_test(name: str, tmp_path: Path) -> None:
    """As its README says; a result that is not the expected one fails. The script names every source."""
    out = tmp_path / "project"
    assert main(["hls", name, "-o", str(out)]) == 0
    command = ["g++", "-std=c++14", "-O2", "-Wno-unknown-pragmas", "-I.", "-isystem", str(headers())]
    names = sorted(path.name for path in out.glob("*.cpp"))
    subprocess.run([*command, *names, "-o", "testbench"], cwd=out, check=True)
    test = ["./testbench", "selftest.job", "selftest.result", "selftest.expected"]
    assert subprocess.run(test, cwd=out, check=False).returncode == 0
    script = (out / "run_hls.tcl").read_text()
    assert all(name in script for name in names)
    assert f"create_clock -period {1000 / Target.load(name).clock_mhz:.3f}" in script
    assert not [path for path in out.glob("*.h") if path.name.startswith("ap_")]
    expected = bytearray((out / "selftest.expected").read_bytes())
    expected[-1] ^= 1
    (out / "selftest.expected").write_bytes(expected)
    assert subprocess.run(test, cwd=out, check=False, capture_output=True).returncode == 1
    (out / "selftest.job").write_bytes((out / "selftest.job").read_bytes()[:-1])
    assert subprocess.run(test, cwd=out, check=False, capture_output=True).returncode == 2


def test_missing_headers_are_named(package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(HlsFailed, match="hls4ml"):
        headers()
    assert main(["hls-test", str(package), "--random", "3"]) == 2
    assert "pip install 'axlora[fpga]'" in capsys.readouterr().err


def test_lines_of_the_sources_are_short_and_the_generated_header_is_there() -> None:
    names = {path.name for path in sources()}
    assert {"axlora_isa.h", "machine.cpp", "testbench.cpp"} <= names
    for path in sources():
        if path.name != "axlora_isa.h":
            assert max(map(len, path.read_text().splitlines())) <= 120, path.name
