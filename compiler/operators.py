"""A model between its first rows and its outputs: what the frontend recognises and the lowering takes.

Values are rows of features: real [rows, n], a row a token where the first rows are embeddings of token ids, or a row a pixel.
Nothing but attention, windows and pools mixes rows. Rows of several sequences (an encoder's and a decoder's) are streams, which
meet in attention alone. Operators are in an order in which every value is written before it is read, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


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
class Slice:
    """y = `heads` parts of `dim` features of x, side by side."""

    x: str
    y: str
    heads: int
    dim: int
    first: int
    """Feature of x at which the first part begins."""
    stride: int
    """Features of x from a part to the next."""


@dataclass(frozen=True)
class Attention:
    """y = softmax(scores + bias) v over the keys that are seen, a head at a time.

    Scores are scale q k^T or, with a cap, cap tanh(scale q k^T).

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
    cap: float = 0.0
    """Largest magnitude of the scores, which a tanh keeps within it; 0: none does."""

    @property
    def one_scale(self) -> bool:
        """Whether the heads of k lie side by side, and those of v: then one scale a token serves them all."""
        return self.stride[1] == self.stride[2] == self.dim


@dataclass(frozen=True)
class Positional:
    """y = x + a row of a table for each position."""

    x: str
    y: str
    table: Float64
    """[rows, n]."""


@dataclass(frozen=True)
class Window:
    """Rows of x side by side: what a kernel sees of a sequence or of an image, or rows that are repeated, moved or left out."""

    x: str
    y: str
    index: Int64
    """[rows, taps]: the rows of x that each row of y is; -1: zeros."""
    stream: str
    """Name of the stream that y is of: that of an input with as many rows, if y is made of it, or of windows with as many."""

    @property
    def rows(self) -> int:
        """Of y."""
        return len(self.index)

    @property
    def taps(self) -> int:
        """Rows of x in a row of y."""
        return int(self.index.shape[1])


@dataclass(frozen=True)
class Beside:
    """y = the features of a, then those of b."""

    a: str
    b: str
    y: str


@dataclass(frozen=True)
class TopGates:
    """y = the softmax of x where x is among the `count` largest of its row, 0 elsewhere; of equals the first is the larger.

    x and y have a feature an expert (Shazeer et al., arXiv:1701.06538). Where all are chosen it is the softmax.
    """

    x: str
    y: str
    count: int
    normalized: bool
    """The row of y adds up to 1: the softmax is that of the largest alone."""


@dataclass(frozen=True)
class RowScale:
    """y = x times one number a row: a feature of `by`."""

    x: str
    by: str
    y: str
    feature: int
    """Of `by`."""


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


Op = (
    Norm
    | Linear
    | Add
    | Mul
    | Affine
    | Apply
    | FakeQuantize
    | Rotary
    | Slice
    | Attention
    | Positional
    | Window
    | Beside
    | TopGates
    | RowScale
    | Pool
)


def codes_of(operators: Iterable[Op]) -> dict[str, Quantization]:
    """Value -> its codes, of values that operators round to codes of one scale, and of windows and parts of those.

    The zeros of windows have a code.
    """
    found: dict[str, Quantization] = {}
    for op in operators:
        if isinstance(op, FakeQuantize):
            found[op.y] = op.codes
        elif isinstance(op, Window | Slice) and op.x in found:
            found[op.y] = found[op.x]
    return found


def operands(op: Op) -> tuple[str, ...]:
    """The values that an operator reads."""
    match op:
        case Add() | Mul() | Beside():
            return op.a, op.b
        case Attention():
            return op.q, op.k, op.v
        case RowScale():
            return op.x, op.by
    return (op.x,)


def streams(operators: Iterable[Op], inputs: Sequence[str]) -> dict[str, int]:
    """Value -> number of its stream: of an input and, behind those, of windows; what attention makes is of its queries'."""
    numbers = {name: n for n, name in enumerate(inputs)}
    found = dict(numbers)
    for op in operators:
        found[op.y] = numbers.setdefault(op.stream, len(numbers)) if isinstance(op, Window) else found[operands(op)[0]]
    return found


def made_rows(operators: Iterable[Op], inputs: Sequence[str]) -> tuple[int, ...]:
    """Rows of each stream that windows make beside those of inputs."""
    return tuple({op.stream: op.rows for op in operators if isinstance(op, Window) and op.stream not in inputs}.values())
