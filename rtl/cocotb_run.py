"""The cocotb side of `runner`: loads an image, starts the machine through AXI4-Lite, waits for its interrupt, reads it out."""

from __future__ import annotations

import importlib.util
import os
import pickle
import tempfile
import traceback
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge

from axlora.isa.image import Image
from axlora.isa.image import ImageResult as RtlResult
from axlora.isa.opcodes import COUNTERS, REGISTERS
from axlora.isa.registers import register_offset
from axlora.rtl.runner import BENCH, Job

_OFFSET = {register.name: register.offset for register in REGISTERS}
_FILE_BITS = 2048


class Host:
    """AXI4-Lite master: one access at a time."""

    def __init__(self, dut: Any) -> None:
        self._dut = dut

    async def write(self, offset: int, value: int) -> None:
        """Write 32 bits at a byte offset."""
        dut = self._dut
        dut.s_axil_awaddr.value = offset
        dut.s_axil_wdata.value = value & 0xFFFFFFFF
        dut.s_axil_awvalid.value = 1
        dut.s_axil_wvalid.value = 1
        while True:
            await RisingEdge(dut.i_clk)
            if dut.s_axil_awready.value:
                break
        dut.s_axil_awvalid.value = 0
        dut.s_axil_wvalid.value = 0
        await RisingEdge(dut.i_clk)

    async def read(self, offset: int) -> int:
        """Read 32 bits at a byte offset."""
        dut = self._dut
        dut.s_axil_araddr.value = offset
        dut.s_axil_arvalid.value = 1
        while True:
            await RisingEdge(dut.i_clk)
            if dut.s_axil_arready.value:
                break
        dut.s_axil_arvalid.value = 0
        while True:
            await RisingEdge(dut.i_clk)
            if dut.s_axil_rvalid.value:
                return int(dut.s_axil_rdata.value)


def _hex_lines(data: bytes, beat_bytes: int) -> str:
    """One beat a line, most significant byte first."""
    padded = data + bytes(-len(data) % beat_bytes)
    beats = np.frombuffer(padded, np.uint8).reshape(-1, beat_bytes)[:, ::-1]
    return beats.tobytes().hex("\n", beat_bytes) + "\n"


def _bytes_of(text: str, beat_bytes: int) -> bytes:
    """Inverse of `_hex_lines`; address lines and comments are skipped."""
    words = [line.split("//")[0].strip() for line in text.splitlines()]
    joined = "".join(word.rjust(2 * beat_bytes, "0") for word in words if word and not word.startswith("@"))
    return np.frombuffer(bytes.fromhex(joined), np.uint8).reshape(-1, beat_bytes)[:, ::-1].tobytes()


def _events(text: str) -> tuple[tuple[int, int, int, int], ...]:
    """Lines of tb/trace.v to (unit, address, accept, done), per unit in order; what was not done is left out."""
    begun: dict[int, list[tuple[int, int]]] = {}
    ended: dict[int, list[int]] = {}
    for line in text.splitlines():
        unit, kind, cycle, address = map(int, line.split())
        if kind == 0:
            begun.setdefault(unit, []).append((address, cycle))
        else:
            ended.setdefault(unit, []).append(cycle)
    return tuple(
        (unit, address, accept, done)
        for unit, rows in sorted(begun.items())
        for (address, accept), done in zip(rows, ended.get(unit, []), strict=False)
    )


def _start_clock(dut: Any) -> None:
    Clock(dut.i_clk, 2, unit="ns", impl="gpi").start()


def _packed(path: Path) -> int:
    return int.from_bytes(str(path).encode(), "big")


