"""A lowered transformer as a memory image: weights, tables and caches placed, and a program for each number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from axlora.compiler.backend.link import Tiling, adapter_block, check_accumulators, weights_of
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import Plan, Shape
from axlora.compiler.errors import BadModel
from axlora.compiler.layer import Linear
from axlora.isa.assembly import encode_program
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.regions import slot_values
from axlora.isa.target import Target

from .emit import Placed
from .emit_attention import Emit
from .layout import ALIGN, Memory
from .lower import lower
from .ops import Attention, Transformer


@dataclass(frozen=True)
class Image:
    """A transformer for the machine. Memory: read-only data, programs, what changes, adapter blocks."""

    data: bytes
    programs: Mapping[int, tuple[Instruction, ...]]
    """Rows of a start -> its instructions."""
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
    output_fraction: int
    input_words: int
    """Words of a row of the input region."""
    output_words: int
    tilings: Mapping[str, Tiling]

    @property
    def size(self) -> int:
        """Bytes of memory with all adapter slots."""
        return self.adapter_address + max(1, self.slots) * self.adapter_size


def _plan(target: Target, linear: Linear, shape: Shape, fixed: int) -> Plan:
    """Whole rows; as many columns as leave room for three more tiles to be loaded meanwhile.

    Raises:
        BadModel: one unit of columns does not fit.
    """
    t, s = target, shape
    limits = (
        t.wbuf_lines // 4 * 8 // (s.blocks * s.storage),
        (t.acc_words // 3 - s.rank_groups) // (2 if s.slots else 1),
        t.obuf_beats * t.beat_bytes // (8 * t.ports * t.tokens),
        ((t.pbuf_groups - fixed) // 3 - s.slots * s.rank_groups) // (1 + s.slots),
        *((t.sbuf_lines // 3 * s.per_group // s.blocks, t.group_words - 1 - s.rank_groups * s.slots) if s.per_group else ()),
    )
    columns = min(*limits, s.groups) // s.column_unit * s.column_unit
    if columns <= 0:
        hint = "a target with larger buffers, or a smaller max LoRA rank"
        raise BadModel(f"{linear.k} x {linear.n} does not fit the buffers of target {t.name}", linear.name, hint)
    return Plan(columns, s.blocks, 1, 0)


def place(target: Target, linears: Sequence[Linear], memory: Memory, slots: int, rank: int, fixed: int) -> dict[str, Placed]:
    """Tile the linears and put their weights into memory; `fixed` groups of PBUF are taken."""
    out: dict[str, Placed] = {}
    offset = 0
    for linear in linears:
        check_accumulators(target, linear)
        shape = Shape.of(target, linear, target.tokens, slots if rank else 0, rank)
        plan = _plan(target, linear, shape, fixed)
        places = weights_of(target, linear, shape, plan, memory.data)
        tiles, scales = tuple(places.weights.values()), tuple(places.scales.values())
        out[linear.name] = Placed(linear, shape, plan, tiles, scales, places.records, places.ones, offset)
        if shape.slots:
            offset += adapter_offsets(target, shape, plan)[1]
    return out


def build(
    target: Target,
    model: Transformer,
    linears: Sequence[Linear],
    largest: Mapping[str, float],
    *,
    context: int,
    slots: int = 0,
    rank: int = 0,
) -> Image:
    """Programs for one row (decode) and for T rows (prefill).

    Args:
        linears: quantized for per-token inputs, 32-bit outputs.
        largest: value -> largest magnitude that calibration saw.
        context: most tokens; a multiple of lanes and ports is taken.
        slots: adapters in one start. rank: of the widest.

    Raises:
        BadModel: something does not fit the target.
    """
    unit = max(target.lanes, target.ports)
    context = -(-context // unit) * unit
    memory = Memory()
    slots = slots if rank else 0
    head = max((op.dim for op in model.operators if isinstance(op, Attention)), default=0)
    placed = place(target, linears, memory, slots, rank, 2 * -(-max(context, head + target.beat_bytes) // target.ports))
    steps = {linear.name: linear.output_step for linear in linears}
    outputs = {linear.name: linear.n for linear in linears}
    emitters: dict[int, Emit] = {}
    fractions = (0, 0)
    for rows in sorted({1, target.tokens}):
        emit = emitters[rows] = Emit(target, placed, memory, rows, context, head)
        fractions = lower(model, emit, largest, steps, outputs, target.activation_bits, context)
    first = -(-len(memory.data) // ALIGN) * ALIGN
    # Addresses do not change what a program does, so its size is known before them.
    base = {0: 0, 1: 0, 2: 0}
    sizes = {rows: len(encode_program(emit.schedule.program(base))) for rows, emit in emitters.items()}
    rooms = first + sum(sizes.values())
    adapters = rooms + memory.size
    size = sum(adapter_offsets(target, p.shape, p.plan)[1] for p in placed.values() if p.shape.slots)
    programs: dict[int, tuple[Instruction, ...]] = {}
    addresses: dict[int, int] = {}
    registers: dict[int, int] = {}
    for slot in range(1, slots + 1):
        registers |= slot_values(target, slot, adapters, rank)
    data = bytearray(memory.data) + bytes(first - len(memory.data))
    for rows, emit in emitters.items():
        programs[rows] = tuple(emit.schedule.program({0: 0, 1: rooms, 2: 0}))
        check_program(programs[rows], registers)
        check_program(programs[rows])
        addresses[rows] = len(data)
        data += encode_program(programs[rows])
    one = emitters[1]
    return Image(
        data=bytes(data),
        programs=programs,
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
        output_fraction=fractions[1],
        input_words=one.pitch[model.input],
        output_words=one.output_words,
        tilings={name: Tiling(p.shape, p.plan, p.tiles) for name, p in placed.items()},
    )


__all__ = ["Image", "adapter_block", "build"]
