"""C simulation of the HLS C++: memory images on the machine of `fpga/hls`, built with g++ and the ap_int headers of hls4ml.

A simulation is built once for what it is made of and kept in the user's cache. The C++ knows no time: it runs a program in
program order, and counts what does not depend on cycles (`UNTIMED`, `ADAPTER_COUNTERS`).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from axlora.isa.cpp_header import target_header
from axlora.isa.errors import Error
from axlora.isa.image import Image, ImageResult
from axlora.isa.kept import kept_folder
from axlora.isa.opcodes import ADAPTER_COUNTERS, COUNTERS, MOST_REGISTERS, UNTIMED
from axlora.isa.target import Target

_log = logging.getLogger(__name__)
FOLDER = Path(__file__).resolve().parent / "hls"
"""The C++ and its generated header."""

FLAGS = ("-std=c++14", "-O2", "-Wall", "-Wno-unknown-pragmas", "-Wno-parentheses")
COUNTED = (*UNTIMED, *ADAPTER_COUNTERS)
"""Counters of a result, by name."""

_MAGIC = 0x314A5841
_NAMES = (*(c.name for c in COUNTERS), *ADAPTER_COUNTERS)
_RESULT = struct.Struct(f"<II{len(_NAMES)}Q")


class HlsFailed(Error):
    """The C++ cannot be built or run: the compiler or the ap_int headers are missing, or the simulation died."""


def headers() -> Path:
    """The folder of ap_int.h, Apache-licensed, in the installed package hls4ml (which is not imported).

    Raises:
        HlsFailed: it is not installed.
    """
    spec = importlib.util.find_spec("hls4ml")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").is_file():
            return folder
    raise HlsFailed("the ap_int headers of the Python package hls4ml are not installed", "hls4ml", "pip install 'axlora[fpga]'")


def sources() -> list[Path]:
    """The C++ of the machine and of its test bench, with headers; without those of a target."""
    return sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])


def build(target: Target, flags: Sequence[str] = FLAGS) -> Path:
    """The simulation of a target, an executable: all of the C++ in one translation unit.

    Raises:
        HlsFailed: the headers or g++ are missing, or it does not build.
    """
    include = headers()
    compiler = shutil.which("g++")
    if compiler is None:
        raise HlsFailed("g++ is not installed", "g++", "install it with the system's packages")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    header = target_header(target)
    key = hashlib.sha256(repr((tuple(flags), version, header.split("\n", 1)[1])).encode())
    for path in (*sources(), *sorted(include.rglob("*.h"))):
        key.update(path.name.encode() + path.read_bytes())
    folder = kept_folder("hls", key.hexdigest()[:24])
    program = folder / "testbench"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _log.debug("C simulation of %s in %s", target.name, folder)
            (folder / "axlora_target.h").write_text(header)
            whole = folder / "whole.cpp"
            whole.write_text("".join(f'#include "{path.name}"\n' for path in sources() if path.suffix == ".cpp"))
            places = [f"-I{folder}", f"-I{FOLDER}", "-isystem", str(include)]
            part = folder / "part"
            command = [compiler, *flags, *places, str(whole), "-o", str(part)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                (folder / "build.log").write_text(done.stderr)
                lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
                raise HlsFailed(f"the C++ of target {target.name} does not build: {lines[0]}", str(folder / "build.log"), "")
            part.replace(program)
    return program


def job_bytes(image: Image) -> bytes:
    """A start as the test bench reads it (testbench.cpp).

    Raises:
        ValueError: the image asks for what the C++ does not have: bus errors, pauses, a trace.
    """
    if image.bad or image.stall or image.trace:
        raise ValueError("the C++ has no bus: no AXI errors, no pauses, no trace")
    first, length = (0, len(image.memory)) if image.dump is None else image.dump
    head = struct.pack("<6I", _MAGIC, image.program, image.mem_limit, len(image.memory), first, length)
    registers = [image.registers.get(number, 0) for number in range(MOST_REGISTERS)]
    return head + struct.pack(f"<{MOST_REGISTERS}I", *registers) + image.memory


def result_bytes(memory: bytes, counters: dict[str, int]) -> bytes:
    """What the test bench writes for a start that ends without an error; inverse of the reading in `run_starts`."""
    return _RESULT.pack(0, 0, *(counters[name] if name in COUNTED else 0 for name in _NAMES)) + memory


def run_starts(target: Target, images: Sequence[Image], flags: Sequence[str] = FLAGS) -> list[ImageResult]:
    """Starts one after another in one power-up: buffers and settings stay, memory is each image's own.

    Raises:
        HlsFailed: see `build`; or the simulation died.
    """
    program = build(target, flags)
    with tempfile.TemporaryDirectory(prefix="axlora-hls-") as name:
        job, result = Path(name) / "job", Path(name) / "result"
        job.write_bytes(b"".join(job_bytes(image) for image in images))
        done = subprocess.run([str(program), str(job), str(result)], capture_output=True, text=True, check=False)
        if done.returncode:
            text = done.stderr.strip().splitlines() or ["no message"]
            raise HlsFailed(f"the C simulation of {target.name} died (status {done.returncode}): {text[0]}", str(program), "")
        data = result.read_bytes()
    results, at = [], 0
    for image in images:
        code, address, *values = _RESULT.unpack_from(data, at)
        at += _RESULT.size
        length = len(image.memory) if image.dump is None else image.dump[1]
        counters = {name: value for name, value in zip(_NAMES, values, strict=True) if name in COUNTED}
        results.append(ImageResult(data[at : at + length], counters, code & 255, code >> 8, address, 0))
        at += length
    return results


def run_images(target: Target, images: Sequence[Image], flags: Sequence[str] = FLAGS) -> list[ImageResult]:
    """Run images, each from power-up.

    Raises:
        HlsFailed: as `run_starts`.
    """
    return [result for image in images for result in run_starts(target, [image], flags)]
