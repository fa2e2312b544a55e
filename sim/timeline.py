"""When everything happens: accept and done times of every instruction, and the cycle counters.

All rules are in docs/isa.md, Cycles. Instructions are dispatched in program order, so every time is a maximum of earlier
times, except on the read channel, which load and fetch share: load's bursts are therefore advanced only as far as fetch is
known not to interfere (fetch is granted first and its grants never wait).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from axlora.isa.opcodes import (
    CACHE_LINE_BYTES,
    QUEUE_DEPTH,
    SEMAPHORE_MAX,
    SEMAPHORES,
    ErrorCode,
    Opcode,
    Unit,
    poster,
)
from axlora.isa.target import Target
from axlora.timing.memory import bursts, store_duration

from .errors import MachineError
from .work import Work

FOREVER = 1 << 62


@dataclass(frozen=True)
class Event:
    """One executed instruction: accepted in cycle `accept`, its unit idle again in cycle `done`."""

    work: Work
    accept: int
    done: int


@dataclass
class _Lane:
    """One unit's queue."""

    works: list[Work] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)
    accepts: list[int] = field(default_factory=list)
    done: int = 0
    """Cycle from which the unit is idle, as far as known."""
    next: int = 0
    """First work not accepted."""


class _ReadBus:
    """The read channel with the memory model; load's transfer in progress."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.latency = target.read_latency
        self.free = 0  # cycle after the last beat promised
        self.fetch_grant = -1
        self.pending: list[int] = []
        self.place = 0
        self.earliest = 0
        self.finished: list[int] = []  # cycle of the last beat of each granted burst
        self.first = 0

    def fetch(self, cycle: int, beats: int) -> int:
        """Fetch is granted in `cycle`; returns the cycle of its last beat."""
        self.fetch_grant = cycle
        first = max(cycle + 1 + self.latency, self.free)
        self.free = first + beats
        return first + beats - 1

    def start(self, accept: int, address: int, beats: int) -> None:
        """Load accepts a transfer."""
        self.pending = list(bursts(self.target, address, beats))
        self.place = 0
        self.earliest = accept + 2
        self.first = len(self.finished)

    def grant(self) -> int:
        """Cycle in which load's next burst would be granted, were there no further fetch."""
        cycle = self.earliest
        behind = len(self.finished) - self.target.outstanding
        if behind >= self.first:
            cycle = max(cycle, self.finished[behind] + 1)
        return cycle + 1 if cycle == self.fetch_grant else cycle

    def step(self) -> None:
        """Grant load's next burst."""
        cycle = self.grant()
        first = max(cycle + 1 + self.latency, self.free)
        self.free = first + self.pending[self.place]
        self.finished.append(self.free - 1)
        self.place += 1
        self.earliest = cycle + 2

    @property
    def complete(self) -> bool:
        """All bursts of the transfer were granted."""
        return self.place == len(self.pending)


