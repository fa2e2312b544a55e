"""What only moves elements, in a walk over a transformer's graph: reshapes, slices, picks, rows side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from axlora.compiler.operators import Beside, PoolKind, Positional
from axlora.compiler.passes.read_module import RESHAPES, Node
from axlora.compiler.passes.recognise_pairs import PairWalk
from axlora.compiler.passes.recognise_state import Symbol
from axlora.compiler.passes.recognise_values import features_last
from axlora.compiler.passes.tensor_elements import Constant, Curve, View


@dataclass
class MoveWalk(PairWalk):
    """Adds moves of elements."""

    def moved(self, node: Node, inputs: Sequence[Symbol]) -> View | dict[str, Symbol] | None:
        """Operators that only move elements."""
        x = inputs[0]
        assert isinstance(x, View)
        if len(x.terms) > 1 and len(x.shape) > 3 and (summed := self.whole_rows(x.moved(features_last))) is not None:
            x = self.tensor(summed, node.inputs[0], True)
            inputs = [x, *inputs[1:]]
        kind = node.op
        if kind in RESHAPES:
            return x.moved(lambda v: v.reshape(self.g.shape(node.outputs[0])))
        if kind == "pad":
            pads = self.g.constant(node.source.input[1]) if len(node.source.input) > 1 else None
            mode = next((a.s.decode() for a in node.source.attribute if a.name == "mode"), "constant")
            if pads is None or mode != "constant" or pads.size != 2 * len(x.shape) or self._pads_with(node) != 0:
                return None
            widths = pads.reshape(2, -1).T.astype(int).tolist()
            return x.moved(lambda v: np.pad(v, widths))
        if kind == "broadcast_to":
            return x.moved(lambda v: np.broadcast_to(v, self.g.shape(node.outputs[0])))
        if kind == "permute_dims":
            axes = node.numbers("axes")
            return x.moved(lambda v: np.transpose(v, axes))
        if kind == "split":
            axis = int(node.number("axis"))
            if "" in node.outputs:
                return None
            sizes = [self.g.shape(out)[axis] for out in node.outputs]
            cuts = np.cumsum(sizes)[:-1].tolist()
            parts = [x.moved(lambda v, n=n: np.split(v, cuts, axis)[n]) for n in range(len(sizes))]  # type: ignore[misc]
            return dict(zip(node.outputs, parts, strict=True))
        constants = [s.value for s in inputs[1:] if isinstance(s, Constant)]
        if kind == "strided_slice" and len(inputs) == 1:
            return self.picked(x.moved(lambda v: v[_slices(v.ndim, node.static)]))
        if kind == "take" and len(constants) == 1:
            axis = int(node.number("axis"))
            return self.picked(x.moved(lambda v: np.take(v, constants[0].astype(np.int64), axis)))
        if kind == "gather_nd" and len(constants) == 1 and not node.number("batch_dims", 0):
            return self.picked(x.moved(lambda v: v[tuple(np.moveaxis(constants[0].astype(np.int64), -1, 0))]))
        if kind == "concat" and not self.of_one_value(inputs) and all(isinstance(x, View | Curve) for x in inputs):
            return self.beside(node)
        if kind == "concat" and (views := self.of_one_value(inputs)):
            most = max(len(v.terms) for v in views)
            views = [v.padded(most) for v in views]
            axis = int(node.number("axis"))
            joined = [tuple(np.concatenate([v.terms[n][part] for v in views], axis) for part in (0, 1)) for n in range(most)]
            return replace(views[0], terms=tuple((i.astype(np.int64), c.astype(np.float64)) for i, c in joined))
        return None

    def beside(self, node: Node) -> View | None:
        """Features of several values of a stream side by side."""
        values, second = self.in_rows_beside(node)
        if values is None:
            return None
        out = node.outputs[0]
        total = values[0]
        for n, value in enumerate(values[1:], 1):
            name = out if n + 1 == len(values) else f"{out} {n}"
            self.features[name] = self.features[total] + self.features[value]
            self.operators.append(Beside(total, value, name))
            total = name
        return self.tensor(out, out, second)

    def in_rows_beside(self, node: Node) -> tuple[list[str] | None, bool]:
        """The values that a concat of features puts side by side, one row each for a row of the result."""
        rank, axis = len(self.g.shape(node.outputs[0])), int(node.number("axis"))
        each = [self.in_rows(node, [name]) for name in node.inputs]
        values, seconds = [name for (name,), _ in each], {second for _, second in each}
        streams = {(self.stream(value), value in self.single) for value in values}
        fits = len(seconds) == 1 and axis % rank == (1 if seconds == {True} else rank - 1)
        return (values if fits and len(streams) == 1 and not self.single & {*values} else None), seconds == {True}

    def _pads_with(self, node: Node) -> float:
        """What a Pad puts around its input."""
        name = node.source.input[2] if len(node.source.input) > 2 else ""
        value = self.g.constant(name) if name else np.zeros(1)
        return math.nan if value is None else float(value.reshape(-1)[0])

    def between(self, node: Node, inputs: Sequence[Symbol]) -> View | None:
        """Constant rows before and behind those of a value: a class token, for example."""
        places = [n for n, x in enumerate(inputs) if not isinstance(x, Constant)]
        shape = self.g.shape(node.outputs[0])
        if len(places) != 1 or len(shape) != 3 or shape[0] != 1 or int(node.number("axis")) != 1 or self.rowwise:
            return None
        x = self.rows(node, node.inputs[places[0]])
        if x in self.single:
            return None
        parts = [
            s.value.reshape(-1, shape[2]) if isinstance(s, Constant) else np.zeros((self.tokens(x), shape[2])) for s in inputs
        ]
        before, out = sum(len(p) for p in parts[: places[0]]), node.outputs[0]
        index = np.arange(shape[1])[:, None] - before
        made = self.slid(self.window_of(x, np.where(index < self.tokens(x), np.maximum(index, -1), -1), f"{out} rows"))
        self.value(out, shape[2])
        self.operators.append(Positional(made, out, np.concatenate(parts).astype(np.float64)))
        return View.rows(out, shape)

    def picked(self, view: View) -> View:
        """A view that is the first row of a value is a value of its own."""
        if (
            len(view.shape) > 3  # pixels
            or view.value in self.hosts
            or view.value in self.single
            or self.tokens(view.value) == 1
            or not view.starts(self.features[view.value])
        ):
            return view
        if (view.terms[0][1] != 1).any():
            return view
        return View.rows(self.pooled(view.value, PoolKind.FIRST), view.shape)


def _slices(rank: int, parts: Sequence[Sequence[float]]) -> tuple[slice, ...]:
    """What a strided_slice takes: axes, begins, ends, and strides or none."""
    axes, starts, ends = parts[:3]
    steps = parts[3] if len(parts) > 3 else [1] * len(starts)
    out = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        out[int(axis)] = slice(int(start), int(end), int(step))
    return tuple(out)
