"""From instructions with the places they read and write to a program: loads go ahead, semaphores keep the units apart.

Instructions of one unit run in order; across units, one that touches what another has touched (one of them writing) waits for
it. Each ordered pair of units has one semaphore: its posts and waits are met one by one in program order.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from axlora.isa.assembly import make
from axlora.isa.instruction import BadInstruction, Instruction
from axlora.isa.opcodes import MAP_PIPE, REGISTERS_OF_ALL, SEMAPHORE_MAX, UNIT_OF, VPIPE, Buffer, Opcode, Row, Unit
from axlora.timing.memory import ADDRESS
from axlora.timing.vector import ROW_LATENCY

STRETCH = 64
"""Places of a buffer that are looked at together; of memory, whose places are whole regions, each by itself."""
MEMORY = "memory"
"""Name of memory among the buffers of spans."""
UNITS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)
AREA_BITS = 40
FETCH = 14
"""About how many cycles fetch needs an instruction, misses included."""
LATENCY = 42
"""About how many cycles more a transfer takes, where the order of loads follows from when they end."""
LOADS = 16
"""Loads that are looked at for the next one."""
CREDITS = 7
"""Waits beyond the oldest that a poster near the limit asks to be over, so that it need not ask again soon."""
UNKNOWN = 16
"""Stands for a count that a register holds."""
_NONE: frozenset[str] = frozenset()
_OTHERS = {unit: tuple(u for u in UNITS if u is not unit) for unit in UNITS}


class BeyondField(Exception):
    """A value that an operator asks for does not fit the field of an instruction."""

    def __init__(self, owner: int, what: str) -> None:
        """`owner`: the operator; `what`: the instruction, its field and the value."""
        super().__init__(what)
        self.owner = owner


def semaphore(poster: Unit, waiter: Unit) -> int:
    """The semaphore of an ordered pair of units."""
    return 4 * UNITS.index(poster) + _OTHERS[poster].index(waiter)


@dataclass(frozen=True)
class Span:
    """Places `first` .. `stop` - 1 of a buffer, or regions of memory (`where` = `MEMORY`)."""

    where: str
    first: int
    stop: int

    def part(self, number: int, count: int) -> Span:
        """Part `number` of places that are divided into parts of `count`."""
        return Span(self.where, self.first + number * count, self.first + (number + 1) * count)

    def share(self, number: int, parts: int) -> Span:
        """Part `number` of so many equal ones."""
        return self.part(number, (self.stop - self.first) // parts)


@dataclass(slots=True)
class _Step:
    opcode: Opcode
    unit: Unit
    fields: dict[str, int]
    after: set[int]
    """Steps of other units that must be over."""
    owner: int
    """Operator that it works for."""
    cycles: int = 0
    """How long it takes; 0: by `_DURATIONS`."""
    fills: frozenset[str] = _NONE
    """Buffers that it writes, of a load of what the program does not change."""
    window: int | None = None
    """The window of registers that its fields are in; None: of none that windows have."""
    waits: list[int] = field(default_factory=list)
    posts: list[int] = field(default_factory=list)


_Touch = tuple[int, int, int, Unit, bool]
"""First place and the one behind the last, the step, its unit, and whether it writes."""


_IDLE: dict[Unit, tuple[Opcode, dict[str, int]]] = {
    Unit.LOAD: (Opcode.LOAD, {"buffer": Buffer.TBUF}),
    Unit.MATRIX: (Opcode.SEGA, {"segment": 8}),
    Unit.VECTOR: (Opcode.VMAP, {}),
    Unit.STORE: (Opcode.STORE, {}),
}
"""What each unit does to wait or post and nothing else: empty transfers, an unused segment, a map of no words."""


class Schedule:
    """Collects instructions in an order that is right if each runs after the one before it."""

    def __init__(self, dry: bool = False) -> None:
        """`dry`: nothing is kept; for what only the room of buffers is asked of."""
        self.owner = 0
        """Number of the operator that instructions are added for."""
        self.early: int | None = None
        """About how many cycles before it may begin a load is chosen; None: when the one before it begins."""
        self.loads = LOADS
        """Loads that are looked at for the next one."""
        self.window = 0
        """Of the registers that fields name."""
        self.cycles = 0
        """About how many the program takes, once it was made."""
        self._dry = dry
        self._steps: list[_Step] = []
        self._latest: dict[Unit, dict[str, int]] = {}
        self._touched: dict[tuple[str, int], list[_Touch]] = {}
        """Buffer and number of a stretch of places -> what has touched it."""

    def add(
        self, opcode: Opcode, reads: Iterable[Span] = (), writes: Iterable[Span] = (), cycles: int = 0, /, **fields: int
    ) -> None:
        """Append an instruction: its named fields, the places that it reads and writes, and how long it takes, if known."""
        if self._dry:
            return
        unit, number, reads, writes = UNIT_OF[opcode], len(self._steps), tuple(reads), tuple(writes)
        after: set[int] = set()
        for spans, writing in ((reads, False), (writes, True)):
            for span in spans:
                size = 1 if span.where == MEMORY else STRETCH
                for stretch in range(span.first // size, -(-span.stop // size)):
                    start = stretch * size
                    own = (max(span.first, start), min(span.stop, start + size), number, unit, writing)
                    self._touch(self._touched.setdefault((span.where, stretch), []), own, after)
        fills = _NONE
        if unit is Unit.LOAD and not any(span.where == MEMORY for span in reads):
            fills = frozenset(span.where for span in writes)
        window = self.window if any(fields.get(r, 0) >= REGISTERS_OF_ALL for r in ("rx", "ry", "rz")) else None
        self._steps.append(_Step(opcode, unit, fields, after, self.owner, cycles, fills, window))
        self._latest[unit] = fields

    def latest(self, unit: Unit) -> dict[str, int] | None:
        """The fields of the last instruction that was added for a unit, which may be changed; None if there is none."""
        return self._latest.get(unit)

    @staticmethod
    def _touch(touched: list[_Touch], new: _Touch, after: set[int]) -> None:
        """Add a step's touch to those of its stretch; what it must come after is added to `after`."""
        start, end, step, unit, writes = new
        in_order, kept = unit is not Unit.LOAD, []
        for t in touched:
            first, stop, other, of, wrote = t
            if first < end and start < stop:
                own = other == step or (in_order and of is unit)
                if (writes or wrote) and not own:
                    after.add(other)
                if start <= first and stop <= end and (writes or (own and not wrote)):
                    continue
            kept.append(t)
        kept.append(new)
        touched[:] = kept

    @cached_property
    def _final(self) -> list[_Step]:
        """The steps in the program's order, with semaphores, and with windows chosen where that changes."""
        found: list[_Step] = []
        window, order = 0, _Order(self._steps, self.early, self.loads)
        places = order.find()
        self.cycles = order.cycles
        for step in _Semaphores(self._steps, places).steps:
            if step.window not in (None, window):
                window = step.window
                found.append(_Step(Opcode.WINDOW, Unit.FETCH, {"number": window}, set(), step.owner))
            found.append(step)
        return found

    @property
    def owners(self) -> list[int]:
        """The operator of each instruction of the program; HALT's is the last one's."""
        return [s.owner for s in self._final] + [self.owner]

    @property
    def areas(self) -> list[int]:
        """Of each instruction of the program: the area of memory that its address lies in (address >> 40), 0 without one."""
        return [s.fields.get("address", 0) >> AREA_BITS for s in self._final] + [0]

    def program(self, base: Mapping[int, int]) -> list[Instruction]:
        """The instructions with semaphores, HALT last.

        Args:
            base: what is added to the addresses of transfers: key = address >> 40.

        Raises:
            BeyondField: of the first operator that asks for such a value.
        """
        out = []
        for s in self._final:
            address = s.fields.get("address")
            moved = (
                {}
                if address is None
                else {"address": (base[address >> AREA_BITS] + (address & ((1 << AREA_BITS) - 1))) & ADDRESS}
            )
            try:
                out.append(make(s.opcode, waits=s.waits, posts=s.posts, **s.fields | moved))
            except BadInstruction as error:
                raise BeyondField(s.owner, str(error)) from None
        return [*out, make(Opcode.HALT)]


