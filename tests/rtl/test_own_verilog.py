"""rtl-test with changed Verilog, and waves of a span of instructions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import axlora
import axlora.rtl.runner as runner
from axlora.cli import main
from axlora.engines import Steps
from axlora.isa.opcodes import Opcode
from axlora.rtl.probe import gtkwave, surfer

RTL = Path(runner.__file__).resolve().parent
_MAIN = """#include "lz4.h"
#include <cstdio>
#include <iterator>
#include <iostream>
int main() {
    std::vector<char> data{std::istreambuf_iterator<char>(std::cin), {}};
    std::vector<char> out(LZ4_compressBound(data.size()));
    std::cout.write(out.data(), LZ4_compress_default(data.data(), out.data(), data.size(), out.size()));
}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "only")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8])],
        [numpy_helper.from_array(rng.normal(size=(16, 8)).astype("f4"), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path_factory.mktemp("own") / "one.axl"
    axlora.compile(model, "test", operators="linears", activation="token8").save(path)
    return path


def _changed(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the machine's Verilog with one text replaced."""
    shutil.copytree(RTL, folder, ignore=shutil.ignore_patterns("tb", "__pycache__", "*.py"))
    text = (folder / file).read_text()
    assert text.count(old) == 1
    (folder / file).write_text(text.replace(old, new))
    return folder


def _steps(package: Path) -> Steps:
    """What the simulator executes."""
    program = axlora.load(package)
    return axlora.simulate(program, program.random_inputs(0)).steps


def _unpacked(block: bytes) -> bytes:
    """LZ4 of a block, by https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md."""
    out, at = bytearray(), 0

    def length(four: int) -> int:
        nonlocal at
        total = four
        while four == 15:
            total += block[at]
            at += 1
            if block[at - 1] != 255:
                break
        return total

    while at < len(block):
        token = block[at]
        at += 1
        literals = length(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at < len(block):
            distance = int.from_bytes(block[at : at + 2], "little")
            at += 2
            for _ in range(4 + length(token & 15)):
                out.append(out[-distance])
    return bytes(out)


def _hierarchy(fst: bytes) -> bytes:
    """The names of an FST file: its block 6, whose length is of what follows the kind."""
    at = 0
    while fst[at] != 6:
        at += 1 + int.from_bytes(fst[at + 1 : at + 9], "big")
    size, unpacked = (int.from_bytes(fst[at + n : at + n + 8], "big") for n in (1, 9))
    found = _unpacked(fst[at + 17 : at + 1 + size])
    assert len(found) == unpacked
    return found


@pytest.mark.slow
def test_a_broken_line_is_found_by_instruction_and_signal(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Products of negative codes keep their sign off: times are right, bytes are not."""
    rtl = _changed(tmp_path / "rtl", "engine_reuse.v", ": r_negative[p] ? {PBITS{1'b0}} - one : one;", ": one;")
    sim, bad = tmp_path / "sim.json", tmp_path / "bad.json"
    assert main(["simulate", str(package), "--random", "0", "--json", str(sim)]) == 0
    assert main(["rtl-test", str(package), "--random", "0", "--rtl", str(rtl), "--json", str(bad)]) == 1
    found = re.search(r"output y differs; first at instruction (\d+) \(store\): data", capsys.readouterr().out)
    assert found is not None
    assert main(["diff", str(sim), str(bad)]) == 1
    assert found[0] in capsys.readouterr().out
    stores = [step.index for step in _steps(package) if step.unit == "store"]
    assert int(found[1]) == stores[0]
    assert json.loads(bad.read_text())["parted"]["instruction"] == int(found[1])


@pytest.mark.slow
def test_verilog_that_does_not_build_is_refused_by_its_first_error(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtl = _changed(tmp_path / "rtl", "popcount.v", "endmodule", "endmodul")
    assert main(["rtl-test", str(package), "--random", "0", "--rtl", str(rtl)]) == 2
    error = capsys.readouterr().err
    assert "popcount.v" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--rtl", "{empty}"], "no module axlora_top"),
        (["--rtl", "{empty}/none"], "no module axlora_top"),
        (["--span", "1:2"], "--waves"),
        (["--waves", "{empty}/a.fst", "--span", "2:1"], "FIRST:LAST"),
        (["--waves", "{empty}/none/a.fst"], "no folder"),
        (["--bench", "{empty}/bench.py"], "no coroutine bench(dut)"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    options: list[str], wanted: str, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.format(empty=tmp_path) for option in options]
    assert main(["rtl-test", str(package), "--random", "0", *given]) == 2
    error = capsys.readouterr().err
    assert wanted in error
    assert error.count("\n") == 1


@pytest.mark.exhaustive
def test_waves_of_a_span_hold_every_listed_signal(package: Path, tmp_path: Path) -> None:
    waves, steps = tmp_path / "w.fst", _steps(package)
    last = max(step.index for step in steps)
    assert main(["rtl-test", str(package), "--random", "0", "--waves", str(waves), "--span", f"{last - 1}:{last}"]) == 0
    names = _hierarchy(waves.read_bytes())
    for line in (tmp_path / "w.gtkw").read_text().splitlines():
        if line.startswith("axlora_tb"):
            assert re.sub(r"\[\d+:\d+\]$", "", line).split(".")[-1].encode() in names, line
    start, end = (int.from_bytes(waves.read_bytes()[9 + 8 * n : 17 + 8 * n], "big") for n in range(2))
    of_span = [step for step in steps if step.index >= last - 1]
    cycles = max(step.done for step in of_span) - min(step.accept for step in of_span)
    assert cycles <= (end - start) // 2 <= cycles + 16
    assert start > 0


@pytest.mark.exhaustive
def test_the_template_of_a_bench_runs_beside_a_package(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/rtl-runs.md's; one whose assertion fails is told with its line."""
    (text,) = re.findall(r"```python\n(.*?)```", (RTL.parent / "docs" / "rtl-runs.md").read_text(), re.S)
    bench = tmp_path / "bench.py"
    bench.write_text(text)
    assert main(["rtl-test", str(package), "--random", "0", "--bench", str(bench)]) == 0
    bench.write_text(text.replace("assert core.o_running.value", "assert beats < 2"))
    assert main(["rtl-test", str(package), "--random", "0", "--bench", str(bench)]) == 1
    line = next(n for n, line in enumerate(text.splitlines(), 1) if "assert" in line)
    assert f"AssertionError: beat 2 after the end (line {line} of {bench})" in capsys.readouterr().out


def test_lists_name_units_and_instructions() -> None:
    lines = gtkwave("w.fst").splitlines()
    assert [line[1:] for line in lines if line.startswith("-")] == ["run", "load", "matrix", "vector", "store", "bus"]
    assert all(f"variable_add axlora_tb.u_probe.{unit}_opcode" in surfer() for unit in ("load", "matrix", "vector", "store"))
    assert all(opcode.name in runner.probe() for opcode in Opcode)


@pytest.mark.slow
def test_blocks_of_lz4_unpack_to_what_they_are_of(tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(_MAIN)
    subprocess.run(["g++", "-I", str(RTL / "fst"), "-o", tmp_path / "pack", tmp_path / "main.cpp"], check=True)
    rng = np.random.default_rng(0)
    cases = [b"", b"a", b"ab" * 300, bytes(range(256)) * 3, rng.integers(0, 256, 5000, np.uint8).tobytes()]
    cases += [rng.integers(0, 3, int(size), np.uint8).tobytes() for size in rng.integers(1, 200_000, 10)]
    for case in cases:
        packed = subprocess.run([tmp_path / "pack"], input=case, capture_output=True, check=True).stdout
        assert _unpacked(packed) == case
    assert len(packed) < 0.8 * len(case)
