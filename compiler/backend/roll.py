"""Loops: what repeats in a program but for constant steps of its fields becomes LOOP ... ENDLOOP with registers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from axlora.isa.assembly import make
from axlora.isa.instruction import BadInstruction, Instruction, check
from axlora.isa.opcodes import Opcode

FREE_REGISTERS = range(1, 8)
LONGEST = 1024
"""Instructions of the longest round that is looked for."""
REGISTER = (1 << 32) - 1
"""A register counts modulo this and one, fields of 16 bits modulo 2^16: a step may go back."""
SHORTEST_NEST = 12
"""Instructions of the shortest round that is looked through for loops in it."""
INNER_COST = 6
"""Instructions that a loop in a loop costs, about: it must save more."""
Steps = tuple[int, int, int]
"""Of X, Y and Z, modulo 2^32."""
Runs = dict[int, npt.NDArray[np.int32]]
_NO_STEPS: Steps = (0, 0, 0)
CANDIDATES = 4
"""Lengths of a round that are tried at a place, those that save most first."""


def roll(
    program: Sequence[Instruction], kinds: Sequence[Hashable], registers: Sequence[int] = FREE_REGISTERS
) -> tuple[list[Instruction], list[int]]:
    """The program with loops; it executes the same instructions, but for those that count.

    Args:
        program: without loops, and without instructions that set registers.
        kinds: of each instruction; an instruction of a loop has the same in every round.
        registers: which loops may use; they are set before each loop.

    Returns:
        instructions, and of each the number of the one that it stands for; of one that counts, a neighbour's in its loop.
    """
    runs = _runs(program, kinds)
    repeats = np.zeros(len(program), np.bool_)
    for length, run in runs.items():
        repeats |= run >= length
    out: list[Instruction] = []
    of: list[int] = []
    at = 0
    while at < len(program):
        loop, length = _loop(program, runs, at, registers) if repeats[at] else ([], 1)
        for i, place in loop or [(program[at], 0)]:
            out.append(i)
            of.append(at + place)
        at += length
    return out, of


def _runs(program: Sequence[Instruction], kinds: Sequence[Hashable]) -> Runs:
    """Length of a round -> [place]: for how many instructions from there on the next two rounds repeat with the same steps."""
    known: dict[Hashable, int] = {}
    same = ((i.opcode, i.sub, i.misc, i.rx, i.ry, i.rz, i.waits, i.posts, of) for i, of in zip(program, kinds, strict=True))
    kind = np.array([known.setdefault(key, len(known)) for key in same], np.int32)
    fields = np.array([[i.x, i.y, i.z] for i in program], np.int64)
    n = len(program)
    runs: Runs = {}
    for d in range(1, min(LONGEST, n // 3) + 1):
        alike = kind[d:] == kind[:-d]
        if np.diff(np.flatnonzero(~alike), prepend=-1, append=alike.size).max() <= 2 * d:
            continue  # no three rounds
        step = fields[d:] - fields[:-d]
        again = alike[:-d] & alike[d:] & (step[:-d] == step[d:]).all(axis=1)
        # Distance to the next place where it does not hold.
        ends = np.append(np.flatnonzero(~again), again.size)
        run = np.zeros(n, np.int32)
        run[: again.size] = ends[np.searchsorted(ends, np.arange(again.size))] - np.arange(again.size)
        if (run >= d).any():
            runs[d] = run
    return runs


def _loop(
    program: Sequence[Instruction], runs: Runs, at: int, registers: Sequence[int]
) -> tuple[list[tuple[Instruction, int]], int]:
    """The loop that saves most instructions from a place on, and how many of the program's it stands for.

    Of each instruction of the loop: the number of the one that it stands for, or is beside, in the round.
    """
    best: tuple[list[tuple[Instruction, int]], int] = [], 1
    for length, count in _candidates(runs, at):
        loop = _rolled(program[at : at + length], program[at + length : at + 2 * length], count, registers)
        if loop and length * count - len(loop) > max(0, best[1] - len(best[0])):
            best = loop, length * count
    return best


def _candidates(runs: Runs, at: int) -> list[tuple[int, int]]:
    """(instructions of a round, rounds) of the loops at a place that could save most."""
    found = [(length, int(run[at]) // length + 2) for length, run in runs.items() if run[at] >= length]
    return sorted(found, key=lambda each: -(each[1] - 1) * each[0])[:CANDIDATES]


def _rolled(
    first: Sequence[Instruction], second: Sequence[Instruction], count: int, registers: Sequence[int]
) -> list[tuple[Instruction, int]]:
    """`count` rounds as a loop, from the first two, with loops in it or without; nothing if there is no such loop."""
    outer = [_steps(a, b) for a, b in zip(first, second, strict=True)]
    if len({step for steps in outer for step in steps} - {0}) > len(registers):
        return []
    nested = _Nest(first, outer, _inner(first, outer), count).emit(registers)
    return nested or _Nest(first, outer, [_Part(0, len(first), 1, [_NO_STEPS] * len(first))], count).emit(registers)


def _steps(a: Instruction, b: Instruction) -> Steps:
    """From one instruction to its like in the next round."""
    return ((b.x - a.x) & REGISTER, (b.y - a.y) & REGISTER, (b.z - a.z) & REGISTER)


@dataclass(frozen=True)
class _Part:
    """A stretch of a round: `count` rounds of `length` instructions, which make `steps` from one to the next."""

    first: int
    length: int
    count: int
    steps: Sequence[Steps]


def _inner(round_: Sequence[Instruction], outer: Sequence[Steps]) -> list[_Part]:
    """A round cut into loops and what is between them; instructions of a loop have the same outer steps in all its rounds."""
    if len(round_) < SHORTEST_NEST:
        return [_Part(0, len(round_), 1, [_NO_STEPS] * len(round_))]
    runs = _runs(round_, outer)
    parts, at, straight = [], 0, 0

    def between(end: int) -> None:
        if end > straight:
            parts.append(_Part(straight, end - straight, 1, [_NO_STEPS] * (end - straight)))

    while at < len(round_):
        length, count = next(iter(_candidates(runs, at)), (0, 0))
        if (count - 1) * length > INNER_COST:
            between(at)
            steps = [_steps(a, b) for a, b in zip(round_[at : at + length], round_[at + length : at + 2 * length], strict=True)]
            parts.append(_Part(at, length, count, steps))
            at += length * count
            straight = at
        else:
            at += 1
    between(len(round_))
    return parts


class _Nest:
    """A loop over parts, some of them loops: fields go on by (inner, outer) steps, a register for each such pair.

    After n rounds of the nest, and m of a part, a register holds n outer steps and, of all parts so far that use it, their
    rounds' inner ones. So an instruction without inner steps takes any register of its outer step, less what it holds too much.
    """

    def __init__(self, first: Sequence[Instruction], outer: Sequence[Steps], parts: Sequence[_Part], count: int) -> None:
        self._first, self._outer, self._parts, self._count = first, outer, parts, count
        self._held: dict[tuple[int, int], int] = {}
        """(inner step, outer step) -> register."""
        self._more: dict[int, int] = {}
        """Register -> what it holds beyond the outer steps."""

    def emit(self, registers: Sequence[int]) -> list[tuple[Instruction, int]]:
        """The loop, of each instruction with its number in the round; nothing if registers or fields do not allow it."""
        pairs = {pair: None for part in self._parts for pair in self._pairs(part) if pair[0]}
        outer = {pair[1] for pair in pairs}
        pairs |= {(0, s): None for part in self._parts for i, s in self._pairs(part) if not i and s and s not in outer}
        if len(pairs) > len(registers):
            return []
        self._held = dict(zip(pairs, registers, strict=False))
        self._more = dict.fromkeys(self._held.values(), 0)
        body: list[tuple[Instruction, int]] = []
        for part in self._parts:
            made = self._part(part)
            if not made:
                return []
            body += made
        last = len(self._first) - 1
        for (_, step), register in self._held.items():
            body += self._add(register, step - self._more[register], last)
        head = [(make(Opcode.SET, rd=r, value=0), 0) for r in self._held.values()]
        return [*head, (make(Opcode.LOOP, count=self._count, body=len(body)), 0), *body, (make(Opcode.ENDLOOP), last)]

    def _pairs(self, part: _Part) -> Iterator[tuple[int, int]]:
        for n, inner in enumerate(part.steps):
            yield from zip(inner, self._outer[part.first + n], strict=True)

    @staticmethod
    def _add(register: int, step: int, place: int) -> list[tuple[Instruction, int]]:
        step &= REGISTER
        return [(make(Opcode.SET, rd=register, rx=register, value=step), place)] if step else []

    def _part(self, part: _Part) -> list[tuple[Instruction, int]]:
        """A part's instructions; nothing if a field takes no register."""
        out = []
        for n, inner in enumerate(part.steps):
            i = self._stepped(self._first[part.first + n], inner, self._outer[part.first + n])
            if i is None:
                return []
            out.append((i, part.first + n))
        if part.count == 1:
            return out
        last = part.first + part.length - 1
        used = dict.fromkeys(pair for pair in self._pairs(part) if pair[0])
        for pair in used:
            out += self._add(self._held[pair], pair[0], last)
            self._more[self._held[pair]] += part.count * pair[0]
        loop = make(Opcode.LOOP, count=part.count, body=len(out))
        return [(loop, part.first), *out, (make(Opcode.ENDLOOP), last)]

    def _stepped(self, i: Instruction, inner: Steps, outer: Steps) -> Instruction | None:
        """An instruction with registers that add its steps; None if one of its fields takes none."""
        fields, changed = [], False
        for value, own, pair, bits in zip(
            (i.x, i.y, i.z), (i.rx, i.ry, i.rz), zip(inner, outer, strict=True), (32, 16, 16), strict=True
        ):
            register = 0
            if any(pair):
                register = self._held.get(pair) or next(r for held, r in self._held.items() if held[1] == pair[1])
                changed = True
                if own:
                    return None
            fields.append((register or own, (value - self._more.get(register, 0)) % (1 << bits)))
        if not changed:
            return i
        (rx, x), (ry, y), (rz, z) = fields
        made = replace(i, rx=rx, ry=ry, rz=rz, x=x, y=y, z=z)
        return made if _legal(made) else None


def _legal(i: Instruction) -> bool:
    try:
        check(i)
    except BadInstruction:
        return False
    return True
