"""Loops: what repeats in a program but for constant steps of its fields becomes LOOP ... ENDLOOP with registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from axlora.isa.assembly import make
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import Opcode

FREE_REGISTERS = range(1, 8)
LONGEST = 256
"""Instructions of the longest round that is looked for."""
CANDIDATES = 4
"""Lengths of a round that are tried at a place, those that save most first."""


def roll(
    program: Sequence[Instruction], owners: Sequence[int], registers: Sequence[int] = FREE_REGISTERS
) -> tuple[list[Instruction], list[int]]:
    """The program with loops; it executes the same instructions, but for those that count.

    Args:
        program: without loops, and without instructions that set registers.
        owners: of each instruction; an instruction of a loop has the same in every round.
        registers: which loops may use; they are set before each loop.

    Returns:
        instructions, and the owner of each.
    """
    runs = _runs(program, owners)
    repeats: npt.NDArray[np.bool_] = np.any(runs[1:] >= np.arange(1, len(runs))[:, None], axis=0)
    out: list[Instruction] = []
    of: list[int] = []
    at = 0
    while at < len(program):
        loop, length, body = _loop(program, runs[:, at], at, registers) if repeats[at] else ([], 1, 0)
        out += loop or [program[at]]
        # What sets the registers stands before and behind the body.
        around = (len(loop) - body) // 2
        of += [owners[at + min(max(0, n - around), max(0, body - 1))] for n in range(max(1, len(loop)))]
        at += length
    return out, of


def _runs(program: Sequence[Instruction], owners: Sequence[int]) -> npt.NDArray[np.int32]:
    """[length of a round, place]: for how many instructions from there on the next two rounds repeat with the same steps."""
    kinds: dict[object, int] = {}
    same = ((i.opcode, i.sub, i.misc, i.rx, i.ry, i.rz, i.waits, i.posts, of) for i, of in zip(program, owners, strict=True))
    kind = np.array([kinds.setdefault(key, len(kinds)) for key in same])
    fields = np.array([[i.x, i.y, i.z] for i in program], np.int64)
    n = len(program)
    runs = np.zeros((min(LONGEST, n // 3) + 1, n), np.int32)
    for d in range(1, len(runs)):
        alike, step = kind[d:] == kind[:-d], fields[d:] - fields[:-d]
        again = alike[:-d] & alike[d:] & (step[:-d] == step[d:]).all(axis=1)
        # Distance to the next place where it does not hold.
        ends = np.append(np.flatnonzero(~again), again.size)
        runs[d, : again.size] = ends[np.searchsorted(ends, np.arange(again.size))] - np.arange(again.size)
    return runs


def _loop(
    program: Sequence[Instruction], runs: npt.NDArray[np.int32], at: int, registers: Sequence[int]
) -> tuple[list[Instruction], int, int]:
    """The loop that saves most instructions from a place on, how many of the program's it stands for, those of a round."""
    lengths = np.arange(len(runs))
    rounds = np.where(runs >= lengths, runs // np.maximum(lengths, 1) + 2, 0)
    saved = (rounds - 1) * lengths
    best: tuple[list[Instruction], int, int] = [], 1, 0
    for d in np.argsort(-saved, kind="stable")[:CANDIDATES]:
        if saved[d] <= 0:
            break
        length, count = int(d), int(rounds[d])
        loop = _rolled(program[at : at + length], program[at + length : at + 2 * length], count, registers)
        if loop and length * count - len(loop) > max(0, best[1] - len(best[0])):
            best = loop, length * count, length
    return best


def _rolled(
    first: Sequence[Instruction], second: Sequence[Instruction], count: int, registers: Sequence[int]
) -> list[Instruction]:
    """`count` rounds as a loop, from the first two; nothing if there are not registers enough."""
    owner: dict[int, int] = {}
    body = []
    for a, b in zip(first, second, strict=True):
        steps = (b.x - a.x, b.y - a.y, b.z - a.z)
        if min(steps[1:]) < 0 or any(step and used for step, used in zip(steps, (a.rx, a.ry, a.rz), strict=True)):
            return []
        for step in steps:
            if step and step not in owner:
                if len(owner) == len(registers):
                    return []
                owner[step] = registers[len(owner)]
        rx, ry, rz = (owner[step] if step else own for step, own in zip(steps, (a.rx, a.ry, a.rz), strict=True))
        body.append(replace(a, rx=rx, ry=ry, rz=rz))
    head = [make(Opcode.SET, rd=r, value=0) for r in owner.values()]
    tail = [make(Opcode.SET, rd=r, rx=r, value=step) for step, r in owner.items()]
    return [*head, make(Opcode.LOOP, count=count, body=len(body) + len(tail)), *body, *tail, make(Opcode.ENDLOOP)]
