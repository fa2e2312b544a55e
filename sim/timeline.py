"""When everything happens: accept and done times of every instruction, and the cycle counters.

All rules are in docs/isa.md, Cycles. Instructions are dispatched in program order, so every time is a maximum of earlier
times, except on the read channel, which load and fetch share: load's bursts are therefore advanced only as far as fetch is
known not to interfere (fetch is granted first and its grants never wait).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from numba import njit

from axlora.isa.opcodes import (
    CACHE_LINE_BYTES,
    FETCH_FLIGHTS,
    INSTRUCTION_BYTES,
    QUEUE_DEPTH,
    SEMAPHORE_MAX,
    SEMAPHORES,
    ErrorCode,
    Unit,
    poster,
)
from axlora.isa.target import Target
from axlora.timing.memory import burst_beats

from .control import Requests
from .errors import MachineError
from .work import Record

Int64 = npt.NDArray[np.int64]
UNITS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)
_LANES = len(Unit)
_FOREVER = 1 << 62
_FREE, _FETCHED, _LINES, _LOADING, _NEXT, _LEFT, _EARLIEST, _GRANTED, _LAST, _NOW, _CLOCK = range(11)
"""Places in `_State.now`: cycle after the last beat promised; fetch's last grant, lines granted; the load that transfers,
or -1; its next beat in memory, beats that are not asked for, the earliest cycle of its next grant, bursts granted, the cycle
of its last beat; the cycle of fetch's next LOOKUP; places in all."""


class _State(NamedTuple):
    """The machine between two instructions, in arrays that numba writes."""

    program: tuple[Int64, Int64, Int64, Int64, Int64, Int64]
    """Of each instruction: unit, waits [n, 2], posts [n, 2] (-1: none), first beat in memory, beats, duration."""
    fetches: tuple[Int64, Int64, Int64]
    """Of each instruction: its line's place in the cache, 1 if it is asked for; the place it asks for ahead, or -1."""
    parameters: tuple[int, int, int, int]
    """Read latency, outstanding bursts, beats of a burst, beats of a cache line."""
    times: Int64
    """[6, n]: visible, accept, done, then cycles idle, waiting for load, waiting for others, before accept."""
    queue: Int64
    """Instructions by unit, each unit's from `first` on."""
    first: Int64
    length: Int64
    next: Int64
    """First that is not accepted, counted from `first`."""
    done: Int64
    """Cycle from which each unit is idle, as far as known."""
    sems: Int64
    """[semaphore]: where its posts and takes begin."""
    posts: Int64
    """Cycle of each post."""
    by: Int64
    """Instruction of each post."""
    posted: Int64
    takes: Int64
    taken: Int64
    ring: Int64
    """Cycle of the last beat of load's last bursts."""
    lines: Int64
    """[place in the cache]: cycle from which the line is there."""
    flights: Int64
    """Cycle from which each of fetch's last lines is there."""
    now: Int64


@njit(cache=True)
def _grant(s: _State) -> int:
    """Cycle in which load's next burst would be granted, were there no further fetch."""
    now, outstanding = s.now, s.parameters[1]
    cycle = now[_EARLIEST]
    if now[_GRANTED] >= outstanding:
        cycle = max(cycle, s.ring[now[_GRANTED] % outstanding] + 1)
    return int(cycle + 1 if cycle == now[_FETCHED] else cycle)


@njit(cache=True)
def _step(s: _State) -> bool:
    """Grant load's next burst; whether the transfer is complete."""
    now = s.now
    latency, outstanding, burst, _ = s.parameters
    cycle = _grant(s)
    beats = burst_beats(now[_NEXT], now[_LEFT], burst)
    now[_FREE] = max(cycle + 1 + latency, now[_FREE]) + beats
    now[_LAST] = now[_FREE] - 1
    s.ring[now[_GRANTED] % outstanding] = now[_LAST]
    now[_GRANTED] += 1
    now[_NEXT] += beats
    now[_LEFT] -= beats
    now[_EARLIEST] = cycle + 2
    if now[_LEFT] == 0:
        _end(s, now[_LOADING], now[_LAST] + 2)
        now[_LOADING] = -1
        return True
    return False


