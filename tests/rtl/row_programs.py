"""Seeded random programs for the row side of the vector unit: every function, reduction, destination and way of moving data.

Whatever changes units goes through a semaphore, so the order is the program's; operands are random within each buffer.
"""

from __future__ import annotations

import numpy as np
from programs import Case

from axlora.isa.assembly import encode_program, make
from axlora.isa.formats import Format
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.opcodes import CBUF_BIT, ROWS, SCALARS, UBUF_BIT, Buffer, Into, Map, Opcode, Reduce, Row, Unit
from axlora.isa.registers import in_window
from axlora.isa.target import Target

DATA, OUT, SIZE = 0x8000, 0x30000, 0x50000
_SEMAPHORE = {
    (Unit.LOAD, Unit.MATRIX): 0,
    (Unit.LOAD, Unit.VECTOR): 1,
    (Unit.LOAD, Unit.STORE): 2,
    (Unit.MATRIX, Unit.LOAD): 4,
    (Unit.MATRIX, Unit.VECTOR): 5,
    (Unit.MATRIX, Unit.STORE): 6,
    (Unit.VECTOR, Unit.LOAD): 8,
    (Unit.VECTOR, Unit.MATRIX): 9,
    (Unit.VECTOR, Unit.STORE): 10,
    (Unit.STORE, Unit.LOAD): 12,
    (Unit.STORE, Unit.MATRIX): 13,
    (Unit.STORE, Unit.VECTOR): 14,
}


class Chain:
    """Instructions in program order; a change of unit becomes a post and a wait."""

    def __init__(self) -> None:
        self.items: list[tuple[Opcode, dict[str, int], dict[str, tuple[int, ...]]]] = []
        self.last: Unit | None = None

    def add(self, opcode: Opcode, **fields: int) -> None:
        """One instruction."""
        unit = Instruction(opcode).unit
        waits: tuple[int, ...] = ()
        if unit is not Unit.FETCH:
            if self.last is not None and self.last is not unit:
                waits = (_SEMAPHORE[self.last, unit],)
                index = max(n for n, item in enumerate(self.items) if Instruction(item[0]).unit is self.last)
                self.items[index][2]["posts"] = waits
            self.last = unit
        self.items.append((opcode, fields, {"waits": waits}))

    def program(self) -> tuple[Instruction, ...]:
        """All of it."""
        return tuple(make(opcode, **fields, **semaphores) for opcode, fields, semaphores in self.items)


