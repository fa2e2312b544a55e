"""A board at the end of a serial line as a machine: memory goes there, a program runs, memory and counters come back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.isa.assembly import assemble, encode_program
from axlora.isa.opcodes import COUNTERS, INSTRUCTION_BYTES, MACHINE_ID, REGISTERS, Buffer, ErrorCode, Unit
from axlora.isa.registers import register_offset
from axlora.isa.target import Target

from .identity import target_id
from .link import FRAME_BYTES, TRIES, BoardError, Link, Operation

Bytes = npt.NDArray[np.uint8]
_OFFSET = {register.name: register.offset for register in REGISTERS}
_OWN = 0x1000
_BOARD_ID = 0x41584231
_ID, _TARGET, _CLOCK, _ONCHIP, _SDRAM, _NONCE, _STARTS, _READY = (_OWN + 4 * n for n in range(8))
SDRAM_BASE = 0x80000000
_MOST_REGISTERS = 16
_ZEROS = 2048
"""Bytes of zeros that `_scrub` reads again and again."""
SCRUB_BYTES = 8192
"""Of memory that is kept for `_scrub` behind a program's."""


@dataclass(frozen=True)
class BoardResult:
    """What a start left.

    Attributes:
        memory: as sent, with the wanted regions as the board holds them.
        counters: by name; those of time are the board's own.
        onchip: whether the program ran from on-chip memory, whose timing is the memory model's.
        seconds: wall time from the start to the end seen by the host.
    """

    memory: Bytes
    counters: dict[str, int]
    onchip: bool
    seconds: float


