"""Fetch, functionally: registers, loops and the instruction cache, walked in program order."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from axlora.isa.instruction import BadInstruction, Instruction, check_resolved, decode
from axlora.isa.opcodes import CACHE_LINE_BYTES, INSTRUCTION_BYTES, LOOP_DEPTH, ErrorCode, Opcode, Unit
from axlora.isa.target import Target

from .errors import MachineError

_decode = functools.lru_cache(1 << 18)(decode)
"""Runs of a program decode the same instructions again."""


class Control:
    """Program counter, registers and loop stack."""

    def __init__(
        self, target: Target, memory: npt.NDArray[np.uint8], program: int, registers: dict[int, int], mem_limit: int
    ) -> None:
        self.target = target
        self.memory = memory
        self.mem_limit = mem_limit
        self.pc = program
        self.registers = [0] * 32
        for number, value in registers.items():
            if number:
                self.registers[number] = value & 0xFFFFFFFF
        self.loops: list[tuple[int, int]] = []
        self.tags = [-1] * target.icache_lines
        self._decoded: dict[int, tuple[bytes, Instruction]] = {}

    def _fetch(self) -> bool:
        """Look up the line of pc; True if it was not in the cache."""
        if self.pc >= self.mem_limit:
            raise MachineError(ErrorCode.MEMORY_ADDRESS, Unit.FETCH, self.pc, f"limit {self.mem_limit:#x}")
        line = self.pc // CACHE_LINE_BYTES
        place = line % len(self.tags)
        if self.tags[place] == line:
            return False
        self.tags[place] = line
        for pc in range(line * CACHE_LINE_BYTES, (line + 1) * CACHE_LINE_BYTES, INSTRUCTION_BYTES):
            self._decoded.pop(pc, None)
        return True

    def _read(self) -> Instruction:
        if self.pc not in self._decoded:
            data = self.memory[self.pc : self.pc + INSTRUCTION_BYTES].tobytes()
            try:
                self._decoded[self.pc] = (data, _decode(data))
            except BadInstruction as error:
                raise MachineError(ErrorCode.ILLEGAL, Unit.FETCH, self.pc, str(error)) from None
        return self._decoded[self.pc][1]

    def walk(self) -> Iterator[tuple[Instruction, int, bool]]:
        """Yield (resolved instruction, its address, cache miss) for every instruction executed, HALT last.

        Raises:
            MachineError: illegal instruction, memory limit, loop nesting.
        """
        while True:
            missed = self._fetch()
            raw = self._read()
            i = raw.resolved(self.registers)
            address = self.pc
            try:
                check_resolved(i, self.target)
            except BadInstruction as error:
                raise MachineError(ErrorCode.ILLEGAL, Unit.FETCH, address, str(error)) from None
            yield i, address, missed
            if i.opcode is Opcode.HALT:
                return
            self.pc = (self.pc + INSTRUCTION_BYTES) & 0xFFFFFFFF
            if i.opcode is Opcode.SET:
                self.registers[i.misc] = i.x
            elif i.opcode is Opcode.LOOP:
                if i.z == 0:
                    self.pc += (i.y + 1) * INSTRUCTION_BYTES
                    continue
                if len(self.loops) == LOOP_DEPTH:
                    raise MachineError(ErrorCode.LOOP, Unit.FETCH, address, f"more than {LOOP_DEPTH} nested loops")
                self.loops.append((self.pc, i.z))
            elif i.opcode is Opcode.ENDLOOP:
                if not self.loops:
                    raise MachineError(ErrorCode.LOOP, Unit.FETCH, address, "ENDLOOP without LOOP")
                start, left = self.loops.pop()
                if left > 1:
                    self.loops.append((start, left - 1))
                    self.pc = start
