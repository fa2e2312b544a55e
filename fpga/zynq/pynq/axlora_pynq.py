"""AxLoRA on a ZCU104 in PYNQ's conventions: a driver that Overlay binds to the machine, and packages run on it.

overlay = pynq.Overlay("axlora.bit")
left = overlay.axlora.start(memory, program, registers)          # bytes in, bytes and counters out
outputs = run_package(overlay.axlora, "m.axl", {"x": x})         # needs the package axlora on the board
tokens = axlora.generate(axlora.load("m.axl"), prompt, start=overlay.axlora.start)
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import axlora_registers as numbers
import numpy as np
import pynq
from axlora_machine import Machine

PAGE = 4096
LINE = 64


class Started(NamedTuple):
    """What a run left: the memory, the machine's cycles, all counters by name."""

    memory: Any
    cycles: int
    counters: dict[str, int]


class AxloraIP(pynq.DefaultIP):
    """Driver of the block `axlora` of the overlay."""

    bindto = ["xilinx.com:module_ref:axlora_zynq:1.0"]  # noqa: RUF012  (PYNQ reads a list)

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description=description)
        self.machine = Machine(self)
        self.seconds = 60.0
        self._buffer: Any = None

    def wait_by_interrupt(self) -> None:
        """From now on wait for the interrupt instead of looking at the status; not inside a running event loop (Jupyter)."""

        def pause(_: float) -> None:
            async def fired() -> None:
                await asyncio.wait_for(self.irq.wait(), 0.1)  # a lost interrupt costs 0.1 s, no more

            try:
                asyncio.get_event_loop().run_until_complete(fired())
            except asyncio.TimeoutError:  # noqa: UP041  (another class before Python 3.11)
                return

        self.machine.pause = pause

    def start(self, memory: Any, program: int, registers: dict[int, int]) -> Started:
        """Run a program until its HALT.

        Args:
            memory: uint8 array, the whole memory of the program from its address 0.
            program: byte address of the first instruction.
            registers: values of R1..R31.

        Raises:
            MachineStopped, TimeoutError, ValueError, RuntimeError: as `Machine.run`. MemoryError: no buffer in reach.
        """
        self.machine.check_idle()
        size = len(memory)
        room = -(-(size + LINE) // PAGE) * PAGE  # fetch reads whole lines, the last one perhaps beyond the memory
        if self._buffer is None or len(self._buffer) < room:
            self.free()
            self._buffer = pynq.allocate(shape=(room,), dtype=np.uint8)
        buffer = self._buffer
        if buffer.device_address + room > 1 << 31:
            raise MemoryError(f"the buffer lies at {buffer.device_address:#x}; the machine reaches the first 2 GB")
        buffer[:size] = memory
        buffer.flush()
        counters = self.machine.run(buffer.device_address, size, program, registers, seconds=self.seconds)
        buffer.invalidate()
        return Started(np.array(buffer[:size]), counters["cycles"], counters)

    def free(self) -> None:
        """Give the buffer back."""
        if self._buffer is not None:
            self._buffer.freebuffer()
            self._buffer = None


def run_package(ip: AxloraIP, path: str, inputs: dict[str, Any], adapter: str | None = None) -> dict[str, Any]:
    """The outputs of a package's model; what stays on the host runs on the board's processor.

    Raises:
        ValueError: a package of another target.
    """
    import dataclasses

    import axlora
    from axlora.engines import Called

    program = axlora.load(path)
    if dataclasses.asdict(program.target) != numbers.TARGET:
        raise ValueError(f"{path} is for the target {program.target.name}, the bitstream for {numbers.TARGET['name']}")
    return dict(program.session(engine=Called(ip.start, "zcu104")).run(inputs, adapter).outputs)
