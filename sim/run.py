"""Run a memory image on the simulator: outputs, cycles, every performance counter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import COUNTERS, UNIT_COUNTERS, UNIT_OF, Opcode
from axlora.isa.target import Target

from .control import ADDRESS, OPCODE, Control
from .counts import COSTS, COUNTS
from .errors import MachineError
from .execute import execute
from .faults import FAULT, ROOM, stopped
from .state import power_up
from .tiles import Tiles, room_for
from .timeline import Trace, check, timeline
from .work import Record

_KEPT: dict[Target, Tiles] = {}
"""Tiles of the target that ran last: runs find them again by their content."""


@dataclass(frozen=True)
class SimResult:
    """What a run leaves behind."""

    memory: npt.NDArray[np.uint8]
    cycles: int
    counters: dict[str, int]
    trace: Trace | None
    """None if untimed."""


def _tiles(target: Target, remembered: int, codes: int = 0) -> Tiles:
    """The tiles that are kept; none yet where there is no room for a tile of `codes`, or all those that are to be known."""
    found = _KEPT.get(target)
    if found is None or len(found.values) < codes or len(found.words) < remembered // 8:
        _KEPT.clear()
        found = _KEPT[target] = room_for(target, codes, remembered)
    return found


class Machine:
    """State and the action of instructions on it."""

    def __init__(self, target: Target, memory: npt.NDArray[np.uint8], limit: int, bad: range, remembered: int = 0) -> None:
        """`remembered`: as of `run_image`."""
        self._target, self._remembered = target, remembered
        self._size, self._state = power_up(target, memory, limit, bad)

    def carry_out(self, walk: npt.NDArray[np.int64], record: Record, moved: npt.NDArray[np.int64] | None = None) -> None:
        """Carry out instructions of a walk, and record them.

        Args:
            moved: the walk with the addresses in memory that hold what lies at those of `walk`; None: they are the same.

        Raises:
            MachineError: as the machine would stop; those before it are recorded.
        """
        moved = walk if moved is None else moved
        costs, counts = np.zeros((len(walk), COSTS), np.int64), np.zeros((len(walk), len(COUNTS)), np.int64)
        fault, at = np.zeros(FAULT, np.int64), 0
        tiles = _tiles(self._target, self._remembered)
        while (at := execute(self._size, self._state, tiles, moved, at, costs, counts, fault)) < len(walk):
            if fault[0] != ROOM:
                record.add(walk[:at], costs[:at], counts[:at])
                raise stopped(UNIT_OF[Opcode(int(walk[at, OPCODE]))], int(walk[at, ADDRESS]), fault)
            tiles = _tiles(self._target, self._remembered, int(fault[1]))
            fault[:] = 0
        record.add(walk, costs, counts)


def run_image(
    target: Target,
    memory: npt.NDArray[np.uint8] | bytes,
    program: int,
    registers: dict[int, int] | None = None,
    mem_limit: int | None = None,
    *,
    timing: bool = True,
    bad: range = range(0),
    moved: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]] | None = None,
    checked: bool = False,
    remembered: int = 0,
) -> SimResult:
    """Power up, run the program at byte address `program` until HALT.

    Args:
        target: the machine.
        memory: uint8 image of the memory; copied.
        registers: values the host wrote to R1..R31.
        mem_limit: bytes the program may touch, at most the whole image; default all of it.
        timing: False leaves cycles and the cycle counters at zero.
        bad: byte addresses that answer load and store with an AXI error.
        moved: as of `Machine.carry_out`, of each walk.
        checked: the instructions are known to be legal.
        remembered: codes of which it is known how long they take, at least: of a program with the same weights again and again.

    Raises:
        MachineError: where the machine would stop with an error.
    """
    data = np.array(np.frombuffer(memory, np.uint8) if isinstance(memory, bytes) else memory, np.uint8)
    limit = data.size if mem_limit is None else mem_limit
    if limit > data.size:
        raise ValueError(f"a limit of {limit} bytes, the memory has {data.size}")
    machine = Machine(target, data, limit, bad, remembered)
    control = Control(target, data, program, registers or {}, limit, checked)
    record = Record()
    try:
        while not control.ended:
            walk = control.walk()
            machine.carry_out(walk, record, None if moved is None else moved(walk))
        if control.error is not None:
            raise control.error
    except MachineError:
        if timing:
            check(target, record)  # the watchdog may have come before
        raise
    if not timing:
        untimed = record.counted()
        return SimResult(data, 0, {c.name: untimed.get(c.name, 0) for c in COUNTERS}, None)
    found = timeline(target, record)
    counters = {c.name: found.counters.get(c.name, 0) for c in COUNTERS} | {"cycles": found.cycles}
    for unit, names in UNIT_COUNTERS.items():
        total = sum(counters[n] for n in names)
        assert total == found.cycles, f"{unit.name} counters add up to {total}, not {found.cycles}"
    return SimResult(data, found.cycles, counters, found.trace)
