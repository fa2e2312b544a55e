"""Fetch, functionally: registers, loops and the instruction cache, walked in program order by one compiled loop."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import IntFlag
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from axlora.isa.compiled import cached, inner
from axlora.isa.instruction import BadInstruction, check_resolved, decode
from axlora.isa.opcodes import (
    CACHE_LINE_BYTES,
    INSTRUCTION_BYTES,
    LOOP_DEPTH,
    REGISTERS_OF_ALL,
    ErrorCode,
    Opcode,
    Unit,
)
from axlora.isa.registers import NAMED, RegisterFile
from axlora.isa.target import Target
from axlora.timing.memory import store_run

from .errors import MachineError

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

OPCODE, SUB, MISC, X, Y, Z, SIGNALS, ADDRESS, REQUESTS, COLUMNS = range(10)
"""Columns of a walk: fields with registers added up, the four semaphore fields, byte address, `Requests`."""
_PLACES = CACHE_LINE_BYTES // INSTRUCTION_BYTES
_LINES = (1 << 32) // CACHE_LINE_BYTES
"""Cache lines of all memory."""
_WINDOW = NAMED - REGISTERS_OF_ALL
"""Registers of a window."""
_PC, _DEPTH, _ROW_PITCH, _PART_PITCH, _NEW, _NOW = range(6)
"""Places in `_Fetch.now`: program counter, loops begun, the SPITCH that holds, instructions not seen before, places in all."""
_ENDED, _FULL, _CHANGED, _LIMIT, _ILLEGAL, _LOOPS, _NO_LOOP = range(7)
"""Why a walk stopped: HALT; no room for more; a store writes a line that it needs; and what the machine stops at."""


class Requests(IntFlag):
    """Cache lines that an instruction makes fetch ask the memory for."""

    NONE = 0
    OWN = 1
    """Its own, which was neither there nor asked for."""
    AHEAD = 2
    """The one that lies behind its own by as many lines as its place in it says, 1 to 4."""


class _Fetch(NamedTuple):
    """What fetch holds between two walks, in arrays that the compiled loop writes."""

    memory: Bytes
    tags: Int64
    lines: Bytes
    """[place in the cache, byte]."""
    words: npt.NDArray[np.uint32]
    """`lines` as [place in the cache, instruction, word]."""
    file: Int64
    """What the host wrote to the registers of all windows."""
    seen: Int64
    """R0..R31."""
    loops: Int64
    """[LOOP_DEPTH, 2]: first instruction, passes left."""
    known: npt.NDArray[np.bool_]
    """[instruction in memory]: seen before."""
    written: npt.NDArray[np.bool_]
    """[cache line in memory]: a STORE of this walk writes it."""
    now: Int64


class _Sizes(NamedTuple):
    """Numbers of the target, and the bytes of memory that the program may touch."""

    limit: int
    beat: int
    obuf_beats: int
    windows: int


@inner
def _ask(f: _Fetch, line: int) -> None:
    """A line is there from now on, or on its way."""
    place = line % len(f.tags)
    f.tags[place] = line
    first = line * CACHE_LINE_BYTES
    for n in range(CACHE_LINE_BYTES):
        f.lines[place, n] = f.memory[first + n] if first + n < len(f.memory) else 0


@inner
def _mark(f: _Fetch, sizes: _Sizes, sub: int, x: int, rows: int, beats: int) -> None:
    """Note the lines that a STORE writes; one of more beats than OBUF has stops the machine."""
    if rows * beats > sizes.obuf_beats:
        return
    row = f.now[_ROW_PITCH]
    for n in range(rows * beats if sub else rows if row else 1):
        at, count = store_run(n, x, rows, beats, sub > 0, sizes.beat, row, f.now[_PART_PITCH])
        if count:
            last = (at + count * sizes.beat - 1) // CACHE_LINE_BYTES
            for line in range(at // CACHE_LINE_BYTES, min(last + 1, len(f.written))):
                f.written[line] = True


@cached
def _forget(f: _Fetch) -> None:
    """Between walks: what the stores wrote may be new instructions."""
    f.now[_NEW] = 0
    for line in range(len(f.written)):
        if f.written[line]:
            f.written[line] = False
            f.known[line * _PLACES : (line + 1) * _PLACES] = False


@cached
def _walk(f: _Fetch, sizes: _Sizes, out: Int64, new: Int64, raw: Bytes) -> tuple[int, int]:
    """Walk on until the program ends, the machine stops, or `out` is full.

    Args:
        out: [n, COLUMNS] of the instructions executed.
        new: [n], places in `out` of those not seen before; raw: [n, 16], their bytes.

    Returns:
        Instructions walked; why it stopped. An illegal one is the next in `out`, `new` and `raw`.
    """
    now, seen = f.now, f.seen
    n = 0
    stores = False
    while True:
        if n == len(out):
            return n, _FULL
        pc = now[_PC]
        if pc >= sizes.limit:
            return n, _LIMIT
        line, at = pc // CACHE_LINE_BYTES, pc % CACHE_LINE_BYTES // INSTRUCTION_BYTES
        place, apart = line % len(f.tags), 1 + at
        requests = 0
        if f.tags[place] != line:
            if stores and f.written[line]:
                return n, _CHANGED
            requests = 1
        ahead = (line + apart) % _LINES
        looks = apart < len(f.tags) and ahead * CACHE_LINE_BYTES < sizes.limit and f.tags[ahead % len(f.tags)] != ahead
        if looks and stores and f.written[ahead]:
            return n, _CHANGED
        if requests:
            _ask(f, line)
        w0, w1 = np.int64(f.words[place, at, 0]), np.int64(f.words[place, at, 1])
        x, yz = np.int64(f.words[place, at, 2]), np.int64(f.words[place, at, 3])
        opcode, sub, misc = w0 & 63, w0 >> 26, w1 >> 15
        x = (x + seen[w1 & 31]) & 0xFFFFFFFF
        y, z = ((yz & 0xFFFF) + seen[w1 >> 5 & 31]) & 0xFFFF, ((yz >> 16) + seen[w1 >> 10 & 31]) & 0xFFFF
        if not f.known[pc // INSTRUCTION_BYTES]:
            new[now[_NEW]] = n
            raw[now[_NEW]] = f.lines[place, at * INSTRUCTION_BYTES : (at + 1) * INSTRUCTION_BYTES]
        row = out[n]
        row[OPCODE], row[SUB], row[MISC], row[X], row[Y], row[Z] = opcode, sub, misc, x, y, z
        row[SIGNALS], row[ADDRESS] = w0 >> 6 & 0xFFFFF, pc
        unit = 1 << (sub - 1) if opcode == Opcode.STORE and sub else sizes.beat
        if ((opcode == Opcode.LOAD or opcode == Opcode.STORE) and x % unit) or (opcode == Opcode.WINDOW and x >= sizes.windows):
            if f.known[pc // INSTRUCTION_BYTES]:
                raw[now[_NEW]] = f.lines[place, at * INSTRUCTION_BYTES : (at + 1) * INSTRUCTION_BYTES]
            return n, _ILLEGAL
        if not f.known[pc // INSTRUCTION_BYTES]:
            f.known[pc // INSTRUCTION_BYTES] = True
            now[_NEW] += 1
        if looks and opcode != Opcode.HALT:
            _ask(f, ahead)
            requests |= 2
        row[REQUESTS] = requests
        n += 1
        now[_PC] = (pc + INSTRUCTION_BYTES) & 0xFFFFFFFF
        if opcode == Opcode.HALT:
            return n, _ENDED
        if opcode == Opcode.STORE:
            _mark(f, sizes, int(sub), int(x), int(z), int(misc))
            stores = True
        elif opcode == Opcode.SPITCH:
            now[_ROW_PITCH], now[_PART_PITCH] = x, y
        elif opcode == Opcode.SET:
            if misc < NAMED:
                seen[misc] = x
        elif opcode == Opcode.WINDOW:
            begin = REGISTERS_OF_ALL + x * _WINDOW
            seen[REGISTERS_OF_ALL:] = f.file[begin : begin + _WINDOW]
        elif opcode == Opcode.LOOP:
            if z == 0:
                now[_PC] += (y + 1) * INSTRUCTION_BYTES
                continue
            if now[_DEPTH] == LOOP_DEPTH:
                return n, _LOOPS
            f.loops[now[_DEPTH], 0], f.loops[now[_DEPTH], 1] = now[_PC], z
            now[_DEPTH] += 1
        elif opcode == Opcode.ENDLOOP:
            if now[_DEPTH] == 0:
                return n, _NO_LOOP
            loop = f.loops[now[_DEPTH] - 1]
            if loop[1] > 1:
                loop[1] -= 1
                now[_PC] = loop[0]
            else:
                now[_DEPTH] -= 1


class _Legal:
    """Instructions that a target takes: words, and the last programs' words together."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._words: set[bytes] = set()
        self._programs: deque[bytes] = deque(maxlen=32)

    def first_bad(self, raw: Bytes, fields: Int64) -> tuple[int, str] | None:
        """The first instruction that is illegal: its place and what is wrong; None: there is none.

        Args:
            raw: [n, 16].
            fields: [n, COLUMNS] of the same.
        """
        together = raw.tobytes()
        if together in self._programs:
            return None
        if len(self._words) > _MOST:
            self._words.clear()
        for n in range(len(raw)):
            word = together[n * INSTRUCTION_BYTES : (n + 1) * INSTRUCTION_BYTES]
            if word in self._words:
                continue
            try:
                self.check(word, fields[n])
            except BadInstruction as error:
                return n, str(error)
            self._words.add(word)
        self._programs.append(together)
        return None

    def check(self, word: bytes, fields: Int64) -> None:
        """The instruction, with the registers that it finds.

        Raises:
            BadInstruction: it is illegal.
        """
        i = decode(word)
        x, y, z = (int(fields[member]) for member in (X, Y, Z))
        check_resolved(replace(i, x=x, y=y, z=z, rx=0, ry=0, rz=0) if i.rx or i.ry or i.rz else i, self._target)


