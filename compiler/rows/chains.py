"""Steps that are done group by group: the vector unit works on one group of rows, the matrix unit on others meanwhile.

A chain is cut into stages at its linears: a stage takes the results of some linears and ends with the codes of what the next
ones read. Stages are under way together, each for another group; weights of all linears of a chain stay on the chip.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Beside,
    FakeQuantize,
    Linear,
    Mul,
    Norm,
    Rotary,
    RowScale,
    Slice,
    TopGates,
)
from axlora.compiler.rows.attention_formulas import AttentionFormulas
from axlora.compiler.rows.formulas import Body
from axlora.compiler.rows.row_operations import Chains, Heads
from axlora.compiler.rows.steps import Append, Attend, Step, reads, writes

LATE = 2
"""Groups of rows that the last stage is further behind than it must: its weights are loaded while a chain begins."""
LATE_BEHIND_ROWS = 10
"""The same, where the first linear's last rows of weights are used meanwhile: they are there before."""
Numbered = tuple[int, Step]
"""A step with its operator's number."""


@dataclass(frozen=True)
class Chain:
    """Steps `first` .. `stop` - 1 of a phase."""

    first: int
    stop: int
    stages: tuple[int, ...]
    """Of each step."""
    coded: tuple[int, ...]
    """Of each step that is a linear: the stage that makes the codes of what it reads, -1 if they were there before."""
    trailing: bool
    """Whether the last stage makes the codes of what the linear behind the chain reads."""
    ahead: str
    """This linear, if the first rows of its weights are part of the chain."""
    by: Chains
    split: bool
    """Whether of the first linear all rows of weights but the last go before the chain."""

    def linears(self, steps: Sequence[Numbered]) -> list[str]:
        """Names of its linears."""
        return [step.name for _, step in steps[self.first : self.stop] if isinstance(step, Linear)]

    def local(self, steps: Sequence[Numbered], kept: Collection[str]) -> set[str]:
        """Values that live within one stage: they need room for one group; `kept` are read outside these steps."""
        found = {}
        for stage, (_, step) in zip(self.stages, steps[self.first : self.stop], strict=True):
            found[writes(step)] = stage
        following = self.stop
        if self.trailing:
            x = reads(steps[self.stop][1])
            while following < len(steps) and isinstance(steps[following][1], Linear) and reads(steps[following][1]) == x:
                following += 1
        out = {name for name in found if name and name not in kept}
        for n, (_, step) in enumerate(steps):
            for name in out.intersection(reads(step)):
                if not self.first <= n < following or self._read_in(n, step) != found[name]:
                    out.discard(name)
        return out

    def _read_in(self, n: int, step: Step) -> int:
        if n >= self.stop:
            return self.stages[-1]
        return self.coded[n - self.first] if isinstance(step, Linear) else self.stages[n - self.first]


def find(steps: Sequence[Numbered], first: int, state: AttentionFormulas) -> Chain | None:
    """The longest chain from a step on whose weights stay on the chip; None if there is none."""
    if (chains := state.rows.chains) is None:
        return None
    heads: Heads | None = None
    names: list[str] = []
    stages: list[int] = []
    coded: list[int] = []
    active, stage, since, joined = state.active, 0, -1, False
    split = isinstance(head := steps[first][1], Linear) and head.x == active
    for n, (_, step) in enumerate(steps[first:], first):
        match step:
            case Attend() if n == first:
                heads, active = state.heads(step.op), ""
            case Linear() if step.y not in state.outputs:
                if not chains.beside([*names, step.name], heads, split):
                    break
                if active != step.x:
                    active, since, joined = step.x, stage, False
                stage += not joined
                names.append(step.name)
            case Append() | Add() | Affine() | Apply() | Beside() | FakeQuantize() | Mul() | Norm() | Rotary() | Slice():
                pass
            case RowScale() | TopGates():
                pass
            case _:
                break
        joined = isinstance(step, Linear)
        stages.append(stage)
        coded.append(since)
    if not names:
        return None
    stop = first + len(stages)
    following = steps[stop][1] if stop < len(steps) else None
    made = {writes(step) for _, step in steps[first:stop]}
    trailing = isinstance(following, Linear) and following.x != active and following.x in made
    ahead = following.name if isinstance(following, Linear) and trailing and following.y not in state.outputs else ""
    if not chains.leads(names, heads, split, ahead):
        ahead = ""
    return Chain(first, stop, tuple(stages), tuple(coded), trailing, ahead, chains, split)


