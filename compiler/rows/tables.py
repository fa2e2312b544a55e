"""Functions as tables of straight lines in fixed point, with the error each has."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from axlora.compiler.functions import REALS
from axlora.compiler.operators import Function
from axlora.compiler.rows.row_operations import Table

Float64 = npt.NDArray[np.float64]
INTERVALS = 512
EXP_INTERVALS = 256
EXP_LOW = -16.0
"""exp(-16) is 1.1e-7: below half a code of 8 bits, and of 16."""


def _lines(f: Callable[[Float64], Float64], edges: Float64) -> tuple[Float64, Float64]:
    """Value at the left edge and rise of each interval: the chord, moved half way to the function's middle.

    A chord over h is off by at most h^2 max|f''| / 8 on one side; half of it on both sides is the least for a straight line of
    that slope.
    """
    values = f(edges)
    middle = f((edges[:-1] + edges[1:]) / 2)
    move = (middle - (values[:-1] + values[1:]) / 2) / 2
    return values[:-1] + move, values[1:] - values[:-1]


def function_table(function: Function, fx: int, fy: int) -> Table:
    """Table for x of fraction fx (value = integer / 2**fx) to y of fraction fy; fx at least 5."""
    f, bound = REALS[function]
    step = fx + int(math.log2(2 * bound / INTERVALS))
    base, rise = _lines(f, np.linspace(-bound, bound, INTERVALS + 1))
    # The outer lines go on beyond the table: exactly as flat, or as steep, as the function is there.
    rise[[0, -1]] = np.rint(rise[[0, -1]] * INTERVALS / (2 * bound)) * (2 * bound / INTERVALS)
    if function is Function.RELU:
        base = np.maximum(np.linspace(-bound, bound, INTERVALS + 1)[:-1], 0.0)
    return _table(function.value, -bound, fx, fy, step, base, rise)


def exp_table(fx: int, fy: int) -> Table:
    """exp of x <= 0, exactly 0 below `EXP_LOW` and 1 at 0."""
    step = fx + int(math.log2(-EXP_LOW / EXP_INTERVALS))
    base, rise = _lines(np.exp, np.linspace(EXP_LOW, 0.0, EXP_INTERVALS + 1))
    base[0] = rise[0] = 0.0
    return _table("exp", EXP_LOW, fx, fy, step, np.append(base, 1.0), np.append(rise, 0.0))


def _table(name: str, low: float, fx: int, fy: int, step: int, base: Float64, rise: Float64) -> Table:
    """Slope = rise / 2**step in steps of 2**-shift, as fine as 31 bits hold."""
    top = max(float(np.abs(rise).max()) * 2.0 ** (fy - step), 2.0**-60)
    shift = max(0, min(62, 29 - math.ceil(math.log2(top))))
    slope = np.rint(np.ldexp(rise, fy - step + shift))
    records = np.stack([np.rint(np.ldexp(base, fy)), slope], axis=1).astype(np.int64)
    return Table(f"{name} {fx} {fy}", int(np.ldexp(low, fx)), step, shift, records)
