"""Weights that a model holds, as floats or only as codes, and whether an adapter's are the same but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axlora.compiler.frontend.convolutions import PATCHES
from axlora.compiler.frontend.recognised import FoundLinear, in_model_order
from axlora.compiler.layer import Linear

Float64 = npt.NDArray[np.float64]
_TINY = 2.0**-25
"""Half of the smallest step of float16, which small values are rounded by."""
_FLOAT, _HALF, _BRAIN = 2.0**-23, 2.0**-11, 2.0**-8
"""Largest relative rounding of a float32 (twice), of a float16 and of a bfloat16."""
_ROWS = 1 << 10
"""Rows that are compared at a time: big matrices need no second copy."""
_STEP = 0.51
"""Largest error of a code in steps: half of one, and a little for the rounding of the scale."""


@dataclass(frozen=True)
class Held:
    """A matrix of the model."""

    values: Float64
    """[k, n], dequantized if the model holds codes."""
    step: Float64 | None = None
    """Step of the codes, broadcast to [k, n]; None: the model holds floats."""

    def equals(self, saved: Float64) -> bool:
        """`saved` [k, n] is these values but for the rounding of the formats that both were stored in.

        A tensor whose values all fit in bfloat16, or in float16, may have been rounded to it; one that fits in neither was
        not; two of one format are the same to the bit. Codes are within half a step of what was rounded to them. No trained
        matrix of many elements is that near in each of them: it would need a change of less than about 1 % of a step.
        """
        if saved.shape != self.values.shape:
            return False
        if self.step is not None:
            return self._near(saved, _precision(saved) + _HALF)
        if not self._near(saved, 2 * _BRAIN):  # the widest there is: most that differ end here
            return False
        own, other = _precision(saved), _precision(self.values)
        return self._near(saved, _FLOAT if own == other else own + other)

    def _near(self, saved: Float64, relative: float) -> bool:
        """Every element is within a part of itself, and within a code's rounding."""
        for first in range(0, len(saved), _ROWS):
            rows = slice(first, first + _ROWS)
            slack = relative * np.abs(saved[rows]) + _TINY
            if self.step is not None:
                slack += _STEP * self.step[rows]
            if (np.abs(saved[rows] - self.values[rows]) > slack).any():
                return False
        return True


def _precision(values: Float64) -> float:
    """Largest relative rounding of the narrowest float format that holds all the values."""
    fits = {_BRAIN: True, _HALF: True}
    with np.errstate(over="ignore"):
        for first in range(0, len(values), _ROWS):
            rows = values[first : first + _ROWS]
            narrow = rows.astype(np.float32)
            if not np.array_equal(narrow, rows):
                return _FLOAT
            fits[_BRAIN] &= not (narrow.view(np.uint32) & 0xFFFF).any()
            fits[_HALF] &= np.array_equal(narrow.astype(np.float16), narrow)
    return next((size for size, fit in fits.items() if fit), _FLOAT)


@dataclass(frozen=True)
class Candidate:
    """A linear that a module of an adapter may mean."""

    name: str
    node: str
    modules: tuple[str, ...]
    scopes: int
    shape: tuple[int, int]
    """(k, n)."""
    held: Callable[[], Held]
    bias: Float64
    """[n]."""
    patches: bool = False
    """Its inputs are patches that a convolution's kernel of several places sees."""


def of_found(found: FoundLinear) -> Candidate:
    """A linear of the graph, with the weights of the file."""

    def held() -> Held:
        values = found.weight if found.smooth is None else found.weight / found.smooth[:, None]
        step = None if found.codes is None else in_model_order(found.codes.steps, found.order)
        return Held(in_model_order(values, found.order), step)

    bias, patches = in_model_order(found.bias, found.order), f".{PATCHES}" in found.x_name
    return Candidate(found.name, found.node, found.modules, found.scopes, found.shape, held, bias, patches)


def of_linear(linear: Linear) -> Candidate:
    """A linear of a package, of which only codes are left."""
    grid = linear.grid
    assert grid is not None

    def held() -> Held:
        weight, smooth = linear.weight, 1.0 if grid.smooth is None else grid.smooth[:, None]
        rows = np.arange(linear.inputs) // max(1, weight.group)
        groups = 1.0 if not weight.group or weight.scale is None else weight.scale[rows]
        step = np.broadcast_to(grid.w_scale * groups / smooth, (linear.inputs, linear.n))
        values = linear.matrix() * grid.w_scale / smooth
        return Held(in_model_order(values, grid.order), in_model_order(step, grid.order))

    shape = (linear.inputs, linear.n)
    bias, patches = in_model_order(grid.bias, grid.order), f".{PATCHES}" in linear.input
    return Candidate(linear.name, linear.node, linear.modules, linear.scopes, shape, held, bias, patches)
