"""What a tensor of a transformer's graph is: where each of its elements comes from.

Exporters write heads with reshapes, transposes, slices and expansions in any order; instead of their patterns, each tensor
carries the indices of its elements in a value [tokens, features], moved by the same operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler import functions
from axlora.compiler.operators import Function, Quantization
from axlora.compiler.transformer import Lookup

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Move = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Constant:
    """A tensor that no input changes."""

    value: npt.NDArray[np.generic]


@dataclass(frozen=True)
class Ids:
    """An input of ids, one a token."""

    input: str


@dataclass(frozen=True)
class Derived:
    """A tensor that only ids change; which values it has is looked at where something is picked by it."""

    tensor: str
    inputs: frozenset[str]
    numbers: frozenset[int]
    """Constants on the way: an id of padding may be one."""


@dataclass(frozen=True)
class Probed:
    """A tensor that only the mask of padding changes: its value for each of the probes (`probes`)."""

    values: tuple[npt.NDArray[np.generic], ...]


def probes(tokens: int) -> tuple[Int64, ...]:
    """Masks [1, tokens] that tell what a graph makes of one: all tokens, the first, half of them, and some without order."""
    first = np.arange(tokens) < 1
    some = np.random.default_rng(0).random((2, tokens)) < 0.5
    masks = [np.ones(tokens, bool), first, np.arange(tokens) < -(-tokens // 2), *(some | first)]
    return tuple(mask[None].astype(np.int64) for mask in masks)


@dataclass(frozen=True)
class Looked:
    """Rows picked from tables, and a constant [tokens, n] or none, added up."""

    tables: tuple[Lookup, ...]
    constant: Float64 | None = None
    codes: Quantization | None = None
    """What their sum is rounded to."""

    @property
    def inputs(self) -> set[str]:
        """Of ids."""
        return {x.input for x in self.tables}

    @property
    def features(self) -> int:
        """Of a row."""
        return int(self.tables[0].table.shape[1])

    def is_like(self, other: Looked) -> bool:
        """Whether the same rows add up, rounded or not."""
        if len(self.tables) != len(other.tables):
            return False
        own, others = (np.zeros(()) if x.constant is None else x.constant for x in (self, other))
        pairs = zip(self.tables, other.tables, strict=True)
        return np.array_equal(own, others) and all(a.input == b.input and np.array_equal(a.table, b.table) for a, b in pairs)

    def rounded(self, codes: Quantization) -> Looked:
        """Rounded to codes: so is the table itself, where it is alone or every token adds one row."""
        constant = np.zeros((1, 1)) if self.constant is None else self.constant
        if len(self.tables) != 1 or (constant != constant[0]).any():
            return replace(self, codes=codes)
        (own,) = self.tables
        return Looked((replace(own, table=codes.rounded(own.table + constant[0])),))

    def plus(self, other: Looked) -> Looked:
        """The sum with others."""
        constants = [c for c in (self.constant, other.constant) if c is not None]
        return Looked(self.tables + other.tables, np.asarray(sum(constants)) if constants else None)

    def times(self, factor: float) -> Looked:
        """Scaled."""
        constant = None if self.constant is None else self.constant * factor
        return Looked(tuple(replace(x, table=x.table * factor, scale=x.scale * factor) for x in self.tables), constant)


@dataclass(frozen=True)
class Weighted:
    """Rows of a value times weights; `summed` over the rows, or not yet."""

    value: str
    weights: tuple[Float64, ...]
    """[tokens] for each probe."""
    summed: bool = False

    def scaled(self, factors: Sequence[npt.NDArray[Any]]) -> Weighted | None:
        """Times a number for each probe; None if they are more than one."""
        numbers = [np.unique(np.asarray(f, np.float64)) for f in factors]
        if any(n.size != 1 for n in numbers):
            return None
        return replace(self, weights=tuple(w * float(n[0]) for w, n in zip(self.weights, numbers, strict=True)))

    def means(self, masks: Sequence[npt.NDArray[Any]]) -> bool:
        """Whether it is the mean over each mask."""
        return all(np.allclose(w, m / m.sum(), rtol=1e-4) for w, m in zip(self.weights, masks, strict=True))

    def sums(self, masks: Sequence[npt.NDArray[Any]]) -> bool:
        """Whether it is a multiple of the mean over each mask."""
        return all(
            (w[m[0] > 0] > 0).all() and np.allclose(w, m[0] * w.max(), rtol=1e-4)
            for w, m in zip(self.weights, masks, strict=True)
        )


@dataclass(frozen=True)
class Length:
    """Squares of a value's elements, their sum over each row, or its root."""

    of: str
    stage: str
    """`squares`, `sum` or `root`."""


