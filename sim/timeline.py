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

from axlora.isa.compiled import cached, inner
from axlora.isa.opcodes import (
    CACHE_LINE_BYTES,
    FETCH_FLIGHTS,
    INSTRUCTION_BYTES,
    QUEUE_DEPTH,
    SEMAPHORE_MAX,
    SEMAPHORES,
    ErrorCode,
    Opcode,
    Unit,
    poster,
)
from axlora.isa.target import Target
from axlora.timing.memory import burst_beats

from .control import Requests
from .counts import COUNTS, PRODUCT, RAW
from .errors import MachineError
from .work import Record, Recorded

Int64 = npt.NDArray[np.int64]
UNITS = (Unit.LOAD, Unit.MATRIX, Unit.VECTOR, Unit.STORE)
_LANES = len(Unit)
_FOREVER = 1 << 62
_FREE, _FETCHED, _LINES, _LOADING, _NEXT, _LEFT, _EARLIEST, _GRANTED, _LAST, _NOW, _CLOCK = range(11)
"""Places in `_State.now`: cycle after the last beat promised; fetch's last grant, lines granted; the load that transfers,
or -1; its next beat in memory, beats that are not asked for, the earliest cycle of its next grant, bursts granted, the cycle
of its last beat; the cycle of fetch's next LOOKUP; places in all."""


_UNIT, _WAITS, _POSTS, _PLACE, _BEATS, _DURATION, _LINE, _ASKED, _AHEAD, _PROGRAM = 0, 1, 3, 5, 6, 7, 8, 9, 10, 11
"""Columns of `_State.program`: unit, two waits, two posts (-1: none), first beat in memory, beats, duration; its line's
place in the cache, 1 if it is asked for; the place it asks for ahead, or -1; columns in all."""
_VISIBLE, _ACCEPT, _DONE, _IDLE, _FOR_LOAD, _FOR_OTHERS, _TIMES = range(7)
"""Columns of `_State.times`: cycles of an instruction, then cycles before accept: idle, waiting for load, for others."""
_FIRST, _LENGTH, _HEAD, _FREE_FROM, _OF_UNIT = range(5)
"""Columns of `_State.units`: where its queue begins, instructions so far, the first that is not accepted (both counted from
there), cycle from which it is idle as far as known."""
_BEGIN, _POSTED, _TAKEN, _OF_SEMAPHORE = range(4)
"""Columns of `_State.sems`: where its rows of `signals` begin, posts and takes so far."""
_POST, _BY, _TAKE, _TAKER, _SIGNAL = range(5)
"""Columns of `_State.signals`: cycle of a semaphore's n-th post, its instruction, the same of the n-th take."""


class _State(NamedTuple):
    """The machine between two instructions, in arrays that numba writes: few, for compiled calls count references to each."""

    parameters: tuple[int, int, int, int]
    """Read latency, outstanding bursts, beats of a burst, beats of a cache line."""
    program: Int64
    times: Int64
    queue: Int64
    """Instructions by unit."""
    units: Int64
    sems: Int64
    signals: Int64
    ring: Int64
    """Cycle of the last beat of load's last bursts."""
    lines: Int64
    """[place in the cache]: cycle from which the line is there."""
    flights: Int64
    """Cycle from which each of fetch's last lines is there."""
    now: Int64


@inner
def _grant(s: _State) -> int:
    """Cycle in which load's next burst would be granted, were there no further fetch."""
    now, outstanding = s.now, s.parameters[1]
    cycle = now[_EARLIEST]
    if now[_GRANTED] >= outstanding:
        cycle = max(cycle, s.ring[now[_GRANTED] % outstanding] + 1)
    return int(cycle + 1 if cycle == now[_FETCHED] else cycle)


@inner
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


@inner
def _end(s: _State, i: int, done: int) -> None:
    """An instruction's unit is idle again in cycle `done`."""
    s.times[i, _DONE] = done
    s.units[s.program[i, _UNIT], _FREE_FROM] = done
    for k in range(2):
        sem = s.program[i, _POSTS + k]
        if sem >= 0:
            place = s.sems[sem, _BEGIN] + s.sems[sem, _POSTED]
            s.signals[place, _POST], s.signals[place, _BY] = done, i
            s.sems[sem, _POSTED] += 1


