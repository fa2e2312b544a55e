"""`axlora zynq`: the files; the wrapper linted; the Tcl run by a Tcl interpreter with stubs for Vivado's commands."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import TARGETS

from axlora.cli import main
from axlora.fpga.zynq import BadZynq, emit
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters
from axlora.rtl.runner import verilator_environment
from axlora.rtl.verilog_files import sources

TARGET = TARGETS["test"]
HERE = Path(__file__).parent
MODULES = ("axlora_machine", "axlora_pynq", "axlora_registers")
SHOWN = ["README.md", "axlora_zynq.v", "build.tcl", *(f"pynq/{name}.py" for name in MODULES)]


@pytest.fixture(scope="module")
def zcu104(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zynq") / "out"
    emit(Target.load("zcu104"), out)
    return out


# The command


def test_the_command_writes_the_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zynq", "zcu104", "-o", str(tmp_path / "out")]) == 0
    assert "needs Vivado" in " ".join(capsys.readouterr().out.split())
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {*SHOWN, "rtl/axlora_isa.vh", *(f"rtl/{p.name}" for p in sources())}
    for name in SHOWN:
        assert not re.search("@[A-Z_]+@", (tmp_path / "out" / name).read_text()), f"{name}: a place is not filled"


def test_a_taken_folder_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["zynq", "zcu104", "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "is not empty" in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert main(["zynq", "zcu104", "-o", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "mine").read_text() == "x"
    assert (tmp_path / "build.tcl").is_file()


def test_a_beat_that_no_port_has_is_refused(tmp_path: Path) -> None:
    wide = dataclasses.replace(TARGET, beat_bytes=32, lanes=16)
    with pytest.raises(BadZynq, match="4, 8, 16"):
        emit(wide, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# The wrapper


@pytest.mark.parametrize("target", [Target.load("zcu104"), *TARGETS.values()], ids=lambda t: t.name)
def test_verilator_has_no_warning_about_the_wrapper(target: Target, tmp_path: Path) -> None:
    emit(target, tmp_path / "out")
    files = ["axlora_zynq.v", *(f"rtl/{p.name}" for p in sources())]
    command = ["verilator", "--lint-only", "-Wall", "-Irtl", "--top-module", "axlora_zynq", *files]
    environment = os.environ | verilator_environment()
    done = subprocess.run(command, cwd=tmp_path / "out", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "%Warning" not in done.stderr


def test_the_wrapper_has_the_targets_parameters_and_every_port_its_interface(zcu104: Path) -> None:
    text = (zcu104 / "axlora_zynq.v").read_text()
    values = {name: int(value) for name, value in re.findall(r"\.([A-Z_]+)\((\d+)\)", text)}
    assert values == target_parameters(Target.load("zcu104"))
    ports = re.findall(r"^    (?:input|output) +wire +(?:\[.*?\] +)?(\w+),?$", text, re.M)
    attributes = re.findall(r'X_INTERFACE_INFO = "xilinx.com:(?:signal|interface):(\w+):1.0 (\w+) (\w+)"', text)
    wanted = {
        "aclk": ("clock", "aclk", "CLK"),
        "aresetn": ("reset", "aresetn", "RST"),
        "irq": ("interrupt", "irq", "INTERRUPT"),
    }
    for port in ports:
        bus, _, signal = port.rpartition("_")
        wanted.setdefault(port, ("aximm", bus, signal.upper()))
    assert [wanted[port] for port in ports] == attributes
    assert len(ports) == 3 + 19 + 37


def test_the_emitted_python_is_clean(zcu104: Path) -> None:
    """The driver's base class is pynq's, which has no types."""
    lines = ["--line-length", "128"]
    commands = [
        ["ruff", "check", "--isolated", *lines, "--select", "E,F,W,UP,B,C4,SIM,RUF", "."],
        ["ruff", "format", "--isolated", "--check", *lines, "."],
        ["mypy", "--strict", "--config-file=", "--ignore-missing-imports", "--allow-subclassing-any", "axlora_pynq.py"],
    ]
    for tool, *arguments in commands:
        command = [str(Path(sys.executable).with_name(tool)), *arguments]
        done = subprocess.run(command, cwd=zcu104 / "pynq", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# The block design


def _vivado(folder: Path, **changes: str) -> list[str]:
    """Notes of tests/fpga/vivado_stub.tcl after build.tcl, by tclsh or the Tcl of Python."""
    machine = set(re.findall(r"X_INTERFACE_INFO = \S+ (\w+) ", (folder / "axlora_zynq.v").read_text()))
    environment = {
        "BUILD": str(folder / "build.tcl"),
        "NOTES": str(folder / "notes"),
        "MACHINE": " ".join(sorted(machine)),
        "BOARD": "1",
        "PROGRESS": "100%",
        "SLACK": "0.25",
    }
    stub = str(HERE / "vivado_stub.tcl")
    tool = shutil.which("tclsh")
    command = [tool] if tool else [sys.executable, "-c", "import sys, tkinter; tkinter.Tcl().eval(f'source {{{sys.argv[1]}}}')"]
    done = subprocess.run([*command, stub], env=os.environ | environment | changes, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"neither tclsh nor tkinter (apt: tcl) ran the script: {done.stderr}"
    return (folder / "notes").read_text().splitlines()


@pytest.fixture
def project(zcu104: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zcu104, tmp_path / "copy"))


def test_the_script_builds_one_system(project: Path) -> None:
    """Every command is known, cells and pins are there, no pin has two drivers; the machine is connected whole."""
    notes = _vivado(project)
    assert notes[-1].startswith("end 0")
    words = [line.split() for line in notes]
    clock = next(w for w in words if w[:2] == ["net", "ps/pl_clk0"])
    assert {"axlora/aclk", "control/aclk", "memory/aclk", "reset/slowest_sync_clk", "interrupts/s_axi_aclk"} <= set(clock)
    ends = {end for w in words if w[0] in ("net", "interface") for end in w[1:]}
    assert {f"axlora/{n}" for n in ("aclk", "aresetn", "irq", "s_axi", "m_axi")} <= ends
    properties = {(w[1], w[2]): w[3] for w in words if w[0] == "property" and len(w) == 4}
    assert properties["ps", "CONFIG.PSU__SAXIGP2__DATA_WIDTH"] == "128"
    assert properties["ps", "CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"] == "200"
    addresses = {w[1]: (int(w[3]), w[4]) for w in words if w[0] == "address" and "axlora" in w[1] + w[2]}
    assert addresses == {"ps/Data": (0xA000_0000, "4K"), "axlora/m_axi": (0, "2G")}
    files = {Path(line.split(" ", 1)[1]).name for line in notes if line.startswith("file ")}
    assert {"axlora_zynq.v", "axlora_isa.vh", *(p.name for p in sources())} <= files
    assert (project / "axlora.bit").exists()
    assert (project / "axlora.hwh").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BOARD": "0"}, "board files of the ZCU104"),
        ({"PROGRESS": "40%"}, "no bitstream: route_design ERROR"),
        ({"SLACK": "-0.1"}, "timing is not met at 200 MHz"),
    ],
)
def test_a_build_that_fails_says_so(project: Path, changes: dict[str, str], message: str) -> None:
    last = _vivado(project, **changes)[-1]
    assert last.startswith("end 1")
    assert message in last


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("get_bd_pins axlora/irq", "get_bd_pins axlora/interrupt"),
        ("[get_bd_cells control]\n", "[get_bd_cells control\n"),
        ("create_bd_cell -type ip -vlnv xilinx.com:ip:axi_intc interrupts\n", ""),
        ("validate_bd_design", "validate_design"),
        ("$clock_mhz \\", "$clock \\"),
    ],
)
def test_the_stub_notices_a_fault_of_the_script(project: Path, old: str, new: str) -> None:
    script = (project / "build.tcl").read_text()
    assert old in script
    (project / "build.tcl").write_text(script.replace(old, new))
    assert not any(line.startswith("end 0") for line in _vivado(project))
