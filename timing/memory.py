"""Bursts, the deterministic memory model, and the duration of STORE (docs/isa.md, Cycles)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from numba import njit

from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import POSTED, STORE_STEP
from axlora.isa.target import Target

ADDRESS = (1 << 32) - 1
"""Addresses of memory count modulo this and one."""


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


def store_bursts(target: Target, i: Instruction, pitch: Instruction) -> Iterator[tuple[int, int]]:
    """Address of the first beat, and beats, of each burst of a STORE.

    Args:
        i: the STORE, its registers added up.
        pitch: the SPITCH that holds.
    """
    beat = target.beat_bytes
    if i.sub:
        for at in part_addresses(i, beat, pitch):
            yield at - at % beat, 1
        return
    rows = ((i.x + r * pitch.x, i.misc) for r in range(i.z)) if pitch.x else iter([(i.x, i.misc * i.z)])
    for first, beats in rows:
        at = (first - first % beat) & ADDRESS
        for count in bursts(target, at, beats):
            yield at, count
            at += count * beat


def part_addresses(i: Instruction, beat: int, pitch: Instruction) -> Iterator[int]:
    """Address of each part that a STORE of some bytes of each beat writes.

    Args:
        i: the STORE, its registers added up.
        beat: bytes of one.
        pitch: the SPITCH that holds.
    """
    part = pitch.y or beat
    row = pitch.x or part * i.misc
    return ((i.x + r * row + n * part) & ADDRESS for r in range(i.z) for n in range(i.misc))


def store_duration(target: Target, counts: Iterable[int]) -> int:
    """d of a STORE.

    Args:
        counts: beats of each burst.
    """
    start = 3  # the first burst's cycle, a = 0
    answers: list[int] = []
    for count in counts:
        if len(answers) >= POSTED:
            start = max(start, answers[-POSTED] + 1)
        answers.append(start + count + target.write_latency)
        start += max(count + 1, STORE_STEP)
    return answers[-1] + 2 if answers else 2