_LEGAL: dict[Target, _Legal] = {}
_MOST = 1 << 19
"""Instructions that are remembered for a target."""
_LONGEST = 1 << 16
"""Most instructions that are walked at once."""


class Control:
    """Program counter, registers and loop stack."""

    def __init__(
        self, target: Target, memory: Bytes, program: int, registers: dict[int, int], mem_limit: int, checked: bool = False
    ) -> None:
        """`checked`: the instructions are known to be legal."""
        self._checked = checked
        self._legal = _LEGAL.setdefault(target, _Legal(target))
        self._sizes = _Sizes(mem_limit, target.beat_bytes, target.obuf_beats, target.windows)
        lines = np.zeros((target.icache_lines, CACHE_LINE_BYTES), np.uint8)
        file = RegisterFile(registers)
        count = mem_limit // CACHE_LINE_BYTES + 1
        now = np.zeros(_NOW, np.int64)
        now[_PC] = program
        self._fetch = _Fetch(
            memory=memory,
            tags=np.full(target.icache_lines, -1, np.int64),
            lines=lines,
            words=lines.view(np.uint32).reshape(target.icache_lines, _PLACES, -1),
            file=file.every(),
            seen=np.array(file.seen, np.int64),
            loops=np.zeros((LOOP_DEPTH, 2), np.int64),
            known=np.zeros(count * _PLACES, np.bool_),
            written=np.zeros(count, np.bool_),
            now=now,
        )
        self.ended = False
        """HALT was walked, or the machine stops at what was."""
        self.error: MachineError | None = None
        """Why it stops behind the instructions that were walked."""

    def walk(self) -> Int64:
        """The next instructions in program order, HALT last: int64 [n, COLUMNS]; those before them were carried out."""
        f = self._fetch
        _forget(f)
        out, new = np.empty((_LONGEST, COLUMNS), np.int64), np.empty(_LONGEST + 1, np.int64)
        raw = np.empty((_LONGEST + 1, INSTRUCTION_BYTES), np.uint8)
        count, why = _walk(f, self._sizes, out, new, raw)
        self.ended = why not in (_FULL, _CHANGED)
        fresh = int(f.now[_NEW])
        bad = None if self._checked else self._legal.first_bad(raw[:fresh], out[new[:fresh]])
        if bad is not None:
            count = int(new[bad[0]])
            self._stop(ErrorCode.ILLEGAL, int(out[count, ADDRESS]), bad[1])
        elif why == _ILLEGAL:
            try:
                self._legal.check(raw[fresh].tobytes(), out[count])
            except BadInstruction as error:
                self._stop(ErrorCode.ILLEGAL, int(out[count, ADDRESS]), str(error))
            assert self.error is not None
        elif why == _LIMIT:
            self._stop(ErrorCode.MEMORY_ADDRESS, int(f.now[_PC]), f"limit {self._sizes.limit:#x}")
        elif why in (_LOOPS, _NO_LOOP):
            text = f"more than {LOOP_DEPTH} nested loops" if why == _LOOPS else "ENDLOOP without LOOP"
            self._stop(ErrorCode.LOOP, int(out[count - 1, ADDRESS]), text)
        return out[:count]

    def _stop(self, code: ErrorCode, address: int, text: str) -> None:
        self.ended, self.error = True, MachineError(code, Unit.FETCH, address, text)
