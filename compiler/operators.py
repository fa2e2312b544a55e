"""A model between its first rows and its outputs: what the frontend recognises and the lowering takes.

Values are rows of features: real [rows, n], a row a token where the first rows are embeddings of token ids. Nothing but
attention and pools mixes rows. Rows of several sequences (an encoder's and a decoder's) are streams, which meet in attention
alone. Operators are in an order in which every value is written before it is read, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class NormKind(Enum):
    """Kind of normalization: what is subtracted and what divides."""

    RMS = "rms"
    """y = x / sqrt(mean(x^2) + eps) * gain (Zhang and Sennrich, arXiv:1910.07467)."""
    LAYER = "layer"
    """y = (x - mean) / sqrt(var + eps) * gain + bias (Ba et al., arXiv:1607.06450)."""
    UNIT = "unit"
    """y = x / sqrt(sum(x^2) + eps) * gain: a row of length 1."""


class Function(Enum):
    """Element-wise functions that a table of straight lines computes."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    RELU = "relu"
    HARD_SWISH = "hard_swish"


@dataclass(frozen=True)
class OwnFunction:
    """An element-wise function that the model composes of others, and that has no name."""

    name: str
    of: Callable[[Float64], Float64] = field(repr=False, compare=False)
    bound: float
    """The x, a power of two, beyond which it is a straight line on either side."""
    lines: Float64 = field(repr=False, compare=False)
    """[2, intervals]: the straight lines that the machine has for it (`functions.own_lines`)."""


@dataclass(frozen=True)
class Norm:
    """y = norm(x): [n] gain and, for LAYER, bias; x of several times n features is normed in parts of n (heads)."""

    x: str
    y: str
    kind: NormKind
    gain: Float64
    bias: Float64 | None
    eps: float


@dataclass(frozen=True)
class Linear:
    """y = x W + bias with adapters: the linear of this name (`layer.Linear.name`)."""

    x: str
    y: str
    name: str


@dataclass(frozen=True)
class Add:
    """y = a + b, or a - b."""

    a: str
    b: str
    y: str
    sign: int = 1
    """Of b."""


@dataclass(frozen=True)
class Mul:
    """y = a b, element by element."""

    a: str
    b: str
    y: str


@dataclass(frozen=True)
class Affine:
    """y = x gain + bias, a number of each a feature."""

    x: str
    y: str
    gain: Float64
    """[n]."""
    bias: Float64
    """[n]."""


@dataclass(frozen=True)
class Apply:
    """y = function(x), element by element."""

    x: str
    y: str
    function: Function | OwnFunction


class Quantization(NamedTuple):
    """Integer codes of one scale a tensor: clamp(rne(x / scale) + zero, low, high), which stands for (code - zero) scale."""

    scale: float
    zero: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Of a code."""
        return (self.high - self.low).bit_length()

    @property
    def largest(self) -> float:
        """Largest magnitude that a code stands for."""
        return self.scale * max(self.high - self.zero, self.zero - self.low)

    def rounded(self, x: Float64) -> Float64:
        """What the codes of x stand for: float64, any shape."""
        codes = np.clip(np.rint(x / self.scale) + self.zero, self.low, self.high)
        return np.asarray((codes - self.zero) * self.scale)

    def times(self, factor: float) -> Quantization:
        """Codes of x factor that are those of x; factor is positive."""
        return self._replace(scale=self.scale * factor)


@dataclass(frozen=True)
class FakeQuantize:
    """y = what the codes of x stand for, element by element (ONNX: QuantizeLinear, then DequantizeLinear).

    Linears that read y take its codes, with their one scale.
    """

    x: str
    y: str
    codes: Quantization


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding of `heads` heads of `dim` features: y = x cos + rotate_half(x) sin (Su et al., arXiv:2104.09864).

    Only the first 2 half features of a head turn, half the tables' columns; y holds the heads side by side.
    """

    x: str
    y: str
    heads: int
    dim: int
    cos: Float64
    """[positions, half]."""
    sin: Float64
    """[positions, half]."""
    first: int
    """Feature of x at which the first head begins."""
    stride: int
    """Features of x from a head to the next."""


@dataclass(frozen=True)
class Attention:
    """y = softmax(scale q k^T + bias) v over the keys that are seen, a head at a time.

    Head h of q reads head h // (heads / kv_heads) of k and v.
    """

    q: str
    """[heads * dim]."""
    k: str
    """[kv_heads * dim]."""
    v: str
    """[kv_heads * dim]."""
    y: str
    """[heads * dim]."""
    heads: int
    kv_heads: int
    dim: int
    scale: float
    causal: bool
    first: tuple[int, int, int]
    """Features at which the first heads of q, k and v begin: a packed projection holds all three."""
    stride: tuple[int, int, int]
    """Features from a head of q, of k, of v to the next."""
    score_codes: tuple[Quantization, ...] = ()
    """What the scaled scores are rounded to before the softmax, one after the other."""
    weight_codes: Quantization | None = None
    """What the softmax's results are rounded to."""
    bias: Float64 | None = None
    """[heads or 1, positions, positions], added to the scaled scores of rows with keys; -inf: the row does not see the key."""
    rounded_first: int = 0
    """How many of the score codes come before the bias."""


@dataclass(frozen=True)
class Positional:
    """y = x + a row of a table for each position."""

    x: str
    y: str
    table: Float64
    """[rows, n]."""


@dataclass(frozen=True)
class Window:
    """Rows of x side by side, zeros beyond its ends: row r of y is rows r stride + j dilation - before, j = 0 .. taps - 1."""

    x: str
    y: str
    taps: int
    stride: int
    dilation: int
    before: int
    rows: int
    """Of y, which are a stream of their own."""


class PoolKind(Enum):
    """Kind of pooling: how one row is made of all rows."""

    FIRST = "first"
    """The first token's."""
    MEAN = "mean"
    """The mean over the tokens that are no padding."""


@dataclass(frozen=True)
class Pool:
    """One row y of all rows of x. What reads y has one row too."""

    x: str
    y: str
    kind: PoolKind


Op = Norm | Linear | Add | Mul | Affine | Apply | FakeQuantize | Rotary | Attention | Positional | Window | Pool


def codes_of(operators: Iterable[Op]) -> dict[str, Quantization]:
    """Value -> its codes, of values that operators round to codes of one scale."""
    return {op.y: op.codes for op in operators if isinstance(op, FakeQuantize)}


def operands(op: Op) -> tuple[str, ...]:
    """The values that an operator reads."""
    match op:
        case Add() | Mul():
            return op.a, op.b
        case Attention():
            return op.q, op.k, op.v
    return (op.x,)


def streams(operators: Iterable[Op], inputs: Sequence[str]) -> dict[str, int]:
    """Value -> number of its stream: of an input and, behind those, of a window; what attention makes is of its queries'."""
    found = {name: n for n, name in enumerate(inputs)}
    count = len(found)
    for op in operators:
        found[op.y] = count if isinstance(op, Window) else found[operands(op)[0]]
        count += isinstance(op, Window)
    return found


@dataclass(frozen=True)
class Lookup:
    """Rows of a table, picked by an input of the model."""

    input: str
    table: Float64
    """[ids, n]."""


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
        made = [op.rows for op in self.operators if isinstance(op, Window)]
        return (rows, *(own.rows for own in self.more), *made)

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
        return self.given is not None and not self.more and not mixed

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
