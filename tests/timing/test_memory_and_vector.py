"""Bursts, STORE, VREQ, VQT and an empty MATMUL against the words of docs/isa.md, Cycles."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axlora.isa.assembly import make
from axlora.isa.opcodes import Opcode, Reduce, Row
from axlora.isa.target import Target
from axlora.timing.matrix import matmul_duration, matmul_setup
from axlora.timing.memory import bursts, store_bursts, store_duration
from axlora.timing.vector import block_quantize_duration, map_duration, requantize_duration, row_duration

BASE = Target.load("test")


@given(st.sampled_from([8, 16, 64]), st.integers(0, 500), st.integers(0, 300))
def test_a_burst_ends_at_the_end_or_at_a_boundary(size: int, first: int, beats: int) -> None:
    target = dataclasses.replace(BASE, burst_beats=size)
    found = list(bursts(target, first * target.beat_bytes, beats))
    assert sum(found) == beats
    at = first
    for count in found:
        assert count > 0
        assert at // size == (at + count - 1) // size  # within one block of `size` beats
        at += count
        assert at == first + beats or at % size == 0


def _store(target: Target, pitch: dict[str, int] | None = None, **fields: int) -> tuple[list[tuple[int, int]], int]:
    """Bursts and d of a STORE."""
    found = list(store_bursts(target, make(Opcode.STORE, **fields), make(Opcode.SPITCH, **pitch or {})))
    return found, store_duration(target, [count for _, count in found])


def test_store_by_hand() -> None:
    """A burst that starts in c is over in c + n and answered WLAT later; the next starts behind it, at least 4 later."""
    target = dataclasses.replace(BASE, burst_beats=16, write_latency=6)
    beat = target.beat_bytes

    def cycles(at: int, beats: int) -> int:
        return _store(target, address=at * beat, rows=1, beats=beats)[1]

    assert cycles(0, 0) == 2
    assert cycles(0, 1) == 3 + 1 + 6 + 2
    assert cycles(0, 16) == 3 + 16 + 6 + 2
    assert cycles(0, 17) == (3 + 16 + 1) + (1 + 6) + 2
    assert cycles(14, 20) == (3 + 4) + (16 + 1) + (2 + 6) + 2


def test_rows_and_parts_are_bursts_of_their_own() -> None:
    target = dataclasses.replace(BASE, burst_beats=16, write_latency=6)
    beat = target.beat_bytes
    assert _store(target, rows=3, beats=5) == ([(0, 15)], 3 + 15 + 6 + 2)
    assert _store(target, {"row": 20 * beat}, rows=3, beats=5) == (
        [(n * 20 * beat, 5) for n in range(3)],
        3 + 2 * 6 + 5 + 6 + 2,
    )
    assert _store(target, {"row": 14 * beat}, rows=2, beats=5)[0] == [(0, 5), (14 * beat, 2), (16 * beat, 3)]
    parts, duration = _store(target, {"row": 2, "part": 3 * beat}, address=beat + 4, bytes=2, rows=2, beats=2)
    assert parts == [(beat, 1), (4 * beat, 1), (beat, 1), (4 * beat, 1)]
    assert duration == 3 + 3 * 4 + 1 + 6 + 2


@given(st.integers(1, 90), st.integers(1, 200))
def test_at_most_sixteen_bursts_are_not_answered(count: int, latency: int) -> None:
    """Found by cycles: in each, the bursts that have begun and whose response has not been seen."""
    target = dataclasses.replace(BASE, write_latency=latency)
    began: list[int] = []
    cycle = 3
    while len(began) < count:
        if sum(cycle <= b + 1 + latency for b in began) < 16:
            began.append(cycle)
            cycle += 3
        cycle += 1
    assert store_duration(target, [1] * count) == began[-1] + 1 + latency + 2


@pytest.mark.parametrize(
    ("ports", "lanes", "adapter", "cycles"), [(4, 2, False, 2), (4, 2, True, 2), (4, 4, True, 2), (4, 4, False, 1)]
)
def test_requantize_by_hand(ports: int, lanes: int, adapter: bool, cycles: int) -> None:
    target = dataclasses.replace(BASE, ports=ports, vector_lanes=lanes, beat_bytes=16)
    assert requantize_duration(target, 3, 5, adapter) == 3 * 5 * cycles + 23
    assert requantize_duration(target, 3, 0, adapter) == 23


def test_block_quantize_by_hand() -> None:
    target = dataclasses.replace(BASE, ports=4, vector_lanes=2)
    walk = 5 * 2 + 23
    assert block_quantize_duration(target, [True, False, True], 5) == 23 + (1 + 2 * walk) + 2 + (1 + 2 * walk)
    assert block_quantize_duration(target, [True], 0) == 23 + 1 + 2 * 23
    assert block_quantize_duration(target, [False, False], 5) == 23 + 2 * 2


@pytest.mark.parametrize(
    ("function", "one", "turn"), [(Row.COPY, 5, 4), (Row.RECIPROCAL, 25, 17), (Row.RSQRT, 41, 33), (Row.TOKEN, 25, 17)]
)
def test_rows_by_hand(function: Row, one: int, turn: int) -> None:
    """Rows of a turn end a cycle apart; a turn of V rows begins when the dividers of the one before it are free."""
    target = dataclasses.replace(BASE, ports=4, vector_lanes=4)
    assert row_duration(target, function, 1) == 1 + one
    assert row_duration(target, function, 4) == 1 + one + 3
    assert row_duration(target, function, 5) == 1 + one + turn
    assert row_duration(target, function, 8) == 1 + one + turn + 3
    assert row_duration(target, function, 64) == 1 + one + 15 * turn + 3


@pytest.mark.parametrize(("lanes", "reduced"), [(1, 18), (2, 19), (4, 20), (8, 21), (16, 22)])
def test_map_by_hand(lanes: int, reduced: int) -> None:
    """A word a cycle; read three cycles after an accept; reduced behind a stage of leaves, log2(V) of pairs, one of the row."""
    target = dataclasses.replace(BASE, lanes=16, ports=16, wbuf_lines=1024, vector_lanes=lanes)
    for words in (0, 1, 7):
        assert map_duration(target, 3, words, Reduce.NONE) == 3 * words + 16
        assert map_duration(target, 3, words, Reduce.MAX) == 3 * words + reduced


def test_an_empty_matmul_by_hand() -> None:
    assert matmul_setup(2, 3) == 2 + 2 + 3
    assert matmul_duration(BASE, 2, 3, None) == (2 + 2 + 3) + 1
