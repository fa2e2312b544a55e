"""Bursts, the deterministic memory model, and the duration of STORE (docs/isa.md, Cycles)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from numba import njit

from axlora.isa.target import Target


@njit(cache=True)
def burst_beats(first: int, beats: int, most: int) -> int:
    """Beats of the first burst of a transfer: it ends at the transfer's end or at a multiple of `most` beats.

    Args:
        first: beat in memory.
        beats: of the whole transfer.
    """
    return min(beats, most - first % most)


def bursts(target: Target, address: int, beats: int) -> Iterator[int]:
    """Beats of each burst of a transfer.

    Args:
        address: first byte, a multiple of beat_bytes.
        beats: of the whole transfer.
    """
    first = address // target.beat_bytes
    while beats > 0:
        take = burst_beats(first, beats, target.burst_beats)
        yield take
        first += take
        beats -= take


@functools.lru_cache(1 << 14)
def store_duration(target: Target, address: int, beats: int) -> int:
    """d of a STORE."""
    if beats == 0:
        return 2
    time = 3  # the first burst's cycle, a = 0
    response = 0
    for count in bursts(target, address, beats):
        response = time + count + target.write_latency
        time = response + 1
    return response + 2
