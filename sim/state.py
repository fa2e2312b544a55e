"""The machine's memories and configuration, and what each instruction does to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from axlora.isa import numerics
from axlora.isa.formats import Format
from axlora.isa.instruction import Instruction
from axlora.isa.opcodes import SEGMENTS, UBUF_BIT, UNIT_OF, Buffer, ErrorCode, Into, Opcode, Reduce, Row, Unit
from axlora.isa.target import Target
from axlora.timing.matrix import MatmulTiming, matmul_duration, matmul_setup
from axlora.timing.memory import part_addresses, store_bursts, store_duration
from axlora.timing.vector import block_quantize_duration, map_duration, requantize_duration, row_duration

from .rows import RowUnit
from .weights import Segment, WeightCache
from .work import Work

Int64 = npt.NDArray[np.int64]


class Machine:
    """State after power-up (all zero) and the action of each instruction on it, in program order.

    Program order is a legal order: every wait is met by posts earlier in program order.
    """

    def __init__(
        self, target: Target, memory: npt.NDArray[np.uint8], mem_limit: int, cache: WeightCache, bad: range = range(0)
    ) -> None:
        t = self.target = target
        self.memory = memory
        self.mem_limit = mem_limit
        self.bad = bad
        self.weights = cache
        self.wbuf = np.zeros((t.wbuf_lines, t.lanes, t.ports), np.uint8)
        self.line_version = np.zeros(t.wbuf_lines, np.int64)
        self.version = 0
        act = np.int8 if t.activation_bits == 8 else np.int16
        self.abuf = np.zeros((t.abuf_lines, t.tokens, t.lanes), act)
        self.ubuf = np.zeros((t.ubuf_lines, t.tokens, t.lanes), act)
        self.acc = np.zeros((t.acc_words, t.tokens, t.ports), np.int64)
        self.pbuf = np.zeros(t.pbuf_bytes, np.uint8)
        self.tbuf = np.zeros(t.tbuf_tokens, np.uint32)
        self.exponent = np.zeros(t.tbuf_tokens, np.int64)
        self.sbuf = np.zeros((t.sbuf_lines, t.sbuf_line_bytes), np.uint8)
        self.obuf = np.zeros(t.obuf_beats * t.beat_bytes, np.uint8)
        self.segments = [Segment()] * SEGMENTS
        self.codebook = np.zeros(16, np.int64)
        self.vcfg = Instruction(Opcode.VCFG)
        self.vout = Instruction(Opcode.VOUT)
        self.spitch = Instruction(Opcode.SPITCH)
        self.rows = RowUnit(t)
        self._actions = {o: getattr(self, f"_{o.name.lower()}") for o in Opcode if UNIT_OF[o] is not Unit.FETCH}
        self.group = np.zeros((t.group_words, t.tokens, t.ports), np.int64)

    def execute(self, i: Instruction, address: int) -> Work:
        """Carry out one resolved instruction of load, matrix, vector or store.

        Raises:
            MachineError: as the machine would stop.
        """
        work = Work(i, address)
        self._actions[i.opcode](i, work)
        return work

    def _transfer(self, i: Instruction, work: Work) -> slice:
        size = self.target.beat_bytes
        work.beats = i.misc * i.z
        first = i.x - i.x % size
        stop = first + work.beats * size
        if work.beats and stop > self.mem_limit:
            work.refuse(ErrorCode.MEMORY_ADDRESS, f"memory up to {stop:#x}, limit {self.mem_limit:#x}")
        if work.beats and first < self.bad.stop and stop > self.bad.start:
            work.refuse(ErrorCode.AXI_READ, "the memory answers with an error")
        return slice(first, stop)

    def _load(self, i: Instruction, work: Work) -> None:
        t = self.target
        data = self.memory[self._transfer(i, work)]
        beat = t.beat_bytes
        first = i.y * beat
        buffer = Buffer(i.sub)
        flat: npt.NDArray[np.uint8]
        if buffer is Buffer.WBUF:
            flat = self.wbuf.reshape(-1)
        elif buffer is Buffer.ABUF:
            flat = self.abuf.view(np.uint8).reshape(-1)
        elif buffer is Buffer.PBUF:
            flat = self.pbuf
        elif buffer is Buffer.TBUF:
            flat = self.tbuf.view(np.uint8)
        elif buffer is Buffer.SBUF:
            flat = self.sbuf.reshape(-1)
        elif buffer is Buffer.CBUF:
            flat = self.rows.cbuf.view(np.uint8).reshape(-1)
        elif buffer is Buffer.FBUF:
            flat = self.rows.table.view(np.uint8).reshape(-1)
        else:
            self._load_columns(i, work, data)
            return
        work.local(f"{buffer.name} beats", i.y, work.beats, flat.size // beat)
        flat[first : first + data.size] = data
        if buffer is Buffer.WBUF and data.size:
            self.version += 1
            line = t.wbuf_line_bytes
            self.line_version[first // line : (first + data.size - 1) // line + 1] = self.version

    def _load_columns(self, i: Instruction, work: Work, data: npt.NDArray[np.uint8]) -> None:
        """WKEY: row r of the transfer becomes column r; element e of it goes to lane e mod L of the block's line."""
        t = self.target
        if not work.beats:
            return
        size = i.misc * t.beat_bytes
        blocks = -(-size // t.lanes)
        rows, elements = np.arange(i.z)[:, None], np.arange(size)[None]
        lines = i.y + rows // t.ports * blocks + elements // t.lanes
        work.local("WBUF lines", int(lines.max()), 1, t.wbuf_lines)
        self.wbuf[lines, elements % t.lanes, rows % t.ports] = data.reshape(i.z, size)
        self.version += 1
        self.line_version[i.y : int(lines.max()) + 1] = self.version

    def _store(self, i: Instruction, work: Work) -> None:
        t, size = self.target, self.target.beat_bytes
        counts: list[int] = []
        beat = i.y
        for at, count in store_bursts(t, i, self.spitch):
            stop = at + count * size
            work.local("OBUF beats", beat, count, t.obuf_beats)
            if stop > self.mem_limit:
                work.refuse(ErrorCode.MEMORY_ADDRESS, f"memory up to {stop:#x}, limit {self.mem_limit:#x}")
            if at < self.bad.stop and stop > self.bad.start:
                work.refuse(ErrorCode.AXI_WRITE, "the memory answers with an error")
            if not i.sub:
                self.memory[at:stop] = self.obuf[beat * size : (beat + count) * size]
            beat += count
            counts.append(count)
        work.beats, work.duration = i.misc * i.z, store_duration(t, counts)
        if i.sub:
            width = 1 << (i.sub - 1)
            for n, at in enumerate(part_addresses(i, size, self.spitch)):
                place = slice(at % size, min(at % size + width, size))
                own = self.obuf[(i.y + n) * size : (i.y + n + 1) * size]
                self.memory[at - at % size :][:size][place] = own[place]

    def _spitch(self, i: Instruction, work: Work) -> None:
        self.spitch = i

    def _segw(self, i: Instruction, work: Work) -> None:
        self.segments[i.sub] = self.segments[i.sub].with_weights(
            Format(i.misc & 15), i.misc >> 4, i.y, i.z, i.x & 0xFFFF, i.x >> 16
        )

    def _sega(self, i: Instruction, work: Work) -> None:
        self.segments[i.sub] = self.segments[i.sub].with_sums(i.y, i.z, i.x & 0xFFFF, bool(i.misc & 1), bool(i.misc & 2))

    def _codebook(self, i: Instruction, work: Work) -> None:
        data = i.x.to_bytes(4, "little") + i.y.to_bytes(2, "little") + i.z.to_bytes(2, "little")
        self.codebook[8 * i.sub : 8 * i.sub + 8] = np.frombuffer(data, np.int8)

    def _slots(self, work: Work, base: int, tokens: int) -> Int64:
        work.local("TBUF tokens", base, tokens, self.target.tbuf_tokens)
        return (self.tbuf[base : base + tokens] & 15).astype(np.int64)

    def _activations(self, work: Work, line: int, blocks: int, tokens: int) -> Int64:
        name, memory = ("UBUF", self.ubuf) if line & UBUF_BIT else ("ABUF", self.abuf)
        line &= UBUF_BIT - 1
        work.local(f"{name} lines", line, blocks, memory.shape[0])
        return memory[line : line + blocks, :tokens].transpose(1, 0, 2).reshape(tokens, -1).astype(np.int64)

    def _matmul(self, i: Instruction, work: Work) -> None:
        t = self.target
        tokens = (i.misc >> 1 & 7) + 1
        blocks, per = i.z, i.misc >> 4
        slots = self._slots(work, i.x & 0xFFFF, tokens)
        active: list[tuple[Segment, npt.NDArray[np.bool_]]] = []
        for segment in self.segments[: i.sub]:
            mask = (slots == segment.slot) | (segment.slot == 0)
            if segment.groups and mask.any():
                if segment.scaled and per == 0:
                    work.refuse(ErrorCode.ILLEGAL, "a scaled segment needs blocks a scale group")
                active.append((segment, mask))
        timing: MatmulTiming | None = None
        if blocks and active:
            x = self._activations(work, i.y, blocks, tokens)
            timing = self._multiply(i, work, x, active, per)
        work.duration = matmul_duration(t, tokens, i.sub, timing)
        if timing is not None:
            work.counters.update(
                matrix_raw=timing.raw,
                matrix_product=timing.product,
                lane_groups=timing.lane_groups,
                lane_misses=timing.lane_misses,
                lane_fifo_full=timing.lane_fifo_full,
            )
        assert work.duration > matmul_setup(tokens, i.sub)

    def _multiply(
        self, i: Instruction, work: Work, x: Int64, active: list[tuple[Segment, npt.NDArray[np.bool_]]], per: int
    ) -> MatmulTiming:
        t = self.target
        blocks, first = i.z, bool(i.misc & 1)
        for segment, _ in active:
            work.local("WBUF lines", segment.line, segment.last_line(blocks) + 1, t.wbuf_lines)
        ready = self.weights.prepare(t, [s for s, _ in active], blocks, self.wbuf, self.line_version, self.codebook)
        sumx = np.zeros((x.shape[0], -(-blocks // per) if per else 1), np.int64)
        macs = products = zeros = rescales = column = 0
        adapter = {"adapter_macs": 0, "adapter_multiplications": 0}
        for (segment, mask), part in zip(active, ready.parts, strict=True):
            n = segment.groups
            count = int(mask.sum())
            place = slice(column, column + n)
            missed, coded = int(ready.timing.misses[place].sum()) * count, blocks * t.lanes * n * t.ports * count
            products += missed
            zeros += int(ready.timing.zeros[place].sum()) * count
            macs += coded
            if segment.slot:
                adapter["adapter_macs"] += coded
                adapter["adapter_multiplications"] += missed
            column += n
            scaled = segment.scaled
            if scaled:
                work.local("group words", column - n, n, t.group_words)
            if scaled and segment.sums:
                sums = self._group_sums(x, part.values, blocks, per)
                sumx = np.where(mask[:, None], sums[:, :, (n - 1) * t.ports], sumx)
                continue
            base = (segment.acc + (i.x >> 16)) & 0xFFFF
            work.local("ACC words", base, n, t.acc_words)
            if scaled:
                groups = -(-blocks // per)
                scale, zero = self._scales(work, segment, groups)
                sums = self._group_sums(x, part.values, blocks, per)
                total = ((sums - zero[None] * sumx[:, :, None]) * scale[None]).sum(axis=1)
                rescales += groups * n * t.ports * count
            else:
                total = part.multiply(x)
            total = total.reshape(x.shape[0], n, t.ports).transpose(1, 0, 2)
            tokens = np.flatnonzero(mask)
            old = 0 if first else self.acc[base : base + n, tokens]
            self.acc[base : base + n, tokens] = numerics.wrap(old + total[:, tokens], t.accumulator_bits)
        work.counters.update(macs=macs, multiplications=products, zeros=zeros, rescales=rescales, **adapter)
        return ready.timing

    def _group_sums(self, x: Int64, values: Int64, blocks: int, per: int) -> Int64:
        """Sums of each K-group, wrapped like the group accumulator: int64 [tokens, groups, columns]."""
        rows = per * self.target.lanes
        groups = -(-blocks // per)
        out = [numerics.matmul(x[:, g * rows : (g + 1) * rows], values[g * rows : (g + 1) * rows]) for g in range(groups)]
        return numerics.wrap(np.stack(out, axis=1), self.target.accumulator_bits)

    def _scales(self, work: Work, segment: Segment, groups: int) -> tuple[Int64, Int64]:
        lines = segment.scale_line + np.arange(groups)[:, None] * segment.scale_stride + np.arange(segment.groups)[None]
        work.local("SBUF lines", int(lines.max()), 1, self.target.sbuf_lines)
        data = self.sbuf[lines]
        ports = self.target.ports
        scale = data[..., :ports].astype(np.int64).reshape(groups, -1)
        zero = data[..., ports : 2 * ports].view(np.int8).astype(np.int64).reshape(groups, -1)
        return scale, zero

    def _vcfg(self, i: Instruction, work: Work) -> None:
        self.vcfg = i

    def _vout(self, i: Instruction, work: Work) -> None:
        self.vout = i

    def _records(self, work: Work, group: int, groups: int) -> Int64:
        """PBUF records as columns bias, m1, byte 6, bytes 6..7: int64 [4, n]."""
        work.local("PBUF groups", group, groups, self.target.pbuf_groups)
        size = self.target.ports * 8
        data = self.pbuf[group * size : (group + groups) * size].reshape(-1, 8)
        bias = data[:, :4].copy().view(np.int32)[:, 0].astype(np.int64)
        m1 = data[:, 4:6].copy().view(np.uint16)[:, 0].astype(np.int64)
        m2 = data[:, 6:8].copy().view(np.uint16)[:, 0].astype(np.int64)
        return np.stack([bias, m1, data[:, 6].astype(np.int64) & 63, m2])

    def _accumulators(self, work: Work, word: int, groups: int, tokens: int) -> Int64:
        work.local("ACC words", word, groups, self.target.acc_words)
        return self.acc[word : word + groups, :tokens].transpose(1, 0, 2).reshape(tokens, -1)

    def _vreq(self, i: Instruction, work: Work) -> None:
        t = self.target
        cfg = self.vcfg
        tokens, groups = i.misc + 1, i.z
        adapter = bool(cfg.misc >> 11 & 1)
        work.duration = requantize_duration(t, tokens, groups, adapter)
        if groups == 0:
            return
        word, token = i.x & 0xFFFF, i.x >> 16
        slots = self._slots(work, token, tokens)
        base = self._records(work, cfg.x & 0xFFFF, groups)
        bias = np.repeat(base[0:1], tokens, axis=0)
        m1 = np.repeat(base[1:2], tokens, axis=0)
        m2 = np.zeros_like(m1)
        acc = self._accumulators(work, word, groups, tokens)
        acc2 = np.zeros_like(acc)
        if adapter:
            for row in np.flatnonzero(slots):
                own = self._records(work, ((cfg.x >> 16) + (int(slots[row]) - 1) * cfg.y) & 0xFFFF, groups)
                bias[row], m1[row], m2[row] = own[0], own[1], own[3]
            acc2 = self._accumulators(work, (word + cfg.z) & 0xFFFF, groups, tokens)
        meta = self.tbuf[token : token + tokens].astype(np.int64)[:, None]
        scaled = bool(cfg.misc >> 5 & 1)
        if cfg.misc >> 12:
            meta = self.rows.token_words[token : token + tokens, None]
        size = self.vout.misc & 3
        to_ubuf, to_vbuf = bool(self.vout.misc & 4), bool(self.vout.misc & 8)
        zero = self.vout.x - 0x10000 if self.vout.x & 0x8000 else self.vout.x
        code, changed = numerics.requantize(
            acc,
            bias,
            m1,
            base[2],
            acc2=acc2,
            m2=m2,
            exponent=self.exponent[token : token + tokens, None],
            mantissa=meta >> 16 if scaled else None,
            token_shift=meta >> 10 & 63 if scaled else None,
            bias_shift=cfg.misc >> 7 & 15,
            bias_end=bool(cfg.misc >> 6 & 1),
            guard=cfg.misc & 31,
            zero_point=zero,
            bits=8 << size,
        )
        work.counters.update(vector_elements=code.size, saturations=int(changed.sum()))
        if to_vbuf:
            self.rows.write(work, i.y, code)
        else:
            self._write(work, i.y, code, size, to_ubuf)

    def _write(self, work: Work, place: int, code: Int64, size: int, to_ubuf: bool) -> None:
        """Store [tokens, n] results in region order [block][token][lane]."""
        t = self.target
        tokens, n = code.shape
        column = np.arange(n)
        offset = (column // t.lanes * t.tokens * t.lanes + column % t.lanes)[None] + np.arange(tokens)[:, None] * t.lanes
        if to_ubuf:
            line = place & (UBUF_BIT - 1)
            work.local("UBUF lines", line, -(-n // t.lanes), t.ubuf_lines)
            flat = self.ubuf.reshape(-1)
            flat[line * t.tokens * t.lanes + offset] = code.astype(flat.dtype)
            return
        kind = (np.int8, np.int16, np.int32)[size]
        last = place * t.beat_bytes + (int(offset.max()) + 1 << size)
        if last > self.obuf.size:
            work.refuse(ErrorCode.LOCAL_ADDRESS, f"OBUF bytes up to {last}, has {self.obuf.size}")
        view = self.obuf.view(kind)
        view[(place * t.beat_bytes >> size) + offset] = code.astype(kind)

    def _vqt(self, i: Instruction, work: Work) -> None:
        t = self.target
        tokens, groups, slot = (i.misc & 7) + 1, i.z, i.misc >> 3
        token = i.x >> 16
        slots = self._slots(work, token, tokens)
        taking = (slots == slot) | (slot == 0)
        work.duration = block_quantize_duration(t, taking.tolist(), groups)
        rows = np.flatnonzero(taking)
        if rows.size == 0:
            return
        if groups == 0:
            self.exponent[token + rows] = 0
            return
        base = self._records(work, self.vcfg.x & 0xFFFF, groups)
        acc = self._accumulators(work, i.x & 0xFFFF, groups, tokens)[rows]
        code, exponent, changed = numerics.block_quantize(
            acc, base[0], base[1], base[2], self.vcfg.misc >> 7 & 15, t.activation_bits
        )
        self.exponent[token + rows] = exponent[:, 0]
        work.counters.update(vector_elements=code.size, saturations=int(changed.sum()))
        line = i.y & (UBUF_BIT - 1)
        work.local("UBUF lines", line, -(-code.shape[1] // t.lanes), t.ubuf_lines)
        column = np.arange(code.shape[1])
        offset = (column // t.lanes * t.tokens * t.lanes + column % t.lanes)[None] + rows[:, None] * t.lanes
        flat = self.ubuf.reshape(-1)
        flat[line * t.tokens * t.lanes + offset] = code.astype(flat.dtype)

    def _vlen(self, i: Instruction, work: Work) -> None:
        self.rows.length = i

    def _vpitch(self, i: Instruction, work: Work) -> None:
        self.rows.pitch = i

    def _vcon(self, i: Instruction, work: Work) -> None:
        self.rows.constants = i

    def _vtab(self, i: Instruction, work: Work) -> None:
        self.rows.intervals = i

    def _vmap(self, i: Instruction, work: Work) -> None:
        rows, size = (i.misc & 7) + 1, i.misc >> 5 & 3
        work.duration = map_duration(self.target, rows, i.z, Reduce(i.sub >> 2))
        if i.z == 0:
            return
        values, changed = self.rows.map(i, work)
        into = Into(i.misc >> 3 & 3)
        if into is Into.UBUF:
            self._write(work, i.y, values, size, to_ubuf=True)
        elif into is Into.OBUF:
            self.rows.to_obuf(i, work, values, self.obuf)
        work.counters.update(vector_elements=values.size, saturations=changed)

    def _vrow(self, i: Instruction, work: Work) -> None:
        rows = (i.misc & 7) + 1
        work.duration = row_duration(self.target, Row(i.sub), rows)
        values = self.rows.row(i, work)
        if i.misc >> 5:
            size = self.target.beat_bytes
            work.local("OBUF beats", i.y, rows, self.target.obuf_beats)
            self.obuf[i.y * size : (i.y + rows) * size] = np.repeat(values.astype("<i4"), size // 4).view(np.uint8)