def row_case(seed: int, target: Target) -> Case:
    """Loads of every buffer, a matrix product into VBUF, twenty random row operations, and everything stored."""
    rng = np.random.default_rng(seed)
    t, c = target, Chain()
    v, beat = t.vector_lanes, t.beat_bytes
    windows = np.random.default_rng((seed, 1))
    in_windows = windows.integers(0, 8, t.windows).tolist()
    registers: dict[int, int] = {}
    for window, held in enumerate(in_windows):
        registers |= in_window(window, {24: held << 16})
    word = 4 * v
    memory = rng.integers(0, 256, SIZE, np.uint8)
    span = 64  # words of CBUF and VBUF in use
    values = rng.normal(0, 1, (SIZE - DATA) // 4) * np.exp2(rng.uniform(0, 33, (SIZE - DATA) // 4))
    memory[DATA:] = np.clip(values, -(2**31), 2**31 - 1).astype("<i4").view(np.uint8)

    def pick(high: int) -> int:
        return int(rng.integers(0, high))

    def address() -> int:
        return DATA + pick(0x4000 // beat) * beat

    c.add(Opcode.LOAD, buffer=Buffer.CBUF, address=address(), beats=span * word // beat, rows=1)
    c.add(Opcode.LOAD, buffer=Buffer.FBUF, address=address(), beats=16 * 8 // beat, rows=1)
    c.add(Opcode.LOAD, buffer=Buffer.PBUF, address=address(), beats=max(1, 16 * t.ports // beat), rows=1)
    c.add(Opcode.LOAD, buffer=Buffer.TBUF, address=address(), beats=t.tbuf_tokens * 4 // beat, rows=1)
    c.add(Opcode.LOAD, buffer=Buffer.ABUF, address=address(), beats=4 * t.abuf_line_beats, rows=1)
    c.add(Opcode.LOAD, buffer=Buffer.WBUF, address=address(), beats=8 * t.wbuf_line_beats, rows=1)
    if beat <= t.lanes:
        for line in (0, 7):
            beats, columns = 1 + pick(2 * t.lanes // beat), 1 + pick(2 * t.ports)
            c.add(Opcode.LOAD, buffer=Buffer.WKEY, address=address(), beat=line, beats=beats, rows=columns)
    c.add(Opcode.VLEN, valid=1 << 20)
    c.add(Opcode.VPITCH, a=8, b=8, to=8)
    for first in range(0, span, 8):
        c.add(Opcode.VMAP, function=Map.MAC, a=CBUF_BIT | first, b=0, to=first, words=8, into=Into.VBUF, size=2)

    def product() -> None:
        c.add(Opcode.SEGW, segment=0, format=Format.S8, line=pick(8), groups=1 + pick(2), block_stride=2, group_stride=1)
        c.add(Opcode.SEGA, segment=0)
        codes = {"line": pick(4) | pick(2) * UBUF_BIT, "blocks": 1 + pick(2), "acc": pick(4), "first": 1}
        c.add(Opcode.MATMUL, segments=1, **codes, tokens=t.tokens)
        c.add(Opcode.VCFG, guard=pick(3), token_scale=1, row_scale=pick(2))
        to = pick(2)
        c.add(Opcode.VOUT, size=2, vbuf=to)
        c.add(Opcode.VPITCH, a=pick(4), b=pick(4), to=2 * t.ports // v + pick(4))
        place = pick(16) if to else pick(4)
        banks = 1 + pick(min(-(-most // bank), t.tbuf_tokens // t.tokens))
        token, groups = pick(t.tbuf_tokens - t.tokens * banks + 1), 1 + pick(2)
        c.add(Opcode.VREQ, acc=pick(2), token=token, to=place, groups=groups, tokens=t.tokens, banks=banks)

    bank, most = t.tokens, 8
    """Rows of a bank, and most rows that lie within the buffers, as they were set last."""

    def row_map() -> None:
        nonlocal bank, most
        function, reduce = Map(pick(4)), Reduce(pick(4))
        into = Into(pick(4))
        words = 1 + pick(6)
        size = {Into.NOTHING: 0, Into.VBUF: 2, Into.UBUF: t.activation_bits // 16, Into.OBUF: pick(3)}[into]
        tiled = int(into is Into.OBUF and t.ports <= beat and rng.random() < 0.5)
        size = 0 if tiled else size
        if rng.random() < 0.7:  # else what it follows is settings of before: a VMAP at once, often
            c.add(Opcode.VLEN, valid=int(rng.choice([1 << 20, pick(words * v + 2)])), step=pick(2))
            c.add(Opcode.VPITCH, a=pick(8), b=pick(8), to=words + pick(3) if into is Into.VBUF else pick(12))
            bank, most = 1 + pick(t.tokens), 1 + pick(ROWS if rng.random() < 0.5 else 8)
            apart = 1 + (32 if into is Into.UBUF else 128) // -(-most // bank)
            c.add(Opcode.VBANK, a=pick(apart), b=pick(apart), to=pick(apart), rows=bank)
            rows = most
        else:
            rows = 1 + pick(min(bank, most) if into is Into.UBUF else most)
            c.add(Opcode.VCON, ca=pick(65536) - 32768, cb=pick(65536) - 32768, shift=int(rng.choice([0, 1, 15, 31, pick(64)])))
            low, step = int(rng.choice([-(2**31), -pick(2**30), 0, pick(2**20)])), pick(32)
            c.add(Opcode.VTAB, low=low, first=pick(8), last=pick(8), step=step, shift=int(rng.choice([0, step, pick(64)])))
        c.add(
            Opcode.VMAP,
            function=function,
            reduce=reduce,
            a=pick(2) * CBUF_BIT + pick(8),
            b=pick(2) * CBUF_BIT + pick(8),
            to=pick(8),
            words=words,
            rows=rows,
            into=into,
            size=size,
            scale=pick(SCALARS),
            less=pick(SCALARS),
            subtract=pick(2),
            tiled=tiled,
            shared=pick(2),
        )

    def row_scalar() -> None:
        function = Row(pick(4))
        token = function is Row.TOKEN
        rows = 1 + pick(min(ROWS, t.tbuf_tokens) if rng.random() < 0.5 else 8)
        add = pick(t.tbuf_tokens - rows + 1) if token else pick(65536)
        held, register = pick(add + 1), 1  # of `add` in a register
        window = int(windows.integers(0, t.windows))
        if windows.random() < 0.5 and in_windows[window] <= add:
            held, register = in_windows[window], 24
            c.add(Opcode.WINDOW, number=window)
        else:
            c.add(Opcode.SET, rd=1, value=held << 16)
        c.add(
            Opcode.VROW,
            function=function,
            factor=int(rng.choice([1, 0, 65535, pick(65536)])),
            add=add - held,
            rx=register,
            to=pick(256) if token else pick(8),
            shift=int(rng.choice([0, 1, 16, pick(64)])),
            adjust=int(rng.choice([0, 31, -31, pick(256) - 128])),
            rows=rows,
            scalar=pick(SCALARS),
            write=0 if token else pick(2),
        )

    def stored(place: int) -> int:
        """Some of OBUF to memory from `place` on; bytes that it may reach over. Rows and parts lie as they like, or touch."""
        width = pick(beat.bit_length() + 1)
        size = 1 << (width - 1) if width else beat
        at = pick(beat) // size * size
        row = int(rng.choice([0, size, 4 * pick(256)])) // (1 if width else beat) * (1 if width else beat)
        part = int(rng.choice([0, size, beat * pick(9), pick(128)]))
        beats, rows = 1 + pick(40 if not width or part < 64 else 20), 1 + pick(4)
        c.add(Opcode.SPITCH, row=row, part=part)
        c.add(Opcode.STORE, address=place + at, beat=pick(4), beats=beats, rows=rows, bytes=width)
        return (3 * row + (40 * 64 if width else 0) + beats * rows * beat + 2 * beat) // beat * beat

    place = OUT
    for _ in range(20):
        rng.choice([row_map, row_map, row_map, row_scalar, row_scalar, product])()  # type: ignore[operator]
        if rng.random() < 0.3:
            place += stored(place)
    c.add(Opcode.SPITCH)
    c.add(Opcode.VLEN, valid=1 << 20)
    c.add(Opcode.VPITCH)
    c.add(Opcode.VCON, ca=1)
    for first in range(0, 128, 8):
        c.add(Opcode.VMAP, function=Map.MAC, a=first, to=first * word // beat, words=8, into=Into.OBUF, size=2)
    c.add(Opcode.STORE, address=place, beat=0, beats=128 * word // beat, rows=1)
    c.add(Opcode.HALT)
    program = c.program()
    check_program(program)
    data = encode_program(program)
    assert len(data) <= DATA
    memory[: len(data)] = np.frombuffer(data, np.uint8)
    return Case(seed, t, memory.tobytes(), registers, program)
