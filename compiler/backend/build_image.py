"""A lowered model of rows as a memory image: weights, tables and caches placed, and a program for each number of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType

import tvm

from axlora.compiler.backend.emit_attention import Emit
from axlora.compiler.backend.emit_rows import Form
from axlora.compiler.backend.emit_tiles import Placed
from axlora.compiler.backend.link import Tiling, check_accumulators, placed_linear
from axlora.compiler.backend.memory_layout import ALIGN, Memory
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import Plan, Shape, adapter_lines, pace_of
from axlora.compiler.backend.roll import roll
from axlora.compiler.backend.schedule import Schedule
from axlora.compiler.backend.spread import WITHOUT_GAPS, Gaps
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.layer import Linear
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.operators import Op
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.rows.layout import WITHOUT, Layout, head_places, layouts
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import Region, read_region
from axlora.isa.assembly import encode_program
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.opcodes import INSTRUCTION_BYTES, Opcode
from axlora.isa.regions import slot_values
from axlora.isa.target import Target

PREFILL = 32
"""Rows of the largest prefill start, unless a user says otherwise: weights are read once for them, and the program grows."""
Blocks = Sequence[tuple[int, int]]
_TRANSFERS = (Opcode.LOAD, Opcode.STORE)


@dataclass(frozen=True)
class Image:
    """A transformer for the machine. Memory: read-only data, programs, what changes, adapter blocks."""

    data: bytes
    programs: Mapping[int, tuple[Instruction, ...]]
    """Rows of a start -> its instructions."""
    owners: Mapping[int, tuple[int, ...]]
    """Rows of a start -> the operator that each instruction works for."""
    addresses: Mapping[int, int]
    """Rows of a start -> byte address of its program."""
    regions: Mapping[str, tuple[int, int]]
    """What changes: name -> (address, bytes)."""
    adapter_address: int
    adapter_size: int
    slots: int
    rank: int
    context: int
    dim: int
    half: int
    """Elements of a row of the tables by position, padded; 0 without."""
    input_fraction: int
    fractions: Mapping[str, int]
    """Output's value -> its fraction."""
    input_words: int
    """Words of a row of the input region."""
    output_words: Mapping[int, int]
    """Number of an output -> words of a row of its region."""
    tilings: Mapping[str, Tiling]

    @property
    def size(self) -> int:
        """Bytes of memory with all adapter slots."""
        return self.adapter_address + max(1, self.slots) * self.adapter_size


