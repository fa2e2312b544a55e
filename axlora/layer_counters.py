"""What each layer had of a start on the simulator: counters, stalls and bytes, so that they add up to the run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS
from axlora.sim.timeline import UNITS, Trace

from .machine import Function, Int64, Machine
from .run import Layer


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


def _per_operator(trace: Trace, place: Int64, count: int) -> dict[str, Int64]:
    """Counter -> what each operator had of it: int64 [count]. `place`: operator of each instruction of the trace."""

    def added_up(places: Int64, values: Int64) -> Int64:
        total = np.zeros(count, np.int64)
        np.add.at(total, place[places], values)
        return total

    return {name: added_up(*share) for name, share in trace.shares.items()}


def pieces(trace: Trace, place: Int64, cycles: int, last: int) -> tuple[Int64, Int64]:
    """The cycles of a start in pieces: (operator, cycle in which the piece ends) of each.

    A cycle is of the operator whose instruction ends next; those after all have ended are of `last`.
    """
    order = np.argsort(trace.done, kind="stable")
    return np.append(place[order], last), np.append(trace.done[order], cycles)


def _spans(trace: Trace, place: Int64, count: int, cycles: int, last: int) -> list[int]:
    """Cycles of each operator."""
    whose, ends = pieces(trace, place, cycles, last)
    spans = np.zeros(count, np.int64)
    np.add.at(spans, whose, np.diff(ends, prepend=0))
    return [int(x) for x in spans]


def operator_shares(
    machine: Machine,
    function: Function,
    operators: Sequence[Operator],
    owners: npt.NDArray[np.int32],
    trace: Trace,
    cycles: int,
) -> tuple[Layer, ...]:
    """What each operator had of a start.

    Args:
        owners: operator of each instruction of the function.
    """
    count, beat = len(operators), machine.target.beat_bytes
    place = owners[(trace.address - function.address) // INSTRUCTION_BYTES].astype(np.int64)
    counts = _per_operator(trace, place, count)
    spans = _spans(trace, place, count, cycles, int(owners[-1]))
    nothing = np.zeros(count, np.int64)

    def of(n: int, name: str) -> int:
        return int(counts.get(name, nothing)[n])

    def layer(n: int, o: Operator) -> Layer:
        macs, products = of(n, "macs"), of(n, "multiplications")
        stalls = {
            u.name.lower(): {name.removeprefix(u.name.lower() + "_"): of(n, name) for name in UNIT_COUNTERS[u]} for u in UNITS
        }
        return Layer(
            o.name,
            o.kind,
            macs,
            products,
            1 - products / macs if macs else 0.0,
            spans[n],
            **{name: of(n, name) for name in ("lane_groups", "rescales", "vector_elements")},
            adapter_macs=of(n, "adapter_macs"),
            adapter_multiplications=of(n, "adapter_multiplications"),
            bytes_read=of(n, "load_busy") * beat,
            bytes_written=of(n, "store_busy") * beat,
            stalls=stalls,
            error=o.error,
        )

    return tuple(layer(n, o) for n, o in enumerate(operators))


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