@dataclass(frozen=True)
class Chosen:
    """The largest of each row of logits, on the way to gates."""

    logits: str
    """A value."""
    count: int
    """Of a row; 0: all."""
    softmax: bool
    """Whether they are of the softmax."""
    normalized: bool = False
    """Whether they add up to 1."""
    stage: str = "weights"
    """`weights`, their `sum`, their `places`, the logits `masked`: -inf at all other places, where an expert is `at`, or of the
    weights that `one`, and 0 for others."""
    expert: int = -1


@dataclass(frozen=True)
class View:
    """Elements of a value, or sums of its elements: element = sum of coefficient * value[index]."""

    value: str
    terms: tuple[tuple[Int64, Float64], ...]
    """(flat index, coefficient), each of the tensor's shape."""
    size: int
    """Elements of the value."""

    @classmethod
    def rows(cls, value: str, shape: tuple[int, ...]) -> View:
        """All of a value, in its own order."""
        index = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        return cls(value, ((index, np.broadcast_to(np.float64(1), shape)),), index.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.terms[0][0].shape

    def moved(self, move: Move) -> View:
        """The same elements elsewhere."""
        return replace(self, terms=tuple((move(i), move(c)) for i, c in self.terms))

    def times(self, factor: Float64 | np.float64) -> View:
        """Times a constant that broadcasts with it."""
        return replace(self, terms=tuple((np.broadcast_to(i, (c * factor).shape), c * factor) for i, c in self.terms))

    def plus(self, other: View) -> View:
        """The sum with another view of the same value."""
        return replace(self, terms=self.terms + other.terms)

    def padded(self, count: int) -> View:
        """The same with terms of coefficient 0 up to `count` of them."""
        index, coefficient = self.terms[0]
        return replace(self, terms=self.terms + ((index, np.zeros_like(coefficient)),) * (count - len(self.terms)))

    def factor(self) -> float | None:
        """c if the tensor is c times the whole value in its own order, else None."""
        if len(self.terms) != 1:
            return None
        _index, coefficient = self.terms[0]
        if not self.starts(self.size):
            return None
        c = float(coefficient.reshape(-1)[0])
        return c if bool((coefficient == c).all()) else None

    def columns(self, features: int) -> Float64 | None:
        """[features]: what each feature is times, if the tensor is the whole value in its own order; else None."""
        if len(self.terms) != 1 or not self.starts(self.size):
            return None
        rows = self.terms[0][1].reshape(-1, features)
        return np.array(rows[0]) if bool((rows == rows[0]).all()) else None

    def starts(self, count: int) -> bool:
        """Whether it is the first `count` elements of the value in their order, each times something."""
        index = self.terms[0][0]
        return len(self.terms) == 1 and index.size == count and np.array_equal(index.reshape(-1), np.arange(count))


PROBED = np.linspace(-8, 8, 161)
"""Where functions of an element are looked at."""


@dataclass(frozen=True)
class Curve:
    """A function of elements of a value."""

    value: str
    shape: tuple[int, ...]
    of: Callable[[Float64], Float64]
    index: Int64 | None = None
    """[shape]: which elements, counted through the value; None: all in order."""

    def over(self, of: Callable[[Float64], Float64]) -> Curve:
        """Another function of the same elements."""
        return replace(self, of=of)

    def same(self, other: Curve) -> bool:
        """Whether they are functions of the same elements."""
        if self.value != other.value or (self.index is None) != (other.index is None):
            return False
        return self.index is None or np.array_equal(self.index, other.index if other.index is not None else ())

    def function(self) -> Function | None:
        """The one it is, found by its values: within 1e-5 of it on -8..8, and nearer than to any other."""
        x, y = PROBED, self.values()
        error, best = min((float(np.abs(y - functions.real(f, x)).max()), f.value) for f in Function)
        return Function(best) if error < 1e-5 else None

    def line(self) -> tuple[float, float] | None:
        """(slope, value at 0) of a straight line; None of any other function."""
        with np.errstate(all="ignore"):
            bias, end = (float(y) for y in self.of(np.arange(2.0)))
        if not math.isfinite(end - bias):
            return None
        slope = end - bias
        near = np.allclose(self.values(), slope * PROBED + bias, rtol=1e-12, atol=1e-12 * max(1, abs(slope), abs(bias)))
        return (slope, bias) if near else None

    def values(self) -> Float64:
        """At `PROBED`."""
        with np.errstate(all="ignore"):
            return np.asarray(self.of(PROBED))


@dataclass(frozen=True)
class HeadView:
    """Heads of a value: head h reads features first + own[h] * dim .., with rotary tables or none."""

    value: str
    first: int
    dim: int
    own: tuple[int, ...]
    scale: float
    cos: Float64 | None
    sin: Float64 | None
    """[tokens, half]: the first 2 half features of a head turn."""
    neighbours: bool = False
    """Whether features 2 i and 2 i + 1 turn together, not i and half + i."""


def heads(view: View, features: int) -> HeadView | None:
    """Read a view [1, heads, tokens, dim] as heads; None if it is anything else."""
    if len(view.shape) != 4 or view.shape[0] != 1:
        return None
    tokens, dim = view.shape[2:]
    merged = _merged(view)
    if merged is None:
        return None
    terms = [(index[0], coefficient[0]) for index, coefficient in merged]
    column = np.min([index[:, 0, 0] for index, _ in terms], axis=0)
    expected = column[:, None, None] + np.arange(tokens)[None, :, None] * features + np.arange(dim)
    if len(terms) == 2:
        terms = _own_first(terms[0], terms[1], expected)
    if not np.array_equal(terms[0][0], expected) or (column >= features).any():
        return None
    first = int(column.min())
    if ((column - first) % dim).any():
        return None
    own, main = tuple(int(c) for c in (column - first) // dim), terms[0][1]
    if len(terms) == 1:
        scale = float(main.reshape(-1)[0])
        return HeadView(view.value, first, dim, own, scale, None, None) if (main == scale).all() else None
    order = _turned(terms[1][0] - expected, terms[1][1])
    tables = None if order is None else _tables(main[..., order.features], terms[1][1][..., order.features], order.half)
    return None if tables is None or order is None else HeadView(view.value, first, dim, own, *tables, order.neighbours)


@dataclass(frozen=True)
class _Order:
    """A head's features in an order in which halves of what turns turn together."""

    features: Int64
    half: int
    neighbours: bool


def _turned(apart: Int64, side: Float64) -> _Order | None:
    """Which features of heads turn together; None if they are neither halves nor neighbours.

    Args:
        apart: [heads, tokens, dim]: how far from its own feature the other lies that each element is made of.
        side: what that is times.
    """
    dim, turns = apart.shape[-1], side != 0
    if not turns.any():
        return None
    half = abs(int(apart[turns][0]))
    count = int(turns.any(axis=(0, 1)).nonzero()[0].max()) + 1
    neighbours = half == 1 and count > 2
    half = -(-count // 2) if neighbours else half
    if not 0 < half <= dim // 2 or count > 2 * half:
        return None
    order = halves_of(dim, half) if neighbours else np.arange(dim)
    apart, turns = apart[..., order], turns[..., order]
    step = 1 if neighbours else half
    expected = np.concatenate([np.full(half, step), np.full(half, -step), np.zeros(dim - 2 * half, np.int64)])
    return _Order(order, half, neighbours) if (apart == expected)[turns].all() else None


def halves_of(dim: int, half: int) -> Int64:
    """[dim]: a head's features with the first of each pair of neighbours in front, then the second ones, then what is still."""
    pairs = np.arange(2 * half).reshape(-1, 2).T.reshape(-1)
    return np.concatenate([pairs, np.arange(2 * half, dim)])


def _tables(main: Float64, side: Float64, half: int) -> tuple[float, Float64, Float64] | None:
    """Scale, cos and sin [tokens, half] of element = main times itself + side times the other; None if that is no rotation.

    The first 2 half features of each head turn, the rest are only scaled; all heads [heads, tokens, dim] alike.
    """
    cos, sin = main[0], side[0]
    # Codes of tables make of a turn one that is a little shorter; what does not turn tells the scale.
    scale = float(cos[0, 2 * half] if cos.shape[1] > 2 * half else np.sqrt(cos[0, 0] ** 2 + sin[0, 0] ** 2))
    if scale == 0 or side[:, :, 2 * half :].any():
        return None
    first, second = slice(0, half), slice(half, 2 * half)
    alike = np.allclose(main, cos) and np.allclose(side, sin) and np.allclose(main[:, :, 2 * half :], scale)
    if not alike or not np.allclose(cos[:, first], cos[:, second]) or not np.allclose(sin[:, first], -sin[:, second]):
        return None
    return scale, cos[:, first] / scale, sin[:, second] / scale


def _own_first(a: tuple[Int64, Float64], b: tuple[Int64, Float64], own: Int64) -> list[tuple[Int64, Float64]]:
    """Two terms with each element's own feature in the first."""
    (i, x), (j, y) = a, b
    swap = (j == own) & (i != own)
    return [(np.where(swap, j, i), np.where(swap, y, x)), (np.where(swap, i, j), np.where(swap, x, y))]


def _merged(view: View) -> list[tuple[Int64, Float64]] | None:
    """The one or two terms of a view, the one in order first; terms of the same indices added up."""
    terms: list[tuple[Int64, Float64]] = []
    for index, coefficient in view.terms:
        same = next((n for n, (i, _) in enumerate(terms) if np.array_equal(i, index)), None)
        if same is None:
            terms.append((index, coefficient))
        else:
            terms[same] = (index, terms[same][1] + coefficient)
    if len(terms) > 2:
        return None
    terms.sort(key=lambda term: int(term[0][0, 0, 0, 0]))
    return terms