def _transfer(f: Mapping[str, int]) -> int:
    return (f.get("rows", 1) or UNKNOWN) * f.get("beats", 0) + 8


def _product(f: Mapping[str, int]) -> int:
    return (f.get("blocks", 0) or UNKNOWN) * 40


def _map(f: Mapping[str, int]) -> int:
    return (f.get("rows", 1) or UNKNOWN) * (f.get("words", 0) or UNKNOWN) + MAP_PIPE


def _requantize(f: Mapping[str, int]) -> int:
    return (f.get("groups", 0) or UNKNOWN) * f.get("banks", 1) * 2 + VPIPE


def _row(f: Mapping[str, int]) -> int:
    return ROW_LATENCY[Row(f["function"])] + (f.get("rows", 1) or UNKNOWN)


_DURATIONS: dict[Opcode, Callable[[Mapping[str, int]], int]] = {
    Opcode.LOAD: _transfer,
    Opcode.STORE: _transfer,
    Opcode.MATMUL: _product,
    Opcode.VMAP: _map,
    Opcode.VREQ: _requantize,
    Opcode.VQT: _requantize,
    Opcode.VROW: _row,
}
"""About how many cycles a step takes, by its fields; 1 where an opcode is not named. What a register holds is `UNKNOWN`."""


def _duration(step: _Step) -> int:
    known = _DURATIONS.get(step.opcode)
    return step.cycles or (1 if known is None else known(step.fields))


