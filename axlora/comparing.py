"""Whether another engine's run is the simulator's."""

from __future__ import annotations

from axlora.isa.opcodes import COUNTERS, UNTIMED
from axlora.report.compare import first_difference

from .run import Run

TIMED = frozenset(c.name for c in COUNTERS if c.unit in ("cycles", "lane-cycles"))
"""Counters that depend on the memory's timing, which a board's SDRAM does not share with the simulator."""
_COMPARED = {"hls": tuple(UNTIMED), "board-sdram": tuple(c.name for c in COUNTERS if c.name not in TIMED)}


def compared(view: str) -> tuple[str, ...]:
    """The counters of a view that must be the simulator's."""
    return _COMPARED.get(view, tuple(c.name for c in COUNTERS))


def difference(wanted: Run, found: Run) -> str:
    """One line that names the first output or counter in which a run is not the simulator's; empty if none."""
    return first_difference(wanted.to_json(), found.to_json(), compared(found.view))
