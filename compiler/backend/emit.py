"""Instructions of one linear for one pass over its tokens: loads one tile ahead, matrix, vector and store under semaphores.

Each buffer that one unit fills while another reads is used in halves; a half is taken with a credit and given back with a
post. `prologue` posts the first credits, so that every iteration looks alike and loops can be rolled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import Plan, Shape, WeightHalves, adapter_lines, output_bytes, u_lines
from axlora.compiler.backend.roll import roll, roll_blocks
from axlora.compiler.layer import Linear
from axlora.isa.assembly import make
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import UBUF_BIT, Buffer, Opcode
from axlora.isa.regions import slot_registers
from axlora.isa.target import Target

WEIGHTS, INPUT, PARAMETERS = 0, 1, 2
WEIGHTS_FREE, INPUT_FREE, ACC_READY, ADAPTER_FREE = 4, 5, 6, 7
PARAMETERS_FREE, ACC_FREE, U_READY, OUTPUT_READY = 8, 9, 10, 11
OUTPUT_FREE = 12
TOKENS = -1
"""Not a semaphore: the halves of TBUF, which change with every linear and pass and are covered by PARAMETERS."""

SPARE_SEGMENT = 8
LOADS_AHEAD = 3
"""Loads of the next tile that go before this tile's instructions (a queue holds four)."""


@dataclass(frozen=True)
class Places:
    """Where one linear's data lies in memory (byte addresses), and its piece of every adapter block."""

    weights: dict[tuple[int, int], int]
    """Of the tile of (column tile, row tile)."""
    scales: dict[tuple[int, int], int]
    records: int
    ones: int
    adapter: int
    """Offset in every adapter block."""
    input: int
    tokens: int
    """Token words of the input tensor."""
    output: list[int]
    """Of each column tile's results."""


@dataclass
class _Item:
    """One weight tile's worth of work."""

    loads: list[Instruction] = field(default_factory=list)
    work: list[list[list[Instruction]]] = field(default_factory=list)
    """Pieces, each a list of iterations; the first piece goes before the rest of the next item's loads."""

    def block(self, ahead: list[Instruction], *, rolled: bool) -> list[Instruction]:
        """The item's instructions with the next item's loads, the pieces as loops where that is shorter."""
        out = list(ahead[:LOADS_AHEAD])
        for number, piece in enumerate(self.work):
            out += roll(piece) if rolled else [i for iteration in piece for i in iteration]
            if number == 0:
                out += ahead[LOADS_AHEAD:]
        return out


def prologue() -> list[Instruction]:
    """First credits: both halves of every buffer are free."""
    out = []
    for sem in (WEIGHTS_FREE, INPUT_FREE, ADAPTER_FREE):
        out += [make(Opcode.SEGA, segment=SPARE_SEGMENT, posts=[sem])] * 2
    for sem in (PARAMETERS_FREE, ACC_FREE):
        out += [make(Opcode.VOUT, posts=[sem])] * 2
    return out + [make(Opcode.STORE, posts=[OUTPUT_FREE])] * 2


class Emitter:
    """Emits linears one after another; keeps the parity of every pair of halves."""

    def __init__(self, target: Target, halves: WeightHalves) -> None:
        self.target = target
        self.halves = halves
        self._turn = dict.fromkeys((WEIGHTS, INPUT, PARAMETERS, ACC_FREE, OUTPUT_FREE, ADAPTER_FREE, TOKENS), 0)
        self._items: list[_Item] = []
        self._marks: list[str] = []

    def _next(self, what: int) -> int:
        """Half (0 or 1) that the next use of a pair of halves takes."""
        self._turn[what] ^= 1
        return self._turn[what] ^ 1

    def program(self) -> tuple[list[Instruction], list[tuple[int, str]]]:
        """All instructions with HALT; and (first instruction, linear) marks in order."""
        out = prologue()
        marks: list[tuple[int, str]] = []
        loads = [item.loads for item in self._items] + [[]]
        out += loads[0]
        rows = zip(self._items, loads[1:], self._marks, strict=True)
        for name, part in itertools.groupby(rows, key=lambda row: row[2]):
            marks.append((len(out), name))
            items = [(item, ahead) for item, ahead, _ in part]
            out += roll_blocks(
                [item.block(ahead, rolled=False) for item, ahead in items],
                [item.block(ahead, rolled=True) for item, ahead in items],
            )
        return [*out, make(Opcode.HALT)], marks

    def linear(self, linear: Linear, shape: Shape, plan: Plan, places: Places, first_group: int, groups: int) -> None:
        """Append one linear over token groups first_group .. first_group + groups - 1."""
        run = _Pass(self, linear, shape, plan, places, first_group, groups)
        for item in run.items():
            self._items.append(item)
            self._marks.append(linear.name)


