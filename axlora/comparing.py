"""Whether another engine's run is the simulator's."""

from __future__ import annotations

from axlora.isa.opcodes import COUNTERS, UNTIMED

from .run import Run

TIMED = frozenset(c.name for c in COUNTERS if c.unit in ("cycles", "lane-cycles"))
"""Counters that depend on the memory's timing, which a board's SDRAM does not share with the simulator."""
_ALL = tuple(c.name for c in COUNTERS)
COMPARED = {"hls": tuple(UNTIMED), "board-sdram": tuple(name for name in _ALL if name not in TIMED)}
"""View -> the counters that are the simulator's; all, where there is none."""


def compared(view: str) -> tuple[str, ...]:
    """The counters of a view that must be the simulator's."""
    return COMPARED.get(view, _ALL)


def difference(wanted: Run, found: Run) -> str:
    """One line that names the first output or counter in which a run is not the simulator's; empty if none."""
    for name, codes in wanted.codes.items():
        other = found.codes[name]
        if codes.shape != other.shape or (codes != other).any():
            return f"output {name}: {int((codes != other).sum())} of {codes.size} codes differ"
    for name in compared(found.view):
        if wanted.counters[name] != found.counters[name]:
            return f"counter {name}: {wanted.counters[name]} in the simulator, {found.counters[name]} in {found.view}"
    return ""