@njit(cache=True)
def _end(s: _State, i: int, done: int) -> None:
    """An instruction's unit is idle again in cycle `done`."""
    s.times[2, i] = done
    s.done[s.program[0][i]] = done
    for k in range(2):
        sem = s.program[2][i, k]
        if sem >= 0:
            place = s.sems[sem] + s.posted[sem]
            s.posts[place], s.by[place] = done, i
            s.posted[sem] += 1


@njit(cache=True)
def _accept(s: _State, unit: int) -> bool:
    """Accept the head of a unit's queue, if all that it waits for is known."""
    if unit == Unit.LOAD and s.now[_LOADING] >= 0:
        return False
    i = s.queue[s.first[unit] + s.next[unit]]
    waits, begin = s.program[1], max(s.times[0, i], s.done[unit])
    accept = weights = begin
    for k in range(2):
        sem = waits[i, k]
        if sem >= 0:
            number = s.taken[sem] + (1 if k == 1 and waits[i, 0] == sem else 0)
            if number >= s.posted[sem]:
                return False
            post = s.posts[s.sems[sem] + number]
            accept = max(accept, post)
            if sem < 4:
                weights = max(weights, post)
    for k in range(2):
        sem = waits[i, k]
        if sem >= 0:
            s.takes[s.sems[sem] + s.taken[sem]] = accept
            s.taken[sem] += 1
    s.times[1, i], s.times[3, i] = accept, begin - s.done[unit] + 1
    s.times[4, i], s.times[5, i] = weights - begin, accept - weights
    s.next[unit] += 1
    _, _, _, first, beats, duration = s.program
    if unit == Unit.LOAD and beats[i]:
        now = s.now
        now[_LOADING], now[_NEXT], now[_LEFT], now[_EARLIEST], now[_GRANTED] = i, first[i], beats[i], accept + 2, 0
    else:
        _end(s, i, accept + duration[i])
    return True


@njit(cache=True)
def _settle(s: _State, limit: int) -> None:
    """Accept whatever can be; grant load's bursts before cycle `limit`."""
    progress = True
    while progress:
        progress = False
        for unit in range(Unit.LOAD, Unit.STORE + 1):
            while s.next[unit] < s.length[unit] and _accept(s, unit):
                progress = True
        while s.now[_LOADING] >= 0 and _grant(s) < limit:
            progress = _step(s) or progress


@njit(cache=True)
def _request(s: _State, place: int, cycle: int) -> int:
    """Fetch asks for a line from `cycle` on; the cycle in which it is granted: one of the flights must be free."""
    now, flights = s.now, s.flights
    cycle = max(cycle, flights[now[_LINES] % len(flights)])
    _settle(s, cycle)
    now[_FETCHED] = cycle
    now[_FREE] = max(cycle + 1 + s.parameters[0], now[_FREE]) + s.parameters[3]
    s.lines[place] = flights[now[_LINES] % len(flights)] = now[_FREE]
    now[_LINES] += 1
    return cycle


@njit(cache=True)
def _look_up(s: _State, i: int) -> int:
    """LOOKUP until the line is there, and what is asked for ahead in RESOLVE; cycles lost."""
    now = s.now
    places, asked, ahead = s.fetches
    place, first = places[i], now[_NOW]
    if asked[i]:
        _request(s, place, first + 1)
        first += 1  # the LOOKUP that finds nothing
    now[_NOW] = max(first, s.lines[place]) + 2
    lost = now[_NOW] - 2 - first
    if ahead[i] >= 0:
        granted = _request(s, ahead[i], now[_NOW])
        lost += granted - now[_NOW]
        now[_NOW] = granted
    now[_NOW] += 1
    return int(lost)


@njit(cache=True)
def _run(s: _State) -> tuple[int, int, int]:
    """Feed on the instructions in program order.

    Returns:
        (-1, or the instruction at which fetch waits forever; cycles of cache misses, of full queues).
    """
    now, unit, times = s.now, s.program[0], s.times
    misses = full = 0
    for i in range(len(unit)):
        misses += _look_up(s, i)
        u = unit[i]
        if u != Unit.FETCH:
            behind = s.length[u] - QUEUE_DEPTH
            if behind >= 0:
                _settle(s, now[_NOW])
                while s.next[u] <= behind:
                    if now[_LOADING] < 0:
                        return i, misses, full
                    _step(s)
                    _settle(s, 0)
                wait = times[1, s.queue[s.first[u] + behind]] + 1 - now[_NOW]
                if wait > 0:
                    full += wait
                    now[_NOW] += wait
            s.queue[s.first[u] + s.length[u]] = i
            s.length[u] += 1
            times[0, i] = now[_NOW] + 1
        now[_NOW] += 1
    return -1, misses, full