@dataclass
class _Pass:
    emitter: Emitter
    linear: Linear
    shape: Shape
    plan: Plan
    places: Places
    first_group: int
    groups: int

    def __post_init__(self) -> None:
        t = self.t = self.emitter.target
        s = self.shape
        self.tile = self.emitter.halves.tile
        self.a_lines, self.b_lines = adapter_lines(s, self.plan.columns)
        self.offsets = adapter_offsets(t, s, self.plan)[0]
        self.lora = bool(s.slots and s.rank_groups)
        self.set_words = (2 if self.lora else 1) * self.plan.columns + s.rank_groups
        self.out_bytes = output_bytes(t, s, self.plan.columns)
        self.zero_points = s.per_group > 0

    def items(self) -> Sequence[_Item]:
        """The nest: column tiles, chunks of token groups, row tiles."""
        columns, rows = self.plan.column_tiles(self.shape), self.plan.row_tiles(self.shape)
        chunks = [(g, min(self.plan.chunk, self.groups - g)) for g in range(0, self.groups, self.plan.chunk)]
        out = []
        token_half = 0
        adapter_half = x_half = w_half = 0
        for n, column in enumerate(columns):
            params = self.emitter._next(PARAMETERS)
            if n == 0:
                token_half = self.emitter._next(TOKENS)
            b_half = self.emitter._next(ADAPTER_FREE) if self.lora else 0
            if n == 0:
                adapter_half = b_half
            for c, chunk in enumerate(chunks):
                acc_half, out_half = self.emitter._next(ACC_FREE), self.emitter._next(OUTPUT_FREE)
                load_x = len(chunks) > 1 or n == 0
                for k, row in enumerate(rows):
                    item = _Item()
                    if c == 0 and k == 0:
                        item.loads += self._load_parameters(n, column, params, token_half if n == 0 else None)
                        if self.lora:
                            item.loads += self._load_adapters(n, column, b_half)
                    load_w = len(rows) > 1 or c == 0
                    if load_w:
                        w_half = self.emitter._next(WEIGHTS)
                        item.loads += self._load_weights(n, k, column, row, w_half)
                    if load_x and k == 0:
                        x_half = self.emitter._next(INPUT)
                        item.loads += self._load_input(chunk, x_half)
                    last_row = k == len(rows) - 1
                    free_w = len(rows) > 1 or c == len(chunks) - 1
                    free_x = last_row and (len(chunks) > 1 or n == len(columns) - 1)
                    halves = (w_half, x_half, token_half, adapter_half, b_half, acc_half, out_half, params)
                    waits = (load_w, load_x and k == 0, k == 0)
                    free = (free_w, free_x, last_row and c == len(chunks) - 1)
                    item.work = self._work(n, k, column, row, chunk, halves, waits, free, last_row, c == 0)
                    out.append(item)
        return out

    def _load_parameters(self, n: int, column: tuple[int, int], half: int, tokens: int | None) -> list[Instruction]:
        t, s = self.t, self.shape
        record = t.ports * 8
        first = half * (t.pbuf_groups // 2)
        beat = t.beat_bytes
        out = []
        if tokens is not None:
            words = self.groups * t.tokens
            size = -(-words * 4 // beat)
            out.append(
                make(
                    Opcode.LOAD,
                    buffer=Buffer.TBUF,
                    address=self.places.tokens + self.first_group * t.tokens * 4,
                    beat=tokens * (t.tbuf_tokens // 2) * 4 // beat,
                    rows=1,
                    beats=size,
                )
            )
        out.append(
            make(
                Opcode.LOAD,
                buffer=Buffer.PBUF,
                address=self.places.records + column[0] * record,
                beat=first * record // beat,
                rows=1,
                beats=column[1] * record // beat,
            )
        )
        for slot in range(1, s.slots + 1) if self.lora else ():
            address, rank, _ = slot_registers(slot)
            place = first + column[1] * slot
            out.append(
                make(
                    Opcode.LOAD,
                    buffer=Buffer.PBUF,
                    address=self.places.adapter + self.offsets[3 + 2 * n],
                    rx=address,
                    beat=place * record // beat,
                    rows=1,
                    beats=column[1] * record // beat,
                )
            )
            if n == 0:
                place = first + column[1] * (1 + s.slots) + (slot - 1) * s.rank_groups
                out.append(
                    make(
                        Opcode.LOAD,
                        buffer=Buffer.PBUF,
                        address=self.places.adapter + self.offsets[1],
                        rx=address,
                        beat=place * record // beat,
                        rz=rank,
                        beats=record // beat,
                    )
                )
        out[0] = _with(out[0], waits=(PARAMETERS_FREE,))
        out[-1] = _with(out[-1], posts=(PARAMETERS,))
        return out

    def _a_line(self, half: int, slot: int) -> int:
        return self._adapter_base(half) + (slot - 1) * (self.a_lines + self.b_lines)

    def _b_line(self, half: int, slot: int) -> int:
        return self._a_line(half, slot) + self.a_lines

    def _adapter_base(self, half: int) -> int:
        return 2 * self.tile + half * self.emitter.halves.adapter

    def _load_adapters(self, n: int, column: tuple[int, int], half: int) -> list[Instruction]:
        t, s = self.t, self.shape
        out = []
        for slot in range(1, s.slots + 1):
            address, groups, blocks = slot_registers(slot)
            if n == 0:
                out.append(
                    make(
                        Opcode.LOAD,
                        buffer=Buffer.WBUF,
                        address=self.places.adapter + self.offsets[0],
                        rx=address,
                        beat=self._a_line(half, slot) * t.wbuf_line_beats,
                        rz=groups,
                        beats=s.blocks * t.wbuf_line_beats,
                    )
                )
            out.append(
                make(
                    Opcode.LOAD,
                    buffer=Buffer.WBUF,
                    address=self.places.adapter + self.offsets[2 + 2 * n],
                    rx=address,
                    beat=self._b_line(half, slot) * t.wbuf_line_beats,
                    rz=blocks,
                    beats=column[1] * t.wbuf_line_beats,
                )
            )
        out[0] = _with(out[0], waits=(ADAPTER_FREE,))
        return out

    def _load_weights(self, n: int, k: int, column: tuple[int, int], row: tuple[int, int], half: int) -> list[Instruction]:
        t, s = self.t, self.shape
        lines = row[1] * column[1] * s.storage // 8
        out = []
        if s.per_group:
            scale_lines = row[1] // s.per_group * column[1]
            beats = t.sbuf_line_bytes // t.beat_bytes
            out.append(
                make(
                    Opcode.LOAD,
                    buffer=Buffer.SBUF,
                    address=self.places.scales[n, k],
                    beat=half * (t.sbuf_lines // 2) * beats,
                    rows=1,
                    beats=scale_lines * beats,
                )
            )
            out.append(
                make(
                    Opcode.LOAD,
                    buffer=Buffer.WBUF,
                    address=self.places.ones,
                    beat=((half + 1) * self.tile - 1) * t.wbuf_line_beats,
                    rows=1,
                    beats=t.wbuf_line_beats,
                )
            )
        out.append(
            make(
                Opcode.LOAD,
                buffer=Buffer.WBUF,
                address=self.places.weights[n, k],
                beat=half * self.tile * t.wbuf_line_beats,
                rows=1,
                beats=lines * t.wbuf_line_beats,
                posts=[WEIGHTS],
            )
        )
        out[0] = _with(out[0], waits=(WEIGHTS_FREE,))
        return out

    def _load_input(self, chunk: tuple[int, int], half: int) -> list[Instruction]:
        t, s = self.t, self.shape
        line = t.abuf_line_bytes
        return [
            make(
                Opcode.LOAD,
                buffer=Buffer.ABUF,
                address=self.places.input + (self.first_group + chunk[0]) * s.blocks * line,
                beat=half * (t.abuf_lines // 2) * t.abuf_line_beats,
                rows=chunk[1],
                beats=s.blocks * t.abuf_line_beats,
                waits=[INPUT_FREE],
                posts=[INPUT],
            )
        ]

    def _work(
        self,
        n: int,
        k: int,
        column: tuple[int, int],
        row: tuple[int, int],
        chunk: tuple[int, int],
        halves: tuple[int, int, int, int, int, int, int, int],
        waits: tuple[bool, bool, bool],
        free: tuple[bool, bool, bool],
        last_row: bool,
        first_chunk: bool,
    ) -> list[list[list[Instruction]]]:
        t, s = self.t, self.shape
        w_half, x_half, token_half, a_half, b_half, acc_half, out_half, params = halves
        token0 = token_half * (t.tbuf_tokens // 2)
        acc0 = acc_half * (t.acc_words // 2)
        line0 = x_half * (t.abuf_lines // 2) + row[0]
        with_a = self.lora and n == 0
        head, segments = self._segments(column, row, w_half, a_half, with_a)
        wanted = [sem for sem, on in zip((WEIGHTS, INPUT, ACC_FREE), waits, strict=True) if on]
        head[0] = _with(head[0], waits=tuple(wanted[:2]))
        head[1] = _with(head[1], waits=tuple(wanted[2:]))
        pbuf = params * (t.pbuf_groups // 2)
        main = self._output_head(column, pbuf, first_chunk and not with_a)
        post_vector = last_row and (with_a or not self.lora)
        iterations = []
        for g in range(chunk[1]):
            matmul = make(
                Opcode.MATMUL,
                segments=segments,
                token=token0 + (chunk[0] + g) * t.tokens,
                acc=acc0 + g * self.set_words,
                line=line0 + g * s.blocks,
                blocks=row[1],
                first=int(k == 0),
                tokens=t.tokens,
                per_group=s.per_group,
                posts=[ACC_READY] if post_vector else [],
            )
            piece = [matmul]
            if last_row and with_a:
                piece.append(self._vqt(1, token0, acc0, chunk, g))
            elif last_row and not self.lora:
                piece += self._finish(n, column, token0, acc0, chunk, g, out_half)
            iterations.append(piece)
        if last_row and with_a:
            head = [*head, self._a_config(1, column, pbuf, first_chunk)]
        elif last_row and not self.lora:
            head = head + main
        out = [[head], iterations]
        posts = [sem for sem, on in zip((WEIGHTS_FREE, INPUT_FREE), free[:2], strict=True) if on]
        if posts:
            out.append([[make(Opcode.SEGA, segment=SPARE_SEGMENT, posts=posts)]])
        if last_row and self.lora:
            out += self._adapter_work(n, column, chunk, token0, acc0, b_half, out_half, pbuf, with_a, main)
            if free[2]:
                out.append([[make(Opcode.SEGA, segment=SPARE_SEGMENT, posts=[ADAPTER_FREE])]])
        if last_row:
            done = [ACC_FREE, *([PARAMETERS_FREE] if free[2] else [])]
            out.append([[_with(main[1], waits=(), posts=tuple(done)), make(Opcode.STORE, posts=[OUTPUT_FREE])]])
        return out

    def _segments(
        self, column: tuple[int, int], row: tuple[int, int], w_half: int, a_half: int, with_a: bool
    ) -> tuple[list[Instruction], int]:
        """Segment table of a base row: (sum of x,) base, and A of every slot."""
        t, s = self.t, self.shape
        out: list[Instruction] = []
        number = 0
        base = w_half * self.tile
        if self.zero_points:
            out += [
                make(Opcode.SEGW, segment=0, format=3, line=base + self.tile - 1, groups=1),
                make(Opcode.SEGA, segment=0, scaled=1, sums=1),
            ]
            number = 1
        scale = w_half * (t.sbuf_lines // 2)
        out += [
            make(
                Opcode.SEGW,
                segment=number,
                format=self.linear.weight.fmt,
                line=base,
                groups=column[1],
                block_stride=column[1],
                group_stride=1,
            ),
            make(
                Opcode.SEGA,
                segment=number,
                acc=0,
                scale_line=scale if s.per_group else 0,
                scale_stride=column[1] if s.per_group else 0,
                scaled=int(s.per_group > 0),
            ),
        ]
        number += 1
        if self.linear.weight.codebook is not None:
            data = self.linear.weight.codebook.astype("i1").tobytes()
            out += [
                make(
                    Opcode.CODEBOOK,
                    half=h,
                    e0=int.from_bytes(data[8 * h : 8 * h + 4], "little"),
                    e4=int.from_bytes(data[8 * h + 4 : 8 * h + 6], "little"),
                    e6=int.from_bytes(data[8 * h + 6 : 8 * h + 8], "little"),
                )
                for h in (0, 1)
            ]
        for slot in range(1, s.slots + 1) if with_a else ():
            out += [
                make(
                    Opcode.SEGW,
                    segment=number,
                    format=3,
                    slot=slot,
                    line=self._a_line(a_half, slot) + row[0],
                    rz=slot_registers(slot)[1],
                    block_stride=1,
                    group_stride=s.blocks,
                ),
                make(Opcode.SEGA, segment=number, acc=2 * self.plan.columns),
            ]
            number += 1
        return out, number

    def _output_head(self, column: tuple[int, int], pbuf: int, wait: bool) -> list[Instruction]:
        linear = self.linear
        config = make(
            Opcode.VCFG,
            base=pbuf,
            adapters=pbuf + column[1] if self.lora else 0,
            adapter_stride=column[1] if self.lora else 0,
            acc2=self.plan.columns if self.lora else 0,
            guard=linear.guard,
            token_scale=int(linear.token_scale),
            bias_end=int(linear.bias_end),
            bias_shift=linear.bias_shift,
            adapter=int(self.lora),
            waits=[PARAMETERS] if wait else [],
        )
        return [
            config,
            make(
                Opcode.VOUT,
                zero_point=linear.zero_point & 0xFFFF,
                size={8: 0, 16: 1, 32: 2}[linear.output_bits],
                waits=[OUTPUT_FREE],
            ),
        ]

    def _a_config(self, slot: int, column: tuple[int, int], pbuf: int, first_chunk: bool) -> Instruction:
        s = self.shape
        base = pbuf + column[1] * (1 + s.slots) + (slot - 1) * s.rank_groups
        waits = [PARAMETERS] if first_chunk and slot == 1 else []
        return make(Opcode.VCFG, base=base, bias_shift=self.linear.bias_shift, waits=waits)

    def _vqt(self, slot: int, token0: int, acc0: int, chunk: tuple[int, int], g: int) -> Instruction:
        s = self.shape
        return make(
            Opcode.VQT,
            acc=acc0 + g * self.set_words + 2 * self.plan.columns,
            token=token0 + (chunk[0] + g) * self.t.tokens,
            to=UBUF_BIT + (chunk[0] + g) * u_lines(self.t, s),
            rz=slot_registers(slot)[1],
            tokens=self.t.tokens,
            slot=slot,
            waits=[ACC_READY] if slot == 1 else [],
            posts=[U_READY] if slot == s.slots else [],
        )

    def _finish(
        self, n: int, column: tuple[int, int], token0: int, acc0: int, chunk: tuple[int, int], g: int, out_half: int
    ) -> list[Instruction]:
        t = self.t
        size = output_bytes(t, self.shape, column[1])
        place = out_half * (t.obuf_beats // 2) + g * (self.out_bytes // t.beat_bytes)
        group = self.first_group + chunk[0] + g
        return [
            make(
                Opcode.VREQ,
                acc=acc0 + g * self.set_words,
                token=token0 + (chunk[0] + g) * t.tokens,
                to=place,
                groups=column[1],
                tokens=t.tokens,
                waits=[ACC_READY],
                posts=[OUTPUT_READY],
            ),
            make(
                Opcode.STORE,
                address=self.places.output[n] + group * size,
                beat=place,
                rows=1,
                beats=size // t.beat_bytes,
                waits=[OUTPUT_READY],
            ),
        ]

    def _adapter_work(
        self,
        n: int,
        column: tuple[int, int],
        chunk: tuple[int, int],
        token0: int,
        acc0: int,
        b_half: int,
        out_half: int,
        pbuf: int,
        with_a: bool,
        main: list[Instruction],
    ) -> list[list[list[Instruction]]]:
        """Remaining slots' VQT, then (x.A).B of every slot, then requantization and store."""
        t, s = self.t, self.shape
        out: list[list[list[Instruction]]] = []
        for slot in range(2, s.slots + 1) if with_a else ():
            out.append([[self._a_config(slot, column, pbuf, False)]])
            out.append([[self._vqt(slot, token0, acc0, chunk, g)] for g in range(chunk[1])])
        for slot in range(1, s.slots + 1):
            blocks = slot_registers(slot)[2]
            out.append(
                [
                    [
                        make(
                            Opcode.SEGW,
                            segment=0,
                            format=3,
                            slot=slot,
                            line=self._b_line(b_half, slot),
                            groups=column[1],
                            block_stride=column[1],
                            group_stride=1,
                        ),
                        make(Opcode.SEGA, segment=0, acc=self.plan.columns),
                    ]
                ]
            )
            last = slot == s.slots
            iterations = []
            for g in range(chunk[1]):
                piece = [
                    make(
                        Opcode.MATMUL,
                        segments=1,
                        token=token0 + (chunk[0] + g) * t.tokens,
                        acc=acc0 + g * self.set_words,
                        line=UBUF_BIT + (chunk[0] + g) * u_lines(self.t, s),
                        rz=blocks,
                        first=1,
                        tokens=t.tokens,
                        waits=[U_READY] if slot == 1 and with_a else [],
                        posts=[ACC_READY] if last else [],
                    )
                ]
                if last:
                    piece += self._finish(n, column, token0, acc0, chunk, g, out_half)
                iterations.append(piece)
            out += [[main], iterations] if last else [iterations]
        return out


def _with(i: Instruction, waits: tuple[int, ...] | None = None, posts: tuple[int, ...] | None = None) -> Instruction:
    """The instruction with other semaphores."""
    return replace(i, waits=i.waits if waits is None else waits, posts=i.posts if posts is None else posts)