class Timeline:
    """Feeds on (work, cache miss) in program order; see `dispatch`, `control`, `halt`."""

    def __init__(self, target: Target, keep_events: bool = False) -> None:
        self.target = target
        self.now = 0  # the cycle of fetch's next LOOKUP
        self.lanes = {u: _Lane() for u in (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)}
        self.posts: list[list[int]] = [[] for _ in range(SEMAPHORES)]
        self.posters: list[list[int]] = [[] for _ in range(SEMAPHORES)]
        self.takes: list[list[int]] = [[] for _ in range(SEMAPHORES)]
        self.bus = _ReadBus(target)
        self.loading: Work | None = None
        self.counters: dict[str, int] = {}
        self.events: list[Event] | None = [] if keep_events else None

    def count(self, name: str, value: int, work: Work | None = None) -> None:
        """Add to a counter, and to the share of the instruction that caused it."""
        self.counters[name] = self.counters.get(name, 0) + value
        if work is not None and self.events is not None:
            work.spent[name] = work.spent.get(name, 0) + value

    def _lookup(self, missed: bool) -> None:
        """LOOKUP, with REQ and WAIT on a miss, then DECODE and RESOLVE; leaves `now` at the first cycle of ISSUE."""
        if missed:
            request = self.now + 1
            self._settle(request)
            beats = CACHE_LINE_BYTES // self.target.beat_bytes
            last = self.bus.fetch(request, beats)
            self.count("fetch_miss", last - request + 1)
            self.count("fetch_beats", beats)
            self.count("fetch_busy", 1)
            self.now = last + 1
        self.now += 3
        self.count("fetch_busy", 3)

    def control(self, missed: bool) -> None:
        """A control instruction other than HALT."""
        self._lookup(missed)
        self._leave()

    def _leave(self) -> None:
        self.count("fetch_busy", 1)
        self.count("instructions", 1)
        self.now += 1

    def dispatch(self, work: Work, missed: bool) -> None:
        """An instruction of load, matrix, vector or store."""
        self._lookup(missed)
        lane = self.lanes[work.instruction.unit]
        behind = len(lane.works) - QUEUE_DEPTH
        if behind >= 0:
            self._settle(self.now)
            while len(lane.accepts) <= behind:
                self._advance_load(work.address)
                self._settle(0)
            wait = lane.accepts[behind] + 1 - self.now
            if wait > 0:
                self.count("fetch_queue", wait)
                self.now += wait
        lane.works.append(work)
        lane.visible.append(self.now + 1)
        self._leave()

    def halt(self, missed: bool, address: int) -> int:
        """HALT at `address`; returns the total cycles."""
        self._lookup(missed)
        self._settle(FOREVER)
        self._check_semaphores()
        if any(lane.next < len(lane.works) for lane in self.lanes.values()):
            self._hang(address)
        wait = max([lane.done for lane in self.lanes.values()]) - self.now
        if wait > 0:
            self.count("fetch_halt", wait)
            self.now += wait
        self._leave()
        for unit, lane in self.lanes.items():
            self.count(f"{unit.name.lower()}_idle", self.now - lane.done, lane.works[-1] if lane.works else None)
        return self.now

    def _settle(self, limit: int) -> None:
        """Accept whatever can be; grant load's bursts before cycle `limit`."""
        progress = True
        while progress:
            progress = False
            for unit, lane in self.lanes.items():
                while lane.next < len(lane.works) and self._accept(unit, lane):
                    progress = True
            while self.loading is not None and self.bus.grant() < limit:
                self.bus.step()
                progress = self._finish_load() or progress

    def _advance_load(self, address: int) -> None:
        if self.loading is None:
            self._hang(address)
        self.bus.step()
        self._finish_load()

    def _hang(self, address: int) -> NoReturn:
        """The watchdog: fetch stands at `address`, and what it waits for never comes."""
        stuck = next(lane.works[lane.next] for lane in self.lanes.values() if lane.next < len(lane.works))
        detail = f"{stuck.instruction.opcode.name} at {stuck.address:#x} waits for {stuck.instruction.waits}"
        raise MachineError(ErrorCode.WATCHDOG, Unit.FETCH, address, detail)

    def _finish_load(self) -> bool:
        work = self.loading
        if work is None or not self.bus.complete:
            return False
        self.loading = None
        lane = self.lanes[Unit.LOAD]
        done = self.bus.finished[-1] + 2
        self.count("load_busy", work.beats, work)
        self.count("load_beats", work.beats)
        self.count("load_memory", done - lane.accepts[-1] - 1 - work.beats, work)
        self._done(Unit.LOAD, lane, work, done)
        return True

    def _accept(self, unit: Unit, lane: _Lane) -> bool:
        if unit is Unit.LOAD and self.loading is not None:
            return False
        work = lane.works[lane.next]
        visible = lane.visible[lane.next]
        begin = max(visible, lane.done)
        accept = weights = begin
        wanted: dict[int, int] = {}
        for sem in work.instruction.waits:
            number = len(self.takes[sem]) + wanted.get(sem, 0)
            if number >= len(self.posts[sem]):
                return False
            wanted[sem] = wanted.get(sem, 0) + 1
            accept = max(accept, self.posts[sem][number])
            if sem < 4:
                weights = max(weights, self.posts[sem][number])
        for sem in work.instruction.waits:
            self.takes[sem].append(accept)
        name = unit.name.lower()
        self.count(f"{name}_idle", begin - lane.done + 1, work)
        if unit is Unit.MATRIX:
            self.count("matrix_weights", weights - begin, work)
            self.count("matrix_semaphore", accept - weights, work)
        else:
            self.count(f"{name}_semaphore", accept - begin, work)
        lane.accepts.append(accept)
        lane.next += 1
        if unit is Unit.LOAD and work.beats:
            self.loading = work
            self.bus.start(accept, work.instruction.x, work.beats)
            return True
        self._done(unit, lane, work, accept + self._duration(unit, work))
        return True

    def _duration(self, unit: Unit, work: Work) -> int:
        if unit is Unit.LOAD:
            self.count("load_memory", 1, work)
            return 2
        if work.instruction.opcode is Opcode.STORE:
            duration = store_duration(self.target, work.bursts)
            self.count("store_busy", work.beats, work)
            self.count("store_beats", work.beats)
            self.count("store_memory", duration - 1 - work.beats, work)
            return duration
        self.count(f"{unit.name.lower()}_busy", work.busy, work)
        for name, value in work.counters.items():
            self.count(name, value, work)
        return work.duration

    def _done(self, unit: Unit, lane: _Lane, work: Work, done: int) -> None:
        lane.done = done
        for sem in work.instruction.posts:
            self.posts[sem].append(done)
            self.posters[sem].append(work.address)
        if self.events is not None:
            self.events.append(Event(work, lane.accepts[-1], done))

    def _check_semaphores(self) -> None:
        """A post that finds a count of 15 stops the machine."""
        for sem, (posts, takes) in enumerate(zip(self.posts, self.takes, strict=True)):
            taken = 0
            for number, time in enumerate(posts):
                while taken < len(takes) and takes[taken] < time:
                    taken += 1
                if number - taken >= SEMAPHORE_MAX:
                    detail = f"semaphore {sem} beyond {SEMAPHORE_MAX}"
                    raise MachineError(ErrorCode.SEMAPHORE, poster(sem), self.posters[sem][number], detail)
