"""Heads of which neighbours turn together, as GPT-J's: their features in an order in which halves do.

Queries and keys meet feature by feature, so that both may be in any order. The linear that makes a value gets its columns in
that order (`column_order.py`), and with it what lies between.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from axlora.compiler.errors import UnsupportedOperator
from axlora.compiler.operators import Affine, Attention, FakeQuantize, Linear, Norm, Op, Rotary, Slice, operands
from axlora.compiler.passes.recognise_values import Values

Int64 = npt.NDArray[np.int64]


@dataclass
class OrderWalk(Values):
    """Adds the order of features."""

    orders: dict[str, Int64] = field(default_factory=dict)
    """Linear -> its outputs in the order in which it is to make them."""
    reordered: dict[str, Int64] = field(default_factory=dict)
    """Value -> the features that it would have in its places."""

    def reorder(self, value: str, first: int, stride: int, count: int, order: Int64) -> None:
        """Heads of a value in another order.

        Args:
            first, stride, count: the feature at which the first head begins, from head to head, heads.
            order: [dim]: the feature of a head that is to be in each place.
        """
        whole = np.arange(self.features[value])
        own = (first + np.arange(count) * stride)[:, None] + np.arange(order.size)
        whole[own] = own[:, order]
        self._made_in(value, whole)

    def _made_in(self, value: str, order: Int64) -> None:
        """Have a value made in an order, but for what it has of it already: another attention may have asked for that."""
        still = np.arange(order.size)
        before = self.reordered.get(value, still)
        order = np.where(before == order, still, order)
        if not np.array_equal(np.sort(order), still) or ((order != still) & (before != still)).any():
            raise UnsupportedOperator("neighbours turn in two ways in the same rows", f"tensor {value!r}", self.hint)
        if (order == still).all():
            return
        self.reordered[value] = before[order]
        number = next((n for n, op in enumerate(self.operators) if op.y == value), -1)
        match op := self.operators[number] if number >= 0 else None:
            case Linear():
                own = self.orders.get(op.name)
                self.orders[op.name] = order if own is None else own[order]
            case Affine():
                self.operators[number] = replace(op, gain=op.gain[order], bias=op.bias[order])
                self._made_in(op.x, order)
            case Norm() if (own := _within(order, op.gain.size)) is not None:
                bias = None if op.bias is None else op.bias[own]
                self.operators[number] = replace(op, gain=op.gain[own], bias=bias)
                self._made_in(op.x, order)
            case FakeQuantize():
                self._made_in(op.x, order)
            case Slice():
                whole = np.arange(self.features[op.x])
                own = np.concatenate([op.first + n * op.stride + np.arange(op.dim) for n in range(op.heads)])
                whole[own] = own[order]
                self._made_in(op.x, whole)
            case _:
                raise UnsupportedOperator("neighbours turn in rows that no linear makes", f"tensor {value!r}", self.hint)

    def check_order(self, outputs: Set[str]) -> None:
        """Every reader of a value in another order is one that does not see it, and none is an output.

        Raises:
            UnsupportedOperator: one is not.
        """
        seen = {name for op in self.operators for name in operands(op) if name in self.reordered and not self._bears(op, name)}
        for name in sorted(seen | (outputs & self.reordered.keys())):
            what = "neighbours turn in rows that are read by more than their attention"
            raise UnsupportedOperator(what, f"tensor {name!r}", self.hint)

    def _bears(self, op: Op, name: str) -> bool:
        order = self.reordered[name]
        match op:
            case Rotary():
                return True
            case Affine() | Norm() | FakeQuantize() | Slice():
                still = isinstance(op, Slice) and _is_still(order, op.first, op.stride, op.heads, op.dim)
                return still or op.y in self.reordered
            case Attention():
                reads = zip((op.q, op.k, op.v), op.first, op.stride, (op.heads, op.kv_heads, op.kv_heads), strict=True)
                return all(x != name or _is_still(order, first, stride, count, op.dim) for x, first, stride, count in reads)
        return False


def _is_still(order: Int64, first: int, stride: int, count: int, dim: int) -> bool:
    """Whether heads are in their own order."""
    own = (first + np.arange(count) * stride)[:, None] + np.arange(dim)
    return bool((order[own] == own).all())


def _within(order: Int64, size: int) -> Int64 | None:
    """The order of each group of `size`; None if groups differ, or elements change theirs."""
    groups = order.reshape(-1, size) - np.arange(0, order.size, size)[:, None]
    return groups[0] if (groups == groups[0]).all() and groups[0].min() >= 0 and groups[0].max() < size else None