def _plan(target: Target, linear: Linear, shape: Shape, fixed: int, groups: int) -> Plan:
    """As many columns as the accumulators of `groups` groups of rows allow, cut into rows; a sixth of WBUF a tile.

    Of one group the rows are whole: memory bounds it. Of more the matrix unit does, and wide rows reuse more products.

    Raises:
        BadModel: one unit of columns does not fit.
    """
    t, s = target, shape
    lines = t.wbuf_lines // (6 if groups > 1 else 4) * 8 // s.storage
    a, b = adapter_lines(s, 1)
    free = t.wbuf_lines - s.slots * a - 2  # of a tile, the next, and each slot's A and B beside them
    step = s.per_group or 1
    least = step if groups > 1 else s.blocks
    limits = (
        lines // least,
        8 * free // (2 * least * s.storage + 8 * s.slots * b),
        (t.acc_words // (2 * groups if groups > 1 else 3) - s.rank_groups) // (2 if s.slots else 1),
        t.obuf_beats * t.beat_bytes // (8 * t.ports * t.tokens),
        ((t.pbuf_groups - fixed) // 3 - s.slots * s.rank_groups) // (1 + s.slots),
        *((t.sbuf_lines // 3 // (least // step), t.group_words - 1 - s.rank_groups * s.slots) if s.per_group else ()),
    )
    columns = min(*limits, s.groups) // s.column_unit * s.column_unit
    if columns <= 0:
        hint = "a target with larger buffers, or a smaller max LoRA rank"
        raise DoesNotFit(f"{linear.k} x {linear.n} does not fit the buffers of target {t.name}", linear.name, hint)
    if groups == 1:
        return Plan(columns, s.blocks, 1, 0, pace_of(t, linear, columns))
    columns = _even(s.groups, columns, s.column_unit)
    rows = min(lines, (free - s.slots * b * columns) // 2 * 8 // s.storage) // columns // step * step
    if s.per_group:
        rows = min(rows, t.sbuf_lines // 3 // columns * step)
    return Plan(columns, _even(s.blocks, max(rows, step), step), 1, 0, pace_of(t, linear, columns))


def _even(count: int, most: int, unit: int) -> int:
    """The size of parts of at most `most` that are as alike as multiples of `unit` allow."""
    parts = -(-count // most)
    return min(most, -(-count // parts // unit) * unit if unit > 1 else -(-count // parts))


def place(
    target: Target,
    linears: Sequence[Linear],
    memory: Memory,
    slots: int,
    rank: int,
    fixed: int,
    adaptable: Set[str],
    groups: int = 1,
    gaps: Mapping[str, Gaps] = MappingProxyType({}),
) -> dict[str, Placed]:
    """Tile the linears and put their weights into memory.

    Args:
        fixed: groups of PBUF that are taken.
        groups: groups of rows that run.
        gaps: linear -> its gaps, of linears that have some.
    """
    out: dict[str, Placed] = {}
    offset = 0
    for each in linears:
        check_accumulators(target, each)
        linear = gaps.get(each.name, WITHOUT_GAPS).linear(each)
        shape = Shape.of(target, linear, target.tokens, slots if rank and linear.name in adaptable else 0, rank)
        plan = _plan(target, linear, shape, fixed, groups)
        out[linear.name] = placed_linear(target, linear, shape, plan, memory.data, offset)
        if shape.slots:
            offset += adapter_offsets(target, shape, plan)[1]
    return out


def whole_context(target: Target, context: int) -> int:
    """Tokens that a cache of at least `context` has: whole tiles."""
    unit = max(target.lanes, target.ports)
    return -(-context // unit) * unit


@dataclass(frozen=True)
class _Job:
    """What all programs of a model are made from."""

    target: Target
    region: Region
    placed: Mapping[str, Placed]
    context: int
    layouts: Mapping[str, Layout]

    def emit(
        self, memory: Memory, blocks: Blocks, dry: bool = False, form: Form = Form.CHAINED
    ) -> tuple[Emit, tuple[int, dict[str, int]]]:
        """Emit for these blocks; the fractions of input and outputs.

        Args:
            form: what is done for room.

        Raises:
            BadModel: they do not fit.
        """
        t = self.target
        sequence = self.region.starts is Starts.SEQUENCE
        heads = head_places(self.region.operators, self.layouts)
        emit = Emit(t, self.placed, memory, blocks, self.context, heads, dry, sequence, form)
        return emit, lower(self.region, emit, t.activation_bits, self.context, self.layouts)

    def fits(self, blocks: Blocks, form: Form) -> bool:
        """Whether the buffers hold blocks of so many rows."""
        try:
            self.emit(Memory(), blocks, True, form)
        except BadModel:
            return False
        return True

    def prefill(self, tokens: int) -> list[int]:
        """Rows of prefill starts: T times powers of two, up to what fits and at most `tokens`."""
        rows = [self.target.tokens]
        while 2 * rows[-1] <= tokens and self.form([(0, 2 * rows[-1])]):
            rows.append(2 * rows[-1])
        return rows

    def form(self, blocks: Blocks) -> Form | None:
        """The form for rows that are worked on at once; None if they do not fit."""
        return next((form for form in (Form.CHAINED, Form.PLAIN) if self.fits(blocks, form)), None)

    def most(self, rows: int) -> tuple[Blocks, Form]:
        """All rows at once or as few blocks as can be, and the form for it: weights are read once a block."""
        best = self.blocks(rows, Form.CHAINED), Form.CHAINED
        for form in (Form.PLAIN, Form.PARKED):
            if len(best[0]) > 1 and len(blocks := self.blocks(rows, form)) < len(best[0]):
                best = blocks, form
        return best

    def blocks(self, rows: int, form: Form) -> list[tuple[int, int]]:
        """All rows at once, or cut as evenly as groups of T allow."""
        t = self.target.tokens
        groups = -(-rows // t)
        low, high = 1, groups
        while low < high:
            middle = -(-(low + high) // 2)
            largest = t * max(count for _, count in _cut(groups, middle))
            # Every block finds VBUF empty, so two of the largest tell; two, because one alone spills nothing.
            if self.fits([(0, largest), (largest, largest)] if middle < groups else [(0, rows)], form):
                low = middle
            else:
                high = middle - 1
        return [(first * t, min(count * t, rows - first * t)) for first, count in _cut(groups, low)]


def _cut(groups: int, most: int) -> list[tuple[int, int]]:
    """(first, count) of parts of at most `most`, as alike as can be."""
    parts = -(-groups // most)
    edges = [groups * n // parts for n in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


def _most_rows(job_of: Callable[[int], tuple[Memory, _Job]], groups: int) -> tuple[Memory, _Job, int]:
    """Of `groups` groups of rows that nothing mixes, as many as the buffers hold at once, and no more than even starts need.

    Args:
        job_of: memory and job for so many groups.

    Raises:
        BadModel: one group does not fit.
    """

    def fits(count: int) -> bool:
        try:
            _, job = job_of(count)
        except DoesNotFit:
            return False
        return job.form([(0, count * job.target.tokens)]) is not None

    low, high = (groups, groups) if fits(groups) else (1, groups - 1)
    while low < high:
        middle = -(-(low + high) // 2)
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    count = -(-groups // -(-groups // low))
    return *job_of(count), count


@dataclass(frozen=True)
class _Looped:
    """A program with loops, before it is known where in memory its areas lie."""

    instructions: tuple[Instruction, ...]
    owners: tuple[int, ...]
    areas: tuple[int, ...]
    """Of each instruction, as `Schedule.areas`."""

    @classmethod
    def of(cls, schedule: Schedule) -> _Looped:
        """Instructions of a loop work for one operator, and move data of one area."""
        owners, areas = schedule.owners, schedule.areas
        found, places = roll(schedule.program(dict.fromkeys(areas, 0)), list(zip(owners, areas, strict=True)))
        return cls(tuple(found), tuple(owners[n] for n in places), tuple(areas[n] for n in places))

    def at(self, base: Mapping[int, int]) -> tuple[Instruction, ...]:
        """The instructions where area n begins at `base[n]`."""
        return tuple(
            replace(i, x=i.x + base[area]) if i.opcode in _TRANSFERS and base[area] else i
            for i, area in zip(self.instructions, self.areas, strict=True)
        )


def _gaps(operators: Sequence[Op], layouts: Mapping[str, Layout]) -> dict[str, Gaps]:
    """Linear -> its gaps, from those of the values that it reads and writes."""
    return {
        op.name: Gaps(layouts.get(op.x, WITHOUT).parts, layouts.get(op.y, WITHOUT).parts)
        for op in operators
        if isinstance(op, LinearOp)
    }


def build(target: Target, module: tvm.IRModule, linears: Sequence[Linear], *, slots: int = 0, chunk: int = PREFILL) -> Image:
    """Programs for one row (decode), T rows and more (prefill); or one program for all rows, or for as many as fit.

    Args:
        module: partitioned, with one region of the accelerator (`read_region`).
        linears: the tensors of its parameters, in their order.
        slots: adapters in one start.
        chunk: most rows of a prefill start, at least T.

    Raises:
        BadModel: something does not fit the target.
    """
    region = read_region(module, linears)
    rowwise, rank = region.starts is Starts.ROWS, region.rank
    context = whole_context(target, region.context)
    slots = slots if rank else 0
    lie = layouts(region.operators, region.widths, {region.input, *region.outputs}, target.vector_lanes)
    gaps = _gaps(region.operators, lie)
    head = max((places for places, _ in head_places(region.operators, lie)), default=0)
    fixed = 2 * -(-max(context, head + target.beat_bytes) // target.ports)
    groups = 1 if region.starts is Starts.DECODE else -(-region.rows // target.tokens)

    def job_of(groups: int) -> tuple[Memory, _Job]:
        memory = Memory()
        places = place(target, linears, memory, slots, rank, fixed, region.ranks.keys(), groups, gaps)
        return memory, _Job(target, region, places, context, lie)

    memory, job, count = _most_rows(job_of, groups) if rowwise else (*job_of(groups), groups)
    placed = job.placed
    starts: dict[int, tuple[Blocks, Form]]
    match region.starts:
        case Starts.SEQUENCE:
            starts = {region.rows: job.most(region.rows)}
        case Starts.ROWS:
            most = min(region.rows, count * target.tokens)
            starts = {most: ([(0, most)], job.form([(0, most)]) or Form.PLAIN)}
        case Starts.DECODE:
            counts = sorted({1, *job.prefill(min(chunk, region.rows))})
            starts = {n: ([(0, n)], job.form([(0, n)]) or Form.PLAIN) for n in counts}
    emitters: dict[int, Emit] = {}
    fractions: tuple[int, dict[str, int]] = (0, {})
    for count, (blocks, form) in reversed(starts.items()):
        emitters[count], fractions = job.emit(memory, blocks, form=form)
    first = -(-len(memory.data) // ALIGN) * ALIGN
    # Addresses do not change what a program does, so its size is known before them.
    looped = {count: _Looped.of(emit.schedule) for count, emit in sorted(emitters.items())}
    sizes = {count: INSTRUCTION_BYTES * len(own.instructions) for count, own in looped.items()}
    rooms = first + sum(-(-size // ALIGN) * ALIGN for size in sizes.values())
    adapters = rooms + memory.size
    size = sum(adapter_offsets(target, p.shape, p.plan)[1] for p in placed.values() if p.shape.slots)
    programs: dict[int, tuple[Instruction, ...]] = {}
    addresses: dict[int, int] = {}
    registers: dict[int, int] = {}
    for slot in range(1, slots + 1):
        registers |= slot_values(target, slot, adapters, rank)
    data = bytearray(memory.data) + bytes(first - len(memory.data))
    for count, own in looped.items():
        programs[count] = own.at({0: 0, 1: rooms, 2: 0})
        check_program(programs[count], registers)
        check_program(programs[count])
        addresses[count] = len(data)
        data += encode_program(programs[count])
        data += bytes(-len(data) % ALIGN)
    one = emitters[min(emitters)]
    return Image(
        data=bytes(data),
        programs=programs,
        owners={count: own.owners for count, own in looped.items()},
        addresses=addresses,
        regions={name: (rooms + offset, count) for name, (offset, count) in memory.regions.items()},
        adapter_address=adapters,
        adapter_size=-(-size // ALIGN) * ALIGN,
        slots=slots,
        rank=rank,
        context=context,
        dim=one.dim,
        half=one.half,
        input_fraction=fractions[0],
        fractions=fractions[1],
        input_words=one.pitch[region.input],
        output_words=one.output_words,
        tilings={name: Tiling(p.shape, p.plan, p.tiles, gaps.get(name, WITHOUT_GAPS)) for name, p in placed.items()},
    )
