"""Run a memory image on the simulator: outputs, cycles, every performance counter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import COUNTERS, UNIT_COUNTERS, Unit
from axlora.isa.target import Target

from .control import Control
from .errors import MachineError
from .state import Machine
from .timeline import Trace, check, timeline
from .weights import WeightCache
from .work import Record

_SHARED_CACHE = WeightCache()


@dataclass(frozen=True)
class SimResult:
    """What a run leaves behind."""

    memory: npt.NDArray[np.uint8]
    cycles: int
    counters: dict[str, int]
    trace: Trace | None
    """None if untimed."""


def run_image(
    target: Target,
    memory: npt.NDArray[np.uint8] | bytes,
    program: int,
    registers: dict[int, int] | None = None,
    mem_limit: int | None = None,
    *,
    timing: bool = True,
    cache: WeightCache | None = None,
    bad: range = range(0),
) -> SimResult:
    """Power up, run the program at byte address `program` until HALT.

    Args:
        target: the machine.
        memory: uint8 image of the memory; copied.
        registers: values the host wrote to R1..R31.
        mem_limit: bytes the program may touch; default the whole image.
        timing: False leaves cycles and the cycle counters at zero.
        cache: decoded weights and timings to reuse; default one per process.
        bad: byte addresses that answer load and store with an AXI error.

    Raises:
        MachineError: where the machine would stop with an error.
    """
    data = np.array(np.frombuffer(memory, np.uint8) if isinstance(memory, bytes) else memory, np.uint8)
    limit = data.size if mem_limit is None else mem_limit
    cache = _SHARED_CACHE if cache is None else cache
    cache.new_run()
    machine = Machine(target, data, limit, cache, bad)
    control = Control(target, data, program, registers or {}, limit)
    record = Record()
    untimed: dict[str, int] = {}
    try:
        for instruction, address, requests in control.walk():
            work = None if instruction.unit is Unit.FETCH else machine.execute(instruction, address)
            if timing:
                record.add(instruction, address, requests, work)
            elif work is not None:
                for name, value in work.counters.items():
                    untimed[name] = untimed.get(name, 0) + value
    except MachineError:
        if timing:
            check(target, record)  # the watchdog may have come before
        raise
    if not timing:
        return SimResult(data, 0, {c.name: untimed.get(c.name, 0) for c in COUNTERS}, None)
    found = timeline(target, record)
    counters = {c.name: found.counters.get(c.name, 0) for c in COUNTERS} | {"cycles": found.cycles}
    for unit, names in UNIT_COUNTERS.items():
        total = sum(counters[n] for n in names)
        assert total == found.cycles, f"{unit.name} counters add up to {total}, not {found.cycles}"
    return SimResult(data, found.cycles, counters, found.trace)
