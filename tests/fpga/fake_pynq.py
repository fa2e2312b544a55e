"""A stand-in for the package `pynq` as far as the driver uses it: DefaultIP, allocate, and memory that caches hide.

What the processor writes into a buffer is seen by the machine only after `flush`, what the machine writes by the processor
only after `invalidate`: a driver that forgets one of them reads stale bytes here, as on the board.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Protocol

import numpy as np


class Device(Protocol):
    """The other side of the bus: the machine's registers, and the memory it sees."""

    memory: Any
    """bytearray or the like, from bus address 0."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class Buffer(np.ndarray[Any, Any]):
    """As pynq.buffer.PynqBuffer: contiguous physical memory."""

    device_address: int
    board: Any
    freed: bool

    def flush(self) -> None:
        """The processor's bytes to the memory."""
        self.board.memory[self.device_address : self.device_address + self.nbytes] = self.tobytes()

    def invalidate(self) -> None:
        """The memory's bytes to the processor."""
        held = bytes(self.board.memory[self.device_address : self.device_address + self.nbytes])
        self[:] = np.frombuffer(held, self.dtype).reshape(self.shape)

    def freebuffer(self) -> None:
        """Give it back."""
        self.freed = True


def install(device: Device, address: int = 0x5000) -> types.ModuleType:
    """Put a module `pynq` into sys.modules whose registers are the device's and whose buffers begin at `address`."""
    module = types.ModuleType("pynq")
    place = [address]

    class DefaultIP:
        def __init__(self, description: dict[str, Any]) -> None:
            assert description["phys_addr"] == 0xA000_0000
            self.description = description

        def read(self, offset: int = 0) -> int:
            assert offset % 4 == 0
            return device.read(offset)

        def write(self, offset: int, value: int) -> None:
            assert offset % 4 == 0
            assert isinstance(value, int)
            assert 0 <= value < 1 << 32, "MMIO takes unsigned 32-bit words"
            device.write(offset, value)

    def allocate(shape: tuple[int, ...], dtype: Any = "u4") -> Buffer:
        buffer = np.full(shape, 0xA5, dtype).view(Buffer)
        buffer.board, buffer.device_address, buffer.freed = device, place[0], False
        place[0] += -(-buffer.nbytes // 4096) * 4096
        return buffer

    module.DefaultIP = DefaultIP  # type: ignore[attr-defined]
    module.allocate = allocate  # type: ignore[attr-defined]
    sys.modules["pynq"] = module
    return module


def description() -> dict[str, Any]:
    """What Overlay gives a driver, as far as it is used."""
    return {"phys_addr": 0xA000_0000, "addr_range": 4096, "fullpath": "axlora"}
