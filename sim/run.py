"""Run a memory image on the simulator: outputs, cycles, every performance counter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import COUNTERS, UNIT_COUNTERS, Opcode, Unit
from axlora.isa.target import Target

from .control import Control
from .state import Machine
from .timeline import Event, Timeline
from .weights import WeightCache

_SHARED_CACHE = WeightCache()


@dataclass(frozen=True)
class SimResult:
    """What a run leaves behind."""

    memory: npt.NDArray[np.uint8]
    cycles: int
    counters: dict[str, int]
    events: tuple[Event, ...]
    """In order of acceptance per unit, only if asked for."""


def run_image(
    target: Target,
    memory: npt.NDArray[np.uint8] | bytes,
    program: int,
    registers: dict[int, int] | None = None,
    mem_limit: int | None = None,
    *,
    keep_events: bool = False,
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
    line = Timeline(target, keep_events)
    cycles = 0
    functional: dict[str, int] = {}
    for instruction, address, missed in control.walk():
        if instruction.unit is not Unit.FETCH:
            work = machine.execute(instruction, address)
            if timing:
                line.dispatch(work, missed)
            else:
                for name, value in work.counters.items():
                    functional[name] = functional.get(name, 0) + value
        elif timing and instruction.opcode is Opcode.HALT:
            cycles = line.halt(missed, address)
        elif timing:
            line.control(missed)
    counted = line.counters if timing else functional
    counters = {c.name: counted.get(c.name, 0) for c in COUNTERS}
    counters["cycles"] = cycles
    if timing:
        for unit, names in UNIT_COUNTERS.items():
            total = sum(counters[n] for n in names)
            assert total == cycles, f"{unit.name} counters add up to {total}, not {cycles}"
    return SimResult(data, cycles, counters, tuple(line.events or ()))
