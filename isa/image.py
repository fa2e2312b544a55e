"""A memory image to run and what its run leaves: the same for the Verilog and the HLS C++."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """Memory and registers at the start of a run.

    Attributes:
        memory: bytes from address 0; padded with zeros to whole beats.
        program: byte address of the first instruction, a multiple of 64.
        registers: R1..R31 to preset, by number.
        mem_limit: MEM_LIMIT, bytes.
        watchdog: WATCHDOG, cycles; 0 is off.
        dump: (start, length) in bytes of what the result returns; None is all of `memory`.
        bad: [start, end) byte addresses that answer with an AXI error; None is none.
        stall: seed of random pauses on all AXI channels of the memory; 0 is none (the exact model).
        trace: return when every instruction was accepted and done.
    """

    memory: bytes
    program: int
    registers: dict[int, int]
    mem_limit: int
    watchdog: int = 1 << 20
    dump: tuple[int, int] | None = None
    bad: tuple[int, int] | None = None
    stall: int = 0
    trace: bool = False


@dataclass(frozen=True)
class ImageResult:
    """What a run left: the dumped bytes, the counters by name, the error registers (0 if none), `cycles` (the counter)."""

    memory: bytes
    counters: dict[str, int]
    error: int
    error_unit: int
    error_address: int
    cycles: int
    events: tuple[tuple[int, int, int, int], ...] = ()
    """(unit, instruction's byte address, accept, done) with `Image.trace`, per unit in order."""
