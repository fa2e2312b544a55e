"""What a walk over a transformer's graph knows: what its tensors are, the values, streams and operators found so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import BadModel, UnsupportedOperator
from axlora.compiler.frontend.recognised import FoundLinear
from axlora.compiler.operators import (
    Op,
    OwnFunction,
    Quantization,
    made_rows,
    streams,
)
from axlora.compiler.passes.attention_masks import Mask
from axlora.compiler.passes.dataflow import Dataflow
from axlora.compiler.passes.read_module import PASSIVE, RESHAPES, Node
from axlora.compiler.passes.tensor_elements import (
    Chosen,
    Constant,
    Curve,
    Derived,
    HeadView,
    Ids,
    Length,
    Looked,
    Probed,
    View,
    Weighted,
    probes,
)
from axlora.compiler.transformer import Counted, RowInput, Stream

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
PASS = ("identity", *PASSIVE)
SHAPED = (*RESHAPES, "broadcast_to")


@dataclass(frozen=True)
class Scores:
    """q.k of heads, scaled; `done` after the softmax."""

    q: HeadView
    k: HeadView
    scale: float
    mask: Mask = Mask.NONE
    done: bool = False
    codes: tuple[Quantization, ...] = ()
    """What they are rounded to before the softmax."""
    weight_codes: Quantization | None = None
    """What its results are rounded to."""
    bias: Float64 | None = None
    """[heads or 1, n, n], added to them, -inf where a key is hidden that the mask shows."""
    rounded_first: int = 0
    """Codes before the bias."""
    cap: float = 0.0
    """What their tanh is times; 0: there is none."""

    def times(self, factor: float) -> Scores:
        """Scaled, before the softmax."""
        bias = None if self.bias is None else self.bias * factor
        scale, cap = (self.scale, self.cap * factor) if self.cap else (self.scale * factor, 0.0)
        return replace(self, scale=scale, cap=cap, codes=tuple(c.times(factor) for c in self.codes), bias=bias)

    def capped(self) -> Scores | None:
        """Their tanh, which rounds once with what it reads; None behind a mask or a bias."""
        plain = not self.done and not self.cap and self.bias is None and self.mask is Mask.NONE
        return replace(self, codes=(), cap=1.0) if plain else None


Symbol = Constant | Probed | Ids | Derived | Looked | View | Curve | Weighted | Length | Scores | Chosen


@dataclass
class State:
    """The tensors, the values and the operators that have been found."""

    g: Dataflow
    found: Sequence[FoundLinear]
    hint: str
    causal: bool
    """Whether attention must be causal."""
    symbols: dict[str, Symbol] = field(default_factory=dict)
    operators: list[Op] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    """Values of one row."""
    masks: tuple[Int64, ...] = ()
    """What a mask of padding is probed with; () if there is none."""
    padded_stream: int | None = None
    """The stream that the mask is of, once something heeds it."""
    used: set[str] = field(default_factory=set)
    """Tensors that some followed node reads."""
    kinds: set[tuple[str, Mask]] = field(default_factory=set)
    """(keys, kind) of all attention."""
    streams: list[Stream] = field(default_factory=list)
    """What the first values are."""
    looked: list[Looked | None] = field(default_factory=list)
    """The rows that each is, if it is looked up."""
    hosts: set[str] = field(default_factory=set)
    """Inputs of floats, whose elements the host lays out as rows."""
    laid: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    """Input, and which of its elements are rows -> their value."""
    windows: dict[tuple[str, tuple[int, ...], bytes, str], str] = field(default_factory=dict)
    """Value, and which of its rows a window makes rows of -> its result."""
    turned: dict[tuple[str, int, int, int], str] = field(default_factory=dict)
    main: str = ""
    """The input of token ids."""
    counted: dict[str, Counted] = field(default_factory=dict)
    """Name of what is counted in token ids -> how."""
    curves: list[tuple[OwnFunction, Float64]] = field(default_factory=list)
    """Functions without a name, and their values (`Curve.values`)."""
    affine: dict[tuple[str, bytes, bytes], str] = field(default_factory=dict)
    """Value, its gain and its bias -> the value that they make."""
    pairs: dict[tuple[str, Quantization], str] = field(default_factory=dict)
    """Value and what it is rounded to -> the value that is made of it."""
    codes: dict[str, Quantization] = field(default_factory=dict)
    """Value -> its codes, of values that pairs made."""
    rowwise: bool = False
    """Whether each row must be computed for itself: rows of a batch, which nothing may mix."""

    def refuse(self, node: Node, what: str) -> UnsupportedOperator:
        """An error that names the node."""
        return UnsupportedOperator(
            what, f"node {node.source.name or node.source.output[0]!r} ({node.source.op_type})", self.hint
        )

    def ids_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an input of ids, or of that in which something is counted."""
        return self.g.shape(self.counted[name].input if name in self.counted else name)

    def value(self, name: str, features: int, *of: str) -> None:
        """A tensor that is rows of a new value of its own name; it has one row where what it is made `of` has."""
        self.features[name] = features
        if any(x in self.single for x in of):
            self.single.add(name)
        self.symbols[name] = View.rows(name, self.g.shape(name))

    def give(self, name: str, features: int) -> None:
        """An input of floats as the first rows of a stream."""
        self.value(name, features)
        rows = int(np.prod(self.g.shape(name))) // features
        self.streams.append(Stream((), None, name, rows, RowInput(name, features), name))
        self.looked.append(None)

    def stream(self, value: str) -> int:
        """The stream that a value is of."""
        return streams(self.operators, [own.input for own in self.streams])[value]

    def tokens(self, value: str) -> int:
        """Rows of the stream that a value is of."""
        made = made_rows(self.operators, [own.input for own in self.streams])
        return [*(own.rows for own in self.streams), *made][self.stream(value)]

    def padded(self, value: str) -> tuple[Int64, ...]:
        """Masks of padding for the rows of a value: those that the mask is probed with, or one of ones."""
        own, tokens = self.stream(value), self.tokens(value)
        if self.masks and self.padded_stream in (None, own) and self.masks[0].shape[1] == tokens:
            return self.masks
        return probes(tokens)[:1]

    def heeds(self, node: Node, value: str) -> None:
        """The mask of padding is of the stream that a value is of."""
        own = self.stream(value)
        if own >= len(self.streams):
            raise self.refuse(node, "a mask of padding for rows that a convolution makes")
        if self.padded_stream not in (None, own) or self.masks[0].shape[1] != self.tokens(value):
            raise self.refuse(node, "a mask of padding for the tokens of two inputs")
        self.padded_stream = own

    def symbol(self, name: str) -> Symbol:
        """What a tensor is; constants are looked up."""
        if name not in self.symbols:
            value = self.g.constant(name)
            if value is None:
                raise BadModel("tensor is used before it is made", name, "export the model again")
            self.symbols[name] = Constant(value)
        return self.symbols[name]
