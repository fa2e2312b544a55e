"""What each linear had of a run of the simulator: counters, stalls and bytes, so that they add up to the run's."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS, Opcode, Unit
from axlora.sim.run import SimResult
from axlora.sim.timeline import Event

from .program import Program
from .run import Layer

_UNITS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)


class _Owner:
    """Which layer of a stage an instruction works for."""

    def __init__(self, program: Program, stage: int) -> None:
        self.layers = [layer for layer in program.layers if layer.stage == stage]
        self._first = [layer.first for layer in self.layers]
        starts = sorted((min(layer.tiling.weights), place) for place, layer in enumerate(self.layers))
        self._places = [place for _, place in starts]
        self._weights = [program.weights_address + start for start, _ in starts]
        self._end = program.weights_address + len(program.weights)

    def of(self, event: Event) -> int:
        """By the weights that it loads, which go ahead of the rest; else by its place in the program."""
        i = event.work.instruction
        if i.opcode is Opcode.LOAD and self._weights[0] <= i.x < self._end:
            return self._places[int(np.searchsorted(self._weights, i.x, side="right")) - 1]
        index = event.work.address // INSTRUCTION_BYTES
        return max(0, int(np.searchsorted(self._first, index, side="right")) - 1)


def layer_shares(program: Program, stage: int, result: SimResult) -> tuple[Layer, ...]:
    """The layers of one stage, from the events of its run."""
    owner = _Owner(program, stage)
    counts = [Counter[str]() for _ in owner.layers]
    moved = [Counter[str]() for _ in owner.layers]
    ends = [0] * len(owner.layers)
    for event in result.events:
        place, unit = owner.of(event), event.work.instruction.unit
        counts[place].update(event.work.spent)
        moved[place][unit.name] += event.work.beats * program.target.beat_bytes
        if unit is not Unit.LOAD:
            ends[place] = max(ends[place], event.done)
    ends = np.maximum.accumulate(ends).tolist()
    ends[-1] = result.cycles
    cycles = [end - start for start, end in pairwise([0, *ends])]
    layers = []
    for number, info in enumerate(owner.layers):
        c = counts[number]
        macs, products = c["macs"], c["multiplications"]
        stalls = {
            u.name.lower(): {name.removeprefix(u.name.lower() + "_"): c[name] for name in UNIT_COUNTERS[u]} for u in _UNITS
        }
        layers.append(
            Layer(
                info.name,
                info.operator,
                macs,
                products,
                1 - products / macs if macs else 0.0,
                cycles[number],
                adapter_macs=c["adapter_macs"],
                adapter_multiplications=c["adapter_multiplications"],
                bytes_read=moved[number]["LOAD"],
                bytes_written=moved[number]["STORE"],
                stalls=stalls,
                error=info.error,
            )
        )
    return tuple(layers)