def _blocks(memory: Bytes) -> Bytes:
    """A copy as frames [n, 256], the last padded with zeros."""
    full = np.zeros(-(-memory.size // FRAME_BYTES) * FRAME_BYTES, np.uint8)
    full[: memory.size] = memory
    return full.reshape(-1, FRAME_BYTES)


def _scrub(target: Target, end: int) -> tuple[bytes, int]:
    """(a program that fills the weight buffer with zeros, its address beyond `end`), with the zeros behind it.

    Codes of a run before, in places that a program does not load, change no result but they do change how many products
    can be reused; after this, the counters are those of a machine after power-up.
    """
    at = -(-end // FRAME_BYTES) * FRAME_BYTES
    total = target.wbuf_lines * target.wbuf_line_beats
    part = min(total, _ZEROS // target.beat_bytes)
    count = total // part
    zeros = at + -(-(count + 1) * INSTRUCTION_BYTES // FRAME_BYTES) * FRAME_BYTES
    text = [f"LOAD buffer={int(Buffer.WBUF)} address={zeros} beat={n * part} rows=1 beats={part}" for n in range(count)]
    code = encode_program(assemble("\n".join([*text, "HALT"])))
    return code + bytes(zeros - at - len(code) + part * target.beat_bytes), at


class Board:
    """The board at the end of `link`.

    Raises:
        BoardError: it does not answer, holds no AxLoRA bitstream, or one of another target.
    """

    def __init__(self, link: Link, target: Target) -> None:
        self.link, self.target = link, target
        if self._read(_ID) != _BOARD_ID or self._read(_OFFSET["ID"]) != MACHINE_ID:
            raise BoardError("what answers is not an AxLoRA board", link.port, "load a bitstream made by axlora bitstream")
        if self._read(_TARGET) != target_id(target):
            what = f"the bitstream is not of the package's target {target.name!r}"
            raise BoardError(what, link.port, "axlora bitstream PACKAGE makes the one that it needs")
        self.clock_mhz = self._read(_CLOCK) / 1000
        self.onchip_bytes, self.sdram_bytes = self._read(_ONCHIP), self._read(_SDRAM)
        self._nonce = secrets.randbits(31) | 1
        self._write(_NONCE, self._nonce)
        self._base = -1
        self._shadow = np.zeros(0, np.uint8)
        """What the board holds, as far as the host knows; whole blocks, empty: nothing is known."""
        self._stale = np.zeros(0, bool)
        """Blocks that the machine may have written since, and the host has not read."""
        self._left: Bytes | None = None

    def run(
        self,
        memory: Bytes,
        program: int,
        registers: dict[int, int],
        wanted: Sequence[tuple[int, int]],
        written: Sequence[tuple[int, int]],
        *,
        limit: float = 600.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> BoardResult:
        """Send what changed since the last run, start, wait, read back.

        Args:
            memory: uint8, the program's memory from address 0. If it is the last result's, changed or not, what the machine
                wrote and the host did not read stays as it is on the board.
            program: byte address of the first instruction.
            registers: R1..R31 by number, further windows' behind (`isa.registers`).
            wanted: (address, bytes) regions to read back.
            written: (address, bytes) regions that the program may write.
            limit: seconds until a running program counts as hanging.
            progress: called with (bytes sent, bytes to send).

        Raises:
            BoardError: memory too large, no answer, a reset in between, the machine stopped with an error, the time limit.
        """
        scrub, at = _scrub(self.target, memory.size)
        base = self._place(at + len(scrub))
        self._send(memory, base, progress)
        for n, block in enumerate(_blocks(np.frombuffer(scrub, np.uint8))):
            self._write_block(base + at, n, block)
        self._execute(base, at, at + len(scrub), limit)
        for number, value in registers.items():
            self._write(register_offset(number), value)
        self._same()
        seconds = self._execute(base, program, memory.size, limit)
        words = self._read_many(_OFFSET["COUNTERS"], 2 * len(COUNTERS))
        counters = {c.name: words[2 * n] | words[2 * n + 1] << 32 for n, c in enumerate(COUNTERS)}
        out = memory.copy()
        for address, size in wanted:
            self._fetch(out, base, address, size)
        self._same()
        self._remember(out, wanted, written)
        return BoardResult(out, counters, base != SDRAM_BASE, seconds)

    def _execute(self, base: int, program: int, size: int, limit: float) -> float:
        """Reset the machine, run the program at an address; seconds."""
        self._write(_OFFSET["CTRL"], 2)
        for name, value in (("PROGRAM", program), ("MEM_BASE", base), ("MEM_LIMIT", size), ("WATCHDOG", 1 << 26)):
            self._write(_OFFSET[name], value)
        begin = time.monotonic()
        self._start()
        self._wait(begin, limit)
        return time.monotonic() - begin

    def _place(self, size: int) -> int:
        """MEM_BASE for a memory of these bytes: on chip if it fits."""
        if size <= self.onchip_bytes:
            return 0
        if size > self.sdram_bytes:
            most = max(self.onchip_bytes, self.sdram_bytes)
            raise BoardError(
                f"the program needs {size} bytes of memory, the board has {most}", self.link.port, "a smaller model"
            )
        if not self._read(_READY):
            raise BoardError("the board's SDRAM is not ready", self.link.port, "try again; else check the board")
        return SDRAM_BASE

    def _send(self, memory: Bytes, base: int, progress: Callable[[int, int], None] | None) -> None:
        """Blocks that differ from what the board holds; runs of zero blocks as fills."""
        blocks = _blocks(memory)
        known = base == self._base and self._shadow.shape == blocks.shape
        goes_on = known and memory is self._left
        changed = (self._shadow != blocks).any(axis=1) if known else np.ones(len(blocks), bool)
        if goes_on:
            for n in np.flatnonzero(changed & self._stale).tolist():  # what the machine wrote beside the host's change stays
                held = np.frombuffer(self._block(base, n), np.uint8)
                blocks[n] = np.where(blocks[n] != self._shadow[n], blocks[n], held)
        elif known:
            changed |= self._stale
        self._stale = self._stale & ~changed if goes_on else np.zeros(len(blocks), bool)
        self._shadow, self._left, self._base = np.zeros(0, np.uint8), None, base  # until all is there
        zero = changed & ~blocks.any(axis=1)
        total, sent, n = int(changed.sum()) * FRAME_BYTES, 0, 0
        while n < blocks.shape[0]:
            count = 1
            if zero[n]:
                while n + count < len(blocks) and zero[n + count] and count < 256:
                    count += 1
                self.link.request(Operation.FILL, base + n * FRAME_BYTES, count)
            elif changed[n]:
                self._write_block(base, n, blocks[n])
            sent += FRAME_BYTES * int(changed[n : n + count].sum())
            n += count
            if progress is not None and total:
                progress(sent, total)

    def _write_block(self, base: int, number: int, data: Bytes) -> None:
        beats = FRAME_BYTES // self.target.beat_bytes
        self.link.request(Operation.WRITE, base + number * FRAME_BYTES, beats, data.tobytes())

    def _block(self, base: int, number: int) -> bytes:
        beats = FRAME_BYTES // self.target.beat_bytes
        return self.link.request(Operation.READ, base + number * FRAME_BYTES, beats, answer=FRAME_BYTES)

    def _remember(self, out: Bytes, wanted: Sequence[tuple[int, int]], written: Sequence[tuple[int, int]]) -> None:
        """What the board holds after a run, and what of it the host does not know."""
        unknown = np.zeros(out.size, bool)
        for address, size in written:
            unknown[address : address + size] = True
        for address, size in wanted:
            unknown[address : address + size] = False
        self._shadow, self._left = _blocks(out), out
        self._stale = self._stale | _blocks(unknown.view(np.uint8)).any(axis=1)

    def _fetch(self, out: Bytes, base: int, address: int, size: int) -> None:
        """A region of the board's memory into `out`."""
        beat = self.target.beat_bytes
        first, end = address // beat * beat, -(-(address + size) // beat) * beat
        data = b""
        at = first
        while at < end:
            count = min(end, (at // FRAME_BYTES + 1) * FRAME_BYTES) - at
            data += self.link.request(Operation.READ, base + at, count // beat, answer=count)
            at += count
        out[address : address + size] = np.frombuffer(data, np.uint8)[address - first :][:size]

    def _start(self) -> None:
        """CTRL's start bit, exactly once: a lost answer must not start the program again."""
        before = self._read(_STARTS)
        for attempt in range(TRIES):
            try:
                self.link.request(Operation.WRITE_REGISTERS, _OFFSET["CTRL"], 1, (1).to_bytes(4, "little"), tries=1)
                return
            except BoardError:
                self._same()
                if self._read(_STARTS) != before:
                    return
                if attempt == TRIES - 1:
                    raise

    def _wait(self, begin: float, limit: float) -> None:
        pause = 0.0005
        while True:
            status = self._read(_OFFSET["STATUS"])
            if not status & 1:
                break
            if time.monotonic() - begin > limit:
                raise BoardError(
                    f"the program still runs after {limit:.0f} s", self.link.port, "axlora simulate tells its cycles"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        if status & 4:
            code, where = self._read(_OFFSET["ERR_CODE"]), self._read(_OFFSET["ERR_ADDR"])
            name, unit = ErrorCode(code & 0xFF).name.lower(), Unit(code >> 8 & 0xFF).name.lower()
            raise BoardError(f"the machine stopped: {name} in {unit}, instruction at {where:#x}", self.link.port, "")
        if not status & 2:
            self._same()
            raise BoardError("the machine is idle and has not run", self.link.port, "reset the board and try again")

    def _same(self) -> None:
        """The board has not been reset since this host began."""
        if self._read(_NONCE) != self._nonce:
            raise BoardError("the board was reset in the middle, or another host uses it", self.link.port, "run again")

    def _read(self, address: int) -> int:
        return self._read_many(address, 1)[0]

    def _read_many(self, address: int, count: int) -> list[int]:
        words: list[int] = []
        while len(words) < count:
            part = min(_MOST_REGISTERS, count - len(words))
            data = self.link.request(Operation.READ_REGISTERS, address + 4 * len(words), part, answer=4 * part)
            words += np.frombuffer(data, "<u4").tolist()
        return words

    def _write(self, address: int, value: int) -> None:
        self.link.request(Operation.WRITE_REGISTERS, address, 1, (value & 0xFFFFFFFF).to_bytes(4, "little"))
