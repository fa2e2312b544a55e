"""Builds and runs the benches of this folder: a Verilog top, a cocotb module, Verilator; one cached folder per elaboration."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import axlora.rtl.runner as machine
from axlora.isa.kept import kept_folder
from axlora.isa.target import Target

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """One start of the machine within a power-up.

    Attributes:
        memory: written to `base` before the start; empty keeps the memory as the step before left it.
        registers: R1..R31 written before the start; the others keep their values.
        base: MEM_BASE.
        limit: MEM_LIMIT; None is the size of `memory` of the last step that had one.
        watchdog: WATCHDOG.
        bad: [start, end) bus addresses that answer with an AXI error.
        reset: soft reset (CTRL bit 1) before the start.
        reset_after: cycles from the start to a soft reset; the step ends with the reset.
        read_every: poll STATUS and try a second start (to be ignored) while it runs.
    """

    memory: bytes = b""
    registers: tuple[tuple[int, int], ...] = ()
    base: int = 0
    limit: int | None = None
    watchdog: int = 1 << 20
    bad: tuple[int, int] = (0, 0)
    reset: bool = False
    reset_after: int | None = None
    read_every: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a step left: memory from its base, counters, ERR_CODE's code and unit, ERR_ADDR, STATUS before and at the end."""

    memory: bytes
    counters: dict[str, int]
    error: int
    unit: int
    address: int
    status_before: int
    status: int


def _make(top: str, sources: list[Path], parameters: dict[str, Any]) -> tuple[Any, Path]:
    options = (machine._BUILD_ARGS, machine._MAKE_ARGS)
    key = hashlib.sha256(repr((top, sorted(parameters.items()), options, machine.tools())).encode())
    for path in sources:
        key.update(path.name.encode() + path.read_bytes())
    folder = kept_folder("rtl", f"{top}-{key.hexdigest()[:20]}")
    runner = machine._LeanVerilator()
    with open(folder / "lock", "w") as lock, machine._environment(machine.verilator_environment()):
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = folder / "build.log"
        try:
            runner.build(
                sources=[path for path in sources if path.suffix == ".v"],
                includes=[machine.sources()[0].parent],
                hdl_toplevel=top,
                parameters=parameters,
                build_args=list(machine._BUILD_ARGS),
                build_dir=folder / "build",
                always=not (folder / "built").exists(),
                timescale=("1ns", "1ns"),
                log_file=log,
            )
        except (SystemExit, RuntimeError) as error:
            raise machine.SimulationFailed(f"{top} does not build: {error}", log) from None
        (folder / "built").touch()
    return runner, folder / "build"


def simulate(top: str, sources: list[Path], parameters: dict[str, Any], module: str, job: object) -> Any:
    """Run cocotb module `module` on `top`; it reads the pickled `job` (AXLORA_JOB), pickles its answer (AXLORA_ANSWER).

    Raises:
        SimulationFailed: it did not build, a cocotb test failed, or there is no answer.
    """
    header = machine.sources()[0].parent / "axlora_isa.vh"
    runner, build = _make(top, [*sources, header], parameters)
    return _run(runner, build, top, module, job)


def simulate_machine(target: Target, module: str, job: object) -> Any:
    """As `simulate`, on the machine with the deterministic memory (4 MiB), the elaboration shared with `run_images`."""
    runner, build = machine._build(target, machine._LEAST_MEMORY)
    return _run(runner, build, machine._TOP, module, job)


def _run(runner: Any, build: Path, top: str, module: str, job: object) -> Any:
    with tempfile.TemporaryDirectory(prefix="axlora-bench-") as name:
        folder = Path(name)
        (folder / "job").write_bytes(pickle.dumps(job))
        log = build.parent / f"run-{os.getpid()}.log"
        with machine._environment(machine.verilator_environment()):
            try:
                runner.test(
                    test_module=module,
                    hdl_toplevel=top,
                    hdl_toplevel_lang="verilog",
                    build_dir=build,
                    test_dir=folder,
                    extra_env={
                        "AXLORA_JOB": str(folder / "job"),
                        "AXLORA_ANSWER": str(folder / "answer"),
                        "COCOTB_LOG_LEVEL": "WARNING",
                    },
                    timescale=("1ns", "1ns"),
                    log_file=log,
                    results_xml=str(folder / "results.xml"),
                )
            except (SystemExit, RuntimeError) as error:
                raise machine.SimulationFailed(f"{module} on {top}: {error}", log) from None
        if not (folder / "answer").exists():
            raise machine.SimulationFailed(f"{module} on {top} left no answer", log)
        log.unlink(missing_ok=True)
        return pickle.loads((folder / "answer").read_bytes())


def read_job() -> Any:
    """In the simulator's process: the job."""
    return pickle.loads(Path(os.environ["AXLORA_JOB"]).read_bytes())


def answer(value: object) -> None:
    """In the simulator's process: the answer."""
    Path(os.environ["AXLORA_ANSWER"]).write_bytes(pickle.dumps(value))
