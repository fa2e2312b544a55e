"""Fetch, functionally: registers, loops and the instruction cache, walked in program order."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from axlora.isa.instruction import BadInstruction, Instruction, check_resolved, decode
from axlora.isa.opcodes import CACHE_LINE_BYTES, INSTRUCTION_BYTES, LOOP_DEPTH, ErrorCode, Opcode, Unit
from axlora.isa.registers import RegisterFile
from axlora.isa.target import Target

from .errors import MachineError

_KNOWN: dict[Target, dict[object, Instruction]] = {}
"""Target -> (16 bytes, values of its registers) -> the resolved instruction: runs execute the same ones again."""
_OWN = {Opcode.HALT, Opcode.SET, Opcode.LOOP, Opcode.ENDLOOP, Opcode.WINDOW}
"""What fetch itself carries out."""
_LINES = (1 << 32) // CACHE_LINE_BYTES
"""Cache lines of all memory."""
_MOST = 1 << 19
"""Instructions that are remembered for a target."""


class Requests(IntFlag):
    """Cache lines that an instruction makes fetch ask the memory for."""

    NONE = 0
    OWN = 1
    """Its own, which was neither there nor asked for."""
    AHEAD = 2
    """The one that lies behind its own by as many lines as its place in it says, 1 to 4."""


class Control:
    """Program counter, registers and loop stack."""

    def __init__(
        self, target: Target, memory: npt.NDArray[np.uint8], program: int, registers: dict[int, int], mem_limit: int
    ) -> None:
        self.target = target
        self.memory = memory
        self.mem_limit = mem_limit
        self.pc = program
        self.file = RegisterFile(registers)
        self.loops: list[tuple[int, int]] = []
        self.tags = [-1] * target.icache_lines
        self._lines: list[list[tuple[bytes, Instruction | None]]] = [[] for _ in self.tags]
        self._known = _KNOWN.setdefault(target, {})
        if len(self._known) > _MOST:
            self._known.clear()

    def _fetch(self) -> Requests:
        """Look up the line of pc."""
        if self.pc >= self.mem_limit:
            raise MachineError(ErrorCode.MEMORY_ADDRESS, Unit.FETCH, self.pc, f"limit {self.mem_limit:#x}")
        return Requests.OWN if self._ask(self.pc // CACHE_LINE_BYTES) else Requests.NONE

    def _fetch_ahead(self) -> Requests:
        """Look up the line that the instruction at pc asks for ahead, if it is within the limit and has another place."""
        apart = 1 + self.pc % CACHE_LINE_BYTES // INSTRUCTION_BYTES
        line = (self.pc // CACHE_LINE_BYTES + apart) % _LINES
        if apart >= len(self.tags) or line * CACHE_LINE_BYTES >= self.mem_limit:
            return Requests.NONE
        return Requests.AHEAD if self._ask(line) else Requests.NONE

    def _ask(self, line: int) -> bool:
        """Whether a line must be asked for; from now on it is there, or on its way."""
        place = line % len(self.tags)
        if self.tags[place] == line:
            return False
        self.tags[place] = line
        data = self.memory[line * CACHE_LINE_BYTES : (line + 1) * CACHE_LINE_BYTES].tobytes().ljust(CACHE_LINE_BYTES, b"\0")
        words = [data[at : at + INSTRUCTION_BYTES] for at in range(0, CACHE_LINE_BYTES, INSTRUCTION_BYTES)]
        self._lines[place] = [(word, self._known.get(word)) for word in words]
        return True

    def _resolved(self) -> Instruction:
        """The instruction at pc with its registers added; one without registers is known by its bytes alone.

        Raises:
            BadInstruction: it is illegal.
        """
        words = self._lines[self.pc // CACHE_LINE_BYTES % len(self.tags)]
        place = self.pc % CACHE_LINE_BYTES // INSTRUCTION_BYTES
        data, known = words[place]
        if known is None:
            known = decode(data)
            if not (known.rx or known.ry or known.rz):
                check_resolved(known, self.target)
            self._known[data] = known
            words[place] = (data, known)
        if not (known.rx or known.ry or known.rz):
            return known
        registers = self.file.seen
        key = (data, registers[known.rx], registers[known.ry], registers[known.rz])
        found = self._known.get(key)
        if found is None:
            found = known.resolved(registers)
            check_resolved(found, self.target)
            self._known[key] = found
        return found

    def walk(self) -> Iterator[tuple[Instruction, int, Requests]]:
        """Yield (resolved instruction, its address, lines asked for) for every instruction executed, HALT last.

        Raises:
            MachineError: illegal instruction, memory limit, loop nesting.
        """
        while True:
            requests = self._fetch()
            address = self.pc
            try:
                i = self._resolved()
            except BadInstruction as error:
                raise MachineError(ErrorCode.ILLEGAL, Unit.FETCH, address, str(error)) from None
            if i.opcode is not Opcode.HALT:
                requests |= self._fetch_ahead()
            yield i, address, requests
            self.pc = (self.pc + INSTRUCTION_BYTES) & 0xFFFFFFFF
            if i.opcode not in _OWN:
                continue
            if i.opcode is Opcode.HALT:
                return
            if i.opcode is Opcode.SET:
                self.file.seen[i.misc] = i.x
            elif i.opcode is Opcode.WINDOW:
                self.file.choose(i.x)
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
