"""Place everything in memory and emit the program: from integer linears to bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np

from axlora.compiler.backend.emit_linears import LinearsEmit, Rooms
from axlora.compiler.backend.emit_tiles import Placed
from axlora.compiler.backend.memory_layout import ALIGN, Content
from axlora.compiler.backend.pack import (
    adapter_bytes,
    adapter_offsets,
    base_records,
    ones_line,
    scale_lines,
    weight_codes,
    weight_lines,
)
from axlora.compiler.backend.plan import Plan, Shape, make_plan, output_bytes
from axlora.compiler.backend.roll import roll
from axlora.compiler.backend.spread import WITHOUT_GAPS, Gaps
from axlora.compiler.errors import BadModel, DoesNotFit
from axlora.compiler.layer import Adapter, Int64, Linear, LinearCalls
from axlora.isa.assembly import encode_program
from axlora.isa.formats import Format
from axlora.isa.instruction import Instruction
from axlora.isa.legality import check_program
from axlora.isa.opcodes import INSTRUCTION_BYTES, SLOTS, Opcode
from axlora.isa.regions import padded, slot_values
from axlora.isa.target import Target

LINE = 64 // INSTRUCTION_BYTES
"""Instructions of a cache line: every stage starts at one."""
Planner = Callable[[Target, Linear, Shape], Plan]


@dataclass(frozen=True)
class InputPlace:
    """An input tensor in memory: region [token group][block][token][lane] and one token word a token."""

    name: str
    address: int
    token_words: int
    blocks: int


@dataclass(frozen=True)
class OutputTile:
    """Results of one column tile: region [token group][block][token][lane] of `groups` column groups."""

    first: int
    groups: int
    address: int
    stride: int
    """Bytes of a token group."""


@dataclass(frozen=True)
class OutputPlace:
    """An output tensor in memory."""

    name: str
    element: int
    tiles: tuple[OutputTile, ...]


@dataclass(frozen=True)
class Tiling:
    """How one linear is cut, and where its weight tiles lie."""

    shape: Shape
    plan: Plan
    weights: tuple[int, ...]
    """Offset of each tile in the weights, row tiles of a column tile after each other."""
    gaps: Gaps = WITHOUT_GAPS


@dataclass(frozen=True)
class Linked:
    """The machine's view of a compiled model."""

    program: tuple[Instruction, ...]
    owners: tuple[int, ...]
    """Of each instruction: the number of the linear that it works for, among those of its stage."""
    starts: tuple[int, ...]
    """First instruction of each stage; every stage ends with HALT."""
    weights_address: int
    weights: bytes
    inputs: tuple[InputPlace, ...]
    outputs: tuple[OutputPlace, ...]
    adapters: dict[str, tuple[int, bytes]]
    """Name to (rank, adapter block)."""
    adapter_address: int
    """Of the first adapter block; blocks follow each other."""
    adapter_size: int
    slots: int
    rank: int
    tilings: dict[str, Tiling]
    """By linear."""


