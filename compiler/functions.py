"""Element-wise functions as real numbers and as straight lines: one definition for recognition, calibration and tables."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt

from axlora.compiler.operators import Function, OwnFunction

Float64 = npt.NDArray[np.float64]
INTERVALS = 512
"""Straight lines of a table."""
MOST = 2.0**13
"""Largest magnitude that goes through a table and comes out."""
OWN_BOUNDS = (8.0, 16.0, 32.0)
OWN_ERROR = 2.0**-11
"""Of functions that models compose: four times that of SiLU, an eighth of a code of 8 bits."""
FAR = 4
"""The outer lines go through the function at the bound and at so many times it."""


@numba.vectorize(["float64(float64)"], cache=True)  # type: ignore[no-untyped-call,untyped-decorator]
def erf(x: float) -> float:
    """The error function, of an array element by element."""
    return math.erf(x)


def _sigmoid(x: Float64) -> Float64:
    return 1 / (1 + np.exp(-x))


REALS: dict[Function, tuple[Callable[[Float64], Float64], float]] = {
    Function.GELU: (lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), 8.0),
    Function.GELU_TANH: (lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), 8.0),
    Function.SILU: (lambda x: x * _sigmoid(x), 16.0),
    Function.SIGMOID: (_sigmoid, 16.0),
    Function.TANH: (np.tanh, 8.0),
    Function.RELU: (lambda x: np.maximum(x, 0.0), 8.0),
    Function.HARD_SWISH: (lambda x: x * np.clip(x + 3, 0.0, 6.0) / 6, 8.0),
}
"""Each function, and the x beyond which it is a straight line to within 2**-19."""


def own_function(name: str, of: Callable[[Float64], Float64], bound: float) -> OwnFunction:
    """A function of this name, with its straight lines."""
    return OwnFunction(name, of, bound, own_lines(of, bound))


def real(function: Function | OwnFunction, x: Float64) -> Float64:
    """The function itself, float64."""
    return function.of(x) if isinstance(function, OwnFunction) else REALS[function][0](x)


# As straight lines


def lines(f: Callable[[Float64], Float64], edges: Float64) -> tuple[Float64, Float64]:
    """Value at the left edge and rise of each interval: the chord, moved half way to the function's middle.

    A chord over h is off by at most h^2 max|f''| / 8 on one side; half of it on both sides is the least for a straight line of
    that slope.
    """
    values = f(edges)
    middle = f((edges[:-1] + edges[1:]) / 2)
    move = (middle - (values[:-1] + values[1:]) / 2) / 2
    return values[:-1] + move, values[1:] - values[:-1]


def own_lines(of: Callable[[Float64], Float64], bound: float) -> Float64:
    """Value and rise [2, intervals] on -bound..bound of a function that is straight beyond; the outer lines go on so."""
    edges, width = np.linspace(-bound, bound, INTERVALS + 1), 2 * bound / INTERVALS
    base, rise = lines(of, edges)
    for end, left in ((0, -bound), (-1, bound - width)):
        near, far = of(np.array([edges[end], FAR * edges[end]]))
        rise[end] = (far - near) / ((FAR - 1) * edges[end]) * width
        base[end] = near + rise[end] * (left - edges[end]) / width
    return np.stack([base, rise])


def along(lines: Float64, bound: float, x: Float64) -> Float64:
    """x through the straight lines of `own_lines` [2, intervals] on -bound..bound; the outer ones go on."""
    base, rise = lines
    place = (x + bound) * INTERVALS / (2 * bound)
    interval = np.clip(place.astype(np.int64), 0, INTERVALS - 1)
    return np.asarray(base[interval] + rise[interval] * (place - interval))


def own_bound(of: Callable[[Float64], Float64]) -> float | None:
    """The bound of the table of a function, if `INTERVALS` straight lines of which the outer go on are near it up to `MOST`.

    Near is: within `OWN_ERROR` of its largest magnitude on -8..8, of 1 at most; where the function is larger than 1, of it.
    """
    with np.errstate(all="ignore"):
        size = min(1.0, float(np.abs(of(np.linspace(-8, 8, 161))).max()))
        for bound in OWN_BOUNDS:
            chords = own_lines(of, bound)
            x = np.concatenate(
                [np.linspace(-bound, bound, 16 * INTERVALS + 1), *(s * np.geomspace(bound, MOST, 64) for s in (-1, 1))]
            )
            found, wanted = along(chords, bound, x), of(x)
            error = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
            if error.max() <= OWN_ERROR * size and np.abs(chords[0]).max() < MOST:  # never where it is no number
                return bound
    return None
