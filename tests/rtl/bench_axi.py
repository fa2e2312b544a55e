"""cocotb side of test_axi_backpressure: AxiRam behind the master, AxiLiteMaster before the slave, random pauses on all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam
from harness import answer, read_job

from axlora.isa.opcodes import COUNTERS, REGISTERS
from axlora.isa.registers import register_offset

OFFSET = {register.name: register.offset for register in REGISTERS}
CHANNELS = ("ar", "r", "aw", "w", "b")


@dataclass(frozen=True)
class AxiCase:
    """One run: image, registers, MEM_BASE, and the share of paused cycles of each of CHANNELS (0 is none)."""

    memory: bytes
    registers: dict[int, int]
    base: int
    pauses: tuple[float, float, float, float, float]
    seed: int


@dataclass(frozen=True)
class AxiOutcome:
    """Memory from the base, whether the bytes around it stayed, ERR_CODE, counters, the bench's rule watch, STATUS."""

    memory: bytes
    guarded: bool
    error: int
    counters: dict[str, int]
    broken: int
    status: int


GUARD = 4096


def _pauses(rng: random.Random, share: float) -> Iterator[bool]:
    """Single pauses and long ones (up to 40 cycles); `share` of all cycles on average."""
    while True:
        length = rng.choice((1, 1, 2, 5, 40))
        yield from [True] * length
        yield from [False] * max(1, round(length * (1 - share) / share * rng.uniform(0.5, 1.5)))


async def _run(dut: Any, host: AxiLiteMaster, ram: AxiRam, case: AxiCase) -> AxiOutcome:
    rng = random.Random(case.seed)
    fill = rng.randbytes(GUARD)
    ram.write(case.base - GUARD, fill)
    ram.write(case.base, case.memory)
    ram.write(case.base + len(case.memory), fill)
    parts: tuple[Any, ...] = (ram.read_if.ar_channel, ram.read_if.r_channel)
    parts += (ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel)
    parts += (host.read_if.ar_channel, host.read_if.r_channel)
    parts += (host.write_if.aw_channel, host.write_if.w_channel, host.write_if.b_channel)
    for part, share in zip(parts, (*case.pauses, *case.pauses), strict=True):
        part.clear_pause_generator()
        part.pause = False
        if share:
            part.set_pause_generator(_pauses(random.Random(rng.random()), share))
    dut.i_rst.value = 1
    await ClockCycles(dut.i_clk, 4)
    dut.i_rst.value = 0
    await ClockCycles(dut.i_clk, 2)
    await host.write_dword(OFFSET["PROGRAM"], 0)
    await host.write_dword(OFFSET["MEM_BASE"], case.base)
    await host.write_dword(OFFSET["MEM_LIMIT"], len(case.memory))
    await host.write_dword(OFFSET["IRQ_ENABLE"], 1)
    for number in range(1, 32):
        await host.write_dword(register_offset(number), case.registers.get(number, 0))
    await host.write_dword(OFFSET["CTRL"], 1)
    if not dut.o_irq.value:
        await with_timeout(RisingEdge(dut.o_irq), 20, "ms")
    counters = {}
    for index, counter in enumerate(COUNTERS):
        counters[counter.name] = await host.read_qword(OFFSET["COUNTERS"] + 8 * index)
    return AxiOutcome(
        ram.read(case.base, len(case.memory)),
        fill == ram.read(case.base - GUARD, GUARD) == ram.read(case.base + len(case.memory), GUARD),
        await host.read_dword(OFFSET["ERR_CODE"]),
        counters,
        int(dut.o_broken.value),
        await host.read_dword(OFFSET["STATUS"]),
    )


@cocotb.test()
async def run_cases(dut: Any) -> None:
    """Every case of the job, one after another; a reset pulse between, buffers keep what the case before left."""
    cases: tuple[AxiCase, ...] = read_job()
    dut.i_rst.value = 1
    Clock(dut.i_clk, 2, unit="ns").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.i_clk, dut.i_rst, size=1 << 22)
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.i_clk, dut.i_rst)
    answer([await _run(dut, host, ram, case) for case in cases])
