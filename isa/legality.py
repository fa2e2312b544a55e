"""The static check that a program can neither deadlock nor overflow a semaphore, whatever the timing.

The program is walked in program order with its loops. Rules (docs/isa.md):
 1. a semaphore has one posting unit (by its number) and one waiting unit;
 2. every wait is met by posts earlier in program order;
 3. post number n + 15 of a semaphore happens after wait number n: then a count never passes 15.
Rule 3 uses the happens-before order of unit order and semaphores, kept as one vector clock an instruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .instruction import Instruction
from .opcodes import LOOP_DEPTH, SEMAPHORE_MAX, SEMAPHORES, UNIT_OF, Opcode, Unit
from .registers import RegisterFile, every_window

Clock = tuple[int, ...]
_CONTROL = frozenset(opcode for opcode in Opcode if UNIT_OF[opcode] is Unit.FETCH)
_UNITS = range(len(Unit))
_GENERAL = range(1, 8)
"""Registers that SET writes."""


class IllegalProgram(ValueError):
    """A program breaks a rule; the message names the instruction's index."""


def trace(program: Sequence[Instruction], registers: dict[int, int] | None = None) -> list[tuple[int, Instruction]]:
    """Executed instructions (index, resolved) in program order, HALT included.

    Raises:
        IllegalProgram: runs off its end, bad loops, more than 10 million instructions.
    """
    file = RegisterFile(registers)
    return [(pc, program[pc].resolved(file.seen)) for pc in _walk(program, file)]


def _walk(program: Sequence[Instruction], file: RegisterFile) -> Iterator[int]:
    """Indices of the instructions that are executed, in order; `file` holds what each of them finds.

    Raises:
        IllegalProgram: as `trace`.
    """
    loops: list[tuple[int, int]] = []
    count = pc = 0
    while True:
        if pc >= len(program):
            raise IllegalProgram("runs past its end without HALT")
        count += 1
        if count > 10_000_000:
            raise IllegalProgram("executes more than 10 million instructions")
        yield pc
        here, pc = pc, pc + 1
        if program[here].opcode not in _CONTROL:
            continue
        i = program[here].resolved(file.seen)
        if i.opcode is Opcode.HALT:
            return
        if i.opcode is Opcode.SET:
            file.seen[i.misc] = i.x
        elif i.opcode is Opcode.WINDOW:
            file.choose(i.x)
        elif i.opcode is Opcode.LOOP:
            if i.z == 0:
                pc += i.y + 1
            else:
                if len(loops) == LOOP_DEPTH:
                    raise IllegalProgram(f"instruction {here}: more than {LOOP_DEPTH} nested loops")
                loops.append((pc, i.z))
        elif i.opcode is Opcode.ENDLOOP:
            if not loops:
                raise IllegalProgram(f"instruction {here}: ENDLOOP without LOOP")
            start, left = loops.pop()
            if left > 1:
                loops.append((start, left - 1))
                pc = start


def check_program(program: Sequence[Instruction], registers: dict[int, int] | None = None) -> None:
    """Check the three rules.

    Args:
        program: instructions from the first to the last.
        registers: what the host writes (slot registers change loop counts).

    Raises:
        IllegalProgram: names the instruction, the semaphore and the rule.
    """
    clocks: dict[Unit, list[int]] = {u: [0] * len(Unit) for u in Unit}  # last instruction of each unit known done
    posts: list[list[Clock]] = [[] for _ in range(SEMAPHORES)]
    waits: list[list[tuple[Unit, int]]] = [[] for _ in range(SEMAPHORES)]
    waiter: dict[int, Unit] = {}
    done = [0] * len(Unit)
    for index in _walk(program, RegisterFile(registers)):
        i = program[index]
        if i.opcode in _CONTROL:
            continue
        own = UNIT_OF[i.opcode]
        clock = clocks[own]
        for sem in i.waits:
            if waiter.setdefault(sem, own) is not own:
                raise IllegalProgram(f"instruction {index}: semaphore {sem} is waited for by two units")
            if len(waits[sem]) >= len(posts[sem]):
                raise IllegalProgram(f"instruction {index}: wait for semaphore {sem} is not met by an earlier post")
            known = posts[sem][len(waits[sem])]
            for u in _UNITS:
                clock[u] = max(clock[u], known[u])
            waits[sem].append((own, done[own] + 1))
        done[own] += 1
        clock[own] = done[own]
        for sem in i.posts:
            over = len(posts[sem]) - SEMAPHORE_MAX
            if over >= 0:
                if over >= len(waits[sem]):
                    raise IllegalProgram(f"instruction {index}: semaphore {sem} may pass {SEMAPHORE_MAX}")
                unit, number = waits[sem][over]
                if clock[unit] < number:
                    raise IllegalProgram(f"instruction {index}: semaphore {sem} may pass {SEMAPHORE_MAX}")
            posts[sem].append(tuple(clock))


def executed(program: Sequence[Instruction], registers: dict[int, int], limit: int) -> int:
    """How many instructions a program executes, HALT included; loops are multiplied out, not walked.

    Args:
        program: instructions from the first to the last.
        registers: what the host writes.
        limit: most instructions.

    Raises:
        IllegalProgram: it runs off its end, has bad loops, or executes more than `limit`.
    """
    loops: list[int] = []
    times, total, pc = 1, 0, 0
    while pc < len(program):
        i = program[pc]
        total += times
        if total > limit:
            raise IllegalProgram(f"instruction {pc}: executes more than {limit} instructions")
        pc += 1
        if i.opcode not in _CONTROL:
            continue
        if i.opcode is Opcode.HALT:
            return total
        if i.opcode is Opcode.LOOP:
            # R1..R7 may change inside loops, and what the host writes to others is unknown: the largest count they could give.
            known = not i.rz or (i.rz in registers and i.rz not in _GENERAL)
            values = every_window(registers, i.rz) if known else ()
            count = max((i.z + value) & 0xFFFF for value in values or (0,)) if known else 0xFFFF
            if count == 0:
                pc += i.y + 1
            elif len(loops) == LOOP_DEPTH:
                raise IllegalProgram(f"instruction {pc - 1}: more than {LOOP_DEPTH} nested loops")
            else:
                loops.append(times)
                times *= count
        elif i.opcode is Opcode.ENDLOOP:
            if not loops:
                raise IllegalProgram(f"instruction {pc - 1}: ENDLOOP without LOOP")
            times = loops.pop()
    raise IllegalProgram("runs past its end without HALT")
