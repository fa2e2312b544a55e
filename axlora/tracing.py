"""Traces of runs on the simulator: what every unit did in every cycle, for which layer, and what it waited for."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.isa.opcodes import INSTRUCTION_BYTES, UNIT_COUNTERS, Opcode, Unit
from axlora.isa.target import Target
from axlora.report.trace import Counter, Slices, write
from axlora.sim.timeline import UNITS, Trace

from .engines import Left, Simulator, Start
from .inputs import BadInput
from .layer_counters import pieces
from .machine import Function, Int64
from .program import Program

LIMIT = 200_000
"""Most slices of a trace, unless another number is given."""
_WINDOWS = 1024
"""Most points of a counter."""
_NAMED = 8
"""Most layers that an error names."""
_STARTS, _LAYERS, _FIRST_UNIT = range(3)
_TRACKS = ("starts", "layers", *(u.name.lower() for u in UNITS))
_BEFORE = ("idle", "weights", "semaphore")
"""Causes of waiting before an instruction is accepted, in the order in which they follow each other."""
_TIMED = {name for names in UNIT_COUNTERS.values() for name in names}
OTHERS, SEVERAL, MERGED = "other layers", "several layers", "instructions"
"""Names of slices: layers that were not chosen; layers, instructions that are one slice."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """What is kept of a start."""

    function: Function
    trace: Trace
    counters: dict[str, int]

    @property
    def cycles(self) -> int:
        """Of the start."""
        return self.counters["cycles"]


@dataclass(frozen=True)
class Traced:
    """The simulator as an engine that keeps what the instructions of every start did."""

    layers: Sequence[str] = ("*",)
    """Patterns (`fnmatch`) of the layers that are shown one by one; the others are one slice where they meet."""
    limit: int = LIMIT
    """Most slices of a trace. Where there are more, neighbours are merged, and a warning says so: sums stay."""
    starts: list[Started] = field(default_factory=list, init=False)
    """In the order in which they ran."""
    view = "sim"
    clock_mhz = None

    def start(self, target: Target, start: Start) -> Left:
        """As `Engine.start`."""
        left = Simulator().start(target, replace(start, trace=True))
        assert left.trace is not None
        self.starts.append(Started(start.function, left.trace, left.counters))
        return left

    def trace(self, program: Program) -> bytes:
        """The starts so far as a file for Perfetto (docs/trace.md); a cycle is a nanosecond.

        Args:
            program: whose starts they are.

        Raises:
            BadInput: no such layer; the limit is too small for the starts.
        """
        limit, names = self.limit, _Names(program, chosen_layers(program, self.layers))
        for coarse in _coarser(max(start.cycles for start in self.starts)):
            shown = _Shown(names, self.starts, coarse)
            if len(shown.slices) <= limit:
                break
        else:
            fewest = len(shown.slices)
            raise BadInput(f"the trace has at least {fewest} slices", "--trace-limit", f"a limit of {fewest} or more")
        if coarse != _Coarse():
            what = "layers and instructions" if coarse.span else f"instructions less than {coarse.gap:,} cycles apart"
            arrows = f", and {shown.hidden:,} arrows have none" if shown.hidden else ""
            text = "to have at most %d slices the trace has one for neighbouring %s%s (--trace-layers, --trace-limit)"
            _log.warning(text, limit, what, arrows)
        file = io.BytesIO()
        counters = _counters(program.target, self.starts)
        title = f"{program.target.name}, 1 cycle = 1 ns"
        write(file, title, _TRACKS, list(names.known), shown.slices, shown.flows, counters)
        return file.getvalue()


def chosen_layers(program: Program, patterns: Sequence[str]) -> set[str]:
    """The layers that one of the patterns matches.

    Raises:
        BadInput: a pattern that matches none.
    """
    layers = {name for n in range(len(program.functions)) for name in program.interface.marks(program, n).values()}
    for pattern in patterns:
        if not any(_is(name, pattern) for name in layers):
            known = ", ".join(sorted(layers)[:_NAMED]) + (", ..." if len(layers) > _NAMED else "")
            raise BadInput(f"no layer is {pattern!r}", "--trace-layers", f"there are {known}")
    return {name for name in layers if any(_is(name, pattern) for pattern in patterns)}


def _is(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


@dataclass(frozen=True)
class _Coarse:
    """What is merged, on each track for itself."""

    gap: int = 0
    """Instructions of one layer that follow each other within less cycles."""
    span: int = 0
    """Layers that follow each other, each for less cycles."""


def _coarser(most: int) -> Iterator[_Coarse]:
    """Every instruction by itself, then coarser and coarser; `most` cycles of a start."""
    yield _Coarse()
    steps = [4**n for n in range(most.bit_length() // 2 + 2)]
    yield from (_Coarse(gap) for gap in steps)
    yield from (_Coarse(steps[-1], span) for span in steps[1:])


class _Names:
    """Names of slices by number, and the layer of each instruction."""

    def __init__(self, program: Program, chosen: set[str]) -> None:
        self.known: dict[str, int] = {}
        self._owners: dict[int, Int64] = {}
        for n, f in enumerate(program.functions):
            marks = program.interface.marks(program, n)
            layers = [self.number(name if name in chosen else OTHERS) for name in marks.values()]
            lengths = np.diff([*marks, f.size // INSTRUCTION_BYTES])
            self._owners[f.address] = np.repeat(np.array(layers, np.int64), lengths)

    def number(self, name: str) -> int:
        """The number of a name."""
        return self.known.setdefault(name, len(self.known))

    def owners(self, function: Function) -> Int64:
        """The name of the layer of each instruction of a function."""
        return self._owners[function.address]


def _firsts(*columns: npt.NDArray[Any]) -> Int64:
    """Places at which a column differs from the place before, the first included."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(changed)


