"""cocotb side of test_zynq: the emitted driver, unchanged, before the emitted wrapper; AxiRam is the memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam
from fake_pynq import description, install
from harness import answer, read_job


@dataclass(frozen=True)
class ZynqJob:
    """The emitted folder's pynq/, and the starts: (memory, registers); the program is at 0."""

    folder: str
    starts: tuple[tuple[bytes, dict[int, int]], ...]


class _Memory:
    """The AxiRam as the fake's memory."""

    def __init__(self, ram: AxiRam) -> None:
        self._ram = ram

    def __setitem__(self, place: slice, data: bytes) -> None:
        self._ram.write(place.start, data)

    def __getitem__(self, place: slice) -> bytes:
        return bytes(self._ram.read(place.start, place.stop - place.start))


class _Device:
    def __init__(self, host: AxiLiteMaster, ram: AxiRam) -> None:
        self._host, self.memory = host, _Memory(ram)

    def read(self, offset: int) -> int:
        return int(resume(self._host.read_dword)(offset))

    def write(self, offset: int, value: int) -> None:
        resume(self._host.write_dword)(offset, value)


@cocotb.test()
async def run_driver(dut: Any) -> None:
    """Answers (memory, counters) of each start, and the message of a start that stops with an error."""
    job: ZynqJob = read_job()
    dut.aresetn.value = 0
    for name in ("s_axi_awprot", "s_axi_arprot"):
        getattr(dut, name).value = 0
    Clock(dut.aclk, 2, unit="ns").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, reset_active_level=False, size=1 << 22)
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, dut.aresetn, reset_active_level=False)
    await ClockCycles(dut.aclk, 4)
    dut.aresetn.value = 1
    await ClockCycles(dut.aclk, 4)
    install(_Device(host, ram))
    sys.path.insert(0, job.folder)

    def drive() -> list[Any]:
        import axlora_machine
        import axlora_pynq

        async def wait() -> None:
            await ClockCycles(dut.aclk, 50)

        ip = axlora_pynq.AxloraIP(description())
        ip.machine.pause = lambda seconds: resume(wait)()
        found: list[Any] = []
        for memory, registers in job.starts:
            try:
                left = ip.start(np.frombuffer(memory, np.uint8), 0, registers)
                found.append((left.memory.tobytes(), left.counters))
            except axlora_machine.MachineStopped as error:
                found.append((error.code, error.unit, error.address))
                ip.machine.reset()
        return found

    answer(await bridge(drive)())
