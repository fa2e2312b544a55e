"""Row programs with data in memory, for the simulator's tests and the Verilog's."""

from __future__ import annotations

import numpy as np
from programs import Case
from row_programs import Chain

from axlora.isa.assembly import encode_program
from axlora.isa.formats import Format
from axlora.isa.legality import check_program
from axlora.isa.opcodes import CBUF_BIT, UBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row
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

    def pitch(self, a: int = 0, b: int = 0, to: int = 0) -> None:
        """All rows a pitch apart: those of a bank, and the banks by as many."""
        count = self.target.tokens
        self.add(Opcode.VPITCH, a=a, b=b, to=to)
        self.add(Opcode.VBANK, a=count * a, b=count * b, to=count * to, rows=count)

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


def followed_maps(target: Target) -> Program:
    """VMAPs of a word, each followed at once by what could meet its last stages.

    A VMAP that reads the word, writes elsewhere or in another size, one that reduces, a VROW, a VREQ, a STORE,
    a MATMUL on UBUF.
    """
    rng = np.random.default_rng(7)
    t, lanes = target, target.vector_lanes
    beats = max(1, t.vector_word_bytes // t.beat_bytes)
    c = Program(t)
    c.words(random_words(rng, 32, lanes))
    records = np.zeros(t.ports, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("shift", "<u2")]))
    records["bias"], records["m1"] = rng.integers(-1000, 1000, t.ports), 1
    c.load(Buffer.PBUF, records.tobytes().ljust(t.beat_bytes, b"\0"))
    c.load(Buffer.WBUF, rng.bytes(t.wbuf_line_bytes))
    c.add(Opcode.VLEN, valid=EVERY)
    c.add(Opcode.VPITCH)
    c.add(Opcode.VCON, ca=1, shift=12)
    c.add(Opcode.SEGW, segment=0, format=Format.S8, groups=1, block_stride=1, group_stride=1)
    c.add(Opcode.SEGA, segment=0)
    place = 0

    def one(a: int, **fields: int) -> None:
        c.add(Opcode.VMAP, function=Map.MAC, a=a, words=1, **fields)

    def kept() -> None:
        nonlocal place
        c.store(5 * beats, place)
        place += 5 * beats * t.beat_bytes

    for n, size in enumerate((0, 1, 2)):
        one(CBUF_BIT | n, into=Into.OBUF, size=size)
        one(CBUF_BIT | n + 4, into=Into.VBUF, size=2, to=n)
        one(n, into=Into.OBUF, size=(size + 1) % 3, to=beats)
        one(CBUF_BIT | n + 8, reduce=Reduce.MAX)
        one(CBUF_BIT | n + 12, into=Into.OBUF, size=size, to=2 * beats)
        c.add(Opcode.VROW, function=Row.COPY, factor=1, write=1, to=3 * beats)
        one(CBUF_BIT | n + 16, into=Into.OBUF, size=2)
        c.add(Opcode.VROW, function=Row.COPY, factor=1, write=1, to=4 * beats)
        kept()
        c.add(Opcode.VOUT, size=size, zero_point=n)
        one(CBUF_BIT | n + 20, into=Into.OBUF, size=2)
        c.add(Opcode.VREQ, to=beats, groups=1)
        kept()
        one(CBUF_BIT | n + 24, into=Into.UBUF, size=t.activation_bits // 16)
        c.add(Opcode.MATMUL, segments=1, line=UBUF_BIT, blocks=1, first=1, tokens=1)
        c.add(Opcode.VREQ, to=beats, groups=1)
        kept()
    return c


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
    c.pitch(a=OVERLAP_WORDS, to=OVERLAP_WORDS)
    c.add(Opcode.VCON, ca=1, cb=1)
    to = OVERLAP_FIRST + distance
    c.add(Opcode.VMAP, a=OVERLAP_FIRST, b=CBUF_BIT, to=to, words=OVERLAP_WORDS, rows=rows, into=Into.VBUF, size=2)
    c.vbuf(128)
    return c
