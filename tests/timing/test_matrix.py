"""The max-plus schedule against a model that steps every cycle, and issue cycles against a plain rereading of the rule."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from axlora.isa.formats import Format
from axlora.isa.target import Target
from axlora.timing.matrix import FIRST_ISSUE, RAW_CYCLES, cache_index, matmul_duration, matmul_timing

BASE = Target.load("test")


def _issue(index: np.ndarray, clear: np.ndarray, banks: int) -> np.ndarray:
    """Issue cycles by stepping: each cycle every bank serves its first pending miss."""
    blocks, lanes, row, _ = index.shape
    out = np.zeros((blocks, lanes, row), int)
    for b in range(blocks):
        for lane in range(lanes):
            valid: set[int] = set()
            for r in range(row):
                if clear[r]:
                    valid = set()
                while True:
                    out[b, lane, r] += 1
                    pending = [int(i) for i in index[b, lane, r] if i >= 0 and int(i) not in valid]
                    for bank in range(banks):
                        valid |= set([i for i in pending if i % banks == bank][:1])
                    if all(i < 0 or int(i) in valid for i in index[b, lane, r]):
                        break
    return out


def _step(cycles: np.ndarray, latency: int, depth: int) -> tuple[int, int, int, int]:
    """(last pop, raw, product, FIFO-full lane-cycles), one cycle at a time."""
    blocks, lanes, row = cycles.shape
    total = blocks * row
    seq = cycles.transpose(1, 0, 2).reshape(lanes, total)
    credit = [depth] * lanes
    place = [0] * lanes
    left = [0] * lanes
    flight: list[list[int]] = [[] for _ in range(lanes)]
    fifo = [0] * lanes
    pops: list[int] = []
    raw = product = full = 0
    now = 0
    while len(pops) < total:
        for lane in range(lanes):
            fifo[lane] += sum(1 for t in flight[lane] if t == now)
        q = len(pops)
        give = False
        if all(fifo):
            if q >= row and now < pops[q - row] + RAW_CYCLES:
                raw += 1
            else:
                give = True
        else:
            product += 1
        for lane in range(lanes):
            if now < FIRST_ISSUE or place[lane] == total:
                continue
            if left[lane] == 0:
                if credit[lane] == 0:
                    full += 1
                    continue
                credit[lane] -= 1
                left[lane] = int(seq[lane, place[lane]])
            left[lane] -= 1
            if left[lane] == 0:
                flight[lane].append(now + latency + 1)
                place[lane] += 1
        if give:
            pops.append(now)
            for lane in range(lanes):
                fifo[lane] -= 1
                credit[lane] += 1
        now += 1
    return pops[-1], raw, product, full


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_schedule_equals_the_stepped_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lanes, ports = int(rng.choice([2, 4])), 4
    latency = int(rng.integers(1, 6))
    target = dataclasses.replace(
        BASE,
        lanes=lanes,
        engine="reuse",
        multipliers=int(rng.choice([1, 2])),
        multiplier_latency=latency,
        fifo_depth=latency + 4 + int(rng.integers(0, 4)),
        beat_bytes=4,
        vector_lanes=1,
    )
    blocks, row = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    index = rng.integers(-1, int(rng.choice([3, 20, 120])), (blocks, lanes, row, ports)).astype(np.int16)
    clear = rng.random(row) < 0.1
    clear[0] = True
    timing = matmul_timing(target, index, clear)
    cycles = _issue(index, clear, target.multipliers)
    assert timing.lane_misses == (cycles - 1).sum()
    got = (timing.last_pop, timing.raw, timing.product, timing.lane_fifo_full)
    assert got == _step(cycles, latency, target.fifo_depth)


def test_mac_takes_ports_over_multipliers() -> None:
    target = dataclasses.replace(BASE, engine="mac", multipliers=2)
    index = np.zeros((3, 8, 50, 4), np.int16)
    timing = matmul_timing(target, index, np.zeros(50, bool))
    assert timing.misses.sum() == index.size
    assert timing.last_pop == FIRST_ISSUE + 3 * 50 * 2 - 1 + target.multiplier_latency + 1


def _first_look_ups(sets: list[int], fill: int) -> list[int]:
    """Cycle in which each set's first group is issued, one cycle at a time: two copies of the tables, one adder a bank."""
    begun: list[int] = []
    written = full = 0  # entries of the copy that is being filled; sets whose tables were filled
    groups = 0  # of the set that began last, still to come
    now = FIRST_ISSUE - 1
    while len(begun) < len(sets):
        begins = groups == 0 and full > len(begun)
        if begins:
            begun.append(now)
            groups = sets[len(begun) - 1]
        groups = max(0, groups - 1)
        if full == len(begun) < len(sets):  # the other copy is free: its set has ended
            written += 1
            if written == fill:
                written, full = 0, full + 1
        now += 1
    return begun


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_tables_are_filled_beside_look_ups(seed: int) -> None:
    """A set of n groups lasts max(n, fill) cycles; 24 additions a fill and lane; nothing else is counted as a product."""
    rng = np.random.default_rng(seed)
    adders, blocks, row = int(rng.choice([1, 2])), int(rng.integers(1, 5)), int(rng.integers(1, 50))
    target = dataclasses.replace(BASE, engine="table", multipliers=adders)
    clear = rng.random(row) < 0.15
    clear[0] = True
    timing = matmul_timing(target, np.zeros((blocks, target.lanes, row, 4), np.int16), clear)
    starts = np.flatnonzero(clear)
    sets = np.diff([*starts, row]).tolist() * blocks
    begun = _first_look_ups(sets, 16 // adders)
    assert timing.last_pop == begun[-1] + sets[-1] - 1 + target.multiplier_latency + 1
    assert (timing.raw, timing.lane_fifo_full, timing.zeros.sum()) == (0, 0, 0)
    assert timing.misses.tolist() == (clear * blocks * target.lanes * 24).tolist()
    waits = begun[-1] + sets[-1] - FIRST_ISSUE - blocks * row
    assert timing.lane_misses == waits * target.lanes


def test_cache_index_of_every_code() -> None:
    """Signed: the magnitude, 128 in entry 0; unsigned: the code; codebook: the index. Zero needs none but in a codebook."""
    for fmt in Format:
        codes = np.arange(fmt.low, fmt.high + 1, dtype=np.int16)
        found = cache_index(codes, fmt)
        assert found.dtype == np.int16
        for code, index in zip(codes.tolist(), found.tolist(), strict=True):
            if fmt is Format.CB4:
                assert index == code
            elif code == 0:
                assert index == -1
            else:
                assert index == (abs(code) % 128 if fmt.signed else code)


def test_reuse_counts_misses_and_zeros_of_each_column_group() -> None:
    """Row 0 misses 1, 2, 3; row 1 repeats them; row 2 begins with a cleared cache. Two blocks, so all is doubled."""
    target = dataclasses.replace(BASE, engine="reuse", lanes=2, multipliers=1, beat_bytes=4, vector_lanes=1)
    one = np.array([[1, 2, 3, -1], [3, 2, 1, -1], [1, 1, -1, -1]], np.int16)
    index = np.broadcast_to(one, (2, 2, 3, 4)).copy()
    timing = matmul_timing(target, index, np.array([True, False, True]))
    assert timing.misses.tolist() == [3 * 4, 0, 1 * 4]
    assert timing.zeros.tolist() == [1 * 4, 1 * 4, 2 * 4]
    assert timing.lane_groups == 3 * 4
    assert timing.lane_misses == 2 * 4
    mac = matmul_timing(dataclasses.replace(target, engine="mac"), index, np.array([True, False, True]))
    assert mac.misses.tolist() == [4 * 4] * 3
    assert mac.zeros.tolist() == [0] * 3


def test_duration_is_setup_and_last_pop_and_pipe() -> None:
    target = dataclasses.replace(BASE, engine="mac", multipliers=4)
    timing = matmul_timing(target, np.zeros((1, 8, 1, 4), np.int16), np.ones(1, bool))
    assert timing.last_pop == FIRST_ISSUE + target.multiplier_latency + 1
    assert matmul_duration(target, 2, 1, timing.last_pop) == (2 + 2 + 1) + timing.last_pop + target.pipe
