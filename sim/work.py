"""What dispatched instructions cost, and how one is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import ErrorCode, Unit
from axlora.isa.target import Target

from .errors import MachineError

Int64 = npt.NDArray[np.int64]


@dataclass
class Work:
    """What one dispatched instruction costs: for load and store the transfer, for the others the duration."""

    instruction: Instruction
    address: int
    """Byte address of the instruction in memory."""
    duration: int = 1
    beats: int = 0
    """Beats that load or store moves."""
    counters: dict[str, int] = field(default_factory=dict)
    """What it adds to the machine's counters; also adapter_macs and adapter_multiplications, which are the simulator's own."""

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


class Recorded(NamedTuple):
    """A `Record` as int64 arrays."""

    unit: Int64
    waits: Int64
    """[n, 2] semaphores, -1 for none."""
    posts: Int64
    place: Int64
    """First beat in memory of a load."""
    beats: Int64
    duration: Int64


def _pair(semaphores: tuple[int, ...]) -> tuple[int, int]:
    return (*semaphores, -1, -1)[:2]  # type: ignore[return-value]


class Record:
    """The executed instructions of a run, in program order, with what each costs."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        """Resolved."""
        self.addresses: list[int] = []
        self.counts: dict[str, tuple[list[int], list[int]]] = {}
        """Counter -> instructions, and what each adds."""
        self._requests: list[int] = []
        self._costs: list[tuple[int, int]] = []

    def add(self, instruction: Instruction, address: int, requests: int, work: Work | None) -> None:
        """An instruction; `requests` are `control.Requests`, `work` that of those that are not fetch's own."""
        if work is None:
            self._costs.append((0, 0))
        else:
            self._costs.append((work.beats, work.duration))
            place = len(self.addresses)
            for name, value in work.counters.items():
                if name not in self.counts:
                    self.counts[name] = ([], [])
                places, values = self.counts[name]
                places.append(place)
                values.append(value)
        self.instructions.append(instruction)
        self.addresses.append(address)
        self._requests.append(requests)

    def requests_array(self) -> Int64:
        """Cache lines that each instruction makes fetch ask for: int64 [n], `control.Requests`."""
        return np.array(self._requests, np.int64)

    def arrays(self, target: Target) -> Recorded:
        """As arrays."""
        ids = np.fromiter(map(id, self.instructions), np.int64, len(self.instructions))
        _, first, which = np.unique(ids, return_index=True, return_inverse=True)  # the same object is executed again and again
        forms = [(i.unit, *_pair(i.waits), *_pair(i.posts), i.x) for i in (self.instructions[n] for n in first)]
        unit, *semaphores, x = np.array(forms, np.int64).reshape(-1, 6)[which].T.copy()
        beats, duration = np.array(self._costs, np.int64).reshape(-1, 2).T.copy()
        duration[unit == Unit.LOAD] = 2
        waits, posts = np.stack(semaphores[:2], axis=1), np.stack(semaphores[2:], axis=1)
        return Recorded(unit, waits, posts, x // target.beat_bytes, beats, duration)
