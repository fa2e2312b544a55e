"""Cycles of other machines on the same starts: what product reuse is measured against (docs/energy.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from axlora.fpga.lanes import compared_lanes, lane_luts
from axlora.isa.target import Target
from axlora.sim.run import run_image

from .engines import Around, Left, Start
from .run import Run

_log = logging.getLogger(__name__)


def machines(target: Target, luts: Callable[[Target], int | None] = lane_luts) -> dict[str, Target | None]:
    """Baseline -> the machine with multipliers (`mac`) in place of the target's engine, every size and buffer kept.

    equal_multipliers: as many a lane and token as the target has (of `table`: as it has adders). unlimited: one a port, so
    that no group waits for a product. equal_area: the most, a power of two, whose lane is not larger than the target's in LUTs
    without DSP blocks; None: the area of one of them is not known, or even one multiplier takes more.
    """
    multipliers = replace(target, engine="mac")
    lanes = compared_lanes(target)
    areas = {lane: area for lane in lanes if (area := luts(lane)) is not None}
    equal = None
    if len(areas) < len(set(lanes)):
        what = "equal_area is null: the lanes of target %r were not synthesized (axlora area --lanes %s)"
        _log.warning(what, target.name, target.name)
    else:
        equal = next((lane for lane in reversed(lanes[1:]) if areas[lane] <= areas[target]), None)
    return {"equal_multipliers": multipliers, "equal_area": equal, "unlimited": replace(multipliers, multipliers=target.ports)}


@dataclass(frozen=True)
class Compared(Around):
    """Runs every start on the baselines' machines too, in the simulator: the same bytes, their cycles alone."""

    machines: dict[str, Target | None]
    cycles: dict[Target, int] = field(default_factory=dict, init=False)

    def start(self, target: Target, start: Start) -> Left:
        """As the engine's."""
        for other in {machine for machine in self.machines.values() if machine is not None}:
            found = run_image(other, start.memory, start.function.address, start.registers)
            self.cycles[other] = self.cycles.get(other, 0) + found.cycles
        return self.engine.start(target, start)

    def compared(self, run: Run) -> Run:
        """The run with its baselines; those of all starts so far.

        memory_bound: the cycles in which the bytes cross the bus, a beat each; reads and writes have channels of their own.
        """
        c = run.counters
        found = {name: None if machine is None else self.cycles[machine] for name, machine in self.machines.items()}
        return replace(run, baselines=found | {"memory_bound": max(c["fetch_beats"] + c["load_beats"], c["store_beats"])})
