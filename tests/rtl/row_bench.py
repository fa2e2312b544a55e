"""Row programs with data in memory, for the simulator's tests and the Verilog's."""

from __future__ import annotations

import numpy as np
from programs import Case
from row_programs import Chain

from axlora.isa.assembly import encode_program
from axlora.isa.legality import check_program
from axlora.isa.opcodes import Buffer, Into, Map, Opcode
from axlora.isa.target import Target

EVERY = 1 << 20
"""More elements than a row has."""


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
