"""Where the features of a value lie in the words of the machine: heads, and halves that turn, begin at whole words.

A value that attention or a rotary embedding reads in parts is cut at the parts' ends, and every part is given whole words;
what lies between is 0. The linears around such values get columns and rows of zeros for it (`backend/spread.py`), so nothing
that is computed changes. Values that element-wise operators connect are laid out alike. The model's first rows and outputs,
and what shares a residual with them, stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    Attention,
    Beside,
    FakeQuantize,
    Linear,
    Mul,
    Norm,
    NormKind,
    Op,
    Pool,
    Positional,
    Rotary,
    RowScale,
    Slice,
    TopGates,
    Window,
)

Number = TypeVar("Number", bound=np.number[Any])
Parts = tuple[tuple[int, int], ...]
"""(features, room for them) of each part of a row, side by side; () is a row without gaps."""


@dataclass(frozen=True)
class Layout:
    """Places of a row's features."""

    parts: Parts = ()

    def place(self, feature: int) -> int:
        """Place of a feature that begins a part, or of the row's end."""
        if not self.parts:
            return feature
        at = place = 0
        for count, room in self.parts:
            if at >= feature:
                break
            at, place = at + count, place + room
        return place if at == feature else place - at + feature

    def width(self, features: int) -> int:
        """Places of a row of `features`."""
        return sum(room for _, room in self.parts) if self.parts else features

    def span(self, first: int, count: int) -> tuple[int, int]:
        """(place, places) of features `first` .. `first + count - 1`, up to the end of the last part's room."""
        place = self.place(first)
        return place, self.place(first + count) - place

    def part(self, first: int, count: int) -> Layout:
        """The layout of features `first` .. `first + count - 1` alone, where parts begin and end there."""
        edges = np.cumsum([0, *(own for own, _ in self.parts)])
        inside = [own for own, at in zip(self.parts, edges, strict=False) if first <= at < first + count]
        return Layout(tuple(inside))

    def spread(self, values: npt.NDArray[Number], axis: int = -1, fill: int = 0) -> npt.NDArray[Number]:
        """An array with an element a feature along `axis`, with one a place; `fill` where no feature lies."""
        if not self.parts:
            return values
        moved = np.moveaxis(values, axis, -1)
        out = np.full((*moved.shape[:-1], self.width(moved.shape[-1])), fill, values.dtype)
        out[..., self.places] = moved
        return np.moveaxis(out, -1, axis)

    def gathered(self, values: npt.NDArray[Number], features: int, axis: int) -> npt.NDArray[Number]:
        """Inverse of `spread` along `axis`, of at least as many places as a row of `features` has."""
        return np.take(values, self.places if self.parts else np.arange(features), axis)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Place of each feature [features], where there are parts."""
        starts = np.cumsum([0, *(room for _, room in self.parts)])
        own = [start + np.arange(count) for start, (count, _) in zip(starts, self.parts, strict=False)]
        return np.concatenate(own).astype(np.int64)

    def group(self, rows: int) -> int:
        """Features of a scale group: at least `rows` places, a whole multiple of them; 0: parts of several sizes have none."""
        (count, room), *others = dict.fromkeys(self.parts) or [(1, 1)]
        return 0 if others else math.lcm(rows, room) // room * count

    def grouped(self, features: int) -> int:
        """Places of a scale group of so many features (`group`)."""
        count, room = self.parts[0] if self.parts else (1, 1)
        return features // count * room

    def features(self, places: int) -> int:
        """Inverse of `grouped`."""
        count, room = self.parts[0] if self.parts else (1, 1)
        return places // room * count


WITHOUT = Layout()
"""No gaps."""


@dataclass
class _Class:
    """Values of one layout."""

    width: int
    cuts: set[int] = field(default_factory=set)
    """Features at which parts begin or end."""
    norms: list[Norm] = field(default_factory=list)
    kept: bool = False
    """Whether some operator, or what the host reads or writes, takes no gaps."""

    @property
    def whole(self) -> bool:
        """Whether the values have no gaps: a norm's parts are cut alike, and not at all where their mean is taken off."""
        return self.kept or any(not self._normed(op) for op in self.norms)

    def _normed(self, op: Norm) -> bool:
        n = op.gain.size
        first, *others = [{cut - at for cut in self.cuts if at < cut < at + n} for at in range(0, self.width, n)]
        return not (first and op.kind is NormKind.LAYER) and all(other == first for other in others)

    def layout(self, unit: int) -> Layout:
        """Every part in whole words of `unit` elements."""
        edges = sorted(self.cuts | {0, self.width})
        if self.whole or not self.cuts or not any(edge % unit for edge in edges):
            return WITHOUT
        return Layout(tuple((b - a, -(-(b - a) // unit) * unit) for a, b in pairwise(edges)))


class _Classes:
    """The values of a model in classes."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._of = {name: _Class(width) for name, width in widths.items()}

    def __getitem__(self, name: str) -> _Class:
        return self._of[name]

    def all(self) -> Mapping[str, _Class]:
        """Value -> its class."""
        return self._of

    def join(self, *names: str) -> None:
        """These values have one layout."""
        first, *others = (self._of[name] for name in names)
        for other in others:
            if other is not first:
                first.cuts |= other.cuts
                first.norms += other.norms
                first.kept |= other.kept or other.width != first.width
                self._of |= {name: first for name, own in self._of.items() if own is other}

    def connect(self, op: Op) -> None:
        """What an operator asks of the values that it reads and writes, but for heads."""
        match op:
            case Add() | Mul():
                self.join(op.y, op.a, op.b)
            case Norm():
                self.join(op.y, op.x)
                self[op.y].norms.append(op)
            case Affine() | Positional():
                self.join(op.y, op.x)
            case FakeQuantize():
                self.join(op.y, op.x)
                self[op.y].kept |= op.codes.rounded(np.zeros(())) != 0
            case Apply():  # a table may make a little of 0
                self.join(op.y, op.x)
                self[op.y].kept = True
            case Pool():
                self.join(op.y, op.x)
            case RowScale():
                self.join(op.y, op.x)
                self[op.by].kept = True
            case TopGates():
                self[op.x].kept = self[op.y].kept = True
            case Linear() | Attention() | Rotary() | Slice() | Window() | Beside():
                pass

    def heads(self, members: Sequence[tuple[str, Sequence[int]]], dim: int, inner: Collection[int]) -> bool:
        """Heads of `dim` features begin at these features of these values and are cut alike; whether that is new.

        Args:
            inner: features of a head at which it is cut.
        """
        own = {0, dim, *inner}
        for name, starts in members:
            cuts = self[name].cuts
            own |= {cut - start for start in starts for cut in cuts if start < cut < start + dim}
        changed, kept = False, any(self[name].whole for name, _ in members)
        for name, starts in members:
            wanted = {start + cut for start in starts for cut in own}
            changed |= not wanted <= self[name].cuts or kept > self[name].kept
            self[name].cuts |= wanted
            self[name].kept |= kept
        return changed

    def side_by_side(self, y: str, parts: Sequence[str]) -> bool:
        """Each part of y is cut as the value is that it holds, and the value as the part; whether that is new."""
        wanted, first, changed = {0}, 0, False
        for name in parts:
            own = self[name]
            inner = {cut - first for cut in self[y].cuts if first < cut < first + own.width}
            changed |= not inner <= own.cuts or (self[y].whole and not own.kept) or (bool(inner) and own.whole > self[y].kept)
            own.cuts |= inner
            self[y].kept |= bool(inner) and own.whole
            own.kept |= self[y].whole
            wanted |= {first + cut for cut in {own.width} | (set() if own.whole else own.cuts)}
            first += own.width
        changed |= not wanted <= self[y].cuts
        self[y].cuts |= wanted
        return changed


def _starts(first: int, stride: int, count: int) -> range:
    return range(first, first + stride * count, stride)


def _cut(classes: _Classes, op: Op) -> bool:
    """Cut values at the heads that an operator reads or makes, or where others are side by side; whether a cut is new."""
    match op:
        case Attention():
            q, k, v = (
                (name, _starts(first, stride, count))
                for name, first, stride, count in zip(
                    (op.q, op.k, op.v), op.first, op.stride, (op.heads, op.kv_heads, op.kv_heads), strict=True
                )
            )
            scored = classes.heads((q, k), op.dim, ())
            return classes.heads((v, (op.y, _starts(0, op.dim, op.heads))), op.dim, ()) or scored
        case Window():
            return classes.side_by_side(op.y, [op.x] * op.taps)
        case Beside():
            return classes.side_by_side(op.y, [op.a, op.b])
        case Rotary():
            half = op.cos.shape[1]
            x, y = (op.x, _starts(op.first, op.stride, op.heads)), (op.y, _starts(0, op.dim, op.heads))
            return classes.heads((x, y), op.dim, (half, 2 * half))
        case Slice():
            x, y = (op.x, _starts(op.first, op.stride, op.heads)), (op.y, _starts(0, op.dim, op.heads))
            return classes.heads((x, y), op.dim, ())
    return False


def layouts(operators: Sequence[Op], widths: Mapping[str, int], kept: Collection[str], unit: int) -> dict[str, Layout]:
    """Value -> its layout, of values that have gaps.

    Args:
        operators: of the model, in order.
        widths: value -> its features.
        kept: values that have none: the model's first rows and its outputs.
        unit: elements of a word.
    """
    classes = _Classes(widths)
    for op in operators:
        classes.connect(op)
    for name in kept:
        classes[name].kept = True
    while sum(_cut(classes, op) for op in operators):
        pass
    found = {name: own.layout(unit) for name, own in classes.all().items()}
    return {name: own for name, own in found.items() if own is not WITHOUT}


def head_places(operators: Sequence[Op], layouts: Mapping[str, Layout]) -> list[tuple[int, int]]:
    """(places of a key, or of a value where those are more; places of a result) of each attention's heads."""

    def places(op: Attention, name: str, first: int) -> int:
        return layouts.get(name, WITHOUT).span(first, op.dim)[1]

    return [
        (max(places(op, op.k, op.first[1]), places(op, op.v, op.first[2])), places(op, op.y, 0))
        for op in operators
        if isinstance(op, Attention)
    ]
