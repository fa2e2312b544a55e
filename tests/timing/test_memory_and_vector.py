"""Bursts, STORE, VREQ, VQT and an empty MATMUL against the words of docs/isa.md, Cycles."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axlora.isa.opcodes import Row
from axlora.isa.target import Target
from axlora.timing.matrix import matmul_duration, matmul_setup
from axlora.timing.memory import bursts, store_duration
from axlora.timing.vector import block_quantize_duration, requantize_duration, row_duration

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


def test_store_by_hand() -> None:
    """A burst that starts in c answers in c + n + WLAT; the next starts one later; d is the last answer + 2."""
    target = dataclasses.replace(BASE, burst_beats=16, write_latency=6)
    beat = target.beat_bytes
    assert store_duration(target, 0, 0) == 2
    assert store_duration(target, 0, 1) == 3 + 1 + 6 + 2
    assert store_duration(target, 0, 16) == 3 + 16 + 6 + 2
    assert store_duration(target, 0, 17) == (3 + 16 + 6) + 1 + (1 + 6) + 2
    assert store_duration(target, 14 * beat, 20) == (3 + 2 + 6) + 1 + (16 + 6) + 1 + (2 + 6) + 2


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


@pytest.mark.parametrize(("function", "one"), [(Row.COPY, 5), (Row.RECIPROCAL, 40), (Row.RSQRT, 72), (Row.TOKEN, 40)])
def test_rows_by_hand(function: Row, one: int) -> None:
    """Rows of a turn end a cycle apart; a turn of T rows begins when the one before it is over."""
    target = dataclasses.replace(BASE, tokens=4)
    assert row_duration(target, function, 1) == 1 + one
    assert row_duration(target, function, 4) == 1 + one + 3
    assert row_duration(target, function, 5) == 1 + (one + 3) + one
    assert row_duration(target, function, 8) == 1 + 2 * (one + 3)


def test_an_empty_matmul_by_hand() -> None:
    assert matmul_setup(2, 3) == 2 + 2 + 3
    assert matmul_duration(BASE, 2, 3, None) == (2 + 2 + 3) + 1