@dataclass
class _Stage:
    """What a stage does to the selected group; each with its operator's number."""

    products: list[tuple[int, Body]] = field(default_factory=list)
    results: list[tuple[int, Body]] = field(default_factory=list)
    rest: list[tuple[int, Body]] = field(default_factory=list)


class Pipeline:
    """The stages of a chain as its steps are prepared, then carried out."""

    def __init__(self, chain: Chain, steps: Sequence[Numbered], state: AttentionFormulas, kept: Collection[str]) -> None:
        """`kept`: values that are read outside the phase's `steps`."""
        self._chain, self._steps, self._state = chain, steps, state
        self._chains = chain.by
        self._stages = [_Stage() for _ in range(chain.stages[-1] + 1)]
        self._groups = list(state.rows.groups())
        state.local = chain.local(steps, kept)
        number, head = steps[chain.first]
        state.rows.operator(number)
        heads = state.heads(head.op) if isinstance(head, Attend) else None
        self._chains.begin(chain.linears(steps), heads, chain.split, chain.ahead)

    def prepare(self, n: int) -> None:
        """Step n of the phase: rooms for what it makes, and what it does to each group."""
        number, step = self._steps[n]
        state, place = self._state, n - self._chain.first
        stage = self._stages[self._chain.stages[place]]
        if isinstance(step, Linear):
            if state.active != step.x:
                self._stages[self._chain.coded[place]].rest.append((number, state.activation(step.x)))
            out = state.out(step.y, state.fraction_of(step))
            stage.products.append((number, partial(self._chains.product, step.name)))
            stage.results.append((number, partial(self._chains.results, step.name, out)))
        elif isinstance(step, Attend):
            stage.rest.append((number, state.attend_in_groups(step, self._groups)))
        else:
            stage.rest.append((number, getattr(state, type(step).__name__.lower())(step)))

    def run(self) -> None:
        """All groups, from stage to stage.

        Of a turn the deepest stage comes first: it takes products of the turn before. Meanwhile the products of the others are
        found.
        """
        last = len(self._stages) - 1
        first, between, final = self._stages[0], [*enumerate(self._stages[1:last])], self._stages[last]
        if self._chain.trailing:
            number, step = self._steps[self._chain.stop]
            final.rest.append((number, self._state.activation(reads(step)[0])))
        ahead: list[tuple[int, Body]] = []
        if self._chain.ahead:
            ahead.append((number, partial(self._chains.product, self._chain.ahead)))
        late = last + (LATE_BEHIND_ROWS if self._chain.split else LATE)
        for turn in range(len(self._groups) + late + len(ahead)):
            self._do(turn, first.rest)
            self._do(turn - late, final.results)
            for lag, stage in reversed(between):
                self._do(turn - lag, stage.products)
            self._do(turn - late + 1, final.products)
            self._do(turn - late - 1, ahead)
            self._do(turn - late, final.rest)
            for lag, stage in reversed(between):
                self._do(turn - lag, [*stage.results, *stage.rest])
        self._chains.end()
        self._state.release()
        self._state.local = frozenset()

    def _do(self, n: int, bodies: Sequence[tuple[int, Body]]) -> None:
        """Do it to group n, if there is such a group."""
        for number, body in bodies if 0 <= n < len(self._groups) else ():
            self._state.rows.select(self._groups[n])
            self._state.rows.operator(number)
            body()
