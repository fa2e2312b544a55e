"""What each linear had of a run of the simulator: counters, stalls and bytes, so that they add up to the run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS, Opcode, Unit
from axlora.sim.run import SimResult
from axlora.sim.timeline import Event

from .program import Program
from .run import Layer
from .whole import Whole

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
    shares = zip(owner.layers, counts, moved, cycles, strict=True)
    return tuple(_layer(info.name, info.operator, info.error, c, m, n) for info, c, m, n in shares)


def _layer(name: str, operator: str, error: float | None, counts: Counter[str], moved: Counter[str], cycles: int) -> Layer:
    macs, products = counts["macs"], counts["multiplications"]
    stalls = {u.name.lower(): {key.removeprefix(u.name.lower() + "_"): counts[key] for key in UNIT_COUNTERS[u]} for u in _UNITS}
    return Layer(
        name,
        operator,
        macs,
        products,
        1 - products / macs if macs else 0.0,
        cycles,
        adapter_macs=counts["adapter_macs"],
        adapter_multiplications=counts["adapter_multiplications"],
        bytes_read=moved["LOAD"],
        bytes_written=moved["STORE"],
        stalls=stalls,
        error=error,
    )


def operator_shares(program: Whole, result: SimResult) -> tuple[Layer, ...]:
    """What each operator of a whole model had of a start. A cycle is of the operator whose instruction ends next."""
    count = len(program.operators)
    counts, moved = [Counter[str]() for _ in range(count)], [Counter[str]() for _ in range(count)]
    cycles, reached = [0] * count, 0
    base = program.program[0] // INSTRUCTION_BYTES
    for event in sorted(result.events, key=lambda e: e.done):
        place, unit = int(program.owners[event.work.address // INSTRUCTION_BYTES - base]), event.work.instruction.unit
        counts[place].update(event.work.spent)
        moved[place][unit.name] += event.work.beats * program.target.beat_bytes
        if event.done > reached:
            cycles[place] += event.done - reached
            reached = event.done
    cycles[int(program.owners[-1])] += result.cycles - reached
    shares = zip(program.operators, counts, moved, cycles, strict=True)
    return tuple(_layer(o.name, o.kind, o.error, c, m, n) for o, c, m, n in shares)


def added(runs: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """The same layers of several starts as one."""

    def total(layers: tuple[Layer, ...]) -> Layer:
        first = layers[0]
        numbers = (
            "macs",
            "multiplications",
            "cycles",
            "adapter_macs",
            "adapter_multiplications",
            "bytes_read",
            "bytes_written",
        )
        found: dict[str, Any] = {name: sum(getattr(layer, name) for layer in layers) for name in numbers}
        found["reuse_rate"] = 1 - found["multiplications"] / found["macs"] if found["macs"] else 0.0
        found["stalls"] = {
            unit: {cause: sum(layer.stalls[unit][cause] for layer in layers) for cause in causes}
            for unit, causes in first.stalls.items()
        }
        return replace(first, **found)

    return tuple(total(layers) for layers in zip(*runs, strict=True))
