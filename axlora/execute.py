"""A run from what its starts left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from .engines import Engine, Left
from .machine import Int64, Machine
from .run import Layer, Run, Step


def run_of(
    m: Machine,
    engine: Engine,
    outputs: Mapping[str, npt.NDArray[Any]],
    codes: Mapping[str, Int64],
    lefts: Sequence[Left],
    layers: tuple[Layer, ...],
    saturated: int = 0,
) -> Run:
    """The run: cycles and counters are sums over the starts; each start's steps come after those before."""
    counters = {name: sum(left.counters[name] for left in lefts) for name in lefts[0].counters}
    steps: list[Step] = []
    base = 0
    for left in lefts:
        steps += [replace(s, accept=s.accept + base, done=s.done + base) for s in left.steps]
        base += left.counters["cycles"]
    target = m.target if engine.clock_mhz is None else replace(m.target, clock_mhz=engine.clock_mhz)
    return Run(
        target,
        engine.view,
        dict(outputs),
        dict(codes),
        counters["cycles"],
        counters,
        layers,
        tuple(steps),
        m.host_macs,
        saturated,
    )
