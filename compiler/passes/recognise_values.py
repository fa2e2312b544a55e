"""What every tensor of a transformer's graph is, as it is found: rows of values, constants, what a mask changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.functions import own_bound, own_function
from axlora.compiler.operators import (
    Add,
    Affine,
    Apply,
    FakeQuantize,
    Mul,
    OwnFunction,
    Pool,
    PoolKind,
    Quantization,
    Slice,
    Window,
    operands,
)
from axlora.compiler.passes.read_module import Node
from axlora.compiler.passes.recognise_state import State, Symbol
from axlora.compiler.passes.tensor_elements import (
    Constant,
    Curve,
    Ids,
    Looked,
    Probed,
    View,
    Weighted,
)
from axlora.compiler.transformer import Lookup, RowInput, Stream

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_NEAR = 2.0**-20
_GAINS = 32
"""Most unlike rows of factors of which a sum of rows may be."""


@dataclass
class Values(State):
    """Adds rows: which value a tensor is, and values that are made of others."""

    def rows(self, node: Node, name: str) -> str:
        """The value that a tensor is, all of it and in order.

        Raises:
            UnsupportedOperator: it is only a part, or its tokens are not in order.
        """
        symbol = self.symbol(name)
        if isinstance(symbol, Curve):
            if symbol.index is None:
                return self.applied(node, symbol)
            symbol = self.viewed(node, name)
        if isinstance(symbol, Looked):
            return self.first(node, name, symbol)
        if isinstance(symbol, Weighted) and symbol.summed and symbol.means(self.padded(symbol.value)):
            if len(self.padded(symbol.value)) > 1:
                self.heeds(node, symbol.value)
            return self.pooled(symbol.value, PoolKind.MEAN)
        if isinstance(symbol, View) and symbol.value in self.hosts:
            return self.laid_out(node, name, symbol)
        wide = isinstance(symbol, View) and len(symbol.shape) > 1 and symbol.shape[-1] > self.features[symbol.value]
        if isinstance(symbol, View) and symbol.factor() == 1 and not wide:
            return symbol.value
        if isinstance(symbol, View) and not wide and (gain := symbol.columns(self.features[symbol.value])) is not None:
            return self.scaled(symbol.value, gain, np.zeros(gain.size))
        if isinstance(symbol, View) and (part := self.sliced(symbol)) is not symbol and part.factor() == 1:
            return part.value
        found = self.gathered(symbol) if isinstance(symbol, View) else None
        if found is not None:
            return found
        raise self.refuse(node, "reads a tensor that is not rows of features, one a token")

    def sliced(self, view: View) -> View:
        """A view of some features of every row of a value, the same ones, as one of the value that they are; else itself."""
        n, index = self.features.get(view.value, 0), view.terms[0][0]
        if len(view.terms) > 1 or view.value in self.hosts or not n or index.size % (view.size // n) or index.size >= view.size:
            return view
        flat = np.sort(index.reshape(-1))
        columns = flat[: index.size * n // view.size]
        parts = np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1)
        dim, first = len(parts[0]), int(columns[0])
        steps = {int(b[0] - a[0]) for a, b in itertools.pairwise(parts)} or {dim}
        even = len(steps) == 1 and all(len(part) == dim for part in parts) and columns[-1] < n
        if not even or not np.array_equal(flat.reshape(-1, len(columns)), np.arange(view.size // n)[:, None] * n + columns):
            return view
        y = self.parts(view.value, first, dim, len(parts), steps.pop())
        own = index // n * len(columns) + np.searchsorted(columns, index % n)
        return View(y, ((own, view.terms[0][1]),), index.size)

    def parts(self, value: str, first: int, dim: int, count: int = 1, stride: int = 0) -> str:
        """The value of some features of another (`operators.Slice`)."""
        y = f"{value} {first} {dim} {count}"
        if y not in self.features:
            self.features[y] = dim * count
            if value in self.single:
                self.single.add(y)
            self.operators.append(Slice(value, y, count, dim, first, stride or dim))
        return y

    def as_rows(self, node: Node) -> None:
        """What a node reads of an input of floats as rows of its last dimension."""
        for name in node.inputs:
            symbol = self.symbols.get(name)
            if isinstance(symbol, View) and symbol.value in self.hosts:
                self.symbols[name] = View.rows(self.rows(node, name), self.g.shape(name))

    def pixels(self, name: str) -> None:
        """An input [1, channels, ..] as a row a pixel, for all that reads it."""
        n, given = self.g.shape(name)[1], View.rows(name, self.g.shape(name))
        index = given.moved(features_last).terms[0][0].reshape(-1, n)
        value = f"{name} pixels"
        self.streams.append(Stream((), None, value, len(index), RowInput(name, n, index), name, self.g.shape(name)[1:]))
        self.looked.append(None)
        self.features[value] = n
        self.hosts.remove(name)
        self.symbols[name] = self.tensor(value, name, True)

    def laid_out(self, node: Node, name: str, view: View) -> str:
        """The first rows of a stream that the host lays out: elements of an input, or zeros."""
        shape = view.shape
        ((index, coefficient),) = view.terms[:1]
        if len(view.terms) > 1 or not np.isin(coefficient, (0, 1)).all() or not shape:
            raise self.refuse(node, "reads more than elements of an input")
        place = np.where(coefficient == 0, -1, index).reshape(-1, shape[-1])
        key = (view.value, place.shape, place.tobytes())
        if key not in self.laid:
            whole = view.factor() == 1
            value = view.value if whole and view.value not in self.features else f"{view.value} rows {len(self.laid)}"
            given = RowInput(view.value, shape[-1], None if whole else place)
            own = self.g.shape(view.value)[1:]
            self.streams.append(Stream((), None, value, len(place), given, name, () if whole and len(own) == 2 else own))
            self.looked.append(None)
            self.features[value] = shape[-1]
            self.laid[key] = value
        return self.laid[key]

    def gathered(self, view: View) -> str | None:
        """The value that a view [.., rows, features] is: rows of another side by side, or the sum of some, each times its gain.

        None if it is neither, or of rows that nothing may mix.
        """
        n = self.features[view.value]
        if self.rowwise or self.causal or view.value in self.single or len(view.shape) < 2:
            return None
        view = self.of_a_group(view)
        if view.shape[-1] % (n := self.features[view.value]):
            return None
        if len(view.terms) == 1:
            places, coefficient = view.terms[0][0].reshape(-1, n), view.terms[0][1].reshape(-1, n)
            seen = coefficient != 0
            index = _rows_of(places, seen)
            gain = next(iter(coefficient[seen.all(axis=1)]), np.ones(n))
            if index is not None and (coefficient == seen * gain).all():
                value = view.value if (gain == 1).all() else self.scaled(view.value, gain, np.zeros(n))
                return self.slid(self.window_of(value, index.reshape(-1, view.shape[-1] // n)))
        return self.sum_of_rows(view) if view.shape[-1] == n else None

    def of_a_group(self, view: View) -> View:
        """A view of some features side by side alone, as a grouped convolution's, as one of the value that they are."""
        n, (index, coefficient) = self.features[view.value], view.terms[0]
        own = np.unique(index[coefficient != 0] % n)
        if len(view.terms) > 1 or not 0 < own.size < n or own[-1] - own[0] >= own.size or view.shape[-1] % own.size:
            return view
        part, rows = self.parts(view.value, int(own[0]), own.size), view.size // n
        moved = np.where(coefficient != 0, index // n * own.size + index % n - own[0], 0)
        return View(part, ((moved, coefficient),), rows * own.size)

    def sum_of_rows(self, view: View) -> str | None:
        """The sum of rows of a value, each times a number a feature: a convolution of single channels, or a mean."""
        n = self.features[view.value]
        parts: list[tuple[Int64, Float64]] = []
        for index, coefficient in view.terms:
            gains, which = np.unique(coefficient.reshape(-1, n), axis=0, return_inverse=True)
            if len(gains) > _GAINS:
                return None
            for number, gain in enumerate(gains):
                if not gain.any():
                    continue
                own = which.reshape(-1) == number
                rows = _rows_of(index.reshape(-1, n), np.broadcast_to(own[:, None], (own.size, n)))
                if rows is None:
                    return None
                parts.append((rows[:, None], gain))
        total: str | None = None
        for rows, gain in parts:
            sign = -1 if total is not None and (gain == -1).all() else 1
            term = self.slid(self.window_of(view.value, rows))
            term = term if (gain == sign).all() else self.scaled(term, gain, np.zeros(n))
            total = term if total is None else self.summed(total, term, f"{view.value} sum {len(self.operators)}", sign)
        return total

    def summed(self, a: str, b: str, name: str, sign: int = 1) -> str:
        """The value of this name, a + b or a - b."""
        self.features[name] = self.features[a]
        if a in self.single:
            self.single.add(name)
        self.operators.append(Add(a, b, name, sign))
        return name

    def window_of(self, value: str, index: Int64, y: str = "") -> Window:
        """A window of rows [rows, taps] of a value, in the stream that it makes."""
        roots = {own.input: own for own in self.streams}
        for op in self.operators:
            roots[op.y] = roots[operands(op)[0]]
        root = roots[value]
        return Window(value, y, index, root.input if len(index) == root.rows else f"{root.input} as {len(index)} rows")

    def slid(self, window: Window) -> str:
        """The value that a window makes, the same one for the same window."""
        key = (window.x, window.index.shape, window.index.tobytes(), window.stream)
        if key not in self.windows:
            name = window.y or f"{window.x} window {len(self.windows)}"
            self.windows[key] = name
            self.features[name] = self.features[window.x] * window.taps
            self.operators.append(replace(window, y=name))
        return self.windows[key]

    def in_rows(self, node: Node, names: Sequence[str]) -> tuple[list[str], bool]:
        """The values that tensors are, and whether features are their second dimension, as those of images, or their last.

        Raises:
            UnsupportedOperator: as `rows`.
        """
        shapes = {self.g.shape(name) for name in names}
        last = not self.are_images(names) and any(self.is_rows(self.symbol(name)) for name in names)
        if len(shapes) == 1 and len(self.g.shape(names[0])) > 2 and not last:
            values = [self.whole_rows(self.viewed(node, name).moved(features_last)) for name in names]
            if None not in values:
                return [value for value in values if value is not None], True
        return [self.rows(node, name) for name in names], False

    def tensor(self, value: str, name: str, second: bool) -> View:
        """A tensor that is a value; `second`: as `in_rows` has it."""
        shape = self.g.shape(name)
        if not second:
            return View.rows(value, shape)
        return View.rows(value, (shape[0], *shape[2:], shape[1])).moved(_features_second)

    def are_images(self, names: Sequence[str]) -> bool:
        """Whether tensors can have their features in the second dimension and cannot have them in the last."""
        for name in names:
            symbol, shape = self.symbol(name), self.g.shape(name)
            n = self.features.get(symbol.value, 0) if isinstance(symbol, View | Curve) else 0
            if len(shape) < 4 or shape[1] != n or shape[-1] == n:
                return False
        return True

    def is_rows(self, symbol: Symbol) -> bool:
        """Whether it is all of a value, in its order."""
        if isinstance(symbol, View):
            return symbol.value not in self.hosts and symbol.columns(self.features[symbol.value]) is not None
        return not isinstance(symbol, Curve) or symbol.index is None

    def whole_rows(self, view: View) -> str | None:
        """The value that a view with its features last is: itself, times a number a feature, or what windows make."""
        if view.value in self.hosts:
            return None
        if view.factor() == 1:
            return view.value
        if (gain := view.columns(self.features[view.value])) is not None:
            return self.scaled(view.value, gain, np.zeros(gain.size))
        if (part := self.sliced(view)) is not view and part.factor() == 1:
            return part.value
        return self.gathered(view)

    def first(self, node: Node, name: str, looked: Looked) -> str:
        """The value of the rows that were looked up, which a tensor holds."""
        n = next((n for n, own in enumerate(self.looked) if own is not None and own.is_like(looked)), None)
        if n is None:
            if any(own is not None and own.inputs & looked.inputs for own in self.looked):
                raise self.refuse(node, "a second embedding of the token ids")
            n, lookups = len(self.streams), tuple(sorted(looked.tables, key=lambda x: x.input != self.main))
            value, table = f"embeddings {n}" if n else "embeddings", lookups[0].table
            rows = self.ids_shape(lookups[0].input)[-1]
            self.streams.append(Stream(lookups, looked.constant, value, rows, None, name))
            self.looked.append(looked)
            self.features[value] = table.shape[1]
        value = self.streams[n].input
        return value if looked.codes is None else self.rounded(value, looked.codes)

    def rounded(self, value: str, codes: Quantization) -> str:
        """The value that stands for another's codes."""
        if self.codes.get(value) == codes:
            return value
        key = (value, codes)
        if key not in self.pairs:
            name = self.pairs[key] = f"{value} rounded {len(self.pairs)}"
            self.codes[name] = codes
            self.features[name] = self.features[value]
            if value in self.single:
                self.single.add(name)
            self.operators.append(FakeQuantize(value, name, codes))
        return self.pairs[key]

    def pooled(self, value: str, kind: PoolKind) -> str:
        """The value of one row that is made of all rows of another."""
        if self.rowwise:
            raise UnsupportedOperator("one row of all rows of a batch", f"tensor {value!r}", self.hint)
        name = f"{value} {kind.value}"
        if name not in self.features:
            self.features[name] = self.features[value]
            self.single.add(name)
            self.operators.append(Pool(value, name, kind))
        return name

    def scaled(self, value: str, gain: Float64, bias: Float64) -> str:
        """The value of another times a number a feature, and plus one."""
        key = (value, gain.tobytes(), bias.tobytes())
        if key not in self.affine:
            name = self.affine[key] = f"{value} scaled {len(self.affine)}"
            self.features[name] = self.features[value]
            if value in self.single:
                self.single.add(name)
            self.operators.append(Affine(value, name, gain, bias))
        return self.affine[key]

    def applied(self, node: Node, curve: Curve) -> str:
        """The value of an activation function, or of a straight line."""
        if (line := curve.line()) == (1, 0):
            return curve.value
        if line is not None:
            n = self.features[curve.value]
            return self.scaled(curve.value, np.full(n, line[0]), np.full(n, line[1]))
        function = curve.function() or self.own(curve)
        if function is None and own_bound(slope := _slope(curve.of)) is not None:
            by = self.applied(node, curve.over(slope))
            return self.product_of(curve.value, by)
        if function is None:
            raise self.refuse(node, "an element-wise function that has no table")
        name = f"{curve.value} {function.name if isinstance(function, OwnFunction) else function.value}"
        if name not in self.features:
            self.features[name] = self.features[curve.value]
            if curve.value in self.single:
                self.single.add(name)
            self.operators.append(Apply(curve.value, name, function))
        return name

    def product_of(self, a: str, b: str) -> str:
        """The value a b, element by element."""
        name = f"{a} times {b}"
        if name not in self.features:
            self.features[name] = self.features[a]
            if a in self.single:
                self.single.add(name)
            self.operators.append(Mul(a, b, name))
        return name

    def own(self, curve: Curve) -> OwnFunction | None:
        """A function without a name, the same one for the same values; None if straight lines are not near it."""
        values = curve.values()
        known = next((f for f, v in self.curves if np.array_equal(v, values, equal_nan=True)), None)
        if known is None and (bound := own_bound(curve.of)) is not None:
            known = own_function(f"function {len(self.curves)}", curve.of, bound)
            self.curves.append((known, values))
        return known

    def viewed(self, node: Node, name: str) -> View:
        """The elements of a tensor; functions and rows that were looked up become values."""
        symbol = self.symbol(name)
        if isinstance(symbol, View):
            return symbol
        if isinstance(symbol, Curve) and symbol.index is not None:
            size = self.tokens(symbol.value) * self.features[symbol.value]
            return View(self.applied(node, symbol), ((symbol.index, np.ones(symbol.shape)),), size)
        return View.rows(self.rows(node, name), self.g.shape(name))

    def fixed(self, nodes: set[int]) -> set[int]:
        """Evaluate what no ids change: nodes that constants alone lead to, or the mask too, once for each probe of it.

        Args:
            nodes: that are looked at.

        Returns:
            the nodes that were, and those that only they need.
        """
        done: set[int] = set()
        known = {name for name, symbol in self.symbols.items() if isinstance(symbol, Constant | Probed)}
        for index in sorted(nodes):
            node = self.g.nodes[index]
            if all(name in known or self.g.constant(name) is not None for name in node.inputs):
                done.add(index)
                known |= set(node.outputs)
        read = {name for i, node in enumerate(self.g.nodes) if i in nodes - done for name in node.inputs} | self.g.outputs
        wanted = [name for i in sorted(done) for name in self.g.nodes[i].outputs if name in read]
        if wanted:
            most = max((len(s.values) for s in self.symbols.values() if isinstance(s, Probed)), default=1)
            given = [
                {
                    name: symbol.values[n] if isinstance(symbol, Probed) else symbol.value
                    for name, symbol in self.symbols.items()
                    if isinstance(symbol, Constant | Probed)
                }
                for n in range(most)
            ]
            for name, *own in zip(wanted, *self.g.evaluate(wanted, given), strict=True):
                alike = all(np.array_equal(own[0], other) for other in own[1:])
                self.symbols[name] = Constant(own[0]) if alike else Probed(tuple(own))
        return done

    def embed(self, node: Node, table: Symbol, ids: Ids) -> Looked:
        if not isinstance(table, Constant) or table.value.ndim != 2:
            raise self.refuse(node, "rows of what is no table")
        if int(node.number("axis")) != 0:
            raise self.refuse(node, "picks features, not tokens, by the token ids")
        return Looked((Lookup(ids.input, table.value.astype(np.float64), name=str(node.inputs[0])),))

    def rows_of_codes(self, codes: Looked, scale: Symbol, zero: Symbol) -> Looked | None:
        """Rows of a table of codes as reals, by numbers or a number a feature, in single precision as ONNX has it."""
        if len(codes.tables) != 1 or not isinstance(scale, Constant) or not isinstance(zero, Constant):
            return None
        (own,) = codes.tables
        if any(c.value.size not in (1, own.table.shape[1]) for c in (scale, zero)):
            return None
        whole = (own.table - zero.value.reshape(-1).astype(np.float64)).astype(np.float32)
        return Looked((replace(own, table=(whole * scale.value.reshape(-1).astype(np.float32)).astype(np.float64)),))


def _slope(of: Callable[[Float64], Float64]) -> Callable[[Float64], Float64]:
    """f(t) / t of a function that is 0 at 0, as relu squared; near 0 what it is there."""

    def slope(t: Float64) -> Float64:
        near = np.where(np.abs(t) < _NEAR, np.copysign(_NEAR, t), t)
        return of(near) / near

    return slope


def _rows_of(index: Int64, seen: npt.NDArray[np.bool_]) -> Int64 | None:
    """[rows]: the rows of a value that elements [rows, features] are, -1 where none is seen; None if they are no whole rows."""
    n, first = index.shape[1], index[:, 0]
    own = seen[:, 0]
    if (seen != own[:, None]).any() or (index[own] != first[own, None] + np.arange(n)).any() or (first[own] % n).any():
        return None
    return np.where(own, first // n, -1)


def features_last(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The second dimension behind the others."""
    return np.moveaxis(x, 1, -1)


def _features_second(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.moveaxis(x, -1, 1)
