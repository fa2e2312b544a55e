"""Seeded random programs for the matrix unit and its way out: formats, slots, scale groups, sums, both activation buffers.

`random_case` takes what the compiler makes; here every field of SEGW, SEGA, MATMUL, VCFG, VREQ and VQT is drawn by itself.
"""

from __future__ import annotations

import numpy as np
from programs import Case
from row_programs import Chain

from axlora.isa.assembly import encode_program
from axlora.isa.formats import Format
from axlora.isa.legality import check_program
from axlora.isa.opcodes import UBUF_BIT, Buffer, Into, Map, Opcode
from axlora.isa.target import Target

DATA, OUT, SIZE = 0x4000, 0x28000, 0x40000
WEIGHT_LINES, LINES, SCALE_LINES = 64, 16, 32
ADAPTERS, EXACT = 16, 48
"""PBUF column groups: below ADAPTERS base records, from there adapters' records, from EXACT on those that change nothing."""
ACC_WORDS, APART = 32, 8
"""ACC words of a program; words from a segment's first to the next one's."""


def _records(rng: np.random.Generator, t: Target) -> np.ndarray:
    records = np.zeros((EXACT + ACC_WORDS) * t.ports, np.dtype([("bias", "<i4"), ("m1", "<u2"), ("high", "<u2")]))
    count = records.size
    records["bias"] = rng.integers(-(2**20), 2**20, count)
    records["m1"] = rng.integers(0, 1 << 16, count)
    top = t.activation_bits + t.accumulator_bits
    records["high"] = rng.integers(1, top, count)  # shift
    adapters = slice(ADAPTERS * t.ports, EXACT * t.ports)
    records["high"][adapters] = rng.integers(0, 1 << 16, EXACT * t.ports - ADAPTERS * t.ports)  # m2
    records[EXACT * t.ports :] = (0, 2, 1)  # times two, halved
    return records