@inner
def _accept(s: _State, unit: int) -> bool:
    """Accept the head of a unit's queue, if all that it waits for is known."""
    if unit == Unit.LOAD and s.now[_LOADING] >= 0:
        return False
    of = s.units[unit]
    i = s.queue[of[_FIRST] + of[_HEAD]]
    program, times = s.program[i], s.times[i]
    begin = max(times[_VISIBLE], of[_FREE_FROM])
    accept = weights = begin
    for k in range(2):
        sem = program[_WAITS + k]
        if sem >= 0:
            number = s.sems[sem, _TAKEN] + (1 if k == 1 and program[_WAITS] == sem else 0)
            if number >= s.sems[sem, _POSTED]:
                return False
            post = s.signals[s.sems[sem, _BEGIN] + number, _POST]
            accept = max(accept, post)
            if sem < 4:
                weights = max(weights, post)
    for k in range(2):
        sem = program[_WAITS + k]
        if sem >= 0:
            place = s.sems[sem, _BEGIN] + s.sems[sem, _TAKEN]
            s.signals[place, _TAKE], s.signals[place, _TAKER] = accept, i
            s.sems[sem, _TAKEN] += 1
    times[_ACCEPT], times[_IDLE] = accept, begin - of[_FREE_FROM] + 1
    times[_FOR_LOAD], times[_FOR_OTHERS] = weights - begin, accept - weights
    of[_HEAD] += 1
    if unit == Unit.LOAD and program[_BEATS]:
        now = s.now
        now[_LOADING], now[_NEXT], now[_LEFT] = i, program[_PLACE], program[_BEATS]
        now[_EARLIEST], now[_GRANTED] = accept + 2, 0
    else:
        _end(s, i, accept + program[_DURATION])
    return True


@inner
def _settle(s: _State, limit: int) -> None:
    """Accept whatever can be; grant load's bursts before cycle `limit`."""
    progress = True
    while progress:
        progress = False
        for unit in range(Unit.LOAD, Unit.STORE + 1):
            while s.units[unit, _HEAD] < s.units[unit, _LENGTH] and _accept(s, unit):
                progress = True
        while s.now[_LOADING] >= 0 and _grant(s) < limit:
            progress = _step(s) or progress


@inner
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


@inner
def _look_up(s: _State, i: int) -> int:
    """LOOKUP until the line is there, and what is asked for ahead in RESOLVE; cycles lost."""
    now = s.now
    place, ahead, first = s.program[i, _LINE], s.program[i, _AHEAD], now[_NOW]
    if s.program[i, _ASKED]:
        _request(s, place, first + 1)
        first += 1  # the LOOKUP that finds nothing
    now[_NOW] = max(first, s.lines[place]) + 2
    lost = now[_NOW] - 2 - first
    if ahead >= 0:
        granted = _request(s, ahead, now[_NOW])
        lost += granted - now[_NOW]
        now[_NOW] = granted
    now[_NOW] += 1
    return int(lost)


@cached
def _run(s: _State) -> tuple[int, int, int]:
    """Feed on the instructions in program order.

    Returns:
        (-1, or the instruction at which fetch waits forever; cycles of cache misses, of full queues).
    """
    now = s.now
    misses = full = 0
    for i in range(len(s.program)):
        misses += _look_up(s, i)
        u = s.program[i, _UNIT]
        if u != Unit.FETCH:
            of = s.units[u]
            behind = of[_LENGTH] - QUEUE_DEPTH
            if behind >= 0:
                _settle(s, now[_NOW])
                while of[_HEAD] <= behind:
                    if now[_LOADING] < 0:
                        return i, misses, full
                    while not _step(s):  # nothing is posted before the transfer ends
                        pass
                    _settle(s, 0)
                wait = s.times[s.queue[of[_FIRST] + behind], _ACCEPT] + 1 - now[_NOW]
                if wait > 0:
                    full += wait
                    now[_NOW] += wait
            s.queue[of[_FIRST] + of[_LENGTH]] = i
            of[_LENGTH] += 1
            s.times[i, _VISIBLE] = now[_NOW] + 1
        now[_NOW] += 1
    return -1, misses, full


