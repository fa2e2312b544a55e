"""The order in which a transformer's steps are done: in phases, a block of rows at a time (docs/numerics.md, transformers)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.operators import Attention, Linear, Pool, Positional, Rotary, Window, operands
from axlora.compiler.rows.attention_formulas import AttentionFormulas
from axlora.compiler.rows.chains import Pipeline, find
from axlora.compiler.rows.layout import WITHOUT, Layout
from axlora.compiler.rows.read_region import Region
from axlora.compiler.rows.row_operations import Rows
from axlora.compiler.rows.steps import Append, Attend, Close, Collect, Keep, Slide, Step, reads, writes

HINT = "compile with --operators linears"
"""Hint of every refusal here: the linears of such a model can still run on the machine."""


def _rounded_late(region: Region, bits: int) -> frozenset[str]:
    """Values that linears alone read, as codes that fill their bits: to clamp these is to clamp the values."""
    others = {name for op in region.operators if not isinstance(op, Linear) for name in operands(op)}
    return frozenset(name for name, codes in region.codes.items() if codes.bits == bits and name not in others)


@dataclass(frozen=True)
class _Placed:
    """A step with its operator's number, of a stream."""

    number: int
    step: Step
    stream: int


@dataclass(frozen=True)
class _Phase:
    """Steps that a block of a stream can take without what other blocks do in them; each with its operator's number."""

    steps: tuple[tuple[int, Step], ...]
    stream: int
    one_row: bool = False
    """What is behind a pool: it has one row in all."""


def _steps(region: Region) -> tuple[list[_Placed], list[_Placed]]:
    """The steps of all rows, and those of the one row that pools make.

    Raises:
        UnsupportedOperator: rows and what a pool made of them meet, or attention behind a pool.
    """
    single: set[str] = set()
    steps: list[_Placed] = []
    end: list[_Placed] = []
    kept: set[str] = set()
    streams = region.streams
    for n, op in enumerate(region.operators):
        of_one = [name in single for name in reads(op)]
        stream = streams[op.y]
        if isinstance(op, Pool):
            if any(of_one):
                raise UnsupportedOperator("a pooled row is pooled again", op.y, HINT)
            steps.append(_Placed(n, Collect(op), stream))
            end.append(_Placed(n, Close(op), stream))
            single.add(op.y)
        elif any(of_one):
            if not all(of_one) or isinstance(op, Attention | Rotary | Positional | Window):
                raise UnsupportedOperator("tokens and a pooled row meet", op.y, HINT)
            end.append(_Placed(n, op, stream))
            single.add(op.y)
        elif isinstance(op, Attention):
            steps += [_Placed(n, Append(op), streams[op.k]), _Placed(n, Attend(op), stream)]
        elif isinstance(op, Window):
            steps += [_Placed(n, Keep(op), streams[op.x])] if op.x not in kept else []
            steps.append(_Placed(n, Slide(op), stream))
            kept.add(op.x)
        else:
            steps.append(_Placed(n, op, stream))
    return steps, end


def _stored(placed: _Placed) -> int | str:
    """What all blocks of a stream store before it is read: keys and values of an attention, or rows that windows take."""
    return placed.step.op.x if isinstance(placed.step, Keep | Slide) else placed.number


def _by_streams(steps: Sequence[_Placed]) -> list[_Placed]:
    """The steps so that a stream goes on until it needs keys or rows of another: what others need of it comes first."""
    needs: dict[int, set[int]] = {each.stream: set() for each in steps}
    stored = {_stored(each): each.stream for each in steps if isinstance(each.step, Append | Keep)}
    for each in steps:
        if isinstance(each.step, Attend | Slide):
            needs[each.stream].add(stored[_stored(each)])
    for _ in needs:
        needs = {stream: own.union(*(needs[other] for other in own)) for stream, own in needs.items()}
    left = {
        stream: deque(each for each in steps if each.stream == stream)
        for stream in sorted(needs, key=lambda stream: len(needs[stream] - {stream}))
    }
    found: list[_Placed] = []
    done: set[int | str] = set()
    while len(found) < len(steps):
        for own in left.values():
            while own and not (isinstance(own[0].step, Attend | Slide) and _stored(own[0]) not in done):
                found.append(own.popleft())
                if isinstance(found[-1].step, Append | Keep):
                    done.add(_stored(found[-1]))
    return found


def _phases(region: Region, blocks: Sequence[int]) -> tuple[_Phase, ...]:
    """The steps, cut where streams take turns, where a block needs all blocks' keys and values, and behind pools.

    Args:
        blocks: of each stream.

    Raises:
        UnsupportedOperator: as `_steps`.
    """
    steps, end = _steps(region)
    parts: list[list[_Placed]] = []
    stored: set[int | str] = set()
    """By the part at hand."""
    for each in _by_streams(steps):
        own = isinstance(each.step, Attend | Slide) and _stored(each) in stored and blocks[each.stream] > 1
        if not parts or own or parts[-1][0].stream != each.stream:
            parts.append([])
            stored.clear()
        parts[-1].append(each)
        stored |= {_stored(each)} if isinstance(each.step, Append | Keep) else set()
    ends = [[each for each in end if each.stream == stream] for stream in range(len(blocks))]
    whole = [(part, False) for part in parts] + [(own, True) for own in ends if own]
    return tuple(_Phase(tuple((x.number, x.step) for x in part), part[0].stream, one_row) for part, one_row in whole)


