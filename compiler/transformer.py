"""A whole model between its inputs and its outputs: its first rows, its operators, what its outputs are."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    Beside,
    FakeQuantize,
    Function,
    Mul,
    Op,
    Pool,
    Positional,
    Quantization,
    Rotary,
    Slice,
    Window,
    codes_of,
    made_rows,
    operands,
    streams,
)
from axlora.compiler.row_changes import TableChanges, changed

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counted:
    """Indices that the host counts in token ids: `first`, and of what is no padding as many more as tokens lie up to it."""

    input: str
    """Of the token ids."""
    padding: int
    """The id that is not counted."""
    first: int

    def of(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The indices of ids [.., tokens]."""
        own = (ids != self.padding).astype(np.int64)
        return np.asarray(self.first + np.cumsum(own, axis=-1) * own)


@dataclass(frozen=True)
class Lookup:
    """Rows of a table, picked by an input of the model, or by what is counted in one."""

    input: str
    """Of the model, or a name of what is counted."""
    table: Float64
    """[ids, n]."""
    counted: Counted | None = None
    name: str = ""
    """Of the graph's tensor."""
    scale: float = 1.0
    """What its rows are times that tensor's."""


@dataclass(frozen=True)
class RowInput:
    """An input of floats that holds the first rows: its elements in order, or those that an index names."""

    input: str
    features: int
    index: npt.NDArray[np.int64] | None = None
    """[rows, features]: which elements of one sequence's input; -1: zero."""

    def rows(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows [rows, features] of an input."""
        flat = values.reshape(-1)
        if self.index is None:
            return flat.reshape(-1, self.features)
        return np.where(self.index < 0, np.zeros((), flat.dtype), flat[self.index])

    def count(self, shape: tuple[int, ...]) -> int:
        """Rows of an input of this shape."""
        return len(self.index) if self.index is not None else int(np.prod(shape)) // self.features


@dataclass(frozen=True)
class Stream:
    """The first rows of a stream, which the host gives."""

    lookups: tuple[Lookup, ...]
    """Tables whose rows add up to them; () if they are an input of floats."""
    positions: Float64 | None
    """[rows, n] that are added too, or None."""
    input: str
    """Value that holds them."""
    rows: int
    given: RowInput | None = None
    """The input that they are, where none are looked up."""
    source: str = ""
    """The graph's tensor that holds them."""
    shape: tuple[int, ...] = ()
    """Of that input of one sequence, without the first dimension; () where its rows are in order."""

    @property
    def features(self) -> int:
        """Of a row."""
        return self.lookups[0].table.shape[1] if self.given is None else self.given.features

    @property
    def names(self) -> tuple[str, ...]:
        """The model's inputs that they are made of."""
        return tuple(x.input for x in self.lookups) if self.given is None else (self.given.input,)


@dataclass(frozen=True)
class Output:
    """An output of the model: a value's elements."""

    name: str
    value: str
    shape: tuple[int, ...] = ()
    """Of one sequence, whose first dimension is 1; of rows that nothing mixes, of the whole batch."""
    index: npt.NDArray[np.int64] | None = None
    """[shape]: which elements of the value, counted through its rows; None: all in order."""


class Padding(StrEnum):
    """Where padding may lie, which the host puts behind a sequence's tokens: they get other positions and keep their order."""

    ANYWHERE = "anywhere"
    AROUND = "around"
    """Distances of tokens count: they lie side by side."""
    BEHIND = "behind"
    """Positions count: the tokens come first."""


def _padding(op: Op, masked: Set[str]) -> Padding:
    """Where an operator bears padding, which is in the rows of these values."""
    if not masked & {*operands(op)}:
        return Padding.ANYWHERE
    if isinstance(op, Rotary):
        return Padding.AROUND
    if isinstance(op, Positional | Window):
        return Padding.BEHIND
    if not isinstance(op, Attention) or op.bias is None:
        return Padding.ANYWHERE
    if not {op.q, op.k} <= masked:
        return Padding.BEHIND
    return Padding.AROUND if (op.bias[:, 1:, 1:] == op.bias[:, :-1, :-1]).all() else Padding.BEHIND


@dataclass(frozen=True)
class Transformer:
    """A model from its first rows to its outputs. The host picks and adds rows of embeddings; nothing else runs there."""

    lookups: tuple[Lookup, ...]
    """Tables whose rows add up to the first value, that of the token ids first; () if the model is given rows."""
    positions: Float64 | None
    """[positions, n] that are added too, or None."""
    input: str
    """Value that holds the rows."""
    operators: tuple[Op, ...]
    outputs: tuple[Output, ...]
    mask: str | None = None
    """The input that tells tokens (1) from padding (0), if the model heeds it."""
    fixed: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Inputs that must hold these values [1, tokens]."""
    unread: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of inputs that nothing reads: caches of a prompt, which may come in for nothing."""
    smooth: Mapping[str, Float64] = field(default_factory=dict)
    """Value -> what its channels [n] are divided by for linears, whose weights take it instead (docs/decisions/0005)."""
    orders: Mapping[str, Int64] = field(default_factory=dict)
    """Linear -> [n]: the model's output that each of its columns is, where they are in another order."""
    given: RowInput | None = None
    """The input that is the first value, where no rows are looked up."""
    source: str = ""
    """The graph's tensor that holds the first value."""
    more: tuple[Stream, ...] = ()
    """Of further streams."""
    masked: int = 0
    """The stream that `mask` is of."""
    shape: tuple[int, ...] = ()
    """As `Stream.shape`, of the first."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that the host gives, one a stream."""
        return (self.input, *(each.input for each in self.more))

    @property
    def streams(self) -> dict[str, int]:
        """Value -> number of its stream."""
        return streams(self.operators, self.inputs)

    def all_streams(self, rows: int) -> tuple[Stream, ...]:
        """The first rows of every stream; `rows`: of the first."""
        first = Stream(self.lookups, self.positions, self.input, rows, self.given, self.source, self.shape)
        return (first, *self.more)

    def lengths(self, rows: int) -> tuple[int, ...]:
        """Rows of every stream, those of windows too; `rows`: of the first."""
        return (rows, *(own.rows for own in self.more), *made_rows(self.operators, self.inputs))

    @property
    def codes(self) -> dict[str, Quantization]:
        """Value -> its codes, of values that are rounded to codes of one scale."""
        return codes_of(self.operators)

    @property
    def padding(self) -> Padding:
        """Where padding may lie."""
        masked = {name for name, stream in self.streams.items() if stream == self.masked}
        return max((_padding(op, masked) for op in self.operators), key=list(Padding).index, default=Padding.ANYWHERE)

    @property
    def bounds(self) -> dict[str, float]:
        """Value -> the largest magnitude that codes leave: its own, those of all that read it, or of what it is made of."""
        found = {name: codes.largest for name, codes in self.codes.items()}
        readers: dict[str, list[Op]] = {}
        for op in self.operators:
            for name in operands(op):
                readers.setdefault(name, []).append(op)
        for name in readers.keys() - {o.value for o in self.outputs}:
            own = [op.codes.largest for op in readers[name] if isinstance(op, FakeQuantize)]
            if len(own) == len(readers[name]):
                found[name] = max(own)
        for op in self.operators:
            known = [found[name] for name in operands(op) if name in found]
            match op, known:
                case Add(), [a, b]:
                    found.setdefault(op.y, a + b)
                case Mul(), [a, b]:
                    found.setdefault(op.y, a * b)
                case Beside(), [a, b]:
                    found.setdefault(op.y, max(a, b))
                case Window() | Slice() | Apply(function=Function.RELU), [x]:
                    found.setdefault(op.y, x)
                case Affine(), [x]:
                    found.setdefault(op.y, float((x * np.abs(op.gain) + np.abs(op.bias)).max()))
        return found

    @property
    def ends(self) -> frozenset[str]:
        """Values that the host writes or reads."""
        return frozenset({*self.inputs, *(o.value for o in self.outputs)})

    @property
    def rowwise(self) -> bool:
        """Whether each row is computed for itself: the rows of a batch need no order, and any of them fit in a start."""
        mixed = any(isinstance(op, Attention | Rotary | Positional | Window | Pool) for op in self.operators)
        return self.given is not None and not self.shape and not self.more and not mixed

    @property
    def features(self) -> int:
        """Of a row of the first value."""
        return self.embedding.shape[1] if self.given is None else self.given.features

    @property
    def rows_input(self) -> str:
        """The model's input that says how many rows there are: of token ids, or the rows themselves."""
        return self.tokens_input if self.given is None else self.given.input

    @property
    def embedding(self) -> Float64:
        """[vocabulary, n]: row of each token id."""
        return self.lookups[0].table

    @property
    def tokens_input(self) -> str:
        """The model's input of token ids."""
        return self.lookups[0].input

    @property
    def output(self) -> str:
        """Value of the first output."""
        return self.outputs[0].value


def with_rows(model: Transformer, changes: TableChanges) -> Transformer:
    """The model with changes of its tables added to them."""

    def all_of(lookups: tuple[Lookup, ...]) -> tuple[Lookup, ...]:
        own = [(x, [change for change, name in changes if name == x.name]) for x in lookups]
        return tuple(replace(x, table=changed(x.table, found, x.scale)) if found else x for x, found in own)

    more = tuple(replace(stream, lookups=all_of(stream.lookups)) for stream in model.more)
    return replace(model, lookups=all_of(model.lookups), more=more)


def order_of(mask: npt.NDArray[Any] | None, tokens: int) -> tuple[Int64, int]:
    """(places of a sequence in the order of its rows, rows that are no padding): padding comes last, nothing else moves."""
    if mask is None:
        return np.arange(tokens), tokens
    return np.argsort(mask == 0, kind="stable"), int((mask != 0).sum())