class _Order:
    """Finds the program's order: by when each step could begin, a load when the one before it begins.

    The units other than load keep their own order. Of the next loads the one that can begin first is taken: those that wait for
    the cache do not hold up weights. Fetch hands out an instruction every `FETCH` cycles.
    """

    def __init__(self, steps: Sequence[_Step], early: int | None, window: int) -> None:
        self._steps, self._early, self._window = steps, early, window
        self._missing = [len(step.after) for step in steps]
        """Of each step: how many that it comes after have no place yet."""
        self._ready = [0] * len(steps)
        """Of each step: when those that it comes after and that have a place are over."""
        self._followers: list[list[int]] = [[] for _ in steps]
        for n, step in enumerate(steps):
            for d in step.after:
                self._followers[d].append(n)
        self._free = dict.fromkeys(UNITS, 0)
        self._now = 0

    @property
    def cycles(self) -> int:
        """When the last unit is free."""
        return max(self._free.values())

    def find(self) -> list[int]:
        """Numbers of the steps in the program's order."""
        queues = {u: deque(n for n, step in enumerate(self._steps) if step.unit is u) for u in UNITS}
        loads = queues.pop(Unit.LOAD)
        load_began = 0
        order: list[int] = []
        while len(order) < len(self._steps):
            best: tuple[int, int, int] | None = None
            if (load := self._first_load(loads)) is not None:
                at, n = load
                soon = load_began if self._early is None else self._free[Unit.LOAD] - self._early
                best = (max(load_began, soon, self._now), n, at)
            for unit, queue in queues.items():
                if queue and not self._missing[queue[0]]:
                    start = max(self._now, self._free[unit], self._ready[queue[0]])
                    if best is None or (start, queue[0]) < best[:2]:
                        best = (start, queue[0], start)
            assert best is not None  # the first step without a place comes after none but placed ones
            _, n, at = best
            unit = self._steps[n].unit
            if unit is Unit.LOAD:
                loads.remove(n)
                load_began = at
            else:
                queues[unit].popleft()
            self._put(n, at)
            order.append(n)
        return order

    def _first_load(self, loads: deque[int]) -> tuple[int, int] | None:
        """(when it could begin, step) of the next loads' that can begin first; None if all of them come after others."""
        soonest = max(self._now, self._free[Unit.LOAD])
        if loads and not self._missing[loads[0]] and self._ready[loads[0]] <= soonest:
            return soonest, loads[0]
        best: tuple[int, int] | None = None
        late: set[str] = set()
        """Buffers whose next load is not ready: those behind it would only make it later."""
        for n in itertools.islice(loads, self._window):
            step = self._steps[n]
            if step.fills & late:
                continue
            at = max(soonest, self._ready[n])
            if not self._missing[n]:
                if best is None or at < best[0]:
                    best = (at, n)
                if at == soonest:
                    break
            late |= step.fills
        return best

    def _put(self, n: int, at: int) -> None:
        """Step n gets the next place; it begins at `at`."""
        late = LATENCY if self._early is not None and self._steps[n].unit in (Unit.LOAD, Unit.STORE) else 0
        over = self._free[self._steps[n].unit] = at + _duration(self._steps[n]) + late
        for follower in self._followers[n]:
            self._missing[follower] -= 1
            self._ready[follower] = max(self._ready[follower], over)
        self._now += FETCH


