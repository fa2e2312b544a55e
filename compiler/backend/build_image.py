"""A lowered model of rows as a memory image: weights, tables and caches placed, and a program for each number of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from axlora.compiler.backend.emit_attention import Emit, cache_bytes, cache_name
from axlora.compiler.backend.emit_rows import Form, whole_context
from axlora.compiler.backend.emit_tiles import Placed
from axlora.compiler.backend.link import Tiling
from axlora.compiler.backend.memory_layout import ALIGN, FURTHER, Content, Memory
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.place import place
from axlora.compiler.backend.roll import roll
from axlora.compiler.backend.schedule import BeyondField, Schedule
from axlora.compiler.backend.spread import WITHOUT_GAPS, Gaps
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.layer import Linear
from axlora.compiler.operators import Attention, Op
from axlora.compiler.operators import Linear as LinearOp
from axlora.compiler.passes.lower_rows import Starts
from axlora.compiler.rows.layout import WITHOUT, Layout, head_places, layouts
from axlora.compiler.rows.lower import lower
from axlora.compiler.rows.read_region import Region
from axlora.isa.assembly import encode_program
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.opcodes import INSTRUCTION_BYTES, Opcode
from axlora.isa.regions import slot_values
from axlora.isa.target import Target
from axlora.timing.memory import ADDRESS

PREFILL = 32
"""Rows of the largest prefill start, unless a user says otherwise: weights are read once for them, and the program grows."""
Blocks = Sequence[Sequence[tuple[int, int]]]
"""(first row, rows) of each block, of each stream."""
GIB = 1 << 30
MEMORY = ADDRESS + 1
"""Bytes that the machine addresses."""
SMALLER = "a smaller model, fewer bits of weights, or a shorter context"
SAVED = 1 << 16
"""What sharing weights saves of addresses is a multiple of these bytes: bursts and places in fetch's cache stay as they are."""
_TRANSFERS = (Opcode.LOAD, Opcode.STORE)


def name_of(rows: int, batch: bool) -> str:
    """The name of a language model's function: `rows` of a sequence, or of a sequence each."""
    return f"batch {rows}" if batch else "decode" if rows == 1 else f"prefill {rows}"


@dataclass(frozen=True)
class Code:
    """A program in memory."""

    rows: int
    """Of a start."""
    instructions: tuple[Instruction, ...]
    owners: tuple[int, ...]
    """The operator that each instruction works for."""
    areas: tuple[int, ...]
    """Of each instruction, as `Schedule.areas`: 0 is what does not change."""
    address: int
    cycles: int
    """About how many a start takes."""
    batch: bool
    """Whether the rows are of a sequence each; else they follow each other."""

    @property
    def name(self) -> str:
        """Of a language model's function."""
        return name_of(self.rows, self.batch)


@dataclass(frozen=True)
class Image:
    """A transformer for the machine. Memory: read-only data, programs, what changes, adapter blocks."""

    data: bytes
    content: Content
    """The read-only data, where its addresses are."""
    saved: int
    """Bytes of memory that sharing saves."""
    codes: tuple[Code, ...]
    """Those of one sequence first, each kind by its rows."""
    cache: int
    """Bytes of the cache of a sequence, where there are several; each begins behind the one before."""
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
    """Value -> its fraction."""
    input_words: int
    """Words of a row of the input region."""
    more: tuple[tuple[int, int], ...]
    """(fraction, words of a row) of the input region of each further stream."""
    output_words: Mapping[int, int]
    """Number of an output -> words of a row of its region."""
    tilings: Mapping[str, Tiling]

    @property
    def programs(self) -> dict[int, Code]:
        """Rows of a start -> its program, of those of one sequence."""
        return {code.rows: code for code in self.codes if not code.batch}

    @property
    def size(self) -> int:
        """Bytes of memory with all adapter slots."""
        return self.adapter_address + max(1, self.slots) * self.adapter_size

    @property
    def needed(self) -> int:
        """Bytes of memory that it takes where nothing is shared."""
        return self.size + self.saved