class _Maker:
    """Draws one program."""

    def __init__(self, seed: int, target: Target) -> None:
        self.rng = np.random.default_rng(seed)
        self.target, self.chain = target, Chain()
        self.memory = self.rng.integers(0, 256, SIZE, np.uint8)
        self.place = DATA

    def pick(self, high: int) -> int:
        """0 .. high - 1."""
        return int(self.rng.integers(0, high))

    def likely(self, chance: float) -> int:
        """1 with this chance, else 0."""
        return int(self.rng.random() < chance)

    def load(self, buffer: Buffer, data: np.ndarray) -> None:
        """Bytes into the memory, and a LOAD of them."""
        beat = self.target.beat_bytes
        data = np.pad(data.view(np.uint8).ravel(), (0, -data.nbytes % beat))
        assert self.place + data.size <= OUT
        self.memory[self.place : self.place + data.size] = data
        self.chain.add(Opcode.LOAD, buffer=buffer, address=self.place, rows=1, beats=data.size // beat)
        self.place += data.size

    def fill(self) -> None:
        """Every buffer that the programs read."""
        t, rng = self.target, self.rng
        self.load(Buffer.WBUF, rng.integers(0, 256, WEIGHT_LINES * t.wbuf_line_bytes, np.uint8))
        self.load(Buffer.ABUF, rng.integers(0, 256, LINES * t.abuf_line_bytes, np.uint8))
        self.load(Buffer.PBUF, _records(rng, t))
        words = rng.integers(0, 4, t.tbuf_tokens) | rng.integers(1, 40, t.tbuf_tokens) << 10
        words |= rng.integers(0, 1 << 16, t.tbuf_tokens) << 16
        self.load(Buffer.TBUF, words.astype("<u4"))
        self.load(Buffer.SBUF, rng.integers(0, 256, SCALE_LINES * t.sbuf_line_bytes, np.uint8))
        for half in range(2):
            self.chain.add(Opcode.CODEBOOK, half=half, e0=self.pick(1 << 32), e4=self.pick(1 << 16), e6=self.pick(1 << 16))

    def segment(self, number: int, offset: int, blocks: int, scaled: int, sums: int) -> None:
        """SEGW and SEGA; lines stay below WEIGHT_LINES, ACC words apart from the other segments'."""
        t = self.target
        formats = [f for f in Format if f is not Format.U8 or t.index_entries == 256 or t.engine != "reuse"]
        groups = self.pick(APART // 2 + 1)
        self.chain.add(
            Opcode.SEGW,
            segment=number,
            format=formats[self.pick(len(formats))],
            slot=self.pick(4) if self.likely(0.5) else 0,
            line=self.pick(WEIGHT_LINES // 4),
            groups=groups,
            block_stride=self.pick(4) if blocks > 4 else self.pick(8),
            group_stride=self.pick(4),
        )
        acc = (number * APART - offset) & 0xFFFF
        lines = SCALE_LINES // 2
        self.chain.add(
            Opcode.SEGA,
            segment=number,
            acc=acc,
            scale_line=self.pick(lines),
            scale_stride=self.pick(2),
            scaled=scaled,
            sums=sums,
        )

    def product(self) -> None:
        """MATMUL of one to four segments, after their settings."""
        t = self.target
        blocks, offset, count = self.pick(9), self.pick(12), 1 + self.pick(ACC_WORDS // APART)
        per = 1 + self.pick(4) if t.group_scales and self.likely(0.7) else 0
        sums = per and self.likely(0.4)
        for number in range(count):
            first = number == 0 and sums
            scaled = 1 if first else int(per > 0 and self.likely(0.6))
            self.segment(number, offset, blocks, scaled, int(first))
        line = self.pick(LINES - blocks + 1) | (UBUF_BIT if self.likely(0.4) else 0)
        tokens = 1 + self.pick(t.tokens)
        self.chain.add(
            Opcode.MATMUL,
            segments=count,
            token=self.pick(t.tbuf_tokens - tokens + 1),
            acc=offset,
            line=line,
            blocks=blocks,
            first=self.pick(2),
            tokens=tokens,
            per_group=per,
        )

    def settings(self) -> None:
        """VCFG with every option."""
        self.chain.add(
            Opcode.VCFG,
            base=self.pick(ADAPTERS - 4),
            adapters=ADAPTERS + self.pick(8),
            adapter_stride=self.pick(8),
            acc2=(self.pick(8) - 4) & 0xFFFF,
            guard=self.pick(12),
            token_scale=self.pick(2),
            bias_end=self.likely(0.3),
            bias_shift=self.pick(16),
            adapter=self.pick(2),
            row_scale=self.likely(0.3),
        )

    def requantize(self) -> None:
        """VREQ to one of the three places."""
        t = self.target
        into = self.pick(3)
        size = (self.pick(3), t.activation_bits // 16, 2)[into]
        tokens, groups = 1 + self.pick(t.tokens), self.pick(5)
        banks = 1 + self.pick(min(3, t.tbuf_tokens // tokens))
        self.settings()
        self.chain.add(Opcode.VBANK, a=(self.pick(8) - 2) & 0xFFFF, to=self.pick(5))
        self.chain.add(Opcode.VOUT, zero_point=self.pick(1 << 16), size=size, ubuf=int(into == 1), vbuf=int(into == 2))
        self.chain.add(Opcode.VPITCH, to=4 * t.ports // t.vector_lanes + self.pick(3))
        token = self.pick(t.tbuf_tokens - tokens * banks + 1)
        fields = {"token": token, "to": self.pick(8), "groups": groups, "tokens": tokens, "banks": banks}
        self.chain.add(Opcode.VREQ, acc=8 + self.pick(16), **fields)

    def block_quantize(self) -> None:
        """VQT, of all tokens or of one slot's."""
        t = self.target
        tokens = 1 + self.pick(t.tokens)
        token = self.pick(t.tbuf_tokens - tokens + 1)
        self.settings()
        to, slot = self.pick(8) | UBUF_BIT * self.pick(2), self.pick(4) if self.likely(0.4) else 0
        acc, groups = self.pick(20), self.pick(5)
        self.chain.add(Opcode.VQT, acc=acc, token=token, to=to, groups=groups, tokens=tokens, slot=slot)

    def store_all(self) -> None:
        """What OBUF, ACC, VBUF and (through a product with itself) UBUF hold, as it is."""
        t, c, at = self.target, self.chain, OUT

        def store(beats: int) -> None:
            nonlocal at
            c.add(Opcode.STORE, address=at, rows=1, beats=beats)
            at += beats * t.beat_bytes

        store(64)
        c.add(Opcode.SEGW, segment=0, format=Format.S8, groups=4, block_stride=4, group_stride=1)
        c.add(Opcode.SEGA, segment=0, acc=ACC_WORDS - 4)
        c.add(Opcode.MATMUL, segments=1, line=UBUF_BIT, blocks=8, first=1, tokens=t.tokens)
        c.add(Opcode.VCFG, base=EXACT)
        c.add(Opcode.VOUT, size=2)
        c.add(Opcode.VREQ, groups=ACC_WORDS, tokens=t.tokens)
        store(-(-ACC_WORDS * t.ports // t.lanes) * t.tokens * t.lanes * 4 // t.beat_bytes)
        c.add(Opcode.VLEN, valid=1 << 20)
        c.add(Opcode.VPITCH)
        c.add(Opcode.VCON, ca=1)
        c.add(Opcode.VMAP, function=Map.MAC, words=32, into=Into.OBUF, size=2)
        store(32 * t.vector_word_bytes // t.beat_bytes)
        assert at <= SIZE


def matrix_case(seed: int, target: Target) -> Case:
    """The program of a seed: every buffer loaded, eight products each with a way out, and all that is left stored."""
    m = _Maker(seed, target)
    m.fill()
    for _ in range(8):
        m.product()
        if m.likely(0.7):
            m.requantize()
        if m.likely(0.5):
            m.block_quantize()
    m.store_all()
    m.chain.add(Opcode.HALT)
    program = m.chain.program()
    check_program(program)
    data = encode_program(program)
    assert len(data) <= DATA
    m.memory[: len(data)] = np.frombuffer(data, np.uint8)
    return Case(seed, target, m.memory.tobytes(), {}, program)
