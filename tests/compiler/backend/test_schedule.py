"""The schedule: whatever the units' speeds, an instruction runs after those whose places it touches, and nothing overflows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.compiler.backend.schedule import AREA_BITS, UNITS, Schedule, Span, semaphore
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.opcodes import SEMAPHORE_MAX, SEMAPHORES, Opcode, Unit

OPCODE = {Unit.LOAD: Opcode.LOAD, Unit.MATRIX: Opcode.SEGA, Unit.VECTOR: Opcode.VMAP, Unit.STORE: Opcode.STORE}
NUMBER = {Opcode.LOAD: "beat", Opcode.SEGA: "acc", Opcode.VMAP: "to", Opcode.STORE: "beat"}
"""The field (Y of all of them) that holds an instruction's number here, from 1 on; idle ones have 0."""


@dataclass(frozen=True)
class Step:
    """An instruction and what it touches."""

    unit: Unit
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()


def meets(a: Step, b: Step) -> bool:
    """Whether one writes what the other touches."""

    def over(xs: Sequence[Span], ys: Sequence[Span]) -> bool:
        return any(x.where == y.where and x.first < y.stop and y.first < x.stop for x in xs for y in ys)

    return over(a.writes, b.reads + b.writes) or over(a.reads, b.writes)


def scheduled(steps: Sequence[Step]) -> list[Instruction]:
    """The program of these steps; it is legal."""
    schedule = Schedule()
    for n, step in enumerate(steps, 1):
        schedule.add(OPCODE[step.unit], step.reads, step.writes, **{NUMBER[OPCODE[step.unit]]: n})
    program = schedule.program({0: 0})
    check_program(program)
    return program


def check(steps: Sequence[Step]) -> list[Instruction]:
    """All steps once, each unit's in order but for loads, and a path of semaphores from each step to those that meet it."""
    program = scheduled(steps)
    assert program[-1].opcode is Opcode.HALT
    body = program[:-1]
    assert sorted(i.y for i in body if i.y) == list(range(1, len(steps) + 1))
    for unit in UNITS[1:]:
        own = [i.y for i in body if i.unit is unit and i.y]
        assert own == sorted(own)
    places, clocks = _clocks(body)
    for a, b in itertools.combinations(range(len(steps)), 2):
        if meets(steps[a], steps[b]):
            first, then = places[a + 1], places[b + 1]
            assert clocks[then][body[first].unit] >= clocks[first][body[first].unit], f"{steps[a]} before {steps[b]}"
    for order in itertools.permutations(UNITS):
        _run(body, order)
    return program


def _clocks(body: Sequence[Instruction]) -> tuple[dict[int, int], list[dict[Unit, int]]]:
    """Where each number is; and of each instruction, how many of every unit's are over when it ends, by semaphores alone.

    Each wait of a semaphore is met by the post of the same rank: a semaphore has one poster, whose posts come in order.
    """
    last: dict[Unit, dict[Unit, int]] = {u: dict.fromkeys(UNITS, 0) for u in UNITS}
    posted: dict[int, list[dict[Unit, int]]] = {s: [] for s in range(SEMAPHORES)}
    waited: Counter[int] = Counter()
    clocks = []
    for i in body:
        clock = dict(last[i.unit])
        for s in i.waits:
            clock = {u: max(clock[u], posted[s][waited[s]][u]) for u in UNITS}
            waited[s] += 1
        clock[i.unit] += 1
        last[i.unit] = clock
        clocks.append(clock)
        for s in i.posts:
            posted[s].append(clock)
    return {i.y: n for n, i in enumerate(body) if i.y}, clocks


def _run(body: Sequence[Instruction], order: Sequence[Unit]) -> None:
    """Units as unequal as can be: one runs on until it must wait, the next only then. No deadlock, no overflow."""
    queues = {u: [i for i in body if i.unit is u] for u in UNITS}
    at = dict.fromkeys(UNITS, 0)
    counts = [0] * SEMAPHORES
    while any(at[u] < len(queues[u]) for u in UNITS):
        ready = (u for u in order if at[u] < len(queues[u]) and all(counts[s] for s in queues[u][at[u]].waits))
        unit = next(ready, None)
        assert unit is not None, "deadlock"
        i = queues[unit][at[unit]]
        at[unit] += 1
        for s in i.waits:
            counts[s] -= 1
        for s in i.posts:
            counts[s] += 1
            assert counts[s] <= SEMAPHORE_MAX


