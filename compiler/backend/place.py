"""Linears of a model of rows in memory: their tilings, and where their weights lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from types import MappingProxyType

from axlora.compiler.backend.emit_tiles import Placed
from axlora.compiler.backend.link import check_accumulators, placed_linear
from axlora.compiler.backend.memory_layout import Memory
from axlora.compiler.backend.pack import adapter_offsets
from axlora.compiler.backend.plan import Plan, Shape, adapter_lines, pace_of
from axlora.compiler.backend.spread import WITHOUT_GAPS, Gaps
from axlora.compiler.errors import DoesNotFit
from axlora.compiler.layer import Linear
from axlora.isa.target import Target


@contextmanager
def at_target(target: Target) -> Iterator[None]:
    """Errors of what does not fit name the target."""
    try:
        yield
    except DoesNotFit as error:
        where = f"target {target.name}" if error.where == "target" else error.where
        raise DoesNotFit(error.message, where, error.hint) from None


def _plan(target: Target, linear: Linear, shape: Shape, fixed: int, groups: int) -> Plan:
    """As many columns as the accumulators of `groups` groups of rows allow, cut into rows; a third of WBUF a tile.

    What can be in a chain takes a sixth. Of one group the rows are whole: memory bounds it. Of more the matrix unit does, and
    wide rows reuse more products.

    Raises:
        BadModel: one unit of columns does not fit.
    """
    t, s = target, shape
    lines = t.wbuf_lines // (4 if groups == 1 else 3 if s.slots else 6) * 8 // s.storage
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
    """Tile the linears and put their weights into memory; of linears with the same weights, again what was put for the first.

    Args:
        fixed: groups of PBUF that are taken.
        groups: groups of rows that run.
        gaps: linear -> its gaps, of linears that have some.
    """
    out: dict[str, Placed] = {}
    offset = 0
    known: dict[tuple[int, int, Gaps, bool], tuple[Placed, int, int]] = {}
    """Weights, records, gaps, with adapters or not -> the first such linear, and where what was put for it begins and ends."""
    for each in linears:
        own, adapted = gaps.get(each.name, WITHOUT_GAPS), rank > 0 and each.name in adaptable
        key = (id(each.weight), id(each.records), own, adapted)
        if key not in known:
            check_accumulators(target, each)
            linear = own.linear(each)
            shape = Shape.of(target, linear, target.tokens, slots if adapted else 0, rank)
            plan = _plan(target, linear, shape, fixed, groups)
            first = memory.data.size
            found = placed_linear(target, linear, shape, plan, memory.data, offset)
            known[key] = found, first, memory.data.size
        else:
            found, first, stop = known[key]
            found = found.again(each, memory.data.again(first, stop) - first, offset)
        out[each.name] = found
        if found.shape.slots:
            offset += adapter_offsets(target, found.shape, found.plan)[1]
    return out
