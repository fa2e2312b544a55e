"""What the simulator raises when the machine would stop with an error."""

from __future__ import annotations

from axlora.isa.opcodes import ErrorCode, Unit


class MachineError(Exception):
    """The machine stopped: error code, unit, and the instruction's byte address in memory."""

    def __init__(self, code: ErrorCode, unit: Unit, address: int, detail: str) -> None:
        super().__init__(f"{code.name.lower()} error in {unit.name.lower()} at instruction {address:#x}: {detail}")
        self.code = code
        self.unit = unit
        self.address = address
        self.detail = detail