class _Semaphores:
    """Walks the steps in program order and gives each wait a post."""

    def __init__(self, steps: Sequence[_Step], order: Iterable[int]) -> None:
        """`order`: numbers of the steps."""
        self.steps: list[_Step] = []
        self._own: dict[Unit, list[int]] = {u: [] for u in UNITS}
        """Places of each unit's steps in `steps`."""
        self._known: dict[Unit, list[dict[Unit, int]]] = {u: [] for u in UNITS}
        """After each step of a unit: how many steps of every unit are then known to be over."""
        self._last: dict[tuple[Unit, Unit], int] = {}
        """Of a pair: how many steps of the poster its posts so far cover."""
        self._waited: dict[tuple[Unit, Unit], list[int]] = {}
        """Of a pair: the waiter's step of each wait."""
        place: dict[int, int] = {}
        for n in order:
            self._take(steps[n], [place[d] for d in steps[n].after])
            place[n] = len(self.steps) - 1

    def _view(self, unit: Unit) -> dict[Unit, int]:
        return dict(self._known[unit][-1]) if self._known[unit] else dict.fromkeys(UNITS, 0)

    def _append(self, step: _Step, view: dict[Unit, int]) -> None:
        unit = step.unit
        self._own[unit].append(len(self.steps))
        self.steps.append(step)
        view[unit] = len(self._own[unit])
        self._known[unit].append(view)

    def _take(self, step: _Step, after: Sequence[int]) -> None:
        unit = step.unit
        needed: dict[Unit, int] = {}
        for place in after:
            other = self.steps[place].unit
            if other is unit:
                continue
            needed[other] = max(needed.get(other, 0), bisect.bisect_right(self._own[other], place))
        view = self._view(unit)
        waits = [other for other in UNITS if needed.get(other, 0) > view[other]]
        for other in waits:
            if needed[other] <= view[other]:
                continue  # a wait before it has shown that
            if len(step.waits) == 2:
                idle = _idle(unit, step.owner, step.waits)
                step.waits = []
                self._append(idle, dict(view))
                view = self._view(unit)
            self._post(other, unit, needed[other])
            step.waits.append(semaphore(other, unit))
            reached = self._last[other, unit]
            self._waited.setdefault((other, unit), []).append(len(self._own[unit]) + 1)
            seen = self._known[other][reached - 1]
            view = {u: max(view[u], seen[u]) for u in UNITS}
        self._append(step, view)

    def _post(self, poster: Unit, waiter: Unit, needed: int) -> None:
        """A post of the poster's step number `needed` or a later one, for the waiter's next wait."""
        sem, pair = semaphore(poster, waiter), (poster, waiter)
        first = max(needed, self._last.get(pair, 0) + 1)
        number = next(
            (n for n in range(first, len(self._own[poster]) + 1) if len(self.steps[self._own[poster][n - 1]].posts) < 2), 0
        )
        waited = self._waited.get(pair, [])
        over = len(waited) - SEMAPHORE_MAX
        if number and over >= 0 and self._known[poster][number - 1][waiter] < waited[over]:
            number = 0  # could pass 15: the post comes after a wait for the waiter
        if not number:
            view = self._view(poster)
            idle = _idle(poster, self.steps[-1].owner, [])
            if over >= 0 and view[waiter] < waited[over]:
                self._post(waiter, poster, waited[over + CREDITS])
                idle.waits.append(semaphore(waiter, poster))
                self._waited.setdefault((waiter, poster), []).append(len(self._own[poster]) + 1)
                seen = self._known[waiter][self._last[waiter, poster] - 1]
                view = {u: max(view[u], seen[u]) for u in UNITS}
            self._append(idle, view)
            number = len(self._own[poster])
        self.steps[self._own[poster][number - 1]].posts.append(sem)
        self._last[pair] = number


def _idle(unit: Unit, owner: int, waits: list[int]) -> _Step:
    """A step that waits and posts, and does nothing else."""
    opcode, fields = _IDLE[unit]
    return _Step(opcode, unit, dict(fields), set(), owner, waits=waits)
