"""Gates of experts as row operations: the largest of a row by passes of maximum and compare, and their softmax."""

from __future__ import annotations

import math

import numpy as np

from axlora.compiler.operators import RowScale, TopGates
from axlora.compiler.rows.formulas import Body, Formulas, named
from axlora.compiler.rows.fractions import EXP_FRACTION, FACTOR_BITS, SCORE_FRACTION
from axlora.compiler.rows.row_operations import Cells, Table
from axlora.compiler.rows.tables import exp_table
from axlora.isa.opcodes import Map, Reduce, Row

_KEY_BITS = 28
"""Keys stay below 2**28, so that a difference of two stays above what marks a taken one."""
_SPARE = 4
"""Bits of a key above the largest value seen."""
_LOW = -(1 << 31)
_TAKEN = -(1 << 30)
"""Keys below it are of taken elements."""
_TAKE = Table("gates take", _LOW, 31, 0, np.array([[_LOW, 1], [_LOW, 0]], np.int64))
"""x below 0 stays, x of 0 (the row's largest, which was subtracted) becomes the least."""
_MASK = Table("gates mask", _LOW, 30, 0, np.array([[1, 0], [0, 0]], np.int64))
"""1 for x below `_TAKEN`, else 0."""


class GateFormulas(Formulas):
    """Adds gates, whose scalars are 0 and 1: attention's 2 and 3 wait between its rounds."""

    def topgates(self, op: TopGates) -> Body:
        """Keys of the elements are unlike: the element in its upper bits, how far it is from the last in the lower ones.

        Each pass subtracts the largest key and takes out the element that is 0 then; the softmax is masked by what was taken.
        """
        rows, x, fx, n = self.rows, self.cells[op.x], self.fractions[op.x], self.widths[op.x]
        y = self.out(op.y, EXP_FRACTION)
        if op.count >= n:
            return lambda: self._softmax(x, y, fx)
        keys = self.passing(f"{op.y} keys", n)
        low = max(1, math.ceil(math.log2(n)))
        top = math.ceil(math.log2(max(self.largest[op.x], 2.0**-12))) + fx
        down = max(0, top + _SPARE + low - _KEY_BITS)
        behind = np.arange(n, dtype=np.int64)[::-1]
        order = rows.constant(named("order", behind), behind)

        def each() -> None:
            rows.map(Map.MAC, x, out=keys, shift=down)
            rows.map(Map.MAC, keys, order, keys, ca=1 << low, cb=1, reduce=Reduce.MAX)
            for again in reversed(range(op.count)):
                rows.scalar(Row.COPY, 0, 1, 0)
                rows.map(Map.TABLE, keys, out=keys, table=_TAKE, less=0, reduce=Reduce.MAX if again else Reduce.NONE)
            rows.map(Map.TABLE, keys, out=keys, table=_MASK)
            self._softmax(x, y, fx, keys if op.normalized else None)
            if not op.normalized:
                rows.map(Map.MUL, y, keys, y)

        return each

    def _softmax(self, x: Cells, y: Cells, fx: int, mask: Cells | None = None) -> None:
        """The softmax of a row of fraction `fx`, or of the elements that a mask of ones and zeros leaves."""
        rows, moves = self.rows, _moves(fx, SCORE_FRACTION)
        for m, (up, shift) in enumerate(moves, 1):
            reduce = Reduce.MAX if m == len(moves) else Reduce.NONE
            rows.map(Map.MAC, x if m == 1 else y, out=y, ca=1 << up, shift=shift, reduce=reduce)
        rows.scalar(Row.COPY, 0, 1, 0)
        exp = exp_table(SCORE_FRACTION, EXP_FRACTION)
        rows.map(Map.TABLE, y, out=y, table=exp, less=0, reduce=Reduce.SUM if mask is None else Reduce.NONE)
        if mask is not None:
            rows.map(Map.MUL, y, mask, y, reduce=Reduce.SUM)
        rows.scalar(Row.RECIPROCAL, 1, 1, 0, 0, EXP_FRACTION)
        rows.map(Map.SCALE, y, out=y, scale=1)

    def rowscale(self, op: RowScale) -> Body:
        """The row's number is what a sum over `by` leaves of it, subtracted from zeros: VMAP multiplies that by x."""
        rows, x = self.rows, self.cells[op.x]
        exact = self.fractions[op.x] + self.fractions[op.by]
        fy = max(min(self.seen(op.y), exact), exact - 63)
        y = self.over(op.y, fy, (op.x,))
        zeros = np.zeros(x.width, np.int64)
        nothing = rows.constant(named("zeros", zeros), zeros)
        one = -np.eye(1, self.widths[op.by], op.feature, dtype=np.int64)[0]
        picked = rows.constant(named("picked", one), one)

        def each() -> None:
            rows.map(Map.MUL, self.cells[op.by], picked, reduce=Reduce.SUM)
            rows.scalar(Row.COPY, 0, 1, 0)
            rows.map(Map.MUL, nothing, self.cells[op.x], y, shift=exact - fy, less=0)

        return each


def _moves(f: int, to: int) -> list[tuple[int, int]]:
    """(log2 of the factor, shift) of each MAC from a fraction to another; one of them at least."""
    found: list[tuple[int, int]] = []
    while f != to or not found:
        up = min(FACTOR_BITS, max(-63, to - f))
        found.append((max(0, up), max(0, -up)))
        f += up
    return found
