"""Functions as tables of straight lines in fixed point, with the error each has."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from axlora.compiler.functions import INTERVALS, REALS, lines
from axlora.compiler.operators import Function, OwnFunction, Quantization
from axlora.compiler.rows.row_operations import Table
from axlora.isa.numerics import SAT32, rounding_shift

Float64 = npt.NDArray[np.float64]
EXP_INTERVALS = 256
EXP_LOW = -16.0
"""exp(-16) is 1.1e-7: below half a code of 8 bits, and of 16."""


def nearest_fraction(function: Function | OwnFunction, fx: int) -> int:
    """The fraction nearest to fx with which `function_table` takes x: intervals are whole, the first begins within 32 bits."""
    bound = function.bound if isinstance(function, OwnFunction) else REALS[function][1]
    return max(math.ceil(math.log2(INTERVALS / (2 * bound))), min(fx, 30 - math.ceil(math.log2(bound))))


def function_table(function: Function | OwnFunction, fx: int, fy: int) -> Table:
    """Table for x of fraction fx (value = integer / 2**fx, `nearest_fraction`) to y of fraction fy."""
    if isinstance(function, OwnFunction):
        step = fx + int(math.log2(2 * function.bound / INTERVALS))
        return _table(function.name, -function.bound, fx, fy, step, *function.lines)
    f, bound = REALS[function]
    step = fx + int(math.log2(2 * bound / INTERVALS))
    base, rise = lines(f, np.linspace(-bound, bound, INTERVALS + 1))
    # The outer lines go on beyond the table: exactly as flat, or as steep, as the function is there.
    rise[[0, -1]] = np.rint(rise[[0, -1]] * INTERVALS / (2 * bound)) * (2 * bound / INTERVALS)
    if function is Function.RELU:
        base = np.maximum(np.linspace(-bound, bound, INTERVALS + 1)[:-1], 0.0)
    return _table(function.value, -bound, fx, fy, step, base, rise)


def cap_table(cap: float, fx: int, fy: int) -> Table:
    """cap tanh(x) for x of fraction fx to y of fraction fy."""
    f, bound = REALS[Function.TANH]
    base, rise = lines(f, np.linspace(-bound, bound, INTERVALS + 1))
    rise[[0, -1]] = 0.0
    return _table(f"cap {cap!r}", -bound, fx, fy, fx + int(math.log2(2 * bound / INTERVALS)), cap * base, cap * rise)


def steps_table(codes: Quantization, fx: int, plus: int = 0) -> Table:
    """rne(x / scale) + plus for x of fraction fx: one straight line, whose slope has 30 bits."""
    slope, shift = _slope(math.ldexp(1 / codes.scale, -fx))
    return Table(f"steps of {codes.scale!r} {fx} {plus}", 0, 0, shift, np.array([[plus, slope]], np.int64))


def clamp_table(codes: Quantization, fy: int) -> Table:
    """Steps from zero to what the codes stand for, of fraction fy: flat, straight, flat; 0 stays 0."""
    slope, shift = _slope(math.ldexp(codes.scale, fy))
    first, last = codes.low - codes.zero, codes.high - codes.zero
    to_zero, to_last = (int(rounding_shift(np.array(slope * n), shift)) for n in (-first, last - first))
    records = np.array([[-to_zero, 0], [-to_zero, slope], [to_last - to_zero, 0]], np.int64)
    return Table(f"clamped {codes!r} {fy}", first - (1 << codes.bits), codes.bits, shift, records)


def _slope(value: float) -> tuple[int, int]:
    """value ~ slope / 2**shift with a slope of 30 bits, or of as many as a shift of 62 leaves."""
    shift = max(0, min(62, 30 - math.frexp(value)[1]))
    return min(round(math.ldexp(value, shift)), SAT32), shift


def exp_table(fx: int, fy: int) -> Table:
    """exp of x <= 0, exactly 0 below `EXP_LOW` and 1 at 0."""
    step = fx + int(math.log2(-EXP_LOW / EXP_INTERVALS))
    base, rise = lines(np.exp, np.linspace(EXP_LOW, 0.0, EXP_INTERVALS + 1))
    base[0] = rise[0] = 0.0
    return _table("exp", EXP_LOW, fx, fy, step, np.append(base, 1.0), np.append(rise, 0.0))


def _table(name: str, low: float, fx: int, fy: int, step: int, base: Float64, rise: Float64) -> Table:
    """Slope = rise / 2**step in steps of 2**-shift, as fine as 31 bits hold."""
    top = max(float(np.abs(rise).max()) * 2.0 ** (fy - step), 2.0**-60)
    shift = max(0, min(62, 29 - math.ceil(math.log2(top))))
    slope = np.rint(np.ldexp(rise, fy - step + shift))
    records = np.stack([np.rint(np.ldexp(base, fy)), slope], axis=1).astype(np.int64)
    return Table(f"{name} {fx} {fy}", int(np.ldexp(low, fx)), step, shift, records)