async def _run(dut: Any, image: Image, scratch: Path, job: Job) -> RtlResult | None:
    host, beat_bytes, limit = Host(dut), job.beat_bytes, job.limit
    dut.i_rst.value = 1
    hex_file = scratch / "memory.hex"
    hex_file.write_text(_hex_lines(image.memory, beat_bytes))
    if 8 * len(str(hex_file)) > _FILE_BITS:
        raise ValueError(f"path too long for the test bench: {hex_file}")
    dut.i_file.value = _packed(hex_file)
    dut.i_fill.value = 1
    if image.bad is not None:
        dut.i_bad_start.value, dut.i_bad_end.value = image.bad
    dut.i_stall.value = image.stall
    await ClockCycles(dut.i_clk, 4)
    dut.i_rst.value = 0
    await RisingEdge(dut.i_clk)
    await host.write(_OFFSET["PROGRAM"], image.program)
    await host.write(_OFFSET["MEM_LIMIT"], image.mem_limit)
    await host.write(_OFFSET["WATCHDOG"], image.watchdog)
    await host.write(_OFFSET["IRQ_ENABLE"], 1)
    for number, value in image.registers.items():
        await host.write(register_offset(number), value)
    trace_file = scratch / "trace.txt"
    if image.trace:
        dut.i_fill.value = 0
        dut.i_file.value = _packed(trace_file)
        dut.i_trace.value = 1
    await host.write(_OFFSET["CTRL"], 1)
    if not dut.o_irq.value:
        await (RisingEdge(dut.o_irq) if limit is None else First(RisingEdge(dut.o_irq), ClockCycles(dut.i_clk, limit)))
    if job.leave or not dut.o_irq.value:
        return None
    while await host.read(_OFFSET["STATUS"]) & 1:
        await ClockCycles(dut.i_clk, 16)
    await host.write(_OFFSET["IRQ_STATUS"], 1)
    code = await host.read(_OFFSET["ERR_CODE"])
    address = await host.read(_OFFSET["ERR_ADDR"])
    counters: dict[str, int] = {}
    for index, counter in enumerate(COUNTERS):
        low = await host.read(_OFFSET["COUNTERS"] + 8 * index)
        counters[counter.name] = low | await host.read(_OFFSET["COUNTERS"] + 8 * index + 4) << 32
    start, length = image.dump if image.dump is not None else (0, len(image.memory))
    data = b""
    if length:
        first, last = start // beat_bytes, (start + length - 1) // beat_bytes
        dump_file = scratch / "dump.hex"
        dut.i_file.value = _packed(dump_file)
        dut.i_dump_first.value = first
        dut.i_dump_last.value = last
        dut.i_dump.value = 1
        await ClockCycles(dut.i_clk, 3)
        data = _bytes_of(dump_file.read_text(), beat_bytes)[start - first * beat_bytes :][:length]
    events = _events(trace_file.read_text()) if image.trace else ()
    return RtlResult(data, counters, code & 0xFF, code >> 8 & 0xFF, address, counters["cycles"], events)


async def _bench(dut: Any, path: Path, told: Path) -> None:
    """Run the user's coroutine; what it raises is written and does not end the program."""
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        await module.bench(dut)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        told.write_text(f"{type(error).__name__}: {error} (line {lines[-1] if lines else '?'} of {path})")


@cocotb.test()
async def run_job(dut: Any) -> None:
    """Run every image of the job named by AXLORA_RTL_JOB; each in a fork, so from power-up."""
    job: Job = pickle.loads(Path(os.environ["AXLORA_RTL_JOB"]).read_bytes())
    for name in (
        "i_rst",
        "s_axil_awvalid",
        "s_axil_wvalid",
        "s_axil_arvalid",
        "i_fill",
        "i_dump",
        "i_bad_start",
        "i_bad_end",
        "i_stall",
        "i_trace",
    ):
        getattr(dut, name).value = 0
    dut.s_axil_bready.value = 1
    dut.s_axil_rready.value = 1
    if not job.fork:
        with tempfile.TemporaryDirectory() as name:
            _start_clock(dut)
            if job.bench is not None:
                cocotb.start_soon(_bench(dut, job.bench, job.results[0].with_suffix(BENCH)))
            result = await _run(dut, job.images[0], Path(name), job)
            job.results[0].write_bytes(pickle.dumps(result))
        return
    for image, path in zip(job.images, job.results, strict=True):
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            if status:
                raise RuntimeError(f"image {path.stem} failed: status {status}")
            continue
        status = 1
        try:
            with tempfile.TemporaryDirectory() as name:
                _start_clock(dut)
                result = await _run(dut, image, Path(name), job)
                path.write_bytes(pickle.dumps(result))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