@cached
def _halt(s: _State) -> int:
    """HALT in ISSUE, which `_run` took for another control instruction: cycles until all is idle; -1: never."""
    _settle(s, _FOREVER)
    for u in range(Unit.LOAD, Unit.STORE + 1):
        if s.units[u, _HEAD] < s.units[u, _LENGTH]:
            return -1
    wait = max(0, max(s.units[:, _FREE_FROM].max(), s.flights.max()) - (s.now[_NOW] - 1))
    s.now[_NOW] += wait
    return int(wait)


@cached
def _overflow(s: _State) -> tuple[int, int]:
    """(semaphore, instruction) of a post that finds a count of 15 and stops the machine; -1: there is none."""
    for sem in range(SEMAPHORES):
        taken = 0
        begin = s.sems[sem, _BEGIN]
        for number in range(s.sems[sem, _POSTED]):
            while taken < s.sems[sem, _TAKEN] and s.signals[begin + taken, _TAKE] < s.signals[begin + number, _POST]:
                taken += 1
            if number - taken >= SEMAPHORE_MAX:
                return sem, s.signals[begin + number, _BY]
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
    opcode: Int64
    signals: Int64
    """[m, 2], of every post that was taken: the instruction that posted, the one that waited; places in this trace."""

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


def _state(target: Target, a: Recorded) -> _State:
    n = len(a.unit)
    semaphores = np.concatenate([a.posts.ravel(), a.waits.ravel()])  # no semaphore is taken more often than it is named
    line, place = a.address // CACHE_LINE_BYTES, a.address % CACHE_LINE_BYTES // INSTRUCTION_BYTES
    program = np.empty((n, _PROGRAM), np.int64)
    program[:, _UNIT], program[:, _WAITS : _WAITS + 2], program[:, _POSTS : _POSTS + 2] = a.unit, a.waits, a.posts
    program[:, _PLACE], program[:, _BEATS], program[:, _DURATION] = a.place, a.beats, a.duration
    program[:, _LINE], program[:, _ASKED] = line % target.icache_lines, a.requests & int(Requests.OWN) != 0
    ahead = a.requests & int(Requests.AHEAD) != 0
    program[:, _AHEAD] = np.where(ahead, (line + 1 + place) % target.icache_lines, -1)
    units, sems = np.zeros((_LANES, _OF_UNIT), np.int64), np.zeros((SEMAPHORES, _OF_SEMAPHORE), np.int64)
    units[:, _FIRST] = _starts(a.unit, _LANES)
    sems[:, _BEGIN] = _starts(semaphores[semaphores >= 0], SEMAPHORES)
    now = np.zeros(_CLOCK, np.int64)
    now[[_FETCHED, _LOADING]] = -1
    return _State(
        parameters=(target.read_latency, target.outstanding, target.burst_beats, CACHE_LINE_BYTES // target.beat_bytes),
        program=program,
        times=np.zeros((n, _TIMES), np.int64),
        queue=np.zeros(n, np.int64),
        units=units,
        sems=sems,
        signals=np.zeros((semaphores.size, _SIGNAL), np.int64),
        ring=np.zeros(target.outstanding, np.int64),
        lines=np.zeros(target.icache_lines, np.int64),
        flights=np.zeros(FETCH_FLIGHTS, np.int64),
        now=now,
    )


def _hang(s: _State, a: Recorded, place: int) -> NoReturn:
    """The watchdog: fetch stands at an instruction, and what it waits for never comes."""
    of = next(s.units[u] for u in UNITS if s.units[u, _HEAD] < s.units[u, _LENGTH])
    stuck = s.queue[of[_FIRST] + of[_HEAD]]
    waits = tuple(n for n in a.waits[stuck].tolist() if n >= 0)
    detail = f"{Opcode(int(a.opcode[stuck])).name} at {int(a.address[stuck]):#x} waits for {waits}"
    raise MachineError(ErrorCode.WATCHDOG, Unit.FETCH, int(a.address[place]), detail)


def check(target: Target, record: Record) -> None:
    """Whether a program that has not ended hangs before its last instruction leaves fetch.

    Raises:
        MachineError: code 8, the watchdog.
    """
    a = record.arrays(target)
    s = _state(target, a)
    place, _, _ = _run(s)
    if place >= 0:
        _hang(s, a, place)


def timeline(target: Target, record: Record) -> Timeline:
    """Times of a program that ended with HALT.

    Raises:
        MachineError: code 8, the watchdog; code 6, a semaphore that overflows.
    """
    a = record.arrays(target)
    s = _state(target, a)
    place, misses, full = _run(s)
    if place >= 0:
        _hang(s, a, place)
    waited = _halt(s)
    sem, by = _overflow(s)
    if sem >= 0:
        raise MachineError(ErrorCode.SEMAPHORE, poster(sem), int(a.address[by]), f"semaphore {sem} beyond {SEMAPHORE_MAX}")
    if waited < 0:
        _hang(s, a, len(a.address) - 1)
    cycles = int(s.now[_NOW])
    shares = _shares(s, a, cycles)
    counters = {name: int(values.sum()) for name, (_, values) in shares.items()}
    for unit in UNITS:
        if not s.units[unit, _LENGTH]:
            counters[f"{unit.name.lower()}_idle"] = cycles
    count = len(a.address)
    counters |= {"instructions": count, "fetch_miss": misses, "fetch_queue": full, "fetch_halt": waited}
    counters |= {"fetch_busy": 4 * count + int(s.program[:, _ASKED].sum()), "fetch_beats": int(s.now[_LINES]) * s.parameters[3]}
    counters |= {"load_beats": counters.get("load_busy", 0), "store_beats": counters.get("store_busy", 0)}
    return Timeline(cycles, counters, _trace(s, a, shares))


def _shares(s: _State, a: Recorded, cycles: int) -> Shares:
    """What each instruction had of its unit's cycle counters, and what its action counted."""
    shares: Shares = {}
    for n, name in enumerate(COUNTS):
        places = np.flatnonzero(a.counts[:, n])
        if places.size:
            shares[name] = (places, a.counts[places, n])
    for u in UNITS:
        places = np.flatnonzero(a.unit == u)
        if not places.size:
            continue
        _, accept, done, idle, weights, others = s.times[places].T
        idle[-1] += cycles - s.units[u, _FREE_FROM]
        own = {"idle": idle, "semaphore": weights + others}
        beats, duration = a.beats[places], a.duration[places]
        if u is Unit.VECTOR:
            own["busy"] = duration - 1
        if u is Unit.MATRIX:
            waited = a.counts[places, RAW] + a.counts[places, PRODUCT]
            own = {"idle": idle, "weights": weights, "semaphore": others, "busy": duration - 1 - waited}
        if u in (Unit.LOAD, Unit.STORE):
            own |= {"busy": beats, "memory": done - accept - 1 - beats}
        shares |= {f"{u.name.lower()}_{cause}": (places, values) for cause, values in own.items()}
    return shares


def _trace(s: _State, a: Recorded, shares: Shares) -> Trace:
    """Without the control instructions."""
    own = a.unit != Unit.FETCH
    number = np.cumsum(own) - 1
    moved = {name: (number[places], values) for name, (places, values) in shares.items()}
    taken = [s.signals[begin : begin + count, [_BY, _TAKER]] for begin, count in s.sems[:, [_BEGIN, _TAKEN]].tolist()]
    times, signals = s.times[own], number[np.concatenate(taken)]
    return Trace(a.unit[own], a.address[own], times[:, _ACCEPT], times[:, _DONE], moved, a.opcode[own], signals)
