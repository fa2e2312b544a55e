"""The board in Verilator, its serial line a pseudo-terminal: what `axlora run` talks to when there is no board."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from axlora.isa.kept import kept_folder
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters
from axlora.rtl.runner import SimulationFailed, tools, verilator_environment
from axlora.rtl.verilog_files import sources

from .boards import FOLDER
from .identity import target_id

DIVIDER = 4
"""Cycles a bit of the simulated line."""
CLOCK_MHZ = 60


def _build(target: Target, onchip_bytes: int, sdram_bytes: int) -> Path:
    """The program of the simulated board; built once for what it is made of."""
    parameters = target_parameters(target) | {
        "READ_LATENCY": target.read_latency,
        "WRITE_LATENCY": target.write_latency,
        "ONCHIP_BYTES": onchip_bytes,
        "SDRAM_BYTES": sdram_bytes,
        "DIVIDER": DIVIDER,
        "CLOCK_KHZ": 1000 * CLOCK_MHZ,
        "TARGET_ID": target_id(target),
    }
    files = [*sources(), *sorted(FOLDER.glob("*.v")), *sorted((FOLDER / "sim").glob("*.v")), FOLDER / "sim" / "main.cpp"]
    include = sources()[0].parent
    options = ["--cc", "--exe", "--build", "-j", "2", "-O3", "--x-assign", "fast", "--x-initial", "0", "-Wall"]
    options += ["--top-module", "sim_board", "-MAKEFLAGS", "OPT_FAST=-O2 CFG_CXXFLAGS_PCH_I=-include", "-CFLAGS", "-std=c++17"]
    options += [f"-G{name}={value}" for name, value in parameters.items()]
    key = hashlib.sha256(repr((options, tools())).encode())
    for path in (*files, include / "axlora_isa.vh"):
        key.update(path.name.encode() + path.read_bytes())
    folder = kept_folder("board", key.hexdigest()[:24])
    program = folder / "build" / "Vsim_board"
    environment = os.environ | verilator_environment()
    command = [str(Path(environment["VERILATOR_ROOT"]) / "bin" / "verilator"), *options, f"-I{include}"]
    command += ["--Mdir", str(folder / "build"), *map(str, files)]
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            log = folder / "build.log"
            with open(log, "w") as out:
                if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False).returncode:
                    raise SimulationFailed(f"the simulated board of {target.name} does not build", log)
            (folder / "built").touch()
    return program


class SimulatedBoard:
    """A board that runs while the context lasts; `port` is its serial line.

    Args:
        target: the machine.
        onchip_bytes, sdram_bytes: its memories.
        faults: options of boards/sim/main.cpp that make the line or the board fail.

    Raises:
        SimulationFailed: it does not build or start.
    """

    def __init__(
        self, target: Target, onchip_bytes: int = 1 << 18, sdram_bytes: int = 1 << 25, faults: Sequence[str] = ()
    ) -> None:
        program = _build(target, onchip_bytes, sdram_bytes)
        self._process = subprocess.Popen([str(program), *faults], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        if not self.port:
            raise SimulationFailed("the simulated board did not start", program.parent.parent / "build.log")

    def __enter__(self) -> SimulatedBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def baud(self) -> int:
        """What the host's end is set to; a pseudo-terminal has no speed of its own."""
        return CLOCK_MHZ * 1000000 // DIVIDER

    def close(self) -> int:
        """Switch it off; its exit code (3: the SDRAM model refused something)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(timeout=60)

    def wait(self) -> int:
        """Until it ends by itself."""
        return self._process.wait()