def place_regions(regions: Sequence[tuple[str, int, int, int]], start: int) -> tuple[dict[str, int], int]:
    """Addresses for regions whose live ranges meet: first fit, largest first, over the interference graph.

    Args:
        regions: (name, bytes, first step, last step).
        start: first free byte.

    Returns:
        Address of each region, and the first byte after all of them.
    """
    graph = nx.Graph()
    for name, size, first, last in regions:
        graph.add_node(name, size=-(-size // ALIGN) * ALIGN, span=(first, last))
    names = list(graph)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            a, b = graph.nodes[one]["span"], graph.nodes[other]["span"]
            if a[0] <= b[1] and b[0] <= a[1]:
                graph.add_edge(one, other)
    address: dict[str, int] = {}
    end = start
    for name in sorted(names, key=lambda n: (-graph.nodes[n]["size"], n)):
        taken = sorted((address[o], address[o] + graph.nodes[o]["size"]) for o in graph[name] if o in address)
        at = start
        for low, high in taken:
            if at + graph.nodes[name]["size"] <= low:
                break
            at = max(at, high)
        address[name] = at
        end = max(end, at + graph.nodes[name]["size"])
    return address, end


def check_accumulators(target: Target, linear: Linear) -> None:
    """Prove from the codes that no accumulator of a linear can overflow.

    Raises:
        BadModel: names the column and the bound.
    """
    top = 1 << (target.activation_bits - 1)
    limit = 1 << (target.accumulator_bits - 1)
    w = linear.weight
    total = np.zeros(linear.n, np.int64)
    for number, part in enumerate(w.parts()):
        values = np.abs(w.values(part))
        if w.group and w.zero is not None:
            values += np.abs(w.zero[number].astype(np.int64))
        total += values.sum(axis=0) * (w.scale[number] if w.group and w.scale is not None else 1)
    bound = total.astype(np.float64) * top
    worst = int(bound.argmax())
    if bound[worst] >= limit:
        raise DoesNotFit(
            f"{linear.name}: column {worst} of the accumulator could overflow: bound {bound[worst]:.3g}, "
            f"{target.accumulator_bits} bits hold {limit:.3g}",
            linear.name,
            "a target with accumulator_bits = 48, or narrower weights or activations",
        )


def link(
    target: Target,
    calls: LinearCalls,
    *,
    slots: int | None = None,
    rank: int = 0,
    adaptable: Collection[str] | None = None,
    progress: Callable[[str], None] | None = None,
    planner: Planner = make_plan,
    prove: bool = True,
) -> Linked:
    """Tile, place and emit all linears.

    Args:
        slots: adapter slots (different adapters in one batch); default 1 if there are adapters or a rank.
        rank: largest rank that the program takes, at least that of every adapter given.
        adaptable: linears that have columns for adapters; default all, if there are slots.
        progress: called with the name of each linear as it is placed.
        planner: chooses the tiling; tests give their own.
        prove: check that no accumulator can overflow; tests of the wrap-around switch it off.

    Raises:
        BadModel: a linear does not fit the target, or an accumulator could overflow.
    """
    tokens = calls.rows
    adapted = {a.name for linear in calls.linears for a in linear.adapters}
    ranks = {name: max(a.rank for li in calls.linears for a in li.adapters if a.name == name) for name in sorted(adapted)}
    rank = max([rank, *ranks.values()])
    slots = (1 if rank else 0) if slots is None else slots
    if not 0 <= slots <= SLOTS:
        raise BadModel(f"{slots} adapter slots asked for, the machine has {SLOTS}", "max-loras", f"0 to {SLOTS}")
    shapes: dict[str, Shape] = {}
    blocks: dict[str, int] = {}
    for linear in calls.linears:
        if prove:
            check_accumulators(target, linear)
        uses = slots if rank and (adaptable is None or linear.name in adaptable or linear.adapters) else 0
        shape = Shape.of(target, linear, min(tokens[linear.input], _pass_tokens(target, rank)), uses, rank)
        blocks[linear.input] = max(blocks.get(linear.input, 0), shape.blocks)
        shapes[linear.name] = shape
    shapes = {li.name: replace(shapes[li.name], blocks=blocks[li.input]) for li in calls.linears}
    weights = Content()
    placed: list[Placed] = []
    adapter_size = 0
    for linear in calls.linears:
        shape = shapes[linear.name]
        if progress is not None:
            progress(linear.name)
        plan = planner(target, linear, shape)
        placed.append(placed_linear(target, linear, shape, plan, weights, adapter_size))
        if shape.slots:
            adapter_size += adapter_offsets(target, shape, plan)[1]
    adapter_size = -(-adapter_size // ALIGN) * ALIGN
    count_of_groups = {name: -(-count // target.tokens) for name, count in tokens.items()}
    rooms, rooms_size = place_regions(_regions(target, placed, blocks, count_of_groups), 0)
    stages = [
        _stage(target, placed, rooms, stage, count_of_groups) for stage in range(max(li.stage for li in calls.linears) + 1)
    ]
    # Addresses do not change what a program does, so its size is known before them.
    weights_address = -(-len(encode_program(_joined(stages, {0: 0, 1: 0, 2: 0})[0])) // ALIGN) * ALIGN
    rooms_address = weights_address + weights.size
    program, owners, starts = _joined(stages, {0: weights_address, 1: rooms_address, 2: 0})
    address, end = {name: rooms_address + offset for name, offset in rooms.items()}, rooms_address + rooms_size
    registers: dict[int, int] = {}
    for slot in range(1, slots + 1):
        registers |= slot_values(target, slot, end, rank)
    for first, following in itertools.pairwise([*starts, len(program)]):
        check_program(program[first:following], registers)
        check_program(program[first:following])
    tilings = {p.linear.name: Tiling(p.shape, p.plan, p.tiles) for p in placed}
    blocks_of = {
        name: (ranks[name], adapter_block(target, calls.linears, name, ranks[name], tilings)) for name in sorted(adapted)
    }
    return Linked(
        program=tuple(program),
        owners=tuple(owners),
        starts=tuple(starts),
        weights_address=weights_address,
        weights=bytes(weights.data),
        inputs=tuple(InputPlace(name, address[f"in {name}"], address[f"tok {name}"], blocks[name]) for name in tokens),
        outputs=tuple(_output(target, p, address[f"out {p.linear.name}"], count_of_groups[p.linear.input]) for p in placed),
        adapters=blocks_of,
        adapter_address=end,
        adapter_size=adapter_size,
        slots=slots,
        rank=rank,
        tilings=tilings,
    )


def adapter_block(target: Target, linears: Sequence[Linear], name: str, rank: int, tilings: Mapping[str, Tiling]) -> bytes:
    """The whole block of one adapter: its pieces in the order of the linears."""
    out = bytearray()
    for each in linears:
        tiling = tilings[each.name]
        if not tiling.shape.slots:
            continue
        linear = tiling.gaps.linear(each)
        own: Adapter | None = next((a for a in linear.adapters if a.name == name), None)
        out += adapter_bytes(target, linear, own, rank, tiling.shape, tiling.plan)
    return bytes(out) + bytes(-len(out) % ALIGN)


def stored_codes(target: Target, weights: bytes, tiling: Tiling, fmt: Format, k: int, n: int) -> Int64:
    """Codes [k, n] of a linear, read back from the weights, without its gaps."""
    t, shape, plan = target, tiling.shape, tiling.plan
    full = np.zeros((shape.blocks * t.lanes, shape.groups * t.ports), np.int64)
    places = iter(tiling.weights)
    for column, width in plan.column_tiles(shape):
        for row, height in plan.row_tiles(shape):
            size = height * width * t.wbuf_line_bytes * fmt.storage // 8
            place = next(places)
            part = weight_codes(t, weights[place : place + size], fmt, height, width)
            full[row * t.lanes : (row + height) * t.lanes, column * t.ports : (column + width) * t.ports] = part
    gaps = tiling.gaps
    return gaps.across.gathered(gaps.down.gathered(full, k, 0), n, 1)


def _pass_tokens(target: Target, rank: int) -> int:
    """Tokens that one pass over a linear may have: TBUF in halves, UBUF for all of x.A."""
    groups = target.tbuf_tokens // 2 // target.tokens
    if rank:
        wide = -(-rank // target.ports) * target.ports
        lines = max(-(-rank // target.lanes), -(-wide // target.lanes))
        groups = min(groups, target.ubuf_lines // lines)
    return max(1, groups) * target.tokens


def placed_linear(target: Target, linear: Linear, shape: Shape, plan: Plan, weights: Content, adapter: int) -> Placed:
    """Append a linear's tiles, scales and records to the weights; `adapter`: offset of its piece in every adapter block."""
    t = target
    full = padded(linear.weight.stored, shape.blocks * t.lanes, shape.groups * t.ports)
    tiles, scales = [], []
    for column, width in plan.column_tiles(shape):
        for row, height in plan.row_tiles(shape):
            part = full[row * t.lanes : (row + height) * t.lanes, column * t.ports : (column + width) * t.ports]
            tiles.append(weights.append(weight_lines(t, part, linear.weight.fmt)))
            if shape.per_group:
                scales.append(weights.append(scale_lines(t, linear.weight, shape, (column, width), (row, height))))
    records = weights.append(base_records(linear.records, shape.groups * t.ports))
    ones = weights.append(ones_line(t)) if shape.per_group else 0
    return Placed(linear, shape, plan, tuple(tiles), tuple(scales), records, ones, adapter)


def _regions(
    target: Target, placed: Sequence[Placed], blocks: Mapping[str, int], groups: Mapping[str, int]
) -> list[tuple[str, int, int, int]]:
    """Inputs, their token words, and results: (name, bytes, first stage, last stage)."""
    regions = []
    for name, count in groups.items():
        stages = [p.linear.stage for p in placed if p.linear.input == name]
        regions.append((f"in {name}", count * blocks[name] * target.abuf_line_bytes, min(stages), max(stages)))
        words = count * target.tokens * 4 + target.beat_bytes
        regions.append((f"tok {name}", words, min(stages), max(stages)))
    for p in placed:
        size = _output_offsets(target, p, groups[p.linear.input])[-1]
        regions.append((f"out {p.linear.name}", size, p.linear.stage, p.linear.stage))
    return regions


def _output_offsets(target: Target, p: Placed, groups: int) -> list[int]:
    """Where the results of each column tile begin in those of a linear, and their end."""
    sizes = (groups * output_bytes(target, p.shape, count) for _, count in p.plan.column_tiles(p.shape))
    return list(itertools.accumulate((-(-size // ALIGN) * ALIGN for size in sizes), initial=0))


def _stage(
    target: Target, placed: Sequence[Placed], rooms: Mapping[str, int], stage: int, groups: Mapping[str, int]
) -> LinearsEmit:
    """The linears of a start, as they are scheduled; owners are their numbers."""
    own = [p for p in placed if p.linear.stage == stage]
    emit = LinearsEmit(target, own)
    for number, p in enumerate(own):
        emit.schedule.owner = number
        source, step = p.linear.input, p.shape.token_groups
        output = [rooms[f"out {p.linear.name}"] + offset for offset in _output_offsets(target, p, groups[source])]
        where = Rooms(rooms[f"in {source}"], rooms[f"tok {source}"], output)
        for first in range(0, groups[source], step):
            emit.linear(p, where, first, min(step, groups[source] - first))
    return emit


def _joined(stages: Sequence[LinearsEmit], base: Mapping[int, int]) -> tuple[list[Instruction], list[int], list[int]]:
    """All programs, each at the start of a cache line; the owner of each instruction; the first instruction of each program."""
    program: list[Instruction] = []
    owners: list[int] = []
    starts: list[int] = []
    for emit in stages:
        space = -len(program) % LINE
        program += [Instruction(Opcode.HALT)] * space
        owners += owners[-1:] * space
        starts.append(len(program))
        of = emit.schedule.owners
        own, places = roll(emit.schedule.program(base), of)
        program += own
        owners += [of[n] for n in places]
    return program, owners, starts


def _output(target: Target, p: Placed, address: int, groups: int) -> OutputPlace:
    columns, offsets = p.plan.column_tiles(p.shape), _output_offsets(target, p, groups)
    tiles = tuple(
        OutputTile(first, count, address + offset, output_bytes(target, p.shape, count))
        for (first, count), offset in zip(columns, offsets, strict=False)
    )
    return OutputPlace(p.linear.output, p.shape.element, tiles)
