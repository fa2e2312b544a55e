"""Row programs with data in memory, for the simulator's tests and the Verilog's."""

from __future__ import annotations

import numpy as np
from programs import Case
from row_programs import Chain

from axlora.isa.assembly import encode_program
from axlora.isa.legality import check_program
from axlora.isa.opcodes import CBUF_BIT, Buffer, Into, Map, Opcode
from axlora.isa.target import Target

EVERY = 1 << 20
"""More elements than a row has."""
OVERLAP_FIRST, OVERLAP_WORDS = 5, 24
"""Of `overlapping_map`: the first word that is read, words a row."""


class Program(Chain):
    """Instructions from address 0, data from `data` on, results from `out` on."""

    def __init__(self, target: Target, data: int = 0x4000, out: int = 0x8000, size: int = 0x18000) -> None:
        super().__init__()
        self.target, self.data, self.out = target, data, out
        self.memory = np.zeros(size, np.uint8)
        self.next = data

    def load(self, buffer: Buffer, data: bytes, **fields: int) -> None:
        """Data into a buffer."""
        beat = self.target.beat_bytes
        assert len(data) % beat == 0
        assert self.next + len(data) <= self.out
        self.memory[self.next : self.next + len(data)] = np.frombuffer(data, np.uint8)
        self.add(Opcode.LOAD, buffer=buffer, address=self.next, **{"beats": len(data) // beat, "rows": 1} | fields)
        self.next += len(data)

    def words(self, values: np.ndarray, beat: int = 0) -> None:
        """s32 into CBUF."""
        self.load(Buffer.CBUF, values.astype("<i4").tobytes(), beat=beat)

    def store(self, count: int, offset: int = 0) -> None:
        """`count` beats of OBUF to the results."""
        self.add(Opcode.STORE, address=self.out + offset, beats=count, rows=1)

    def vbuf(self, words: int) -> None:
        """Words of VBUF to the results."""
        self.add(Opcode.VLEN, valid=EVERY)
        self.add(Opcode.VPITCH)
        self.add(Opcode.VCON, ca=1)
        self.add(Opcode.VMAP, a=0, words=words, into=Into.OBUF, size=2, function=Map.MAC)
        self.store(words * self.target.vector_word_bytes // self.target.beat_bytes)

    def case(self, number: int = 0) -> Case:
        """Memory and program, HALT added."""
        self.add(Opcode.HALT)
        program = self.program()
        check_program(program)
        data = encode_program(program)
        assert len(data) <= self.data
        self.memory[: len(data)] = np.frombuffer(data, np.uint8)
        return Case(number, self.target, self.memory.tobytes(), {}, program)


def random_words(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """s32 of every magnitude, both ends among them."""
    values = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 31, shape)
    return np.where(rng.random(shape) < 0.05, rng.choice([-(2**31), 2**31 - 1, -(2**31) + 1], shape), values)


def overlapping_map(target: Target, distance: int, rows: int) -> Program:
    """VBUF word i + distance = VBUF word i + CBUF word, a word a cycle, so that later words read what earlier ones wrote.

    VBUF is 1000 n in element n before; CBUF the same, but for ones in its first word.
    """
    lanes = target.vector_lanes
    c = Program(target)
    c.words(np.arange(128 * lanes).reshape(128, lanes) * 1000)
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VCON, ca=1)
    c.add(Opcode.VMAP, a=CBUF_BIT, words=128, into=Into.VBUF, size=2)
    c.words(np.ones((1, lanes), int))
    c.add(Opcode.VPITCH, a=OVERLAP_WORDS, b=0, to=OVERLAP_WORDS)
    c.add(Opcode.VCON, ca=1, cb=1)
    to = OVERLAP_FIRST + distance
    c.add(Opcode.VMAP, a=OVERLAP_FIRST, b=CBUF_BIT, to=to, words=OVERLAP_WORDS, rows=rows, into=Into.VBUF, size=2)
    c.vbuf(128)
    return c