@njit(cache=True)
def _halt(s: _State) -> int:
    """HALT in ISSUE, which `_run` took for another control instruction: cycles until all is idle; -1: never."""
    _settle(s, _FOREVER)
    for u in range(Unit.LOAD, Unit.STORE + 1):
        if s.next[u] < s.length[u]:
            return -1
    wait = max(0, max(s.done.max(), s.flights.max()) - (s.now[_NOW] - 1))
    s.now[_NOW] += wait
    return int(wait)


@njit(cache=True)
def _overflow(s: _State) -> tuple[int, int]:
    """(semaphore, instruction) of a post that finds a count of 15 and stops the machine; -1: there is none."""
    for sem in range(SEMAPHORES):
        taken = 0
        for number in range(s.posted[sem]):
            time = s.posts[s.sems[sem] + number]
            while taken < s.taken[sem] and s.takes[s.sems[sem] + taken] < time:
                taken += 1
            if number - taken >= SEMAPHORE_MAX:
                return sem, s.by[s.sems[sem] + number]
    return -1, -1


Shares = dict[str, tuple[Int64, Int64]]
"""Counter -> instructions of a `Trace`, and what each adds to it."""


@dataclass(frozen=True)
class Trace:
    """Every executed instruction of load, matrix, vector and store, in program order: int64 arrays [n]."""

    unit: Int64
    address: Int64
    """Byte address in memory."""
    accept: Int64
    """Cycle."""
    done: Int64
    """Cycle from which its unit is idle again."""
    shares: Shares
    """Its share of the counters, the wait before it included; also adapter_macs and adapter_multiplications."""

    def total(self, name: str) -> int:
        """A counter over all instructions."""
        return int(self.shares[name][1].sum()) if name in self.shares else 0


@dataclass(frozen=True)
class Timeline:
    """Times and cycle counters of a program that ended."""

    cycles: int
    counters: dict[str, int]
    trace: Trace


def _starts(numbers: Int64, count: int) -> Int64:
    """Where each of 0..count-1 begins in an array that is sorted by them."""
    return np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=count))])[:count].astype(np.int64)


def _fetches(target: Target, record: Record) -> tuple[Int64, Int64, Int64]:
    """`_State.fetches`."""
    addresses, requests = np.array(record.addresses, np.int64), record.requests_array()
    line, place = addresses // CACHE_LINE_BYTES, addresses % CACHE_LINE_BYTES // INSTRUCTION_BYTES
    own, ahead = (requests & int(Requests.OWN) != 0).astype(np.int64), requests & int(Requests.AHEAD) != 0
    places = line % target.icache_lines
    return places, own, np.where(ahead, (line + 1 + place) % target.icache_lines, -1)


