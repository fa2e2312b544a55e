"""One dispatched instruction: what it costs, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import ErrorCode

from .errors import MachineError


@dataclass
class Work:
    """What one dispatched instruction costs: for load and store the transfer, for the others the duration."""

    instruction: Instruction
    address: int
    """Byte address of the instruction in memory."""
    duration: int = 1
    beats: int = 0
    """Beats that load or store moves."""
    bursts: tuple[int, ...] = ()
    """Beats of each burst of a STORE."""
    busy: int = 0
    """Cycles to the unit's busy counter (matrix, vector)."""
    counters: dict[str, int] = field(default_factory=dict)
    """What it adds to the machine's counters; also adapter_macs and adapter_multiplications, which are the simulator's own."""
    spent: dict[str, int] = field(default_factory=dict)
    """Its share of its unit's cycle counters, the wait before it included; filled in when events are kept."""

    def refuse(self, code: ErrorCode, detail: str) -> NoReturn:
        """The machine stops at this instruction.

        Raises:
            MachineError: always.
        """
        raise MachineError(code, self.instruction.unit, self.address, detail)

    def local(self, name: str, first: int, count: int, depth: int) -> None:
        """Refuse places first..first+count-1 of a buffer that has `depth`.

        Raises:
            MachineError: code 2.
        """
        if count and first + count > depth:
            self.refuse(ErrorCode.LOCAL_ADDRESS, f"{name} {first}..{first + count - 1}, has {depth}")
