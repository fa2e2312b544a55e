"""Bursts, the deterministic memory model, and the duration of STORE (docs/isa.md, Cycles)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from axlora.isa.compiled import cached, inner
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import POSTED, STORE_STEP
from axlora.isa.target import Target

ADDRESS = (1 << 32) - 1
"""Addresses of memory count modulo this and one."""
FIRST_BURST = 3
"""Cycle in which the first burst of a STORE that is accepted in cycle 0 begins."""


@cached
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


@inner
def part_address(n: int, x: int, beats: int, beat: int, row_pitch: int, part_pitch: int) -> int:
    """Address of part n that a STORE of some bytes of each beat writes.

    Args:
        x: of the STORE, its registers added up.
        beats: of a row.
        beat: bytes of one.
        row_pitch, part_pitch: of the SPITCH that holds.
    """
    part = part_pitch if part_pitch else beat
    row = row_pitch if row_pitch else part * beats
    return (x + n // beats * row + n % beats * part) & ADDRESS


@cached
def store_run(
    n: int, x: int, rows: int, beats: int, parts: bool, beat: int, row_pitch: int, part_pitch: int
) -> tuple[int, int]:
    """Run n of the beats that a STORE writes one after another: address of the first, and how many; none: there is no run n."""
    if parts:
        at = part_address(n, x, beats, beat, row_pitch, part_pitch) if beats else 0
        return at - at % beat, 1 if n < rows * beats else 0
    if row_pitch:
        at = x + n * row_pitch
        return (at - at % beat) & ADDRESS, beats if n < rows else 0
    return x - x % beat, 0 if n else rows * beats


def store_bursts(target: Target, i: Instruction, pitch: Instruction) -> Iterator[tuple[int, int]]:
    """Address of the first beat, and beats, of each burst of a STORE.

    Args:
        i: the STORE, its registers added up.
        pitch: the SPITCH that holds.
    """
    for n in range(max(1, i.z * (i.misc if i.sub else 1))):
        at, beats = store_run(n, i.x, i.z, i.misc, i.sub > 0, target.beat_bytes, pitch.x, pitch.y)
        for count in bursts(target, at, beats):
            yield at, count
            at += count * target.beat_bytes


@register_jitable
def next_burst(answers: npt.NDArray[np.int64], n: int, start: int, count: int, latency: int) -> int:
    """Burst n of a STORE, which could begin in cycle `start`: notes its answer; the cycle in which the next could begin.

    Args:
        answers: int64 [POSTED], cycles of the last answers, burst n's at n modulo POSTED.
        count: its beats.
        latency: of the target's writes.
    """
    if n >= POSTED:
        start = max(start, answers[n % POSTED] + 1)
    answers[n % POSTED] = start + count + latency
    return start + max(count + 1, STORE_STEP)


@register_jitable
def answered(answers: npt.NDArray[np.int64], n: int) -> int:
    """d of a STORE of n bursts."""
    return answers[(n - 1) % POSTED] + 2 if n else 2


def store_duration(target: Target, counts: Iterable[int]) -> int:
    """d of a STORE.

    Args:
        counts: beats of each burst.
    """
    answers, start, number = np.zeros(POSTED, np.int64), FIRST_BURST, 0
    for number, count in enumerate(counts, 1):
        start = next_burst(answers, number - 1, start, count, target.write_latency)
    return int(answered(answers, number))
