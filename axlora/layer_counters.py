"""What each layer had of a start on the simulator: counters, stalls and bytes, so that they add up to the run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS, Unit
from axlora.sim.timeline import Event

from .machine import Function, Machine
from .run import Layer

_UNITS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)


@dataclass(frozen=True)
class Operator:
    """An operator of a model: what its instructions work for."""

    name: str
    kind: str
    error: float | None = None
    """See `axlora.run.Layer`."""


def marks(names: Sequence[str], owners: npt.NDArray[np.int32]) -> dict[int, str]:
    """Instruction -> the layer or operator whose instructions begin there; `owners`: its number, of each instruction."""
    return {int(n): names[owners[n]] for n in np.flatnonzero(np.diff(owners, prepend=-1))}


class _Tally:
    """Counters and bytes by layer."""

    def __init__(self, count: int, beat_bytes: int) -> None:
        self.counts, self.moved = [Counter[str]() for _ in range(count)], [Counter[str]() for _ in range(count)]
        self._beat = beat_bytes

    def add(self, place: int, event: Event) -> None:
        """An instruction's."""
        self.counts[place].update(event.work.spent)
        self.moved[place][event.work.instruction.unit.name] += event.work.beats * self._beat

    def layer(self, place: int, name: str, operator: str, error: float | None, cycles: int) -> Layer:
        """What one has."""
        counts, moved = self.counts[place], self.moved[place]
        macs, products = counts["macs"], counts["multiplications"]
        stalls = {
            u.name.lower(): {key.removeprefix(u.name.lower() + "_"): counts[key] for key in UNIT_COUNTERS[u]} for u in _UNITS
        }
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


def operator_shares(
    machine: Machine,
    function: Function,
    operators: Sequence[Operator],
    owners: npt.NDArray[np.int32],
    events: Sequence[Event],
    cycles: int,
) -> tuple[Layer, ...]:
    """What each operator had of a start. A cycle is of the operator whose instruction ends next.

    Args:
        owners: operator of each instruction of the function.
    """
    tally, spans, reached = _Tally(len(operators), machine.target.beat_bytes), [0] * len(operators), 0
    for event in sorted(events, key=lambda e: e.done):
        place = int(owners[(event.work.address - function.address) // INSTRUCTION_BYTES])
        tally.add(place, event)
        if event.done > reached:
            spans[place] += event.done - reached
            reached = event.done
    spans[int(owners[-1])] += cycles - reached
    return tuple(tally.layer(n, o.name, o.kind, o.error, spans[n]) for n, o in enumerate(operators))


def added(runs: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """The same layers of several starts as one."""

    def total(layers: tuple[Layer, ...]) -> Layer:
        first = layers[0]
        numbers = [name for name, value in vars(first).items() if isinstance(value, int)]
        found: dict[str, Any] = {name: sum(getattr(layer, name) for layer in layers) for name in numbers}
        found["reuse_rate"] = 1 - found["multiplications"] / found["macs"] if found["macs"] else 0.0
        found["stalls"] = {
            unit: {cause: sum(layer.stalls[unit][cause] for layer in layers) for cause in causes}
            for unit, causes in first.stalls.items()
        }
        return replace(first, **found)

    return tuple(total(layers) for layers in zip(*runs, strict=True))
