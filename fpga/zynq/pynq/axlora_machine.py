"""The machine behind its registers: start, wait, read counters and errors. Needs nothing but Python 3.9 or newer.

Works on any object with `read(offset)` and `write(offset, value)`, such as pynq's MMIO and DefaultIP. The numbers come from
axlora_registers.py, which `axlora zynq` writes from the machine's one description.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import axlora_registers as numbers

START, RESET = 1, 2
BUSY, DONE, ERROR = 1, 2, 4


class Registers(Protocol):
    """What reads and writes 32 bits at a byte offset."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class MachineStopped(RuntimeError):
    """The machine stopped with an error.

    Attributes:
        code: of docs/isa.md, by name.
        unit: that found it, by name.
        address: memory byte address of the instruction, counted from the program's memory.
    """

    def __init__(self, code: str, unit: str, address: int) -> None:
        super().__init__(f"{code} error in {unit} at instruction {address:#x}")
        self.code, self.unit, self.address = code, unit, address


class WrongMachine(RuntimeError):
    """The identification register does not say AxLoRA: wrong address or another bitstream."""


class Machine:
    """One machine. Not safe for two threads at once."""

    def __init__(self, registers: Registers, pause: Callable[[float], None] = time.sleep) -> None:
        """`pause` is called between two looks at the status with the seconds it may take; it may wait for the interrupt.

        Raises:
            WrongMachine: the identification register says something else.
        """
        self._registers, self.pause = registers, pause
        found = self._read("ID")
        if found != numbers.MACHINE_ID:
            raise WrongMachine(f"ID reads {found:#010x}, not {numbers.MACHINE_ID:#010x}: wrong address or another bitstream")

    def _read(self, name: str) -> int:
        return int(self._registers.read(numbers.REGISTERS[name]))

    def _write(self, name: str, value: int) -> None:
        self._registers.write(numbers.REGISTERS[name], value)

    def run(
        self,
        base: int,
        limit: int,
        program: int,
        registers: Mapping[int, int],
        *,
        seconds: float = 10.0,
        watchdog: int = 1 << 24,
    ) -> dict[str, int]:
        """Start, wait for the end, return the counters by name.

        Args:
            base: bus address of the program's memory, a multiple of 4096.
            limit: bytes that the program may touch from there.
            program: byte address of the first instruction from there, a multiple of 64.
            registers: values of R1..R31, and of R16..R31 of window w by 16 * w more; those left out are 0.
            seconds: most time it may take.
            watchdog: cycles without progress after which the machine stops itself; 0 is never.

        Raises:
            ValueError: an address off its boundary, or no such register. RuntimeError: the machine is busy.
            MachineStopped: an error of the program or the bus. TimeoutError: not over in time; `reset` it.
        """
        if base % 4096 or program % 64:
            raise ValueError(f"base {base:#x} must be a multiple of 4096 and program {program:#x} of 64")
        most = 15 + 16 * int(numbers.WINDOWS)
        if not all(1 <= number <= most for number in registers):
            raise ValueError(f"registers {sorted(registers)}: 1 to {most} can be set")
        self.check_idle()
        for name, value in (("PROGRAM", program), ("MEM_BASE", base), ("MEM_LIMIT", limit), ("WATCHDOG", watchdog)):
            self._write(name, value)
        for number in range(1, most + 1):
            first = numbers.REGISTERS["REGS" if number < 32 else "WINDOWS"]
            self._registers.write(first + 4 * number, registers.get(number, 0) & 0xFFFFFFFF)
        self._write("IRQ_STATUS", 1)
        self._write("IRQ_ENABLE", 1)
        self._write("CTRL", START)
        status = self._wait(seconds)
        self._write("IRQ_STATUS", 1)
        if status & ERROR:
            code = self._read("ERR_CODE")
            raise MachineStopped(numbers.ERRORS[code & 0xFF], numbers.UNITS[code >> 8 & 0xFF], self._read("ERR_ADDR"))
        return self.counters()

    def check_idle(self) -> None:
        """Raises RuntimeError while a run or a burst is under way; the memory is the machine's until then."""
        if self._read("STATUS") & BUSY:
            raise RuntimeError("the machine is busy: wait for the run before it, or reset it")

    def _wait(self, seconds: float) -> int:
        """The status once the machine is at rest."""
        end = time.monotonic() + seconds
        pause = 1e-5
        while True:
            status = self._read("STATUS")
            if status & (DONE | ERROR) and not status & BUSY:
                return status
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the machine is not done after {seconds} s (STATUS {status:#x}); reset it")
            self.pause(min(pause, left))
            pause = min(2 * pause, 0.01)

    def reset(self, seconds: float = 1.0) -> None:
        """Stop what runs: bursts on the bus end, then state and error are cleared; memories and R1..R31 stay.

        Raises:
            TimeoutError: the bus does not answer.
        """
        self._write("CTRL", RESET)
        end = time.monotonic() + seconds
        while self._read("STATUS") & BUSY:
            if time.monotonic() > end:
                raise TimeoutError(f"the bus has not answered for {seconds} s: the board needs a new bitstream or a restart")
            time.sleep(1e-4)

    def counters(self) -> dict[str, int]:
        """All 64-bit counters of the last run, by name."""
        first = numbers.REGISTERS["COUNTERS"]
        found = {}
        for index, name in enumerate(numbers.COUNTERS):
            low = int(self._registers.read(first + 8 * index))
            found[name] = low | int(self._registers.read(first + 8 * index + 4)) << 32
        return found