Args = dict[str, Int64]
_NO_ARGS: Args = {}


class _Shown:
    """The slices of starts, and the arrows between them."""

    def __init__(self, names: _Names, starts: Sequence[Started], coarse: _Coarse) -> None:
        self._names, self._coarse = names, coarse
        self._parts: list[Slices] = []
        self._count = self._base = 0
        signals = [np.zeros((0, 2), np.int64)]
        for start in starts:
            function, trace, cycles, owners = start.function, start.trace, start.cycles, names.owners(start.function)
            own = {name: np.array([value]) for name, value in start.counters.items()}
            self._add(_STARTS, np.array([0]), np.array([cycles]), 0, np.array([names.number(function.name)]), own)
            places = (trace.address - function.address) // INSTRUCTION_BYTES
            self._layers(trace, owners[places], int(owners[-1]), cycles)
            slices = np.zeros(len(places), np.int64)
            for track, unit in enumerate(UNITS, _FIRST_UNIT):
                on = np.flatnonzero(trace.unit == unit)
                slices[on] = self._unit(track, unit, trace, on, owners[places[on]], cycles)
            signals.append(slices[trace.signals])
            self._base += cycles
        self.slices = Slices.joined(self._parts)
        one, other = pairs = np.concatenate(signals).T
        self.flows = np.unique(pairs.T[self.slices.begin[one] < self.slices.begin[other]], axis=0)
        self.hidden = pairs.shape[1] - len(self.flows)
        """Posts that were taken and have no arrow of their own."""

    def _add(self, track: int, begin: Int64, end: Int64, depth: int, name: Int64, args: Args = _NO_ARGS) -> int:
        """Add slices of a start, those without cycles left out; the number of the first."""
        kept = np.flatnonzero(end > begin)
        args = {key: values[kept] for key, values in args.items()}
        same = np.ones(len(kept), np.int64)
        begin, end = begin[kept] + self._base, end[kept] + self._base
        self._parts.append(Slices(track * same, begin, end, depth * same, name[kept], args))
        self._count += len(kept)
        return self._count - len(kept)

    def _merged(self, owner: Int64, begin: Int64, end: Int64) -> Int64:
        """Owners of pieces that follow each other, where short ones are of several layers."""
        firsts = _firsts(owner)
        lasts = np.append(firsts[1:], len(owner)) - 1
        short = np.repeat(end[lasts] - begin[firsts] < self._coarse.span, lasts - firsts + 1)
        return np.where(short, self._names.number(SEVERAL), owner)

    def _layers(self, trace: Trace, owner: Int64, last: int, cycles: int) -> None:
        """Whose instruction ends next."""
        owner, end = pieces(trace, owner, cycles, last)
        begin = np.concatenate([[0], end[:-1]])
        kept = end > begin
        owner = self._merged(owner[kept], begin[kept], end[kept])
        firsts = _firsts(owner)
        self._add(_LAYERS, begin[kept][firsts], np.append(begin[kept][firsts[1:]], cycles), 0, owner[firsts])

    def _unit(self, track: int, unit: Unit, trace: Trace, on: Int64, owner: Int64, cycles: int) -> Int64:
        """A unit of a start: layers, in them instructions and what they waited for, in these what held them up.

        Returns:
            The number of the slice of each of its instructions `on`.
        """
        number = self._names.number
        if not on.size:
            self._add(track, np.array([0]), np.array([cycles]), 0, np.array([number("idle")]))
            return on
        accept, done = trace.accept[on], trace.done[on]
        free = np.concatenate([[0], done[:-1]])
        end = np.append(done[:-1], cycles)

        def share(name: str) -> Int64:
            found = np.zeros(len(trace.unit), np.int64)
            if name in trace.shares:
                at, values = trace.shares[name]
                found[at] = values
            return found[on]

        prefix = unit.name.lower() + "_"
        causes = {name.removeprefix(prefix): share(name) for name in UNIT_COUNTERS[unit] if name != f"{prefix}busy"}
        causes["idle"] -= 1 + end - done  # the cycle that accepts; at the end of the start
        before = [cause for cause in _BEFORE if cause in causes]
        owner = self._merged(owner, free, end)
        runs = _firsts(owner)
        self._add(track, free[runs], np.append(free[runs[1:]], cycles), 0, owner[runs])
        whole = np.isin(owner, [number(OTHERS), number(SEVERAL)])
        apart = np.cumsum((accept - free >= self._coarse.gap) & ~whole)
        firsts = _firsts(owner, apart)
        now = free[firsts]
        for cause in before:
            self._add(track, now, now + causes[cause][firsts], 1, np.full(len(firsts), number(cause)))
            now = now + causes[cause][firsts]
            causes[cause][firsts] = 0
        sizes = np.diff(np.append(firsts, len(on)))
        opcode = trace.opcode[on]
        mixed = np.maximum.reduceat(opcode, firsts) != np.minimum.reduceat(opcode, firsts)
        opcodes = np.array([number(Opcode(int(code)).name) for code in opcode[firsts]])
        args = {name: np.add.reduceat(share(name), firsts) for name in trace.shares if name not in _TIMED}
        args |= {"first instruction": trace.address[on][firsts] // INSTRUCTION_BYTES}
        args |= {"instructions": sizes, "accepting": sizes}
        names = np.where(mixed, number(MERGED), opcodes)
        first = self._add(track, now, done[firsts + sizes - 1], 1, names, args)
        now = now + 1
        for cause, values in causes.items():
            lost = np.add.reduceat(values, firsts)
            self._add(track, now, now + lost, 2, np.full(len(firsts), number(cause)))
            now = now + lost
        self._add(track, done[-1:], end[-1:], 1, np.array([number("idle")]))
        return first + np.repeat(np.arange(len(firsts)), sizes)


def _counters(target: Target, starts: Sequence[Started]) -> list[Counter]:
    """Rates over windows of equal length; an instruction's share is spread over the cycles in which it executes."""
    total = sum(start.cycles for start in starts)
    window = 1 << max(4, (total // _WINDOWS).bit_length())
    edges = np.append(np.arange(0, total, window), total)
    rates = {"MACs a cycle": ("macs", 1), "multiplications a cycle": ("multiplications", 1)}
    rates |= {"vector elements a cycle": ("vector_elements", 1), "bytes read a cycle": ("load_busy", target.beat_bytes)}
    rates |= {"bytes written a cycle": ("store_busy", target.beat_bytes)}
    rates |= {f"{unit.name.lower()} busy, %": (f"{unit.name.lower()}_busy", 100) for unit in UNITS}
    found = []
    for title, (name, scale) in rates.items():
        times, amounts, base = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)], 0
        for start in starts:
            if name in start.trace.shares:
                places, values = start.trace.shares[name]
                times.append(np.stack([start.trace.accept[places] + 1, start.trace.done[places]], axis=1) + base)
                amounts.append(values)
            base += start.cycles
        whole = np.cumsum(np.concatenate(amounts))
        if whole.size and whole[-1]:
            sums = np.stack([np.append(0, whole[:-1]), whole], axis=1)
            at = np.interp(edges, np.concatenate(times).ravel(), sums.ravel())
            rate = np.append(scale * np.diff(at) / np.diff(edges), 0.0)
            changes = _firsts(rate)
            found.append(Counter(title, edges[changes], rate[changes]))
    return found
