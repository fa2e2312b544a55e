"""A transformer between its embedding rows and its logits: what the frontend recognises and the lowering takes.

Values are rows of features, one row a token: real [tokens, n]. Nothing but attention mixes tokens. Operators are in an order in
which every value is written before it is read, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class NormKind(Enum):
    """Which mean is taken off before the division."""

    RMS = "rms"
    """y = x / sqrt(mean(x^2) + eps) * gain (Zhang and Sennrich, arXiv:1910.07467)."""
    LAYER = "layer"
    """y = (x - mean) / sqrt(var + eps) * gain + bias (Ba et al., arXiv:1607.06450)."""


class Function(Enum):
    """Element-wise functions that a table of straight lines computes."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    RELU = "relu"


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
    """y = a + b."""

    a: str
    b: str
    y: str


@dataclass(frozen=True)
class Mul:
    """y = a b, element by element."""

    a: str
    b: str
    y: str


@dataclass(frozen=True)
class Apply:
    """y = function(x), element by element."""

    x: str
    y: str
    function: Function


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
    """y = softmax(scale q k^T + mask) v, a head at a time; head h of q reads head h // (heads / kv_heads) of k and v."""

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


Op = Norm | Linear | Add | Mul | Apply | Rotary | Attention


@dataclass(frozen=True)
class Transformer:
    """A decoder, from rows of embeddings to rows of logits."""

    embedding: Float64
    """[vocabulary, n]: row of each token id. The host picks rows; nothing else runs there."""
    positions: Float64 | None
    """[positions, n] learned positions that are added to the rows, or None."""
    input: str
    """Value that holds the rows."""
    output: str
    """Value that holds the logits [tokens, vocabulary]."""
    operators: tuple[Op, ...]
    tokens_input: str
    """The model's input of token ids."""
    logits_output: str
    """The model's output."""