def random_steps(seed: int, count: int) -> list[Step]:
    """Steps over three buffers of a few places; some streams have a unit that is rare, so that posts to it pile up."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([2, 6, 40]))
    share = rng.dirichlet(np.full(len(UNITS), rng.choice([0.3, 1.0, 10.0])))

    def spans(most: int) -> tuple[Span, ...]:
        out = []
        for _ in range(int(rng.integers(0, most + 1))):
            first = int(rng.integers(0, size))
            out.append(Span("abc"[int(rng.integers(3))], first, first + 1 + int(rng.integers(0, 4))))
        return tuple(out)

    return [Step(UNITS[int(rng.choice(len(UNITS), p=share))], spans(2), spans(2)) for _ in range(count)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120))
def test_every_conflict_of_a_random_stream_is_ordered(seed: int, count: int) -> None:
    check(random_steps(seed, count))


@pytest.mark.slow
def test_every_conflict_of_long_streams_is_ordered() -> None:
    for seed in range(60):
        check(random_steps(seed, 500))


def _at(where: str, place: int) -> tuple[Span, ...]:
    return (Span(where, place, place + 1),)


def test_no_more_than_fifteen_posts_are_in_flight() -> None:
    """A hundred loads into places of their own, each read by the vector unit: nothing but the limit holds the loads back."""
    steps: list[Step] = []
    for n in range(100):
        steps += [Step(Unit.LOAD, writes=_at("a", n)), Step(Unit.VECTOR, reads=_at("a", n))]
    program = check(steps)
    assert semaphore(Unit.VECTOR, Unit.LOAD) in {s for i in program for s in i.waits}  # the limit itself


@pytest.mark.parametrize("posters", list(itertools.combinations((Unit.LOAD, Unit.MATRIX, Unit.STORE), 2)))
def test_the_limit_of_two_posters_at_once(posters: tuple[Unit, Unit]) -> None:
    """Each vector instruction waits for two units that wait for nothing; and posts to both, so its own posts are taken too."""
    for back in (False, True):
        steps: list[Step] = []
        for n in range(80):
            steps += [Step(unit, writes=_at(unit.name, n)) for unit in posters]
            more = _at("back", n) if back else ()
            steps.append(Step(Unit.VECTOR, reads=tuple(s for unit in posters for s in _at(unit.name, n)), writes=more))
            if back and n > 20:
                steps += [Step(unit, reads=_at("back", n - 20)) for unit in posters]
        check(steps)


def test_more_than_two_waits() -> None:
    """One instruction that needs all three other units waits in an idle one before it."""
    others = [u for u in UNITS if u is not Unit.MATRIX]
    program = check([*(Step(u, writes=_at("a", n)) for n, u in enumerate(others)), Step(Unit.MATRIX, reads=(Span("a", 0, 3),))])
    matrix = [i for i in program if i.unit is Unit.MATRIX]
    assert [len(i.waits) for i in matrix] == [2, 1]
    assert [i.y for i in matrix] == [0, 4]


def test_more_than_two_posts() -> None:
    """One instruction that all three others need: a third post comes from an instruction after it."""
    others = [u for u in UNITS if u is not Unit.MATRIX]
    program = check([Step(Unit.MATRIX, writes=_at("a", 0)), *(Step(u, reads=_at("a", 0)) for u in others)])
    assert sum(len(i.posts) for i in program if i.unit is Unit.MATRIX) == 3


def test_what_is_known_is_not_waited_for_again() -> None:
    """Matrix waits for the load and vector for matrix: vector then need not wait for the load, nor twice for one place."""
    a, b = _at("a", 0), _at("b", 0)
    steps = [Step(Unit.LOAD, writes=a), Step(Unit.MATRIX, a, b), Step(Unit.VECTOR, b), Step(Unit.VECTOR, a + b)]
    program = check(steps)
    assert sum(len(i.waits) for i in program) == 2


def test_a_load_goes_ahead_of_what_it_does_not_touch() -> None:
    """To the front, never across the reader of what it overwrites; one that can begin overtakes one that cannot."""
    work = [Step(Unit.VECTOR, reads=_at("x", 0)) for _ in range(60)]
    program = check([*work, Step(Unit.LOAD, writes=_at("a", 0)), Step(Unit.VECTOR, reads=_at("a", 0))])
    place = next(n for n, i in enumerate(program) if i.unit is Unit.LOAD)
    assert place <= 1
    last = Step(Unit.VECTOR, reads=_at("a", 0))
    program = check([Step(Unit.LOAD, writes=_at("a", 0)), *work[:30], last, *work[:30], Step(Unit.LOAD, writes=_at("a", 0))])
    numbers = [i.y for i in program if i.y]
    assert numbers.index(62 + 1) == numbers.index(32) + 1  # directly after the last reader
    steps = [*work[:10], last, Step(Unit.LOAD, writes=_at("a", 0)), Step(Unit.LOAD, writes=_at("b", 0))]
    assert [i.y for i in check(steps) if i.unit is Unit.LOAD] == [13, 12]


def test_a_load_does_not_overtake_one_into_its_buffer() -> None:
    """Of two tiles the first waits for a reader of its place; the second could begin at once, but is needed later."""
    work = [Step(Unit.VECTOR, reads=_at("x", 0)) for _ in range(10)]
    tiles = [Step(Unit.LOAD, writes=_at("a", place)) for place in (0, 1)]
    program = check([*work, Step(Unit.VECTOR, reads=_at("a", 0)), *tiles, Step(Unit.LOAD, writes=_at("b", 0))])
    assert [i.y for i in program if i.unit is Unit.LOAD and i.y] == [14, 12, 13]


def test_addresses_move_by_their_area() -> None:
    """Bits 40 and up of an address choose what is added; address 0 moves too."""
    schedule = Schedule()
    for address in (64, (1 << AREA_BITS) + 128, 1 << AREA_BITS, 2 << AREA_BITS, 0):
        schedule.add(Opcode.LOAD, address=address)
    program = schedule.program({0: 0x1000, 1: 0x20000, 2: 0x300000})
    assert [i.x for i in program[:-1]] == [0x1040, 0x20080, 0x20000, 0x300000, 0x1000]


def test_each_pair_of_units_has_a_semaphore_of_the_posters_own() -> None:
    pairs = list(itertools.permutations(UNITS, 2))
    assert len({semaphore(*pair) for pair in pairs}) == len(pairs)
    assert all(semaphore(poster, waiter) // 4 == UNITS.index(poster) for poster, waiter in pairs)