def lower(
    region: Region, rows: Rows, bits: int, context: int, layouts: Mapping[str, Layout] = MappingProxyType({})
) -> tuple[int, dict[str, int]]:
    """Carry out the region's operators on `rows`.

    Args:
        bits: of activations.
        context: most tokens.
        layouts: value -> its layout on `rows`, of values that have gaps.

    Returns:
        fractions of the first stream's input rows, and of every value.

    Raises:
        UnsupportedOperator: rows and what a pool made of them meet.
    """
    blocks = [rows.blocks(stream, length) for stream, length in enumerate(region.lengths)]
    phases = _phases(region, [len(own) for own in blocks])
    read = {name for op in region.operators for name in reads(op)}
    walk = _Walk(
        AttentionFormulas(
            rows,
            region.largest,
            region.steps,
            {name: layouts.get(name, WITHOUT).width(width) for name, width in region.widths.items()},
            bits,
            context,
            region.smooth,
            outputs={name: n for name, n in region.outputs.items() if name not in read},
            held=region.codes,
            late=_rounded_late(region, bits) - region.outputs.keys(),
            layouts=layouts,
            streams=region.streams,
        ),
        region.outputs,
        frozenset(step.op.y for phase in phases for _, step in phase.steps if isinstance(step, Collect)),
    )
    for name in sorted(walk.pooled):
        walk.state.cells[name] = rows.one_row(name, walk.state.widths[name])
    last = {name: p for p, phase in enumerate(phases) for _, step in phase.steps for name in reads(step)}
    begun: set[int] = set()
    for p, phase in enumerate(phases):
        later = {name for name, final in last.items() if final > p}
        first = phase.stream not in begun and phase.stream < len(region.inputs)
        begins = region.inputs[phase.stream] if first else None
        begun.add(phase.stream)
        for at, count in [(0, 1)] if phase.one_row else blocks[phase.stream]:
            rows.block(phase.stream, at, count)
            walk.block(phase, later, begins)
        for name in [name for name in walk.spilled if last[name] <= p]:
            rows.forget(name)
            walk.spilled.remove(name)
    fractions = walk.state.fractions
    return fractions[region.input], dict(fractions)


def _parked(steps: Sequence[tuple[int, Step]], widths: Mapping[str, int]) -> dict[int, list[str]]:
    """Step -> values that it reads or makes, which wait behind it while a wider value is read or made."""
    found: dict[int, list[str]] = {}
    touched = [{*reads(step), writes(step)} - {""} for _, step in steps]
    for n, names in enumerate(touched):
        for name in names:
            again = next((m for m in range(n + 1, len(steps)) if name in reads(steps[m][1])), n)
            if any(widths[other] > widths[name] for between in touched[n + 1 : again] for other in between):
                found.setdefault(n, []).append(name)
    return found


@dataclass
class _Walk:
    """Blocks through phases: values from before are restored when they are read, those of later phases are spilled."""

    state: AttentionFormulas
    outputs: Mapping[str, int]
    """Value -> number of the output that it is."""
    pooled: frozenset[str]
    """Values of one row that all blocks of a phase write."""
    spilled: list[str] = field(default_factory=list)

    def block(self, phase: _Phase, later: set[str], begins: str | None) -> None:
        """All steps of a phase for the block that was chosen; `begins`: the value of the input, in its stream's first."""
        state, rows = self.state, self.state.rows
        cells = state.cells
        state.active = ""
        final = {name: n for n, (_, step) in enumerate(phase.steps) for name in reads(step)}
        own: set[str] = set()
        parked = _parked(phase.steps, state.widths) if rows.parks else {}
        if begins is not None:
            rows.read_input(state.out(begins, state.seen(begins)))
            own.add(begins)
        n = 0
        while n < len(phase.steps):
            chain = find(phase.steps, n, state)
            stop = n + 1 if chain is None else chain.stop
            kept = later | self.outputs.keys() | self.pooled
            pipeline = None if chain is None else Pipeline(chain, phase.steps, state, kept)
            over: set[str] = set()
            still: set[str] = set()
            """Of what is read for the last time, what has room of its own."""
            for m, (number, step) in enumerate(phase.steps[n:stop], n):
                rows.operator(number)
                for name in reads(step):
                    if name not in cells:
                        cells[name] = rows.restore(name, state.widths[name])
                last = {name for name in reads(step) if final[name] == m}
                unwritten = self.outputs.keys() if pipeline is not None else ()  # they are written behind the chain
                state.dying = {name for name in last.difference(unwritten) if name not in own or name not in later}
                if pipeline is not None:
                    pipeline.prepare(m)
                elif (body := getattr(state, type(step).__name__.lower())(step)) is not None:
                    state.everywhere(body, step)
                over |= last
                still |= (last & state.dying) | last.intersection(unwritten)
                if made := writes(step):
                    own.add(made)
            if pipeline is not None:
                pipeline.run()
            for _, step in phase.steps[n:stop]:
                made = writes(step)
                if made in self.outputs and made in cells:
                    rows.write_output(self.outputs[made], cells[made])
                    if made not in final and made not in later:
                        over.add(made)
                        still.add(made)
            for name in sorted(over):
                self._leave(name, name in own and name in later, name in still)
            for name in sorted(parked.get(n, ())):
                self._leave(name, True, False)
            n = stop
        for name in sorted(set(cells) - self.pooled):
            self._leave(name, name in own and name in later, True)

    def _leave(self, name: str, keep: bool, still: bool) -> None:
        """A value that the phase reads no more; `still`: its room has not been taken over."""
        cells = self.state.cells.pop(name)
        if keep:
            self.state.rows.spill(cells)
            if name not in self.spilled:
                self.spilled.append(name)
        elif still:
            self.state.rows.free(cells)
