"""Loops: a list of iterations that differ only by constant steps becomes LOOP ... ENDLOOP with registers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from axlora.isa.assembly import make
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import Opcode

FREE_REGISTERS = range(1, 8)


def _steps(first: Instruction, second: Instruction) -> tuple[int, int, int] | None:
    """Differences of x, y, z if nothing else differs."""
    if first is second:
        return 0, 0, 0
    if (
        first.opcode is not second.opcode
        or (first.sub, first.misc, first.rx, first.ry, first.rz) != (second.sub, second.misc, second.rx, second.ry, second.rz)
        or first.waits != second.waits
        or first.posts != second.posts
    ):
        return None
    return second.x - first.x, second.y - first.y, second.z - first.z


def roll(iterations: Sequence[Sequence[Instruction]], registers: Sequence[int] = FREE_REGISTERS) -> list[Instruction]:
    """The iterations as one loop if all steps are constant and registers suffice, else unrolled.

    Args:
        iterations: of equal length; the order of execution.
        registers: registers that the loop may use (they are set before the loop).
    """
    flat = [i for it in iterations for i in it]
    body = list(iterations[0])
    if len(iterations) < 3 or any(len(it) != len(body) for it in iterations):
        return flat
    if any(i.opcode in (Opcode.SET, Opcode.LOOP, Opcode.ENDLOOP) for i in body):
        return flat
    steps = [_steps(a, b) for a, b in zip(body, iterations[1], strict=True)]
    for before, after in itertools.pairwise(iterations):
        if [_steps(a, b) for a, b in zip(before, after, strict=True)] != steps:
            return flat
    owner: dict[int, int] = {}
    rolled = []
    for i, step in zip(body, steps, strict=True):
        if step is None:
            return flat
        names: dict[str, int] = {}
        for name, value in zip(("rx", "ry", "rz"), step, strict=True):
            if value == 0:
                continue
            if getattr(i, name) or (name != "rx" and value < 0) or (value not in owner and len(owner) == len(registers)):
                return flat
            names[name] = owner.setdefault(value, registers[len(owner)] if len(owner) < len(registers) else 0)
        rx, ry, rz = (names.get(name, getattr(i, name)) for name in ("rx", "ry", "rz"))
        rolled.append(replace(i, rx=rx, ry=ry, rz=rz))
    head = [make(Opcode.SET, rd=r, value=0) for r in owner.values()]
    tail = [make(Opcode.SET, rd=r, rx=r, value=value) for value, r in owner.items()]
    size = len(rolled) + len(tail)
    if len(head) + size + 2 >= len(flat):
        return flat
    return [*head, make(Opcode.LOOP, count=len(iterations), body=size), *rolled, *tail, make(Opcode.ENDLOOP)]


PERIODS = (1, 2, 3, 4, 6, 8)
"""Blocks that may make up one iteration: halves alternate, so most loops have a period of two."""


def roll_blocks(plain: Sequence[Sequence[Instruction]], rolled: Sequence[Sequence[Instruction]]) -> list[Instruction]:
    """Blocks in order, runs of them as loops; where no run starts, the block's own rolled form.

    Args:
        plain: instructions of each block without loops.
        rolled: the same blocks with loops inside.
    """
    out: list[Instruction] = []
    place = 0
    while place < len(plain):
        best: tuple[int, int, list[Instruction]] | None = None
        for period in PERIODS:
            count = _repeats(plain, place, period)
            if count < 3:
                continue
            iterations = [
                [i for block in plain[place + n * period : place + (n + 1) * period] for i in block] for n in range(count)
            ]
            loop = roll(iterations)
            saved = sum(map(len, iterations)) - len(loop)
            if saved > 0 and (best is None or saved > best[0]):
                best = saved, period * count, loop
        if best is None:
            out += rolled[place]
            place += 1
        else:
            out += best[2]
            place += best[1]
    return out


def _repeats(blocks: Sequence[Sequence[Instruction]], first: int, period: int) -> int:
    """How many times blocks[first:first+period] repeat with constant steps, counting the first."""
    count = 1
    steps: list[tuple[int, int, int] | None] | None = None
    while first + (count + 1) * period <= len(blocks):
        before = [i for block in blocks[first + (count - 1) * period : first + count * period] for i in block]
        after = [i for block in blocks[first + count * period : first + (count + 1) * period] for i in block]
        if len(before) != len(after):
            break
        now = [_steps(a, b) for a, b in zip(before, after, strict=True)]
        if None in now or (steps is not None and now != steps):
            break
        steps = now
        count += 1
    return count
