"""Bursts, the deterministic memory model, and the duration of STORE (docs/isa.md, Cycles)."""

from __future__ import annotations

from collections.abc import Iterator

from axlora.isa.target import Target


def bursts(target: Target, address: int, beats: int) -> Iterator[int]:
    """Beats of each burst of a transfer: it ends at the transfer's end or a multiple of burst_beats*beat_bytes.

    Args:
        address: first byte, a multiple of beat_bytes.
        beats: of the whole transfer.
    """
    first = address // target.beat_bytes
    while beats > 0:
        take = min(beats, target.burst_beats - first % target.burst_beats)
        yield take
        first += take
        beats -= take


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
