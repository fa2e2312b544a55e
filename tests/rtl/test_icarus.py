"""Icarus Verilog accepts the machine as Verilog-2001 without a warning for every target. A missing iverilog is a failure."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from programs import TARGETS

from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters
from axlora.rtl.verilog_files import sources

FOLDER = sources()[0].parent


def _icarus(files: list[Path], parameters: dict[str, int]) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("iverilog")
    assert tool is not None, "iverilog is not installed (apt-get install iverilog)"
    settings = [f"-Paxlora_top.{name}={value}" for name, value in parameters.items()]
    command = [tool, "-g2001", "-Wall", "-t", "null", f"-I{FOLDER}", "-s", "axlora_top", *settings, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_icarus_has_no_warning(target: Target) -> None:
    done = _icarus(sources(), target_parameters(target))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_icarus_refuses_what_is_not_verilog_2001(tmp_path: Path) -> None:
    """A mixed declaration, which the other tools let pass."""
    wrong = tmp_path / "wrong.v"
    wrong.write_text("module wrong (input wire i); wire a, b = i; endmodule\n")
    assert _icarus([*sources(), wrong], {}).returncode != 0
