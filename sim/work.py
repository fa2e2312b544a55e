"""What a run executed, in program order, with what each instruction costs and counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import UNIT_OF, Opcode, Reduce, Row, Unit
from axlora.isa.target import Target
from axlora.timing.matrix import matmul_duration
from axlora.timing.vector import block_quantize_duration, map_duration, requantize_duration, row_duration

from .control import ADDRESS, COLUMNS, OPCODE, REQUESTS, SIGNALS, X
from .counts import BEATS, COSTS, COUNTS, DURATION, FORM
from .execute import unform

Int64 = npt.NDArray[np.int64]
_UNITS = np.array([UNIT_OF[Opcode(n)] if n in list(Opcode) else Unit.FETCH for n in range(64)])


class Record:
    """The executed instructions of a run: what they are, and what they cost and count."""

    def __init__(self) -> None:
        self._parts: list[tuple[Int64, Int64, Int64]] = []

    def add(self, walk: Int64, costs: Int64, counts: Int64) -> None:
        """Instructions in program order: int64 [n, COLUMNS], [n, COSTS] and [n, COUNTS]."""
        self._parts.append((walk, costs, counts))

    def arrays(self, target: Target) -> Recorded:
        """As arrays."""
        nothing = (np.zeros((0, COLUMNS), np.int64), np.zeros((0, COSTS), np.int64), np.zeros((0, len(COUNTS)), np.int64))
        parts = self._parts or [nothing]
        walk, costs, counts = (each[0] if len(each) == 1 else np.concatenate(each) for each in zip(*parts, strict=True))
        return Recorded(target, walk, costs, counts)

    def counted(self) -> dict[str, int]:
        """What all instructions add to each counter."""
        total = sum((counts.sum(axis=0) for _, _, counts in self._parts), np.zeros(len(COUNTS), np.int64))
        return dict(zip(COUNTS, total.tolist(), strict=True))


class Recorded:
    """A `Record` as int64 arrays."""

    def __init__(self, target: Target, walk: Int64, costs: Int64, counts: Int64) -> None:
        self.opcode, self.address, self.requests = walk[:, OPCODE], walk[:, ADDRESS], walk[:, REQUESTS]
        self.unit = _UNITS[self.opcode]
        fields = walk[:, SIGNALS][:, None] >> np.array([0, 5, 10, 15])
        semaphores = np.where(fields & 16, fields & 15, -1)
        self.waits, self.posts = semaphores[:, :2], semaphores[:, 2:]
        """[n, 2] semaphores, -1 for none."""
        self.place = walk[:, X] // target.beat_bytes
        """First beat in memory of a load."""
        self.beats = costs[:, BEATS]
        self.duration = costs[:, DURATION]
        formed = np.flatnonzero(costs[:, FORM])
        forms, which = np.unique(costs[formed, FORM], return_inverse=True)
        self.duration[formed] = np.array([_duration(target, int(number)) for number in forms], np.int64)[which]
        self.counts = counts
        """[n, COUNTS]."""


def _duration(target: Target, number: int) -> int:
    """d of what `form` made a number of."""
    opcode, a, b, c = unform(number)
    match opcode:
        case Opcode.VMAP:
            return map_duration(target, a + 1, b, Reduce(c))
        case Opcode.VROW:
            return row_duration(target, Row(c), a + 1)
        case Opcode.VREQ:
            return requantize_duration(target, (a + 1) * ((c >> 1) + 1), b, bool(c & 1))
        case Opcode.VQT:
            return block_quantize_duration(target, [bool(c >> t & 1) for t in range(a + 1)], b)
    return matmul_duration(target, a + 1, b, c - 1 if c else None)