@dataclass(frozen=True)
class _Job:
    """What all programs of a model are made from."""

    target: Target
    region: Region
    placed: Mapping[str, Placed]
    context: int
    layouts: Mapping[str, Layout]
    batch: int
    """Most sequences of a start."""

    def emit(
        self, memory: Memory, blocks: Blocks, dry: bool = False, form: Form = Form.PLAIN, apart: bool = False
    ) -> tuple[Emit, tuple[int, dict[str, int]]]:
        """Emit for these blocks; the fractions of input and outputs.

        Args:
            form: what is done for room and time.
            apart: as `Rows`.

        Raises:
            BadModel: they do not fit.
        """
        t = self.target
        sequence = self.region.starts is Starts.SEQUENCE
        heads = head_places(self.region.operators, self.layouts)
        placed = self.placed if apart or self.batch == 1 else {name: _of_one(p) for name, p in self.placed.items()}
        several, counted = self.batch > 1, self.region.counted
        emit = Emit(t, placed, memory, blocks, self.context, heads, dry, sequence, form, several, apart, counted)
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
        while 2 * rows[-1] <= tokens and self.form([[(0, 2 * rows[-1])]]):
            rows.append(2 * rows[-1])
        return rows

    def first_form(
        self, memory: Memory, blocks: Blocks, forms: Sequence[Form], dry: bool
    ) -> tuple[Emit, tuple[int, dict[str, int]]]:
        """`emit` in the first form for which the rows fit; errors are those of the last one."""
        for form in forms[:-1]:
            try:
                with memory.tried():
                    return self.emit(memory, blocks, dry, form)
            except BadModel:
                continue
        return self.emit(memory, blocks, dry, forms[-1])

    def form(self, blocks: Blocks) -> Form | None:
        """The form for rows that are worked on at once; None if they do not fit."""
        return next((form for form in self.forms if self.fits(blocks, form)), None)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Those without parked values, the better one first; chains are of one stream."""
        return (Form.CHAINED, Form.PLAIN) if len(self.region.lengths) == 1 else (Form.PLAIN,)

    def most(self) -> tuple[Blocks, Form]:
        """All rows at once or as few blocks as can be, and the form for it: weights are read once a block."""
        first, *others = self.forms
        best = self.blocks(first), first
        for form in (*others, Form.PARKED):
            if any(len(own) > 1 for own in best[0]):
                blocks = self.blocks(form)
                best = (blocks, form) if sum(map(len, blocks)) < sum(map(len, best[0])) else best
        return best

    def blocks(self, form: Form) -> Blocks:
        """All rows at once, or cut as evenly as groups of T allow."""
        t, lengths = self.target.tokens, self.region.lengths
        groups = [-(-rows // t) for rows in lengths]

        def tried(most: int) -> Blocks:
            """Every block finds VBUF empty, so two of the largest tell; two, because one alone spills nothing."""
            found = []
            for rows, own in zip(lengths, groups, strict=True):
                largest = t * max(count for _, count in _cut(own, most))
                found.append([(0, largest), (largest, largest)] if most < own else [(0, rows)])
            return found

        low, high = 1, max(groups)
        while low < high:
            middle = -(-(low + high) // 2)
            low, high = (middle, high) if self.fits(tried(middle), form) else (low, middle - 1)
        return [
            [(first * t, min(count * t, rows - first * t)) for first, count in _cut(own, low)]
            for rows, own in zip(lengths, groups, strict=True)
        ]


def _of_one(placed: Placed) -> Placed:
    """A linear for a start of one sequence, which has one adapter at most."""
    return replace(placed, shape=replace(placed.shape, slots=min(1, placed.shape.slots)))


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
        return job.form([[(0, count * job.target.tokens)]]) is not None

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


def _caches(job: _Job, memory: Memory) -> int:
    """Reserve the caches of all sequences, one behind the other; the bytes of one."""
    t, first = job.target, memory.size
    attentions = [op for op in job.region.operators if isinstance(op, Attention)]
    for op, (places, _) in zip(attentions, head_places(job.region.operators, job.layouts), strict=True):
        for kind, head, what in itertools.product("KV", range(op.kv_heads), (" scales", "")):
            if head == 0 or not (what and op.one_scale):
                memory.room(cache_name(op.y, kind + what, head), cache_bytes(t, job.context, kind + what, places))
    size = memory.size - first
    memory.room(FURTHER, size * (job.batch - 1))
    return size


def batches(most: int) -> list[int]:
    """Sequences of the starts that decode several: powers of two, and the most."""
    return sorted({1 << n for n in range(1, most.bit_length()) if 1 << n < most} | {most}) if most > 1 else []


def build_region(
    target: Target,
    region: Region,
    linears: Sequence[Linear],
    *,
    slots: int = 0,
    chunk: int = PREFILL,
    batch: int = 1,
    shared: bool = False,
    only: Set[str] = frozenset(),
) -> Image:
    """Programs for one row (decode), T rows and more (prefill), and a row of each of several sequences; or one program for all
    rows, or for as many as fit.

    Args:
        linears: those of the region, in the order of its parameters.
        slots: adapters in one start.
        chunk: most rows of a prefill start, at least T.
        batch: most sequences of a start that decodes.
        shared: linears with the same weights share them in `Image.data`; addresses of read-only data are those of a memory in
            which each has its own, modulo 2**32 (`Image.content`).
        only: names of the programs that are made, where not all are; regions are as large as all need.

    Raises:
        BadModel: something does not fit the target, or magnitudes lie too far apart.
    """
    rowwise, rank = region.starts is Starts.ROWS, region.rank
    context = whole_context(target, region.context)
    slots = slots if rank else 0
    lie = layouts(region.operators, region.widths, {*region.inputs, *region.outputs}, target.vector_lanes)
    gaps = _gaps(region.operators, lie)
    head = max((places for places, _ in head_places(region.operators, lie)), default=0)
    fixed = 2 * -(-max(context, head + target.beat_bytes) // target.ports)
    groups = 1 if region.starts is Starts.DECODE else -(-max(region.lengths) // target.tokens)

    def job_of(groups: int) -> tuple[Memory, _Job]:
        memory = Memory(Content(shared))
        places = place(target, linears, memory, slots, rank, fixed, region.ranks.keys(), groups, gaps)
        return memory, _Job(target, region, places, context, lie, batch)

    memory, job, count = _most_rows(job_of, groups) if rowwise else (*job_of(groups), groups)
    placed = job.placed
    starts: dict[int, tuple[Blocks, Sequence[Form]]] = {}
    together: list[int] = []
    match region.starts:
        case Starts.SEQUENCE:
            blocks, form = job.most()
            starts = {region.rows: (blocks, (form,))}
        case Starts.ROWS:
            most = min(region.rows, count * target.tokens)
            starts = {most: ([[(0, most)]], job.forms)}
        case Starts.DECODE:
            counts = sorted({1, *job.prefill(min(chunk, region.rows))})
            starts = {n: ([[(0, n)]], job.forms) for n in counts}
            together = batches(batch)
    cache = _caches(job, memory) if batch > 1 else 0
    kinds = [(rows, False) for rows in starts] + [(rows, True) for rows in together]
    emitters: dict[tuple[int, bool], Emit] = {}
    fractions: tuple[int, dict[str, int]] = (0, {})
    for rows, apart in sorted(kinds, reverse=True):  # regions are as large as the first start that has them needs
        dry = bool(only) and name_of(rows, apart) not in only
        if apart:
            emitters[rows, apart], fractions = job.emit(memory, [[(0, rows)]], dry, apart=True)
        else:
            emitters[rows, apart], fractions = job.first_form(memory, *starts[rows], dry=dry)
    kinds = [kind for kind in kinds if not only or name_of(*kind) in only]
    saved = (memory.data.size - len(memory.data.data)) // SAVED * SAVED
    first = memory.data.size - saved
    # Addresses do not change what a program does, so its size is known before them.
    try:
        looped = {kind: _Looped.of(emitters[kind].schedule) for kind in kinds}
    except BeyondField as error:
        op = region.operators[error.owner]
        name = op.name if isinstance(op, LinearOp) else op.y
        what = f"magnitudes of {name!r} and of what it is made of lie too far apart for the machine ({error})"
        raise BadModel(what, name, "check the file's scales and weights for values that are wrong") from None
    sizes = {kind: INSTRUCTION_BYTES * len(own.instructions) for kind, own in looped.items()}
    rooms = first + sum(-(-size // ALIGN) * ALIGN for size in sizes.values())
    adapters = rooms + memory.size
    size = sum(adapter_offsets(target, p.shape, p.plan)[1] for p in placed.values() if p.shape.slots)
    registers: dict[int, int] = {}
    for slot in range(1, slots + 1):
        registers |= slot_values(target, slot, adapters, rank)
    data = memory.data.data + bytes(first - len(memory.data.data))
    codes = []
    for (rows, apart), own in looped.items():
        cycles, moved = emitters[rows, apart].schedule.cycles, own.at({0: 0, 1: rooms, 2: 0})
        code = Code(rows, moved, own.owners, own.areas, len(data), cycles, apart)
        check_program(code.instructions, registers)
        check_program(code.instructions)
        codes.append(code)
        data += encode_program(code.instructions)
        data += bytes(-len(data) % ALIGN)
    one = emitters[min(emitters)]
    image = Image(
        data=bytes(data),
        content=memory.data,
        saved=saved,
        codes=tuple(codes),
        cache=cache,
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
        more=tuple((fractions[1][name], one.pitch[name]) for name in region.inputs[1:]),
        output_words=one.output_words,
        tilings={name: Tiling(p.shape, p.plan, p.tiles, gaps.get(name, WITHOUT_GAPS)) for name, p in placed.items()},
    )
    if not shared and image.size > MEMORY:
        raise DoesNotFit(
            f"needs {image.size / GIB:.2f} GiB of memory, the machine addresses {MEMORY // GIB} GiB", "target", SMALLER
        )
    return image