def _state(target: Target, record: Record) -> _State:
    a = record.arrays(target)
    n = len(a.unit)
    semaphores = np.concatenate([a.posts.ravel(), a.waits.ravel()])  # no semaphore is taken more often than it is named
    sems = _starts(semaphores[semaphores >= 0], SEMAPHORES)

    def zeros(count: int) -> Int64:
        return np.zeros(count, np.int64)

    now = zeros(_CLOCK)
    now[[_FETCHED, _LOADING]] = -1
    return _State(
        program=(a.unit, a.waits, a.posts, a.place, a.beats, a.duration),
        fetches=_fetches(target, record),
        parameters=(target.read_latency, target.outstanding, target.burst_beats, CACHE_LINE_BYTES // target.beat_bytes),
        times=np.zeros((6, n), np.int64),
        queue=zeros(n),
        first=_starts(a.unit, _LANES),
        length=zeros(_LANES),
        next=zeros(_LANES),
        done=zeros(_LANES),
        sems=sems,
        posts=zeros(semaphores.size),
        by=zeros(semaphores.size),
        posted=zeros(SEMAPHORES),
        takes=zeros(semaphores.size),
        taken=zeros(SEMAPHORES),
        ring=zeros(target.outstanding),
        lines=zeros(target.icache_lines),
        flights=zeros(FETCH_FLIGHTS),
        now=now,
    )


def _hang(s: _State, record: Record, place: int) -> NoReturn:
    """The watchdog: fetch stands at an instruction, and what it waits for never comes."""
    unit = next(u for u in UNITS if s.next[u] < s.length[u])
    stuck = int(s.queue[s.first[unit] + s.next[unit]])
    i = record.instructions[stuck]
    detail = f"{i.opcode.name} at {record.addresses[stuck]:#x} waits for {i.waits}"
    raise MachineError(ErrorCode.WATCHDOG, Unit.FETCH, record.addresses[place], detail)


def check(target: Target, record: Record) -> None:
    """Whether a program that has not ended hangs before its last instruction leaves fetch.

    Raises:
        MachineError: code 8, the watchdog.
    """
    s = _state(target, record)
    place, _, _ = _run(s)
    if place >= 0:
        _hang(s, record, place)


def timeline(target: Target, record: Record) -> Timeline:
    """Times of a program that ended with HALT.

    Raises:
        MachineError: code 8, the watchdog; code 6, a semaphore that overflows.
    """
    s = _state(target, record)
    place, misses, full = _run(s)
    if place >= 0:
        _hang(s, record, place)
    waited = _halt(s)
    sem, by = _overflow(s)
    if sem >= 0:
        raise MachineError(ErrorCode.SEMAPHORE, poster(sem), record.addresses[by], f"semaphore {sem} beyond {SEMAPHORE_MAX}")
    if waited < 0:
        _hang(s, record, len(record.addresses) - 1)
    cycles = int(s.now[_NOW])
    shares = _shares(s, record, cycles)
    counters = {name: int(values.sum()) for name, (_, values) in shares.items()}
    for unit in UNITS:
        if not s.length[unit]:
            counters[f"{unit.name.lower()}_idle"] = cycles
    count = len(record.addresses)
    counters |= {"instructions": count, "fetch_miss": misses, "fetch_queue": full, "fetch_halt": waited}
    counters |= {"fetch_busy": 4 * count + int(s.fetches[1].sum()), "fetch_beats": int(s.now[_LINES]) * s.parameters[3]}
    counters |= {"load_beats": counters.get("load_busy", 0), "store_beats": counters.get("store_busy", 0)}
    return Timeline(cycles, counters, _trace(s, record, shares))


def _shares(s: _State, record: Record, cycles: int) -> Shares:
    """What each instruction had of its unit's cycle counters, and what its action counted."""
    unit, _, _, _, beats, duration = s.program
    shares = {
        name: (np.array(places, np.int64), np.array(values, np.int64)) for name, (places, values) in record.counts.items()
    }
    for u in UNITS:
        places = np.flatnonzero(unit == u)
        if not places.size:
            continue
        _, accept, done, idle, weights, others = s.times[:, places]
        idle[-1] += cycles - s.done[u]
        own = {"idle": idle, "semaphore": weights + others}
        if u is Unit.VECTOR:
            own["busy"] = duration[places] - 1
        if u is Unit.MATRIX:
            waited = np.zeros(len(unit), np.int64)
            for name in ("matrix_raw", "matrix_product"):
                of, cycles_of = shares.get(name, (places[:0], places[:0]))
                waited[of] += cycles_of
            own = {"idle": idle, "weights": weights, "semaphore": others, "busy": (duration - 1 - waited)[places]}
        if u in (Unit.LOAD, Unit.STORE):
            own |= {"busy": beats[places], "memory": done - accept - 1 - beats[places]}
        shares |= {f"{u.name.lower()}_{cause}": (places, values) for cause, values in own.items()}
    return shares


def _trace(s: _State, record: Record, shares: Shares) -> Trace:
    """Without the control instructions."""
    unit = s.program[0]
    kept = np.flatnonzero(unit != Unit.FETCH)
    number = np.cumsum(unit != Unit.FETCH) - 1
    addresses = np.array(record.addresses, np.int64)
    moved = {name: (number[places], values) for name, (places, values) in shares.items()}
    return Trace(unit[kept], addresses[kept], s.times[1, kept], s.times[2, kept], moved)
