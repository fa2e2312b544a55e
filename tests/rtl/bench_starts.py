"""cocotb side of test_starts: several starts within one power-up, the deterministic memory of rtl/tb."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from harness import Outcome, Step, answer, read_job

from axlora.isa.opcodes import COUNTERS
from axlora.isa.registers import register_offset
from axlora.rtl.cocotb_run import _OFFSET, Host, _bytes_of, _hex_lines, _packed, _start_clock

INPUTS = ("s_axil_awvalid", "s_axil_wvalid", "s_axil_arvalid", "i_fill", "i_dump", "i_bad_start", "i_bad_end", "i_stall")


async def _dump(dut: Any, scratch: Path, beat_bytes: int, base: int, length: int, turn: int) -> bytes:
    file = scratch / "dump.hex"
    dut.i_file.value = _packed(file)
    dut.i_dump_first.value = base // beat_bytes
    dut.i_dump_last.value = (base + length - 1) // beat_bytes
    dut.i_dump.value = turn % 2
    await ClockCycles(dut.i_clk, 3)
    return _bytes_of(file.read_text(), beat_bytes)[:length]


async def _step(dut: Any, host: Host, step: Step, beat_bytes: int, scratch: Path, size: int, turn: int) -> Outcome:
    """One start; `turn` counts from 1."""
    if step.memory:
        file = scratch / "memory.hex"
        file.write_text(f"@{step.base // beat_bytes:x}\n" + _hex_lines(step.memory, beat_bytes))
        dut.i_file.value = _packed(file)
        dut.i_fill.value = 1 - int(dut.i_fill.value)
        await ClockCycles(dut.i_clk, 3)
    dut.i_bad_start.value, dut.i_bad_end.value = step.bad
    if step.reset:
        await host.write(_OFFSET["CTRL"], 2)
        while await host.read(_OFFSET["STATUS"]) & 1:
            await ClockCycles(dut.i_clk, 4)
    before = await host.read(_OFFSET["STATUS"])
    await host.write(_OFFSET["PROGRAM"], 0)
    await host.write(_OFFSET["MEM_BASE"], step.base)
    await host.write(_OFFSET["MEM_LIMIT"], size if step.limit is None else step.limit)
    await host.write(_OFFSET["WATCHDOG"], step.watchdog)
    await host.write(_OFFSET["IRQ_ENABLE"], 1)
    for number, value in step.registers:
        await host.write(register_offset(number), value)
    await host.write(_OFFSET["CTRL"], 1)
    if step.reset_after is not None:
        await ClockCycles(dut.i_clk, step.reset_after)
        await host.write(_OFFSET["MEM_BASE"], step.base + 0x1000)
        assert await host.read(_OFFSET["MEM_BASE"]) == step.base, "MEM_BASE is written while the machine runs"
        await host.write(_OFFSET["CTRL"], 2)
        while await host.read(_OFFSET["STATUS"]) & 1:
            await ClockCycles(dut.i_clk, 4)
        status = await host.read(_OFFSET["STATUS"])
        memory = await _dump(dut, scratch, beat_bytes, step.base, size, turn)
        return Outcome(memory, {}, await host.read(_OFFSET["ERR_CODE"]), 0, 0, before, status)
    while step.read_every and not dut.o_irq.value:
        await ClockCycles(dut.i_clk, step.read_every)
        if await host.read(_OFFSET["STATUS"]) & 1:
            await host.write(_OFFSET["CTRL"], 1)
    if not dut.o_irq.value:
        await with_timeout(RisingEdge(dut.o_irq), 400_000, "ns")
    while (status := await host.read(_OFFSET["STATUS"])) & 1:
        await ClockCycles(dut.i_clk, 4)
    await host.write(_OFFSET["IRQ_STATUS"], 1)
    await ClockCycles(dut.i_clk, 4)
    assert not dut.o_irq.value, "IRQ_STATUS does not clear the interrupt"
    code = await host.read(_OFFSET["ERR_CODE"])
    address = await host.read(_OFFSET["ERR_ADDR"])
    counters = {}
    for index, counter in enumerate(COUNTERS):
        low = await host.read(_OFFSET["COUNTERS"] + 8 * index)
        counters[counter.name] = low | await host.read(_OFFSET["COUNTERS"] + 8 * index + 4) << 32
    memory = await _dump(dut, scratch, beat_bytes, step.base, size, turn)
    return Outcome(memory, counters, code & 0xFF, code >> 8 & 0xFF, address, before, status)


@cocotb.test()
async def run_steps(dut: Any) -> None:
    """The job: bytes of a beat and the steps. Answers one outcome a step."""
    beat_bytes, steps = read_job()
    for name in INPUTS:
        getattr(dut, name).value = 0
    dut.i_rst.value = 1
    dut.s_axil_bready.value = 1
    dut.s_axil_rready.value = 1
    _start_clock(dut)
    await ClockCycles(dut.i_clk, 4)
    dut.i_rst.value = 0
    await RisingEdge(dut.i_clk)
    host = Host(dut)
    outcomes: list[Outcome] = []
    size = 0
    with tempfile.TemporaryDirectory() as name:
        for turn, step in enumerate(steps, 1):
            size = len(step.memory) or size
            outcomes.append(await _step(dut, host, step, beat_bytes, Path(name), size, turn))
    answer(outcomes)
